//! What a folder in Hugging Face layout says of a model: `config.json` for the network, and what sentence-transformers
//! adds: `modules.json` for what follows the encoder, `sentence_bert_config.json` for its longest input,
//! `1_Pooling/config.json` for the pooling.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::ReadError;
use super::config::{Config, SETTINGS_BYTES_MAX, settings};
use crate::plan::Pooling;

/// A model's settings, and where its large files are.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) config: Config,
    pub(super) weights: PathBuf,
    /// `tokenizer.json`, if there is one.
    pub(super) tokenizer: Option<PathBuf>,
    /// What follows the encoder, if the folder says so: then it is an embedding model, whatever head it carries.
    pub(super) chain: Option<Chain>,
    /// Tokens in one input at most, if the folder says so.
    pub(super) tokens_max: Option<usize>,
}

/// What makes states an embedding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) pooling: Pooling,
    /// Whether embeddings are normalised.
    pub(super) normalizes: bool,
}

/// One entry of `modules.json`.
#[derive(Debug, Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// Where the longest input is: the first of them that is there, as sentence-transformers looks for it. Once each
/// architecture had a name of its own.
const SENTENCE_FILES: [&str; 4] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_xlm-roberta_config.json",
];

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
    /// Reads the settings in a folder; weights and tokenizer are only found.
    pub(super) fn read(folder: &Path) -> Result<Self, ReadError> {
        let modules_path = folder.join("modules.json");
        let modules: Option<Vec<Module>> = settings(&modules_path, SETTINGS_BYTES_MAX)?;
        let (encoder, chain) = match modules {
            Some(modules) => read_chain(folder, &modules_path, &modules)?,
            None => (folder.to_owned(), None),
        };
        let config = Config::read(&encoder.join("config.json"))?;
        let sentence_files = SENTENCE_FILES.map(|name| encoder.join(name));
        let sentence_path = sentence_files.iter().find(|path| path.is_file()).unwrap_or(&sentence_files[0]);
        let sentence: SentenceConfig = settings(sentence_path, SETTINGS_BYTES_MAX)?.unwrap_or_default();
        if sentence.max_seq_length == Some(0) {
            return Err(ReadError::Field {
                path: sentence_path.clone(),
                field: "max_seq_length",
                found: "0".to_owned(),
                wanted: "at least 1".to_owned(),
            });
        }
        let weights = find_weights(&encoder)?;
        // Artifacts are looked for in the folder itself, which is where sentence-transformers saves the tokenizer.
        let tokenizer = Some(folder.join("tokenizer.json")).filter(|path| path.is_file());
        Ok(Self { config, weights, tokenizer, chain, tokens_max: sentence.max_seq_length })
    }
}

/// What the modules amount to: an encoder, then a pooling, then perhaps a normalisation; or a model by itself.
fn read_chain(folder: &Path, file: &Path, modules: &[Module]) -> Result<(PathBuf, Option<Chain>), ReadError> {
    let kinds: Vec<&str> = modules.iter().map(|module| module.kind.rsplit('.').next().unwrap_or("")).collect();
    let normalizes = match &kinds[..] {
        ["Transformer"] => return Ok((inside(folder, file, &modules[0].path)?, None)),
        ["Transformer", "Pooling"] => false,
        ["Transformer", "Pooling", "Normalize"] => true,
        _ => {
            let what = format!("modules {kinds:?} are not supported, only Transformer, Pooling and then Normalize");
            return Err(ReadError::Unsupported { path: file.to_owned(), what });
        }
    };
    let encoder = inside(folder, file, &modules[0].path)?;
    let pooling_path = inside(folder, file, &modules[1].path)?.join("config.json");
    let pooling: PoolingConfig = match settings(&pooling_path, SETTINGS_BYTES_MAX)? {
        Some(pooling) => pooling,
        None => return Err(ReadError::io(&pooling_path)(std::io::ErrorKind::NotFound.into())),
    };
    Ok((encoder, Some(Chain { pooling: pooling.mode(&pooling_path)?, normalizes })))
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
            ["lasttoken"] => Ok(Pooling::Last),
            _ => Err(ReadError::Field {
                path: path.to_owned(),
                field: "pooling_mode",
                found: if modes.is_empty() { "not set".to_owned() } else { modes.join(" with ") },
                wanted: "one of mean, cls, max, lasttoken".to_owned(),
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
