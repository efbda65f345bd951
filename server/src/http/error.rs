//! From a call's error to OpenAI's form of it: the one table, beside that of gRPC in `rpc::status`.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::call::{CallError, full_name};
use crate::explain::{Asked, EXPLAIN_KEY};
use crate::oip::Short;

use super::json;

/// The kinds of errors that OpenAI tells apart.
const INVALID_REQUEST: &str = "invalid_request_error";
const RATE_LIMIT: &str = "rate_limit_error";
const SERVER: &str = "server_error";

/// `Retry-After` has whole seconds; this has more, and OpenAI's clients prefer it.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// OpenAI's clients repeat a call by its status, unless this says otherwise.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Why a call has no answer, as an HTTP client sees it.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    /// The field that is wrong.
    param: Option<String>,
    /// A name for what happened, from a closed set.
    code: Option<&'static str>,
    retry: Retry,
    /// How things stood, for a caller who asked.
    explanation: Option<Box<HeaderValue>>,
    /// Nothing more is read from this client.
    close: bool,
}

/// What a client may know about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// As it does for that status.
    AsUsual,
    /// It would only cost the same again.
    Never,
    /// When it makes sense.
    After(Duration),
}

#[derive(Serialize)]
struct Envelope {
    error: Told,
}

#[derive(Serialize)]
struct Told {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        use StatusCode as S;
        let (status, code) = match &error {
            CallError::UnknownModel { .. } | CallError::UnknownVersion { .. } => {
                (S::NOT_FOUND, Some("model_not_found"))
            }
            CallError::InvalidArgument { .. } => (S::BAD_REQUEST, None),
            CallError::TooLarge { .. } => (S::BAD_REQUEST, Some("too_large")),
            CallError::Item { .. } => (S::BAD_REQUEST, Some("item")),
            CallError::MessageTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, Some("request_too_large")),
            CallError::DeadlinePassed => (S::GATEWAY_TIMEOUT, Some("deadline_passed")),
            CallError::DeadlineTooShort { .. } => (S::GATEWAY_TIMEOUT, Some("deadline_too_short")),
            CallError::DeadlineUnmeetable { .. } => (S::TOO_MANY_REQUESTS, Some("deadline_unmeetable")),
            CallError::QueueFull { limit, .. } => (S::TOO_MANY_REQUESTS, Some(full_name(*limit))),
            CallError::QueueTimeout { .. } => (S::TOO_MANY_REQUESTS, Some("queue_timeout")),
            CallError::Late { .. } => (S::TOO_MANY_REQUESTS, Some("late")),
            // Not 429, which asks the client to come back: this input will never fit.
            CallError::OutOfMemory { .. } => (S::PAYLOAD_TOO_LARGE, Some("out_of_memory")),
            CallError::ModelNotReady { .. } => (S::SERVICE_UNAVAILABLE, Some("model_not_ready")),
            CallError::ModelRemoved { .. } => (S::SERVICE_UNAVAILABLE, Some("model_removed")),
            CallError::Draining => (S::SERVICE_UNAVAILABLE, Some("draining")),
            CallError::WorkerLost { .. } => (S::SERVICE_UNAVAILABLE, Some("worker_lost")),
            CallError::Poison { .. } | CallError::Quarantined { .. } => (S::INTERNAL_SERVER_ERROR, Some("poison")),
            CallError::Internal { .. } => (S::INTERNAL_SERVER_ERROR, None),
            CallError::Unimplemented { .. } => (S::NOT_IMPLEMENTED, None),
            // What OpenAI says, and its clients know.
            CallError::Unauthenticated { .. } => (S::UNAUTHORIZED, Some("invalid_api_key")),
            CallError::PermissionDenied { .. } => (S::FORBIDDEN, Some("permission_denied")),
        };
        let retry = match &error {
            CallError::DeadlineUnmeetable { retry_after }
            | CallError::QueueFull { retry_after, .. }
            | CallError::QueueTimeout { retry_after, .. }
            | CallError::Late { retry_after } => Retry::After(*retry_after),
            // A worker was lost to it; the next ones need not be.
            CallError::Poison { .. }
            | CallError::Quarantined { .. }
            | CallError::OutOfMemory { .. }
            | CallError::Unimplemented { .. } => Retry::Never,
            _ => Retry::AsUsual,
        };
        let param = match &error {
            CallError::UnknownModel { .. } | CallError::UnknownVersion { .. } => Some("model".to_owned()),
            CallError::InvalidArgument { field, .. }
            | CallError::TooLarge { field, .. }
            | CallError::Item { field, .. }
            | CallError::Poison { field }
            | CallError::Quarantined { field, .. }
            | CallError::OutOfMemory { field } => Some(field.clone()),
            _ => None,
        };
        // What nobody known sends is not read.
        let close = status == S::UNAUTHORIZED;
        Self { param, retry, close, ..Self::new(status, code, error.to_string()) }
    }
}

impl ApiError {
    fn new(status: StatusCode, code: Option<&'static str>, message: String) -> Self {
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => RATE_LIMIT,
            status if status.is_server_error() => SERVER,
            _ => INVALID_REQUEST,
        };
        Self { status, kind, message, param: None, code, retry: Retry::AsUsual, explanation: None, close: false }
    }

    /// With how things stood, where that was asked for and the driver refused the call.
    pub(super) fn explained(self, asked: &Asked) -> Self {
        let explanation = asked.refusal().and_then(|refusal| HeaderValue::from_str(&refusal.text()).ok());
        Self { explanation: explanation.map(Box::new), ..self }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn unknown_path(method: &Method, path: &str) -> Self {
        let message = format!("there is no {} {}", Short(method.as_str()), Short(path));
        Self::new(StatusCode::NOT_FOUND, Some("unknown_url"), message)
    }

    /// The router adds which methods there are.
    pub(super) fn wrong_method(method: &Method, path: &str) -> Self {
        let message = format!("{} cannot be asked with {}", Short(path), Short(method.as_str()));
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_supported"), message)
    }

    pub(super) fn media_type(message: String) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("unsupported_media_type"), message)
    }

    pub(super) fn body_too_large(bytes_max: usize) -> Self {
        let message = format!("the body has more than the {bytes_max} bytes that one call may have");
        Self { close: true, ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, Some("request_too_large"), message) }
    }

    pub(super) fn body_late(time_max: Duration) -> Self {
        let message = format!("the body did not arrive within {}", humantime::format_duration(time_max));
        Self { close: true, ..Self::new(StatusCode::REQUEST_TIMEOUT, Some("request_timeout"), message) }
    }

    pub(super) fn body_broken() -> Self {
        Self { close: true, ..Self::new(StatusCode::BAD_REQUEST, None, "the body broke off".to_owned()) }
    }

    pub(super) fn not_json(problem: &serde_json::Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Some("invalid_json"), format!("the body is not JSON: {problem}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let told = Told { message: self.message, kind: self.kind, param: self.param, code: self.code };
        let mut response = json(&Envelope { error: told });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        match self.retry {
            Retry::AsUsual => {}
            Retry::Never => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            Retry::After(delay) => {
                // Seconds upwards, and nothing is zero, which clients take for no answer to the question.
                let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).max(1);
                headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
                headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
            }
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(explanation) = self.explanation {
            headers.insert(EXPLAIN_KEY, *explanation);
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests;
