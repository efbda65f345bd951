//! The model that only takes time: column `text` (BYTES) in, tensor `hash` (one I64) out, after as long as its curve
//! says. For load tests, demos and everything that must see faults.
//!
//! The hash is 64-bit FNV-1a of the bytes, its bits read as a signed number, so that any client can check that it got
//! its own answer. With `faults` on, inputs that begin with a command do what it says:
//!
//! | input | what happens |
//! |---|---|
//! | `!fail TEXT` | this item fails with TEXT |
//! | `!break` | the whole batch fails, whoever else is in it |
//! | `!oom` | the whole batch is out of memory |
//! | `!hang` | the batch never ends |
//! | `!exit CODE` | the process exits |
//! | `!abort` | the process aborts |
//! | `!panic` | the model panics |
//! | `!sleep 50ms` | the batch takes that much longer |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Backend, Compute, LoadError, PrepareRequest, expect_precision};
use crate::batch::{BatchError, DataType, HostBatch, ItemError, ItemResult, Tensor};
use crate::card::{ModelCard, Task, TensorSpec};
use crate::source::{ModelSource, Precision, SyntheticCurve};

mod fault;
mod noise;
#[cfg(test)]
mod tests;

use fault::Fault;
use noise::Noise;

/// Bytes, and so tokens, of one text at most.
const TEXT_BYTES_MAX: u32 = 1 << 16;

/// The synthetic models in memory.
#[derive(Debug, Default)]
pub(crate) struct Synthetic {
    models: BTreeMap<Arc<str>, Model>,
}

/// One curve and the state of its noise.
#[derive(Debug)]
pub(crate) struct Model {
    curve: SyntheticCurve,
    noise: Noise,
}

impl Backend for Synthetic {
    type Prepared = Model;
    type Ticket = Vec<ItemResult>;

    fn prepare(request: &PrepareRequest, _: &Compute, _: &mut dyn FnMut(f32)) -> Result<(Model, ModelCard), LoadError> {
        let curve = match &request.source {
            ModelSource::Synthetic(curve) => curve.clone(),
            _ => SyntheticCurve::default(),
        };
        check("nanos_per_token_squared", curve.nanos_per_token_squared, 1e9)?;
        check("noise", curve.noise, 10.0)?;
        let card = ModelCard {
            weights_sha256: String::new(),
            architecture: "synthetic",
            task: Task::Tensor,
            dims: 0,
            labels: Vec::new(),
            tokens_max: TEXT_BYTES_MAX,
            vocabulary: 0,
            bytes: 0,
            parameters: 0,
            dtype: expect_precision("synthetic", request.precision, Precision::F32)?,
            backend: "synthetic",
            instructions: "",
            tokenizer_sha256: String::new(),
            inputs: vec![TensorSpec::new("text", DataType::Bytes, &[-1])],
            outputs: vec![TensorSpec::new("hash", DataType::I64, &[1])],
            normalizes: false,
            mask_token: String::new(),
            mask_token_id: 0,
            smallest_batch: seconds(curve_seconds(&curve, &[1])),
        };
        Ok((Model { noise: Noise::new(curve.seed, curve.noise), curve }, card))
    }

    fn depth(&self) -> usize {
        1
    }

    /// It is there to take time, and may be told to hang.
    fn is_brief(&self, _: &HostBatch) -> bool {
        false
    }

    fn install(&mut self, name: &Arc<str>, model: Model) -> Result<(), LoadError> {
        self.models.insert(name.clone(), model);
        Ok(())
    }

    fn evict(&mut self, name: &str) {
        self.models.remove(name);
    }

    /// Blocks for as long as the batch takes.
    fn launch(&mut self, batch: &HostBatch, live: &[u32]) -> Result<Vec<ItemResult>, BatchError> {
        let Some(model) = self.models.get_mut(&batch.model) else {
            return Err(BatchError::Device(format!("model `{}` is not in memory", batch.model)));
        };
        let texts: Vec<Bytes> = live.iter().map(|&row| batch.columns[0].row(row as usize)).collect();
        let (outcomes, asleep) = model.answer(&texts)?;
        let lengths: Vec<usize> = texts.iter().map(Bytes::len).collect();
        std::thread::sleep(seconds(curve_seconds(&model.curve, &lengths) * model.noise.factor()) + asleep);
        Ok(live.iter().zip(outcomes).map(|(&index, outcome)| ItemResult { index, outcome }).collect())
    }

    fn poll(&mut self, ticket: &mut Vec<ItemResult>) -> Option<Result<Vec<ItemResult>, BatchError>> {
        Some(Ok(std::mem::take(ticket)))
    }
}

/// What each text gives, and how much longer than its curve the batch is to take.
type Answers = (Vec<Result<Vec<Tensor>, ItemError>>, Duration);

impl Model {
    fn answer(&self, texts: &[Bytes]) -> Result<Answers, BatchError> {
        let limit = self.curve.memory_rows as usize;
        if limit > 0 && texts.len() > limit {
            return Err(BatchError::OutOfMemory(format!("{} rows, and room for {limit}", texts.len())));
        }
        let name: Arc<str> = "hash".into();
        let mut asleep = Duration::ZERO;
        let mut outcomes = Vec::with_capacity(texts.len());
        for text in texts {
            let fault = if self.curve.faults { Fault::parse(text) } else { Ok(None) };
            outcomes.push(match fault {
                Ok(None) => Ok(vec![hash(&name, text)]),
                Ok(Some(Fault::Sleep(longer))) => {
                    asleep += longer;
                    Ok(vec![hash(&name, text)])
                }
                Ok(Some(Fault::Fail(detail))) | Err(detail) => Err(ItemError::Input(detail)),
                Ok(Some(Fault::Strike(strike))) => return Err(strike.strike()),
            });
        }
        Ok((outcomes, asleep))
    }
}

fn hash(name: &Arc<str>, text: &[u8]) -> Tensor {
    let data = Bytes::copy_from_slice(&fnv1a(text).to_le_bytes());
    Tensor { name: name.clone(), data_type: DataType::I64, shape: vec![1], data }
}

/// 64-bit FNV-1a (Fowler, Noll, Vo; offset basis and prime from the authors' reference).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What the curve says for rows of these lengths, without noise, in seconds.
fn curve_seconds(curve: &SyntheticCurve, lengths: &[usize]) -> f64 {
    let tokens: usize = lengths.iter().sum();
    let squares: f64 = lengths.iter().map(|&length| (length as f64).powi(2)).sum();
    let linear = curve.base.as_secs_f64()
        + curve.per_row.as_secs_f64() * lengths.len() as f64
        + curve.per_token.as_secs_f64() * tokens as f64;
    (linear + curve.nanos_per_token_squared * 1e-9 * squares).max(curve.floor.as_secs_f64())
}

/// A time to sleep. A day is more than any test or demo waits, and less than a `Duration` can overflow at.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))
}

fn check(field: &'static str, value: f64, max: f64) -> Result<(), LoadError> {
    if (0.0..=max).contains(&value) {
        return Ok(());
    }
    Err(LoadError::Curve { field, value, max })
}
