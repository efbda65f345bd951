//! The worker link as it was when its first version was pinned, to the byte: what a server or a worker of that day says
//! and understands. Tests hold today's server against such a worker, and today's worker against such a server.
//!
//! `link.proto` here is never edited. When the link gets a version of its own number, the last message set of the one
//! before is pinned in its place, and the tests then prove the step between the two.

#![allow(
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code is not ours to lint"
)]

tonic::include_proto!("shoal.link.v1");

/// The version it describes.
pub const PROTOCOL: u32 = 1;
