//! A batch in the worker's own words: what goes into a backend and what comes out. Nothing here names the wire's types.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// A server, by the number that this worker gave it when it first dialled it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServerId(pub(crate) u32);

impl ServerId {
    /// Of batches that no server sent as they are.
    pub(crate) const NONE: Self = Self(0);
}

/// What a batch is called. A reply that carries another key than a batch in flight is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BatchKey {
    /// Who sent it. Servers number their connections and batches each for itself.
    pub(crate) server: ServerId,
    /// Which life of the connection it came over.
    pub(crate) epoch: u64,
    pub(crate) batch: u64,
    /// How often the server has sent this batch, this time included.
    pub(crate) attempt: u32,
}

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataType {
    F32,
    F16,
    Bf16,
    I8,
    I32,
    I64,
    U8,
    U32,
    Bool,
    /// Opaque bytes, such as one text.
    Bytes,
}

impl DataType {
    /// Bytes of one element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::I64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 | Self::U8 | Self::Bool | Self::Bytes => 1,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I8 => "I8",
            Self::I32 => "I32",
            Self::I64 => "I64",
            Self::U8 => "U8",
            Self::U32 => "U32",
            Self::Bool => "BOOL",
            Self::Bytes => "BYTES",
        }
    }
}

/// One batch, checked against its model's card: columns come in the card's order and hold one row per item.
#[derive(Debug)]
pub(crate) struct HostBatch {
    pub(crate) key: BatchKey,
    pub(crate) model: Arc<str>,
    pub(crate) columns: Vec<Column>,
    pub(crate) items: Vec<Item>,
    /// Whether a row's length in the first column counts as tokens.
    pub(crate) has_tokens: bool,
    pub(crate) cancelled: Arc<CancelFlags>,
    /// When its last byte came.
    pub(crate) arrived: Instant,
}

impl HostBatch {
    /// One that no server sent, of a model with tokens.
    pub(crate) fn unsent(model: Arc<str>, columns: Vec<Column>, items: Vec<Item>) -> Self {
        Self {
            key: BatchKey { server: ServerId::NONE, epoch: 1, batch: 1, attempt: 1 },
            model,
            columns,
            cancelled: Arc::new(CancelFlags::new(items.len())),
            items,
            has_tokens: true,
            arrived: Instant::now(),
        }
    }

    /// Tokens of row `row`; 0 for models that have none.
    pub(crate) fn tokens(&self, row: usize) -> u32 {
        let Some(column) = self.columns.first().filter(|_| self.has_tokens) else { return 0 };
        column.row_splits[row + 1] - column.row_splits[row]
    }
}

/// The values of all rows of one input, little-endian, one row after the other with no padding.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) data_type: DataType,
    /// Row i is elements `row_splits[i]..row_splits[i + 1]`: rows + 1 entries, from 0, never falling, within `data`.
    pub(crate) row_splits: Vec<u32>,
    pub(crate) data: Bytes,
}

impl Column {
    /// Rows of integers, each as its four bytes.
    pub(crate) fn of_integers(rows: impl Iterator<Item: IntoIterator<Item = [u8; 4]>>) -> Self {
        let (mut row_splits, mut data) = (vec![0], Vec::new());
        for row in rows {
            data.extend(row.into_iter().flatten());
            row_splits.push((data.len() / size_of::<i32>()) as u32);
        }
        Self { data_type: DataType::I32, row_splits, data: data.into() }
    }

    /// Elements of row `row`.
    pub(crate) fn len(&self, row: usize) -> usize {
        let Range { start, end } = self.range(row);
        end - start
    }

    /// Bytes of row `row`, sharing the column's memory.
    pub(crate) fn row(&self, row: usize) -> Bytes {
        let Range { start, end } = self.range(row);
        let size = self.data_type.size();
        self.data.slice(start * size..end * size)
    }

    fn range(&self, row: usize) -> Range<usize> {
        self.row_splits[row] as usize..self.row_splits[row + 1] as usize
    }
}

