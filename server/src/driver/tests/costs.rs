//! What models cost: looked up, found out, kept.

use shoal_scheduler::{BatchCost, OnLate};

use super::*;
use crate::driver::costs::{CostKey, KeptCost};

const COST: BatchCost = BatchCost { base_ns: 2_000_000, row_ns: 100_000, token_ps: 1_000_000, token_squared_fs: 0 };

/// A model of texts under the policy that learns.
fn settings() -> ModelSettings {
    let policy = PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late: OnLate::Serve };
    ModelSettings { policy, ..super::settings("m") }
}

fn card() -> Arc<Card> {
    let input = |name: &str| TensorSpec { name: name.into(), data_type: DataType::I32, shape: vec![-1] };
    Arc::new(Card {
        weights_sha256: "ab".into(),
        inputs: vec![input("input_ids"), input("token_type_ids")],
        tokens_max: 128,
        vocabulary: 1_000,
        ..(*super::card()).clone()
    })
}

fn ready() -> FromWorker {
    FromWorker::Model { model: "m".into(), state: ModelReport::Ready(card()) }
}

/// A bench and a worker that has just loaded the model and gave a credit.
fn bench() -> (Bench, Scripted) {
    let mut bench = Bench::new();
    bench.configure(vec![settings()]);
    let mut worker = bench.connect("w", 1);
    assert!(matches!(worker.command(), ToWorker::Load { .. }));
    bench.say(&worker, ready());
    bench.credit(&worker, 0);
    (bench, worker)
}

fn looked_up(bench: &mut Bench) -> CostKey {
    match bench.cost_errands.try_recv() {
        Ok(CostErrand::Find { model, key }) if &*model == "m" => key,
        other => panic!("nothing is looked up: {other:?}"),
    }
}

fn kept(bench: &mut Bench) -> Option<KeptCost> {
    match bench.cost_errands.try_recv() {
        Ok(CostErrand::Keep { cost, .. }) => Some(cost),
        _ => None,
    }
}

fn answer(bench: &mut Bench, key: CostKey, cost: Option<BatchCost>) {
    let found = cost.map(|cost| KeptCost { model: "m".into(), cost, batches: 100 });
    bench.apply(Event::Cost { model: "m".into(), key, found });
}

