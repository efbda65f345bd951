//! The client-facing gRPC services: validate, put it to the front end, answer.
//!
//! This folder names the wire; it never names the scheduler's machine, nor the HTTP services.

mod admin;
mod body_by;
mod body_until;
mod caller;
mod health;
mod inference;
mod listen;
mod oip;
mod scaler;
mod status;
mod unreadable;

pub use admin::AdminService;
pub use health::HealthGate;
pub use inference::InferenceService;
pub use listen::{Listener, ListenerOptions};
pub use oip::OipService;
pub use scaler::ScalerService;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
