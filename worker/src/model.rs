//! Models, read from a folder in Hugging Face layout: settings become a plan, which is all that whoever runs a model needs
//! to know of it. One file per architecture. Nothing here knows batches.
//!
//! Weights are read from safetensors and never from pickle, which runs code.

use std::io;
use std::path::{Path, PathBuf};

use crate::card::Task;
use crate::plan::{Builder, Plan, PlanError, Pooling};

mod architecture;
mod bert;
mod config;
mod distilbert;
mod encoder;
mod folder;
mod head;
mod modernbert;
mod qwen3;
mod roberta;
mod special;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod weights;

use architecture::{Architecture, Encoded, Head};
use config::Config;
use folder::{Chain, Folder};
use weights::Names;

/// Tensors without effect in any model: constants that were saved with the weights.
const CONSTANTS: [&str; 2] = ["embeddings.position_ids", "embeddings.token_type_ids"];
/// What a model computes, what its answers mean, and where its files are.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) architecture: &'static str,
    pub(crate) plan: Plan,
    pub(crate) task: Task,
    /// Class names, in the order of the scores; empty for models that do not classify.
    pub(crate) labels: Vec<String>,
    /// How logits become scores, for models that have labels.
    pub(crate) scores: Scores,
    /// Whether embeddings are normalised unless a caller says otherwise.
    pub(crate) normalizes: bool,
    /// Length of an embedding; 0 where there is none.
    pub(crate) dims: usize,
    /// Tokens in one input at most, special tokens included.
    pub(crate) tokens_max: usize,
    /// Ids are below it.
    pub(crate) vocabulary: usize,
    /// Token types are below it; 0 for models that take none.
    pub(crate) types: usize,
    /// How the tokenizer spells the mask, and its id, for models that fill masks.
    pub(crate) mask_token: Option<(String, u32)>,
    /// `model.safetensors`
    pub(crate) weights: PathBuf,
    /// `tokenizer.json`, if there is one.
    pub(crate) tokenizer: Option<PathBuf>,
    /// How the weights file may differ from the plan.
    pub(crate) names: Names,
}

/// How logits of labels become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scores {
    /// Over all labels: one of them holds.
    Softmax,
    /// Each by itself: any of them may hold.
    Sigmoid,
    Identity,
}

impl Model {
    /// The ids that its tokenizer puts before and after a text, as far as its files say so.
    pub(crate) fn sequence_ends(&self) -> [Option<u32>; 2] {
        let folder = self.tokenizer.as_deref().and_then(Path::parent);
        folder.map_or([None, None], |folder| special::ends(folder, self.vocabulary))
    }

    /// Reads and checks a model's settings. Its weights are only found.
    pub(crate) fn read(path: &Path) -> Result<Self, ReadError> {
        let folder = Folder::read(path)?;
        let config = &folder.config;
        let (architecture, head) = architecture::find(config)?;
        let mut plan = Builder::default();
        let encoded = (architecture.encode)(config, &mut plan)?;
        let mut model = Self::of_encoder(architecture, &folder, &encoded);
        let output = match head {
            Head::Classify(classify) if folder.chain.is_none() => {
                model.label(config, &encoded)?;
                classify(config, &encoded, model.labels.len(), &mut plan)?
            }
            Head::FillMask(fill_mask) if folder.chain.is_none() => {
                model.task = Task::FillMask;
                model.mask_token = Some(special::mask_token(path, encoded.vocabulary)?);
                model.names.ignored.extend(architecture.beside_fill_mask);
                fill_mask(config, &encoded, &mut plan)?
            }
            Head::Generate if folder.chain.is_none() => {
                let what = "generates text, which is not served; an embedding model of its kind has a modules.json";
                return Err(ReadError::Unsupported { path: config.path().to_owned(), what: what.to_owned() });
            }
            _ => {
                // Without modules it is what sentence-transformers does with a plain encoder.
                let chain = folder.chain.unwrap_or(Chain { pooling: Pooling::Mean, normalizes: false });
                if chain.pooling == Pooling::Last {
                    special::expect_end(path)?;
                }
                (model.normalizes, model.dims) = (chain.normalizes, encoded.hidden);
                model.names.ignored.extend(architecture.heads);
                plan.pool(encoded.states, chain.pooling)
            }
        };
        model.plan = plan.finish(output);
        model.plan.check()?;
        Ok(model)
    }

    /// A model of which the encoder is known, and nothing that follows it.
    fn of_encoder(architecture: &Architecture, folder: &Folder, encoded: &Encoded) -> Self {
        Self {
            architecture: architecture.name,
            plan: Plan::default(),
            task: Task::Embed,
            labels: Vec::new(),
            scores: Scores::Identity,
            normalizes: false,
            dims: 0,
            tokens_max: folder.tokens_max.unwrap_or(usize::MAX).min(encoded.tokens_max),
            vocabulary: encoded.vocabulary,
            types: 0,
            mask_token: None,
            weights: folder.weights.clone(),
            tokenizer: folder.tokenizer.clone(),
            names: Names {
                prefix: architecture.prefix,
                aliases: architecture.aliases.to_vec(),
                ignored: CONSTANTS.to_vec(),
            },
        }
    }

    /// One label scores pairs; several are classes.
    fn label(&mut self, config: &Config, encoded: &Encoded) -> Result<(), ReadError> {
        self.labels = head::labels(config)?;
        (self.task, self.scores) = match self.labels.len() {
            1 => (Task::Rerank, head::pair_scores(config)?),
            _ => (Task::Classify, head::label_scores(config)?),
        };
        self.types = encoded.types;
        // Trained with the encoder, and not always read.
        self.names.ignored.push("pooler.");
        Ok(())
    }
}

/// Why a folder is not a model that can run: one line that names the file and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{} is larger than {max} bytes", path.display())]
    TooLarge { path: PathBuf, max: u64 },
    #[error("{}: {what}", path.display())]
    Unsupported { path: PathBuf, what: String },
    #[error("{}: `{field}` is {found}, but must be {wanted}", path.display())]
    Field { path: PathBuf, field: &'static str, found: String, wanted: String },
    #[error("{}: {source}; the file is cut or is no safetensors file", path.display())]
    Safetensors { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("{}: tensor `{name}` is missing", path.display())]
    MissingTensor { path: PathBuf, name: String },
    #[error("{}: tensor `{name}` has shape {found:?}, expected {expected:?}", path.display())]
    Shape { path: PathBuf, name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("{}: tensor `{name}` is {found}, which is none of F32, F16, BF16", path.display())]
    TensorType { path: PathBuf, name: String, found: String },
    #[error("{} holds its weights only as pickle, which is never read: save them as model.safetensors", folder.display())]
    OnlyPickle { folder: PathBuf },
    #[error("{} holds its weights in several files, which are not read: save them as one model.safetensors", folder.display())]
    Sharded { folder: PathBuf },
    #[error("{}: tensor `{name}` has {value} at {at:?}; no model has that", path.display())]
    NotFinite { path: PathBuf, name: String, at: Vec<usize>, value: f32 },
    #[error("{}: {names}: tensors without a place in this architecture ({count} in all)", path.display())]
    Surplus { path: PathBuf, names: String, count: usize },
    #[error("its plan is wrong, which is a mistake in this program: {0}")]
    Plan(#[from] PlanError),
}

impl ReadError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
