//! Runs batches, one after the other or as many at once as the backend allows. ONE thread owns the backend; a second
//! one reads models, so that loading never stalls serving. Orders come in and events go out through bounded channels.
//!
//! Before a batch starts, items whose deadline has passed are answered so and cancelled ones are dropped; neither is
//! computed. A panic inside a model fails its batch and the executor goes on: a launch only reads installed models
//! (see [`Backend::launch`]), so nothing is left half-written. If the thread itself ever ends, the event channel closes,
//! and the process takes that as its own end.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Compute, PrepareRequest};
use crate::batch::{BatchError, Finished, HostBatch, ItemError, ItemResult};
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
    orders: flume::Sender<Order<B::Prepared>>,
    loads: flume::Sender<PrepareRequest>,
    events: flume::Receiver<Event>,
}

/// What the owning thread is told.
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
}

/// The executor cannot take more, or has ended.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the executor takes no more orders")]
pub(crate) struct Full;

impl<B: Backend + 'static> Executor<B> {
    /// Starts both threads. `open` makes the backend on the thread that will own it.
    pub(crate) fn start(open: impl FnOnce() -> B + Send + 'static, compute: Compute) -> io::Result<Self> {
        let (orders, orders_in) = flume::bounded(ORDERS_MAX);
        let (loads, loads_in) = flume::bounded(LOADS_MAX);
        let (events_out, events) = flume::bounded(EVENTS_MAX);
        let loader = Loader::<B>::new(compute, loads_in, orders.downgrade(), events_out.clone());
        thread::Builder::new().name("shoal-loader".to_owned()).spawn(move || loader.run())?;
        thread::Builder::new().name("shoal-executor".to_owned()).spawn(move || {
            Owner {
                backend: open(),
                orders: orders_in,
                events: events_out,
                flight: VecDeque::new(),
                free_since: Instant::now(),
            }
            .run()
        })?;
        Ok(Self { orders, loads, events })
    }

    /// Reads a model and installs it; ends in `Ready` or `LoadFailed`.
    pub(crate) fn load(&self, request: PrepareRequest) -> Result<(), Full> {
        self.loads.try_send(request).map_err(|_| Full)
    }

    /// Frees a model after the batches ordered before; ends in `Evicted`.
    pub(crate) fn evict(&self, name: Arc<str>) -> Result<(), Full> {
        self.orders.try_send(Order::Evict { name }).map_err(|_| Full)
    }

    /// Runs a batch; ends in `Finished`.
    pub(crate) fn run(&self, batch: HostBatch) -> Result<(), Full> {
        self.orders.try_send(Order::Run(batch)).map_err(|_| Full)
    }

    /// What happened next, or none if the executor has ended.
    pub(crate) async fn event(&self) -> Option<Event> {
        self.events.recv_async().await.ok()
    }
}

/// The thread that owns the backend.
struct Owner<B: Backend> {
    backend: B,
    orders: flume::Receiver<Order<B::Prepared>>,
    events: flume::Sender<Event>,
    /// Launched batches, oldest first.
    flight: VecDeque<Flight<B::Ticket>>,
    /// When the device finished its last batch.
    free_since: Instant,
}

/// A launched batch.
struct Flight<T> {
    ticket: T,
    report: Report,
}

/// What is known of a batch before its results are.
struct Report {
    batch: HostBatch,
    started: Instant,
    rows: u64,
    tokens: u64,
    cancelled: u64,
    /// Results of items that were not computed.
    settled: Vec<ItemResult>,
}

impl<B: Backend> Owner<B> {
    /// Until every order is done and nobody can give another.
    fn run(mut self) {
        loop {
            match self.next_order() {
                Ok(Some(Order::Run(batch))) => self.start(batch),
                Ok(Some(Order::Install { name, prepared, card })) => self.install(name, prepared, card),
                Ok(Some(Order::Evict { name })) => {
                    self.backend.evict(&name);
                    self.tell(Event::Evicted { name });
                }
                Ok(None) => {}
                Err(Ended) => return,
            }
            self.collect();
        }
    }

    /// None when it is time to look at the batches in flight instead.
    fn next_order(&self) -> Result<Option<Order<B::Prepared>>, Ended> {
        if self.flight.is_empty() {
            return self.orders.recv().map(Some).map_err(|_| Ended);
        }
        if self.flight.len() >= self.backend.depth() {
            thread::sleep(POLL_EVERY);
            return Ok(None);
        }
        // A closed channel does not end it while batches are in flight; they are collected first.
        match self.orders.recv_timeout(POLL_EVERY) {
            Ok(order) => Ok(Some(order)),
            Err(flume::RecvTimeoutError::Timeout) => Ok(None),
            Err(flume::RecvTimeoutError::Disconnected) => {
                thread::sleep(POLL_EVERY);
                Ok(None)
            }
        }
    }

    fn install(&mut self, name: Arc<str>, prepared: B::Prepared, card: ModelCard) {
        match self.backend.install(&name, prepared) {
            Ok(()) => self.tell(Event::Ready { name, card }),
            Err(error) => self.tell(Event::LoadFailed { name, reason: error.to_string() }),
        }
    }

    fn start(&mut self, batch: HostBatch) {
        let (report, live) = Report::open(batch, Instant::now());
        if live.is_empty() {
            let settled = Ok(Vec::new());
            return self.finish(report, settled, Duration::ZERO);
        }
        let launched = caught(|| self.backend.launch(&report.batch, &live));
        match launched {
            Ok(ticket) => self.flight.push_back(Flight { ticket, report }),
            Err(error) => self.close(report, Err(error)),
        }
    }

    /// Reports the batches that are done, oldest first.
    fn collect(&mut self) {
        while let Some(mut flight) = self.flight.pop_front() {
            match caught(|| self.backend.poll(&mut flight.ticket).transpose()) {
                Ok(None) => return self.flight.push_front(flight),
                Ok(Some(results)) => self.close(flight.report, Ok(results)),
                Err(error) => self.close(flight.report, Err(error)),
            }
        }
    }

    /// Ends a batch the device spent time on. With several in flight, each is charged from the end of the one before.
    fn close(&mut self, report: Report, outcome: Result<Vec<ItemResult>, BatchError>) {
        let now = Instant::now();
        let compute = now.saturating_duration_since(report.started.max(self.free_since));
        self.free_since = now;
        self.finish(report, outcome, compute);
    }

    fn finish(&self, report: Report, outcome: Result<Vec<ItemResult>, BatchError>, compute: Duration) {
        let Report { batch, started, rows, tokens, cancelled, mut settled } = report;
        let outcome = outcome.map(|results| {
            settled.extend(results);
            settled.sort_unstable_by_key(|result| result.index);
            settled
        });
        let waited = started.saturating_duration_since(batch.arrived);
        self.tell(Event::Finished(Finished { key: batch.key, waited, compute, rows, tokens, cancelled, outcome }));
    }

    /// Nobody listens only when the process is on its way out.
    fn tell(&self, event: Event) {
        let _: Result<(), flume::SendError<Event>> = self.events.send(event);
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
