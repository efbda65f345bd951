//! The other end of the line: programs that call a running server over gRPC, as any client would.
//!
//! Nothing here reaches into the server; it speaks only what is in `shoal-proto`.

mod address;
mod ask;
pub mod classify;
mod credentials;
mod deadline;
pub mod demo;
pub mod embed;
pub mod explain;
pub mod fill_mask;
pub mod load;
pub mod rerank;
pub mod sentences;
mod vector;

#[cfg(test)]
mod testing;

pub use address::{Address, AddressError, ConnectError};
pub use credentials::{Bearer, Credentials, Line};
pub use demo::run as demo;