/// Runs probes until there is none; gives how many rows each had.
async fn run_probes(bench: &mut Bench, worker: &mut Scripted) -> Vec<usize> {
    let mut rows = Vec::new();
    while let Ok(command) = worker.commands.try_recv() {
        let ToWorker::Run(batch) = command else { panic!("no run: {command:?}") };
        advance(Duration::from_micros(2_000 + 100 * batch.rows.len() as u64)).await;
        bench.complete(worker, &batch);
        bench.credit(worker, 0);
        rows.push(batch.rows.len());
    }
    rows
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_told_to_the_core_and_not_found_out_again() {
    let (mut bench, mut worker) = bench();
    let key = looked_up(&mut bench);
    assert_eq!((key.weights.as_str(), &*key.device, &*key.dtype), ("ab", "cpu, 1 thread", "f32"));
    assert!(worker.commands.try_recv().is_err(), "nothing runs before that is known");
    answer(&mut bench, key, Some(COST));
    assert!(worker.commands.try_recv().is_err());
    let id = bench.driver.models.id("m").expect("a model");
    assert_eq!(bench.driver.core.cost(id).map(|known| known.cost), Some(COST));
    bench.say(&worker, ready());
    assert!(bench.cost_errands.try_recv().is_err(), "it is known by now");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_knows_is_found_out_with_rows_of_its_kind_and_kept() {
    let (mut bench, mut worker) = bench();
    let key = looked_up(&mut bench);
    answer(&mut bench, key, None);
    let ToWorker::Run(first) = worker.command() else { panic!("no probe") };
    assert_eq!(first.rows.len(), 1);
    assert_eq!(first.rows[0].columns.iter().map(Bytes::len).collect::<Vec<_>>(), [64, 64], "sixteen tokens");
    advance(Duration::from_millis(2)).await;
    bench.complete(&worker, &first);
    bench.credit(&worker, 0);
    let rows = run_probes(&mut bench, &mut worker).await;
    assert!(rows.contains(&8), "the credit allows so many: {rows:?}");
    let kept = kept(&mut bench).expect("kept");
    assert!(kept.batches >= 8 && kept.cost.base_ns.abs_diff(2_000_000) < 200_000, "{kept:?}");
    assert_eq!(bench.driver.calls.len(), 0);
    let page = bench.driver.around.metrics.encode().expect("page");
    let counts = |name: &str| page.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
    assert_eq!(counts("shoal_probes_total{model=\"m\"} "), Some((rows.len() + 1).to_string()));
    assert_eq!(counts("shoal_batch_rows_count{model=\"m\"} "), Some("0".into()), "nobody asked for them");
}

#[tokio::test(start_paused = true)]
async fn a_call_comes_before_the_next_probe() {
    let (mut bench, mut worker) = bench();
    let key = looked_up(&mut bench);
    answer(&mut bench, key, None);
    let ToWorker::Run(probe) = worker.command() else { panic!("no probe") };
    let mut reply = bench.call(1);
    bench.complete(&worker, &probe);
    bench.credit(&worker, 0);
    let batch = worker.run();
    assert_eq!(batch.rows.len(), 1);
    bench.complete(&worker, &batch);
    assert!(outcome(&mut reply).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_a_probe_brought_down_is_sent_no_more_of_them() {
    let (mut bench, mut worker) = bench();
    let key = looked_up(&mut bench);
    answer(&mut bench, key, None);
    assert!(matches!(worker.command(), ToWorker::Run(_)));
    bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Crashed });
    let mut worker = bench.connect("w", 2);
    assert!(matches!(worker.command(), ToWorker::Load { .. }));
    bench.say(&worker, ready());
    bench.credit(&worker, 0);
    let key = looked_up(&mut bench);
    answer(&mut bench, key, None);
    assert!(worker.commands.try_recv().is_err(), "it would crash again");
    let mut reply = bench.call(1);
    let batch = worker.run();
    bench.complete(&worker, &batch);
    assert!(outcome(&mut reply).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_requests_taught_is_kept_once_a_minute_if_it_is_something_else() {
    let (mut bench, mut worker) = bench();
    let key = looked_up(&mut bench);
    answer(&mut bench, key, Some(COST));
    let mut ask = async |bench: &mut Bench, count: usize, takes: Duration| {
        for _ in 0..count {
            let mut reply = bench.call(1);
            let batch = worker.run();
            advance(takes).await;
            bench.complete(&worker, &batch);
            bench.credit(&worker, 0);
            assert!(outcome(&mut reply).is_ok());
        }
    };
    let usual = Duration::from_micros(2_101);
    ask(&mut bench, 20, usual).await;
    advance(Duration::from_secs(61)).await;
    ask(&mut bench, 1, usual).await;
    assert_eq!(kept(&mut bench), None, "it is what it was");
    ask(&mut bench, 100, usual * 2).await;
    assert_eq!(kept(&mut bench), None, "not yet");
    advance(Duration::from_secs(61)).await;
    ask(&mut bench, 1, usual * 2).await;
    let now = kept(&mut bench).expect("kept");
    assert!(now.cost.base_ns > 3_000_000, "{now:?}");
    ask(&mut bench, 100, usual).await;
    let (done, mut flushed) = oneshot::channel();
    bench.apply(Event::KeepCosts { done });
    assert!(kept(&mut bench).is_some(), "a stop waits for no minute");
    assert!(matches!(bench.cost_errands.try_recv(), Ok(CostErrand::Flush { .. })));
    assert!(flushed.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_rows_cannot_be_made_up_is_left_alone() {
    let mut bench = Bench::new();
    bench.configure(vec![settings()]);
    let mut worker = bench.worker("w", 1);
    let key = looked_up(&mut bench);
    assert_eq!(key.weights, "echo");
    answer(&mut bench, key, None);
    assert!(worker.commands.try_recv().is_err());
}

fn slow_card() -> Arc<Card> {
    Arc::new(Card { smallest_batch: Duration::from_micros(61_270), ..(*card()).clone() })
}

#[tokio::test(start_paused = true)]
async fn an_objective_below_what_one_row_takes_is_refused_with_the_number() {
    let mut bench = Bench::new();
    bench.configure(vec![settings()]);
    let worker = bench.connect("w", 1);
    bench.say(&worker, FromWorker::Model { model: "m".into(), state: ModelReport::Ready(slow_card()) });
    let ModelState::Failed(reason) = bench.registry.model("m").expect("model").state.clone() else {
        panic!("it was not refused");
    };
    let says = "its slo of 50ms cannot be kept: the smallest batch takes 61.3ms by itself on this worker; \
                ask for slo = \"74ms\" or more";
    assert_eq!(reason, says);
    assert!(matches!(outcome(&mut bench.call(1)), Err(CallError::ModelNotReady { .. })));
    // Under a policy that knows no lateness it is served, and where nobody stated the objective.
    for served in [super::settings("m"), ModelSettings { is_slo_stated: false, ..settings() }] {
        let mut bench = Bench::new();
        bench.configure(vec![served]);
        let worker = bench.connect("w", 1);
        bench.say(&worker, FromWorker::Model { model: "m".into(), state: ModelReport::Ready(slow_card()) });
        assert_eq!(bench.registry.model("m").expect("model").state, ModelState::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_was_served_is_not_refused_for_a_busy_hour() {
    let (mut bench, _worker) = bench();
    bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Lost });
    let again = bench.connect("w", 2);
    bench.say(&again, FromWorker::Model { model: "m".into(), state: ModelReport::Ready(slow_card()) });
    assert_eq!(bench.registry.model("m").expect("model").state, ModelState::Ready);
}
