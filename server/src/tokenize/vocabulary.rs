//! A tokenizer's file, read: what it knows of single tokens.

use std::fmt;
use std::sync::Arc;

use tokenizers::models::ModelWrapper;
use tokenizers::{Model as _, Tokenizer as HuggingFaceTokenizer};

/// Bytes of a text that is to be one token; the longest entries of common vocabularies have under 200.
const TOKEN_BYTES_MAX: usize = 256;
/// Tokens named of a text that is not one token.
const TOKENS_NAMED: usize = 4;

/// A tokenizer's file, read. Cheap to clone: models that share it differ only in their limit.
#[derive(Clone)]
pub struct Vocabulary {
    pub(super) sha256: Arc<str>,
    pub(super) inner: Arc<HuggingFaceTokenizer>,
    /// The highest id it can give.
    id_max: Option<u32>,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// Reads a `tokenizer.json` of that SHA-256. Takes up to seconds for large ones.
    ///
    /// # Errors
    /// What the file's parser says.
    pub fn parse(sha256: &str, json: &[u8]) -> Result<Self, String> {
        let mut inner = HuggingFaceTokenizer::from_bytes(json).map_err(|error| error.to_string())?;
        // The file carries settings of whoever trained the model; ours are per call.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        let with_added = true;
        let id_max = inner.get_vocab(with_added).into_values().max();
        Ok(Self { sha256: sha256.into(), inner: Arc::new(inner), id_max })
    }

    /// Refuses a tokenizer with ids that a model of `vocabulary` tokens does not have: it is another model's.
    ///
    /// # Errors
    /// Says so.
    pub fn check(&self, vocabulary: u32) -> Result<(), String> {
        match self.id_max {
            // Of 0, nobody said.
            Some(id) if vocabulary > 0 && id >= vocabulary => {
                Err(format!("it has ids up to {id}, and the model a vocabulary of {vocabulary}; it is another model's"))
            }
            _ => Ok(()),
        }
    }

    /// The id of what a caller named by its text: the vocabulary's own entry of that spelling, or the one token that the
    /// text is cut into.
    ///
    /// As the fill-mask pipeline of transformers finds its targets, but that takes the first of several tokens, and
    /// the token for the unknown, as if they were meant.
    ///
    /// # Errors
    /// Says why it is no token.
    pub fn id(&self, text: &str) -> Result<u32, String> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(format!("has {} bytes, and a token at most {TOKEN_BYTES_MAX}", text.len()));
        }
        if let Some(id) = self.inner.token_to_id(text) {
            return Ok(id);
        }
        let encoding = self.inner.encode(text, false).map_err(|error| error.to_string())?;
        match *encoding.get_ids() {
            [id] if Some(id) != self.unknown() => Ok(id),
            [] | [_] => Err("is not in the model's vocabulary".to_owned()),
            ref ids => {
                let first = &encoding.get_tokens()[..TOKENS_NAMED.min(ids.len())];
                let more = if first.len() < ids.len() { ", …" } else { "" };
                Err(format!("is {} tokens ({}{more}), not one", ids.len(), first.join(", ")))
            }
        }
    }

    /// A token as text, such as ` cat` for the entry `Ġcat`; the entry itself where it stands for no text of its own.
    pub fn text(&self, id: u32) -> String {
        let text = self.inner.decode(&[id], false).unwrap_or_default();
        if text.is_empty() { self.inner.id_to_token(id).unwrap_or_default() } else { text }
    }

    /// What stands for text that it has no token for.
    fn unknown(&self) -> Option<u32> {
        match self.inner.get_model() {
            ModelWrapper::BPE(model) => model.unk_token.as_deref().and_then(|token| model.token_to_id(token)),
            ModelWrapper::WordPiece(model) => model.token_to_id(&model.unk_token),
            ModelWrapper::WordLevel(model) => model.token_to_id(&model.unk_token),
            // The id is private to it; this is its name in every vocabulary in use.
            ModelWrapper::Unigram(model) => model.token_to_id("<unk>"),
        }
    }
}
