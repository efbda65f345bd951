//! What models cost: looked up when a worker has loaded one, found out by probes where nothing is known, kept for the
//! next start. The core learns; here is what it cannot do, which is to remember and to make rows up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use shoal_scheduler::{BatchCost, Input, LearnedCost, ModelId, PolicyConfig, Probe, ProbeRow, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Driver;
use super::event::{Batch, BatchRow, ToWorker};
use super::models::{Model, ModelReport};
use crate::call::{DataType, RowOptions, Trace};
use crate::card::{Card, TYPE_IDS};
use crate::failpoints::are_probes_dropped;
use crate::models::Place;

/// How often what was learned is looked at, to be kept.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// Batches that must have taught it.
const KEEP_SAMPLES_MIN: u64 = 8;
/// It is kept anew when some batch takes longer or less by more than one part in so many.
const KEEP_PARTS: u64 = 20;

/// What costs depend on: the same model computes at other costs in another type, or on another device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CostKey {
    /// SHA-256 of the weights; how it is written, for a model without weights.
    pub weights: String,
    /// What it runs on.
    pub device: Arc<str>,
    /// What it computes in.
    pub dtype: Arc<str>,
    /// Which backend runs it, with which instructions.
    pub backend: String,
    pub instructions: String,
}

/// What is kept under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptCost {
    /// What the model was called, for people.
    pub model: Arc<str>,
    /// What its batches cost.
    pub cost: BatchCost,
    /// How many of them taught that.
    pub batches: u64,
}

/// An errand about costs, for whoever owns the disk. They are run in order.
#[derive(Debug)]
pub enum CostErrand {
    /// Find what is kept under a key; answered with [`Event::Cost`](super::Event::Cost).
    Find { model: Arc<str>, key: CostKey },
    /// Keep this in its place.
    Keep { key: CostKey, cost: KeptCost },
    /// Say when all errands before this one were run.
    Flush { done: oneshot::Sender<()> },
}

/// What the driver keeps in mind of what is on disk.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    kept: BTreeMap<CostKey, BatchCost>,
    next: Option<Instant>,
}

impl Driver {
    /// A worker holds a model that nobody knows: something may have been found of it before.
    pub(super) fn look_up_cost(&mut self, id: ModelId, device: &Arc<str>, card: &Card) {
        let Some(model) = self.models.get_mut(id) else { return };
        if self.core.cost(id).is_some() || model.is_cost_looked_up {
            return;
        }
        let name = model.settings.name.clone();
        match key(model, device, card) {
            Some(key) => {
                model.is_cost_looked_up = true;
                let _ = self.around.costs.send(CostErrand::Find { model: name, key });
            }
            None => self.follow_ups.extend(calibration(id, model)),
        }
    }

    /// What was found before, if anything was.
    pub(super) fn cost_looked_up(&mut self, now: Instant, name: &str, key: CostKey, found: Option<KeptCost>) {
        let Some(id) = self.models.id(name) else { return };
        let Some(model) = self.models.get_mut(id) else { return };
        model.is_cost_looked_up = false;
        let input = match found {
            Some(KeptCost { cost, batches, .. }) => {
                let text = in_words(&cost);
                info!(model = name, device = %key.device, "known from before: {text} ({batches} batches)");
                model.warn_of_objective(&cost);
                self.keeping.kept.insert(key, cost);
                Some(Input::CostKnown { model: id, cost })
            }
            None => calibration(id, model),
        };
        if let Some(input) = input {
            self.feed(now, input, None);
        }
    }

    /// Sends a batch that nobody asked for.
    pub(super) fn probe(&mut self, now: Timestamp, probe: &Probe) {
        let (Some(model), Some(worker)) = (self.models.get(probe.model), self.fleet.by_epoch(probe.epoch)) else {
            return;
        };
        let Some((card, columns)) = model.card.clone().and_then(|card| Some((card.clone(), row(&card, probe.tokens)?)))
        else {
            return;
        };
        if let Some(metrics) = self.model_metrics.get(&probe.model) {
            metrics.probes.inc();
        }
        debug!(batch = probe.batch.0, worker = worker.id.0, rows = probe.rows, tokens = probe.tokens, "probe");
        let made_up = || BatchRow {
            columns: columns.clone(),
            options: RowOptions::default(),
            remaining: None,
            trace: Trace::default(),
        };
        worker.send(ToWorker::Run(Batch {
            batch: probe.batch,
            attempt: probe.attempt,
            epoch: probe.epoch,
            slot: probe.slot,
            model: model.settings.name.clone(),
            card,
            held: worker.spend(probe.slot, now),
            rows: (0..probe.rows).map(|_| made_up()).collect(),
        }));
    }

