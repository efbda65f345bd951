//! Never waits: late binding alone lets batches grow while workers are busy.

use super::{BatchPolicy, Close, Decision, View};
use crate::CloseReason;

/// Closes as soon as there is a credit, with all that fits.
#[derive(Debug)]
pub(super) struct Fixed;

impl BatchPolicy for Fixed {
    fn decide(&self, _view: &View<'_>) -> Decision {
        Decision::Close(Close::all(CloseReason::Drained))
    }
}
