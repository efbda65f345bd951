//! The two policies, asked directly.

use alloc::vec;
use core::num::NonZeroU32;
use core::time::Duration;

use super::{Close, Decision, from_config};
use crate::queue::QueueView;
use crate::{Budget, CloseReason, PolicyConfig, Timestamp};

fn view(rows: u64) -> QueueView {
    let budget = Budget { rows: 32, tokens: 1_000, bytes: 10_000 };
    QueueView { oldest: Timestamp::from_millis(100), rows, tokens: rows * 10, bytes: rows * 100, budget }
}

fn triton(now_ms: u64, view: QueueView) -> Decision {
    let preferred_rows = vec![NonZeroU32::new(16).unwrap(), NonZeroU32::new(8).unwrap()];
    let config = PolicyConfig::Triton { queue_delay_max: Duration::from_millis(5), preferred_rows };
    from_config(&config).decide(Timestamp::from_millis(now_ms), &view)
}

fn close(rows_max: u32, why: CloseReason) -> Decision {
    Decision::Close(Close { rows_max, why })
}

#[test]
fn fixed_never_waits() {
    let decision = from_config(&PolicyConfig::Fixed).decide(Timestamp::from_millis(100), &view(1));
    assert_eq!(decision, close(u32::MAX, CloseReason::Drained));
}

#[test]
fn triton_waits_until_the_oldest_has_waited_the_delay() {
    assert_eq!(triton(102, view(3)), Decision::WaitUntil(Timestamp::from_millis(105)));
    assert_eq!(triton(105, view(3)), close(u32::MAX, CloseReason::Delay));
}

#[test]
fn triton_closes_at_the_largest_preferred_size_that_is_queued() {
    assert_eq!(triton(100, view(8)), close(8, CloseReason::Preferred));
    assert_eq!(triton(100, view(15)), close(8, CloseReason::Preferred));
    assert_eq!(triton(100, view(40)), close(16, CloseReason::Preferred));
}

#[test]
fn triton_does_not_prefer_a_size_no_credit_allows() {
    let budget = Budget { rows: 4, ..view(6).budget };
    assert_eq!(triton(100, QueueView { budget, ..view(6) }), close(u32::MAX, CloseReason::Rows));
}

#[test]
fn triton_closes_when_another_budget_is_full() {
    assert_eq!(triton(100, QueueView { tokens: 1_000, ..view(3) }), close(u32::MAX, CloseReason::Tokens));
    assert_eq!(triton(100, QueueView { bytes: 10_000, ..view(3) }), close(u32::MAX, CloseReason::Bytes));
}
