//! Shoal's wire formats, generated from the .proto files beside this crate, and the limits that belong to them, with
//! the codec that keeps one of them. Nothing else: no logic, no conversions.

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

pub mod codec;

/// The Open Inference Protocol with Triton's extensions.
pub mod inference {
    tonic::include_proto!("inference");
}

/// Calls of Shoal's own.
pub mod v1 {
    tonic::include_proto!("shoal.v1");
}

/// What KEDA asks who says how many pods there should be.
pub mod externalscaler {
    tonic::include_proto!("externalscaler");
}

/// The link between a server and its workers.
pub mod link {
    tonic::include_proto!("shoal.link.v1");

    /// The column that holds the token ids to score, in a Run of a model that fills masks.
    pub const TARGETS: &str = "targets";

    /// What both ends of the link hold to, beside what link.proto says. Part of the protocol: another value is another
    /// version.
    pub mod limits {
        /// The version that link.proto describes.
        pub const PROTOCOL: u32 = 1;
        /// The earliest version that both ends still speak.
        pub const PROTOCOL_MIN: u32 = 1;
        /// Payload bytes of one message at most. In a Run, what is said of rows and columns counts as well, as long as
        /// it leaves room.
        pub const FRAME_BYTES: usize = 1 << 20;
        /// Bytes of one encoded message at most: a frame, and another of what is said about it.
        pub const MESSAGE_BYTES_MAX: usize = 2 * FRAME_BYTES;
        /// Bytes of one tensor or artifact at most.
        pub const PAYLOAD_BYTES_MAX: u64 = 256 << 20;
        /// Bytes of an Item's `traceparent` at most; a longer one is left out.
        pub const TRACEPARENT_BYTES_MAX: usize = 128;
        /// Bytes of an Item's `tracestate` at most; a longer one is left out, as are all those of a Run that would not
        /// fit a frame with them.
        pub const TRACESTATE_BYTES_MAX: usize = 512;
        /// Seconds after Goodbye in which the last results are read.
        pub const FAREWELL_SECONDS_MAX: u64 = 2;
    }
}
