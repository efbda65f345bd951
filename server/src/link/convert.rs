//! Between the link's messages and the server's own words.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost_types::Duration as WireDuration;
use shoal_proto::link as wire;
use shoal_proto::link::limits::{TRACEPARENT_BYTES_MAX, TRACESTATE_BYTES_MAX};
use shoal_scheduler::{Attempt, BatchFailure, BatchId, Budget, Class, Size, Slot, TurnKind};
use tokio::time::Instant;

use crate::call::{DataType, RowOptions, Tensor};
use crate::card::{Card, Task, TensorSpec};
use crate::driver::{Batch, FromWorker, ItemError, ItemResult, ModelReport, Wanted};
use crate::metrics::GpuHealth;
use crate::models::{Place, Synthetic};

/// Names of GPUs have fewer.
const GPU_NAME_CHARS_MAX: usize = 96;

/// A duration as the wire writes it. Those of the server are far below the wire's limit.
pub(super) fn to_wire(duration: Duration) -> WireDuration {
    WireDuration::try_from(duration).unwrap_or_default()
}

/// A duration from the wire; absent and negative ones are zero.
pub(super) fn from_wire(duration: Option<WireDuration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(duration).ok()).unwrap_or_default()
}

/// A batch as the link sends it: rows gathered into columns.
pub(super) fn run(batch: Batch) -> wire::Run {
    let inputs = batch.card.inputs.iter().enumerate();
    let columns = inputs.map(|(index, spec)| column(&batch, index, spec)).chain(targets(&batch)).collect();
    let items = batch
        .rows
        .into_iter()
        .map(|row| wire::Item {
            options: Some(item_options(row.options)),
            remaining_micros: row.remaining.map(|left| i64::try_from(left.as_micros()).unwrap_or(i64::MAX)),
            traceparent: short(row.trace.header(), TRACEPARENT_BYTES_MAX),
            tracestate: short(row.trace.state, TRACESTATE_BYTES_MAX),
        })
        .collect();
    wire::Run {
        batch: batch.batch.0,
        attempt: u32::from(batch.attempt.0),
        epoch: batch.epoch.0,
        slot: batch.slot.0,
        model: batch.model.to_string(),
        columns,
        items,
        held_micros: u64::try_from(batch.held.as_micros()).unwrap_or(u64::MAX),
    }
}

fn item_options(options: RowOptions) -> wire::ItemOptions {
    let RowOptions { normalize, dimensions, raw, top_k, targets: _ } = options;
    wire::ItemOptions { normalize, dimensions, raw, top_k }
}

/// A trace's header, unless it is too long to be carried with every row: half of one would be none.
fn short(header: String, bytes_max: usize) -> String {
    if header.len() <= bytes_max { header } else { String::new() }
}

fn column(batch: &Batch, index: usize, spec: &TensorSpec) -> wire::Column {
    let element = spec.data_type.unit_bytes();
    let mut row_splits = Vec::with_capacity(batch.rows.len() + 1);
    row_splits.push(0);
    let mut end = 0;
    for row in &batch.rows {
        end += row.columns.get(index).map_or(0, Bytes::len);
        // A batch's bytes are bounded by its credit, far below 4 GiB.
        row_splits.push((end / element) as u32);
    }
    let data = match &batch.rows[..] {
        [only] => only.columns.get(index).cloned().unwrap_or_default(),
        rows => {
            let mut data = BytesMut::with_capacity(end);
            rows.iter().filter_map(|row| row.columns.get(index)).for_each(|bytes| data.extend_from_slice(bytes));
            data.freeze()
        }
    };
    wire::Column {
        name: spec.name.to_string(),
        data_type: data_type_to_wire(spec.data_type).into(),
        row_splits,
        size: data.len() as u64,
        data,
        shared_memory: None,
    }
}

/// The token ids to score, where any row has some: a column like the others, since they may be more than fits a frame.
fn targets(batch: &Batch) -> Option<wire::Column> {
    let of_rows = || batch.rows.iter().map(|row| &row.options.targets);
    if of_rows().all(|targets| targets.is_empty()) {
        return None;
    }
    let mut row_splits = vec![0];
    let mut data = BytesMut::new();
    for targets in of_rows() {
        targets.iter().for_each(|target| data.put_u32_le(*target));
        // A batch's bytes are bounded by its credit, far below 4 GiB.
        row_splits.push((data.len() / size_of::<u32>()) as u32);
    }
    Some(wire::Column {
        name: wire::TARGETS.to_owned(),
        data_type: wire::DataType::U32.into(),
        row_splits,
        size: data.len() as u64,
        data: data.freeze(),
        shared_memory: None,
    })
}

