//! How many workers given rates need, and at which rates objectives break.
//!
//! Two laws say what a model takes of a worker. [`Law::Full`] is what cannot be beaten: every batch is as large as the
//! objective and the budget allow, and nobody waits for it. [`Law::Fluid`] is what evenly spaced arrivals need when nobody
//! may be late: a request that just missed a batch waits for the next one and for that one's time, so that a model needs a
//! batch every `T = (D - β) / (1 + αλ)` seconds, and all of them fit on W workers when `Σ (β + αλD) / (D - β) ≤ W`. A batch
//! has at least one row and at most as many as fit: where that law asks for more batches than there are rows, as it does
//! of models that are rarely asked, the rows are counted instead, and where rows come faster than it asks for batches,
//! full ones.
//!
//! Both are necessary, whichever worker runs what, and neither is enough for arrivals that are not evenly spaced:
//! [`safe_growth`] and [`safe_workers`] say what is left of the second to those of many independent users.
//!
//! Nothing that the scheduler decides comes from here. Like the learned costs this computes with floats, by the operations
//! that IEEE 754 fixes to the bit.

mod poisson;
#[cfg(test)]
mod tests;

pub use poisson::{WORKERS_MAX, safe_growth, safe_workers};

/// Steps of a bisection: to the last bit.
const STEPS: u32 = 100;
/// What sums of rounded numbers may be beyond a limit that they meet.
const ROUNDING: f64 = 1.0 + 1e-12;

/// What is asked of one model, and what its batches take. Times are in seconds on one worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// What every batch takes.
    pub base: f64,
    /// What one more row of mean length takes.
    pub row: f64,
    /// How long an answer may take.
    pub objective: f64,
    /// Rows of the largest batch.
    pub batch_rows_max: u64,
    /// Rows a second.
    pub rate: f64,
}

/// What a model is taken to need of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// Full batches, one after the other: what any server needs at least.
    Full,
    /// Batches as often as evenly spaced arrivals need them to be on time.
    Fluid,
}

/// The batches of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batches {
    /// Rows in each.
    pub rows: f64,
    /// Seconds from one to the next; infinite when nobody asks.
    pub every: f64,
}

impl Demand {
    /// The same model, asked at another rate.
    #[must_use]
    pub const fn at_rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Seconds of a batch of so many rows.
    pub fn time(&self, rows: f64) -> f64 {
        self.base + self.row * rows
    }

    /// Whether a row can be on time if it is alone.
    pub fn can_be_kept(&self) -> bool {
        self.meets_objective(1)
    }

    /// Rows of the largest batch that meets the objective if nobody waits for it; 0 when there is none.
    pub fn full_batch_rows(&self) -> u64 {
        if !self.meets_objective(1) {
            return 0;
        }
        // Division is off by a row where the limit is met to the bit.
        let near = (((self.objective - self.base) / self.row) as u64).clamp(1, self.batch_rows_max.max(1));
        let upwards = near.saturating_add(1);
        if upwards <= self.batch_rows_max && self.meets_objective(upwards) {
            upwards
        } else if self.meets_objective(near) {
            near
        } else {
            near - 1
        }
    }

    /// Seconds of a worker that a row takes in a full batch: no server needs less. Infinite when no batch meets the
    /// objective.
    pub fn row_seconds_min(&self) -> f64 {
        match self.full_batch_rows() {
            0 => f64::INFINITY,
            rows => self.time(rows as f64) / rows as f64,
        }
    }

    /// Workers that it keeps busy; infinite when its objective cannot be kept.
    pub fn load(&self, law: Law) -> f64 {
        if self.rate <= 0.0 {
            return 0.0;
        }
        if !self.can_be_kept() {
            return f64::INFINITY;
        }
        match law {
            Law::Full => self.rate * self.row_seconds_min(),
            Law::Fluid => self.base * self.batches_per_second() + self.row * self.rate,
        }
    }

    /// The batches that the fluid law asks for: any larger ones, and somebody is late.
    pub fn batches(&self) -> Batches {
        let per_second = self.batches_per_second();
        if self.rate <= 0.0 {
            return Batches { rows: 0.0, every: f64::INFINITY };
        }
        Batches { rows: self.rate / per_second, every: 1.0 / per_second }
    }

    fn meets_objective(&self, rows: u64) -> bool {
        self.time(rows as f64) <= self.objective * ROUNDING
    }

    /// Infinite when its objective cannot be kept.
    fn batches_per_second(&self) -> f64 {
        let room = self.objective - self.base;
        if !self.can_be_kept() {
            return f64::INFINITY;
        }
        let asked = (1.0 + self.row * self.rate) / room;
        // As room is at least what a row takes, and there may be nothing that takes time at all.
        let asked = if room > 0.0 { asked.min(self.rate) } else { self.rate };
        asked.max(self.rate / self.full_batch_rows() as f64)
    }
}

/// Workers that all of them keep busy, which is how many are needed; infinite when some objective cannot be kept.
pub fn load(demands: &[Demand], law: Law) -> f64 {
    demands.iter().map(|demand| demand.load(law)).sum()
}

/// So many workers as whole ones.
pub fn whole(workers: f64) -> u64 {
    let below = workers as u64;
    if below as f64 * ROUNDING >= workers { below } else { below.saturating_add(1) }
}

/// How many times as high all rates can be on so many workers before an objective breaks: below 1 when it is broken
/// already, 0 when one can never be kept, infinite when nobody asks for anything.
pub fn growth(demands: &[Demand], law: Law, workers: f64) -> f64 {
    let at = |factor: f64| demands.iter().map(|demand| demand.at_rate(demand.rate * factor).load(law)).sum();
    // Full batches are the least there is, and cost in proportion to the rates.
    largest(workers / load(demands, Law::Full), workers, at)
}

/// Rows a second of the model at this place at which an objective breaks, when the others' rates stay: 0 when they do not
/// fit even without it.
///
/// # Panics
///
/// Panics when there is no such model.
pub fn rate_alone(demands: &[Demand], place: usize, law: Law, workers: f64) -> f64 {
    let demand = demands[place];
    let others = demands.iter().enumerate().filter(|(at, _)| *at != place);
    let left = workers - others.map(|(_, other)| other.load(law)).sum::<f64>();
    if left <= 0.0 || !demand.can_be_kept() {
        return 0.0;
    }
    largest(left / demand.row_seconds_min(), left, |rate| demand.at_rate(rate).load(law))
}

/// The largest number up to `most` at which a load that grows with it fits.
fn largest(most: f64, workers: f64, load: impl Fn(f64) -> f64) -> f64 {
    let fits = |number: f64| load(number) <= workers * ROUNDING;
    if most.is_infinite() || fits(most) {
        return most;
    }
    let (mut below, mut above) = (0.0, most);
    for _ in 0..STEPS {
        let middle = (below + above) / 2.0;
        if fits(middle) { below = middle } else { above = middle }
    }
    below
}
