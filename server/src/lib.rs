//! The async shell around the scheduler.

pub mod call;
pub mod card;
pub mod driver;
pub mod link;
pub mod metrics;
pub mod models;
pub mod oip;
pub mod registry;
pub mod supervisor;
pub mod telemetry;
pub mod tokenize;
