//! What clients call, and how that ended, in the words of the wire it came by.

/// A method that clients call.
#[derive(Debug)]
pub(crate) enum Rpc {
    Grpc {
        service: &'static str,
        method: &'static str,
    },
    Http {
        method: &'static str,
        route: &'static str,
    },
    /// One of the calls in a stream.
    InStream,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With this gRPC status.
    Grpc(i32),
    /// With this HTTP status.
    Http(u16),
    /// The client went away, or cancelled it.
    Gone,
}

/// What clients of gRPC see of a call that they cancel.
const CANCELLED: i32 = 1;

/// gRPC's statuses, by number.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Outcome {
    /// The number of gRPC's status; nothing of HTTP.
    pub(super) fn grpc_code(self) -> Option<i32> {
        match self {
            Self::Grpc(code) => Some(code),
            Self::Gone => Some(CANCELLED),
            Self::Http(_) => None,
        }
    }

    /// What went wrong, as `error.type` names it.
    pub(super) fn error_type(self) -> Option<String> {
        match self {
            Self::Grpc(0) => None,
            Self::Grpc(code) => Some(
                usize::try_from(code)
                    .ok()
                    .and_then(|code| NAMES.get(code))
                    .map_or_else(|| code.to_string(), |name| (*name).to_owned()),
            ),
            Self::Http(status) => (status >= 400).then(|| status.to_string()),
            Self::Gone => Some("CANCELLED".to_owned()),
        }
    }

    /// Whether the server is to blame, as OpenTelemetry's conventions see it.
    pub(super) fn is_fault(self) -> bool {
        match self {
            // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
            Self::Grpc(code) => matches!(code, 2 | 4 | 12 | 13 | 14 | 15),
            Self::Http(status) => status >= 500,
            Self::Gone => false,
        }
    }
}
