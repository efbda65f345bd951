//! Whether a second credit pays: how long the device would stand idle between two batches if there were only one.
//!
//! With one credit, the gap between two batches is the time from granting the credit to the last byte of the batch that
//! spends it. That time can be seen with two credits out as well, so the choice does not chase its own tail. It is made
//! of two parts. The *turnaround* is from the grant to the first byte, less the time for which the server says it held
//! the credit: until somebody asked, or for a fuller batch. One that is long against the link's round trip all the same
//! says more of a busy machine than of the link, and is left out. The *transfer*, from the first byte to the last, is
//! always known.

use std::time::Duration;

/// Weight of a new sample in the averages.
const WEIGHT: f64 = 0.2;
/// A second credit pays from this part of a batch's time on,
const GAP_HIGH: f64 = 0.1;
/// and until the gap falls below this one.
const GAP_LOW: f64 = 0.05;
/// How many gaps before the end of a batch the next is asked for: some take longer than the mean.
const GAPS_AHEAD: f64 = 2.0;
/// Turnarounds below this count as prompt whatever the round trip is.
const PROMPT: Duration = Duration::from_millis(2);
/// Turnarounds of so many round trips still count as prompt: the server forms the batch and reads its payload.
const PROMPT_ROUND_TRIPS: u32 = 8;

/// Moving averages of what the link and the device take.
#[derive(Debug, Default)]
pub(super) struct Pace {
    turnaround: Average,
    transfer: Average,
    batch: Average,
    round_trip: Duration,
    two: bool,
}

impl Pace {
    /// A credit was spent so long after it was granted, the time for which the server held it apart.
    pub(super) fn spent(&mut self, turnaround: Duration) {
        if turnaround <= PROMPT.max(self.round_trip * PROMPT_ROUND_TRIPS) {
            self.turnaround.add(turnaround);
        }
    }

    /// A batch took so long from its first byte to its last.
    pub(super) fn transferred(&mut self, transfer: Duration) {
        self.transfer.add(transfer);
    }

    /// A batch kept the device busy for so long.
    pub(super) fn computed(&mut self, batch: Duration) {
        self.batch.add(batch);
        let (Some(turnaround), Some(batch)) = (self.turnaround.0, self.batch.0) else { return };
        let gap = turnaround + self.transfer.0.unwrap_or(0.0);
        let bound = if self.two { GAP_LOW } else { GAP_HIGH };
        self.two = gap > bound * batch;
    }

    pub(super) fn round_trip(&mut self, took: Duration) {
        self.round_trip = took;
    }

    pub(super) fn wants_two(&self) -> bool {
        self.two
    }

    /// How long after a batch began the next is to be asked for, so that it is there when the device is free, and no sooner
    /// than that takes: what is asked for early is what had come by then.
    pub(super) fn asks_after(&self) -> Duration {
        let (Some(turnaround), Some(batch)) = (self.turnaround.0, self.batch.0) else { return Duration::ZERO };
        let gap = turnaround + self.transfer.0.unwrap_or(0.0);
        Duration::from_secs_f64((batch - GAPS_AHEAD * gap).max(0.0))
    }
}

/// An exponentially weighted moving average, in seconds; none before the first sample.
#[derive(Clone, Copy, Debug, Default)]
struct Average(Option<f64>);

impl Average {
    fn add(&mut self, sample: Duration) {
        let sample = sample.as_secs_f64();
        self.0 = Some(self.0.map_or(sample, |mean| mean + WEIGHT * (sample - mean)));
    }
}
