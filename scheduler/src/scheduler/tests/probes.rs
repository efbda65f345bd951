//! What is run of a model that nobody knows yet, and what is known from elsewhere.

use super::*;
use crate::{BatchCost, LearnedCost, OnLate, Probe, ProbeRow};

const ROW: ProbeRow = ProbeRow { tokens_max: 512, row_bytes: 0, token_bytes: 4, time: Duration::ZERO };
/// 2 ms a batch, 100 µs a row, 10 µs a token.
const COST: BatchCost = BatchCost { base_ns: 2_000_000, row_ns: 100_000, token_ps: 10_000_000, token_squared_fs: 0 };

fn learned(id: ModelId, on_late: OnLate) -> ModelConfig {
    let policy = PolicyConfig::Learned { wait_price: 0, waits_when_idle: false, on_late };
    ModelConfig { policy, ..config(id) }
}

/// Two models that learn, ready on one worker that has given no credit.
fn stage() -> Stage {
    let models = [MODEL, OTHER_MODEL].map(|id| learned(id, OnLate::Serve));
    let mut stage = Stage::new(Limits::default(), models.to_vec());
    stage.ready(WORKER);
    stage
}

fn calibrate(stage: &mut Stage) -> Vec<Output> {
    stage.tell(Input::Calibrate { model: MODEL, row: ROW })
}

fn known(stage: &mut Stage, cost: BatchCost) -> Vec<Output> {
    stage.tell(Input::CostKnown { model: MODEL, cost })
}

fn only_probe(outputs: &[Output]) -> Probe {
    match outputs {
        [Output::Probe(probe)] => *probe,
        other => panic!("no probe alone: {other:?}"),
    }
}

fn calibrated(outputs: &[Output]) -> Option<(u32, Duration)> {
    outputs.iter().find_map(|output| match output {
        Output::Calibrated { model: MODEL, batches, spent } => Some((*batches, *spent)),
        _ => None,
    })
}

fn end(stage: &mut Stage, of: &Probe) -> Vec<Output> {
    let Probe { worker, epoch, batch, attempt, .. } = *of;
    stage.tell(Input::BatchEnd { worker, epoch, batch, attempt, compute: ms(1) })
}

fn fail(stage: &mut Stage, of: &Probe, reason: BatchFailure) -> Vec<Output> {
    let Probe { worker, epoch, batch, attempt, .. } = *of;
    stage.tell(Input::BatchFailed { worker, epoch, batch, attempt, reason })
}

/// Batches of all sizes take about as long by the one as by the other.
fn assert_alike(one: BatchCost, other: BatchCost) {
    for (rows, tokens) in [(1, 16), (1, 200), (8, 64), (32, 64)] {
        let nanos = |cost: BatchCost| {
            let (tokens, squares) = (rows * tokens, rows * tokens * tokens);
            let by_tokens = cost.token_ps * tokens / 1_000 + cost.token_squared_fs * squares / 1_000_000;
            cost.base_ns + cost.row_ns * rows + by_tokens
        };
        let (one, other) = (nanos(one), nanos(other));
        assert!(one.abs_diff(other) * 10 <= other, "{one} and {other} for {rows} rows of {tokens}");
    }
}

/// How long a probe takes on a device that costs [`COST`].
fn micros(probe: &Probe) -> u64 {
    2_000 + 100 * u64::from(probe.rows) + 10 * u64::from(probe.rows * probe.tokens)
}

/// Runs probes until there is none, and gives them.
fn run(stage: &mut Stage, worker: WorkerId) -> (Vec<Probe>, (u32, Duration)) {
    let mut probes = Vec::new();
    loop {
        let outputs = stage.credit(worker, 0, AMPLE);
        let probe = only_probe(&outputs);
        stage.now = stage.now + Duration::from_micros(micros(&probe));
        let outputs = end(stage, &probe);
        probes.push(probe);
        assert!(probes.len() < 100, "it ends");
        if let Some(found) = calibrated(&outputs) {
            assert_eq!(stage.credit(worker, 0, AMPLE), [], "nothing is left");
            return (probes, found);
        }
    }
}

