//! What a run is made of: everything that is drawn before it begins.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use shoal_scheduler::{BatchCost, Budget, Class, Limits, ModelConfig, ModelId, OnLate, PolicyConfig, ProbeRow};

use crate::faults::{Faults, Strike};
use crate::rng::Rng;
use crate::worker::Profile;
use crate::workload::{Nature, Workload};

/// A run, not yet begun.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub limits: Limits,
    /// All models there may be; those configured at first and after each change are drawn from them.
    pub models: Vec<ModelConfig>,
    /// Changes of the configuration, and the mean time between two.
    /// What the server knows of what models cost, or may find out; told each time a worker has loaded one.
    pub knowledge: BTreeMap<ModelId, Knowledge>,
    pub changes: u64,
    pub change_gap_mean: Duration,
    pub workers: Vec<Profile>,
    pub workload: Workload,
    pub faults: Faults,
    /// One way between server and worker.
    pub latency: (Duration, Duration),
    /// How long a worker is away after it went, and how many in a thousand never come back.
    pub away: (Duration, Duration),
    pub lost_per_mille: u64,
    /// When the server shuts down, and how long that may take.
    pub drain: Option<(Duration, Duration)>,
}

/// What the server knows of what a model costs.
#[derive(Clone, Copy, Debug)]
pub enum Knowledge {
    /// What it was found to cost before, or somewhere else.
    Cost(BatchCost),
    /// Nothing, but what its rows may look like.
    Row(ProbeRow),
}

