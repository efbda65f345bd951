//! Workers that serve other schedulers as well.

use super::*;
use crate::cost::Size;
use crate::{BatchCost, OnLate, Turn, TurnKind, Want};

fn shared(models: Vec<ModelConfig>) -> Stage {
    let mut stage = Stage::new(Limits { workers_are_shared: true, ..Limits::default() }, models);
    stage.ready(WORKER);
    stage
}

/// Batches of 4 ms and half a millisecond a row, to be answered within 50 ms.
fn learned(wait_price: u32) -> ModelConfig {
    let policy = PolicyConfig::Learned { wait_price, waits_when_idle: true, on_late: OnLate::Serve };
    let cost = Some(BatchCost { base_ns: 4_000_000, row_ns: 500_000, ..BatchCost::default() });
    ModelConfig { objective: ms(50), policy, cost, ..config(MODEL) }
}

fn rows(rows: u64) -> Size {
    Size { rows, tokens: rows * 10, squares: rows * 100 }
}

impl Stage {
    fn turn(&mut self, slot: u32, kind: TurnKind, own: Size, others: Size) -> Vec<Output> {
        let epoch = self.epoch_of(WORKER);
        let turn = Turn { worker: WORKER, epoch, slot: Slot(slot), model: MODEL, budget: AMPLE, kind, own, others };
        self.tell(Input::WorkerTurn(turn))
    }

    /// The same of any worker, for so many rows and with nobody else.
    fn turn_of(&mut self, worker: WorkerId, slot: u32, kind: TurnKind, own: u64) -> Vec<Output> {
        let (epoch, own, others) = (self.epoch_of(worker), rows(own), rows(0));
        let turn = Turn { worker, epoch, slot: Slot(slot), model: MODEL, budget: AMPLE, kind, own, others };
        self.tell(Input::WorkerTurn(turn))
    }

    /// A turn for what can be on time, with nobody else.
    fn turn_alone(&mut self, slot: u32) -> Vec<Output> {
        self.turn(slot, TurnKind::OnTime(Class::Standard), rows(1), rows(0))
    }

    fn begun(&mut self, of: &Dispatch, others: Size, waited: Duration) -> Vec<Output> {
        let (worker, epoch, batch, attempt) = (of.worker, of.epoch, of.batch, of.attempt);
        self.tell(Input::BatchBegun { worker, epoch, batch, attempt, others, waited })
    }
}

fn bids(outputs: &[Output]) -> Vec<Option<Want>> {
    let bid = |output: &Output| if let Output::Bid { want, .. } = output { Some(*want) } else { None };
    outputs.iter().filter_map(bid).collect()
}

fn has_passed(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Pass { .. }))
}

#[test]
fn asks_for_a_turn_instead_of_waiting_for_a_credit() {
    let mut stage = shared(vec![config(MODEL)]);
    let outputs = stage.submit(call(1, [1, 2]));
    let [Some(want)] = bids(&outputs)[..] else { panic!("one bid of {outputs:?}") };
    assert_eq!((want.class, want.on_time, want.late.rows, want.is_apart), (Class::Standard, rows(2), 0, false));
    let outputs = stage.turn_alone(1);
    assert_eq!(ids(&only_dispatch(outputs.clone())), [1, 2]);
    assert_eq!(bids(&outputs), [], "the turn took the bid back");
}

#[test]
fn says_nothing_of_the_kind_where_workers_serve_it_alone() {
    let mut stage = Stage::with_worker();
    assert_eq!(stage.submit(call(1, [1])), []);
    assert_eq!(dispatches(&stage.credit(WORKER, 0, AMPLE)).len(), 1);
}

#[test]
fn a_turn_is_answered_at_once_and_never_kept() {
    let mut stage = shared(vec![config(MODEL)]);
    assert!(has_passed(&stage.turn_alone(1)));
    let outputs = stage.submit(call(1, [1]));
    assert_eq!((dispatches(&outputs), bids(&outputs).len()), (vec![], 1));
    assert_eq!(stage.core.counts().credits, 0);
}

#[test]
fn little_more_is_not_told_and_much_more_is() {
    let mut stage = shared(vec![config(MODEL)]);
    let told = (1..=64).map(|id| bids(&stage.submit(call(id, [id]))).len()).sum::<usize>();
    assert!((8..=20).contains(&told), "{told} bids for 64 requests");
}

