//! `POST /v1/embeddings`.

mod input;
mod request;
mod response;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use tokio::time::Instant;

use crate::access::Scope;
use crate::call::{CallError, Caller, close_name};
use crate::explain::EXPLAIN_KEY;
use crate::frontend::{Computed, by_deadline, elsewhere};
use crate::traces::{OpenSpan, Outcome, Rpc};

use super::Api;
use super::body;
use super::deadline::deadline;
use super::error::ApiError;
use request::EmbeddingsRequest;

/// Inputs of one call at most, as OpenAI has it; fewer where the configuration says so.
const INPUTS_MAX: usize = 2048;
/// JSON of more bytes than this is read and written on a thread where others need not wait for it.
const INLINE_BYTES_MAX: usize = 128 << 10;

const CREATE: Rpc = Rpc::Http { method: "POST", route: "/v1/embeddings" };

/// Reads, runs and answers a call. Dropped when the client goes away, and the call with it.
pub(super) async fn create(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let (mut head, body) = request.into_parts();
    let scope = head.extensions.get::<Scope>().cloned().unwrap_or_default();
    api.frontend.tracer.arrive(&head.headers, &mut head.extensions);
    let mut span = api.frontend.tracer.open(&CREATE, &head.extensions);
    let answer = answer(&api, &head.headers, body, (arrived, scope), &mut span).await;
    let status = answer.as_ref().map_or_else(ApiError::status, Response::status);
    span.end(Outcome::Http(status.as_u16()));
    answer
}

async fn answer(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    (arrived, scope): (Instant, Scope),
    span: &mut OpenSpan,
) -> Result<Response, ApiError> {
    let mut caller = match caller(api, headers, arrived, scope) {
        Ok(caller) => caller,
        Err(error) => {
            body::linger(headers, body).await;
            return Err(error.into());
        }
    };
    span.enter(&mut caller.trace);
    // The core keeps the deadline of what it was given; this is what comes before.
    let request = by_deadline(caller.deadline, async { Ok(read(api, headers, body).await) }).await??;
    let EmbeddingsRequest { embed, lone, form } = request;
    let explain = caller.explain.clone();
    let embedded = api.frontend.embed(caller, embed, "input").await;
    let embedded = embedded.map_err(|error| ApiError::from(of_lone(error, lone)).explained(&explain))?;
    let headers = usage_headers(&embedded);
    let bytes = embedded.answer.rows.len() * embedded.card.dims as usize * size_of::<f32>();
    let body = elsewhere(bytes <= INLINE_BYTES_MAX, move || response::body(&embedded, form)).await??;
    let mut response = Response::new(body.into());
    *response.headers_mut() = headers;
    Ok(response)
}

fn caller(api: &Api, headers: &HeaderMap, arrived: Instant, scope: Scope) -> Result<Caller, CallError> {
    api.frontend.caller(headers, deadline(headers, arrived)?, scope)
}

async fn read(api: &Api, headers: &HeaderMap, body: Body) -> Result<EmbeddingsRequest, ApiError> {
    let bytes_max = api.frontend.options.call_bytes_max;
    let body = body::read(headers, body, bytes_max, api.body_time_max).await?;
    elsewhere(body.len() <= INLINE_BYTES_MAX, move || EmbeddingsRequest::parse(&body)).await?
}

/// The one input of a call that has it bare is `input`, not the first of a list.
fn of_lone(mut error: CallError, lone: bool) -> CallError {
    if let (true, Some(field)) = (lone, error.field_mut())
        && field == "input[0]"
    {
        field.truncate("input".len());
    }
    error
}

/// What was done, by the names that the Open Inference Protocol's answers give it.
fn usage_headers(embedded: &Computed) -> HeaderMap {
    let Computed { card, answer, .. } = embedded;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut number = |name: &'static str, value: u64| headers.insert(name, HeaderValue::from(value));
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    number("x-shoal-queue-us", micros(answer.queue_time));
    number("x-shoal-compute-us", micros(answer.compute_time));
    number("x-shoal-truncated", embedded.truncated.into());
    number("x-shoal-batches", answer.batches.len() as u64);
    let largest = answer.batches.iter().max_by_key(|batch| batch.rows);
    if let Some(batch) = largest {
        number("x-shoal-batch-rows", batch.rows.into());
        number("x-shoal-batch-tokens", batch.tokens.into());
        headers.insert("x-shoal-batch-close-reason", HeaderValue::from_static(close_name(batch.close)));
    }
    if let Some(explanation) = &answer.explanation
        && let Ok(text) = HeaderValue::from_str(&explanation.text(answer))
    {
        headers.insert(EXPLAIN_KEY, text);
    }
    // A worker's word, and so perhaps not a header's.
    for (name, value) in [("x-shoal-dtype", &card.dtype), ("x-shoal-model-version", &card.version)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    headers
}
