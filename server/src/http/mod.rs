//! OpenAI's HTTP API, as far as there are models for it: embeddings, and the list of models.
//!
//! This folder reads and writes JSON and puts the calls to the front end, as the gRPC services do; it knows nothing of
//! them, nor of the scheduler's machine. What clients may rely on is in `server/docs/http.md`.

mod body;
mod deadline;
mod embeddings;
mod error;
mod guard;
mod listen;
mod models;
mod request_id;

pub use listen::{Listener, Options};

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;

use crate::frontend::Frontend;

use error::ApiError;

/// What every handler has at hand.
#[derive(Debug)]
struct Api {
    frontend: Frontend,
    /// How long a client may take to send a body.
    body_time_max: Duration,
    /// When this server started, in Unix time.
    started: u64,
}

/// The pages.
pub fn routes(frontend: Frontend, options: &Options) -> Router {
    // A clock before 1970 is the client's to wonder about, not a reason not to serve.
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let api = Api { frontend, body_time_max: options.body_time_max, started };
    Router::new()
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::retrieve))
        .fallback(async |method: Method, uri: Uri| ApiError::unknown_path(&method, uri.path()))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| ApiError::wrong_method(&method, uri.path()))
        .with_state(Arc::new(api))
}

/// An answer with this body.
fn json(value: &impl Serialize) -> Response {
    // Of text and whole numbers alone, which always have a form in JSON.
    let mut response = Response::new(Body::from(serde_json::to_vec(value).unwrap_or_default()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