impl Plan {
    /// Draws parameters, and which faults there are at all: a fault that is always there hides what another one would
    /// show.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        // From a stream of its own: what else a seed draws stays what it was.
        let mut aside = Rng::new(seed.rotate_left(32) ^ rng.clone().bits());
        let models: Vec<_> = (1..=rng.between_u32(1, 4)).map(|id| draw_model(&mut rng, ModelId(id))).collect();
        let rows_max = rng.between_u32(1, 4);
        let offers: Vec<_> = models.iter().map(|model| model.id).collect();
        let workers = (0..rng.between(1, 4)).map(|_| draw_profile(&mut rng, &offers, rows_max)).collect();
        Self {
            seed,
            limits: draw_limits(&mut rng),
            knowledge: draw_knowledge(&mut aside, &offers),
            changes: if rng.per_mille(300) { rng.between(1, 6) } else { 0 },
            change_gap_mean: ms(rng.between(5, 200)),
            workers,
            workload: draw_workload(&mut rng, &offers, rows_max),
            faults: draw_faults(&mut rng),
            latency: (ms(0), us(rng.between(1, 3_000))),
            away: (ms(1), ms(rng.between(2, 300))),
            lost_per_mille: if rng.per_mille(200) { 200 } else { 0 },
            drain: rng.per_mille(400).then(|| (ms(rng.between(1, 1_000)), ms(rng.between(0, 500)))),
            models,
        }
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

fn non_zero(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

/// A model; a change of the configuration draws it anew.
pub(crate) fn draw_model(rng: &mut Rng, id: ModelId) -> ModelConfig {
    // From a stream of its own: what else a seed draws stays what it was.
    let mut aside = Rng::new(rng.clone().bits());
    let is_fixed = rng.per_mille(600);
    let policy = if aside.per_mille(400) {
        PolicyConfig::Learned {
            wait_price: *aside.pick(&[0, 1, 16]),
            waits_when_idle: aside.per_mille(300),
            on_late: *aside.pick(&[OnLate::Serve, OnLate::Shed]),
        }
    } else if is_fixed {
        PolicyConfig::Fixed
    } else {
        let mut preferred_rows: Vec<_> = (0..rng.below(3)).map(|_| non_zero(rng.between_u32(2, 16))).collect();
        preferred_rows.sort_unstable();
        PolicyConfig::Triton { queue_delay_max: us(rng.between(0, 30_000)), preferred_rows }
    };
    ModelConfig {
        id,
        objective: ms(rng.between(1, 200)),
        queue_requests_max: non_zero(rng.between_u32(5, 200)),
        queue_time_max: if rng.per_mille(20) { Duration::ZERO } else { ms(rng.between(20, 3_000)) },
        batch_time_max: ms(rng.between(300, 1_000)),
        batch_rows_max: non_zero(rng.between_u32(3, 32)),
        batch_tokens_max: non_zero(rng.between_u32(200, 4_000)),
        policy,
        cost: None,
    }
}

/// In half of the worlds nothing.
fn draw_knowledge(rng: &mut Rng, models: &[ModelId]) -> BTreeMap<ModelId, Knowledge> {
    let is_there = rng.per_mille(500);
    let draw = |id: &ModelId| {
        let knowledge = match rng.below(4) {
            0 => return None,
            // Whatever it says.
            1 => Knowledge::Cost(BatchCost {
                base_ns: rng.between(0, 50_000_000),
                row_ns: rng.between(0, 5_000_000),
                token_ps: rng.between(0, 50_000_000),
                token_squared_fs: rng.between(0, 10_000_000),
            }),
            _ => Knowledge::Row(ProbeRow {
                tokens_max: *rng.pick(&[0, 20, 200]),
                row_bytes: rng.between_u32(0, 100),
                token_bytes: 4,
                time: ms(rng.between(0, 5)),
            }),
        };
        Some((*id, knowledge))
    };
    if is_there { models.iter().filter_map(draw).collect() } else { BTreeMap::new() }
}

fn draw_limits(rng: &mut Rng) -> Limits {
    let is_tight = rng.per_mille(300);
    // From a stream of its own: what else a seed draws stays what it was. More than a server ever has, or few would be seen.
    let hedges_per_mille = *Rng::new(rng.clone().bits()).pick(&[0, 20, 200, 1_000]);
    let mut limit = |tight: u32| if is_tight { rng.between_u32(2, tight) } else { 10_000 };
    Limits {
        tenant_requests_max: limit(30),
        class_requests_max: limit(60),
        queue_bytes_max: u64::from(limit(40)) * 1_000,
        attempts_max: NonZeroU16::new(if is_tight { 1 } else { 3 }).unwrap_or(NonZeroU16::MIN),
        workers_are_shared: false,
        hedges_per_mille,
    }
}

fn draw_profile(rng: &mut Rng, models: &[ModelId], rows_max: u32) -> Profile {
    let offers: Vec<_> = models.iter().copied().filter(|_| rng.per_mille(800)).collect();
    Profile {
        offers: if offers.is_empty() { models.to_vec() } else { offers },
        slots: rng.between_u32(1, 3),
        budget: Budget {
            rows: rng.between_u32(1, 40),
            tokens: rng.between_u32(20, 4_000),
            bytes: rng.between(100, 20_000),
        },
        budget_jitter_per_mille: if rng.per_mille(500) { 600 } else { 0 },
        batch_base: us(rng.between(100, 5_000)),
        batch_per_row: us(rng.between(0, 1_000)),
        batch_per_token: us(rng.between(0, 10)),
        load_time: ms(rng.between(0, 50)),
        // One request alone always fits, unless it is in its nature not to.
        memory_rows: if rng.per_mille(300) { rng.between_u32(rows_max, 12) } else { u32::MAX },
        streams: rng.per_mille(500),
    }
}

fn draw_workload(rng: &mut Rng, models: &[ModelId], rows_max: u32) -> Workload {
    use Nature::{Breaks, Crashes, Hangs, Mutes, Refused, TooBig};
    let mut models = models.to_vec();
    if rng.per_mille(50) {
        models.push(ModelId(99)); // no such model
    }
    let bad = [Refused, Breaks, Mutes, Crashes, Hangs, TooBig].into_iter().filter(|_| rng.per_mille(350)).collect();
    let classes: Vec<_> = Class::ALL.into_iter().filter(|_| rng.per_mille(700)).collect();
    Workload {
        calls: rng.between(5, 60),
        gap_mean: us(*rng.pick(&[200, 1_000, 5_000, 20_000])),
        group_max: rng.between(1, 6),
        rows_max,
        tokens_max: *rng.pick(&[0, 20, 200]),
        tenants: rng.between_u32(1, 4),
        models,
        classes: if classes.is_empty() { vec![Class::Standard] } else { classes },
        deadline_per_mille: *rng.pick(&[0, 300, 1_000]),
        deadline: (ms(0), ms(rng.between(2, 500))),
        cancel_per_mille: *rng.pick(&[0, 0, 200]),
        cancel_after_max: ms(rng.between(0, 60)),
        bad_per_mille: *rng.pick(&[0, 20, 100, 300]),
        bad,
    }
}

fn draw_faults(rng: &mut Rng) -> Faults {
    if rng.per_mille(150) {
        return Faults::default();
    }
    let strikes: Vec<_> = Strike::ALL.into_iter().filter(|_| rng.per_mille(250)).collect();
    let strikes_max = if strikes.is_empty() { 0 } else { rng.between(1, 12) };
    let mut sometimes = |per_mille: u64| if rng.per_mille(250) { per_mille } else { 0 };
    let (device_per_mille, mute_per_mille, echo_per_mille) = (sometimes(80), sometimes(30), sometimes(200));
    let (load_fail_per_mille, reversal_per_mille, regrant_per_mille) = (sometimes(300), sometimes(20), sometimes(100));
    let timer_slack_max = us(sometimes(5_000));
    Faults {
        strikes,
        strike_gap_mean: ms(rng.between(2, 100)),
        strikes_max,
        device_per_mille,
        mute_per_mille,
        echo_per_mille,
        load_fail_per_mille,
        loses_last_words: rng.per_mille(250),
        delivers_late: rng.per_mille(250),
        timer_slack_max,
        reversal_per_mille,
        regrant_per_mille,
    }
}
