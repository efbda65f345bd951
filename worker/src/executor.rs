//! Runs batches, one after the other or as many at once as the backend allows. ONE thread at a time is at the device: the
//! executor's own, or, for a batch that takes less time than waking that thread would, whoever brings the batch while
//! the device is idle. A second thread reads models, so that loading never stalls serving. Orders come in and events go
//! out through bounded channels.
//!
//! Before a batch starts, items whose deadline has passed are answered so and cancelled ones are dropped; neither is
//! computed. A panic inside a model fails its batch and the executor goes on: a launch only reads installed models
//! (see [`Backend::launch`]), so nothing is left half-written. If the thread itself ever ends, the event channel closes,
//! and the process takes that as its own end.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Compute, LoadError, PrepareRequest};
use crate::batch::{BatchError, Finished, HostBatch, ItemError, ItemResult, PageIn};
use crate::card::ModelCard;

mod loader;
#[cfg(test)]
mod tests;

use loader::Loader;

/// Orders that wait at most. Credits keep batches far below it; the rest is loading and unloading.
const ORDERS_MAX: usize = 64;
/// Models that wait to be read at most.
const LOADS_MAX: usize = 256;
/// Events that wait at most; a full channel makes the executor wait for the link.
const EVENTS_MAX: usize = 64;
/// How often a device with batches in flight is asked whether one is done.
const POLL_EVERY: Duration = Duration::from_micros(50);

/// A handle on the executor's threads. They end when it is dropped, once the batch in flight is done.
#[derive(Debug)]
pub(crate) struct Executor<B: Backend> {
    /// There once the executor's thread has opened it.
    device: Arc<OnceLock<Mutex<Device<B>>>>,
    orders: flume::Sender<Order<B::Prepared>>,
    loads: flume::Sender<PrepareRequest>,
    events: flume::Receiver<Event>,
}

/// What the executor's thread is told.
#[derive(Debug)]
enum Order<P> {
    Install { name: Arc<str>, prepared: P, card: ModelCard },
    Evict { name: Arc<str> },
    Run(HostBatch),
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A model is being read; the part that is done, in [0, 1].
    Loading {
        name: Arc<str>,
        progress: f32,
    },
    Ready {
        name: Arc<str>,
        card: ModelCard,
    },
    /// A model cannot be served: one line a person can act on.
    LoadFailed {
        name: Arc<str>,
        reason: String,
    },
    Evicted {
        name: Arc<str>,
    },
    Finished(Finished),
    /// Weights came onto the device or went: those of these models, of all that it holds, are not there now.
    Weights {
        absent: Vec<Arc<str>>,
    },
    /// The device is of no use any more.
    Broken {
        reason: String,
    },
}

impl Event {
    /// Of a model that could not be loaded.
    fn unloaded(name: Arc<str>, error: &LoadError) -> Self {
        match error.breaks() {
            Some(reason) => Self::Broken { reason: reason.to_owned() },
            None => Self::LoadFailed { name, reason: error.to_string() },
        }
    }

    /// What broke the device, after which nothing can be computed any more. The batch it happened in is as good as lost with
    /// the worker: another one may have it.
    pub(crate) fn breaks(&self) -> Option<&str> {
        match self {
            Self::Finished(Finished { outcome: Err(BatchError::Broken(reason)), .. }) | Self::Broken { reason } => {
                Some(reason)
            }
            _ => None,
        }
    }
}

/// The executor cannot take more, or has ended.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the executor takes no more orders")]
pub(crate) struct Full;