/// Where a model is read, as the link says it.
pub(super) fn source(place: Place) -> wire::ModelSource {
    use wire::model_source::Source;
    let source = match place {
        Place::Folder(path) => Source::Folder(path.to_string_lossy().into_owned()),
        Place::Echo => Source::Echo(wire::EchoSource {}),
        Place::Synthetic(model) => Source::Synthetic(synthetic(&model)),
    };
    wire::ModelSource { source: Some(source) }
}

fn synthetic(model: &Synthetic) -> wire::SyntheticSource {
    wire::SyntheticSource {
        floor: Some(to_wire(model.floor)),
        base: Some(to_wire(model.base)),
        per_row: Some(to_wire(model.per_row)),
        per_token: Some(to_wire(model.per_token)),
        nanos_per_token_squared: model.nanos_per_token_squared,
        noise: model.noise,
        seed: model.seed,
        faults: model.faults,
        memory_rows: model.memory_rows,
    }
}

/// A granted credit.
pub(super) fn credit(credit: &wire::Credit) -> FromWorker {
    let budget = Budget { rows: credit.rows, tokens: credit.tokens, bytes: credit.bytes };
    FromWorker::Credit { slot: Slot(credit.slot), budget }
}

/// What waits for a worker, said at this moment.
pub(super) fn bid(model: &str, want: Option<Wanted>, now: Instant) -> wire::Bid {
    let want = want.map(|Wanted { want, start }| wire::Want {
        class: class_to_wire(want.class).into(),
        start_micros: micros_from(now, start),
        time_micros: u64::try_from(want.time.as_micros()).unwrap_or(u64::MAX),
        on_time: Some(size_to_wire(want.on_time)),
        classes: Class::ALL
            .into_iter()
            .zip(want.classes)
            .filter(|(_, is_there)| *is_there)
            .map(|(class, _)| class_to_wire(class).into())
            .collect(),
        late: Some(size_to_wire(want.late)),
        is_apart: want.is_apart,
    });
    wire::Bid { model: model.to_owned(), want }
}

/// How far off a moment is; negative when it is past.
fn micros_from(now: Instant, at: Instant) -> i64 {
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    match at.checked_duration_since(now) {
        Some(ahead) => micros(ahead),
        None => -micros(now.duration_since(at)),
    }
}

/// A turn, or what is wrong with it.
pub(super) fn turn(turn: wire::Turn) -> Result<FromWorker, String> {
    use wire::turn::Kind;
    let kind = match turn.kind() {
        Kind::OnTime => {
            TurnKind::OnTime(class(turn.class()).ok_or_else(|| format!("turn {} names no class", turn.slot))?)
        }
        Kind::Late => TurnKind::Late,
        Kind::Apart => TurnKind::Apart,
        Kind::Unspecified => return Err(format!("turn {} is of no kind", turn.slot)),
    };
    Ok(FromWorker::Turn {
        slot: Slot(turn.slot),
        model: turn.model.into(),
        budget: Budget { rows: turn.rows, tokens: turn.tokens, bytes: turn.bytes },
        kind,
        own: size(turn.own),
        others: size(turn.others),
    })
}

/// The beginning of a batch.
pub(super) fn begun(begun: &wire::Begun) -> Result<FromWorker, String> {
    Ok(FromWorker::Begun {
        batch: BatchId(begun.batch),
        attempt: attempt(begun.attempt)?,
        others: size(begun.others),
        waited: from_wire(begun.waited),
    })
}

fn size(size: Option<wire::Size>) -> Size {
    let wire::Size { rows, tokens, tokens_squared } = size.unwrap_or_default();
    Size { rows, tokens, squares: tokens_squared }
}

fn size_to_wire(size: Size) -> wire::Size {
    wire::Size { rows: size.rows, tokens: size.tokens, tokens_squared: size.squares }
}

fn class(class: wire::Class) -> Option<Class> {
    match class {
        wire::Class::Interactive => Some(Class::Interactive),
        wire::Class::Standard => Some(Class::Standard),
        wire::Class::Bulk => Some(Class::Bulk),
        wire::Class::Unspecified => None,
    }
}

