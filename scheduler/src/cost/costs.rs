//! What batches of one model take, on each of its workers.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::cost::pace::Pace;
use crate::cost::paging::Paging;
use crate::cost::shape::{NEWS_MIN, Shape};
use crate::cost::{Curve, Size};
use crate::{LearnedCost, WorkerId};

/// Batches between two looks at whether the workers together are faster or slower than the curve.
const SETTLE_EVERY: u64 = 16;
/// How much of the difference the curve takes over each time.
const SETTLE_GAIN: f64 = 0.1;
/// How many times slower or faster all workers must have become at once for the curve to take over all of it.
const SETTLE_AT_ONCE: f64 = 1.5;
/// How many times slower or faster than the curve a worker is that teaches it nothing, while others go at its pace.
const OFF_PACE: f64 = 1.5;
/// Batches that taught less than what was known before, whatever that is worth.
const SUPPOSED_BELOW: u64 = 8;

/// The learned times of one model: its curve, and the pace of each worker on it.
///
/// What a batch took is divided by the factor of its worker before the curve learns from it, so that a slow worker does
/// not make the model look slow. The curve and the factors then say only together how high either is: what the middle
/// one of the workers has for a factor belongs to the curve, and is moved there bit by bit. Moving it changes no
/// worker's prediction, only what a worker not heard of starts with.
#[derive(Clone, Debug)]
pub(crate) struct Costs {
    shape: Shape,
    /// Bounded by the caller, who says which workers are gone.
    paces: BTreeMap<WorkerId, Pace>,
    paging: Paging,
    samples: u64,
    /// How far the batches of the worker heard of last stray.
    margin: f64,
    /// Something was known before the first of them.
    has_prior: bool,
    /// It is known from elsewhere, and no batch has ended since.
    is_hearsay: bool,
    /// Room to sort factors in.
    factors: Vec<f64>,
}

impl Costs {
    /// Nothing observed yet. `prior` is what calibration or an earlier run found.
    pub(crate) fn new(prior: Option<Curve>) -> Self {
        Self {
            shape: Shape::new(prior),
            paces: BTreeMap::new(),
            paging: Paging::default(),
            samples: 0,
            margin: Pace::MODEL.high(),
            has_prior: prior.is_some_and(|prior| prior.is_known()),
            is_hearsay: false,
            factors: Vec::new(),
        }
    }

    /// Takes over what is known from elsewhere, unless more was learned already. Says whether it did.
    pub(crate) fn suppose(&mut self, prior: Curve) -> bool {
        let is_taken = self.samples < SUPPOSED_BELOW && prior.is_known();
        if is_taken {
            let paging = core::mem::take(&mut self.paging);
            *self = Self { is_hearsay: true, paging, ..Self::new(Some(prior)) };
        }
        is_taken
    }

