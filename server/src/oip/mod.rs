//! The Open Inference Protocol with Triton's extensions, as far as it is pure: reading and checking requests, shaping
//! answers, describing models, counting, settings. Left out: the service itself, tokenising, the driver, clocks. Nothing
//! here waits, and nothing here knows who asks.
//!
//! How a service uses it:
//!
//! 1. [`Signature::new`] from the model's card.
//! 2. Per call: [`InferRequest::parse`]; tokenise a [`Payload::Texts`] or take the rows of a [`Payload::Rows`]; run the
//!    call; [`ReplyForm::response`]. On a stream wrap either end with [`stream_answer`] or [`stream_failure`].
//! 3. [`Statistics`], [`TraceSettings`] and [`LogSettings`] are state to keep; [`server_metadata`], [`model_metadata`],
//!    [`model_config`], [`repository_index`], [`load_request`] and [`unload_request`] are functions.
//!
//! Every refusal is a [`CallError`] whose `field` is a path in the request message, such as
//! `inputs[0].shape` or `parameters.timeout`. What a client wrote is quoted in bounded length, so that an error always
//! fits a gRPC status.
//!
//! The shared-memory calls have nothing here: they are UNIMPLEMENTED.

mod data_type;
mod input;
mod log_settings;
mod metadata;
mod options;
mod quote;
mod repository;
mod request;
mod response;
mod signature;
mod statistics;
mod text;
mod trace_settings;

pub use log_settings::LogSettings;
pub use metadata::{model_config, model_metadata, server_metadata};
pub use options::{Options, timeout};
pub(crate) use quote::Short;
pub use repository::{load_request, repository_index, unload_request};
pub use request::{InferRequest, Limits, Payload};
pub use response::{GRPC_ERROR_METADATA, ReplyForm, Usage, stream_answer, stream_failure};
pub use signature::{Inputs, Signature, SignatureError};
pub use statistics::{BatchTimes, CallTimes, Statistics};
pub use trace_settings::{TraceChange, TraceDefaults, TraceLevel, TraceSampler, TraceSettings};

use crate::call::CallError;

/// The caller's input at `field`, a path in the request message, is wrong.
fn invalid(field: impl Into<String>, problem: impl Into<String>) -> CallError {
    CallError::InvalidArgument { field: field.into(), problem: problem.into() }
}

/// The caller asks for something of the protocol that this server does not do.
fn not_offered(what: impl Into<String>) -> CallError {
    CallError::Unimplemented { what: what.into() }
}

#[cfg(test)]
mod testing;
