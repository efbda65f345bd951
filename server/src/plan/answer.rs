//! The numbers: what each model needs of the workers, how many are needed, and what breaks first.

use std::time::Duration;

use serde::Serialize;
use shoal_scheduler::BatchCost;
use shoal_scheduler::plan::{Demand, Law, growth, load, rate_alone, safe_growth, safe_workers, whole};

use super::known::Known;

/// A model, what is asked of it, and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub(super) name: String,
    pub(super) slo: Duration,
    /// Rows a second.
    pub(super) rate: f64,
    /// Tokens of the mean row; all are taken to be as long.
    pub(super) tokens: f64,
    /// Rows of the largest batch.
    pub(super) batch_rows_max: u64,
    pub(super) known: Known,
}

/// The answer for one kind of device. Its JSON has these fields under these names, where what is infinite is `null`; fields
/// may be added, none is renamed. Models whose objective cannot be kept count in none of its sums.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// What workers compute on; `null` where costs are only stated.
    pub device: Option<String>,
    /// For how many workers the rest is said.
    pub workers: u64,
    /// That number was given, and is not only what is needed.
    pub is_given: bool,
    pub needed: Needed,
    /// How many times as high all rates can be on `workers`.
    pub growth: Growth,
    /// Whose objective breaks first then; `null` when nobody asks.
    pub first: Option<String>,
    pub models: Vec<ModelAnswer>,
}

/// Workers that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Needed {
    /// If every batch were full: with fewer nothing helps.
    pub full: f64,
    /// By the fluid law: with fewer even evenly spaced arrivals are late.
    pub fluid: f64,
    /// For 99 % of Poisson arrivals on time; `null` when it is beyond all measure.
    pub safe: Option<u64>,
}

/// Factors of all rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// Until full batches do not suffice.
    pub full: f64,
    /// Until an objective breaks by the fluid law.
    pub fluid: f64,
    /// With 99 % of Poisson arrivals on time.
    pub safe: f64,
}

/// What is said of one model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelAnswer {
    pub name: String,
    pub slo_us: u64,
    pub rate: f64,
    pub tokens: f64,
    #[serde(flatten)]
    pub known: Known,
    /// What every batch takes, and what one more mean row does.
    pub batch_us: f64,
    pub row_us: f64,
    /// What one row takes by itself.
    pub one_row_us: f64,
    /// Whether that is within the objective.
    pub can_be_kept: bool,
    /// Rows of the largest batch that takes no longer than the objective, and what it takes.
    pub full_batch_rows: u64,
    pub full_batch_us: f64,
    /// Workers that it needs by the fluid law.
    pub needs: f64,
    /// Rows of the largest batches that it may have by the fluid law at this rate, and the time from one to the next.
    pub batch_rows: f64,
    pub batch_every_us: f64,
    /// Rows a second at which an objective breaks by the fluid law on `workers`, if only this rate grows.
    pub alone_breaks_at: f64,
}

impl Answer {
    /// For so many workers, or for as many as are needed.
    pub(super) fn new(device: Option<String>, given: &[Given], workers: Option<u64>) -> Self {
        // What can never be kept is left out of what can.
        let possible = |demand: Demand| if demand.can_be_kept() { demand } else { demand.at_rate(0.0) };
        let demands: Vec<Demand> = given.iter().map(|given| possible(given.demand())).collect();
        let needed =
            Needed { full: load(&demands, Law::Full), fluid: load(&demands, Law::Fluid), safe: safe_workers(&demands) };
        let count = workers.or(needed.safe).unwrap_or_else(|| whole(needed.fluid.min(1e9))).max(1);
        let growth = Growth {
            full: growth(&demands, Law::Full, count as f64),
            fluid: growth(&demands, Law::Fluid, count as f64),
            safe: safe_growth(&demands, count),
        };
        let alone = |place| rate_alone(&demands, place, Law::Fluid, count as f64);
        let models = given.iter().enumerate();
        Self {
            device,
            workers: count,
            is_given: workers.is_some(),
            needed,
            growth,
            first: first(given, &demands),
            models: models.map(|(place, given)| ModelAnswer::new(given, alone(place))).collect(),
        }
    }

    /// The models whose objective no number of workers keeps.
    pub fn impossible(&self) -> impl Iterator<Item = &ModelAnswer> {
        self.models.iter().filter(|model| !model.can_be_kept)
    }
}

impl ModelAnswer {
    fn new(given: &Given, alone_breaks_at: f64) -> Self {
        let demand = given.demand();
        let (full, batches) = (demand.full_batch_rows(), demand.batches());
        Self {
            name: given.name.clone(),
            slo_us: u64::try_from(given.slo.as_micros()).unwrap_or(u64::MAX),
            rate: given.rate,
            tokens: given.tokens,
            known: given.known.clone(),
            batch_us: demand.base * 1e6,
            row_us: demand.row * 1e6,
            one_row_us: demand.time(1.0) * 1e6,
            can_be_kept: demand.can_be_kept(),
            full_batch_rows: full,
            full_batch_us: demand.time(full as f64) * 1e6,
            needs: demand.load(Law::Fluid),
            batch_rows: batches.rows,
            batch_every_us: batches.every * 1e6,
            alone_breaks_at,
        }
    }
}

impl Given {
    fn demand(&self) -> Demand {
        let BatchCost { base_ns, row_ns, token_ps, token_squared_fs } = self.known.cost;
        let tokens = self.tokens * token_ps as f64 / 1e3;
        let squared = self.tokens * self.tokens * token_squared_fs as f64 / 1e6;
        Demand {
            base: base_ns as f64 / 1e9,
            row: (row_ns as f64 + tokens + squared) / 1e9,
            objective: self.slo.as_secs_f64(),
            batch_rows_max: self.batch_rows_max,
            rate: self.rate,
        }
    }
}

/// Who is late first when rates grow: of those that are asked who has the least time to wait, and of equal ones who is
/// asked most, as the scheduler runs first who must start first.
fn first(given: &[Given], demands: &[Demand]) -> Option<String> {
    let slack = |demand: &Demand| demand.objective - demand.time(1.0);
    let asked = given.iter().zip(demands).filter(|(_, demand)| demand.rate > 0.0);
    let least =
        asked.min_by(|(_, one), (_, other)| slack(one).total_cmp(&slack(other)).then(other.rate.total_cmp(&one.rate)));
    least.map(|(given, _)| given.name.clone())
}