/// What one row of a batch was asked with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Item {
    pub(crate) options: ItemOptions,
    /// Nothing is computed for it after this.
    pub(crate) deadline: Option<Instant>,
    /// W3C trace context; empty when the call carried none.
    pub(crate) traceparent: String,
}

/// What a caller may ask of a model for one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ItemOptions {
    /// Overrides the model's own normalisation.
    pub(crate) normalize: Option<bool>,
    /// Keeps only the first so many dimensions; 0 keeps all.
    pub(crate) dimensions: u32,
    /// Wants logits, not probabilities.
    pub(crate) raw: bool,
    /// Candidates for each mask; 0 means 5, or all `targets`.
    pub(crate) top_k: u32,
    /// The only token ids to score as a mask's candidates; empty means the whole vocabulary.
    pub(crate) targets: Arc<[u32]>,
}

/// Which items of a batch are no longer wanted: set by the link at any time, read by the executor before it computes.
#[derive(Debug)]
pub(crate) enum CancelFlags {
    /// One for each item.
    Own(Box<[AtomicBool]>),
    /// Those of parts that run as one batch, each with its first item's place in it, in order.
    Joined(Vec<(usize, Arc<Self>)>),
}

impl CancelFlags {
    pub(crate) fn new(items: usize) -> Self {
        Self::Own((0..items).map(|_| AtomicBool::new(false)).collect())
    }

    /// Says whether the item was wanted until now.
    pub(crate) fn set(&self, item: usize) -> bool {
        self.find(item).is_some_and(|flag| !flag.swap(true, Ordering::Relaxed))
    }

    pub(crate) fn set_all(&self) {
        match self {
            Self::Own(flags) => flags.iter().for_each(|flag| flag.store(true, Ordering::Relaxed)),
            Self::Joined(parts) => parts.iter().for_each(|(_, part)| part.set_all()),
        }
    }

    pub(crate) fn is_set(&self, item: usize) -> bool {
        self.find(item).is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    fn find(&self, item: usize) -> Option<&AtomicBool> {
        match self {
            Self::Own(flags) => flags.get(item),
            Self::Joined(parts) => {
                let (first, part) = parts.iter().rfind(|(first, _)| *first <= item)?;
                part.find(item - first)
            }
        }
    }
}

/// One output of one row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: Arc<str>,
    pub(crate) data_type: DataType,
    /// Without the row dimension.
    pub(crate) shape: Vec<i64>,
    /// Little-endian values.
    pub(crate) data: Bytes,
}

/// What became of one row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ItemResult {
    /// Its position in the batch.
    pub(crate) index: u32,
    /// The outputs in the order of the model's card.
    pub(crate) outcome: Result<Vec<Tensor>, ItemError>,
}

/// Why one row has no outputs while its mates may have.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ItemError {
    #[error("{0}")]
    Input(String),
    #[error("the deadline had passed before it ran")]
    Deadline,
}

/// Why a whole batch has no results.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BatchError {
    /// Something in the batch itself; a part of it may run.
    #[error("{0}")]
    Item(String),
    /// A smaller batch may fit.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The worker is at fault, or does not hold the model.
    #[error("{0}")]
    Device(String),
    /// The device is of no use any more, nor is the worker.
    #[error("{0}")]
    Broken(String),
}

/// Weights that came onto the device for a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageIn {
    /// How much later the batch was done for it.
    pub(crate) taken: Duration,
    /// Models whose weights are not there now.
    pub(crate) absent: Vec<Arc<str>>,
}

/// A batch the executor is done with.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) key: BatchKey,
    /// From arrival of the last byte to the start of compute.
    pub(crate) waited: Duration,
    /// Time the device spent on it, once the weights were there; zero when nothing was left to compute.
    pub(crate) compute: Duration,
    /// What had to come onto the device first, if anything.
    pub(crate) page_in: Option<PageIn>,
    /// Rows and tokens computed.
    pub(crate) rows: u64,
    pub(crate) tokens: u64,
    /// Items dropped because they were cancelled before they ran.
    pub(crate) cancelled: u64,
    /// One entry for each item that was not cancelled.
    pub(crate) outcome: Result<Vec<ItemResult>, BatchError>,
}