#[test]
fn a_policy_that_waits_asks_for_nothing_until_it_would_close() {
    let mut stage = shared(vec![learned(1)]);
    assert_eq!(bids(&stage.submit(call(1, [1]))), []);
    let wake = stage.core.poll_timeout().expect("it wakes").0;
    assert_eq!(wake.since(stage.now), ms(4), "when one request has waited what a batch costs");
    assert_eq!(bids(&stage.pass(4)).len(), 1);
}

#[test]
fn what_others_begin_it_joins_without_waiting() {
    let mut stage = shared(vec![learned(1)]);
    stage.submit(call(1, [1]));
    let outputs = stage.turn(1, TurnKind::OnTime(Class::Standard), rows(1), rows(3));
    assert_eq!(ids(&only_dispatch(outputs)), [1]);
}

#[test]
fn takes_the_part_of_its_queue_that_fits_if_others_take_the_same_part_of_theirs() {
    let taken = |others| {
        let mut stage = shared(vec![learned(0)]);
        (1..=40).for_each(|id| _ = stage.submit(call(id, [id])));
        only_dispatch(stage.turn(1, TurnKind::OnTime(Class::Standard), rows(40), rows(others))).requests.len()
    };
    // Two thirds of 50 ms, and half of that again for safety while batches were not seen: 22 ms.
    assert_eq!((taken(0), taken(40), taken(80)), (36, 18, 12));
}

#[test]
fn what_is_late_is_told_as_late_and_runs_in_its_own_turns() {
    let mut stage = shared(vec![learned(0)]);
    stage.submit(call(1, [1]));
    // 4.5 ms, and half of it for safety, before it is due.
    let outputs = stage.pass(46);
    assert!(outputs.contains(&Output::Late { request: RequestId(1) }), "{outputs:?}");
    let [Some(want)] = bids(&outputs)[..] else { panic!("one bid of {outputs:?}") };
    assert_eq!((want.on_time.rows, want.late), (0, rows(1)));
    assert!(has_passed(&stage.turn_alone(1)));
    let outputs = stage.turn(2, TurnKind::Late, rows(1), rows(0));
    assert_eq!(ids(&only_dispatch(outputs)), [1]);
}

#[test]
fn one_that_is_late_hurries_nobody_who_waits_for_a_fuller_batch() {
    let mut stage = shared(vec![learned(1)]);
    stage.submit(call(1, [1]));
    stage.pass(46);
    let outputs = stage.submit(call(2, [2]));
    assert_eq!(bids(&outputs), [], "that one is late was told: {outputs:?}");
    assert!(has_passed(&stage.turn_alone(1)));
    // When it has waited what a batch costs.
    let [Some(want)] = bids(&stage.pass(4))[..] else { panic!("one bid") };
    assert_eq!((want.on_time, want.late), (rows(1), rows(1)));
}

#[test]
fn a_worker_that_is_too_slow_for_who_can_be_on_time_is_asked_for_who_cannot() {
    let mut stage = shared(vec![learned(0)]);
    stage.ready(OTHER_WORKER);
    let mut id = 0;
    for (worker, takes, batches) in [(WORKER, 5, 40), (OTHER_WORKER, 80, 6)] {
        for _ in 0..batches {
            id += 1;
            stage.submit(call(id, [id]));
            let batch = only_dispatch(stage.turn_of(worker, id as u32, TurnKind::OnTime(Class::Standard), 1));
            stage.begun(&batch, rows(0), ms(0));
            stage.pass(takes);
            stage.finish(&batch);
        }
    }
    stage.submit(call(1_000, [1_000]));
    let outputs = stage.pass(49);
    assert!(outputs.contains(&Output::Late { request: RequestId(1_000) }), "{outputs:?}");
    stage.submit(call(1_001, [1_001]));
    let told = |worker| stage.core.bids.iter().find(|(of, ..)| *of == worker).map(|(.., want)| *want);
    let sizes = |want: Want| (want.on_time, want.late, want.classes[Class::Standard as usize]);
    assert_eq!(told(WORKER).map(sizes), Some((rows(1), rows(1), true)));
    assert_eq!(told(OTHER_WORKER).map(sizes), Some((rows(0), rows(1), false)));
    let outputs = stage.turn_of(OTHER_WORKER, 2_000, TurnKind::Late, 1);
    assert_eq!(ids(&only_dispatch(outputs)), [1_000]);
}

