#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod config;
mod event;
mod id;
mod time;

pub use config::{Limits, ModelConfig, PolicyConfig};
pub use event::{
    BatchFailure, Budget, Class, CloseReason, Cost, Dispatch, DownCause, Explanation, Failure, Group, Input,
    ItemOutcome, ModelState, Output, QueueLimit, Reject, Request, Waiting, Wake,
};
pub use id::{Attempt, BatchId, Epoch, GroupId, ModelId, RequestId, Slot, TenantId, WorkerId};
pub use time::Timestamp;