#[test]
fn an_idle_worker_runs_larger_and_larger_probes_until_the_cost_is_known() {
    let mut stage = stage();
    assert_eq!(calibrate(&mut stage), [], "no credit");
    let (probes, (batches, spent)) = run(&mut stage, WORKER);
    let mut shapes: Vec<_> = probes.iter().map(|probe| (probe.rows, probe.tokens)).collect();
    shapes.dedup();
    assert_eq!(shapes, [(1, 16), (1, 64), (8, 16), (8, 64), (1, 512), (32, 64), (32, 128)]);
    assert!(probes.iter().all(|probe| micros(probe) <= 50_000), "half of the objective at most");
    assert_eq!(spent, Duration::from_micros(probes.iter().map(micros).sum()));
    assert!(spent <= ms(2_000));
    assert_eq!((probes.len(), batches), (21, 14));
    let found = stage.core.cost_on(MODEL, WORKER).expect("known");
    assert_eq!(found.samples, 14);
    assert_alike(found.cost, COST);
    assert_eq!(stage.core.counts().batches, 0);
}

#[test]
fn a_probe_waits_until_nobody_else_waits() {
    let mut stage = stage();
    stage.submit(Group { model: OTHER_MODEL, ..call(1, [1]) });
    assert_eq!(calibrate(&mut stage), []);
    let batch = only_dispatch(stage.credit(WORKER, 0, AMPLE));
    assert_eq!(stage.credit(WORKER, 1, AMPLE), [], "a batch is under way");
    assert_eq!(stage.finish(&batch).len(), 2, "its answer and a probe");
}

#[test]
fn a_request_that_comes_while_a_probe_runs_is_next() {
    let mut stage = stage();
    calibrate(&mut stage);
    let probe = only_probe(&stage.credit(WORKER, 0, AMPLE));
    stage.submit(Group { model: OTHER_MODEL, ..call(1, [1]) });
    assert_eq!(end(&mut stage, &probe), []);
    assert_eq!(ids(&stage.take(WORKER)), [1]);
}

#[test]
fn a_request_rides_behind_a_probe_on_a_second_credit() {
    let mut stage = stage();
    calibrate(&mut stage);
    let probe = only_probe(&stage.credit(WORKER, 0, AMPLE));
    assert_eq!(stage.credit(WORKER, 1, AMPLE), [], "one probe at a time");
    let batch = only_dispatch(stage.submit(call(1, [1])));
    assert_eq!(end(&mut stage, &probe), []);
    assert_eq!(stage.finish(&batch)[0], complete(1));
}

#[test]
fn all_probes_of_a_model_run_on_one_worker() {
    let mut stage = stage();
    stage.ready(OTHER_WORKER);
    calibrate(&mut stage);
    let probe = only_probe(&stage.credit(OTHER_WORKER, 0, AMPLE));
    assert_eq!(stage.credit(WORKER, 0, AMPLE), []);
    end(&mut stage, &probe);
    assert_eq!(only_probe(&stage.credit(OTHER_WORKER, 0, AMPLE)).worker, OTHER_WORKER);
}

#[test]
fn a_first_batch_of_requests_does_not_make_probes_needless() {
    let mut stage = stage();
    stage.queue([1]);
    let batch = stage.take(WORKER);
    stage.pass(3);
    stage.finish(&batch);
    calibrate(&mut stage);
    only_probe(&stage.credit(WORKER, 0, AMPLE));
}

#[test]
fn a_probe_leaves_time_to_whoever_asks_for_any_model_of_the_worker() {
    let hasty = ModelConfig { objective: ms(10), ..learned(OTHER_MODEL, OnLate::Serve) };
    let mut stage = Stage::new(Limits::default(), vec![learned(MODEL, OnLate::Serve), hasty]);
    stage.ready(WORKER);
    calibrate(&mut stage);
    let (probes, _) = run(&mut stage, WORKER);
    assert!(probes.iter().all(|probe| micros(probe) <= 5_000), "{probes:?}");
}

#[test]
fn two_models_share_an_idle_worker_one_probe_at_a_time() {
    let mut stage = stage();
    calibrate(&mut stage);
    stage.tell(Input::Calibrate { model: OTHER_MODEL, row: ROW });
    let first = only_probe(&stage.credit(WORKER, 0, AMPLE));
    assert_eq!(stage.credit(WORKER, 1, AMPLE), []);
    assert_eq!(first.model, MODEL);
    assert_eq!(only_probe(&end(&mut stage, &first)).model, MODEL);
}

