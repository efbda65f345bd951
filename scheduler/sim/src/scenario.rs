//! What a policy is measured on: models with true costs, workers with true speeds, traffic, and what goes wrong.
//!
//! A scenario says everything about the world and nothing about policies. It is a description: [`play`](crate::play)
//! runs it, [`bound`](crate::bound) says what nobody could beat. Everything drawn at random is drawn from its seed.

mod arrivals;
mod catalog;
mod lengths;
mod traffic;
mod worker;

use std::time::Duration;

use shoal_scheduler::{BatchCost, Cost, ModelId};

pub use arrivals::{Gaps, Process, TwoState};
pub use catalog::{Family, catalog, standard};
pub use lengths::Lengths;
pub use traffic::{Ask, Choice, Stream, Tenants, Traffic};
pub use worker::{Absence, Change, Hang, Told, Weights, WorkerSpec};

use crate::math;

/// One world to measure policies in.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called in reports.
    pub name: String,
    /// The models, numbered by their place.
    pub models: Vec<ModelSpec>,
    /// The workers. Each holds every model.
    pub workers: Vec<WorkerSpec>,
    /// Who asks for what, at which rate.
    pub traffic: Vec<Stream>,
    /// What is wrong with requests and devices.
    pub faults: Faults,
    /// For how long requests arrive. The run goes on until the last of them has its outcome.
    pub duration: Duration,
    /// What everything random is drawn from.
    pub seed: u64,
}

/// One model, as it is. A policy is told its objective and has to learn the rest.
#[derive(Clone, Copy, Debug)]
pub struct ModelSpec {
    /// Its number.
    pub id: ModelId,
    /// The latency objective.
    pub objective: Duration,
    /// What a batch truly costs on a worker of speed factor 1.
    pub curve: Curve,
    /// What is known of it beforehand, if anything: so many times the truth.
    pub prior: Option<f64>,
    /// Its weight in streams that spread over all models.
    pub share: f64,
    /// How long a worker takes to read it into memory.
    pub load: Duration,
}

/// What a batch costs: `base + row·n + token·Σtokens + token²·Σtokens²`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Curve {
    /// Nanoseconds of every batch.
    pub base_ns: u64,
    /// Nanoseconds of a row.
    pub row_ns: u64,
    /// Picoseconds of a token.
    pub token_ps: u64,
    /// Femtoseconds of a squared token: a row of n tokens costs n² of them.
    pub token_squared_fs: u64,
}

/// What is wrong with the world, apart from the speeds of its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Requests in a thousand that break every batch they are in.
    pub poison_per_mille: u64,
    /// Whether they break the device with it, and all that it was given.
    pub poison_breaks_devices: bool,
    /// Tokens (rows, for models without tokens) of the largest batch that fits a device. A larger one fails after its
    /// `base_ns`.
    pub memory_max: Option<u64>,
}

impl From<Curve> for BatchCost {
    fn from(curve: Curve) -> Self {
        let Curve { base_ns, row_ns, token_ps, token_squared_fs } = curve;
        Self { base_ns, row_ns, token_ps, token_squared_fs }
    }
}

impl Curve {
    /// The same shape, `factor` times as high.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        let times = |part: u64| (part as f64 * factor) as u64;
        Self {
            base_ns: times(self.base_ns),
            row_ns: times(self.row_ns),
            token_ps: times(self.token_ps),
            token_squared_fs: times(self.token_squared_fs),
        }
    }

    /// Nanoseconds of a batch, on a worker of speed factor 1.
    pub fn nanos(&self, cost: Cost) -> u64 {
        let tokens = u64::from(cost.tokens) * self.token_ps / 1_000;
        let squared = cost.tokens_squared * self.token_squared_fs / 1_000_000;
        self.base_ns + u64::from(cost.rows) * self.row_ns + tokens + squared
    }

    /// Nanoseconds that one more request of these lengths adds on average.
    pub fn request_ns(&self, lengths: &Lengths) -> f64 {
        let tokens = lengths.mean() * self.token_ps as f64 / 1e3;
        let squared = lengths.mean_squared() * self.token_squared_fs as f64 / 1e6;
        self.row_ns as f64 + tokens + squared
    }
}

impl ModelSpec {
    /// Models of one kind, numbered from 0, asked for equally often.
    pub fn alike(count: u32, objective: Duration, curve: Curve) -> Vec<Self> {
        (0..count)
            .map(|id| Self { id: ModelId(id), objective, curve, prior: None, share: 1.0, load: Duration::ZERO })
            .collect()
    }

