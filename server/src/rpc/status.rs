//! From a call's error to its gRPC status: the one table.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::call::CallError;
use crate::explain::{Asked, EXPLAIN_KEY};

/// Who answers, in `ErrorInfo`.
const DOMAIN: &str = "shoal";

/// Bytes of one text in a status. What a client wrote is quoted in short where the error is made; this keeps the rest,
/// such as what a worker says, within the 8 KiB of headers that clients take.
const TEXT_BYTES_MAX: usize = 512;

/// The status a client sees.
pub(super) fn status(error: &CallError) -> Status {
    explained_status(error, &Asked::default())
}

/// The same with how things stood, for a caller who asked for that: the numbers in `ErrorInfo`, the text as a trailer.
pub(super) fn explained_status(error: &CallError, asked: &Asked) -> Status {
    let message = error.to_string();
    let message = bounded(&message);
    let mut details = ErrorDetails::new();
    let code = match error {
        CallError::UnknownModel { model, .. } => {
            details.set_resource_info("model", bounded(model), "", "not configured");
            Code::NotFound
        }
        CallError::UnknownVersion { model, version, .. } => {
            let name = format!("{model}/{version}");
            details.set_resource_info("model version", bounded(&name), "", "not served");
            Code::NotFound
        }
        CallError::InvalidArgument { field, problem }
        | CallError::TooLarge { field, problem }
        | CallError::Item { field, problem } => {
            details.add_bad_request_violation(bounded(field), bounded(problem));
            Code::InvalidArgument
        }
        CallError::DeadlinePassed | CallError::DeadlineTooShort { .. } => Code::DeadlineExceeded,
        CallError::DeadlineUnmeetable { retry_after }
        | CallError::QueueFull { retry_after, .. }
        | CallError::QueueTimeout { retry_after, .. }
        | CallError::Late { retry_after } => {
            details.set_retry_info(Some(*retry_after));
            Code::ResourceExhausted
        }
        CallError::MessageTooLarge { .. } => {
            details.set_error_info("MESSAGE_TOO_LARGE", DOMAIN, []);
            Code::ResourceExhausted
        }
        CallError::OutOfMemory { .. } => {
            details.set_error_info("OUT_OF_MEMORY", DOMAIN, []);
            Code::ResourceExhausted
        }
        CallError::ModelNotReady { .. } | CallError::Draining | CallError::ModelRemoved { .. } => Code::Unavailable,
        CallError::WorkerLost { .. } => {
            details.set_error_info("WORKER_LOST", DOMAIN, []);
            Code::Unavailable
        }
        CallError::Poison { .. } => {
            details.set_error_info("POISON", DOMAIN, []);
            Code::Internal
        }
        CallError::Quarantined { held, left, .. } => {
            let seconds = |time: &Duration| time.as_secs().to_string();
            let times = [("held_seconds".to_owned(), seconds(held)), ("left_seconds".to_owned(), seconds(left))];
            details.set_error_info("POISON", DOMAIN, times);
            Code::Internal
        }
        CallError::Unimplemented { .. } => Code::Unimplemented,
        CallError::Unauthenticated { .. } => Code::Unauthenticated,
        CallError::PermissionDenied { .. } => Code::PermissionDenied,
        CallError::Internal { .. } => Code::Internal,
    };
    let refusal = asked.refusal();
    if let Some(refusal) = refusal {
        let known = details.error_info().cloned();
        let numbers = refusal.numbers().into_iter().map(|(key, value)| (key.to_owned(), value));
        let (reason, metadata) = match known {
            Some(info) => (info.reason, info.metadata),
            None => (refusal.reason.to_uppercase(), Default::default()),
        };
        details.set_error_info(reason, DOMAIN, metadata.into_iter().chain(numbers).collect::<HashMap<_, _>>());
    }
    let mut status = Status::with_error_details(code, message, details);
    if let Some(Ok(text)) = refusal.map(|refusal| refusal.text().parse()) {
        status.metadata_mut().insert(EXPLAIN_KEY, text);
    }
    if let Some(after) = retry_after(error) {
        // gRPC's own retry machinery in clients reads this trailer (proposal A6), not the details.
        let millis = MetadataValue::from(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        status.metadata_mut().insert("grpc-retry-pushback-ms", millis);
    }
    status
}

fn bounded(text: &str) -> Cow<'_, str> {
    match text.floor_char_boundary(TEXT_BYTES_MAX) {
        end if end < text.len() => Cow::Owned(format!("{}…", &text[..end])),
        _ => Cow::Borrowed(text),
    }
}

