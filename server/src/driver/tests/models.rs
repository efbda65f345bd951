//! Models that are loaded, unloaded, or cannot be.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_model_whose_workers_are_gone_is_unloaded_and_keeps_its_card() {
    let mut bench = Bench::new();
    let _worker = bench.worker("w", 1);
    assert_eq!(bench.registry.model("m").expect("model").state, ModelState::Ready);
    bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Lost });
    let view = bench.registry.model("m").expect("model");
    assert_eq!(view.state, ModelState::Unloaded);
    assert!(view.card.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_model_is_ready_no_longer_once_it_is_to_be_unloaded_and_again_when_a_worker_says_so_anew() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let want = |wanted| Event::Want { model: "m".into(), wanted, done: oneshot::channel().0 };
    let state = |bench: &Bench| bench.registry.model("m").expect("model").state.clone();
    bench.apply(want(false));
    assert_eq!(state(&bench), ModelState::Unloaded);
    assert!(matches!(worker.command(), ToWorker::Unload { .. }));
    // The worker has not said yet that it did.
    bench.apply(want(true));
    assert_eq!(state(&bench), ModelState::Unloaded);
    for report in [ModelReport::Unloaded, ModelReport::Loading, ModelReport::Ready(card())] {
        assert_ne!(state(&bench), ModelState::Ready);
        bench.say(&worker, FromWorker::Model { model: "m".into(), state: report });
    }
    assert!(matches!(worker.command(), ToWorker::Load { .. }));
    assert_eq!(state(&bench), ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_failed_to_load_is_refused_at_once_with_the_reason() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let failed = FromWorker::Model { model: "m".into(), state: ModelReport::Failed("no such file".into()) };
    bench.say(&worker, failed);
    let error = outcome(&mut bench.call(1)).expect_err("error");
    assert_eq!(error, CallError::ModelNotReady { model: "m".into(), reason: "no such file".into() });
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_taken_out_answers_the_calls_it_has_and_takes_no_more() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let (mut running, mut queued) = (bench.call(1), bench.call(1));
    let first = worker.run();
    bench.configure(Vec::new());
    assert!(matches!(outcome(&mut bench.call(1)), Err(CallError::UnknownModel { .. })));
    assert!(bench.registry.model("m").is_err());
    bench.complete(&worker, &first);
    outcome(&mut running).expect("an answer");
    assert!(worker.commands.try_recv().is_err(), "a call waits for it");
    bench.credit(&worker, 0);
    let second = worker.run();
    bench.complete(&worker, &second);
    outcome(&mut queued).expect("an answer");
    // Only now is it unloaded, and it is loaded anew if it comes back.
    bench.driver.tick(Instant::now());
    assert!(matches!(worker.command(), ToWorker::Unload { model } if &*model == "m"));
    bench.say(&worker, FromWorker::Model { model: "m".into(), state: ModelReport::Unloaded });
    assert!(bench.registry.model("m").is_err());
    bench.configure(vec![settings("m")]);
    assert!(matches!(worker.command(), ToWorker::Load { model, .. } if &*model == "m"));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_comes_later_is_loaded_by_workers_that_are_there_and_takes_nobodys_readiness() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    bench.configure(vec![settings("m"), settings("n")]);
    assert!(matches!(worker.command(), ToWorker::Load { model, .. } if &*model == "n"));
    let required = |bench: &Bench, name: &str| bench.registry.model(name).expect("model").is_required;
    assert!(required(&bench, "m"));
    assert!(!required(&bench, "n"));
    bench.say(&worker, FromWorker::Model { model: "n".into(), state: ModelReport::Ready(card()) });
    assert!(required(&bench, "n"));
}
