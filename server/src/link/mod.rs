//! The server's side of the worker link: who may attach, and one session per worker.
//!
//! Only this folder knows the link's wire types; it hands the driver events in the server's own words.

mod convert;
mod door;
mod frames;
mod guest;
mod listen;
mod service;
mod session;
mod tokens;

#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;

pub use listen::{LinkAddress, serve};
pub use service::{LinkOptions, LinkService};
pub use tokens::{SharedTokens, Tokens};
