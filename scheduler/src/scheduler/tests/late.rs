//! Who cannot be on time any more.

use super::*;
use crate::{BatchCost, OnLate};

/// Batches are known to take 4 ms and half a millisecond for each row; until some have run, half as much again is
/// reckoned with. The objective is 100 ms.
fn learned(on_late: OnLate) -> ModelConfig {
    ModelConfig {
        policy: PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late },
        cost: Some(BatchCost { base_ns: 4_000_000, row_ns: 500_000, ..BatchCost::default() }),
        batch_rows_max: NonZeroU32::new(1_000).unwrap(),
        batch_tokens_max: NonZeroU32::new(1_000_000).unwrap(),
        ..config(MODEL)
    }
}

fn stage(model: ModelConfig) -> Stage {
    let mut stage = Stage::new(Limits::default(), vec![model]);
    stage.ready(WORKER);
    stage
}

/// Two workers, one of which was found to take nine times as long as the other.
fn with_slow(slow: WorkerId, quick: WorkerId) -> Stage {
    let mut stage = stage(learned(OnLate::Serve));
    stage.ready(OTHER_WORKER);
    for id in 1..=20 {
        // As long as it is not known how slow it is, it is only tried now and then.
        stage.pass(300);
        for (worker, id, millis) in [(quick, 2 * id, 5), (slow, 2 * id + 1, 45)] {
            stage.queue([id]);
            let batch = only_dispatch(stage.credit(worker, 0, AMPLE));
            stage.pass(millis);
            stage.finish(&batch);
        }
    }
    stage
}

fn late(request: u64) -> Output {
    Output::Late { request: RequestId(request) }
}

fn shed(outputs: &[Output]) -> Vec<u64> {
    let of = |output: &Output| match output {
        Output::Fail { request, why: Failure::Shed { retry_after } } => {
            assert!(*retry_after >= ms(10));
            Some(request.0)
        }
        _ => None,
    };
    outputs.iter().filter_map(of).collect()
}

#[test]
fn who_cannot_be_on_time_waits_behind_who_can() {
    let mut stage = stage(learned(OnLate::Serve));
    stage.queue([1]);
    stage.pass(97);
    stage.queue([2]);
    let outputs = stage.credit(WORKER, 0, AMPLE);
    assert_eq!(outputs[0], late(1));
    let first = only_dispatch(outputs);
    assert_eq!(ids(&first), [2]);
    stage.finish(&first);
    assert_eq!(ids(&stage.take(WORKER)), [1]);
}

#[test]
fn a_batch_of_late_requests_is_short() {
    let mut stage = stage(learned(OnLate::Serve));
    stage.queue(1..=200);
    stage.pass(99);
    let batch = only_dispatch(stage.credit(WORKER, 0, AMPLE));
    // An eighth of the objective, reckoned with care: (12.5 / 1.5 - 4) / 0.5.
    assert_eq!(batch.requests.len(), 8);
    assert_eq!(batch.close, CloseReason::Late);
}

#[test]
fn a_model_that_sheds_fails_who_cannot_be_on_time() {
    let mut stage = stage(learned(OnLate::Shed));
    stage.queue([1]);
    stage.pass(97);
    stage.queue([2]);
    let outputs = stage.credit(WORKER, 0, AMPLE);
    assert_eq!(shed(&outputs), [1]);
    assert_eq!(ids(&only_dispatch(outputs)), [2]);
}

#[test]
fn of_more_than_a_round_takes_the_first_have_the_least_time_left_and_go() {
    let mut stage = stage(learned(OnLate::Shed));
    stage.queue(1..=100);
    stage.pass(50);
    stage.queue(101..=150);
    let outputs = stage.credit(WORKER, 0, AMPLE);
    let gone = shed(&outputs);
    // What is left is due in 100 ms and takes (4 + 0.5 · 50) · 1.5 ms, so some of the first can still go with it.
    assert!(gone.iter().copied().eq(1..=gone.len() as u64), "{gone:?}");
    assert!((80..=100).contains(&gone.len()), "{} of 150", gone.len());
}

#[test]
fn a_flood_gives_its_own_requests_up() {
    let mut stage = stage(learned(OnLate::Shed));
    let of = |tenant: u32, id: u64| Group { tenant: TenantId(tenant), ..call(id, [id]) };
    for id in 1..=4 {
        stage.submit(of(1, id));
    }
    for id in 5..=400 {
        stage.submit(of(2, id));
    }
    let outputs = stage.credit(WORKER, 0, AMPLE);
    let gone = shed(&outputs);
    assert!(!gone.is_empty() && gone.iter().all(|id| *id > 4), "{gone:?}");
    assert!(ids(&only_dispatch(outputs)).starts_with(&[1, 2, 3, 4]));
}

/// A worker that was slow for a while, and is quick again.
#[test]
fn who_gives_everybody_up_tries_one_at_times_and_hears_that_workers_are_quick_again() {
    let patient = |stage: &Stage, id: u64| Group { deadline: Some(stage.now + ms(60_000)), ..call(id, [id]) };
    let hurried = |stage: &Stage, id: u64| Group { deadline: Some(stage.now + ms(50)), ..call(id, [id]) };
    for (on_late, ask) in [(OnLate::Shed, &patient as &dyn Fn(&Stage, u64) -> Group), (OnLate::Serve, &hurried)] {
        let mut stage = stage(learned(on_late));
        stage.queue([20]);
        let slow = only_dispatch(stage.credit(WORKER, 0, AMPLE));
        stage.pass(200);
        stage.finish(&slow);
        stage.credit(WORKER, 0, AMPLE);
        let (mut tried, mut answered) = (Vec::new(), 0);
        for id in 21..=400 {
            let asked = ask(&stage, id);
            for batch in dispatches(&stage.submit(asked)) {
                tried.push(id);
                stage.pass(5);
                answered += batch.requests.len();
                stage.finish(&batch);
                stage.credit(WORKER, 0, AMPLE);
            }
            stage.pass(100);
        }
        assert!((3..=6).contains(&(tried[0] - 20)), "the first after twice what it should take: {tried:?}");
        assert!(answered > 370, "{on_late:?}: {answered} of 380, at {tried:?}");
        assert_eq!(tried[tried.len() - 20..], (381..=400).collect::<Vec<_>>(), "{on_late:?}: by then all are on time");
    }
}

