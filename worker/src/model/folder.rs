//! What a folder in Hugging Face layout says of an embedding model: `config.json` for the encoder, and what
//! sentence-transformers adds: `modules.json` for what follows the encoder, `sentence_bert_config.json` for its longest
//! input, `1_Pooling/config.json` for the pooling.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ReadError;
use super::bert::BertConfig;
use crate::ops::pool::Pooling;

#[cfg(test)]
mod tests;

/// Bytes of a settings file at most.
const SETTINGS_BYTES_MAX: u64 = 4 << 20;

/// An embedding model's settings, checked, and where its large files are.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) config: BertConfig,
    pub(crate) weights: PathBuf,
    /// `tokenizer.json`, if there is one.
    pub(crate) tokenizer: Option<PathBuf>,
    /// Tokens in one input at most, special tokens included.
    pub(crate) tokens_max: usize,
    pub(crate) pooling: Pooling,
    /// Whether embeddings are normalised.
    pub(crate) normalizes: bool,
}

/// One entry of `modules.json`.
#[derive(Debug, Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// `sentence_bert_config.json`; the rest of it concerns the tokenizer.
#[derive(Debug, Default, Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

/// `1_Pooling/config.json`: either one mode by name or a flag for each.
#[derive(Debug, Deserialize)]
struct PoolingConfig {
    pooling_mode: Option<String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl Folder {
    /// Reads and checks the settings in a folder; weights and tokenizer are only found.
    pub(crate) fn read(folder: &Path) -> Result<Self, ReadError> {
        let modules_path = folder.join("modules.json");
        let modules: Option<Vec<Module>> = settings(&modules_path)?;
        let (encoder, pooling, normalizes) = match modules {
            Some(modules) => chain(folder, &modules_path, &modules)?,
            // What sentence-transformers does with a plain encoder.
            None => (folder.to_owned(), Pooling::Mean, false),
        };
        let config_path = encoder.join("config.json");
        let config: BertConfig = match settings(&config_path)? {
            Some(config) => config,
            None => return Err(ReadError::io(&config_path)(std::io::ErrorKind::NotFound.into())),
        };
        config.check(&config_path)?;
        let sentence: SentenceConfig = settings(&encoder.join("sentence_bert_config.json"))?.unwrap_or_default();
        let tokens_max = sentence.max_seq_length.unwrap_or(usize::MAX).min(config.max_position_embeddings);
        if tokens_max == 0 {
            return Err(ReadError::Field {
                path: encoder.join("sentence_bert_config.json"),
                field: "max_seq_length",
                found: "0".to_owned(),
                wanted: "at least 1".to_owned(),
            });
        }
        let weights = find_weights(&encoder)?;
        // Artifacts are looked for in the folder itself, which is where sentence-transformers saves the tokenizer.
        let tokenizer = Some(folder.join("tokenizer.json")).filter(|path| path.is_file());
        Ok(Self { config, weights, tokenizer, tokens_max, pooling, normalizes })
    }
}

/// What the modules amount to: an encoder, then a pooling, then perhaps a normalisation.
fn chain(folder: &Path, file: &Path, modules: &[Module]) -> Result<(PathBuf, Pooling, bool), ReadError> {
    let kinds: Vec<&str> = modules.iter().map(|module| module.kind.rsplit('.').next().unwrap_or("")).collect();
    let normalizes = match &kinds[..] {
        ["Transformer", "Pooling"] => false,
        ["Transformer", "Pooling", "Normalize"] => true,
        _ => {
            let what = format!("modules {kinds:?} are not supported, only Transformer, Pooling and then Normalize");
            return Err(ReadError::Unsupported { path: file.to_owned(), what });
        }
    };
    let encoder = inside(folder, file, &modules[0].path)?;
    let pooling_path = inside(folder, file, &modules[1].path)?.join("config.json");
    let pooling: PoolingConfig = match settings(&pooling_path)? {
        Some(pooling) => pooling,
        None => return Err(ReadError::io(&pooling_path)(std::io::ErrorKind::NotFound.into())),
    };
    Ok((encoder, pooling.mode(&pooling_path)?, normalizes))
}

impl PoolingConfig {
    fn mode(&self, path: &Path) -> Result<Pooling, ReadError> {
        let flags = self.rest.iter().filter(|(name, value)| name.starts_with("pooling_mode_") && **value == true);
        let mut modes: Vec<&str> = flags.map(|(name, _)| name.trim_start_matches("pooling_mode_")).collect();
        modes.extend(self.pooling_mode.as_deref());
        modes.dedup();
        match &modes[..] {
            ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
            ["cls_token" | "cls"] => Ok(Pooling::Cls),
            ["max_tokens" | "max"] => Ok(Pooling::Max),
            _ => Err(ReadError::Field {
                path: path.to_owned(),
                field: "pooling_mode",
                found: if modes.is_empty() { "not set".to_owned() } else { modes.join(" with ") },
                wanted: "one of mean, cls, max".to_owned(),
            }),
        }
    }
}

/// A folder named by a settings file, which must not lead out of the model's own.
fn inside(folder: &Path, file: &Path, relative: &str) -> Result<PathBuf, ReadError> {
    let relative = Path::new(relative);
    if relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Ok(folder.join(relative));
    }
    let what = format!("path `{}` leads out of the model's folder", relative.display());
    Err(ReadError::Unsupported { path: file.to_owned(), what })
}

fn find_weights(folder: &Path) -> Result<PathBuf, ReadError> {
    let weights = folder.join("model.safetensors");
    if weights.is_file() {
        return Ok(weights);
    }
    if folder.join("model.safetensors.index.json").is_file() {
        return Err(ReadError::Sharded { folder: folder.to_owned() });
    }
    if folder.join("pytorch_model.bin").is_file() {
        return Err(ReadError::OnlyPickle { folder: folder.to_owned() });
    }
    Err(ReadError::io(&weights)(std::io::ErrorKind::NotFound.into()))
}

/// The settings in a file; none if there is no such file.
fn settings<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ReadError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReadError::io(path)(error)),
    };
    let mut text = Vec::new();
    file.take(SETTINGS_BYTES_MAX + 1).read_to_end(&mut text).map_err(ReadError::io(path))?;
    if text.len() as u64 > SETTINGS_BYTES_MAX {
        return Err(ReadError::TooLarge { path: path.to_owned(), max: SETTINGS_BYTES_MAX });
    }
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|source| ReadError::Json { path: path.to_owned(), source })
}
