//! Between the wire's types and the worker's own: the only place that knows both. What comes in is checked here, so that
//! a backend never sees a batch that does not fit its model's card.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal_proto::link as wire;
use shoal_scheduler::{Class, Size, Timestamp, TurnKind, Want};

use super::memory::Held;
use crate::Budget;
use crate::batch::{
    BatchError, BatchKey, CancelFlags, Column, DataType, Finished, HostBatch, Item, ItemError, ItemOptions, ItemResult,
    ServerId, Tensor,
};
use crate::card::{ModelCard, Task, TensorSpec};
use crate::cuda::health::Health;
use crate::monitor::Monitor;
use crate::session::{Begun, ModelStatus, Totals, Turn};
use crate::source::{ModelSource, SyntheticCurve};

#[cfg(test)]
mod tests;

/// Deadlines further off than this are as good as none.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn key(server: ServerId, run: &wire::Run) -> BatchKey {
    BatchKey { server, epoch: run.epoch, batch: run.batch, attempt: run.attempt }
}

/// Checks what can be said of a batch before its payload is there, so that one too large is never held.
pub(super) fn check_size(run: &wire::Run, budget: Budget) -> Result<(), BatchError> {
    let rows = run.items.len();
    let bytes = run.columns.iter().fold(0u64, |sum, column| sum.saturating_add(column.size));
    if rows > budget.rows as usize {
        return Err(BatchError::OutOfMemory(format!("{rows} rows, and a batch holds {} at most", budget.rows)));
    }
    if bytes > budget.bytes {
        return Err(BatchError::OutOfMemory(format!("{bytes} bytes, and a batch holds {} at most", budget.bytes)));
    }
    Ok(())
}

/// A batch with its payload, checked against the model's card and put into the card's order of inputs.
pub(super) fn host_batch(
    server: ServerId,
    run: wire::Run,
    payload: Vec<Bytes>,
    (model, card): (&Arc<str>, &ModelCard),
    budget: Budget,
    (begun, arrived): (Instant, Instant),
) -> Result<HostBatch, BatchError> {
    let (key, rows) = (key(server, &run), run.items.len());
    if rows == 0 {
        return Err(bad("`items` is empty"));
    }
    let mut given: BTreeMap<String, (wire::Column, Bytes)> = BTreeMap::new();
    for (column, data) in run.columns.iter().cloned().zip(payload) {
        let name = column.name.clone();
        if given.insert(name.clone(), (column, data)).is_some() {
            return Err(bad(format!("column `{name}` is there twice")));
        }
    }
    let mut columns = Vec::with_capacity(card.inputs.len());
    for input in &card.inputs {
        let Some((column, data)) = given.remove(input.name) else {
            return Err(bad(format!("column `{}` of model `{model}` is missing", input.name)));
        };
        columns.push(host_column(column, data, input, rows)?);
    }
    let mut items: Vec<Item> = run.items.into_iter().map(|item| host_item(item, begun)).collect();
    if card.task == Task::FillMask
        && let Some((column, data)) = given.remove(wire::TARGETS)
    {
        put_targets(column, data, &mut items)?;
    }
    if let Some(name) = given.keys().next() {
        return Err(bad(format!("model `{model}` has no column `{name}`")));
    }
    let batch = HostBatch {
        key,
        model: model.clone(),
        columns,
        items,
        has_tokens: card.has_tokens(),
        cancelled: Arc::new(CancelFlags::new(rows)),
        arrived,
    };
    let tokens: u64 = (0..rows).map(|row| u64::from(batch.tokens(row))).sum();
    if tokens > u64::from(budget.tokens) && rows > 1 {
        return Err(BatchError::OutOfMemory(format!("{tokens} tokens, and a batch holds {} at most", budget.tokens)));
    }
    Ok(batch)
}

