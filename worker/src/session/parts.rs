//! Parts of several servers as one batch, and what became of it as what became of each part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use shoal_scheduler::Size;

use crate::Budget;
use crate::batch::{BatchKey, CancelFlags, Column, Finished, HostBatch, ItemResult};

#[cfg(test)]
mod tests;

/// What is kept of a part while the whole runs.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) key: BatchKey,
    /// The whole's items from here on are its own,
    first: u32,
    /// so many.
    pub(super) rows: u32,
    pub(super) size: Size,
    pub(super) arrived: Instant,
}

/// How much is in a batch.
pub(super) fn size_of(batch: &HostBatch) -> Size {
    let mut size = Size::default();
    for row in 0..batch.items.len() {
        let tokens = u64::from(batch.tokens(row));
        size.add(Size { rows: 1, tokens, squares: tokens * tokens });
    }
    size
}

/// Parts of one model, in groups each of which the device can run as one batch. Servers fill a turn each from what it
/// knows of the others, so that together they may come to more.
pub(super) fn grouped(parts: Vec<HostBatch>, budget: Budget) -> Vec<Vec<HostBatch>> {
    let mut groups: Vec<(Fill, Vec<HostBatch>)> = Vec::new();
    for part in parts {
        let fill = Fill::of(&part);
        match groups.iter_mut().find(|(group, _)| group.with(fill).fits(budget)) {
            Some((group, members)) => {
                *group = group.with(fill);
                members.push(part);
            }
            None => groups.push((fill, vec![part])),
        }
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

/// What counts against a budget.
#[derive(Clone, Copy)]
struct Fill {
    rows: u64,
    tokens: u64,
    bytes: u64,
}

impl Fill {
    fn of(batch: &HostBatch) -> Self {
        let Size { rows, tokens, .. } = size_of(batch);
        let targets = batch.items.iter().map(|item| size_of_val(&item.options.targets[..]));
        let bytes = batch.columns.iter().map(|column| column.data.len()).chain(targets).sum::<usize>() as u64;
        Self { rows, tokens, bytes }
    }

    fn with(self, other: Self) -> Self {
        let Self { rows, tokens, bytes } = self;
        Self { rows: rows + other.rows, tokens: tokens + other.tokens, bytes: bytes + other.bytes }
    }

    fn fits(self, budget: Budget) -> bool {
        let Self { rows, tokens, bytes } = self;
        rows <= u64::from(budget.rows) && tokens <= u64::from(budget.tokens) && bytes <= budget.bytes
    }
}

/// One batch of these parts, of one model and checked against the same card, and what is kept of each. One part is taken as it
/// is.
pub(super) fn joined(key: BatchKey, now: Instant, parts: Vec<HostBatch>) -> Option<(HostBatch, Vec<Piece>)> {
    let mut pieces = Vec::with_capacity(parts.len());
    let mut first = 0u32;
    for part in &parts {
        // A batch's rows are bounded by the device's budget.
        let rows = part.items.len() as u32;
        pieces.push(Piece { key: part.key, first, rows, size: size_of(part), arrived: part.arrived });
        first += rows;
    }
    let mut rest = parts.into_iter();
    let mut whole = rest.next()?;
    let others: Vec<HostBatch> = rest.collect();
    if !others.is_empty() {
        whole.columns = (0..whole.columns.len()).map(|index| joined_column(&whole, &others, index)).collect();
        let flags = std::iter::once(&whole).chain(&others).map(|part| part.cancelled.clone());
        let flags = pieces.iter().map(|piece| piece.first as usize).zip(flags).collect();
        whole.cancelled = Arc::new(CancelFlags::Joined(flags));
        whole.items.extend(others.into_iter().flat_map(|part| part.items));
    }
    (whole.key, whole.arrived) = (key, now);
    Some((whole, pieces))
}

fn joined_column(first: &HostBatch, others: &[HostBatch], index: usize) -> Column {
    let columns = || std::iter::once(first).chain(others).filter_map(|part| part.columns.get(index));
    let data_type = first.columns[index].data_type;
    let mut row_splits = vec![0];
    let mut data = BytesMut::with_capacity(columns().map(|column| column.data.len()).sum());
    for column in columns() {
        // Payloads are bounded by the device's budget, far below what a split can count.
        let before = (data.len() / data_type.size()) as u32;
        row_splits.extend(column.row_splits.iter().skip(1).map(|split| before + split));
        data.extend_from_slice(&column.data);
    }
    Column { data_type, row_splits, data: data.freeze() }
}

/// What became of each part. The time is that of the whole: a server that knows who came along can tell what it would have
/// taken alone.
pub(super) fn split(whole: Finished, launched: Instant, pieces: &[Piece]) -> Vec<Finished> {
    let Finished { waited, compute, page_in, outcome, .. } = whole;
    let mut results = outcome.map(|results| results.into_iter().peekable());
    let mut parts = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let end = piece.first + piece.rows;
        let outcome = match &mut results {
            Ok(results) => {
                let own = |result: ItemResult| ItemResult { index: result.index - piece.first, ..result };
                Ok(std::iter::from_fn(|| results.next_if(|result| result.index < end)).map(own).collect())
            }
            Err(error) => Err(error.clone()),
        };
        let waited = waited + launched.saturating_duration_since(piece.arrived);
        let (rows, tokens) = (piece.size.rows, piece.size.tokens);
        let page_in = page_in.clone();
        parts.push(Finished { key: piece.key, waited, compute, page_in, rows, tokens, cancelled: 0, outcome });
    }
    parts
}

/// How long a part has lain there.
pub(super) fn waited(piece: &Piece, now: Instant) -> Duration {
    now.saturating_duration_since(piece.arrived)
}
