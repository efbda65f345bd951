//! Tokens as the server keeps them: by their SHA-256 alone, which tells nothing of a token that cannot be guessed.

use std::fmt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::tls::read_bounded;

/// Bytes of a token. A shorter one could be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// A file of tokens is no longer.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// As 64 hexadecimal digits spell it.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let value = |digit: u8| char::from(digit).to_digit(16);
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
            *byte = (value(pair[0])? << 4 | value(pair[1])?) as u8;
        }
        Some(Self(digest))
    }
}

/// Not even the digest: that of a weak token would give it away.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

/// Compares in a time that does not depend on where they differ.
pub(crate) fn same(a: &Digest, b: &Digest) -> bool {
    let differing = a.0.iter().zip(&b.0).fold(0, |differing, (a, b)| differing | (a ^ b));
    std::hint::black_box(differing) == 0
}

/// The tokens of a file, one a line, without the space around them; at least one.
///
/// # Errors
/// What is wrong with the file, with its path.
pub(crate) fn read_tokens(path: &Path) -> Result<Vec<Digest>, String> {
    let wrong = |problem: String| format!("{} {problem}", path.display());
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(wrong)?;
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let mut digests = Vec::new();
    for token in lines {
        if token.len() < TOKEN_BYTES_MIN {
            return Err(wrong(format!("has a token of fewer than {TOKEN_BYTES_MIN} bytes")));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(wrong("has a token that is not printable ASCII without spaces".to_owned()));
        }
        digests.push(Digest::of(token));
    }
    match digests.is_empty() {
        true => Err(wrong("has no token".to_owned())),
        false => Ok(digests),
    }
}
