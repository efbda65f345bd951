//! Cutting texts into tokens.
//!
//! Tokenising happens before queueing: a request's cost is known in tokens, and bad input never reaches a worker.

mod pool;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokenizers::{Encoding, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings};

pub use pool::TokenizerPool;
pub use vocabulary::Vocabulary;

/// A text of more bytes than this per allowed token cannot fit, whatever is in it: refused before it is tokenised.
/// The longest entries of common vocabularies are under 200 bytes.
const BYTES_PER_TOKEN_MAX: usize = 1024;

/// A model's tokenizer, with padding and truncation of its own switched off.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    tokens_max: u32,
}

/// What one row is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    Single(String),
    /// Two segments. The first may be shared by all texts of a call, as a query is.
    Pair(Arc<str>, String),
}

/// One tokenised text.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Token ids as little-endian `i32`, special tokens included.
    pub ids: Bytes,
    /// Which segment each belongs to, as little-endian `i32`; only when asked for.
    pub type_ids: Bytes,
    /// How many there are.
    pub count: u32,
    /// The text was cut.
    pub truncated: bool,
    /// What each token stands for; only when asked for.
    pub pieces: Vec<Piece>,
}

/// One token and where in the text it came from.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Its id.
    pub id: u32,
    /// The vocabulary's entry.
    pub token: String,
    /// Byte offsets in the text, start and end.
    pub span: (u32, u32),
}

/// How texts are to be cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// Shorten texts over the limit instead of refusing them: of a pair the longer one, then both alike.
    pub truncate: bool,
    /// Also say which segment each token belongs to.
    pub type_ids: bool,
    /// Also say what each token stands for.
    pub pieces: bool,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocabulary", &self.vocabulary).field("tokens_max", &self.tokens_max).finish()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Single(text)
    }
}

impl Text {
    fn segments(&self) -> (&str, Option<&str>) {
        match self {
            Self::Single(text) => (text, None),
            Self::Pair(first, second) => (first, Some(second)),
        }
    }
}

impl Tokenizer {
    /// Cuts texts into at most `tokens_max` tokens, special tokens included.
    pub fn new(vocabulary: Vocabulary, tokens_max: u32) -> Self {
        Self { vocabulary, tokens_max }
    }

    /// Whether this is the tokenizer a model with that hash and limit needs.
    pub fn is(&self, sha256: &str, tokens_max: u32) -> bool {
        *self.vocabulary.sha256 == *sha256 && self.tokens_max == tokens_max
    }

    /// What it knows of single tokens.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Tokenises one text, or two into one row.
    ///
    /// # Errors
    /// Says why the text cannot be an input.
    pub fn encode(&self, text: &Text, cut: Cut) -> Result<Tokens, String> {
        let (first, second) = text.segments();
        let (first, first_cut) = self.bounded(first, cut)?;
        let (second, second_cut) = match second.map(|text| self.bounded(text, cut)).transpose()? {
            Some((text, cut)) => (Some(text), cut),
            None => (None, false),
        };
        let inner = &self.vocabulary.inner;
        let encoding = match second {
            None => inner.encode(first, true),
            Some(second) => inner.encode((first, second), true),
        };
        let mut encoding = encoding.map_err(|error| error.to_string())?;
        let length = encoding.len();
        let over = length > self.tokens_max as usize;
        if over {
            if !cut.truncate {
                let with = if second.is_some() { " with its pair" } else { "" };
                return Err(format!(
                    "has {length} tokens{with}, the model takes at most {}; shorten it or set `truncate`",
                    self.tokens_max
                ));
            }
            encoding = self.truncated(first, second)?;
        }
        // Of a tokenizer that drops what it does not know and adds nothing. No model computes on nothing.
        if encoding.is_empty() {
            return Err("has no tokens".to_owned());
        }
        Ok(Tokens {
            ids: column(encoding.get_ids()),
            type_ids: if cut.type_ids { column(encoding.get_type_ids()) } else { Bytes::new() },
            // A tokenizer's output is bounded by tokens_max, itself a u32.
            count: encoding.len() as u32,
            truncated: over || first_cut || second_cut,
            pieces: if cut.pieces { pieces_of(&encoding) } else { Vec::new() },
        })
    }

    /// As much of a text as could fit, whatever is in it, and whether that is not all of it.
    fn bounded<'a>(&self, text: &'a str, cut: Cut) -> Result<(&'a str, bool), String> {
        let bytes_max = (self.tokens_max as usize).saturating_mul(BYTES_PER_TOKEN_MAX);
        match text.len() {
            0 => Err("is an empty text".to_owned()),
            bytes if bytes <= bytes_max => Ok((text, false)),
            _ if cut.truncate => Ok((&text[..text.floor_char_boundary(bytes_max)], true)),
            bytes => Err(format!("{bytes} bytes cannot fit {} tokens", self.tokens_max)),
        }
    }

    /// The first tokens of a text, or of both of a pair, with the special tokens still in their places.
    fn truncated(&self, first: &str, second: Option<&str>) -> Result<Encoding, String> {
        let inner = &self.vocabulary.inner;
        let bare = |text: &str, segment: u32| -> tokenizers::Result<Encoding> {
            let mut encoding = inner.encode(text, false)?;
            // Some post-processors leave segments as they find them.
            encoding.set_type_ids(vec![segment; encoding.len()]);
            Ok(encoding)
        };
        let special = inner.get_post_processor().map_or(0, |processor| {
            use tokenizers::PostProcessor as _;
            processor.added_tokens(second.is_some())
        });
        let params = TruncationParams {
            direction: TruncationDirection::Right,
            max_length: (self.tokens_max as usize).saturating_sub(special),
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let whole = || -> tokenizers::Result<Encoding> {
            let pair = second.map(|text| bare(text, 1)).transpose()?;
            let (mut first, mut pair) = truncate_encodings(bare(first, 0)?, pair, &params)?;
            // What was cut off would go through everything that follows as well.
            first.take_overflowing();
            pair.as_mut().map(Encoding::take_overflowing);
            inner.post_process(first, pair, true)
        };
        whole().map_err(|error| error.to_string())
    }
}

/// Ids as a column of a batch holds them.
fn column(ids: &[u32]) -> Bytes {
    let mut column = BytesMut::with_capacity(4 * ids.len());
    ids.iter().for_each(|id| column.put_u32_le(*id));
    column.freeze()
}

fn pieces_of(encoding: &Encoding) -> Vec<Piece> {
    let ids = encoding.get_ids().iter();
    let rest = encoding.get_tokens().iter().zip(encoding.get_offsets());
    ids.zip(rest)
        .map(|(&id, (token, &(start, end)))| Piece { id, token: token.clone(), span: (start as u32, end as u32) })
        .collect()
}