    /// There are no more probes of a model.
    pub(super) fn calibrated(&mut self, id: ModelId, batches: u32, spent: Duration) {
        let cost = self.core.cost(id).map(|known| known.cost);
        let Some(model) = self.models.get_mut(id) else { return };
        model.is_calibrated = true;
        let (name, seconds) = (&model.settings.name, spent.as_secs_f64());
        if let Some(cost) = &cost {
            model.warn_of_objective(cost);
        }
        match cost {
            Some(cost) if batches > 0 => {
                info!("calibrated {name}: {} ({batches} batches, {seconds:.1} s)", in_words(&cost));
            }
            Some(cost) => info!("{name} needs no more calibration: {}", in_words(&cost)),
            None => info!("could not calibrate {name}: what it costs is learned from its requests"),
        }
        self.keep_costs();
    }

    /// Keeps what was learned, once in a while.
    pub(super) fn keep_costs_at_times(&mut self, now: Instant) {
        match self.keeping.next {
            Some(next) if now < next => {}
            before => {
                self.keeping.next = Some(now + KEEP_EVERY);
                if before.is_some() {
                    self.keep_costs();
                }
            }
        }
    }

    /// Keeps what was learned and is not kept yet: under each key what the first worker of that kind was found to take.
    pub(super) fn keep_costs(&mut self) {
        let mut learned = BTreeMap::<CostKey, KeptCost>::new();
        for (id, model) in self.models.iter() {
            for (worker, report) in &model.workers {
                let (ModelReport::Ready(card), Some(device)) = (report, self.fleet.device_of(*worker)) else {
                    continue;
                };
                let Some(LearnedCost { cost, samples }) = self.core.cost_on(id, *worker) else { continue };
                if samples < KEEP_SAMPLES_MIN {
                    continue;
                }
                if let Some(key) = key(model, device, card) {
                    let kept = KeptCost { model: model.settings.name.clone(), cost, batches: samples };
                    learned.entry(key).or_insert(kept);
                }
            }
        }
        for (key, cost) in learned {
            if self.keeping.kept.get(&key).is_none_or(|kept| is_other(kept, &cost.cost)) {
                self.keeping.kept.insert(key.clone(), cost.cost);
                let _ = self.around.costs.send(CostErrand::Keep { key, cost });
            }
        }
    }

    /// Keeps what was learned, and says when that is done.
    pub(super) fn keep_costs_now(&mut self, done: oneshot::Sender<()>) {
        self.keep_costs();
        // Whoever owns the disk is gone when the server is: then nobody waits either.
        let _ = self.around.costs.send(CostErrand::Flush { done });
    }

    /// Shows what batches cost.
    pub(super) fn measure_costs(&self) {
        for (id, metrics) in &self.model_metrics {
            if let Some(LearnedCost { cost, .. }) = self.core.cost(*id) {
                let (token, squared) = (seconds(cost.token_ps) / 1e3, seconds(cost.token_squared_fs) / 1e6);
                metrics.batch_cost([seconds(cost.base_ns), seconds(cost.row_ns), token, squared]);
            }
        }
    }
}

impl Model {
    /// Says so when one row takes longer than the objective.
    fn warn_of_objective(&self, cost: &BatchCost) {
        let (slo, one) = (self.settings.slo, Duration::from_nanos(nanos(cost, 1, ROW_TOKENS)));
        if one > slo && matches!(self.settings.policy, PolicyConfig::Learned { .. }) {
            let name = &self.settings.name;
            warn!("{name}: its slo of {slo:?} cannot be kept: a row of {ROW_TOKENS} tokens takes {one:.1?} by itself");
        }
    }
}

/// Tokens of a row that is short.
const ROW_TOKENS: u64 = 16;

