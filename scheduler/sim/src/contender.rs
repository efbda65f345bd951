//! The policies that are compared: a name, and how each would be set for a model.
//!
//! A policy that needs tuning has several variants. The first is what a user gets who tunes nothing; reports also show
//! the one that did best in the very scenario, which is what a user gets who tunes for nothing else.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use shoal_scheduler::{Baseline, ModelConfig, OnLate, PolicyConfig};

use crate::scenario::ModelSpec;

/// A policy with all the ways to set it that are tried.
#[derive(Debug)]
pub struct Contender {
    /// What it is called.
    pub name: &'static str,
    /// Never empty; the first is the default.
    pub variants: Vec<Variant>,
}

/// A policy, set.
pub struct Variant {
    /// How it is set; empty when there is nothing to set.
    pub label: String,
    configure: Box<dyn Fn(&ModelSpec) -> ModelConfig + Send + Sync>,
}

impl fmt::Debug for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Variant").field(&self.label).finish()
    }
}

impl Contender {
    /// A policy that is set in one way.
    pub fn one(name: &'static str, policy: impl Fn(&ModelSpec) -> PolicyConfig + Send + Sync + 'static) -> Self {
        Self { name, variants: vec![Variant::new("", policy)] }
    }

    /// A policy that is tuned.
    ///
    /// # Panics
    ///
    /// Panics when there is no variant.
    pub fn tuned(name: &'static str, variants: Vec<Variant>) -> Self {
        assert!(!variants.is_empty(), "{name} is set in no way");
        Self { name, variants }
    }
}

impl Variant {
    /// One setting of a policy, everything else as it comes.
    pub fn new(label: impl Into<String>, policy: impl Fn(&ModelSpec) -> PolicyConfig + Send + Sync + 'static) -> Self {
        Self::configured(label, move |model| configure(model, policy(model)))
    }

    /// One setting of everything there is to set for a model.
    pub fn configured(
        label: impl Into<String>,
        configure: impl Fn(&ModelSpec) -> ModelConfig + Send + Sync + 'static,
    ) -> Self {
        Self { label: label.into(), configure: Box::new(configure) }
    }

    /// What the core is told about a model.
    pub fn configure(&self, model: &ModelSpec) -> ModelConfig {
        (self.configure)(model)
    }
}

/// Everybody who competes. To add a policy, add a line.
pub fn contenders() -> Vec<Contender> {
    vec![
        Contender::one("learned", |_| learned(1, false, OnLate::Serve)),
        Contender::one("learned, shed", |_| learned(1, false, OnLate::Shed)),
        Contender::one("learned, latency", |_| learned(0, false, OnLate::Serve)),
        Contender::one("learned, throughput", |_| learned(16, true, OnLate::Serve)),
        Contender::one("fixed", |_| PolicyConfig::Fixed),
        Contender::tuned("triton", tritons()),
        Contender::tuned("tei", teis()),
        Contender::one("bentoml", |_| PolicyConfig::Baseline(Baseline::Bento)),
        Contender::one("clipper", |_| PolicyConfig::Baseline(Baseline::Aimd)),
        Contender::one("last moment", |_| PolicyConfig::Baseline(Baseline::LastMoment)),
        Contender::tuned("nexus", nexus()),
    ]
}

/// A model under a policy, everything else as the server sets it when its user sets nothing.
pub fn configure(model: &ModelSpec, policy: PolicyConfig) -> ModelConfig {
    const QUEUE_REQUESTS_MAX: NonZeroU32 = NonZeroU32::new(32_768).unwrap();
    const BATCH_TOKENS_MAX: NonZeroU32 = NonZeroU32::new(16_384).unwrap();
    const BATCH_ROWS_MAX: NonZeroU32 = NonZeroU32::new(1_024).unwrap();
    ModelConfig {
        id: model.id,
        objective: model.objective,
        queue_requests_max: QUEUE_REQUESTS_MAX,
        queue_time_max: Duration::from_secs(60),
        batch_time_max: Duration::from_secs(60),
        batch_rows_max: BATCH_ROWS_MAX,
        batch_tokens_max: BATCH_TOKENS_MAX,
        policy,
        cost: None,
    }
}

fn learned(wait_price: u32, waits_when_idle: bool, on_late: OnLate) -> PolicyConfig {
    PolicyConfig::Learned { wait_price, waits_when_idle, on_late }
}

/// Sizes chosen beforehand.
fn nexus() -> Vec<Variant> {
    let sizes = [32, 8, 16, 42, 64, 92].into_iter().filter_map(NonZeroU32::new);
    sizes
        .map(|rows| Variant::new(format!("{rows} rows"), move |_| PolicyConfig::Baseline(Baseline::Nexus { rows })))
        .collect()
}

/// Budgets of tokens of text-embeddings-inference, and the requests it takes in at once.
fn teis() -> Vec<Variant> {
    const QUEUE_REQUESTS_MAX: NonZeroU32 = NonZeroU32::new(512).unwrap();
    let budgets = [16_384, 512, 1_024, 2_048, 4_096, 8_192].into_iter().filter_map(NonZeroU32::new);
    let variant = |batch_tokens_max: NonZeroU32| {
        Variant::configured(format!("{batch_tokens_max} tokens"), move |model| ModelConfig {
            batch_tokens_max,
            queue_requests_max: QUEUE_REQUESTS_MAX,
            ..configure(model, PolicyConfig::Fixed)
        })
    };
    budgets.map(variant).collect()
}

/// Triton's delay and preferred sizes as people set them.
fn tritons() -> Vec<Variant> {
    const PREFERRED: [NonZeroU32; 3] =
        [NonZeroU32::new(8).unwrap(), NonZeroU32::new(16).unwrap(), NonZeroU32::new(32).unwrap()];
    let mut variants = Vec::new();
    for delay_ms in [0, 1, 5, 20] {
        for (preferred, named) in [(vec![], ""), (PREFERRED.to_vec(), ", preferred 8 16 32")] {
            let label = format!("delay {delay_ms} ms{named}");
            variants.push(Variant::new(label, move |_| PolicyConfig::Triton {
                queue_delay_max: Duration::from_millis(delay_ms),
                preferred_rows: preferred.clone(),
            }));
        }
    }
    variants
}