fn class_to_wire(class: Class) -> wire::Class {
    match class {
        Class::Interactive => wire::Class::Interactive,
        Class::Standard => wire::Class::Standard,
        Class::Bulk => wire::Class::Bulk,
    }
}

/// A model's new state, or what is wrong with the message.
pub(super) fn model_state(state: wire::ModelState) -> Result<FromWorker, String> {
    use wire::model_state::State;
    let report = match state.state() {
        State::Loading => ModelReport::Loading,
        State::Ready => {
            let card = state.card.ok_or_else(|| format!("model `{}` is ready without a card", state.model))?;
            ModelReport::Ready(Arc::new(self::card(&state.model, card)?))
        }
        State::Failed => ModelReport::Failed(state.reason),
        State::Unloaded => ModelReport::Unloaded,
        State::Unspecified => return Err(format!("model `{}` has no state", state.model)),
    };
    Ok(FromWorker::Model { model: state.model.into(), state: report })
}

fn card(name: &str, card: wire::ModelCard) -> Result<Card, String> {
    let task = match card.task() {
        wire::Task::Embed => Task::Embed,
        wire::Task::Classify => Task::Classify,
        wire::Task::Rerank => Task::Rerank,
        wire::Task::FillMask => Task::FillMask,
        wire::Task::Generate => Task::Generate,
        wire::Task::Tensor => Task::Tensor,
        wire::Task::Unspecified => return Err(format!("the card of `{name}` names no task")),
    };
    Ok(Card {
        name: name.into(),
        version: if card.version.is_empty() { "1".into() } else { card.version.into() },
        weights_sha256: card.weights_sha256,
        architecture: card.architecture,
        task,
        dims: card.dims,
        labels: card.labels,
        tokens_max: card.tokens_max,
        vocabulary: card.vocabulary,
        bytes: card.bytes,
        parameters: card.parameters,
        dtype: card.dtype.into(),
        backend: card.backend,
        instructions: card.instructions,
        tokenizer_sha256: card.tokenizer_sha256,
        inputs: card.inputs.into_iter().map(tensor_spec).collect::<Result<_, _>>()?,
        outputs: card.outputs.into_iter().map(tensor_spec).collect::<Result<_, _>>()?,
        normalizes: card.normalizes,
        mask_token: card.mask_token,
        mask_token_id: card.mask_token_id,
        smallest_batch: from_wire(card.smallest_batch),
    })
}

fn tensor_spec(spec: wire::TensorSpec) -> Result<TensorSpec, String> {
    let data_type = data_type(spec.data_type())?;
    Ok(TensorSpec { name: spec.name.into(), data_type, shape: spec.shape })
}

/// Results of items, or what is wrong with them.
pub(super) fn items(results: wire::Results) -> Result<FromWorker, String> {
    let (batch, attempt) = (BatchId(results.batch), attempt(results.attempt)?);
    let items = results.items.into_iter().map(item).collect::<Result<_, _>>()?;
    Ok(FromWorker::Items { batch, attempt, items })
}

fn item(item: wire::ItemResult) -> Result<ItemResult, String> {
    use wire::item_error::Reason;
    if item.seq != 0 || !item.last {
        let wire::ItemResult { index, seq, last, .. } = item;
        return Err(format!(
            "item {index} came in parts (`seq` {seq}, `last` {last}), which this server does not join"
        ));
    }
    let result = match item.error {
        None => Ok(item.tensors.into_iter().map(tensor).collect::<Result<_, _>>()?),
        Some(error) => Err(match error.reason() {
            Reason::Deadline => ItemError::Deadline,
            Reason::Cancelled => ItemError::Cancelled,
            Reason::Input | Reason::Unspecified => ItemError::Input(error.detail),
        }),
    };
    Ok(ItemResult { index: item.index, result })
}

fn tensor(tensor: wire::Tensor) -> Result<Tensor, String> {
    let data_type = data_type(tensor.data_type())?;
    Ok(Tensor { name: tensor.name.into(), data_type, shape: tensor.shape, data: tensor.data })
}

/// What tells a worker's GPU from others; nothing of one that does not say, or says what no driver does.
pub(super) fn gpu_of(device: &wire::Device) -> Option<Arc<str>> {
    let is_name = (1..=GPU_NAME_CHARS_MAX).contains(&device.uuid.len());
    is_name.then(|| device.uuid.as_str().into())
}

