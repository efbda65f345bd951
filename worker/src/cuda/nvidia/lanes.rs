//! What is known of each stream, and memory that must wait for one.

use std::collections::BTreeMap;
use std::sync::MutexGuard;

use cudarc::driver::sys;

use super::{Driver as _, DriverError, Nvidia, PinnedSpan, Span, Stream, lock, raw, warn_of};

/// Streams, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) lanes: BTreeMap<Stream, Lane>,
    /// Streams that were given copies from or to pinned memory, by where it begins.
    pub(super) users: BTreeMap<usize, Vec<Stream>>,
    /// What could not be given back because a stream was being captured.
    pub(super) left: Vec<Leftover>,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) is_captured: bool,
    /// What products of this stream use besides their operands.
    pub(super) workspace: Option<sys::CUdeviceptr>,
}

#[derive(Debug)]
pub(super) enum Leftover {
    Device(Stream, Span),
    Pinned(Vec<Stream>, PinnedSpan),
}

impl Nvidia {
    pub(super) fn lanes(&self) -> MutexGuard<'_, Lanes> {
        lock(&self.lanes)
    }

    /// What products of a stream use besides their operands, allocated once; and whether it is being captured.
    pub(super) fn workspace_of(&self, stream: Stream) -> Result<(sys::CUdeviceptr, bool), DriverError> {
        let bytes = self.workspace_bytes;
        let mut lanes = self.lanes();
        let lane = lanes.lanes.entry(stream).or_default();
        if let Some(workspace) = lane.workspace {
            return Ok((workspace, lane.is_captured));
        }
        let mut workspace = 0;
        // Not in the stream's order, which would make it a part of what is being captured.
        // SAFETY: the address is written during the call only.
        let allocated = unsafe { sys::cuMemAlloc_v2(&raw mut workspace, bytes) };
        self.check_room(allocated, bytes, format_args!("allocating a workspace"))?;
        Ok((*lane.workspace.insert(workspace), lane.is_captured))
    }

    /// Notes that a stream is given a copy from or to pinned memory.
    pub(super) fn note_user(&self, stream: Stream, pinned: PinnedSpan) {
        if let Some((_, users)) = self.lanes().users.range_mut(..=pinned.pointer as usize).next_back()
            && !users.contains(&stream)
        {
            users.push(stream);
        }
    }

    /// Gives memory back behind what the stream was given, which is not being captured.
    pub(super) fn give_back(&self, stream: Stream, span: Span) -> Result<(), DriverError> {
        let doing = format_args!("giving {} bytes back", span.bytes);
        if self.pool.is_some() {
            // SAFETY: the caller's promise of `release`.
            return self.check(unsafe { sys::cuMemFreeAsync(span.address, raw(stream)) }, doing);
        }
        self.synchronize(stream)?;
        // SAFETY: as above, and the stream is done with it.
        self.check(unsafe { sys::cuMemFree_v2(span.address) }, doing)
    }

    /// Gives pinned memory back once those who use it are done; none of them is being captured.
    pub(super) fn give_back_pinned(&self, users: &[Stream], pinned: PinnedSpan) -> Result<(), DriverError> {
        for stream in users {
            self.synchronize(*stream)?;
        }
        // SAFETY: the caller's promise of `unpin`, and no stream uses it any more.
        let freed = unsafe { sys::cuMemFreeHost(pinned.pointer.cast()) };
        self.check(freed, format_args!("giving {} pinned bytes back", pinned.bytes))
    }

    /// What waited for captures to end is given back if there is none any more.
    pub(super) fn give_back_left(&self) {
        let left = {
            let mut lanes = self.lanes();
            if lanes.lanes.values().any(|lane| lane.is_captured) {
                return;
            }
            std::mem::take(&mut lanes.left)
        };
        for leftover in left {
            let given_back = match leftover {
                Leftover::Device(stream, span) => self.give_back(stream, span),
                Leftover::Pinned(users, pinned) => self.give_back_pinned(&users, pinned),
            };
            warn_of(given_back);
        }
    }
}
