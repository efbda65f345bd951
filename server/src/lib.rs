//! The async shell around the scheduler.

pub mod call;
