//! Payloads larger than a frame: put together when they come, cut when they go. Bytes are shared, not copied, except
//! where the parts of one column must lie side by side.

use bytes::{Bytes, BytesMut};
use shoal_proto::link::data_request::Message;
use shoal_proto::link::limits::FRAME_BYTES;
use shoal_proto::link::{Artifact, Column, Fragment, ItemResult, Results, Run, Tensor};

use crate::batch::BatchKey;

#[cfg(test)]
mod tests;

/// What a tensor and its item add to a message besides the payload; generous, so that a frame stays one.
const TENSOR_OVERHEAD: usize = 128;

/// The server sent what no reading of the protocol allows. The connection is of no more use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Violation {
    #[error("a fragment came that nothing was waiting for")]
    StrayFragment,
    #[error("batch {batch} came while {left} bytes of the one before were still to come")]
    Interrupted { batch: u64, left: u64 },
    #[error("an empty fragment came")]
    EmptyFragment,
    #[error("a fragment of {got} bytes came where {left} were left")]
    FragmentTooLong { got: usize, left: u64 },
    #[error("column `{column}` of batch {batch} carries {got} bytes but states {size}")]
    ColumnTooLong { batch: u64, column: String, got: usize, size: u64 },
    #[error("column `{column}` of batch {batch} carries bytes behind a column that is cut")]
    ColumnAfterCut { batch: u64, column: String },
    #[error("the columns of batch {batch} state more bytes than can be counted")]
    Uncountable { batch: u64 },
}

/// Puts the columns of a cut batch together. One batch at a time: the protocol sends nothing else in between.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    columns: Vec<Part>,
    /// The first column that is not full.
    next: usize,
    /// Bytes still to come.
    left: u64,
    /// Throw the bytes away.
    skip: bool,
}

#[derive(Debug)]
struct Part {
    size: usize,
    data: Bytes,
    /// Room for the whole column; made only for one that comes in several parts.
    joined: BytesMut,
}

impl Assembly {
    /// Starts on a batch and takes the bytes it carries. With `skip` they and all that follow are thrown away.
    pub(super) fn begin(&mut self, run: &mut Run, skip: bool) -> Result<(), Violation> {
        let batch = run.batch;
        if self.left > 0 {
            return Err(Violation::Interrupted { batch, left: self.left });
        }
        let left = missing_bytes(batch, &run.columns)?;
        let parts = run.columns.iter_mut().map(|column| Part {
            size: usize::try_from(column.size).unwrap_or(usize::MAX),
            data: std::mem::take(&mut column.data),
            joined: BytesMut::new(),
        });
        let columns = if skip { Vec::new() } else { parts.collect() };
        *self = Self { columns, next: 0, left, skip };
        Ok(())
    }

    /// More of the batch came.
    pub(super) fn fragment(&mut self, mut data: Bytes) -> Result<(), Violation> {
        match self.left {
            0 => return Err(Violation::StrayFragment),
            left if data.len() as u64 > left => return Err(Violation::FragmentTooLong { got: data.len(), left }),
            _ if data.is_empty() => return Err(Violation::EmptyFragment),
            _ => self.left -= data.len() as u64,
        }
        while !self.skip && !data.is_empty() {
            let Some(part) = self.columns.get_mut(self.next) else { return Err(Violation::StrayFragment) };
            part.fill(&mut data);
            if part.is_full() {
                self.next += 1;
            }
        }
        Ok(())
    }

    pub(super) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// The columns' bytes, in the order of the batch, once complete; none for a batch that was skipped.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.columns).into_iter().map(Part::finish).collect()
    }
}

impl Part {
    /// Takes from the front of `data` what it has room for.
    fn fill(&mut self, data: &mut Bytes) {
        let have = self.data.len() + self.joined.len();
        let taken = data.split_to(data.len().min(self.size - have));
        if have == 0 {
            self.data = taken;
            return;
        }
        if self.joined.is_empty() && !taken.is_empty() {
            self.joined = BytesMut::with_capacity(self.size);
            self.joined.extend_from_slice(&std::mem::take(&mut self.data));
        }
        self.joined.extend_from_slice(&taken);
    }