/// One batch in sixteen takes nearly three times as long, so that nobody is certain to be on time.
#[test]
fn nobody_is_given_up_to_an_idle_worker_that_would_probably_be_in_time() {
    let cost = Some(BatchCost { base_ns: 39_500_000, row_ns: 500_000, ..BatchCost::default() });
    for on_late in [OnLate::Shed, OnLate::Serve] {
        let mut stage = stage(ModelConfig { cost, ..learned(on_late) });
        stage.credit(WORKER, 0, AMPLE);
        for id in 1..=400 {
            stage.pass(60);
            let outputs = stage.submit(call(id, [id]));
            assert_eq!(shed(&outputs), [], "{id}, {on_late:?}");
            let batch = only_dispatch(outputs);
            stage.pass(if id % 16 == 0 { 115 } else { 40 });
            stage.finish(&batch);
            stage.credit(WORKER, 0, AMPLE);
        }
    }
}

#[test]
fn half_of_a_queue_may_be_late() {
    let queue_requests_max = NonZeroU32::new(4).unwrap();
    let mut stage = stage(ModelConfig { queue_requests_max, ..learned(OnLate::Serve) });
    stage.queue([1, 2, 3, 4]);
    stage.pass(99);
    let outputs = stage.credit(WORKER, 0, AMPLE);
    assert_eq!(outputs[..2], [late(1), late(2)]);
    assert_eq!(shed(&outputs), [3, 4]);
}

#[test]
fn who_is_late_is_not_run_past_the_clients_deadline() {
    let mut stage = stage(learned(OnLate::Serve));
    let deadline = Some(stage.now + ms(120));
    stage.submit(Group { deadline, ..call(1, [1]) });
    stage.pass(116);
    let outputs = stage.credit(WORKER, 0, AMPLE);
    assert_eq!((outputs[0].clone(), shed(&outputs), dispatches(&outputs)), (late(1), vec![1], vec![]));
}

#[test]
fn late_requests_do_not_run_past_each_others_deadlines() {
    let mut stage = stage(learned(OnLate::Serve));
    let deadline = Some(stage.now + ms(110));
    stage.submit(Group { deadline, ..call(1, [1]) });
    stage.queue(2..=8);
    stage.pass(99);
    let batch = only_dispatch(stage.credit(WORKER, 0, AMPLE));
    // Six take (4 + 0.5 · 6) · 1.5 ms, and the first has 11.
    assert_eq!((ids(&batch), batch.close), (vec![1, 2, 3, 4, 5, 6], CloseReason::Objective));
}

#[test]
fn who_is_late_is_left_to_the_worker_that_can_keep_its_deadline() {
    let mut stage = with_slow(WORKER, OTHER_WORKER);
    let deadline = Some(stage.now + ms(130));
    stage.submit(Group { deadline, ..call(50, [50]) });
    stage.pass(105);
    let outputs = stage.credit(WORKER, 0, AMPLE);
    assert_eq!(shed(&outputs), [], "the other one takes 5 ms");
}

#[test]
fn nobody_is_late_to_a_policy_that_knows_no_lateness() {
    let mut stage = stage(learned(OnLate::Serve));
    stage.queue([1]);
    stage.pass(97);
    stage.queue([2, 3]);
    let first = only_dispatch(stage.credit(WORKER, 0, Budget { rows: 1, ..AMPLE }));
    assert_eq!(ids(&first), [2]);
    stage.tell(Input::ConfigChanged(vec![config(MODEL)]));
    assert_eq!(ids(&only_dispatch(stage.credit(WORKER, 1, AMPLE))), [1, 3]);
}

#[test]
fn waits_for_a_faster_worker_where_this_one_would_be_late() {
    let mut stage = with_slow(OTHER_WORKER, WORKER);
    stage.queue([50]);
    stage.pass(70);
    assert_eq!(dispatches(&stage.credit(OTHER_WORKER, 0, AMPLE)), []);
    assert_eq!(ids(&only_dispatch(stage.credit(WORKER, 0, AMPLE))), [50]);
}

#[test]
fn the_least_urgent_class_is_given_up_first() {
    let mut stage = stage(learned(OnLate::Shed));
    for id in 1..=4 {
        stage.submit(Group { class: Class::Interactive, ..call(id, [id]) });
    }
    for id in 5..=400 {
        stage.submit(Group { class: Class::Bulk, ..call(id, [id]) });
    }
    let outputs = stage.credit(WORKER, 0, AMPLE);
    let gone = shed(&outputs);
    assert!(!gone.is_empty() && gone.iter().all(|id| *id > 4), "{gone:?}");
}

#[test]
fn takes_the_free_worker_that_is_in_time() {
    let mut stage = with_slow(WORKER, OTHER_WORKER);
    stage.queue([50]);
    stage.pass(70);
    // It is not this one's to run, and when the other is free it goes there.
    assert_eq!(dispatches(&stage.credit(WORKER, 0, AMPLE)), []);
    assert_eq!(only_dispatch(stage.credit(OTHER_WORKER, 0, AMPLE)).worker, OTHER_WORKER);
}
