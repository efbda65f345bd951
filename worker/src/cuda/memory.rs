//! Memory that gives itself back.

use std::slice;
use std::sync::Arc;

use super::driver::{Driver, DriverError, Graph, PinnedSpan, Span, Stream};

/// Device memory. It is given back when the stream that uses it has done what it was given before.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    driver: Arc<dyn Driver>,
    user: Stream,
    span: Span,
}

impl DeviceMemory {
    /// For `first` to fill and then for `user`, which waits until it has.
    pub(crate) fn new(
        driver: &Arc<dyn Driver>,
        first: Stream,
        user: Stream,
        bytes: usize,
    ) -> Result<Self, DriverError> {
        let span = driver.allocate(first, bytes)?;
        Ok(Self { driver: driver.clone(), user, span })
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, of this driver, and given back only here. What uses it was given to its user, or is
        // ordered before by an event that the stream waits for: whoever hands it to other streams sees to that.
        unsafe { self.driver.release(self.user, self.span) }
    }
}

/// Pinned memory of the host, all of it initialised.
#[derive(Debug)]
pub(crate) struct PinnedMemory {
    driver: Arc<dyn Driver>,
    span: PinnedSpan,
}

impl PinnedMemory {
    /// Of zeros.
    pub(crate) fn new(driver: &Arc<dyn Driver>, bytes: usize) -> Result<Self, DriverError> {
        let span = driver.pin(bytes)?;
        // SAFETY: it was just allocated, is as long as it says, and nobody else knows of it.
        unsafe { span.pointer.write_bytes(0, span.bytes) };
        Ok(Self { driver: driver.clone(), span })
    }

    /// Written once, and then only read, by streams.
    pub(crate) fn filled<E: From<DriverError>>(
        driver: &Arc<dyn Driver>,
        bytes: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut this = Self::new(driver, bytes)?;
        // SAFETY: no stream knows of it yet.
        write(unsafe { this.bytes_mut() })?;
        Ok(this)
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.span.bytes
    }

    /// To be handed to a stream; what is said at [`Driver`] then holds for it.
    pub(super) fn span(&self) -> PinnedSpan {
        self.span
    }

    /// # Safety
    /// No stream writes to it.
    pub(super) unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: it is allocated as long as `self` is there and initialised since `new`; who else writes to it is the
        // caller's promise.
        unsafe { slice::from_raw_parts(self.span.pointer, self.span.bytes) }
    }

    /// # Safety
    /// No stream reads or writes it.
    pub(super) unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed for as long.
        unsafe { slice::from_raw_parts_mut(self.span.pointer, self.span.bytes) }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, of this driver, and given back only here; the driver waits for streams that use it.
        unsafe { self.driver.unpin(self.span) }
    }
}

/// What was captured of a stream.
#[derive(Debug)]
pub(crate) struct Captured {
    driver: Arc<dyn Driver>,
    stream: Stream,
    /// What it uses.
    memory: Vec<Span>,
    pub(super) graph: Graph,
}

impl Captured {
    /// Notes down what `work` gives to the stream, which does none of it.
    pub(super) fn of(
        driver: &Arc<dyn Driver>,
        stream: Stream,
        memory: Vec<Span>,
        work: impl FnOnce() -> Result<(), DriverError>,
    ) -> Result<Self, DriverError> {
        driver.begin_capture(stream)?;
        let worked = work();
        // Ended also if it failed, or the stream would be of no use any more.
        let graph = driver.end_capture(stream)?;
        let this = Self { driver: driver.clone(), stream, memory, graph };
        worked.map(|()| this)
    }

    /// What it uses.
    pub(super) fn memory(&self) -> &[Span] {
        &self.memory
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // What replays it may still be under way. A stream that cannot be waited for has no use of the graph either.
        let _: Result<(), DriverError> = self.driver.synchronize(self.stream);
        // SAFETY: made in `of`, destroyed only here, and its stream is done with it.
        unsafe { self.driver.destroy_graph(self.graph) }
    }
}