/// What costs of a model on such a device are kept under; `None` when nothing says which model it is.
fn key(model: &Model, device: &Arc<str>, card: &Card) -> Option<CostKey> {
    let weights = match (&model.settings.place, card.weights_sha256.as_str()) {
        (Some(Place::Synthetic(curve)), "") => format!("synthetic:{curve}"),
        (Some(Place::Echo), "") => "echo".to_owned(),
        (_, "") => return None,
        (_, sha256) => sha256.to_owned(),
    };
    let (device, dtype) = (device.clone(), card.dtype.clone());
    Some(CostKey { weights, device, dtype, backend: card.backend.clone(), instructions: card.instructions.clone() })
}

/// What has a model of which nothing is known calibrated, unless nobody asks, that was tried, or its rows cannot be
/// made up.
fn calibration(id: ModelId, model: &Model) -> Option<Input> {
    let row = probe_row(model.card.as_ref()?)?;
    let is_asked = matches!(model.settings.policy, PolicyConfig::Learned { .. }) && !are_probes_dropped();
    (is_asked && !model.is_calibrated).then_some(Input::Calibrate { model: id, row })
}

/// What rows of a model may look like; `None` when they cannot be made up.
fn probe_row(card: &Card) -> Option<ProbeRow> {
    let bytes = |tokens: u32| row(card, tokens).map(|columns| columns.iter().map(Bytes::len).sum::<usize>());
    let (none, one) = (bytes(0)?, bytes(1)?);
    let [row_bytes, token_bytes] = [none, one - none].map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
    (!card.inputs.is_empty()).then_some(ProbeRow {
        tokens_max: card.tokens_max,
        row_bytes,
        token_bytes,
        time: card.smallest_batch,
    })
}

/// The columns of a row of so many tokens: ids that exist, with a mask among them where the model fills masks, and
/// zeros otherwise.
fn row(card: &Card, tokens: u32) -> Option<Vec<Bytes>> {
    let column = |spec: &crate::card::TensorSpec| {
        let size = spec.data_type.unit_bytes();
        match spec.shape[..] {
            [-1] if card.tokens_max > 0 => Some(match spec.data_type {
                DataType::Bytes => Bytes::from(vec![b'a'; tokens as usize]),
                DataType::I32 if card.vocabulary > 0 && *spec.name != *TYPE_IDS => ids(card, tokens),
                _ => Bytes::from(vec![0; tokens as usize * size]),
            }),
            ref shape if spec.data_type != DataType::Bytes => {
                let elements = shape.iter().try_fold(1_usize, |product, length| {
                    product.checked_mul(usize::try_from(*length).ok()?).filter(|elements| *elements <= ELEMENTS_MAX)
                });
                elements.map(|elements| Bytes::from(vec![0; elements * size]))
            }
            _ => None,
        }
    };
    card.inputs.iter().map(column).collect()
}

/// Elements of a made-up row of fixed shape at most.
const ELEMENTS_MAX: usize = 1 << 20;

/// Token ids from the middle of the vocabulary, where none means anything special.
fn ids(card: &Card, tokens: u32) -> Bytes {
    let half = card.vocabulary / 2;
    let mut ids = BytesMut::with_capacity(tokens as usize * size_of::<u32>());
    for at in 0..tokens {
        let is_mask = !card.mask_token.is_empty() && at == tokens / 2;
        ids.put_u32_le(if is_mask { card.mask_token_id } else { half + at % half.max(1) });
    }
    ids.freeze()
}

/// Whether some batch takes clearly longer or less by the one than by the other.
fn is_other(one: &BatchCost, other: &BatchCost) -> bool {
    [(1, 16), (1, 256), (32, 64)].into_iter().any(|(rows, tokens)| {
        let (one, other) = (nanos(one, rows, tokens), nanos(other, rows, tokens));
        one.abs_diff(other) > one / KEEP_PARTS
    })
}

/// How long a batch of so many rows of so many tokens takes.
fn nanos(cost: &BatchCost, rows: u64, tokens: u64) -> u64 {
    let rows_ns = cost.row_ns.saturating_mul(rows);
    let tokens_ns = cost.token_ps.saturating_mul(rows * tokens) / 1_000;
    let squares_ns = cost.token_squared_fs.saturating_mul(rows * tokens * tokens) / 1_000_000;
    cost.base_ns.saturating_add(rows_ns).saturating_add(tokens_ns).saturating_add(squares_ns)
}