/// What had to come onto the device before a batch that ended.
pub(super) fn page_in(end: &wire::BatchEnd) -> Result<Option<FromWorker>, String> {
    let Some(page_in) = &end.page_in else { return Ok(None) };
    Ok(Some(FromWorker::PagedIn {
        batch: BatchId(end.batch),
        attempt: attempt(end.attempt)?,
        taken: from_wire(page_in.taken),
    }))
}

/// Which models' weights are not on a worker's device.
pub(super) fn weights(absent: &[String]) -> FromWorker {
    FromWorker::Weights { absent: absent.iter().map(|name| name.as_str().into()).collect() }
}

/// The end of a batch.
pub(super) fn batch_end(end: &wire::BatchEnd) -> Result<FromWorker, String> {
    let (waited, compute) = (from_wire(end.waited), from_wire(end.compute));
    Ok(FromWorker::BatchEnd { batch: BatchId(end.batch), attempt: attempt(end.attempt)?, waited, compute })
}

/// The failure of a batch.
pub(super) fn batch_failed(failed: wire::BatchFailed) -> Result<FromWorker, String> {
    use wire::batch_failed::Reason;
    let reason = match failed.reason() {
        Reason::Item => BatchFailure::Item,
        Reason::OutOfMemory => BatchFailure::OutOfMemory,
        Reason::Device | Reason::Unspecified => BatchFailure::Device,
        Reason::Timeout => BatchFailure::Timeout,
    };
    let attempt = attempt(failed.attempt)?;
    Ok(FromWorker::BatchFailed { batch: BatchId(failed.batch), attempt, reason, detail: failed.detail })
}

/// An artifact, or why the worker could not give it.
pub(super) fn artifact(artifact: wire::Artifact) -> FromWorker {
    let result = if artifact.error.is_empty() { Ok(artifact.data) } else { Err(artifact.error) };
    FromWorker::Artifact { sha256: artifact.sha256, result }
}

/// How a worker's GPU is. What is said of it becomes a page that others read: names have an end, and numbers are some.
pub(super) fn gpu(gpu: wire::Gpu) -> GpuHealth {
    let name = |text: String| text.chars().take(GPU_NAME_CHARS_MAX).collect();
    let number = |value: Option<f64>| value.filter(|value| value.is_finite());
    GpuHealth {
        uuid: name(gpu.uuid),
        name: name(gpu.name),
        memory_bytes: gpu.memory_bytes,
        memory_used_bytes: gpu.memory_used_bytes,
        power_watts: number(gpu.power_watts),
        temperature_celsius: number(gpu.temperature_celsius),
        utilization_ratio: number(gpu.utilization_ratio),
    }
}

fn attempt(attempt: u32) -> Result<Attempt, String> {
    u16::try_from(attempt).map(Attempt).map_err(|_| format!("attempt {attempt} is out of range"))
}

fn data_type_to_wire(data_type: DataType) -> wire::DataType {
    match data_type {
        DataType::F32 => wire::DataType::F32,
        DataType::F16 => wire::DataType::F16,
        DataType::Bf16 => wire::DataType::Bf16,
        DataType::I8 => wire::DataType::I8,
        DataType::I32 => wire::DataType::I32,
        DataType::I64 => wire::DataType::I64,
        DataType::U8 => wire::DataType::U8,
        DataType::U32 => wire::DataType::U32,
        DataType::Bool => wire::DataType::Bool,
        DataType::Bytes => wire::DataType::Bytes,
    }
}

fn data_type(data_type: wire::DataType) -> Result<DataType, String> {
    Ok(match data_type {
        wire::DataType::F32 => DataType::F32,
        wire::DataType::F16 => DataType::F16,
        wire::DataType::Bf16 => DataType::Bf16,
        wire::DataType::I8 => DataType::I8,
        wire::DataType::I32 => DataType::I32,
        wire::DataType::I64 => DataType::I64,
        wire::DataType::U8 => DataType::U8,
        wire::DataType::U32 => DataType::U32,
        wire::DataType::Bool => DataType::Bool,
        wire::DataType::Bytes => DataType::Bytes,
        wire::DataType::Unspecified => return Err("a tensor has no data type".into()),
    })
}
