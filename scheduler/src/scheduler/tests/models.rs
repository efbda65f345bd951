//! Models are loaded, unloaded, added and removed.

use super::*;

fn load(stage: &Stage, model: ModelId) -> Output {
    Output::Load { worker: WORKER, epoch: stage.epoch_of(WORKER), model }
}

fn unload(stage: &Stage, model: ModelId) -> Output {
    Output::Unload { worker: WORKER, epoch: stage.epoch_of(WORKER), model }
}

#[test]
fn loads_the_configured_models_a_worker_offers() {
    let mut stage = Stage::with_fixed();
    let outputs = stage.up(WORKER);
    assert_eq!(outputs, [load(&stage, MODEL)], "the other model is offered but not configured");
}

#[test]
fn loads_an_added_model_on_workers_that_offer_it() {
    let mut stage = Stage::with_fixed();
    stage.up(WORKER);
    let outputs = stage.tell(Input::ConfigChanged(vec![config(MODEL), config(OTHER_MODEL), config(ModelId(3))]));
    assert_eq!(outputs, [load(&stage, OTHER_MODEL)]);
}

#[test]
fn fails_the_queue_of_a_removed_model_and_unloads_it() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2]);
    let outputs = stage.tell(Input::ConfigChanged(vec![]));
    let removed = Failure::ModelRemoved;
    assert_eq!(outputs, [failed(1, removed), failed(2, removed), unload(&stage, MODEL)]);
    assert_eq!(stage.core.queue(MODEL), None);
}

#[test]
fn lets_what_runs_of_a_removed_model_finish_before_it_is_unloaded() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    let batch = stage.take(WORKER);
    assert_eq!(stage.tell(Input::ConfigChanged(vec![])), []);
    assert_eq!(stage.item(&batch, 1, ItemOutcome::Ok), [complete(1)]);
    assert_eq!(stage.end(&batch), [unload(&stage, MODEL)]);
}

#[test]
fn fails_what_comes_back_to_a_model_that_was_removed_meanwhile() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2]);
    stage.take(WORKER);
    stage.tell(Input::ConfigChanged(vec![]));
    let removed = Failure::ModelRemoved;
    assert_eq!(stage.down(WORKER, DownCause::Crashed), [failed(1, removed), failed(2, removed)]);
}

#[test]
fn unloads_a_model_that_became_ready_after_it_was_removed() {
    let mut stage = Stage::with_fixed();
    stage.up(WORKER);
    assert_eq!(stage.tell(Input::ConfigChanged(vec![])), []);
    assert_eq!(stage.model(WORKER, MODEL, ModelState::Ready), [unload(&stage, MODEL)]);
}

#[test]
fn loads_a_model_again_that_was_added_back_while_it_was_unloaded() {
    let mut stage = Stage::with_worker();
    assert_eq!(stage.tell(Input::ConfigChanged(vec![])), [unload(&stage, MODEL)]);
    // What was said before it heard of that means nothing.
    assert_eq!(stage.model(WORKER, MODEL, ModelState::Ready), []);
    // A worker does as it is told, one thing after the other. Whether it says that it unloaded what it loads again is up
    // to it.
    assert_eq!(stage.tell(Input::ConfigChanged(vec![config(MODEL)])), [load(&stage, MODEL)]);
    stage.queue([1]);
    for state in [ModelState::Unloaded, ModelState::Loading] {
        assert_eq!(stage.model(WORKER, MODEL, state), []);
    }
    assert_eq!(stage.model(WORKER, MODEL, ModelState::Ready), []);
    assert_eq!(ids(&stage.take(WORKER)), [1]);
}

#[test]
fn tries_a_failed_load_again_only_when_the_configuration_changes() {
    let mut stage = Stage::with_fixed();
    stage.up(WORKER);
    assert_eq!(stage.model(WORKER, MODEL, ModelState::Failed), []);
    assert_eq!(stage.pass(60_000), []);
    assert_eq!(stage.tell(Input::ConfigChanged(vec![config(MODEL)])), [load(&stage, MODEL)]);
}

#[test]
fn keeps_the_queue_when_a_models_numbers_change() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2, 3]);
    let small = ModelConfig { batch_rows_max: NonZeroU32::new(2).unwrap(), ..config(MODEL) };
    assert_eq!(stage.tell(Input::ConfigChanged(vec![small])), []);
    assert_eq!(ids(&stage.take(WORKER)), [1, 2]);
}

#[test]
fn follows_a_policy_that_changes_while_requests_wait() {
    let mut stage = Stage::new(Limits::default(), vec![triton(MODEL)]);
    stage.ready(WORKER);
    stage.credit(WORKER, 0, AMPLE);
    stage.queue([1]);
    let batch = only_dispatch(stage.tell(Input::ConfigChanged(vec![config(MODEL)])));
    assert_eq!(batch.close, CloseReason::Drained);
}

#[test]
fn ignores_the_state_of_a_model_the_worker_does_not_offer() {
    let mut stage = Stage::with_worker();
    assert_eq!(stage.model(WORKER, ModelId(9), ModelState::Ready), []);
    assert_eq!(stage.dropped(), 1);
}
