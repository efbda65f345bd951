//! Answers of `shoal.v1` in the wire's words.

use bytes::Buf as _;
use prost_types::Duration as WireDuration;
use shoal_proto::v1 as wire;
use shoal_scheduler::{CloseReason, WaitCause};

use crate::call::{Answer, BatchUse, CallError, Tensor};
use crate::explain::{Explanation, Ran, Waited};
use crate::frontend::{Candidate, Classified, Computed, Filled, FilledMask, Ranked, embedding};
use crate::registry::{ModelState, ModelView};
use crate::tokenize::Tokens;

pub(super) fn embedded(computed: &Computed) -> Result<wire::EmbedResponse, CallError> {
    let embeddings = computed.answer.rows.iter().map(|tensors| values(tensors)).collect::<Result<_, _>>()?;
    Ok(wire::EmbedResponse { embeddings, usage: Some(usage(computed)) })
}

pub(super) fn classified(Classified { computed, labels }: &Classified) -> wire::ClassifyResponse {
    let named = |&(label, score): &(usize, f32)| {
        // There are as many scores as labels.
        let label = computed.card.labels.get(label).cloned().unwrap_or_default();
        wire::LabelScore { label, score }
    };
    let results = labels.iter().map(|scores| wire::Classification { scores: scores.iter().map(named).collect() });
    wire::ClassifyResponse { results: results.collect(), usage: Some(usage(computed)) }
}

/// `texts` are those of the request, to be returned with their scores; empty where they are not.
pub(super) fn ranked(Ranked { computed, ranking }: &Ranked, mut texts: Vec<String>) -> wire::RerankResponse {
    let results = ranking.iter().map(|&(index, score)| {
        let text = texts.get_mut(index).map(std::mem::take).unwrap_or_default();
        // A call has far fewer texts than that.
        wire::RankedText { index: index as u32, score, text }
    });
    wire::RerankResponse { results: results.collect(), usage: Some(usage(computed)) }
}

pub(super) fn filled(Filled { computed, texts }: Filled) -> wire::FillMaskResponse {
    let candidate = |Candidate { token_id, token, score }| wire::Candidate { token_id, token, score };
    let mask = |FilledMask { position, candidates }: FilledMask| wire::FilledMask {
        // Tokens of a text are counted in 32 bits.
        token_index: position as u32,
        candidates: candidates.into_iter().map(candidate).collect(),
    };
    let text = |masks: Vec<FilledMask>| wire::FilledText { masks: masks.into_iter().map(mask).collect() };
    wire::FillMaskResponse { usage: Some(usage(&computed)), results: texts.into_iter().map(text).collect() }
}

fn values(tensors: &[Tensor]) -> Result<wire::Embedding, CallError> {
    let mut data = embedding(tensors)?.clone();
    let mut values = Vec::with_capacity(data.len() / 4);
    while data.remaining() >= 4 {
        values.push(data.get_f32_le());
    }
    Ok(wire::Embedding { values })
}

/// Durations of the server are far below the wire's limit of ten thousand years.
pub(in crate::rpc) fn duration(duration: std::time::Duration) -> WireDuration {
    WireDuration::try_from(duration).unwrap_or_default()
}

fn usage(computed: &Computed) -> wire::Usage {
    let Computed { model, card, answer, tokens, truncated } = computed;
    wire::Usage {
        tokens: *tokens,
        truncated: *truncated,
        queue_time: Some(duration(answer.queue_time)),
        compute_time: Some(duration(answer.compute_time)),
        batches: answer.batches.iter().map(batch_usage).collect(),
        dtype: card.dtype.to_string(),
        model: model.name.to_string(),
        model_version: card.version.to_string(),
        energy_joules: None,
        explanation: answer.explanation.as_ref().map(|explanation| explained(explanation, answer)),
    }
}