    /// Learns that a batch of this size took so long on this worker, once its weights were there. Allocates for a new
    /// worker only.
    pub(crate) fn observe(&mut self, worker: WorkerId, size: Size, taken: Duration) {
        let taken = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX).max(1) as f64;
        self.samples = self.samples.saturating_add(1);
        self.is_hearsay = false;
        let before = self.pace(worker).factor();
        // A worker that is far from the others' pace may have changed since it was heard of last, and be given such sizes
        // only as nobody else is: whatever surprises is its own, and not the model's.
        let is_teaching = !self.is_off_pace(before);
        let news = if is_teaching { self.shape.news(size, taken / before) } else { 0.0 };
        let pace = self.paces.entry(worker).or_insert(Pace::MODEL);
        if self.shape.curve().is_known() {
            pace.observe(taken / self.shape.time(size), news);
            self.margin = pace.high();
        }
        // What a worker takes while its pace changes is not the model's time.
        if is_teaching && (news > NEWS_MIN || !pace.is_changing()) {
            self.shape.learn(size, taken / pace.factor(), news);
        }
        if self.samples.is_multiple_of(SETTLE_EVERY) {
            self.settle();
        }
    }

    /// Whether a worker of this factor is far from the pace that others go at, as far as there are such.
    fn is_off_pace(&self, factor: f64) -> bool {
        let is_usual = |factor: f64| (1.0 / OFF_PACE..=OFF_PACE).contains(&factor);
        !is_usual(factor) && self.paces.values().any(|pace| pace.is_settled() && is_usual(pace.factor()))
    }

    /// Forgets a worker that is gone. If it comes back it starts at the model's pace.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.paces.remove(&worker);
        self.paging.note(worker, true);
    }

    /// Learns that a batch waited so long for the weights to come onto the device.
    pub(crate) fn observe_page_in(&mut self, taken: Duration) {
        self.paging.learn(taken);
    }

    /// Notes whether the weights are on a worker's device. Says whether that is news.
    pub(crate) fn note_weights(&mut self, worker: WorkerId, are_there: bool) -> bool {
        self.paging.note(worker, are_there)
    }

    /// How much longer a batch takes on this worker because its weights are not there.
    pub(crate) fn page_in(&self, worker: WorkerId) -> Duration {
        self.paging.delay(worker)
    }

    /// Whether it is known how much longer, if they are not.
    pub(crate) fn knows_page_in(&self, worker: WorkerId) -> bool {
        self.paging.is_known(worker)
    }

    /// How long such a batch takes on this worker, in the middle, with what its weights take to come there. Zero as long as
    /// the curve is unknown.
    pub(crate) fn expected(&self, worker: WorkerId, size: Size) -> Duration {
        self.with_weights(worker, self.shape.curve().time(size) * self.pace(worker).factor())
    }

    /// The time that all but 2.5 % of such batches stay below on this worker. Zero as long as the curve is unknown.
    pub(crate) fn high(&self, worker: WorkerId, size: Size) -> Duration {
        let pace = self.pace(worker);
        self.with_weights(worker, self.shape.curve().time(size) * pace.factor() * pace.high())
    }

    /// The time that hardly any such batch stays below on this worker. Zero as long as nothing says that of such a size.
    pub(crate) fn least(&self, worker: WorkerId, size: Size) -> Duration {
        let pace = self.pace(worker);
        let low = if self.shape.knows(size) { pace.low() } else { 0.0 };
        duration(self.shape.curve().time(size) * pace.factor() * low)
    }

    /// How long such a batch takes on a worker not heard of, where its weights are. Zero as long as the curve is unknown.
    pub(crate) fn typical(&self, size: Size) -> Duration {
        duration(self.shape.curve().time(size))
    }

    /// Like [`high`](Self::high), on whichever worker: its pace left out, by the margin of the one heard of last.
    pub(crate) fn high_anywhere(&self, size: Size) -> Duration {
        duration(self.shape.curve().time(size) * self.margin)
    }

    /// Whether it has an opinion.
    pub(crate) fn is_known(&self) -> bool {
        self.shape.curve().is_known()
    }

    /// Whether something was known before any batch ended.
    pub(crate) fn has_prior(&self) -> bool {
        self.has_prior
    }

    /// Whether it may be relied on: what is only known from elsewhere may be of another machine, until a batch has
    /// ended.
    pub(crate) fn is_proven(&self) -> bool {
        self.is_known() && !self.is_hearsay
    }

    /// What is known of a worker not heard of.
    pub(crate) fn known(&self) -> Option<LearnedCost> {
        self.is_known().then(|| LearnedCost { cost: self.shape.curve().into(), samples: self.samples })
    }

    /// What was learned of this worker's batches, if it has had any.
    pub(crate) fn learned(&self, worker: WorkerId) -> Option<LearnedCost> {
        let pace = self.paces.get(&worker).filter(|_| self.is_known())?;
        Some(LearnedCost { cost: self.shape.curve().times(pace.factor()).into(), samples: self.samples })
    }

    /// The model's time on a worker not heard of.
    #[cfg(test)]
    pub(crate) fn curve(&self) -> Curve {
        self.shape.curve()
    }

    /// Batches observed.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// With what the weights take to come to the worker, as long as anything is known of the rest.
    fn with_weights(&self, worker: WorkerId, nanos: f64) -> Duration {
        let page_in = if self.is_known() { self.page_in(worker) } else { Duration::ZERO };
        duration(nanos).saturating_add(page_in)
    }

    fn pace(&self, worker: WorkerId) -> &Pace {
        self.paces.get(&worker).unwrap_or(&Pace::MODEL)
    }

    /// Moves to the curve what the workers have in common.
    fn settle(&mut self) {
        self.factors.clear();
        self.factors.extend(self.paces.values().filter(|pace| pace.is_settled()).map(Pace::factor));
        if self.factors.is_empty() {
            return;
        }
        self.factors.sort_unstable_by(f64::total_cmp);
        let len = self.factors.len();
        // Of two in the middle the one nearer to the curve: a change is the model's if two workers agree on it.
        let middle = 1f64.clamp(self.factors[(len - 1) / 2], self.factors[len / 2]);
        let is_sudden = !(1.0 / SETTLE_AT_ONCE..=SETTLE_AT_ONCE).contains(&middle);
        let factor = if is_sudden { middle } else { 1.0 + SETTLE_GAIN * (middle - 1.0) };
        self.shape.scale(factor);
        for pace in self.paces.values_mut() {
            pace.rebase(factor);
        }
    }
}

/// Whole nanoseconds; what is longer than 584 years is 584 years.
fn duration(nanos: f64) -> Duration {
    Duration::from_nanos(nanos as u64)
}