/// "3.1ms a batch, 200.0µs a row, 21.0µs a token": the parts that there are.
pub(super) fn in_words(cost: &BatchCost) -> String {
    let parts = [
        (cost.base_ns as f64, "batch"),
        (cost.row_ns as f64, "row"),
        (cost.token_ps as f64 / 1e3, "token"),
        (cost.token_squared_fs as f64 / 1e6, "squared token"),
    ];
    let in_words = |(nanos, of): (f64, &str)| {
        // Squares take parts of a nanosecond.
        if nanos < 1.0 {
            format!("{:.0}ps a {of}", nanos * 1e3)
        } else {
            format!("{:.1?} a {of}", Duration::from_nanos(nanos as u64))
        }
    };
    let parts: Vec<_> = parts.into_iter().filter(|(nanos, _)| *nanos >= 1e-3).map(in_words).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

/// Of nanoseconds.
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::TensorSpec;

    fn spec(name: &str, data_type: DataType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), data_type, shape: shape.to_vec() }
    }

    fn encoder() -> Card {
        let inputs = vec![spec("input_ids", DataType::I32, &[-1]), spec(TYPE_IDS, DataType::I32, &[-1])];
        Card { tokens_max: 512, vocabulary: 1_000, inputs, ..Card::testing("m") }
    }

    #[test]
    fn rows_of_an_encoder_hold_ids_that_exist() {
        let columns = row(&encoder(), 700).expect("a row");
        let ids = |bytes: &Bytes| -> Vec<u32> {
            bytes.chunks_exact(4).map(|id| u32::from_le_bytes(id.try_into().expect("four bytes"))).collect()
        };
        assert_eq!(columns.len(), 2);
        assert!(ids(&columns[0]).iter().all(|id| (500..1_000).contains(id)));
        assert_eq!(ids(&columns[1]), vec![0; 700]);
        assert_eq!(
            probe_row(&encoder()),
            Some(ProbeRow { tokens_max: 512, row_bytes: 0, token_bytes: 8, time: Duration::ZERO })
        );
        let masked = Card { mask_token: "[MASK]".into(), mask_token_id: 103, ..encoder() };
        let columns = row(&masked, 16).expect("a row");
        assert_eq!(ids(&columns[0]).iter().filter(|id| **id == 103).count(), 1, "one mask to fill");
    }

    #[test]
    fn rows_of_fixed_shape_are_zeros() {
        let card = Card { inputs: vec![spec("image", DataType::F32, &[3, 8, 8])], ..Card::testing("m") };
        assert_eq!(
            probe_row(&card),
            Some(ProbeRow { tokens_max: 0, row_bytes: 768, token_bytes: 0, time: Duration::ZERO })
        );
        assert_eq!(row(&card, 0), Some(vec![Bytes::from(vec![0; 768])]));
    }

    #[test]
    fn rows_that_cannot_be_made_up_are_not() {
        let with = |spec| Card { inputs: vec![spec], ..Card::testing("m") };
        for card in [
            with(spec("x", DataType::F32, &[-1])),
            with(spec("text", DataType::Bytes, &[1])),
            with(spec("x", DataType::F32, &[1 << 40, 1 << 40])),
            Card { inputs: Vec::new(), ..Card::testing("m") },
            Card { inputs: vec![spec("ids", DataType::I32, &[-1]), spec("x", DataType::F32, &[-1, 4])], ..encoder() },
        ] {
            assert_eq!(probe_row(&card), None, "{:?}", card.inputs);
        }
    }

    #[test]
    fn a_twentieth_more_or_less_is_something_else() {
        let cost = BatchCost { base_ns: 1_000_000, row_ns: 10_000, token_ps: 1_000_000, token_squared_fs: 0 };
        assert!(!is_other(&cost, &BatchCost { base_ns: 1_030_000, ..cost }));
        assert!(is_other(&cost, &BatchCost { base_ns: 1_060_000, ..cost }));
        assert!(is_other(&cost, &BatchCost { token_squared_fs: 1_000_000, ..cost }), "what only long rows show");
        assert_eq!(in_words(&cost), "1.0ms a batch, 10.0µs a row, 1.0µs a token");
        let squares = BatchCost { token_squared_fs: 820_000, ..BatchCost::default() };
        assert_eq!(in_words(&squares), "820ps a squared token");
        assert_eq!(in_words(&BatchCost { base_ns: 1_000_000, ..squares }), "1.0ms a batch, 820ps a squared token");
        assert_eq!(in_words(&BatchCost::default()), "nothing");
    }
}
