//! What was packed together, on the device and back.

use std::ops::Range;

use crate::backend::planned::finish::Finish;
use crate::batch::{ItemOptions, ItemResult, Tensor};
use crate::cuda::element::Element;
use crate::cuda::slot::Slot;
use crate::ops::top::cuda as top;

/// What was packed together.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) slot: Slot,
    pub(super) rows: Vec<Row>,
    pub(super) results: Results,
}

/// What of a run is copied back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Results {
    /// The plan's output.
    Output(Element),
    /// So many of the best entries of each row of it.
    Best(usize),
}

/// A row of the batch and its rows of the output.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) index: u32,
    pub(super) output: Range<usize>,
    pub(super) options: ItemOptions,
}

impl Run {
    /// What became of its rows, once the device is done.
    pub(super) fn results(&self, finish: &Finish) -> Vec<ItemResult> {
        let results = self.slot.results();
        match self.results {
            Results::Output(element) => {
                let (values, width) = (element.read(results), finish.width());
                let outputs =
                    |row: &Row| finish.finish(&values[row.output.start * width..row.output.end * width], &row.options);
                self.rows.iter().map(|row| row.answered(outputs(row))).collect()
            }
            Results::Best(count) => {
                let best: Vec<_> = top::read(results, count).collect();
                let outputs = |row: &Row| finish.finish_best(&best[row.output.clone()], &row.options);
                self.rows.iter().map(|row| row.answered(outputs(row))).collect()
            }
        }
    }
}

impl Row {
    fn answered(&self, outputs: Vec<Tensor>) -> ItemResult {
        ItemResult { index: self.index, outcome: Ok(outputs) }
    }
}
