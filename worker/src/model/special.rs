//! Tokens that mean something beside the text, and what a model's tokenizer files say of them.

use std::path::Path;

use serde::Deserialize;

use super::ReadError;
use super::config::{SETTINGS_BYTES_MAX, settings};

/// Bytes of a tokenizer at most.
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;

/// The part of `tokenizer_config.json` and `special_tokens_map.json` that matters.
#[derive(Debug, Default, Deserialize)]
struct SpecialTokens {
    mask_token: Option<Spelling>,
    cls_token: Option<Spelling>,
    sep_token: Option<Spelling>,
}

/// A token by itself or with how it is matched.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Spelling {
    Plain(String),
    Token { content: String },
}

/// The part of `tokenizer.json` that matters.
#[derive(Debug, Default, Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Debug, Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

impl Spelling {
    fn content(self) -> String {
        match self {
            Self::Plain(content) | Self::Token { content } => content,
        }
    }
}

/// How the tokenizer in a folder spells the mask, and its id.
pub(super) fn mask_token(folder: &Path, vocabulary: usize) -> Result<(String, u32), ReadError> {
    let unsupported = |path: &Path, what: String| ReadError::Unsupported { path: path.to_owned(), what };
    let Some(mask) = spelt(folder, |tokens| tokens.mask_token)? else {
        let what = "names no mask_token, and neither does special_tokens_map.json".to_owned();
        return Err(unsupported(&folder.join("tokenizer_config.json"), what));
    };
    let path = folder.join("tokenizer.json");
    let tokenizer: Option<Tokenizer> = settings(&path, TOKENIZER_BYTES_MAX)?;
    let tokenizer = tokenizer.ok_or_else(|| ReadError::io(&path)(std::io::ErrorKind::NotFound.into()))?;
    match tokenizer.id(&mask) {
        Some(id) if (id as usize) < vocabulary => Ok((mask, id)),
        Some(id) => Err(unsupported(&path, format!("the mask token `{mask}` is {id}, and ids are below {vocabulary}"))),
        None => Err(unsupported(&path, format!("the mask token `{mask}` is not among the added_tokens"))),
    }
}

/// The ids that a tokenizer puts before and after a text, as far as its files say so.
pub(super) fn ends(folder: &Path, vocabulary: usize) -> [Option<u32>; 2] {
    // Whoever asks can do without: files that cannot be read are as good as none.
    let first = spelt(folder, |tokens| tokens.cls_token).ok().flatten();
    let last = spelt(folder, |tokens| tokens.sep_token).ok().flatten();
    let tokenizer: Option<Tokenizer> = settings(&folder.join("tokenizer.json"), TOKENIZER_BYTES_MAX).ok().flatten();
    let id = |spelling: Option<String>| tokenizer.as_ref()?.id(&spelling?).filter(|id| (*id as usize) < vocabulary);
    [id(first), id(last)]
}

fn spelt(folder: &Path, which: fn(SpecialTokens) -> Option<Spelling>) -> Result<Option<String>, ReadError> {
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let tokens: SpecialTokens = settings(&folder.join(file), SETTINGS_BYTES_MAX)?.unwrap_or_default();
        if let Some(spelling) = which(tokens) {
            return Ok(Some(spelling.content()));
        }
    }
    Ok(None)
}

impl Tokenizer {
    fn id(&self, content: &str) -> Option<u32> {
        self.added_tokens.iter().find(|token| token.content == content).map(|token| token.id)
    }
}