fn host_column(column: wire::Column, data: Bytes, input: &TensorSpec, rows: usize) -> Result<Column, BatchError> {
    let name = input.name;
    if column.shared_memory.is_some() {
        return Err(bad(format!("column `{name}` is in shared memory, which this version does not read")));
    }
    let given = data_type(column.data_type());
    if given != Some(input.data_type) {
        let given = column.data_type().as_str_name();
        return Err(bad(format!("column `{name}` is {given}, not {}", input.data_type.name())));
    }
    let splits = column.row_splits;
    if splits.len() != rows + 1 {
        return Err(bad(format!("column `{name}` has {} row_splits, not {} for {rows} items", splits.len(), rows + 1)));
    }
    if splits[0] != 0 {
        return Err(bad(format!("row_splits of column `{name}` begin at {}, not 0", splits[0])));
    }
    if let Some(row) = splits.windows(2).position(|pair| pair[0] > pair[1]) {
        return Err(bad(format!("row_splits of column `{name}` fall from {} at row {row}", splits[row])));
    }
    let stated = u64::from(splits[rows]) * input.data_type.size() as u64;
    if stated != data.len() as u64 {
        return Err(bad(format!("row_splits of column `{name}` end at byte {stated}, its data at {}", data.len())));
    }
    check_shape(input, &splits)?;
    Ok(Column { data_type: input.data_type, row_splits: splits, data })
}

/// Each row must hold as many elements as the input's shape says.
fn check_shape(input: &TensorSpec, splits: &[u32]) -> Result<(), BatchError> {
    let fixed: i64 = input.shape.iter().filter(|&&dim| dim >= 0).product();
    let varies = input.shape.contains(&-1);
    for (row, pair) in splits.windows(2).enumerate() {
        let elements = i64::from(pair[1] - pair[0]);
        let fits = if varies { fixed != 0 && elements % fixed == 0 } else { elements == fixed };
        if !fits {
            let (name, shape) = (input.name, &input.shape);
            return Err(bad(format!("row {row} of column `{name}` has {elements} elements, which is no {shape:?}")));
        }
    }
    Ok(())
}

fn host_item(item: wire::Item, begun: Instant) -> Item {
    let options = item.options.unwrap_or_default();
    let deadline = item.remaining_micros.and_then(|micros| {
        let left = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
        (left <= DEADLINE_MAX).then(|| begun + left)
    });
    Item { options: item_options(options), deadline, traceparent: item.traceparent }
}

fn item_options(options: wire::ItemOptions) -> ItemOptions {
    let wire::ItemOptions { normalize, dimensions, raw, top_k } = options;
    ItemOptions { normalize, dimensions, raw, top_k, targets: Arc::default() }
}

/// Gives each item the token ids of its row.
fn put_targets(column: wire::Column, data: Bytes, items: &mut [Item]) -> Result<(), BatchError> {
    let spec = TensorSpec::new(wire::TARGETS, DataType::U32, &[-1]);
    let column = host_column(column, data, &spec, items.len())?;
    for (row, item) in items.iter_mut().enumerate() {
        let bytes = column.row(row);
        item.options.targets = bytes.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
    }
    Ok(())
}

fn bad(detail: impl Into<String>) -> BatchError {
    BatchError::Item(detail.into())
}

/// The results of a batch as items of the wire.
pub(super) fn item_results(results: Vec<ItemResult>) -> Vec<wire::ItemResult> {
    results
        .into_iter()
        .map(|ItemResult { index, outcome }| match outcome {
            Ok(tensors) => wire::ItemResult {
                index,
                seq: 0,
                last: true,
                tensors: tensors.into_iter().map(tensor).collect(),
                error: None,
            },
            Err(error) => {
                let reason = match error {
                    ItemError::Input(_) => wire::item_error::Reason::Input,
                    ItemError::Deadline => wire::item_error::Reason::Deadline,
                };
                let error = wire::ItemError { reason: reason.into(), detail: error.to_string() };
                wire::ItemResult { index, seq: 0, last: true, tensors: Vec::new(), error: Some(error) }
            }
        })
        .collect()
}

fn tensor(tensor: Tensor) -> wire::Tensor {
    wire::Tensor {
        name: tensor.name.to_string(),
        data_type: wire_data_type(tensor.data_type).into(),
        shape: tensor.shape,
        size: tensor.data.len() as u64,
        data: tensor.data,
    }
}

pub(super) fn batch_end(finished: &Finished, memory_bytes: u64) -> wire::BatchEnd {
    let BatchKey { epoch, batch, attempt, .. } = finished.key;
    wire::BatchEnd {
        batch,
        attempt,
        epoch,
        waited: Some(duration(finished.waited)),
        compute: Some(duration(finished.compute)),
        memory_bytes,
        energy_joules: 0.0,
        page_in: finished.page_in.as_ref().map(|page_in| wire::PageIn {
            taken: Some(duration(page_in.taken)),
            absent: page_in.absent.iter().map(|model| model.to_string()).collect(),
        }),
    }
}