/// When trying again makes sense.
pub(super) fn retry_after(error: &CallError) -> Option<Duration> {
    match error {
        CallError::DeadlineUnmeetable { retry_after }
        | CallError::QueueFull { retry_after, .. }
        | CallError::QueueTimeout { retry_after, .. }
        | CallError::Late { retry_after } => Some(*retry_after),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Refusal;

    #[test]
    fn a_wrong_field_is_named_in_message_and_details() {
        let error = CallError::InvalidArgument { field: "texts[2]".into(), problem: "too long".into() };
        let status = status(&error);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "`texts[2]`: too long");
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("details").field_violations;
        assert_eq!(violations[0].field, "texts[2]");
    }

    #[test]
    fn a_long_text_is_cut_in_message_and_details() {
        let error = CallError::Item { field: "[0]".into(), problem: "ä".repeat(1 << 20) };
        let status = status(&error);
        assert!(status.message().len() < 600 && status.message().ends_with('…'), "{}", status.message());
        assert!(status.details().len() < 2000, "{}", status.details().len());
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let retry_after = Duration::from_millis(250);
        let error = CallError::QueueFull { limit: shoal_scheduler::QueueLimit::Model, retry_after };
        let status = status(&error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        assert_eq!(details.retry_info().expect("details").retry_delay, Some(retry_after));
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").expect("trailer"), "250");
    }

    #[test]
    fn a_deadline_that_is_too_short_is_told_with_both_times() {
        let (left, needed) = (Duration::from_micros(2_900), Duration::from_nanos(4_500_123));
        let status = status(&CallError::DeadlineTooShort { left, needed });
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("2ms 900us away") && status.message().contains("4ms 500us"), "{status}");
    }

    #[test]
    fn a_deadline_that_load_leaves_no_time_for_says_when_to_come_back() {
        let retry_after = Duration::from_millis(40);
        let status = status(&CallError::DeadlineUnmeetable { retry_after });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_error_details().retry_info().expect("details").retry_delay, Some(retry_after));
    }

    #[test]
    fn who_asked_is_told_how_things_stood_in_numbers_and_in_words() {
        let asked = Asked::yes();
        asked.refuse(|| Refusal {
            model: "m".into(),
            reason: "deadline_unmeetable",
            on_arrival: true,
            waited: None,
            deadline_in: Some(Duration::from_millis(20)),
            found: None,
        });
        let error = CallError::DeadlineUnmeetable { retry_after: Duration::from_millis(40) };
        let status = explained_status(&error, &asked);
        let text = status.metadata().get(EXPLAIN_KEY).expect("a trailer").to_str().expect("text");
        assert_eq!(text, "Refused on arrival, and the deadline was 20.0 ms away.");
        let details = status.get_error_details();
        let info = details.error_info().expect("details");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("DEADLINE_UNMEETABLE", DOMAIN));
        assert_eq!(info.metadata.get("deadline_in_us").map(String::as_str), Some("20000"));
        assert!(details.retry_info().is_some(), "what is told to everybody is told to them as well");
        let poison = explained_status(&CallError::Poison { field: "[0]".into() }, &asked);
        assert_eq!(poison.get_error_details().error_info().expect("details").reason, "POISON");
    }

    #[test]
    fn the_counted_name_is_the_code_sent() {
        let errors = [
            CallError::DeadlinePassed,
            CallError::DeadlineTooShort { left: Duration::ZERO, needed: Duration::ZERO },
            CallError::DeadlineUnmeetable { retry_after: Duration::ZERO },
            CallError::Draining,
            CallError::MessageTooLarge { problem: String::new() },
            CallError::Poison { field: String::new() },
            CallError::Quarantined { field: String::new(), held: Duration::ZERO, left: Duration::ZERO },
            CallError::OutOfMemory { field: String::new() },
            CallError::WorkerLost { attempts: 3 },
            CallError::Unimplemented { what: String::new() },
            CallError::Unauthenticated { what: String::new() },
            CallError::PermissionDenied { what: String::new() },
        ];
        for error in errors {
            let sent = format!("{:?}", status(&error).code()).to_uppercase();
            assert_eq!(sent, error.code_name().replace('_', ""), "{error:?}");
        }
    }
}