#[test]
fn what_was_told_is_taken_back_when_nothing_is_left() {
    let mut stage = shared(vec![config(MODEL)]);
    stage.submit(call(1, [1]));
    assert_eq!(bids(&stage.tell(Input::Cancel(GroupId(1)))), [None]);
    stage.submit(call(2, [2]));
    let outputs = stage.tell(Input::ConfigChanged(vec![]));
    assert_eq!(bids(&outputs), [None], "{outputs:?}");
}

#[test]
fn a_worker_that_comes_back_is_told_anew() {
    let mut stage = shared(vec![config(MODEL)]);
    stage.submit(call(1, [1]));
    assert_eq!(bids(&stage.down(WORKER, DownCause::Lost)), []);
    stage.up(WORKER);
    let outputs = stage.model(WORKER, MODEL, ModelState::Ready);
    assert_eq!(bids(&outputs).len(), 1);
}

#[test]
fn every_worker_is_asked_and_the_first_to_give_a_turn_gets_it() {
    let mut stage = shared(vec![config(MODEL)]);
    stage.ready(OTHER_WORKER);
    assert_eq!(bids(&stage.submit(call(1, [1]))).len(), 2);
    let outputs = stage.turn_alone(1);
    assert_eq!(only_dispatch(outputs.clone()).worker, WORKER);
    assert_eq!(bids(&outputs), [None], "the other is told that it is not wanted any more");
}

#[test]
fn one_alone_in_its_part_of_a_broken_batch_is_not_guilty_yet() {
    let mut stage = shared(vec![config(MODEL)]);
    stage.submit(call(1, [1]));
    let batch = only_dispatch(stage.turn(1, TurnKind::OnTime(Class::Standard), rows(1), rows(5)));
    stage.begun(&batch, rows(5), ms(0));
    let outputs = stage.fail(&batch, BatchFailure::Item);
    let [Some(want)] = bids(&outputs)[..] else { panic!("one bid of {outputs:?}") };
    assert!(want.is_apart, "it is to run by itself");
    assert!(has_passed(&stage.turn_alone(2)), "and never with others");
    let batch = only_dispatch(stage.turn(3, TurnKind::Apart, rows(0), rows(0)));
    stage.begun(&batch, rows(0), ms(0));
    assert_eq!(stage.fail(&batch, BatchFailure::Item), [failed(1, Failure::Poison)]);
}

#[test]
fn a_crash_while_others_run_accuses_nobody() {
    let mut stage = shared(vec![config(MODEL)]);
    stage.submit(call(1, [1]));
    only_dispatch(stage.turn_alone(1));
    assert_eq!(stage.down(WORKER, DownCause::Crashed), []);
    assert_eq!(stage.core.queue(MODEL).map(|queue| queue.requests), Some(1));
    stage.ready(WORKER);
    let batch = only_dispatch(stage.turn_alone(1));
    stage.begun(&batch, rows(0), ms(0));
    assert_eq!(stage.down(WORKER, DownCause::Crashed), [failed(1, Failure::Poison)]);
}

#[test]
fn learns_what_the_whole_batch_took_without_the_time_it_lay_there() {
    let mut stage = shared(vec![learned(0)]);
    for id in 1..=40 {
        stage.submit(call(id, [id]));
        let batch = only_dispatch(stage.turn(id as u32, TurnKind::OnTime(Class::Standard), rows(1), rows(9)));
        stage.pass(20);
        stage.begun(&batch, rows(9), ms(20));
        // 4 ms and half a millisecond for each of ten rows.
        stage.pass(9);
        stage.finish(&batch);
    }
    let costs = &stage.core.models[&MODEL].costs;
    let found = costs.expected(WORKER, Size { rows: 10, tokens: 100, squares: 1_000 });
    assert!(found.abs_diff(ms(9)) < Duration::from_micros(200), "{found:?}");
}

#[test]
fn an_answer_to_a_turn_of_an_old_life_is_none() {
    let mut stage = shared(vec![config(MODEL)]);
    stage.submit(call(1, [1]));
    let turn = |epoch| Turn {
        worker: WORKER,
        epoch: Epoch(epoch),
        slot: Slot(1),
        model: MODEL,
        budget: AMPLE,
        kind: TurnKind::OnTime(Class::Standard),
        own: rows(1),
        others: rows(0),
    };
    assert_eq!(stage.tell(Input::WorkerTurn(turn(0))), []);
    assert_eq!(stage.dropped(), 1);
}
