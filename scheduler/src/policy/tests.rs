//! The policies, asked directly.

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU32;
use core::time::Duration;

use super::{Close, Decision, View, from_config};
use crate::company::Company;
use crate::cost::{Costs, Size};
use crate::pools::{Load, Pools, Standing};
use crate::queue::{Item, Queue, Rank};
use crate::shares::Shares;
use crate::{
    Budget, Class, CloseReason, Cost, ModelId, OnLate, PolicyConfig, RequestId, TenantId, Timestamp, WorkerId,
};

const BUDGET: Budget = Budget { rows: 32, tokens: 1_000, bytes: 10_000 };
const WORKER: WorkerId = WorkerId(1);
const ARRIVED: u64 = 100;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Requests of ten tokens and a hundred bytes that arrived together, due 50 ms later.
fn queue(rows: u64, cost: Cost) -> Queue {
    let mut queue = Queue::default();
    for id in 0..rows {
        let rank =
            Rank { late: false, class: Class::Standard, due: Timestamp::from_millis(ARRIVED + 50), id: RequestId(id) };
        let (arrived, deadline) = (Timestamp::from_millis(ARRIVED), Timestamp::MAX);
        queue.push(Item { rank, tenant: TenantId(1), arrived, deadline, cost });
    }
    queue
}

const COST: Cost = Cost { rows: 1, tokens: 10, tokens_squared: 100, bytes: 100 };

/// Batches of 4 ms and half a millisecond for each row.
fn costs() -> Costs {
    let mut costs = Costs::new(None);
    for _ in 0..20 {
        for rows in [1, 4, 8, 16, 32] {
            let size = Size { rows, tokens: rows * 10, squares: rows * 100 };
            costs.observe(WORKER, size, ms(4) + ms(rows) / 2);
        }
    }
    costs
}

fn view<'a>(now_ms: u64, queue: &'a Queue, costs: &'a Costs) -> View<'a> {
    static NOBODY: Shares = Shares::NONE;
    static NO_POOLS: Pools = Pools::EMPTY;
    View {
        hold_until: None,
        now: Timestamp::from_millis(now_ms),
        queue,
        budget: BUDGET,
        worker: WORKER,
        costs,
        company: Company::NONE,
        is_sharing: false,
        shares: &NOBODY,
        objective: ms(50),
        workers: 1,
        idle: NO_POOLS.idle(ModelId(1)),
        is_busy: true,
    }
}

fn triton(now_ms: u64, rows: u64) -> Decision {
    triton_under(BUDGET, now_ms, &queue(rows, COST))
}

fn triton_under(budget: Budget, now_ms: u64, queue: &Queue) -> Decision {
    let preferred_rows = vec![NonZeroU32::new(16).unwrap(), NonZeroU32::new(8).unwrap()];
    let config = PolicyConfig::Triton { queue_delay_max: ms(5), preferred_rows };
    from_config(&config).decide(&View { budget, ..view(now_ms, queue, &Costs::new(None)) })
}

fn learned(wait_price: u32) -> PolicyConfig {
    PolicyConfig::Learned { wait_price, waits_when_idle: false, on_late: OnLate::Serve }
}

fn close(rows_max: u32, why: CloseReason) -> Decision {
    Decision::Close(Close { rows_max, ..Close::all(why) })
}

#[test]
fn fixed_never_waits() {
    let decision = from_config(&PolicyConfig::Fixed).decide(&view(ARRIVED, &queue(1, COST), &Costs::new(None)));
    assert_eq!(decision, close(u32::MAX, CloseReason::Drained));
}

#[test]
fn triton_waits_until_the_oldest_has_waited_the_delay() {
    assert_eq!(triton(102, 3), Decision::WaitUntil(Timestamp::from_millis(105)));
    assert_eq!(triton(105, 3), close(u32::MAX, CloseReason::Delay));
}

#[test]
fn triton_closes_at_the_largest_preferred_size_that_is_queued() {
    assert_eq!(triton(100, 8), close(8, CloseReason::Preferred));
    assert_eq!(triton(100, 15), close(8, CloseReason::Preferred));
    assert_eq!(triton(100, 40), close(16, CloseReason::Preferred));
}

#[test]
fn triton_does_not_prefer_a_size_no_credit_allows() {
    let budget = Budget { rows: 4, ..BUDGET };
    assert_eq!(triton_under(budget, 100, &queue(6, COST)), close(u32::MAX, CloseReason::Rows));
}

#[test]
fn triton_closes_when_another_budget_is_full() {
    let tokens = queue(3, Cost { tokens: 400, ..COST });
    assert_eq!(triton_under(BUDGET, 100, &tokens), close(u32::MAX, CloseReason::Tokens));
    let bytes = queue(3, Cost { bytes: 4_000, ..COST });
    assert_eq!(triton_under(BUDGET, 100, &bytes), close(u32::MAX, CloseReason::Bytes));
}

#[test]
fn learned_takes_what_there_is_until_it_knows_what_batches_cost() {
    let decision = from_config(&learned(1)).decide(&view(ARRIVED, &queue(1, COST), &Costs::new(None)));
    assert_eq!(decision, close(u32::MAX, CloseReason::Drained));
}

#[test]
fn learned_waits_until_the_queue_has_waited_what_a_batch_costs_by_itself() {
    let (queue, costs) = (queue(4, COST), costs());
    let Decision::WaitUntil(until) = from_config(&learned(1)).decide(&view(ARRIVED, &queue, &costs)) else {
        panic!("four requests wait");
    };
    // Four of them have waited 4 ms in all after 1 ms.
    let waited = until.since(Timestamp::from_millis(ARRIVED));
    assert!((ms(1) / 10 * 9..=ms(1) / 10 * 11).contains(&waited), "{waited:?}");
    let later = View { now: until, ..view(ARRIVED, &queue, &costs) };
    assert!(matches!(from_config(&learned(1)).decide(&later), Decision::Close(Close { why: CloseReason::Delay, .. })));
}

