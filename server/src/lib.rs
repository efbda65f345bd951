//! The async shell around the scheduler.

pub mod admin;
pub mod artifacts;
pub mod call;
pub mod card;
pub mod cli;
pub mod client;
pub mod config;
pub mod costs;
pub mod driver;
pub mod explain;
mod failpoints;
pub mod frontend;
pub mod http;
mod ids;
pub mod lanes;
pub mod link;
pub mod listen;
pub mod metrics;
pub mod models;
pub mod oip;
pub mod plan;
pub mod registry;
pub mod rpc;
pub mod server;
pub mod supervisor;
pub mod telemetry;
pub mod tokenize;
