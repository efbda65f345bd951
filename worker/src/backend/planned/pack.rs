//! Rows of a batch become packed sequences: checked one by one, so that a bad row fails alone.

use std::ops::Range;

use crate::batch::HostBatch;
use crate::model::Model;
use crate::plan::{Packed, Rows};

/// What a row of a model's batches must keep to.
#[derive(Debug)]
pub(in crate::backend) struct Limits {
    tokens_max: usize,
    vocabulary: usize,
    /// Kinds of tokens; 0 for models that are not told them.
    types: usize,
    /// Length of an embedding; 0 where there is none.
    dims: usize,
    /// The token that is looked for.
    mask: Option<(String, u32)>,
    /// How often it may be in a row, and about how often in what runs together.
    pub(in crate::backend) marks_max: usize,
}

/// Bytes of the scores that are computed together: each mark has one for every token of the vocabulary.
const SCORES_BYTES_MAX: usize = 64 << 20;

impl Limits {
    pub(in crate::backend) fn of(model: &Model) -> Self {
        Self {
            tokens_max: model.tokens_max,
            vocabulary: model.vocabulary,
            types: model.types,
            dims: model.dims,
            mask: model.mask_token.clone(),
            marks_max: (SCORES_BYTES_MAX / size_of::<f32>() / model.vocabulary.max(1)).max(1),
        }
    }
}

/// The rows of one batch that can be computed. Kept from batch to batch, so that packing allocates nothing.
#[derive(Debug)]
pub(in crate::backend) struct Packer {
    ids: Vec<u32>,
    types: Vec<u32>,
    splits: Vec<usize>,
    marks: Vec<usize>,
    /// Where each sequence's marks begin and, last, where they end.
    mark_splits: Vec<usize>,
    /// Positions of the sequences in the batch.
    rows: Vec<u32>,
}

impl Default for Packer {
    fn default() -> Self {
        Self {
            ids: Vec::new(),
            types: Vec::new(),
            splits: vec![0],
            marks: Vec::new(),
            mark_splits: vec![0],
            rows: Vec::new(),
        }
    }
}

impl Packer {
    pub(in crate::backend) fn clear(&mut self) {
        self.cut(0);
    }

    /// Adds a row of a batch, or says what is wrong with it and adds nothing.
    pub(in crate::backend) fn push(&mut self, batch: &HostBatch, index: u32, limits: &Limits) -> Result<(), String> {
        let pushed = self.try_push(batch, index as usize, limits);
        match &pushed {
            Ok(()) => {
                self.rows.push(index);
                self.splits.push(self.ids.len());
                self.mark_splits.push(self.marks.len());
            }
            Err(_) => self.cut(self.rows.len()),
        }
        pushed
    }

    pub(in crate::backend) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether more rows would ask for more memory than is good for a batch.
    pub(in crate::backend) fn is_full(&self, limits: &Limits) -> bool {
        self.marks.len() >= limits.marks_max
    }

    pub(in crate::backend) fn packed(&self) -> Packed<'_> {
        Packed { ids: &self.ids, types: &self.types, splits: &self.splits, marks: &self.marks }
    }

    /// Each sequence's position in the batch and its rows of a matrix.
    pub(in crate::backend) fn rows(&self, of: Rows) -> impl Iterator<Item = (u32, Range<usize>)> {
        self.rows.iter().enumerate().map(move |(sequence, &index)| {
            let range = match of {
                Rows::Tokens => self.splits[sequence]..self.splits[sequence + 1],
                Rows::Sequences => sequence..sequence + 1,
                Rows::Marks => self.mark_splits[sequence]..self.mark_splits[sequence + 1],
            };
            (index, range)
        })
    }

    /// Keeps the first so many sequences.
    fn cut(&mut self, sequences: usize) {
        self.rows.truncate(sequences);
        self.splits.truncate(sequences + 1);
        self.mark_splits.truncate(sequences + 1);
        self.ids.truncate(self.splits[sequences]);
        self.types.truncate(self.splits[sequences]);
        self.marks.truncate(self.mark_splits[sequences]);
    }

    fn try_push(&mut self, batch: &HostBatch, row: usize, limits: &Limits) -> Result<(), String> {
        let start = self.ids.len();
        let tokens = batch.columns[0].len(row);
        if tokens == 0 {
            return Err("input_ids is empty".to_owned());
        }
        if tokens > limits.tokens_max {
            return Err(format!("input_ids has {tokens} tokens, and the model takes {} at most", limits.tokens_max));
        }
        push_below(&mut self.ids, "input_ids", "ids", &batch.columns[0].row(row), limits.vocabulary)?;
        if limits.types > 0 {
            let types = &batch.columns[1];
            if types.len(row) != tokens {
                return Err(format!("token_type_ids has {} entries, and input_ids {tokens}", types.len(row)));
            }
            push_below(&mut self.types, "token_type_ids", "types", &types.row(row), limits.types)?;
        }
        if let Some((mask, id)) = &limits.mask {
            let marks = self.marks.len();
            self.marks.extend((start..).zip(&self.ids[start..]).filter(|(_, found)| *found == id).map(|(at, _)| at));
            let (marks, marks_max) = (self.marks.len() - marks, limits.marks_max);
            if marks == 0 {
                return Err(format!("input_ids holds no {id}, which is the mask token `{mask}`"));
            }
            if marks > marks_max {
                return Err(format!(
                    "input_ids holds {id}, the mask token, {marks} times, and {marks_max} is the most"
                ));
            }
        }
        let options = &batch.items[row].options;
        if let Some(target) = options.targets.iter().find(|target| **target as usize >= limits.vocabulary) {
            return Err(format!("targets holds {target}, and ids are from 0 to {}", limits.vocabulary - 1));
        }
        if limits.dims > 0 && options.dimensions as usize > limits.dims {
            return Err(format!("dimensions is {}, and the model has {}", options.dimensions, limits.dims));
        }
        Ok(())
    }
}

/// Appends a row's numbers, each from 0 and below `end`.
fn push_below(to: &mut Vec<u32>, input: &str, what: &str, bytes: &[u8], end: usize) -> Result<(), String> {
    for bytes in bytes.as_chunks::<4>().0 {
        let number = i32::from_le_bytes(*bytes);
        match u32::try_from(number) {
            Ok(fits) if (fits as usize) < end => to.push(fits),
            _ => return Err(format!("{input} holds {number}, and {what} are from 0 to {}", end - 1)),
        }
    }
    Ok(())
}