#[test]
fn a_probe_that_does_not_fit_the_memory_teaches_the_cap_and_is_the_last() {
    let mut stage = stage();
    calibrate(&mut stage);
    let probe = only_probe(&stage.credit(WORKER, 0, AMPLE));
    let outputs = fail(&mut stage, &probe, BatchFailure::OutOfMemory);
    assert_eq!(calibrated(&outputs), Some((0, Duration::ZERO)));
    assert_eq!(stage.credit(WORKER, 0, AMPLE), []);
    let capped = stage.core.fleet.cap(WORKER, MODEL).apply(AMPLE);
    assert_eq!(capped.tokens, 12, "four fifths of what did not fit");
    assert_eq!(stage.core.cost_on(MODEL, WORKER), None);
}

#[test]
fn a_probe_that_takes_its_worker_down_is_the_last_and_nobody_is_suspect() {
    for cause in [DownCause::Crashed, DownCause::Lost, DownCause::Left] {
        let mut stage = stage();
        calibrate(&mut stage);
        only_probe(&stage.credit(WORKER, 0, AMPLE));
        stage.credit(WORKER, 1, AMPLE);
        only_dispatch(stage.submit(call(1, [1])));
        assert!(calibrated(&stage.down(WORKER, cause)).is_some());
        stage.ready(WORKER);
        let again = stage.take(WORKER);
        assert_eq!((ids(&again), again.close), (vec![1], CloseReason::Drained), "it is innocent");
        stage.finish(&again);
        assert_eq!(stage.credit(WORKER, 1, AMPLE), [], "no more probes");
    }
}

#[test]
fn a_probe_that_hangs_is_ended_with_its_worker() {
    let mut stage = stage();
    calibrate(&mut stage);
    let probe = only_probe(&stage.credit(WORKER, 0, AMPLE));
    let outputs = stage.pass(5_000);
    assert!(matches!(outputs[0], Output::Replace { batch, .. } if batch == probe.batch), "{outputs:?}");
    assert!(calibrated(&outputs).is_some());
    stage.ready(WORKER);
    assert_eq!(stage.credit(WORKER, 0, AMPLE), []);
}

#[test]
fn what_was_found_before_a_probe_failed_is_kept() {
    let mut stage = stage();
    calibrate(&mut stage);
    for _ in 0..3 {
        let probe = only_probe(&stage.credit(WORKER, 0, AMPLE));
        stage.now = stage.now + ms(3);
        end(&mut stage, &probe);
    }
    let probe = only_probe(&stage.credit(WORKER, 0, AMPLE));
    assert_eq!(calibrated(&fail(&mut stage, &probe, BatchFailure::Device)), Some((2, ms(9))));
    assert_eq!(stage.core.cost_on(MODEL, WORKER).map(|found| found.samples), Some(2));
}

#[test]
fn a_worker_that_leaves_between_two_probes_is_followed_by_another() {
    let mut stage = stage();
    stage.ready(OTHER_WORKER);
    calibrate(&mut stage);
    let probe = only_probe(&stage.credit(WORKER, 0, AMPLE));
    end(&mut stage, &probe);
    assert_eq!(stage.down(WORKER, DownCause::Left), []);
    assert_eq!(only_probe(&stage.credit(OTHER_WORKER, 0, AMPLE)).worker, OTHER_WORKER);
}

#[test]
fn a_drain_begins_no_probe_and_waits_for_none() {
    let mut stage = stage();
    calibrate(&mut stage);
    let probe = only_probe(&stage.credit(WORKER, 0, AMPLE));
    assert_eq!(stage.tell(Input::Drain { deadline: stage.now + ms(1_000) }), [Output::Drained]);
    assert_eq!(end(&mut stage, &probe), []);
    assert_eq!(stage.credit(WORKER, 0, AMPLE), []);
}

#[test]
fn a_model_under_another_policy_is_not_probed_until_it_learns() {
    let mut stage = Stage::with_worker();
    stage.credit(WORKER, 0, AMPLE);
    assert_eq!(calibrate(&mut stage), []);
    only_probe(&stage.tell(Input::ConfigChanged(vec![learned(MODEL, OnLate::Serve)])));
}

#[test]
fn a_model_that_was_taken_out_is_not_probed_and_its_last_probe_means_nothing() {
    let mut stage = stage();
    calibrate(&mut stage);
    let probe = only_probe(&stage.credit(WORKER, 0, AMPLE));
    stage.tell(Input::ConfigChanged(vec![learned(OTHER_MODEL, OnLate::Serve)]));
    let again = [MODEL, OTHER_MODEL].map(|id| learned(id, OnLate::Serve));
    stage.tell(Input::ConfigChanged(again.to_vec()));
    calibrate(&mut stage);
    stage.credit(WORKER, 1, AMPLE);
    stage.now = stage.now + ms(3);
    let next = only_probe(&end(&mut stage, &probe));
    assert_eq!((next.rows, next.tokens), (1, 16), "from the beginning");
    assert_eq!(stage.core.cost_on(MODEL, WORKER), None);
}