#[test]
fn learned_does_not_wait_for_nothing_or_while_workers_are_mostly_idle() {
    let (queue, costs) = (queue(4, COST), costs());
    let is_at_once = |price, is_busy| {
        let view = View { is_busy, ..view(ARRIVED, &queue, &costs) };
        matches!(from_config(&learned(price)).decide(&view), Decision::Close(_))
    };
    assert!(is_at_once(0, true));
    assert!(is_at_once(1, false));
    assert!(!is_at_once(1, true));
}

#[test]
fn learned_waits_no_longer_than_the_deadline_allows() {
    let (queue, costs) = (queue(1, COST), costs());
    let Decision::WaitUntil(until) = from_config(&learned(1_000)).decide(&view(ARRIVED, &queue, &costs)) else {
        panic!("it waits");
    };
    // A batch of two takes 5 ms, and is due 50 ms after it arrived.
    let waited = until.since(Timestamp::from_millis(ARRIVED));
    assert!((ms(42)..=ms(46)).contains(&waited), "{waited:?}");
}

#[test]
fn learned_gives_batches_two_thirds_of_the_objective_with_one_worker_and_more_with_many() {
    let (queue, costs) = (queue(40, COST), costs());
    let time_max = |workers| {
        let view = View { workers, ..view(ARRIVED, &queue, &costs) };
        match from_config(&learned(0)).decide(&view) {
            Decision::Close(Close { time_max, .. }) => time_max,
            Decision::WaitUntil(_) => panic!("it has no price to pay"),
        }
    };
    assert_eq!((time_max(1), time_max(4)), (Some(ms(50) / 3 * 2), Some(ms(50) / 9 * 8)));
}

/// So many workers with nothing to do, and one that is at work but takes another batch.
fn pools(idle: u32) -> Pools {
    let mut pools = Pools::default();
    for id in 1..=idle + 1 {
        let (pool, _) = pools.join(vec![ModelId(1)]);
        let load = Load { is_stuck: false, is_suspect: false, batches: usize::from(id > idle), rows: 0 };
        pools.place(pool, WorkerId(id), Standing::NONE, Standing { free: Some(load), ..Standing::NONE });
    }
    pools
}

/// The rows of the largest batch that learned makes of a queue of so many while so many workers are idle.
fn part(rows: u64, idle: u32, price: u32, is_busy: bool) -> u64 {
    let (queue, costs, pools) = (queue(rows, COST), costs(), pools(idle));
    let view = View { idle: pools.idle(ModelId(1)), is_busy, workers: 5, ..view(ARRIVED, &queue, &costs) };
    let Decision::Close(Close { time_max: Some(time_max), why_time, .. }) = from_config(&learned(price)).decide(&view)
    else {
        panic!("it closes a batch");
    };
    let fits =
        |rows: &u64| costs.high(WORKER, Size { rows: *rows, tokens: rows * 10, squares: rows * 100 }) <= time_max;
    let most = (1..=rows).take_while(fits).count() as u64;
    assert_eq!(why_time, if most < rows { CloseReason::Spread } else { CloseReason::Objective });
    most
}

#[test]
fn learned_spreads_what_waits_over_idle_workers_as_long_as_each_part_is_worth_a_batch() {
    assert_eq!([1, 2, 3, 4].map(|idle| part(24, idle, 1, false)), [24, 12, 8, 6]);
    // A batch of its own costs 4 ms: what is in it should take the root of 4 ms times the price times half a millisecond.
    assert_eq!([1, 16].map(|price| part(24, 24, price, false)), [2, 11]);
    assert_eq!(part(24, 24, 0, false), 1, "waiting costs nothing less");
    assert_eq!(part(2, 4, 1, false), 2);
}

#[test]
fn learned_spreads_only_what_a_batch_costs_little_of_while_workers_are_busy() {
    assert_eq!(part(32, 4, 0, true), 32, "a batch of 76 ms would be a twentieth its own cost");
}

/// How many learned gives up of a queue, with workers free at these times.
fn given_up(now_ms: u64, rows: u64, budget: Budget, free_ms: &[u64]) -> usize {
    let (queue, costs) = (queue(rows, COST), costs());
    let view = View { budget, ..view(now_ms, &queue, &costs) };
    let free: Vec<_> = free_ms.iter().map(|free| (Timestamp::from_millis(*free), WORKER)).collect();
    from_config(&learned(1)).give_up(&view, &|| free.clone()).len()
}

#[test]
fn learned_gives_up_as_few_as_it_must_for_the_rest_to_be_on_time() {
    let ample = Budget { rows: 1_000, tokens: 100_000, bytes: 1 << 20 };
    // In 40 ms a batch of 72 fits, less what is kept for a bad day.
    let late = given_up(ARRIVED + 10, 100, ample, &[ARRIVED + 10]);
    assert!((26..=36).contains(&late), "{late}");
    // A second worker that is free in time takes them.
    assert_eq!(given_up(ARRIVED + 10, 100, ample, &[ARRIVED + 10, ARRIVED + 15]), 0);
    assert_eq!(given_up(ARRIVED, 40, ample, &[ARRIVED]), 0);
}

#[test]
fn learned_counts_on_another_batch_where_the_budget_keeps_batches_small() {
    // Batches of 8 rows take 8 ms: five of them in 40 ms.
    let budget = Budget { rows: 8, ..BUDGET };
    assert_eq!(given_up(ARRIVED, 40, budget, &[ARRIVED]), 0);
    assert!(given_up(ARRIVED, 80, budget, &[ARRIVED]) >= 30);
}
