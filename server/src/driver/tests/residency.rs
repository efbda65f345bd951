//! Models that are loaded when they are called, and make room.

use std::num::NonZeroU64;

use super::*;

/// Less than a batch may take.
const AWHILE: Duration = Duration::from_secs(10);

fn on_demand(name: &str) -> ModelSettings {
    ModelSettings { load: Load::OnDemand { unload_after: AWHILE }, ..settings(name) }
}

fn state(bench: &Bench, name: &str) -> ModelState {
    bench.registry.model(name).expect("model").state.clone()
}

/// A model of so many bytes is there.
fn loaded(bench: &mut Bench, worker: &mut Scripted, name: &str, bytes: u64) {
    match worker.command() {
        ToWorker::Load { model, .. } => assert_eq!(&*model, name),
        other => panic!("not a load: {other:?}"),
    }
    let card = Arc::new(Card { name: name.into(), bytes, ..(*card()).clone() });
    bench.say(worker, FromWorker::Model { model: name.into(), state: ModelReport::Ready(card) });
}

fn unloaded(worker: &mut Scripted) -> Arc<str> {
    match worker.command() {
        ToWorker::Unload { model } => model,
        other => panic!("not an unload: {other:?}"),
    }
}

fn awaited(bench: &mut Bench, name: &str) {
    bench.apply(Event::Awaited { model: name.into() });
}

