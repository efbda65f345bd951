//! Who calls, read from a gRPC request: its metadata, and the time-out that the listener took from it.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Extensions, metadata::MetadataMap};

use crate::call::{CallError, Caller};
use crate::frontend::Frontend;

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
    frontend.caller(metadata.as_ref(), deadline(extensions))
}

/// When the client stops waiting.
pub(super) fn deadline(extensions: &Extensions) -> Option<Instant> {
    extensions.get::<ClientTimeout>().map(|timeout| timeout.arrived + timeout.left)
}
