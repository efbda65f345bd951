//! The state machine that owns everything.
//!
//! This file is the frame: time, the dispatch of inputs, the maintenance after each. What an input does is in the file
//! of its subject below; the tables it works on know nothing of each other.

mod apart;
mod config;
mod deadlines;
mod expiry;
mod explain;
mod hedging;
mod intake;
mod invariants;
mod late;
mod paging;
mod placement;
mod places;
mod probes;
mod recovery;
mod replies;
mod sharing;
mod suspects;
#[cfg(test)]
mod tests;
mod waits;
mod workers;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

use crate::admission::Admission;
use crate::bids::Bids;
use crate::company::Company;
use crate::demand::Demand;
use crate::fleet::Fleet;
use crate::hedges::Hedges;
use crate::inflight::InFlight;
use crate::model::Model;
use crate::model_set::ModelSet;
use crate::probes::Calibration;
use crate::requests::Requests;
use crate::{Class, Input, Limits, ModelId, Output, Timestamp, Wake, WorkerId};

/// Decides which requests run where, and when.
///
/// # How it is built
///
/// One owner, no locks, no clock, no I/O. The driver tells it what happened with [`handle`](Self::handle), takes all
/// [`Output`]s with [`poll_output`](Self::poll_output) and carries them out, then sleeps until
/// [`poll_timeout`](Self::poll_timeout) or the next event. Every call of `handle` does the same six things:
///
/// 1. Time moves. Requests whose deadline or queue time has passed end, wherever they are.
/// 2. The input changes the tables. No input dispatches anything by itself: that is what makes batches.
/// 3. A batch that has run for too long takes its worker with it.
///    One that is slow makes its worker suspect.
/// 4. While a model has work and a worker that holds it has a credit, a batch is formed *then*, from everything queued
///    at that instant, and sent.
///    Then workers that are still idle run slow batches a second time.
/// 5. A drain that has nothing left, or no time left, ends.
/// 6. Workers that have nothing else to do run probes of models that nobody knows yet.
///
/// The state is five tables. A request is in exactly one place at a time, and only `places` moves it:
///
/// | table | keeps |
/// |---|---|
/// | `requests` | every live request: where it is, whose, when it expires |
/// | `models` | configuration, policy and queue of each model |
/// | `admission` | what is queued per tenant, class and byte, and how fast it went lately |
/// | `fleet` | workers, the models they hold, their credits, what their memory was found to hold |
/// | `inflight` | batches with workers, and which of them is overdue when |
///
/// # Which batch is next
///
/// Requests of a model are ordered by class, then by the earlier of their deadline and their arrival plus the model's
/// objective, then by id; those whom the policy gave up as late come after all others. Among models the one that must
/// start first goes first, on a worker where it is not late, with the fewest batches and rows outstanding. One that had to
/// give requests up, or is late where nobody is given up, waits for those that must start before the next worker is free;
/// of several such the one goes first that got least of the workers' time. A worker that has passed over late requests for
/// 16 batches gives them the next. A worker that has run 8 batches past waiting standard requests, or 16 past bulk ones,
/// gives the next batch's lead to that class. So nobody starves, and a backlog does not hold up who is on time.
/// A head that does not fit what is left of the budget closes the batch; it is never skipped. A head that exceeds the
/// whole budget runs alone.
///
/// # Several schedulers
///
/// Workers that serve other schedulers as well give no credits ([`Limits::workers_are_shared`]): one that is held would
/// keep a worker idle that others want. Instead of dispatching, the core says what is wanted of each worker
/// ([`Output::Bid`]), and forms a batch when it is given a turn ([`Input::WorkerTurn`]), at once or not at all. Whoever has
/// something of the turn's model gets the same turn, and what all send runs as one batch. How much the others had waiting
/// comes with the turn: they are taken to put the same part of it into the batch that is taken here.
/// [`Arbiter`](crate::Arbiter) is the worker's side. What others may have broken accuses nobody here: only what failed in
/// a batch by itself is guilty.
///
/// # What happens when a batch fails
///
/// What a worker could have been running when it crashed, hung or reported a broken item is suspect: the requests
/// without a result are halved, and each half runs apart from everything else until the culprit is alone: no other batch is
/// with its worker meanwhile, so that nobody else is there to be blamed. When it is a part's turn and no worker is idle, the
/// one whose turn it is gets nothing new until it is through, and then the part. What was lost
/// from outside, or was still behind another batch, is innocent: it goes back to its old place in the queue.
/// A request fails for losses only when it was lost `attempts_max` times.
///
/// A request may be in two batches, a slow one and its hedge. The first result ends it, and the other worker is told that
/// nobody wants it any more. When one of the two fails or is lost the other carries on, and nothing is made of it.
#[derive(Debug)]
pub struct Scheduler {
    /// The latest time ever told.
    now: Timestamp,
    requests: Requests,
    models: BTreeMap<ModelId, Model>,
    admission: Admission,
    fleet: Fleet,
    inflight: InFlight,
    hedges: Hedges,
    /// Which worker is held for parts of failed batches of a model.
    held: BTreeMap<ModelId, WorkerId>,
    /// Of the workers' time.
    demand: Demand,
    /// Whether workers serve other schedulers as well.
    is_sharing: bool,
    /// What workers were told is wanted of them, if they serve others as well.
    bids: Bids,
    /// What others put into the batch that is being formed.
    company: Company,
    /// Models whose cost is being found out.
    calibrations: BTreeMap<ModelId, Calibration>,
    /// Models of which something changed in this call. Empty between calls.
    stirred: ModelSet,
    /// Of them those that the lists of workers do not show as they are, because no worker is free that would ask.
    unlisted: ModelSet,
    /// Models that have a request which can still be on time.
    active: usize,
    /// What the model had got of the workers' time that was served last of those that must give requests up. Who must
    /// begins with as much: nobody saves up time by not asking for it.
    fair: Duration,
    /// Models whose policy waits, and that a worker in time, or a faster one, would suit better than those that are free.
    seeking: BTreeSet<ModelId>,
    /// When a policy wants to look again, by time; the same as every model's `wake`.
    wakes: BTreeSet<(Timestamp, ModelId)>,
    drain: Drain,
    outputs: VecDeque<Output>,
    replies_dropped: u64,
    clock_reversals: u64,
}

