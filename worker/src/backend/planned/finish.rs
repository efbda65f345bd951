//! What a plan puts out becomes what a task answers: embeddings cut and normalised, logits made probabilities, masks
//! filled with their best candidates.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;

use bytes::Bytes;

use super::output_rows;
use crate::batch::{DataType, ItemOptions, Tensor};
use crate::card::Task;
use crate::model::{Model, Scores};
use crate::ops::softmax;
use crate::ops::top::Best;
use crate::plan::Rows;

/// Candidates for a mask when a caller does not say how many.
const TOP_K: usize = 5;

/// How one model's answers are made.
#[derive(Debug)]
pub(in crate::backend) struct Finish {
    task: Task,
    scores: Scores,
    normalizes: bool,
    width: usize,
    /// Names of the outputs.
    names: [Arc<str>; 2],
}

impl Finish {
    pub(in crate::backend) fn of(model: &Model) -> Self {
        let names = match model.task {
            Task::Embed => ["embedding", ""],
            Task::FillMask => ["scores", "token_ids"],
            Task::Classify | Task::Rerank | Task::Tensor => ["scores", ""],
        };
        Self {
            task: model.task,
            scores: model.scores,
            normalizes: model.normalizes,
            width: model.plan[model.plan.output].width,
            names: names.map(Arc::from),
        }
    }

    /// What the plan's output has one row for each of.
    pub(in crate::backend) fn rows(&self) -> Rows {
        output_rows(self.task)
    }

    /// Numbers in a row of the plan's output.
    pub(in crate::backend) fn width(&self) -> usize {
        self.width
    }

    /// The outputs of one row of the batch, from its rows of the plan's output.
    pub(in crate::backend) fn finish(&self, values: &[f32], options: &ItemOptions) -> Vec<Tensor> {
        match self.task {
            Task::Embed => vec![self.embedding(values, options)],
            Task::Classify | Task::Rerank | Task::Tensor => vec![self.label_scores(values, options)],
            Task::FillMask => self.candidates(values, options),
        }
    }

    /// How many of the best entries of each row of logits are enough to answer rows of a batch that are asked with these
    /// options; nothing if no number is.
    pub(in crate::backend) fn best_of<'a>(&self, options: impl IntoIterator<Item = &'a ItemOptions>) -> Option<usize> {
        let count = |options: &ItemOptions| {
            let is_enough = self.task == Task::FillMask && options.targets.is_empty();
            is_enough.then(|| candidate_count(options, self.width))
        };
        options.into_iter().try_fold(0, |most, options| Some(count(options)?.max(most)))
    }

    /// The same outputs as [`Self::finish`] has, from the best entries of each of its rows of logits: as many as
    /// [`Self::best_of`] says, or more.
    pub(in crate::backend) fn finish_best(&self, rows: &[Best], options: &ItemOptions) -> Vec<Tensor> {
        let count = candidate_count(options, self.width);
        let mask = |row: &Best| {
            let best = row.entries[..count].iter().map(|&(id, logit)| Candidate { id, logit }).collect();
            (best, (!options.raw).then(|| softmax::Scale::new(row.largest, row.sum)))
        };
        self.filled(rows.iter().map(mask), count)
    }

    /// Cuts an embedding to what was asked for and normalises it.
    fn embedding(&self, embedding: &[f32], options: &ItemOptions) -> Tensor {
        let kept = match options.dimensions {
            0 => embedding,
            dimensions => &embedding[..dimensions as usize],
        };
        let scale = if options.normalize.unwrap_or(self.normalizes) {
            // As sentence-transformers does: a vector of zeros stays one.
            1.0 / kept.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12)
        } else {
            1.0
        };
        numbers(&self.names[0], vec![kept.len() as i64], kept.iter().map(|x| x * scale))
    }

    fn label_scores(&self, logits: &[f32], options: &ItemOptions) -> Tensor {
        let shape = vec![logits.len() as i64];
        let scores = if options.raw { Scores::Identity } else { self.scores };
        match scores {
            Scores::Identity => numbers(&self.names[0], shape, logits.iter().copied()),
            Scores::Sigmoid => numbers(&self.names[0], shape, logits.iter().map(|x| 1.0 / (1.0 + (-x).exp()))),
            Scores::Softmax => {
                let scale = softmax::Scale::of(logits);
                numbers(&self.names[0], shape, logits.iter().map(|x| scale.probability(*x)))
            }
        }
    }

    /// The best tokens for each mask, a row of `values` being one mask's logits.
    fn candidates(&self, values: &[f32], options: &ItemOptions) -> Vec<Tensor> {
        let count = candidate_count(options, self.width);
        let mask = |logits: &[f32]| {
            let best = if options.targets.is_empty() {
                best((0..).zip(logits.iter().copied()), count)
            } else {
                best(options.targets.iter().map(|&id| (id, logits[id as usize])), count)
            };
            (best, (!options.raw).then(|| softmax::Scale::of(logits)))
        };
        self.filled(values.chunks_exact(self.width).map(mask), count)
    }

    /// The outputs of a row of the batch, from the candidates of each of its masks, and what makes their logits
    /// probabilities if that is wanted.
    fn filled(
        &self,
        masks: impl ExactSizeIterator<Item = (Vec<Candidate>, Option<softmax::Scale>)>,
        count: usize,
    ) -> Vec<Tensor> {
        let shape = vec![masks.len() as i64, count as i64];
        let (mut ids, mut scores) = (Vec::with_capacity(masks.len() * count), Vec::with_capacity(masks.len() * count));
        for (best, scale) in masks {
            ids.extend(best.iter().map(|candidate| i64::from(candidate.id)));
            let score = |logit: f32| scale.map_or(logit, |scale| scale.probability(logit));
            scores.extend(best.iter().map(|candidate| score(candidate.logit)));
        }
        let data: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let token_ids = Tensor {
            name: self.names[1].clone(),
            data_type: DataType::I64,
            shape: shape.clone(),
            data: Bytes::from(data),
        };
        vec![token_ids, numbers(&self.names[0], shape, scores.into_iter())]
    }
}

/// How many candidates a row's masks get.
fn candidate_count(options: &ItemOptions, vocabulary: usize) -> usize {
    match (options.top_k as usize, options.targets.len()) {
        (0, 0) => TOP_K.min(vocabulary),
        (0, targets) => targets,
        (top_k, 0) => top_k.min(vocabulary),
        (top_k, targets) => top_k.min(targets),
    }
}

fn numbers(name: &Arc<str>, shape: Vec<i64>, values: impl Iterator<Item = f32>) -> Tensor {
    let data: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    Tensor { name: name.clone(), data_type: DataType::F32, shape, data: Bytes::from(data) }
}

/// One token and its logit. Better ones are greater: a higher logit, then a lower id.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.logit.total_cmp(&other.logit).then(other.id.cmp(&self.id))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// The best so many, the best first.
fn best(candidates: impl Iterator<Item = (u32, f32)>, count: usize) -> Vec<Candidate> {
    let mut kept: BinaryHeap<Reverse<Candidate>> = BinaryHeap::with_capacity(count);
    for (id, logit) in candidates {
        let candidate = Candidate { id, logit };
        if kept.len() < count {
            kept.push(Reverse(candidate));
        } else if let Some(mut worst) = kept.peek_mut()
            && candidate > worst.0
        {
            *worst = Reverse(candidate);
        }
    }
    kept.into_sorted_vec().into_iter().map(|Reverse(candidate)| candidate).collect()
}