#[tokio::test(start_paused = true)]
async fn a_model_on_demand_is_loaded_by_a_call_and_unloaded_a_time_after_the_last() {
    let mut bench = Bench::new();
    // What was there from the start stays until nobody calls it.
    bench.configure(Vec::new());
    bench.configure(vec![on_demand("m")]);
    let mut worker = bench.connect("w", 1);
    assert!(worker.commands.try_recv().is_err(), "nobody called it");
    assert_eq!(bench.driver.next_wake(), None);
    awaited(&mut bench, "m");
    loaded(&mut bench, &mut worker, "m", 10);
    bench.credit(&worker, 0);
    advance(AWHILE / 2).await;
    let mut reply = bench.call(1);
    let batch = worker.run();
    // It is needed for as long as the call is open.
    advance(2 * AWHILE).await;
    bench.driver.tick(Instant::now());
    assert_eq!(state(&bench, "m"), ModelState::Ready);
    bench.complete(&worker, &batch);
    outcome(&mut reply).expect("an answer");
    bench.driver.tick(Instant::now());
    assert_eq!(&*unloaded(&mut worker), "m", "it is a while since it was called");
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_calls_goes_on_time_and_comes_back_with_the_next_call() {
    let mut bench = Bench::new();
    // What was there from the start stays until nobody calls it.
    bench.configure(Vec::new());
    bench.configure(vec![on_demand("m")]);
    let mut worker = bench.connect("w", 1);
    awaited(&mut bench, "m");
    loaded(&mut bench, &mut worker, "m", 10);
    assert_eq!(bench.driver.next_wake(), Some(Instant::now() + AWHILE));
    advance(AWHILE).await;
    bench.driver.tick(Instant::now());
    assert_eq!(&*unloaded(&mut worker), "m");
    assert_eq!(state(&bench, "m"), ModelState::Unloaded);
    bench.say(&worker, FromWorker::Model { model: "m".into(), state: ModelReport::Unloaded });
    // What it takes is known by now, so the call waits in its queue.
    let mut reply = bench.call(1);
    loaded(&mut bench, &mut worker, "m", 10);
    bench.credit(&worker, 0);
    let batch = worker.run();
    bench.complete(&worker, &batch);
    outcome(&mut reply).expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn who_was_called_longest_ago_makes_room() {
    let mut bench = Bench::new();
    bench.driver.around.resident_bytes_max = NonZeroU64::new(25);
    bench.configure(["a", "b", "c"].map(on_demand).into_iter().chain([settings("m")]).collect());
    let mut worker = bench.connect("w", 1);
    loaded(&mut bench, &mut worker, "m", 5);
    for name in ["a", "b"] {
        awaited(&mut bench, name);
        loaded(&mut bench, &mut worker, name, 10);
        advance(Duration::from_secs(1)).await;
    }
    awaited(&mut bench, "a");
    // How large it is nobody knows before it is there.
    awaited(&mut bench, "c");
    loaded(&mut bench, &mut worker, "c", 10);
    assert_eq!(&*unloaded(&mut worker), "b");
    assert_eq!(["a", "b", "c", "m"].map(|name| state(&bench, name) == ModelState::Ready), [true, false, true, true]);
    bench.say(&worker, FromWorker::Model { model: "b".into(), state: ModelReport::Unloaded });
    // From then on it is, and room is made before it is loaded.
    advance(Duration::from_secs(1)).await;
    awaited(&mut bench, "c");
    awaited(&mut bench, "b");
    assert_eq!(&*unloaded(&mut worker), "a");
    loaded(&mut bench, &mut worker, "b", 10);
    assert_eq!(["a", "b", "c", "m"].map(|name| state(&bench, name) == ModelState::Ready), [false, true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_loaded_is_tried_again_by_a_call_some_time_after() {
    let mut bench = Bench::new();
    bench.configure(Vec::new());
    bench.configure(vec![ModelSettings { load: Load::OnDemand { unload_after: 100 * AWHILE }, ..settings("m") }]);
    let mut worker = bench.connect("w", 1);
    let failed = || FromWorker::Model { model: "m".into(), state: ModelReport::Failed("no such file".into()) };
    for wait in [10, 20, 40] {
        awaited(&mut bench, "m");
        assert!(matches!(worker.command(), ToWorker::Load { .. }));
        bench.say(&worker, FromWorker::Model { model: "m".into(), state: ModelReport::Loading });
        bench.say(&worker, failed());
        assert_eq!(state(&bench, "m"), ModelState::Failed("no such file".into()));
        assert_eq!(bench.driver.next_wake(), Some(Instant::now() + Duration::from_secs(wait)));
        advance(Duration::from_secs(wait)).await;
        bench.driver.tick(Instant::now());
        assert_eq!(state(&bench, "m"), ModelState::Unloaded);
    }
    awaited(&mut bench, "m");
    loaded(&mut bench, &mut worker, "m", 10);
    assert_eq!(state(&bench, "m"), ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn one_with_which_worker_after_worker_is_lost_is_given_up() {
    let mut bench = Bench::new();
    bench.configure(vec![settings("m"), settings("bad")]);
    for life in 1..=3 {
        let mut worker = bench.connect("w", life);
        let told: Vec<_> = std::iter::from_fn(|| worker.commands.try_recv().ok()).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        bench.say(&worker, FromWorker::Model { model: "m".into(), state: ModelReport::Ready(card()) });
        bench.say(&worker, FromWorker::Model { model: "bad".into(), state: ModelReport::Loading });
        bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Crashed });
    }
    assert!(matches!(state(&bench, "bad"), ModelState::Failed(reason) if reason.contains("3 workers")));
    let mut worker = bench.connect("w", 4);
    let told: Vec<_> = std::iter::from_fn(|| worker.commands.try_recv().ok()).collect();
    assert!(matches!(&told[..], [ToWorker::Load { model, .. }] if &**model == "m"), "{told:?}");
    // Whoever asks for it has it tried again.
    bench.apply(Event::Want { model: "bad".into(), wanted: true, done: oneshot::channel().0 });
    assert!(matches!(worker.command(), ToWorker::Load { model, .. } if &*model == "bad"));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_somebody_asks_for_is_needed_as_if_it_was_called() {
    let mut bench = Bench::new();
    bench.configure(vec![on_demand("n")]);
    let mut worker = bench.connect("w", 1);
    advance(3 * AWHILE).await;
    bench.apply(Event::Want { model: "n".into(), wanted: true, done: oneshot::channel().0 });
    bench.driver.tick(Instant::now());
    loaded(&mut bench, &mut worker, "n", 10);
    assert_eq!(state(&bench, "n"), ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_comes_back_while_it_is_loaded_or_still_held_is_there() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    bench.configure(vec![settings("m"), settings("n")]);
    assert!(matches!(worker.command(), ToWorker::Load { .. }));
    bench.say(&worker, FromWorker::Model { model: "n".into(), state: ModelReport::Loading });
    // Taken out while it was being loaded: it is unloaded once it is there.
    bench.configure(vec![settings("m")]);
    bench.say(&worker, FromWorker::Model { model: "n".into(), state: ModelReport::Ready(card()) });
    assert_eq!(&*unloaded(&mut worker), "n");
    bench.say(&worker, FromWorker::Model { model: "n".into(), state: ModelReport::Unloaded });
    // And one that comes back before it was is asked for again, since only the worker knows whether it has it.
    bench.configure(vec![settings("m"), settings("n")]);
    assert!(matches!(worker.command(), ToWorker::Load { .. }));
    bench.say(&worker, FromWorker::Model { model: "n".into(), state: ModelReport::Loading });
    bench.configure(vec![settings("m")]);
    bench.configure(vec![settings("m"), settings("n")]);
    assert!(matches!(worker.command(), ToWorker::Load { .. }));
    bench.say(&worker, FromWorker::Model { model: "n".into(), state: ModelReport::Ready(card()) });
    assert_eq!(state(&bench, "n"), ModelState::Ready);
    assert!(worker.commands.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_holds_and_nobody_wants_is_unloaded_when_it_connects() {
    let mut bench = Bench::new();
    bench.configure(vec![settings("m"), on_demand("rare")]);
    let (up, mut told) = WorkerUp::of_test(Epoch(1), "far");
    let models: Vec<Arc<str>> = ["m", "rare", "other"].map(Into::into).into();
    bench.apply(Event::WorkerUp(WorkerUp { offers: models.clone(), held: models, ..up }));
    let told: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    let unloaded = |command: &ToWorker| matches!(command, ToWorker::Unload { model } if &**model != "m");
    assert_eq!(told.iter().filter(|command| unloaded(command)).count(), 2, "{told:?}");
    assert!(told.iter().any(|command| matches!(command, ToWorker::Load { model, .. } if &**model == "m")), "{told:?}");
    assert_eq!(told.len(), 3, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_for_a_canary_that_goes_is_answered_by_whom_it_was_for() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let (reply, mut answer) = oneshot::channel();
    let caller = Caller {
        tenant: "t".into(),
        class: Class::Standard,
        deadline: None,
        trace: Trace::default(),
        explain: Asked::default(),
        scope: Default::default(),
    };
    let row = Row {
        columns: vec![Bytes::from_static(b"12345678")],
        tokens: 1,
        truncated: false,
        options: RowOptions::default(),
    };
    let call = Call { model: "next".into(), stands_in_for: Some("m".into()), caller, rows: vec![row] };
    bench.apply(Event::Submit { first: 1, call, reply });
    let batch = worker.run();
    assert_eq!(&*batch.model, "m");
    bench.complete(&worker, &batch);
    let answer = answer.try_recv().expect("an outcome").expect("an answer");
    assert_eq!(&*answer.model, "m", "who gave it");
}