impl<B: Backend + 'static> Executor<B> {
    /// Starts both threads. `open` makes the backend on the executor's own.
    pub(crate) fn start(open: impl FnOnce() -> B + Send + 'static, compute: Compute) -> io::Result<Self> {
        let (orders, orders_in) = flume::bounded(ORDERS_MAX);
        let (loads, loads_in) = flume::bounded(LOADS_MAX);
        let (events_out, events) = flume::bounded(EVENTS_MAX);
        let loader = Loader::<B>::new(compute, loads_in, orders.downgrade(), events_out.downgrade());
        thread::Builder::new().name("shoal-loader".to_owned()).spawn(move || loader.run())?;
        let device = Arc::new(OnceLock::new());
        let opened = device.clone();
        thread::Builder::new().name("shoal-executor".to_owned()).spawn(move || {
            let device = opened.get_or_init(|| Mutex::new(Device::new(open())));
            Thread { device, orders: orders_in, events: events_out }.run();
        })?;
        Ok(Self { device, orders, loads, events })
    }

    /// Reads a model and installs it; ends in `Ready` or `LoadFailed`.
    pub(crate) fn load(&self, request: PrepareRequest) -> Result<(), Full> {
        self.loads.try_send(request).map_err(|_| Full)
    }

    /// Frees a model after the batches ordered before; ends in `Evicted`.
    pub(crate) fn evict(&self, name: Arc<str>) -> Result<(), Full> {
        self.orders.try_send(Order::Evict { name }).map_err(|_| Full)
    }

    /// Runs a batch: there and then if it is brief and nothing is ahead of it, else on the executor's thread, which ends
    /// in an event `Finished`.
    pub(crate) fn run(&self, batch: HostBatch) -> Result<Option<Finished>, Full> {
        if let Some(mut device) = self.idle_device()
            && device.backend.is_brief(&batch)
        {
            return Ok(Some(device.run(batch)));
        }
        self.queue(batch)
    }

    /// Runs a batch on the executor's thread, however brief.
    pub(crate) fn queue(&self, batch: HostBatch) -> Result<Option<Finished>, Full> {
        self.orders.try_send(Order::Run(batch)).map_err(|_| Full)?;
        Ok(None)
    }

    /// The device, if no thread is at it and no order waits.
    fn idle_device(&self) -> Option<MutexGuard<'_, Device<B>>> {
        let device = self.device.get()?.try_lock().ok()?;
        (self.orders.is_empty() && device.flight.is_empty()).then_some(device)
    }

    /// What happened next, or none if the executor has ended.
    pub(crate) async fn event(&self) -> Option<Event> {
        self.events.recv_async().await.ok()
    }
}

/// The backend and what runs on it.
#[derive(Debug)]
struct Device<B: Backend> {
    backend: B,
    /// Launched batches, oldest first.
    flight: VecDeque<Flight<B::Ticket>>,
    /// When the device finished its last batch.
    free_since: Instant,
    /// Up to which of the backend's moves of weights is known what was moved, and what is not there since.
    moves_seen: u64,
    absent: Vec<Arc<str>>,
}

/// A launched batch.
#[derive(Debug)]
struct Flight<T> {
    ticket: T,
    report: Report,
}

/// What is known of a batch before its results are.
#[derive(Debug)]
struct Report {
    batch: HostBatch,
    started: Instant,
    rows: u64,
    tokens: u64,
    cancelled: u64,
    /// Results of items that were not computed.
    settled: Vec<ItemResult>,
}

/// The executor's thread.
struct Thread<'a, B: Backend> {
    device: &'a Mutex<Device<B>>,
    orders: flume::Receiver<Order<B::Prepared>>,
    events: flume::Sender<Event>,
}

impl<B: Backend> Thread<'_, B> {
    /// Until every order is done and nobody can give another.
    fn run(self) {
        let mut pace = Pace::Idle;
        while let Ok(order) = self.next_order(pace) {
            let mut device = self.device();
            if let Some(event) = order.and_then(|order| device.obey(order)) {
                self.tell(event);
            }
            // What a batch brought in is told before the batch has ended.
            if let Some(absent) = device.news_of_weights() {
                self.tell(Event::Weights { absent });
            }
            while let Some(finished) = device.collect() {
                self.tell(Event::Finished(finished));
            }
            pace = device.pace();
        }
    }

    /// None when it is time to look at the batches in flight instead.
    fn next_order(&self, pace: Pace) -> Result<Option<Order<B::Prepared>>, Ended> {
        match pace {
            Pace::Idle => return self.orders.recv().map(Some).map_err(|_| Ended),
            Pace::Full => thread::sleep(POLL_EVERY),
            Pace::Busy => match self.orders.recv_timeout(POLL_EVERY) {
                Ok(order) => return Ok(Some(order)),
                Err(flume::RecvTimeoutError::Timeout) => {}
                // That does not end it while batches are in flight; they are collected first.
                Err(flume::RecvTimeoutError::Disconnected) => thread::sleep(POLL_EVERY),
            },
        }
        Ok(None)
    }

    fn device(&self) -> MutexGuard<'_, Device<B>> {
        // A panic while the lock was held ended this thread, or was caught where a model made it.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody listens only when the process is on its way out.
    fn tell(&self, event: Event) {
        let _: Result<(), flume::SendError<Event>> = self.events.send(event);
    }
}

/// What the executor's thread does between two looks at the device.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// Nothing is in flight: wait for an order.
    Idle,
    /// Take an order if there is one.
    Busy,
    /// No order could be carried out.
    Full,
}

impl<B: Backend> Device<B> {
    fn new(backend: B) -> Self {
        Self { backend, flight: VecDeque::new(), free_since: Instant::now(), moves_seen: 0, absent: Vec::new() }
    }

    fn pace(&self) -> Pace {
        match self.flight.len() {
            0 => Pace::Idle,
            flying if flying >= self.backend.depth() => Pace::Full,
            _ => Pace::Busy,
        }
    }

