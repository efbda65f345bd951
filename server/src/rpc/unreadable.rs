//! Requests that the gRPC library cannot read: its words for them, put into the server's own.
//!
//! The library says INTERNAL for a client's broken bytes and OUT_OF_RANGE for too many of them. Here broken input is
//! INVALID_ARGUMENT with a field, whoever finds it. Its statuses are told by having no details: the server's own have.

use tonic::{Code, Status};

use crate::call::CallError;

use super::status::status;

/// What the decoder's words begin with, before the path of the field.
const DECODER: &str = "failed to decode Protobuf message: ";
/// The field when none can be told: the message as such.
const WHOLE: &str = "request";

/// The answer to a call that ended before the service saw it, in the server's words. Others pass through.
pub(super) fn explain<B>(mut answer: http::Response<B>) -> http::Response<B> {
    // A status in the head is one without an answer before it.
    if let Some(status) = Status::from_header_map(answer.headers()).filter(is_librarys) {
        let head = answer.headers_mut();
        // Fails for values that are no header's, which texts of ours are not; the library's answer stands then.
        let _ = explained(&status).add_header(head);
    }
    answer
}

/// As [`explain`], of a status alone, such as the one a stream breaks off with.
pub(super) fn explained(librarys: &Status) -> Status {
    if is_librarys(librarys) { status(&meaning(librarys)) } else { librarys.clone() }
}

fn is_librarys(status: &Status) -> bool {
    let while_reading = [Code::Internal, Code::OutOfRange, Code::ResourceExhausted, Code::InvalidArgument];
    status.details().is_empty() && while_reading.contains(&status.code())
}

fn meaning(status: &Status) -> CallError {
    let said = status.message().strip_prefix("Error, ").unwrap_or(status.message());
    if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted) {
        return CallError::MessageTooLarge { problem: said.to_owned() };
    }
    let (field, problem) = match said.strip_prefix(DECODER) {
        Some(words) => path(words),
        None => (WHOLE.to_owned(), said),
    };
    CallError::InvalidArgument { field, problem: problem.to_owned() }
}

/// Reads `Inner.field: Outer.field: problem`, which is how the decoder tells the way to a field.
fn path(words: &str) -> (String, &str) {
    let mut fields = Vec::new();
    let mut rest = words;
    while let Some((step, after)) = rest.split_once(": ") {
        let Some((_, field)) = step.split_once('.').filter(|_| !step.contains(' ')) else { break };
        fields.insert(0, field);
        rest = after;
    }
    (if fields.is_empty() { WHOLE.to_owned() } else { fields.join(".") }, rest)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use shoal_proto::inference::ModelInferRequest;
    use shoal_proto::v1::EmbedRequest;
    use tonic_types::StatusExt as _;

    use super::*;

    fn field(status: &Status) -> String {
        let status = explained(status);
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        status.get_error_details().bad_request().expect("details").field_violations[0].field.clone()
    }

    fn decoded<M: prost::Message + Default>(bytes: &[u8]) -> Status {
        Status::invalid_argument(M::decode(bytes).err().expect("broken").to_string())
    }

    #[test]
    fn a_field_that_cannot_be_decoded_is_named_by_its_path() {
        assert_eq!(field(&decoded::<EmbedRequest>(&[0x12, 1, 0xff])), "texts");
        // inputs { contents { bytes_contents, cut } }
        assert_eq!(
            field(&decoded::<ModelInferRequest>(&[0x2a, 4, 0x2a, 2, 0x42, 9])),
            "inputs.contents.bytes_contents"
        );
        assert_eq!(field(&decoded::<ModelInferRequest>(&[0x07])), "request");
    }

    #[test]
    fn bytes_that_are_no_message_are_the_requests_fault() {
        for said in ["Unexpected EOF decoding stream.", "Missing request message.", "protocol error: a: b: c.d: e"] {
            assert_eq!(field(&Status::internal(said)), "request");
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_told_by_the_limits_key() {
        for library in [Status::out_of_range("Error, too large"), Status::resource_exhausted("too large")] {
            let status = explained(&library);
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert!(status.message().contains("call_bytes_max"), "{}", status.message());
            assert_eq!(status.get_error_details().error_info().expect("details").reason, "MESSAGE_TOO_LARGE");
        }
    }

    #[test]
    fn what_the_server_said_itself_stands() {
        let own = status(&CallError::Internal { what: "a fault".into() });
        let answer = explain(own.clone().into_http::<Bytes>());
        let kept = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!((kept.code(), kept.message()), (Code::Internal, "a fault"));
        let unknown = explain(Status::unimplemented("").into_http::<Bytes>());
        assert_eq!(Status::from_header_map(unknown.headers()).expect("a status").code(), Code::Unimplemented);
        assert_eq!(explain(http::Response::new(7)).into_body(), 7);
    }

    #[test]
    fn an_answer_takes_over_the_explanation_whole() {
        let answer = explain(Status::internal("Missing request message.").into_http::<Bytes>());
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.message(), "`request`: Missing request message.");
        assert!(status.get_error_details().bad_request().is_some());
    }
}
