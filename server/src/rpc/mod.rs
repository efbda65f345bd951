//! The client-facing gRPC services: validate, tokenise, submit, answer.
//!
//! This folder names the wire and the driver's handle; it never names the scheduler's machine.

mod body_by;
mod body_until;
mod caller;
mod frontend;
mod health;
mod inference;
mod listen;
mod oip;
mod open_calls;
mod status;

pub use frontend::{Frontend, FrontendOptions};
pub use health::HealthGate;
pub use inference::InferenceService;
pub use listen::{Listener, ListenerOptions};
pub use oip::OipService;

#[cfg(test)]
mod tests;
