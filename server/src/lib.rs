//! The async shell around the scheduler.
