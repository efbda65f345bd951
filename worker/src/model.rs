//! Architectures, and how they are read from a folder in Hugging Face layout. One file per architecture; a backend runs
//! them. Nothing here knows batches as the wire has them, only token ids and where sequences begin.
//!
//! Weights are read from safetensors and never from pickle, which runs code.

use std::io;
use std::path::{Path, PathBuf};

pub(crate) mod bert;
pub(crate) mod folder;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod weights;

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
    #[error("computing with it failed: {0}")]
    Compute(#[from] candle_core::Error),
}

impl ReadError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