/// How far a shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    Until(Timestamp),
    Done,
}

/// How much of everything there is right now, and two counts of what went wrong since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests queued, by class in the order of [`Class::ALL`].
    pub queued_by_class: [u64; Class::ALL.len()],
    /// Bytes of payload queued.
    pub bytes_queued: u64,
    /// Requests with workers.
    pub running: u64,
    /// Batches with workers.
    pub batches: u64,
    /// Workers connected.
    pub workers: u64,
    /// Credits not spent.
    pub credits: u64,
    /// Of the workers those that are suspect: a batch of theirs was slow, and they have not shown since that they are well.
    pub suspects: u64,
    /// Batches run a second time since the start, beside the first, because that was slow.
    pub hedged: u64,
    /// Replies dropped since the start because they were stale: of an old epoch, a batch that ended, a request that
    /// nobody waits for any more.
    pub replies_dropped: u64,
    /// How often since the start the driver's time went backwards and was held.
    pub clock_reversals: u64,
}

impl Counts {
    /// Requests queued, of all classes.
    pub fn queued(&self) -> u64 {
        self.queued_by_class.iter().sum()
    }
}

/// How much is queued for one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Requests.
    pub requests: u64,
    /// Rows.
    pub rows: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes of payload.
    pub bytes: u64,
    /// The time of a worker that all of it takes in large batches; zero while nobody knows what they cost.
    pub work: Duration,
    /// When the oldest of them arrived. The driver's clock says how long ago that is.
    pub oldest: Option<Timestamp>,
}

impl Scheduler {
    /// A scheduler with no models and no workers.
    pub fn new(limits: Limits) -> Self {
        Self {
            now: Timestamp::ZERO,
            requests: Requests::default(),
            models: BTreeMap::new(),
            admission: Admission::new(limits),
            fleet: Fleet::default(),
            inflight: InFlight::default(),
            hedges: Hedges::new(limits.hedges_per_mille),
            held: BTreeMap::new(),
            demand: Demand::default(),
            is_sharing: limits.workers_are_shared,
            bids: Bids::default(),
            company: Company::NONE,
            calibrations: BTreeMap::new(),
            stirred: ModelSet::default(),
            unlisted: ModelSet::default(),
            active: 0,
            fair: Duration::ZERO,
            seeking: BTreeSet::new(),
            wakes: BTreeSet::new(),
            drain: Drain::No,
            outputs: VecDeque::new(),
            replies_dropped: 0,
            clock_reversals: 0,
        }
    }

