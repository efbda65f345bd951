//! Who asks for what: streams of requests, merged in order of time.

use std::time::Duration;

use shoal_scheduler::{Class, Cost, ModelId, TenantId, Timestamp};

use super::{Gaps, Lengths, Process, Scenario};
use crate::rng::Rng;

/// Requests of one kind.
#[derive(Clone, Debug)]
pub struct Stream {
    /// When they arrive.
    pub process: Process,
    /// So many a second on average.
    pub rate: f64,
    /// What for.
    pub models: Choice,
    /// From whom.
    pub tenants: Tenants,
    /// How urgent.
    pub class: Class,
    /// How long.
    pub lengths: Lengths,
    /// How long after its arrival a client gives up; `None` for never.
    pub deadline: Option<Duration>,
    /// Requests of one call: as many as from the first number to the second, each as often.
    pub call: (u32, u32),
    /// How often a client that is refused asks again, each time after as long as it was told to wait.
    pub retries: u32,
}

/// Which model a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Any, by the models' shares.
    Shares,
    /// This one.
    One(ModelId),
}

/// Which tenant a request is from: one of `count` from `first` on, each as often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenants {
    /// The first of them.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// One request, as a client sends it.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// When it arrives.
    pub at: Timestamp,
    /// What for.
    pub model: ModelId,
    /// From whom.
    pub tenant: TenantId,
    /// How urgent.
    pub class: Class,
    /// What it asks of a worker.
    pub cost: Cost,
    /// The client's deadline.
    pub deadline: Option<Timestamp>,
    /// Whether it breaks every batch it is in. The core is not told.
    pub is_poison: bool,
    /// How many more of its call follow at once.
    pub mates: u32,
    /// How often it is asked again if it is refused.
    pub retries: u32,
}

impl Choice {
    /// Whether a request may be for this model.
    pub fn may_be(self, model: ModelId) -> bool {
        self == Self::Shares || self == Self::One(model)
    }
}

impl Stream {
    /// Poisson arrivals of standard requests without tokens or deadline, from one tenant, over all models.
    pub fn poisson(rate: f64) -> Self {
        Self {
            process: Process::Poisson,
            rate,
            models: Choice::Shares,
            tenants: Tenants { first: 1, count: 1 },
            class: Class::Standard,
            lengths: Lengths::Fixed(0),
            deadline: None,
            call: (1, 1),
            retries: 0,
        }
    }
}

/// All requests of a scenario in order of time.
#[derive(Debug)]
pub struct Traffic {
    streams: Vec<Source>,
    /// The last request of a call of which more follow, and the stream it is of.
    open: Option<(usize, Ask)>,
    /// Shares of the models, summed up.
    shares: Vec<f64>,
    models: Vec<ModelId>,
    poison_per_mille: u64,
    end: Timestamp,
}

#[derive(Debug)]
struct Source {
    stream: Stream,
    gaps: Gaps,
    rng: Rng,
    next: Timestamp,
}

impl Traffic {
    /// The requests of a scenario.
    pub fn new(scenario: &Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed);
        let source = |stream: &Stream| {
            let calls = stream.rate * 2.0 / f64::from(stream.call.0 + stream.call.1);
            let mut gaps = Gaps::new(stream.process, calls, rng.fork());
            let next = Timestamp::from_nanos(gaps.next().unwrap_or(u64::MAX));
            Source { stream: stream.clone(), gaps, rng: rng.fork(), next }
        };
        let streams = scenario.traffic.iter().map(source).collect();
        let mut sum = 0.0;
        let mut add = |share: f64| {
            sum += share;
            sum
        };
        Self {
            streams,
            open: None,
            shares: scenario.models.iter().map(|model| add(model.share)).collect(),
            models: scenario.models.iter().map(|model| model.id).collect(),
            poison_per_mille: scenario.faults.poison_per_mille,
            end: Timestamp::ZERO + scenario.duration,
        }
    }
}

impl Iterator for Traffic {
    type Item = Ask;

    fn next(&mut self) -> Option<Ask> {
        let (at, ask) = match self.open.take() {
            Some((at, ask)) => (at, self.mate(at, ask)?),
            None => self.first()?,
        };
        self.open = (ask.mates > 0).then_some((at, ask));
        Some(ask)
    }
}

impl Traffic {
    /// The first request of the next call, and the stream it is of.
    fn first(&mut self) -> Option<(usize, Ask)> {
        // Of equal times the first stream's; there are few streams.
        let (place, source) = self.streams.iter_mut().enumerate().min_by_key(|(_, source)| source.next)?;
        let at = source.next;
        if at >= self.end {
            return None;
        }
        source.next = Timestamp::from_nanos(source.gaps.next().unwrap_or(u64::MAX));
        let model = match source.stream.models {
            Choice::One(model) => model,
            Choice::Shares => {
                let drawn = source.rng.unit() * self.shares.last()?;
                let place = self.shares.partition_point(|sum| *sum < drawn);
                *self.models.get(place)?
            }
        };
        let cost = source.cost();
        let (stream, rng) = (&source.stream, &mut source.rng);
        let tenant = TenantId(stream.tenants.first + rng.between_u32(0, stream.tenants.count - 1));
        let is_poison = is_poison(rng, self.poison_per_mille);
        let (least, most) = stream.call;
        let mates = if least < most { rng.between_u32(least, most) } else { most } - 1;
        let (class, retries, deadline) = (stream.class, stream.retries, stream.deadline.map(|patience| at + patience));
        Some((place, Ask { at, model, tenant, class, cost, deadline, is_poison, mates, retries }))
    }

    /// The one after this in its call.
    fn mate(&mut self, at: usize, ask: Ask) -> Option<Ask> {
        let source = self.streams.get_mut(at)?;
        let cost = source.cost();
        let is_poison = is_poison(&mut source.rng, self.poison_per_mille);
        Some(Ask { cost, is_poison, mates: ask.mates - 1, ..ask })
    }
}

impl Source {
    /// What a request asks of a worker.
    fn cost(&mut self) -> Cost {
        let tokens = self.stream.lengths.draw(&mut self.rng);
        let (bytes, tokens_squared) = (u64::from(tokens) * 4, u64::from(tokens) * u64::from(tokens));
        Cost { rows: 1, tokens, tokens_squared, bytes }
    }
}

fn is_poison(rng: &mut Rng, per_mille: u64) -> bool {
    per_mille > 0 && rng.per_mille(per_mille)
}
