//! Tokens that mean something beside the text, and what a model's tokenizer files say of them.

use std::collections::BTreeMap;
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
    /// Whether transformers puts the tokenizer's last token behind each text, whatever `tokenizer.json` says.
    #[serde(default)]
    add_eos_token: bool,
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
    post_processor: Option<Processor>,
}

/// What puts special tokens around texts.
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
enum Processor {
    TemplateProcessing {
        single: Vec<Piece>,
        special_tokens: BTreeMap<String, Ids>,
    },
    BertProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    RobertaProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    Sequence {
        processors: Vec<Processor>,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
enum Piece {
    SpecialToken { id: String },
    Sequence {},
}

#[derive(Debug, Deserialize)]
struct Ids {
    ids: Vec<u32>,
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
    let tokenizer: Option<Tokenizer> = settings(&folder.join("tokenizer.json"), TOKENIZER_BYTES_MAX).ok().flatten();
    let Some(tokenizer) = tokenizer else { return [None, None] };
    let ends = tokenizer.post_processor.as_ref().and_then(Processor::ends).unwrap_or_else(|| {
        let id = |which| tokenizer.id(&spelt(folder, which).ok().flatten()?);
        [id(|tokens| tokens.cls_token), id(|tokens| tokens.sep_token)]
    });
    ends.map(|id| id.filter(|id| (*id as usize) < vocabulary))
}

/// A model that looks at the last token alone must be given the one it was trained to end with.
pub(super) fn expect_end(folder: &Path) -> Result<(), ReadError> {
    let path = folder.join("tokenizer.json");
    let tokens: Option<SpecialTokens> = settings(&folder.join("tokenizer_config.json"), SETTINGS_BYTES_MAX)?;
    let tokenizer: Option<Tokenizer> = settings(&path, TOKENIZER_BYTES_MAX)?;
    let end = tokenizer.and_then(|tokenizer| tokenizer.post_processor?.ends()?[1]);
    if end.is_none() && tokens.is_some_and(|tokens| tokens.add_eos_token) {
        let what = "puts no token behind a text, though tokenizer_config.json has add_eos_token: save it with a \
                    post_processor that does";
        return Err(ReadError::Unsupported { path, what: what.to_owned() });
    }
    Ok(())
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

impl Processor {
    /// What it puts before and after a text; none if it puts nothing anywhere.
    fn ends(&self) -> Option<[Option<u32>; 2]> {
        match self {
            Self::TemplateProcessing { single, special_tokens } => {
                let id = |piece: Option<&Piece>, which: fn(&[u32]) -> Option<&u32>| match piece? {
                    Piece::SpecialToken { id } => which(&special_tokens.get(id)?.ids).copied(),
                    Piece::Sequence {} => None,
                };
                Some([id(single.first(), <[u32]>::first), id(single.last(), <[u32]>::last)])
            }
            Self::BertProcessing { cls, sep } | Self::RobertaProcessing { cls, sep } => {
                Some([Some(cls.1), Some(sep.1)])
            }
            Self::Sequence { processors } => processors.iter().find_map(Self::ends),
            Self::Other => None,
        }
    }
}

impl Tokenizer {
    fn id(&self, content: &str) -> Option<u32> {
        self.added_tokens.iter().find(|token| token.content == content).map(|token| token.id)
    }
}
