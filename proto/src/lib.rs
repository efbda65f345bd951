//! Shoal's wire formats, generated from the .proto files beside this crate, and nothing else: no logic, no conversions.

#![allow(
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code is not ours to lint"
)]

/// Every file's descriptors, as reflection serves them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));

/// The Open Inference Protocol with Triton's extensions.
pub mod inference {
    tonic::include_proto!("inference");
}

/// Calls of Shoal's own.
pub mod v1 {
    tonic::include_proto!("shoal.v1");
}

/// The link between a server and its workers.
pub mod link {
    tonic::include_proto!("shoal.link.v1");
}
