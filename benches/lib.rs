//! Benchmarks of Shoal, each a program of its own under `benches/`:
//!
//! - `scheduler`: time per request spent deciding, with little and with much queued.
//! - `copies`: how often a payload is copied on its way through server and worker.
//!
//! `cargo bench -p shoal-benches --bench scheduler`. Nothing depends on this crate.