#[test]
fn probes_stop_when_requests_have_taught_enough() {
    let mut stage = stage();
    calibrate(&mut stage);
    for id in 0..32 {
        stage.submit(call(id, [id]));
        let batch = stage.take(WORKER);
        stage.now = stage.now + ms(3);
        stage.queue([1_000 + id]);
        let outputs = stage.finish(&batch);
        stage.tell(Input::Cancel(GroupId(1_000 + id)));
        assert_eq!(calibrated(&outputs).is_some(), id == 31, "after {id}");
    }
    assert_eq!(stage.credit(WORKER, 0, AMPLE), []);
}

#[test]
fn what_is_known_from_elsewhere_needs_no_probes() {
    let mut stage = stage();
    assert_eq!(known(&mut stage, COST), []);
    assert_eq!(calibrate(&mut stage), []);
    assert_eq!(stage.credit(WORKER, 0, AMPLE), []);
    // Two thirds of the objective is how long a batch may take: 212 rows of 0.2 ms each, half as much again to be sure.
    stage.core.handle(
        stage.now,
        Input::ConfigChanged(vec![ModelConfig {
            batch_rows_max: NonZeroU32::new(1_000).unwrap(),
            ..learned(MODEL, OnLate::Serve)
        }]),
    );
    stage.core.handle(stage.now, Input::SubmitGroup(call(1, 1..=300)));
    let outputs: Vec<_> = std::iter::from_fn(|| stage.core.poll_output()).collect();
    let batch = only_dispatch(outputs);
    assert_eq!((batch.requests.len(), batch.close), (212, CloseReason::Objective));
}

#[test]
fn what_becomes_known_meanwhile_ends_the_probes() {
    let mut stage = stage();
    calibrate(&mut stage);
    let probe = only_probe(&stage.credit(WORKER, 0, AMPLE));
    assert_eq!(calibrated(&known(&mut stage, COST)), Some((0, Duration::ZERO)));
    assert_eq!(end(&mut stage, &probe), []);
    assert_eq!(stage.credit(WORKER, 0, AMPLE), []);
}

#[test]
fn what_was_learned_is_not_given_up_for_what_was_known_before() {
    let mut stage = stage();
    calibrate(&mut stage);
    run(&mut stage, WORKER);
    let found = stage.core.cost_on(MODEL, WORKER);
    known(&mut stage, BatchCost { base_ns: 1, ..COST });
    assert_eq!(stage.core.cost_on(MODEL, WORKER), found);
}

/// Who is refused teaches nothing, so a number that is too high must not refuse everybody for ever.
#[test]
fn nobody_is_refused_for_what_is_only_known_from_elsewhere() {
    let mut stage = Stage::new(Limits::default(), vec![learned(MODEL, OnLate::Shed)]);
    stage.ready(WORKER);
    stage.ready(OTHER_WORKER);
    known(&mut stage, BatchCost { base_ns: 400_000_000, ..BatchCost::default() });
    stage.queue([1]);
    let batch = stage.take(WORKER);
    assert_eq!(ids(&batch), [1]);
    stage.pass(3);
    stage.finish(&batch);
    for id in 2..20 {
        stage.queue([id]);
        let batch = stage.take(WORKER);
        stage.pass(3);
        assert_eq!(stage.finish(&batch)[0], complete(id));
    }
    let found = stage.core.cost_on(MODEL, WORKER).expect("known").cost;
    assert!(found.base_ns < 5_000_000, "{found:?}");
}

#[test]
fn what_was_learned_can_be_told_to_the_next_scheduler() {
    let mut stage = stage();
    calibrate(&mut stage);
    run(&mut stage, WORKER);
    let found = stage.core.cost_on(MODEL, WORKER).expect("known").cost;
    let mut next = self::stage();
    known(&mut next, found);
    assert_eq!(next.core.cost_on(MODEL, WORKER), None, "nothing was learned there");
    assert_eq!(next.core.cost(MODEL), Some(LearnedCost { cost: found, samples: 0 }));
    next.queue([1]);
    let batch = next.take(WORKER);
    next.now = next.now + Duration::from_micros(2_200);
    next.finish(&batch);
    let after = next.core.cost_on(MODEL, WORKER).expect("known").cost;
    assert_alike(after, found);
}
