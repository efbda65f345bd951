use axum::http::HeaderMap;
use serde_json::{Value, json};

use shoal_scheduler::QueueLimit;

use super::*;

/// What a client sees: status, headers, body.
async fn told(error: impl Into<ApiError>) -> (u16, HeaderMap, Value) {
    let (head, body) = error.into().into_response().into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("body");
    (head.status.as_u16(), head.headers, serde_json::from_slice(&body).expect("JSON"))
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let error = CallError::InvalidArgument { field: "input[2]".into(), problem: "is too long".into() };
    let (status, headers, body) = told(error).await;
    assert_eq!(status, 400);
    assert_eq!(headers["content-type"], "application/json");
    let expected = json!({"error": {
        "message": "`input[2]`: is too long", "type": "invalid_request_error", "param": "input[2]", "code": null,
    }});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn every_error_has_the_status_and_the_code_that_are_documented() {
    let retry_after = Duration::from_millis(1500);
    let (field, model, problem) = (|| "input[1]".to_owned(), || "m".to_owned(), || "no".to_owned());
    let full = |limit| CallError::QueueFull { limit, retry_after };
    let cases = [
        (CallError::UnknownModel { model: model(), near: None }, 404, "invalid_request_error", "model_not_found"),
        (CallError::TooLarge { field: field(), problem: problem() }, 400, "invalid_request_error", "too_large"),
        (CallError::Item { field: field(), problem: problem() }, 400, "invalid_request_error", "item"),
        (CallError::DeadlinePassed, 504, "server_error", "deadline_passed"),
        (full(QueueLimit::Model), 429, "rate_limit_error", "model_queue_full"),
        (full(QueueLimit::Tenant), 429, "rate_limit_error", "tenant_queue_full"),
        (full(QueueLimit::Class), 429, "rate_limit_error", "class_queue_full"),
        (full(QueueLimit::Bytes), 429, "rate_limit_error", "queue_bytes_full"),
        (CallError::QueueTimeout { waited: retry_after, retry_after }, 429, "rate_limit_error", "queue_timeout"),
        (CallError::OutOfMemory { field: field() }, 413, "invalid_request_error", "out_of_memory"),
        (CallError::ModelNotReady { model: model(), reason: problem() }, 503, "server_error", "model_not_ready"),
        (CallError::ModelRemoved { model: model() }, 503, "server_error", "model_removed"),
        (CallError::Draining, 503, "server_error", "draining"),
        (CallError::WorkerLost { attempts: 3 }, 503, "server_error", "worker_lost"),
        (CallError::Unauthenticated { what: problem() }, 401, "invalid_request_error", "invalid_api_key"),
        (CallError::PermissionDenied { what: problem() }, 403, "invalid_request_error", "permission_denied"),
        (CallError::Poison { field: field() }, 500, "server_error", "poison"),
    ];
    let page = include_str!("../../../docs/http.md");
    for (error, status, kind, code) in cases {
        let (told_status, _, body) = told(error).await;
        assert_eq!((told_status, &body["error"]["type"], &body["error"]["code"]), (status, &json!(kind), &json!(code)));
        let documented =
            page.lines().any(|line| line.contains(&format!("| {status} |")) && line.contains(&format!("`{code}`")));
        assert!(documented, "{status} {code} is not in server/docs/http.md");
    }
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back_in_both_units() {
    for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
        let retry_after = Duration::from_millis(millis);
        let (_, headers, _) = told(CallError::QueueFull { limit: QueueLimit::Model, retry_after }).await;
        assert_eq!(headers["retry-after-ms"], millis.max(1).to_string());
        assert_eq!(headers["retry-after"], seconds);
    }
}

#[tokio::test]
async fn a_client_is_told_not_to_repeat_what_breaks_workers() {
    let (_, headers, _) = told(CallError::Poison { field: "input".into() }).await;
    assert_eq!(headers["x-should-retry"], "false");
    let (_, headers, _) = told(CallError::WorkerLost { attempts: 3 }).await;
    assert!(!headers.contains_key("x-should-retry"));
}
