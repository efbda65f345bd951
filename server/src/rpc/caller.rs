//! Who calls, read from a gRPC request: its metadata, and the time-out that the listener took from it.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Extensions, metadata::MetadataMap};

use crate::access::Scope;
use crate::call::{CallError, Caller};
use crate::frontend::Frontend;

/// gRPC's header that says how long the client will wait.
pub(super) const TIMEOUT_HEADER: &str = "grpc-timeout";

/// The client's time-out, as the listener found it in `grpc-timeout`, and when the call arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientTimeout {
    pub(super) arrived: Instant,
    pub(super) left: Duration,
}

/// Who calls.
///
/// # Errors
/// `InvalidArgument` naming the metadata key.
pub(super) fn caller(
    frontend: &Frontend,
    metadata: &MetadataMap,
    extensions: &Extensions,
) -> Result<Caller, CallError> {
    // Whoever set one wants it kept; a call that would run without it is none they asked for.
    if metadata.contains_key(TIMEOUT_HEADER) {
        let problem = "must be at most eight digits and one of H, M, S, m, u, n".to_owned();
        return Err(CallError::InvalidArgument { field: TIMEOUT_HEADER.to_owned(), problem });
    }
    frontend.caller(metadata.as_ref(), deadline(extensions), scope(extensions))
}

/// What there is for the caller, as the port found; everything where it asks nobody.
pub(super) fn scope(extensions: &Extensions) -> Scope {
    extensions.get::<Scope>().cloned().unwrap_or_default()
}

/// When the client stops waiting.
pub(super) fn deadline(extensions: &Extensions) -> Option<Instant> {
    extensions.get::<ClientTimeout>().map(|timeout| timeout.arrived + timeout.left)
}
