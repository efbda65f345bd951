//! A model in this process, without a server: what benchmarks and comparisons with other engines run.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use crate::CpuIsa;
use crate::backend::{Backend, Compute, Engine, LoadError, Planned, PrepareRequest};
use crate::batch::{Column, HostBatch, Item};
use crate::card::{ModelCard, Task};
use crate::source::{ModelSource, Precision};

/// An embedding model, ready to run.
#[derive(Debug)]
pub struct Offline {
    models: Planned<Engine>,
    name: Arc<str>,
    card: ModelCard,
}

/// Why a model cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// No such type of numbers.
    #[error("`{0}` is none of {names}", names = Precision::names())]
    Dtype(String),
    /// The processor lacks the instructions asked for.
    #[error("this processor has no {0}")]
    Instructions(CpuIsa),
    /// A model for something else.
    #[error("the model does not embed")]
    Task,
    /// The system gives no threads.
    #[error("cannot start the compute threads")]
    Threads(#[from] std::io::Error),
    /// The model's files are not those of a model that can run.
    #[error("{0}")]
    Load(String),
    /// An input the model does not take, or a batch that failed.
    #[error("{0}")]
    Run(String),
}

impl From<LoadError> for OfflineError {
    fn from(error: LoadError) -> Self {
        Self::Load(error.to_string())
    }
}

impl Offline {
    /// Reads the model in a folder, to compute in `dtype` on `threads` threads with the instructions of `isa`, or the best
    /// there are.
    ///
    /// # Errors
    /// When it cannot be read or computed with.
    pub fn open(
        folder: &Path,
        dtype: &str,
        isa: Option<CpuIsa>,
        threads: Option<NonZeroUsize>,
    ) -> Result<Self, OfflineError> {
        let precision = Precision::parse(dtype).ok_or_else(|| OfflineError::Dtype(dtype.to_owned()))?;
        let isa = isa.unwrap_or_else(CpuIsa::detect);
        if isa > CpuIsa::detect() {
            return Err(OfflineError::Instructions(isa));
        }
        let compute = Compute::new(threads, isa)?;
        let name: Arc<str> = "offline".into();
        let request = PrepareRequest { name: name.clone(), source: ModelSource::Folder(folder.to_owned()), precision };
        let (prepared, card) = Planned::<Engine>::prepare(&request, &compute, &mut |_| {})?;
        if card.task != Task::Embed {
            return Err(OfflineError::Task);
        }
        let mut models = Planned::default();
        models.install(&name, prepared)?;
        Ok(Self { models, name, card })
    }

    /// What it computes in: `f32`, `bf16`, `int8` or `int8-mixed`.
    #[must_use]
    pub fn dtype(&self) -> &str {
        self.card.dtype
    }

    /// Memory the model takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.card.bytes
    }

    /// The embeddings of tokenised texts, in one batch.
    ///
    /// # Errors
    /// When one of them cannot be computed, naming it.
    pub fn embed(&mut self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, OfflineError> {
        let batch = self.batch(texts);
        let rows: Vec<u32> = (0..texts.len() as u32).collect();
        let failed = |error: crate::batch::BatchError| OfflineError::Run(error.to_string());
        let mut ticket = self.models.launch(&batch, &rows).map_err(failed)?;
        let mut results = self.models.poll(&mut ticket).map_or_else(|| Ok(Vec::new()), |done| done.map_err(failed))?;
        results.sort_unstable_by_key(|result| result.index);
        let numbers = |result: crate::batch::ItemResult| {
            let outputs =
                result.outcome.map_err(|error| OfflineError::Run(format!("text {}: {error}", result.index)))?;
            let bytes = outputs.first().map(|tensor| tensor.data.clone()).unwrap_or_default();
            Ok(bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number)).collect())
        };
        results.into_iter().map(numbers).collect()
    }

    fn batch(&self, texts: &[Vec<u32>]) -> HostBatch {
        let ids = Column::of_integers(texts.iter().map(|text| text.iter().map(|id| id.to_le_bytes())));
        HostBatch::unsent(self.name.clone(), vec![ids], vec![Item::default(); texts.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::fixtures;

    fn open(name: &str, dtype: &str) -> Result<Offline, OfflineError> {
        Offline::open(&fixtures().join(name), dtype, None, NonZeroUsize::new(1))
    }

    #[test]
    fn embeds_texts_in_their_order() {
        let mut model = open("bert-embed", "f32").unwrap();
        let texts = [vec![2, 7, 9, 3], vec![5], vec![2, 8, 3]];
        let together = model.embed(&texts).unwrap();
        assert_eq!(together.iter().map(Vec::len).collect::<Vec<_>>(), [32; 3]);
        for (text, together) in texts.into_iter().zip(together) {
            // Normalised, as the model's settings ask.
            assert!((together.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
            let alone = model.embed(&[text]).unwrap().remove(0);
            assert!(together.iter().zip(alone).all(|(x, alone)| (x - alone).abs() < 1e-5));
        }
        assert_eq!(model.dtype(), "f32");
    }

    #[test]
    fn says_what_it_cannot_open() {
        assert!(matches!(open("bert-classify", "f32"), Err(OfflineError::Task)));
        assert!(matches!(open("no-such-folder", "f32"), Err(OfflineError::Load(_))));
        let error = open("bert-embed", "fp8").unwrap_err();
        assert_eq!(error.to_string(), "`fp8` is none of auto, f32, f16, bf16, int8, int8-mixed");
    }

    #[test]
    fn names_the_text_that_it_cannot_run() {
        let error = open("bert-embed", "f32").unwrap().embed(&[vec![1, 2], vec![1, 100_000]]).unwrap_err();
        assert!(error.to_string().starts_with("text 1: "), "{error}");
    }
}
