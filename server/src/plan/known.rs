//! What models' batches take, and on what: as it was said, as servers found it out before, as a running one has, as a
//! `synthetic` source states it, the first of them that there is.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use shoal_scheduler::BatchCost;

use crate::config::{Config, CpuIsa, Device, ModelConfig};
use crate::driver::{CostKey, KeptCost};
use crate::models::{Dtype, Source, Store, Synthetic, sha256_of};

/// What a batch takes, and who says so.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Known {
    #[serde(skip)]
    pub cost: BatchCost,
    /// Who says so.
    pub from: Origin,
    /// Batches that taught it, where it was learned before.
    pub batches: Option<u64>,
    /// What it computes in, where it was learned before.
    pub dtype: Option<String>,
}

/// Who says what a batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A flag.
    Flag,
    /// Servers that ran it before.
    Learned,
    /// The server whose metrics are read.
    Server,
    /// The source itself.
    Stated,
}

/// What is known on one kind of device.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OnDevice {
    /// As workers call it; none where nothing that counts was learned on any.
    pub(super) device: Option<String>,
    /// By model.
    pub(super) known: BTreeMap<String, Known>,
}

/// What is known from elsewhere than files, by model.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// By flags.
    pub(super) flags: BTreeMap<String, BatchCost>,
    /// By a running server.
    pub(super) server: BTreeMap<String, BatchCost>,
}

/// What is known of the configured models on each kind of device that something was learned on, in order of their names;
/// `on` leaves those out whose name does not have it.
///
/// # Errors
/// When that leaves none.
pub(super) fn on_devices(
    config: &Config,
    store: &Store,
    kept: &[(CostKey, KeptCost)],
    told: &Told,
    on: Option<&str>,
) -> Result<Vec<OnDevice>, NoDevice> {
    let of_models: Vec<(&ModelConfig, Vec<&(CostKey, KeptCost)>)> = config
        .models
        .iter()
        .map(|model| {
            (
                model,
                if told.flags.contains_key(model.name.as_str()) { Vec::new() } else { of(model, config, store, kept) },
            )
        })
        .collect();
    let all: BTreeSet<&str> = of_models.iter().flat_map(|(_, kept)| kept.iter().map(|(key, _)| &*key.device)).collect();
    let has = |device: &str, on: &str| device.to_lowercase().contains(&on.to_lowercase());
    let devices: Vec<Option<&str>> = match on {
        Some(on) => all.iter().copied().filter(|device| has(device, on)).map(Some).collect(),
        None if all.is_empty() => vec![None],
        None => all.iter().copied().map(Some).collect(),
    };
    if devices.is_empty() {
        let known: Vec<String> = all.iter().map(|device| format!("`{device}`")).collect();
        return Err(NoDevice { on: on.unwrap_or_default().to_owned(), known: known.join(", ") });
    }
    let on_device = |device: Option<&str>| {
        let known = of_models.iter().filter_map(|(model, kept)| {
            let here = kept.iter().filter(|(key, _)| Some(&*key.device) == device);
            // As a worker chooses among what `auto` may be; then the one that is known best.
            let best = here.max_by_key(|(key, cost)| (&*key.dtype == Dtype::Bf16.as_str(), cost.batches));
            Some((model.name.as_str().to_owned(), known(model, best.copied(), told)?))
        });
        OnDevice { device: device.map(str::to_owned), known: known.collect() }
    };
    Ok(devices.into_iter().map(on_device).collect())
}

/// What was learned of a model before, on anything that the configuration allows.
fn of<'k>(
    model: &ModelConfig,
    config: &Config,
    store: &Store,
    kept: &'k [(CostKey, KeptCost)],
) -> Vec<&'k (CostKey, KeptCost)> {
    if kept.is_empty() {
        return Vec::new();
    }
    let weights = match &model.source {
        Source::Synthetic(curve) => Some(format!("synthetic:{curve}")),
        Source::Echo => Some("echo".to_owned()),
        source => sha256_of(source, store).map(|digest| digest.to_string()),
    };
    let is_it = |key: &CostKey, cost: &KeptCost| match &weights {
        Some(weights) => key.weights == *weights,
        // Its files are with workers elsewhere: what it was called is all there is to go by.
        None => *cost.model == *model.name.as_str(),
    };
    let is_of_dtype = |key: &CostKey| match model.dtype {
        Dtype::Auto => [Dtype::F32, Dtype::Bf16].iter().any(|dtype| *dtype.as_str() == *key.dtype),
        dtype => *dtype.as_str() == *key.dtype,
    };
    let is_of_device = |key: &CostKey| match config.device {
        Device::Auto => true,
        device => key.device.starts_with(&device.to_string()),
    };
    let is_of_isa = |key: &CostKey| match config.cpu_isa {
        CpuIsa::Auto => true,
        CpuIsa::Portable => key.backend != "cpu",
        isa => key.instructions.is_empty() || key.instructions == isa.as_str(),
    };
    let fits = |(key, cost): &&(CostKey, KeptCost)| {
        is_it(key, cost) && is_of_dtype(key) && is_of_device(key) && is_of_isa(key)
    };
    kept.iter().filter(fits).collect()
}

fn known(model: &ModelConfig, kept: Option<&(CostKey, KeptCost)>, told: &Told) -> Option<Known> {
    let name = model.name.as_str();
    let from = |from: Origin, cost: BatchCost| Known { cost, from, batches: None, dtype: None };
    if let Some(cost) = told.flags.get(name) {
        return Some(from(Origin::Flag, *cost));
    }
    if let Some((key, kept)) = kept {
        let (batches, dtype) = (Some(kept.batches), Some(key.dtype.to_string()));
        return Some(Known { cost: kept.cost, from: Origin::Learned, batches, dtype });
    }
    if let Some(cost) = told.server.get(name) {
        return Some(from(Origin::Server, *cost));
    }
    match &model.source {
        Source::Synthetic(curve) => Some(from(Origin::Stated, stated(curve))),
        _ => None,
    }
}

/// What a `synthetic` source says of itself. A floor is taken to lie under one row, and what larger batches have of it
/// to be added, which is at most too much.
fn stated(curve: &Synthetic) -> BatchCost {
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let floor = curve.floor.saturating_sub(curve.per_row);
    BatchCost {
        base_ns: nanos(curve.base.max(floor)),
        row_ns: nanos(curve.per_row),
        token_ps: nanos(curve.per_token).saturating_mul(1_000),
        token_squared_fs: (curve.nanos_per_token_squared * 1e6) as u64,
    }
}

/// No device that is known is called so.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("--on: nothing was learned on a device called `{on}`{}", if known.is_empty() { String::new() } else { format!(", but on {known}") })]
pub struct NoDevice {
    on: String,
    known: String,
}
