//! The driver's loop and the handle to it: the only way in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shoal_scheduler::GroupId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::call::{Answer, Call, CallError};
use crate::explain::Report;

use super::event::Event;
use super::{Driver, ModelSettings, PoolStanding};
use crate::failpoints::Gate;

/// Events waiting for the driver; senders wait for a place beyond that.
const EVENTS_MAX: usize = 4096;
/// Events handled before timers are looked at again.
const EVENTS_PER_TURN: usize = 256;

/// The way to the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    events: mpsc::Sender<Event>,
    /// Apart from `events`, because a caller that goes away cannot wait for a place. Bounded by the calls admitted.
    cancels: mpsc::UnboundedSender<GroupId>,
    next_request: Arc<AtomicU64>,
}

/// The driver's end of [`Handle`].
#[derive(Debug)]
pub struct Inbox {
    events: mpsc::Receiver<Event>,
    cancels: mpsc::UnboundedReceiver<GroupId>,
}

impl Handle {
    /// A handle and the inbox it fills.
    pub fn new() -> (Self, Inbox) {
        let (events, events_in) = mpsc::channel(EVENTS_MAX);
        let (cancels, cancels_in) = mpsc::unbounded_channel();
        let handle = Self { events, cancels, next_request: Arc::new(AtomicU64::new(1)) };
        (handle, Inbox { events: events_in, cancels: cancels_in })
    }

    /// Runs a call. Dropping the future cancels it.
    ///
    /// # Errors
    /// One [`CallError`] for each way a call can end without an answer.
    pub async fn submit(&self, call: Call) -> Result<Answer, CallError> {
        let first = self.next_request.fetch_add(call.rows.len() as u64, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        // Declared before `answer` is moved into it, so that the reply is closed before the cancel is sent.
        let mut guard = CancelOnDrop { answer, group: GroupId(first), cancels: self.cancels.clone(), armed: true };
        let gone = || CallError::Internal { what: "the driver ended".into() };
        self.events.send(Event::Submit { first, call, reply }).await.map_err(|_| gone())?;
        let result = (&mut guard.answer).await;
        guard.armed = false;
        result.map_err(|_| gone())?
    }

    /// Makes these all the models.
    pub async fn configure(&self, models: Vec<ModelSettings>) {
        let (done, known) = oneshot::channel();
        self.tell(Event::Configure { models, done }).await;
        // An error means that the driver ended, which its own thread reports.
        let _ = known.await;
    }

    /// Has a model loaded, or unloaded. Its state in the registry says when that is done.
    pub async fn want(&self, model: &str, wanted: bool) {
        let (done, known) = oneshot::channel();
        self.tell(Event::Want { model: model.into(), wanted, done }).await;
        let _ = known.await;
    }

    /// A call waits for a model that nobody can be asked for yet. One that is loaded when it is called is loaded now.
    pub async fn awaited(&self, model: &Arc<str>) {
        self.tell(Event::Awaited { model: model.clone() }).await;
    }

    /// A call ended because there is no model to ask.
    pub async fn gave_up(&self, model: &Arc<str>, error: &CallError) {
        self.tell(Event::GaveUp { model: model.clone(), error: error.clone() }).await;
    }

    /// How a pool of workers stands, for these models, or for those that it holds when none are named. `None` when the
    /// driver is too busy to say in time.
    pub async fn pool(&self, pool: Arc<str>, models: Vec<Arc<str>>, patience: Duration) -> Option<PoolStanding> {
        let (done, standing) = oneshot::channel();
        let ask = async {
            self.tell(Event::Pool { pool, models, done }).await;
            standing.await.ok()
        };
        tokio::time::timeout(patience, ask).await.ok()?
    }

    /// Refuses new calls, and returns when the last one is answered or `grace` is over.
    pub async fn drain(&self, grace: Duration) {
        let (done, drained) = oneshot::channel();
        self.tell(Event::Drain { grace, done }).await;
        // An error means that the driver ended, and everything with it.
        let _ = drained.await;
    }

    /// Has what was learned kept, unless that takes too long.
    pub async fn keep_costs(&self, patience: Duration) {
        let (done, kept) = oneshot::channel();
        let ask = async {
            self.tell(Event::KeepCosts { done }).await;
            let _ = kept.await;
        };
        // The next server learns it anew then.
        let _ = tokio::time::timeout(patience, ask).await;
    }

    /// Brings the gauges up to date, unless the driver is too busy to answer in time.
    pub async fn measure(&self, patience: Duration) {
        let (done, measured) = oneshot::channel();
        let ask = async {
            self.tell(Event::Measure { done }).await;
            let _ = measured.await;
        };
        // Old gauges are better than no page.
        let _ = tokio::time::timeout(patience, ask).await;
    }

    /// How things stand: of one model, if one is named, with so many of the calls that have waited longest. `None` when
    /// the driver is too busy to say in time.
    pub async fn explain(&self, model: Option<Arc<str>>, calls_max: usize, patience: Duration) -> Option<Report> {
        let (done, told) = oneshot::channel();
        let ask = async {
            self.tell(Event::Explain { model, calls_max, done }).await;
            told.await.ok()
        };
        tokio::time::timeout(patience, ask).await.ok().flatten()
    }

    /// Tells the driver that something happened. After its end nobody listens, which is no news to the teller.
    pub async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }
}

#[cfg(test)]
impl Inbox {
    /// The next event, for a test that stands in for the driver.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

/// Cancels its call unless that has ended.
struct CancelOnDrop {
    answer: oneshot::Receiver<Result<Answer, CallError>>,
    group: GroupId,
    cancels: mpsc::UnboundedSender<GroupId>,
    armed: bool,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if self.armed {
            // Closed first: should the cancel overtake the submission, the driver sees that nobody waits.
            self.answer.close();
            let _ = self.cancels.send(self.group);
        }
    }
}

/// Runs the driver until every handle is gone.
pub async fn drive(mut driver: Driver, mut inbox: Inbox) {
    let mut batch = Vec::with_capacity(EVENTS_PER_TURN);
    let mut gate = Gate::default();
    loop {
        let wake = driver.next_wake();
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Arms only fetch; what to do about it is decided below, by a function that a test can call.
        tokio::select! {
            biased;
            Some(group) = inbox.cancels.recv() => driver.cancel(Instant::now(), group),
            count = inbox.events.recv_many(&mut batch, EVENTS_PER_TURN) => {
                if count == 0 {
                    return;
                }
                for event in batch.drain(..) {
                    gate.pass(event, |event| driver.apply(Instant::now(), event));
                }
            }
            () = timer => driver.tick(Instant::now()),
        }
        if wake.is_some_and(|at| at <= Instant::now()) {
            driver.tick(Instant::now());
        }
    }
}
