//! `shoal.v1.Inference`: typed calls on text models.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Buf as _;
use prost_types::Duration as WireDuration;
use shoal_proto::v1::{self as wire, embed_stream_response, inference_server};
use shoal_scheduler::CloseReason;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::call::{BatchUse, CallError, Caller, RowOptions, Tensor};
use crate::card::Task;
use crate::frontend::{Embed, EmbedInput, Embedded, Frontend, by_deadline, embedding};
use crate::registry::{ModelState, ModelView};
use crate::tokenize::{Cut, Tokens};

use super::caller::caller;
use super::status::{retry_after, status};
use super::unreadable::explained;

/// Calls of one stream that run at once; the stream is not read further beyond that.
const STREAM_CALLS_MAX: usize = 256;

/// The service.
#[derive(Clone, Debug)]
pub struct InferenceService {
    frontend: Frontend,
    /// Streams read no further once the server drains.
    draining: CancellationToken,
}

impl InferenceService {
    /// A service on top of `frontend`.
    pub fn new(frontend: Frontend, draining: CancellationToken) -> Self {
        Self { frontend, draining }
    }

    async fn embed_call(&self, caller: Caller, request: wire::EmbedRequest) -> Result<wire::EmbedResponse, CallError> {
        let request = Embed {
            model: request.model,
            input: EmbedInput::Texts(request.texts),
            truncate: request.truncate,
            options: RowOptions {
                normalize: request.normalize,
                dimensions: request.dimensions,
                ..RowOptions::default()
            },
        };
        let embedded = self.frontend.embed(caller, request, "texts").await?;
        let embeddings = embedded.answer.rows.iter().map(|tensors| values(tensors)).collect::<Result<_, _>>()?;
        Ok(wire::EmbedResponse { embeddings, usage: Some(usage(&embedded)) })
    }
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
fn duration(duration: std::time::Duration) -> WireDuration {
    WireDuration::try_from(duration).unwrap_or_default()
}

fn usage(embedded: &Embedded) -> wire::Usage {
    let Embedded { model, card, answer, .. } = embedded;
    wire::Usage {
        tokens: embedded.tokens,
        truncated: embedded.truncated,
        queue_time: Some(duration(answer.queue_time)),
        compute_time: Some(duration(answer.compute_time)),
        batches: answer.batches.iter().map(batch_usage).collect(),
        dtype: card.dtype.to_string(),
        model: model.name.to_string(),
        model_version: card.version.to_string(),
        energy_joules: None,
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

#[tonic::async_trait]
impl inference_server::Inference for InferenceService {
    async fn embed(&self, request: Request<wire::EmbedRequest>) -> Result<Response<wire::EmbedResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let caller = caller(&self.frontend, &metadata, &extensions).map_err(|error| status(&error))?;
        let response = self.embed_call(caller, request).await.map_err(|error| status(&error))?;
        Ok(Response::new(response))
    }

    type EmbedStreamStream = Pin<Box<dyn Stream<Item = Result<wire::EmbedStreamResponse, Status>> + Send>>;

    async fn embed_stream(
        &self,
        request: Request<Streaming<wire::EmbedStreamRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        let (metadata, extensions, requests) = request.into_parts();
        let caller = caller(&self.frontend, &metadata, &extensions).map_err(|error| status(&error))?;
        let (answers, stream) = mpsc::channel(STREAM_CALLS_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            let deadline = caller.deadline;
            let served = async {
                service.serve_stream(caller, requests, &answers).await;
                Ok(())
            };
            if let Err(late) = by_deadline(deadline, served).await {
                let _ = answers.send(Err(status(&late))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn tokenize(
        &self,
        request: Request<wire::TokenizeRequest>,
    ) -> Result<Response<wire::TokenizeResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let texts = async {
            let caller = caller(&self.frontend, &metadata, &extensions)?;
            let model = self.frontend.model(&request.model, Task::Embed)?;
            self.frontend.check_texts("texts", request.texts.len())?;
            let cut = Cut { truncate: request.truncate, pieces: true };
            self.frontend.tokens(&model, caller.deadline, request.texts, cut).await
        };
        let texts = texts.await.map_err(|error| status(&error.within("texts")))?;
        Ok(Response::new(wire::TokenizeResponse { texts: texts.into_iter().map(tokenized).collect() }))
    }

    async fn list_models(
        &self,
        _request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        let models = self.frontend.registry.all().iter().map(|view| listed(view)).collect();
        Ok(Response::new(wire::ListModelsResponse { models }))
    }
}

type StreamAnswers = mpsc::Sender<Result<wire::EmbedStreamResponse, Status>>;

impl InferenceService {
    /// Answers a stream's calls as each is done. A client that goes away drops its calls.
    async fn serve_stream(
        &self,
        caller: Caller,
        mut requests: Streaming<wire::EmbedStreamRequest>,
        answers: &StreamAnswers,
    ) {
        let places = Arc::new(Semaphore::new(STREAM_CALLS_MAX));
        let mut running = JoinSet::new();
        loop {
            let next = async {
                // Closed only by this task, which is here.
                let place = places.clone().acquire_owned().await.map_err(|lost| Status::internal(lost.to_string()))?;
                Ok(requests.message().await?.map(|request| (place, request)))
            };
            let next = tokio::select! {
                next = next => next,
                () = answers.closed() => return,
                () = self.draining.cancelled() => break,
            };
            let (place, request) = match next {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(broken) => {
                    let _ = answers.send(Err(explained(&broken))).await;
                    return;
                }
            };
            let (service, caller, answers) = (self.clone(), caller.clone(), answers.clone());
            running.spawn(async move {
                let response = service.stream_call(caller, request).await;
                let _ = answers.send(Ok(response)).await;
                drop(place);
            });
            while running.try_join_next().is_some() {}
        }
        tokio::select! {
            () = async { while running.join_next().await.is_some() {} } => {}
            () = answers.closed() => {}
        }
    }

    async fn stream_call(&self, caller: Caller, request: wire::EmbedStreamRequest) -> wire::EmbedStreamResponse {
        use embed_stream_response::Result as Wire;
        let result = match request.request {
            Some(embed) => self.embed_call(caller, embed).await,
            None => {
                let problem = "must be set".to_owned();
                Err(CallError::InvalidArgument { field: "request".into(), problem })
            }
        };
        let result = result.map_or_else(|error| Wire::Error(stream_error(&error)), Wire::Response);
        wire::EmbedStreamResponse { id: request.id, result: Some(result) }
    }
}

fn stream_error(error: &CallError) -> wire::Error {
    let after = retry_after(error).map(duration);
    let status = status(error);
    wire::Error { code: status.code().into(), message: status.message().to_owned(), retry_after: after }
}

fn tokenized(tokens: Tokens) -> wire::TokenizedText {
    wire::TokenizedText {
        ids: tokens.pieces.iter().map(|piece| piece.id).collect(),
        offsets: tokens.pieces.iter().flat_map(|piece| [piece.span.0, piece.span.1]).collect(),
        tokens: tokens.pieces.into_iter().map(|piece| piece.token).collect(),
        truncated: tokens.truncated,
    }
}

fn listed(view: &ModelView) -> wire::Model {
    use wire::model::State;
    let (state, reason) = match &view.state {
        ModelState::Unloaded => (State::Unloaded, String::new()),
        ModelState::Loading => (State::Loading, String::new()),
        ModelState::Ready => (State::Ready, String::new()),
        ModelState::Failed(reason) => (State::Failed, reason.clone()),
    };
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
        model.weights_sha256.clone_from(&card.weights_sha256);
        model.tokenizer_sha256.clone_from(&card.tokenizer_sha256);
    }
    model
}