    fn is_full(&self) -> bool {
        self.data.len() + self.joined.len() == self.size
    }

    fn finish(self) -> Bytes {
        if self.joined.is_empty() { self.data } else { self.joined.freeze() }
    }
}

/// Bytes the columns state and do not carry; columns are cut in order, so that none behind a cut one carries any.
fn missing_bytes(batch: u64, columns: &[Column]) -> Result<u64, Violation> {
    let mut missing = 0u64;
    for column in columns {
        let carried = column.data.len() as u64;
        let name = || column.name.clone();
        if carried > column.size {
            return Err(Violation::ColumnTooLong { batch, column: name(), got: column.data.len(), size: column.size });
        }
        if missing > 0 && carried > 0 {
            return Err(Violation::ColumnAfterCut { batch, column: name() });
        }
        missing = missing.checked_add(column.size - carried).ok_or(Violation::Uncountable { batch })?;
    }
    Ok(missing)
}

/// Packs item results into as few messages as frames allow. An item too large for one goes out in several parts; a
/// tensor too large is cut, its rest following in fragments.
pub(super) fn pack_results(key: BatchKey, items: Vec<ItemResult>) -> Vec<Message> {
    let mut packer = Packer { key, out: Vec::new(), items: Vec::new(), room: FRAME_BYTES };
    for item in items {
        packer.push(item);
    }
    packer.flush();
    packer.out
}

struct Packer {
    key: BatchKey,
    out: Vec<Message>,
    /// Of the message being filled.
    items: Vec<ItemResult>,
    room: usize,
}

impl Packer {
    fn push(&mut self, item: ItemResult) {
        let detail = item.error.as_ref().map_or(0, |error| error.detail.len().min(FRAME_BYTES / 2));
        let size: usize = item.tensors.iter().map(cost).sum::<usize>() + detail + TENSOR_OVERHEAD;
        if size > self.room {
            self.flush();
        }
        if size <= self.room {
            self.room -= size;
            return self.items.push(item);
        }
        // Larger than a frame even alone: one part per tensor, each in messages of its own.
        let ItemResult { index, tensors, .. } = item;
        let count = tensors.len();
        for (seq, mut tensor) in (0u32..).zip(tensors) {
            let mut rest = tensor.data.split_off(tensor.data.len().min(FRAME_BYTES));
            let last = seq as usize + 1 == count;
            self.items.push(ItemResult { index, seq, last, tensors: vec![tensor], error: None });
            self.flush();
            self.out.extend(fragments(&mut rest));
        }
    }

    fn flush(&mut self) {
        self.room = FRAME_BYTES;
        if self.items.is_empty() {
            return;
        }
        let BatchKey { epoch, batch, attempt, .. } = self.key;
        self.out.push(Message::Results(Results { batch, attempt, epoch, items: std::mem::take(&mut self.items) }));
    }
}

fn cost(tensor: &Tensor) -> usize {
    tensor.data.len() + TENSOR_OVERHEAD
}

/// An artifact and the fragments it takes.
pub(super) fn pack_artifact(sha256: String, mut data: Bytes) -> Vec<Message> {
    let size = data.len() as u64;
    let mut rest = data.split_off(data.len().min(FRAME_BYTES));
    let mut out = vec![Message::Artifact(Artifact { sha256, size, data, error: String::new() })];
    out.extend(fragments(&mut rest));
    out
}

fn fragments(rest: &mut Bytes) -> impl Iterator<Item = Message> {
    std::iter::from_fn(|| {
        let data = rest.split_to(rest.len().min(FRAME_BYTES));
        (!data.is_empty()).then_some(Message::Fragment(Fragment { data }))
    })
}
