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
