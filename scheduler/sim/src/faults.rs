//! What goes wrong with workers and links, and how often. What is wrong with requests is part of the workload.

use std::time::Duration;

/// Rates of everything that may befall a worker.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// What strikes workers from time to time, and the mean time between two strikes on any of them.
    pub strikes: Vec<Strike>,
    pub strike_gap_mean: Duration,
    /// Strikes in all: a run must come to rest.
    pub strikes_max: u64,
    /// Batches in a thousand that fail with the device, or by the worker's own time limit.
    pub device_per_mille: u64,
    /// Batches in a thousand of which a sound item is not reported.
    pub mute_per_mille: u64,
    /// Replies in a thousand that come twice, or under an attempt or batch that is not theirs.
    pub echo_per_mille: u64,
    /// Loads in a thousand that fail.
    pub load_fail_per_mille: u64,
    /// Whether what a dying worker said last may be lost on the way.
    pub loses_last_words: bool,
    /// Whether what a dead worker said may arrive after it is known to be dead.
    pub delivers_late: bool,
    /// Whether the driver's timer fires late, by up to so much.
    pub timer_slack_max: Duration,
    /// Inputs in a thousand for which the driver's clock goes back.
    pub reversal_per_mille: u64,
    /// Credits in a thousand that are taken back and granted again.
    pub regrant_per_mille: u64,
}

/// What befalls one worker at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// It dies by itself.
    Crash,
    /// It is killed from outside.
    Kill,
    /// It stops, without dying, until somebody replaces it.
    Stall,
    /// Its link breaks and it connects anew before anybody notices.
    Flap,
    /// It finishes what it runs, says goodbye and restarts.
    Leave,
    /// It drops a model from memory on its own.
    Evict,
}

impl Strike {
    pub const ALL: [Self; 6] = [Self::Crash, Self::Kill, Self::Stall, Self::Flap, Self::Leave, Self::Evict];
}
