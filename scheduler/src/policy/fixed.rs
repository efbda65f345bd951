//! Never waits: late binding alone lets batches grow while workers are busy.

use super::{BatchPolicy, Close, Decision};
use crate::queue::QueueView;
use crate::{CloseReason, Timestamp};

/// Closes as soon as there is a credit, with all that fits.
#[derive(Debug)]
pub(super) struct Fixed;

impl BatchPolicy for Fixed {
    fn decide(&self, _now: Timestamp, _queue: &QueueView) -> Decision {
        Decision::Close(Close { rows_max: u32::MAX, why: CloseReason::Drained })
    }
}