    /// Models of one kind of which the n-th is asked for in proportion to n^-`exponent`.
    pub fn zipf(count: u32, exponent: f64, objective: Duration, curve: Curve) -> Vec<Self> {
        let mut models = Self::alike(count, objective, curve);
        for (rank, model) in (1u32..).zip(&mut models) {
            model.share = math::pow(f64::from(rank), -exponent);
        }
        models
    }
}

impl Scenario {
    /// Whether calls are of one request, nobody asks again, and models are in memory at once and for good: all that several
    /// schedulers are played with.
    pub fn is_plain(&self) -> bool {
        let are_loaded = self.models.iter().all(|model| model.load.is_zero())
            && self.workers.iter().all(|worker| worker.weights.is_none());
        are_loaded && self.traffic.iter().all(|stream| stream.call == (1, 1) && stream.retries == 0)
    }

    /// Requests a second on average, of all streams.
    pub fn rate(&self) -> f64 {
        self.traffic.iter().map(|stream| stream.rate).sum()
    }

    /// Requests a second on average by model, in their order.
    pub fn model_rates(&self) -> Vec<f64> {
        let shares: f64 = self.models.iter().map(|model| model.share).sum();
        let mut rates = vec![0.0; self.models.len()];
        for stream in &self.traffic {
            for (rate, model) in rates.iter_mut().zip(&self.models) {
                *rate += match stream.models {
                    Choice::Shares => stream.rate * model.share / shares,
                    Choice::One(id) if id == model.id => stream.rate,
                    Choice::One(_) => 0.0,
                };
            }
        }
        rates
    }

    /// Nanoseconds that one more request of a model adds to a batch on average, over the streams that ask for it.
    pub fn request_ns(&self, model: &ModelSpec) -> f64 {
        let asks = self.traffic.iter().filter(|stream| stream.models.may_be(model.id));
        let (mut sum, mut rates) = (0.0, 0.0);
        for stream in asks {
            sum += stream.rate * model.curve.request_ns(&stream.lengths);
            rates += stream.rate;
        }
        if rates > 0.0 { sum / rates } else { model.curve.row_ns as f64 }
    }

    /// The same with so many requests a second in all; every stream keeps its part.
    #[must_use]
    pub fn at_rate(mut self, rate: f64) -> Self {
        let factor = rate / self.rate();
        for stream in &mut self.traffic {
            stream.rate *= factor;
        }
        self
    }

    /// The largest objective of its models.
    pub fn objective_max(&self) -> Duration {
        self.models.iter().map(|model| model.objective).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURVE: Curve = Curve { base_ns: 2_000_000, row_ns: 100, token_ps: 3_000, token_squared_fs: 800_000 };

    #[test]
    fn a_batch_costs_what_the_curve_says() {
        let cost = Cost { rows: 2, tokens: 300, tokens_squared: 50_000, bytes: 0 };
        assert_eq!(CURVE.nanos(cost), 2_000_000 + 200 + 900 + 40_000);
        assert_eq!(CURVE.request_ns(&Lengths::Fixed(100)), 100.0 + 300.0 + 8_000.0);
    }

    #[test]
    fn shares_of_models_are_those_of_zipf() {
        let models = ModelSpec::zipf(16, 0.9, Duration::from_millis(50), CURVE);
        let ratio = models[0].share / models[15].share;
        assert!((ratio - 12.125).abs() < 0.01, "{ratio}");
    }

    #[test]
    fn rates_add_up_and_scale() {
        let models = ModelSpec::zipf(4, 0.9, Duration::from_millis(50), CURVE);
        let stream = Stream::poisson(100.0);
        let one = Stream { models: Choice::One(ModelId(2)), rate: 50.0, ..stream.clone() };
        let scenario = Scenario {
            name: "two streams".into(),
            models,
            workers: vec![WorkerSpec::default()],
            traffic: vec![stream, one],
            faults: Faults::default(),
            duration: Duration::from_secs(1),
            seed: 1,
        };
        assert!((scenario.model_rates().iter().sum::<f64>() - 150.0).abs() < 1e-9);
        assert!(scenario.model_rates()[2] > 50.0);
        let scaled = scenario.at_rate(300.0);
        assert!((scaled.rate() - 300.0).abs() < 1e-9 && (scaled.traffic[1].rate - 100.0).abs() < 1e-9);
    }
}
