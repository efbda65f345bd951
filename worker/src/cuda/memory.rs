//! Memory that gives itself back.

use std::marker::PhantomData;
use std::slice;
use std::sync::{Arc, Mutex};

use super::driver::{Driver, DriverError, Graph, PinnedSpan, Span, Stream};
use super::ledger::Reservation;
use super::lock;
use super::queue::Mark;

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

    pub(crate) fn whole(&self) -> Part<'_> {
        self.part(self.span)
    }

    /// # Panics
    /// If the span is not within.
    pub(crate) fn part(&self, span: Span) -> Part<'_> {
        assert!(self.span.holds(span), "{span:?} is not within {:?}", self.span);
        Part { span, memory: PhantomData }
    }
}

impl Part<'_> {
    pub(crate) fn span(self) -> Span {
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

/// What of device memory is copied: a span that lies within it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    span: Span,
    memory: PhantomData<&'a DeviceMemory>,
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
    dropped: Arc<Dropped>,
    /// What it uses.
    memory: Vec<Span>,
    pub(super) graph: Graph,
    /// There until it is dropped.
    reservation: Option<Reservation>,
}

impl Captured {
    /// Notes down what `work` gives to the stream, which does none of it.
    pub(super) fn of(
        driver: &Arc<dyn Driver>,
        stream: Stream,
        dropped: &Arc<Dropped>,
        memory: Vec<Span>,
        reservation: Option<Reservation>,
        work: impl FnOnce() -> Result<(), DriverError>,
    ) -> Result<Self, DriverError> {
        driver.begin_capture(stream)?;
        let worked = work();
        // Ended also if it failed, or the stream would be of no use any more.
        let graph = driver.end_capture(stream)?;
        let (driver, dropped) = (driver.clone(), dropped.clone());
        let this = Self { driver, stream, dropped, memory, graph, reservation };
        worked.map(|()| this)
    }

    /// What it uses.
    pub(super) fn memory(&self) -> &[Span] {
        &self.memory
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // What replays it may still be under way: the device needs the graph until the stream is past this place.
        let mark =
            Mark::new(&self.driver).and_then(|mark| self.driver.record(mark.event(), self.stream).map(|()| mark));
        match mark {
            Ok(mark) => lock(&self.dropped.graphs).push((mark, self.graph, self.reservation.take())),
            // A stream that can be given nothing has no use of the graph either.
            // SAFETY: made in `of`, destroyed only here, and nothing runs it.
            Err(_) => unsafe { self.driver.destroy_graph(self.graph) },
        }
    }
}

/// Graphs of one stream that nobody has any more, and the places that it must be past before they are destroyed. So nobody
/// waits for the device to be rid of one.
#[derive(Debug)]
pub(super) struct Dropped {
    driver: Arc<dyn Driver>,
    stream: Stream,
    graphs: Mutex<Vec<(Mark, Graph, Option<Reservation>)>>,
}

impl Dropped {
    pub(super) fn new(driver: &Arc<dyn Driver>, stream: Stream) -> Arc<Self> {
        Arc::new(Self { driver: driver.clone(), stream, graphs: Mutex::default() })
    }

    /// Destroys those that the stream is past. The stream must not be being captured.
    pub(super) fn clear(&self) {
        lock(&self.graphs).retain(|(mark, graph, _)| {
            let is_past = mark.is_past().unwrap_or(false);
            if is_past {
                // SAFETY: it was captured and dropped, is destroyed only here, and what ran it is done.
                unsafe { self.driver.destroy_graph(*graph) }
            }
            !is_past
        });
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        let graphs = std::mem::take(&mut *lock(&self.graphs));
        if graphs.is_empty() {
            return;
        }
        // A stream that cannot be waited for has no use of the graphs either.
        let _: Result<(), DriverError> = self.driver.synchronize(self.stream);
        for (_, graph, _) in graphs {
            // SAFETY: as in `clear`.
            unsafe { self.driver.destroy_graph(graph) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::double::{Call, Double};
    use crate::cuda::queue::Queue;

    #[test]
    #[should_panic(expected = "is not within")]
    fn what_is_not_within_memory_is_no_part_of_it() {
        let driver: Arc<dyn Driver> = Double::new(0, 1 << 20);
        let stream = driver.stream().unwrap();
        let [one, other] = [(), ()].map(|()| DeviceMemory::new(&driver, stream, stream, 64).unwrap());
        let _ = one.part(other.span());
    }

    #[test]
    fn a_copy_to_less_room_than_it_needs_never_reaches_the_driver() {
        let double = Double::new(0, 1 << 20);
        let driver: Arc<dyn Driver> = double.clone();
        let queue = Queue::new(&driver).unwrap();
        let host = PinnedMemory::new(&driver, 32).unwrap();
        let [small, large] =
            [32, 64].map(|bytes| DeviceMemory::new(&driver, queue.stream(), queue.stream(), bytes).unwrap());
        let copies: [&dyn Fn() -> Result<(), DriverError>; 3] =
            [&|| queue.copy_in(&host, large.whole()), &|| queue.copy_out(large.whole(), &host), &|| {
                queue.copy(large.whole(), small.whole())
            }];
        for copy in copies {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(copy)).unwrap_err();
        }
        assert_eq!([Call::CopyIn, Call::CopyOut, Call::Copy].map(|call| double.calls(call)), [0; 3]);
        queue.copy(small.whole(), large.whole()).unwrap();
    }
}
