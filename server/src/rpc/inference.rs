//! `shoal.v1.Inference`: typed calls on text models.

mod answer;

use std::pin::Pin;
use std::sync::Arc;

use shoal_proto::v1::{self as wire, embed_stream_response, inference_server};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::call::{CallError, Caller, RowOptions};
use crate::card::Task;
use crate::explain::{Asked, Refusal};
use crate::frontend::{Classify, Embed, EmbedInput, FillMask, Frontend, Rerank, by_deadline};
use crate::tokenize::{Cut, Text};
use crate::traces::{OpenSpan, Outcome, Rpc, StreamSpan};

use super::caller::{caller, scope};
use super::status::{explained_status, retry_after, status};
use super::unreadable::explained;
use answer::{classified, embedded, filled, listed, ranked, tokenized};

pub(super) use answer::{duration, state, waits};

/// Calls of one stream that run at once; the stream is not read further beyond that.
const STREAM_CALLS_MAX: usize = 256;

const EMBED: Rpc = rpc("Embed");
const CLASSIFY: Rpc = rpc("Classify");
const RERANK: Rpc = rpc("Rerank");
const FILL_MASK: Rpc = rpc("FillMask");
const TOKENIZE: Rpc = rpc("Tokenize");
const EMBED_STREAM: Rpc = rpc("EmbedStream");

const fn rpc(method: &'static str) -> Rpc {
    Rpc::Grpc { service: "shoal.v1.Inference", method }
}

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
        embedded(&self.frontend.embed(caller, request, "texts").await?)
    }

    async fn classify_call(
        &self,
        caller: Caller,
        request: wire::ClassifyRequest,
    ) -> Result<wire::ClassifyResponse, CallError> {
        let wire::ClassifyRequest { model, texts, text_pairs, truncate, raw_scores: raw, top_k } = request;
        let request = Classify { model, texts, text_pairs, truncate, raw, top_k };
        Ok(classified(&self.frontend.classify(caller, request).await?))
    }

    async fn rerank_call(
        &self,
        caller: Caller,
        request: wire::RerankRequest,
    ) -> Result<wire::RerankResponse, CallError> {
        let wire::RerankRequest { model, query, texts, truncate, raw_scores: raw, top_n, return_text } = request;
        let returned = if return_text { texts.clone() } else { Vec::new() };
        let request = Rerank { model, query, texts, truncate, raw, top_n };
        Ok(ranked(&self.frontend.rerank(caller, request).await?, returned))
    }

    async fn fill_mask_call(
        &self,
        caller: Caller,
        request: wire::FillMaskRequest,
    ) -> Result<wire::FillMaskResponse, CallError> {
        let wire::FillMaskRequest { model, texts, truncate, raw_scores: raw, top_k, targets } = request;
        let request = FillMask { model, texts, truncate, raw, top_k, targets };
        Ok(filled(self.frontend.fill_mask(caller, request).await?))
    }

    async fn tokenize_call(
        &self,
        caller: Caller,
        request: wire::TokenizeRequest,
    ) -> Result<wire::TokenizeResponse, CallError> {
        let model = self.frontend.model(&request.model, Task::Embed, &caller.scope)?;
        let model = self.frontend.ready_to_ask(model, caller.deadline).await?;
        self.frontend.check_texts("texts", request.texts.len())?;
        let cut = Cut { truncate: request.truncate, type_ids: false, pieces: true };
        let texts = request.texts.into_iter().map(Text::Single).collect();
        let texts = self.frontend.tokens(&model, caller.deadline, texts, cut).await;
        let texts = texts.map_err(|error| error.within("texts"))?;
        Ok(wire::TokenizeResponse { texts: texts.into_iter().map(tokenized).collect() })
    }

    /// Reads who calls, and has `work` done for them.
    async fn answer<'a, Q, A, F>(
        &'a self,
        rpc: &'static Rpc,
        request: Request<Q>,
        work: impl FnOnce(&'a Self, Caller, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, CallError>>,
    {
        let (metadata, extensions, request) = request.into_parts();
        let mut span = self.frontend.tracer.open(rpc, &extensions);
        let caller = caller(&self.frontend, &metadata, &extensions);
        // Not kept while the call is open.
        drop((metadata, extensions));
        let answer = match caller {
            Err(error) => Err(status(&error)),
            Ok(mut caller) => {
                span.enter(&mut caller.trace);
                let explain = caller.explain.clone();
                let answer = work(self, caller, request).await;
                answer.map(Response::new).map_err(|error| explained_status(&error, &explain))
            }
        };
        span.end(outcome(&answer));
        answer
    }
}

#[tonic::async_trait]
impl inference_server::Inference for InferenceService {
    async fn embed(&self, request: Request<wire::EmbedRequest>) -> Result<Response<wire::EmbedResponse>, Status> {
        self.answer(&EMBED, request, Self::embed_call).await
    }

