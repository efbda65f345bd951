//! Named places on a call's path where a test can delay, cut or hold it. In builds with debug assertions only: release
//! builds have none of it, not even the variable's name.
//!
//! ```sh
//! SHOAL_FAILPOINTS="link-run=1*drop;batch-end=delay(500ms)" shoal serve …
//! ```
//!
//! | point | where | actions |
//! |---|---|---|
//! | `dispatch` | workers' credits on their way to the scheduler | `hold(N)`: the first ones wait until N calls have come |
//! | `link-run` | a batch is about to be sent to its worker | `delay(TIME)`, `until(FILE)`, `drop` |
//! | `results` | a worker's results are about to be told to the driver | `delay(TIME)`, `until(FILE)`, `drop` |
//! | `batch-end` | results are told, the end of their batch is about to be | `delay(TIME)`, `until(FILE)`, `drop` |
//! | `probe` | a model is about to be calibrated | `drop`: it is not |
//! | `batch-ended` | the end of the batch is told as well | `delay(TIME)`, `until(FILE)`, `drop` |
//!
//! `until` waits for a file of that name, for as long as it takes; a worker that hears nothing for some seconds
//! meanwhile dials anew. `drop` ends the worker's connection there. `3*` before an action lets it act three times, then
//! never again.
//!
//! Our own rather than the `fail` crate's: its delays and pauses block the thread, and here one thread runs the driver
//! and every worker's connection.

#[cfg(debug_assertions)]
mod armed;

#[cfg(debug_assertions)]
pub(crate) use armed::{Gate, are_probes_dropped, reach};

/// A place on the path of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    LinkRun,
    Results,
    BatchEnd,
    BatchEnded,
}

/// The connection is to be cut here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

/// Nothing ever happens here.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "as in builds where something does")]
pub(crate) async fn reach(_: Point) -> Result<(), Cut> {
    Ok(())
}

/// They never are.
#[cfg(not(debug_assertions))]
pub(crate) fn are_probes_dropped() -> bool {
    false
}

/// Lets every event pass.
#[cfg(not(debug_assertions))]
#[derive(Debug, Default)]
pub(crate) struct Gate;

#[cfg(not(debug_assertions))]
impl Gate {
    pub(crate) fn pass(&mut self, event: crate::driver::Event, mut apply: impl FnMut(crate::driver::Event)) {
        apply(event);
    }
}
