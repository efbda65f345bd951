//! Reading a call's body: JSON, of a bounded size, in a bounded time.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::oip::Short;

use super::error::ApiError;

/// How long a body that is refused is read on, so that a client that sends it all before it listens hears the answer
/// instead of a broken connection.
const LINGER_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a body was not read to its end.
enum Stopped {
    TooLarge,
    Broken,
}

/// The body of a call with these headers.
///
/// # Errors
/// What is wrong with it, before more than `bytes_max` of it is kept.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    bytes_max: usize,
    time_max: Duration,
) -> Result<Bytes, ApiError> {
    if let Err(error) = check_type(headers) {
        linger(headers, body).await;
        return Err(error);
    }
    let stated = body.size_hint().lower();
    let outcome = if stated > bytes_max as u64 {
        Err(Stopped::TooLarge)
    } else {
        let whole = timeout(time_max, collect(&mut body, bytes_max)).await;
        whole.map_err(|_| ApiError::body_late(time_max))?
    };
    match outcome {
        Ok(bytes) => Ok(bytes),
        Err(Stopped::Broken) => Err(ApiError::body_broken()),
        Err(Stopped::TooLarge) => {
            linger(headers, body).await;
            Err(ApiError::body_too_large(bytes_max))
        }
    }
}

/// JSON, not compressed. A client that says nothing is taken to know what it does.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    if let Some(encoding) = text(header::CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity"))
    {
        return Err(ApiError::media_type(format!("`content-encoding: {}` is not read here", Short(&encoding))));
    }
    let Some(full) = text(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = full.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    match is_json {
        true => Ok(()),
        false => Err(ApiError::media_type(format!("`content-type` is {}, and must be application/json", Short(&full)))),
    }
}

async fn collect(body: &mut Body, bytes_max: usize) -> Result<Bytes, Stopped> {
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|_| Stopped::Broken)?.into_data() else { continue };
        if whole.len() + joined.len() + piece.len() > bytes_max {
            return Err(Stopped::TooLarge);
        }
        // A body of one piece is not copied.
        if whole.is_empty() && joined.is_empty() {
            whole = piece;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut whole));
            joined.extend_from_slice(&piece);
        }
    }
    Ok(if joined.is_empty() { whole } else { joined.freeze() })
}

/// Reads on what nobody wants, for a while.
pub(super) async fn linger(headers: &HeaderMap, mut body: Body) {
    // One that asks whether to send it has sent nothing yet, and reading would ask for it.
    if !headers.contains_key(header::EXPECT) {
        let _ = timeout(LINGER_TIME_MAX, async { while let Some(Ok(_)) = body.frame().await {} }).await;
    }
}
