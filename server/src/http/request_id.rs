//! A name for each call, so that a client's log and the server's can be laid side by side.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::Instant;
use tracing::debug;

use crate::traces;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of an id that is echoed.
const BYTES_MAX: usize = 128;

/// Answers with the id that came, or with a new one.
pub(super) async fn stamp(request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    let id = request.headers().get(HEADER).filter(|id| id.len() <= BYTES_MAX).cloned().unwrap_or_else(new);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let trace_id = traces::parent(request.headers()).map(|parent| tracing::field::display(parent.trace));
    let mut response = next.run(request).await;
    debug!(request_id = ?id, trace_id, %method, path, status = response.status().as_u16(), elapsed = ?arrived.elapsed(), "answered");
    response.headers_mut().insert(HEADER, id);
    response
}

fn new() -> HeaderValue {
    let text = format!("req_{:032x}", rand::random::<u128>());
    // Letters and digits are always a header's value.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("req"))
}