    /// Models whose weights are not on the device, if these are others than before.
    fn news_of_weights(&mut self) -> Option<Vec<Arc<str>>> {
        let absent = self.backend.absent(&mut self.moves_seen).filter(|absent| *absent != self.absent)?;
        self.absent.clone_from(&absent);
        Some(absent)
    }

    fn obey(&mut self, order: Order<B::Prepared>) -> Option<Event> {
        match order {
            Order::Run(batch) => self.start(batch).map(Event::Finished),
            Order::Install { name, prepared, card } => Some(match self.backend.install(&name, prepared) {
                Ok(()) => Event::Ready { name, card },
                Err(error) => Event::unloaded(name, &error),
            }),
            Order::Evict { name } => {
                self.backend.evict(&name);
                Some(Event::Evicted { name })
            }
        }
    }

    /// Runs a brief batch to its end, on an idle device.
    fn run(&mut self, batch: HostBatch) -> Finished {
        let mut finished = self.start(batch);
        loop {
            match finished {
                Some(finished) => return finished,
                None => finished = self.collect(),
            }
        }
    }

    /// Launches a batch; one that fails at that, or of which nothing is to be computed, is finished already.
    fn start(&mut self, batch: HostBatch) -> Option<Finished> {
        let (report, live) = Report::open(batch, Instant::now());
        if live.is_empty() {
            return Some(report.finish(Ok(Vec::new()), Duration::ZERO, None));
        }
        match caught(|| self.backend.launch(&report.batch, &live)) {
            Ok(ticket) => {
                self.flight.push_back(Flight { ticket, report });
                None
            }
            Err(error) => Some(self.close(report, Err(error), None)),
        }
    }

    /// The oldest batch in flight, if it is done.
    fn collect(&mut self) -> Option<Finished> {
        let mut flight = self.flight.pop_front()?;
        match caught(|| self.backend.poll(&mut flight.ticket).transpose()) {
            Ok(None) => {
                self.flight.push_front(flight);
                None
            }
            Ok(Some(results)) => {
                let page_in = self.backend.page_in(&flight.ticket, self.since(&flight.report));
                Some(self.close(flight.report, Ok(results), page_in))
            }
            Err(error) => Some(self.close(flight.report, Err(error), None)),
        }
    }

    /// Ends a batch the device spent time on. With several in flight, each is charged from the end of the one before.
    fn close(
        &mut self,
        report: Report,
        outcome: Result<Vec<ItemResult>, BatchError>,
        page_in: Option<PageIn>,
    ) -> Finished {
        let now = Instant::now();
        let taken = now.saturating_duration_since(self.since(&report));
        self.free_since = now;
        let compute = taken.saturating_sub(page_in.as_ref().map_or(Duration::ZERO, |page_in| page_in.taken));
        report.finish(outcome, compute, page_in)
    }

    /// When the device came to a batch.
    fn since(&self, report: &Report) -> Instant {
        report.started.max(self.free_since)
    }
}

/// Nobody can give another order.
struct Ended;

impl Report {
    /// Sorts a batch's items into those to compute, which are returned, and those already settled.
    fn open(batch: HostBatch, now: Instant) -> (Self, Vec<u32>) {
        let mut live = Vec::with_capacity(batch.items.len());
        let mut settled = Vec::new();
        let mut cancelled = 0;
        for (index, item) in (0u32..).zip(&batch.items) {
            if batch.cancelled.is_set(index as usize) {
                cancelled += 1;
            } else if item.deadline.is_some_and(|deadline| deadline <= now) {
                settled.push(ItemResult { index, outcome: Err(ItemError::Deadline) });
            } else {
                if !item.traceparent.is_empty() {
                    tracing::debug!(batch = batch.key.batch, index, traceparent = %item.traceparent, "runs");
                }
                live.push(index);
            }
        }
        let tokens = live.iter().map(|&index| u64::from(batch.tokens(index as usize))).sum();
        let rows = live.len() as u64;
        (Self { batch, started: now, rows, tokens, cancelled, settled }, live)
    }

    fn finish(
        self,
        outcome: Result<Vec<ItemResult>, BatchError>,
        compute: Duration,
        page_in: Option<PageIn>,
    ) -> Finished {
        let Self { batch, started, rows, tokens, cancelled, mut settled } = self;
        let outcome = outcome.map(|results| {
            settled.extend(results);
            settled.sort_unstable_by_key(|result| result.index);
            settled
        });
        let waited = started.saturating_duration_since(batch.arrived);
        Finished { key: batch.key, waited, compute, page_in, rows, tokens, cancelled, outcome }
    }
}

/// Turns a panic into a failed batch.
fn caught<T>(work: impl FnOnce() -> Result<T, BatchError>) -> Result<T, BatchError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        tracing::error!(message, "a model panicked");
        Err(BatchError::Device(format!("the model panicked: {message}")))
    })
}

/// What a panic said, if it said it in words.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