    /// Takes in one event. Afterwards [`poll_output`](Self::poll_output) must be drained, and
    /// [`poll_timeout`](Self::poll_timeout) asked again.
    ///
    /// A `now` before the last one is held at the last one and counted.
    ///
    /// # Panics
    ///
    /// Panics when a group or request is submitted under an id that is in use. Ids are the driver's own; to go on
    /// would be to give one request the answer of another.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        if now < self.now {
            self.clock_reversals += 1;
        }
        self.now = self.now.max(now);
        self.expire();
        self.apply(input);
        self.maintain();
    }

    /// The next thing to do, in order. To be asked until it says `None` after every [`handle`](Self::handle).
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back with [`Input::Tick`] if nothing happens before, and why. Always later than the last `now`.
    pub fn poll_timeout(&self) -> Option<(Timestamp, Wake)> {
        let expiry = self.requests.first_expiry().map(|(at, _)| (at, Wake::Expiry));
        let overdue = self.inflight.first_overdue().map(|(at, batch)| (at, Wake::BatchOverdue(batch)));
        let slow = self.inflight.first_slow().map(|(at, batch)| (at, Wake::BatchSlow(batch)));
        let policy = self.wakes.first().map(|(at, model)| (*at, Wake::Policy(*model)));
        let drain = match self.drain {
            Drain::Until(deadline) => Some((deadline, Wake::DrainDeadline)),
            Drain::No | Drain::Done => None,
        };
        let wakes = [expiry, overdue, slow, policy, drain].into_iter().flatten();
        wakes.filter(|(at, _)| *at != Timestamp::MAX).min_by_key(|(at, _)| *at)
    }

    /// Numbers for metrics, cheap enough to take after every event.
    pub fn counts(&self) -> Counts {
        let queued_by_class = self.admission.queued_by_class();
        Counts {
            queued_by_class,
            bytes_queued: self.admission.bytes_queued(),
            running: self.requests.len() as u64 - queued_by_class.iter().sum::<u64>(),
            batches: self.inflight.len() as u64,
            workers: self.fleet.connected().count() as u64,
            credits: self.fleet.credits() as u64,
            suspects: u64::from(self.fleet.suspects()),
            hedged: self.hedges.count(),
            replies_dropped: self.replies_dropped,
            clock_reversals: self.clock_reversals,
        }
    }

    /// Numbers of one model's queue; `None` when no such model is configured.
    pub fn queue(&self, model: ModelId) -> Option<QueueCounts> {
        let model = self.models.get(&model)?;
        let (queue, totals) = (&model.queue, model.queue.totals());
        Some(QueueCounts {
            requests: totals.requests,
            rows: totals.rows,
            tokens: totals.tokens,
            bytes: totals.bytes,
            work: if queue.is_empty() { Duration::ZERO } else { model.time_asked(totals.size()) },
            oldest: queue.oldest(),
        })
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::SubmitGroup(group) => self.submit(group),
            Input::Cancel(group) => self.cancel(group),
            Input::WorkerUp { worker, epoch, device, models } => self.worker_up(worker, epoch, device, models),
            Input::WorkerOffers { worker, epoch, models } => self.worker_offers(worker, epoch, &models),
            Input::WorkerCredit { worker, epoch, slot, budget } => self.worker_credit(worker, epoch, slot, budget),
            Input::WorkerTurn(turn) => self.take_turn(turn),
            Input::BatchBegun { worker, epoch, batch, attempt, others, waited } => {
                self.batch_begun((worker, epoch, batch, attempt), others, waited);
            }
            Input::ItemDone { worker, epoch, batch, attempt, request, outcome } => {
                self.item_done((worker, epoch, batch, attempt), request, outcome);
            }
            Input::PagedIn { worker, epoch, batch, attempt, taken } => {
                self.paged_in((worker, epoch, batch, attempt), taken);
            }
            Input::Weights { worker, epoch, absent } => self.weights_told(worker, epoch, absent),
            Input::BatchEnd { worker, epoch, batch, attempt, compute: _ } => {
                self.batch_end((worker, epoch, batch, attempt));
            }
            Input::BatchFailed { worker, epoch, batch, attempt, reason } => {
                self.batch_failed((worker, epoch, batch, attempt), reason);
            }
            Input::WorkerDown { worker, epoch, cause } => self.worker_down(worker, epoch, cause),
            Input::ModelState { worker, epoch, model, state } => self.model_state(worker, epoch, model, state),
            Input::CostKnown { model, cost } => self.cost_known(model, cost),
            Input::Calibrate { model, row } => self.calibrate(model, row),
            Input::ConfigChanged(models) => self.config_changed(models),
            Input::Drain { deadline } => self.start_drain(deadline),
            Input::Tick => {}
        }
    }

    /// Brings every input to the same end state, whatever it was.
    fn maintain(&mut self) {
        self.replace_overdue();
        self.suspect_slow();
        self.wake_policies();
        self.dispatch();
        self.hedge();
        // A queue time of zero ends at once what found no worker at once.
        self.expire();
        self.continue_drain();
        // Policies that waited for what just ended must be asked again.
        self.dispatch();
        self.send_probes();
    }
}