/// What waits with a server, as the arbiter compares it; the server's times are from when it said so, which is `now`.
pub(super) fn want(want: wire::Want, now: Timestamp) -> Want {
    let offset = Duration::from_micros(want.start_micros.unsigned_abs()).min(DEADLINE_MAX);
    let earlier = now.since(Timestamp::ZERO).saturating_sub(offset);
    let start = if want.start_micros < 0 { Timestamp::ZERO + earlier } else { now + offset };
    let mut classes = [false; Class::ALL.len()];
    want.classes().filter_map(class).for_each(|class| classes[class as usize] = true);
    Want {
        // One that this version does not know is of no less worth than most.
        class: class(want.class()).unwrap_or_default(),
        start,
        time: Duration::from_micros(want.time_micros).min(DEADLINE_MAX),
        on_time: size(want.on_time),
        classes,
        late: size(want.late),
        is_apart: want.is_apart,
    }
}

pub(super) fn turn(turn: &Turn, model: &str, budget: Budget) -> wire::Turn {
    use wire::turn::Kind;
    let (kind, class) = match turn.kind {
        TurnKind::OnTime(class) => (Kind::OnTime, wire_class(class)),
        TurnKind::Late => (Kind::Late, wire::Class::Unspecified),
        TurnKind::Apart => (Kind::Apart, wire::Class::Unspecified),
    };
    let Budget { rows, tokens, bytes } = budget;
    wire::Turn {
        slot: turn.slot,
        model: model.to_owned(),
        rows,
        tokens,
        bytes,
        kind: kind.into(),
        class: class.into(),
        own: Some(wire_size(turn.own)),
        others: Some(wire_size(turn.others)),
    }
}

pub(super) fn begun(begun: &Begun) -> wire::Begun {
    let BatchKey { epoch, batch, attempt, .. } = begun.key;
    let (others, waited) = (Some(wire_size(begun.others)), Some(duration(begun.waited)));
    wire::Begun { batch, attempt, epoch, others, waited }
}

fn size(size: Option<wire::Size>) -> Size {
    let wire::Size { rows, tokens, tokens_squared } = size.unwrap_or_default();
    Size { rows, tokens, squares: tokens_squared }
}

