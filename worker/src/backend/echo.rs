//! The model that returns what it is given: column `x` (F32, any length) in, tensor `y` the same out. For probes, tests
//! and measuring everything that is not a model.

use std::sync::Arc;
use std::time::Duration;

use super::{Backend, Compute, LoadError, PrepareRequest, expect_precision};
use crate::batch::{BatchError, DataType, HostBatch, ItemResult, Tensor};
use crate::card::{ModelCard, Task, TensorSpec};
use crate::source::Precision;

/// Holds nothing: all echo models are the same.
#[derive(Debug, Default)]
pub(crate) struct Echo;

impl Backend for Echo {
    type Prepared = ();
    type Ticket = Vec<ItemResult>;

    fn prepare(request: &PrepareRequest, _: &Compute, _: &mut dyn FnMut(f32)) -> Result<((), ModelCard), LoadError> {
        let card = ModelCard {
            weights_sha256: String::new(),
            architecture: "echo",
            task: Task::Tensor,
            dims: 0,
            labels: Vec::new(),
            tokens_max: 0,
            vocabulary: 0,
            bytes: 0,
            parameters: 0,
            dtype: expect_precision("echo", request.precision, Precision::F32)?,
            backend: "echo",
            instructions: "",
            tokenizer_sha256: String::new(),
            inputs: vec![TensorSpec::new("x", DataType::F32, &[-1])],
            outputs: vec![TensorSpec::new("y", DataType::F32, &[-1])],
            normalizes: false,
            mask_token: String::new(),
            mask_token_id: 0,
            smallest_batch: Duration::ZERO,
        };
        Ok(((), card))
    }

    fn depth(&self) -> usize {
        1
    }

    /// Nothing is copied, however large.
    fn is_brief(&self, _: &HostBatch) -> bool {
        true
    }

    fn install(&mut self, _: &Arc<str>, (): ()) -> Result<(), LoadError> {
        Ok(())
    }

    fn evict(&mut self, _: &str) {}

    /// Copies nothing: each output is a view of the input.
    fn launch(&mut self, batch: &HostBatch, live: &[u32]) -> Result<Vec<ItemResult>, BatchError> {
        let name: Arc<str> = "y".into();
        let x = &batch.columns[0];
        let echoed = live.iter().map(|&index| {
            let row = index as usize;
            let y = Tensor {
                name: name.clone(),
                data_type: DataType::F32,
                shape: vec![x.len(row) as i64],
                data: x.row(row),
            };
            ItemResult { index, outcome: Ok(vec![y]) }
        });
        Ok(echoed.collect())
    }

    fn poll(&mut self, ticket: &mut Vec<ItemResult>) -> Option<Result<Vec<ItemResult>, BatchError>> {
        Some(Ok(std::mem::take(ticket)))
    }
}