fn explained(explanation: &Explanation, answer: &Answer) -> wire::Explanation {
    let batch = |ran: &Ran| wire::ExplainedBatch {
        worker: ran.worker.to_string(),
        expected_time: ran.expected.map(duration),
        worker_time: Some(duration(ran.taken)),
    };
    wire::Explanation {
        text: explanation.text(answer),
        waits: Some(waits(&explanation.waited)),
        late_rows: explanation.late_rows,
        objective: Some(duration(explanation.objective)),
        batches: explanation.batches.iter().map(batch).collect(),
    }
}

pub(in crate::rpc) fn waits(waited: &Waited) -> wire::Waits {
    let of = |cause| Some(duration(waited.waits.of(cause)));
    wire::Waits {
        no_worker: of(WaitCause::NoWorker),
        loading: of(WaitCause::Loading),
        workers_busy: of(WaitCause::WorkersBusy),
        suspect_worker: of(WaitCause::SuspectWorker),
        fuller_batch: of(WaitCause::FullerBatch),
        failed_attempts: Some(duration(waited.failed)),
    }
}

fn batch_usage(batch: &BatchUse) -> wire::BatchUsage {
    let close = match batch.close {
        CloseReason::Drained => wire::CloseReason::Drained,
        CloseReason::Rows => wire::CloseReason::Rows,
        CloseReason::Tokens => wire::CloseReason::Tokens,
        CloseReason::Bytes => wire::CloseReason::Bytes,
        CloseReason::Preferred => wire::CloseReason::Preferred,
        CloseReason::Delay => wire::CloseReason::Delay,
        CloseReason::Objective => wire::CloseReason::Objective,
        CloseReason::Spread => wire::CloseReason::Spread,
        CloseReason::Late => wire::CloseReason::Late,
        CloseReason::Hedged => wire::CloseReason::Hedged,
        CloseReason::Isolated => wire::CloseReason::Isolated,
    };
    wire::BatchUsage {
        rows: batch.rows,
        tokens: batch.tokens,
        own_rows: batch.own_rows,
        close_reason: close.into(),
        compute_time: Some(duration(batch.compute_time)),
        attempt: u32::from(batch.attempt),
    }
}

pub(super) fn tokenized(tokens: Tokens) -> wire::TokenizedText {
    wire::TokenizedText {
        ids: tokens.pieces.iter().map(|piece| piece.id).collect(),
        offsets: tokens.pieces.iter().flat_map(|piece| [piece.span.0, piece.span.1]).collect(),
        tokens: tokens.pieces.into_iter().map(|piece| piece.token).collect(),
        truncated: tokens.truncated,
    }
}

/// A model's state, and why it is failed if it is.
pub(in crate::rpc) fn state(state: &ModelState) -> (wire::model::State, String) {
    use wire::model::State;
    match state {
        ModelState::Unloaded => (State::Unloaded, String::new()),
        ModelState::Loading => (State::Loading, String::new()),
        ModelState::Ready => (State::Ready, String::new()),
        ModelState::Failed(reason) => (State::Failed, reason.clone()),
    }
}

pub(super) fn listed(view: &ModelView) -> wire::Model {
    let (state, reason) = state(&view.state);
    let mut model = wire::Model {
        name: view.name.to_string(),
        version: view.version().to_owned(),
        state: state.into(),
        reason,
        workers: view.workers,
        slo: Some(duration(view.slo)),
        ..wire::Model::default()
    };
    if let Some(card) = &view.card {
        model.task = card.task.name().to_owned();
        model.architecture.clone_from(&card.architecture);
        model.dims = card.dims;
        model.labels.clone_from(&card.labels);
        model.tokens_max = card.tokens_max;
        model.parameters = card.parameters;
        model.bytes = card.bytes;
        model.dtype = card.dtype.to_string();
        model.backend.clone_from(&card.backend);
        model.instructions.clone_from(&card.instructions);
        model.weights_sha256.clone_from(&card.weights_sha256);
        model.tokenizer_sha256.clone_from(&card.tokenizer_sha256);
        model.mask_token.clone_from(&card.mask_token);
    }
    model
}