    async fn classify(
        &self,
        request: Request<wire::ClassifyRequest>,
    ) -> Result<Response<wire::ClassifyResponse>, Status> {
        self.answer(&CLASSIFY, request, Self::classify_call).await
    }

    async fn rerank(&self, request: Request<wire::RerankRequest>) -> Result<Response<wire::RerankResponse>, Status> {
        self.answer(&RERANK, request, Self::rerank_call).await
    }

    async fn fill_mask(
        &self,
        request: Request<wire::FillMaskRequest>,
    ) -> Result<Response<wire::FillMaskResponse>, Status> {
        self.answer(&FILL_MASK, request, Self::fill_mask_call).await
    }

    type EmbedStreamStream = Pin<Box<dyn Stream<Item = Result<wire::EmbedStreamResponse, Status>> + Send>>;

    async fn embed_stream(
        &self,
        request: Request<Streaming<wire::EmbedStreamRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        let (metadata, extensions, requests) = request.into_parts();
        let mut span = self.frontend.tracer.open(&EMBED_STREAM, &extensions);
        let mut caller = match caller(&self.frontend, &metadata, &extensions) {
            Ok(caller) => caller,
            Err(error) => return failed(span, status(&error)),
        };
        span.enter(&mut caller.trace);
        let calls = span.stream();
        let (answers, stream) = mpsc::channel(STREAM_CALLS_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            let deadline = caller.deadline;
            let served = async { Ok(service.serve_stream(caller, requests, &answers, &calls).await) };
            let outcome = match by_deadline(deadline, served).await {
                Ok(outcome) => outcome,
                Err(late) => {
                    let late = status(&late);
                    let outcome = Outcome::Grpc(late.code().into());
                    let _ = answers.send(Err(late)).await;
                    outcome
                }
            };
            span.end(outcome);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn tokenize(
        &self,
        request: Request<wire::TokenizeRequest>,
    ) -> Result<Response<wire::TokenizeResponse>, Status> {
        self.answer(&TOKENIZE, request, Self::tokenize_call).await
    }

    async fn list_models(
        &self,
        request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        let scope = scope(request.extensions());
        let models = self.frontend.registry.all_seen(&scope).iter().map(|view| listed(view)).collect();
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
        spans: &StreamSpan,
    ) -> Outcome {
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
                () = answers.closed() => return Outcome::Gone,
                () = self.draining.cancelled() => break,
            };
            let (place, request) = match next {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(broken) => {
                    let broken = explained(&broken);
                    let outcome = Outcome::Grpc(broken.code().into());
                    let _ = answers.send(Err(broken)).await;
                    return outcome;
                }
            };
            let (service, mut caller, answers) = (self.clone(), caller.again(), answers.clone());
            let span = spans.call(&mut caller.trace);
            running.spawn(async move {
                let response = service.stream_call(caller, request, span).await;
                let _ = answers.send(Ok(response)).await;
                drop(place);
            });
            while running.try_join_next().is_some() {}
        }
        tokio::select! {
            () = async { while running.join_next().await.is_some() {} } => Outcome::Grpc(Code::Ok.into()),
            () = answers.closed() => Outcome::Gone,
        }
    }

    async fn stream_call(
        &self,
        caller: Caller,
        request: wire::EmbedStreamRequest,
        span: OpenSpan,
    ) -> wire::EmbedStreamResponse {
        use embed_stream_response::Result as Wire;
        let explain = caller.explain.clone();
        let result = match request.request {
            Some(embed) => self.embed_call(caller, embed).await,
            None => {
                let problem = "must be set".to_owned();
                Err(CallError::InvalidArgument { field: "request".into(), problem })
            }
        };
        span.end(Outcome::Grpc(result.as_ref().map_or_else(|error| status(error).code(), |_| Code::Ok).into()));
        let result = result.map_or_else(|error| Wire::Error(stream_error(&error, &explain)), Wire::Response);
        wire::EmbedStreamResponse { id: request.id, result: Some(result) }
    }
}

/// How a call ended, as its span has it.
pub(super) fn outcome<A>(answer: &Result<A, Status>) -> Outcome {
    Outcome::Grpc(answer.as_ref().map_or_else(Status::code, |_| Code::Ok).into())
}

/// Ends a span with the answer.
pub(super) fn failed<A>(span: OpenSpan, status: Status) -> Result<A, Status> {
    span.end(Outcome::Grpc(status.code().into()));
    Err(status)
}

fn stream_error(error: &CallError, explain: &Asked) -> wire::Error {
    let after = retry_after(error).map(duration);
    let status = status(error);
    let explanation = explain.refusal().map(Refusal::text).unwrap_or_default();
    wire::Error { code: status.code().into(), message: status.message().to_owned(), retry_after: after, explanation }
}