fn wire_size(size: Size) -> wire::Size {
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

fn wire_class(class: Class) -> wire::Class {
    match class {
        Class::Interactive => wire::Class::Interactive,
        Class::Standard => wire::Class::Standard,
        Class::Bulk => wire::Class::Bulk,
    }
}

pub(super) fn batch_failed(key: BatchKey, error: &BatchError) -> wire::BatchFailed {
    use wire::batch_failed::Reason;
    let BatchKey { epoch, batch, attempt, .. } = key;
    let reason = match error {
        BatchError::Item(_) => Reason::Item,
        BatchError::OutOfMemory(_) => Reason::OutOfMemory,
        BatchError::Device(_) | BatchError::Broken(_) => Reason::Device,
    };
    wire::BatchFailed { batch, attempt, epoch, reason: reason.into(), detail: error.to_string() }
}

/// Where to read a model; none where the message names no place.
pub(super) fn source(source: wire::ModelSource) -> Result<Option<ModelSource>, String> {
    use wire::model_source::Source;
    Ok(match source.source {
        None => None,
        Some(Source::Folder(folder)) if folder.is_empty() => return Err("`source.folder` is empty".to_owned()),
        Some(Source::Folder(folder)) => Some(ModelSource::Folder(PathBuf::from(folder))),
        Some(Source::Echo(wire::EchoSource {})) => Some(ModelSource::Echo),
        Some(Source::Synthetic(curve)) => Some(ModelSource::Synthetic(synthetic(curve)?)),
    })
}

fn synthetic(source: wire::SyntheticSource) -> Result<SyntheticCurve, String> {
    let time = |field: &str, value: Option<prost_types::Duration>| {
        let value = value.unwrap_or_default();
        Duration::try_from(value)
            .map_err(|_| format!("`source.synthetic.{field}` is not a duration from 0 up: {value}"))
    };
    Ok(SyntheticCurve {
        floor: time("floor", source.floor)?,
        base: time("base", source.base)?,
        per_row: time("per_row", source.per_row)?,
        per_token: time("per_token", source.per_token)?,
        nanos_per_token_squared: source.nanos_per_token_squared,
        noise: source.noise,
        seed: source.seed,
        faults: source.faults,
        memory_rows: source.memory_rows,
    })
}

pub(super) fn model_state(name: &str, status: &ModelStatus) -> wire::ModelState {
    use wire::model_state::State;
    let mut message = wire::ModelState { model: name.to_owned(), ..wire::ModelState::default() };
    let state = match status {
        ModelStatus::Loading { progress } => {
            message.progress = *progress;
            State::Loading
        }
        ModelStatus::Ready(made) => {
            message.card = Some(card(name, made));
            State::Ready
        }
        ModelStatus::Failed { reason } => {
            message.reason.clone_from(reason);
            State::Failed
        }
        ModelStatus::Unloaded => State::Unloaded,
    };
    message.set_state(state);
    message
}

pub(super) fn card(name: &str, card: &ModelCard) -> wire::ModelCard {
    let task = match card.task {
        Task::Embed => wire::Task::Embed,
        Task::Classify => wire::Task::Classify,
        Task::Rerank => wire::Task::Rerank,
        Task::FillMask => wire::Task::FillMask,
        Task::Tensor => wire::Task::Tensor,
    };
    wire::ModelCard {
        name: name.to_owned(),
        version: "1".to_owned(),
        weights_sha256: card.weights_sha256.clone(),
        architecture: card.architecture.to_owned(),
        task: task.into(),
        dims: card.dims,
        labels: card.labels.clone(),
        tokens_max: card.tokens_max,
        vocabulary: card.vocabulary,
        bytes: card.bytes,
        parameters: card.parameters,
        dtype: card.dtype.to_owned(),
        backend: card.backend.to_owned(),
        instructions: card.instructions.to_owned(),
        tokenizer_sha256: card.tokenizer_sha256.clone(),
        inputs: card.inputs.iter().map(tensor_spec).collect(),
        outputs: card.outputs.iter().map(tensor_spec).collect(),
        normalizes: card.normalizes,
        smallest_batch: Some(duration(card.smallest_batch)),
        mask_token: card.mask_token.clone(),
        mask_token_id: card.mask_token_id,
    }
}

fn tensor_spec(spec: &TensorSpec) -> wire::TensorSpec {
    wire::TensorSpec {
        name: spec.name.to_owned(),
        data_type: wire_data_type(spec.data_type).into(),
        shape: spec.shape.clone(),
    }
}

pub(super) fn stats(totals: Totals, held: Held, gpu: Option<wire::Gpu>) -> wire::Stats {
    wire::Stats {
        batches: totals.batches,
        rows: totals.rows,
        tokens: totals.tokens,
        busy: Some(duration(totals.busy)),
        dropped: totals.dropped,
        cancelled: totals.cancelled,
        memory_bytes: held.now,
        memory_bytes_max: held.most,
        energy_joules: 0.0,
        gpu,
    }
}

/// How the GPU is; nothing where that is not known.
pub(super) fn gpu(monitor: &Monitor) -> Option<wire::Gpu> {
    Some(gpu_health(&monitor.name, &monitor.uuid, &monitor.health()?))
}

fn gpu_health(name: &str, uuid: &str, health: &Health) -> wire::Gpu {
    wire::Gpu {
        name: name.to_owned(),
        uuid: uuid.to_owned(),
        memory_bytes: health.memory,
        memory_used_bytes: health.memory_used,
        power_watts: health.power_watts,
        temperature_celsius: health.temperature_celsius.map(f64::from),
        utilization_ratio: health.utilization,
    }
}

/// A time from the wire, or the given one where it is unset or no time; never longer than an hour.
pub(super) fn time_or(value: Option<prost_types::Duration>, default: Duration) -> Duration {
    let time = value.and_then(|value| Duration::try_from(value).ok()).unwrap_or(default);
    time.min(Duration::from_secs(3600))
}

/// Longer times than the wire can say do not occur: they are measured.
fn duration(time: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: time.subsec_nanos().cast_signed(),
    }
}

fn data_type(data_type: wire::DataType) -> Option<DataType> {
    Some(match data_type {
        wire::DataType::Unspecified => return None,
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
    })
}

fn wire_data_type(data_type: DataType) -> wire::DataType {
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
