//! A cancel, a deadline, a lost worker and a stop, each at every stage of a call's way. Failpoints hold the stages.

use rustix::process::Signal;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::oip::texts;
use crate::process::{Hold, Shoal, raw_answer, raw_request, signal, wait_for};
use crate::traffic::is_right;

/// How far a call has come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// No worker may take it.
    Queued,
    /// A worker has it, and nothing is heard of its result.
    Running,
    /// Its result is there, the end of its batch is not.
    Answered,
}

const STAGES: [Stage; 3] = [Stage::Queued, Stage::Running, Stage::Answered];
/// Nothing is late, however busy the machine is: those that are late leave in a batch of their own.
const MODEL: &str = "s=synthetic:base=1ms,slo=60s";
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

impl Stage {
    /// A server on which the first call stays at this stage until the hold lets go or, where it is queued, a second comes.
    fn serve(self, arguments: &[&str]) -> (Shoal, Hold) {
        let hold = Hold::new();
        let failpoint = match self {
            Self::Queued => "dispatch=hold(2)".to_owned(),
            Self::Running => format!("results=1*{}", hold.action()),
            Self::Answered => format!("batch-end=1*{}", hold.action()),
        };
        let model = ["--model", MODEL];
        (Shoal::serve_with(&failpoint, &[&model, arguments].concat()), hold)
    }

    /// Whether the only call there is has come so far.
    fn is_now(self, shoal: &Shoal) -> bool {
        let now = shoal.metrics_or_zero([
            "shoal_queued_rows{model=\"s\"}",
            "shoal_rows_in_flight",
            "shoal_calls_in_flight",
            "shoal_batches_total{model=\"s\",reason=\"drained\"}",
        ]);
        now == match self {
            Self::Queued => [1.0, 0.0, 1.0, 0.0],
            Self::Running => [0.0, 1.0, 1.0, 1.0],
            Self::Answered => [0.0, 0.0, 1.0, 1.0],
        }
    }

    /// Waits until the only call there is has come so far.
    fn wait(self, shoal: &Shoal) {
        wait_for("the stage", || self.is_now(shoal).then_some(()));
    }
}

async fn call(shoal: &Shoal, text: &'static str) -> JoinHandle<Result<bool, Status>> {
    let mut client = shoal.oip().await;
    tokio::spawn(async move {
        let answer = client.model_infer(texts("s", &[text])).await?.into_inner();
        Ok(is_right(&answer, &[text]))
    })
}

/// The server is as if nothing had been: two calls at once are answered, each with its own.
async fn check_sound(shoal: &Shoal) {
    let calls = [call(shoal, "this one").await, call(shoal, "that one").await];
    for call in calls {
        assert!(call.await.expect("task").expect("an answer"), "the wrong answer");
    }
    wait_for("the calls to be gone", || (shoal.metric("shoal_calls_in_flight") == 0.0).then_some(()));
    assert_eq!(shoal.metric("shoal_rows_in_flight"), 0.0);
    assert_eq!(shoal.metric("shoal_queued_rows{model=\"s\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_calls_leave_together_once_all_have_come() {
    let shoal = Shoal::serve_with("dispatch=hold(4)", &["--model", MODEL]);
    let mut calls = Vec::new();
    for (count, text) in (1..).zip(["a", "b", "c", "d"]) {
        calls.push(call(&shoal, text).await);
        if count < 4 {
            wait_for("it", || (shoal.metric("shoal_queued_rows{model=\"s\"}") == f64::from(count)).then_some(()));
        }
    }
    for call in calls {
        assert!(call.await.expect("task").expect("an answer"), "the wrong answer");
    }
    assert_eq!(shoal.metric("shoal_batch_rows_count{model=\"s\"}"), 1.0);
    assert_eq!(shoal.metric("shoal_batch_rows_sum{model=\"s\"}"), 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_cancelled_at_any_stage() {
    for stage in STAGES {
        let (shoal, hold) = stage.serve(&[]);
        let cancelled = call(&shoal, "cancelled").await;
        stage.wait(&shoal);
        cancelled.abort();
        wait_for("it to be gone", || (shoal.metric("shoal_calls_in_flight") == 0.0).then_some(()));
        assert_eq!(shoal.metric("shoal_calls_total{model=\"s\",code=\"CANCELLED\"}"), 1.0, "{stage:?}");
        hold.release();
        check_sound(&shoal).await;
        assert_eq!(shoal.restarts(), 0.0, "{stage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_kept_at_any_stage() {
    for stage in STAGES {
        // On a busy machine the first may pass before the call has come so far.
        let mut deadlines = ["500m", "1000m", "2000m"].into_iter();
        while !keeps_deadline(stage, deadlines.next().expect("no deadline was long enough")).await {}
    }
}

/// Has a call end by its deadline, and says whether it was seen at the stage before.
async fn keeps_deadline(stage: Stage, deadline: &'static str) -> bool {
    let (shoal, hold) = stage.serve(&[]);
    let mut sender = shoal.raw_connection().await;
    let request = raw_request(&shoal.grpc, INFER, &[("grpc-timeout", deadline)], &texts("s", &["late"]));
    let answer = tokio::spawn(async move { raw_answer(sender.send_request(request).await?).await });
    let is_seen = wait_for("the stage", || match stage.is_now(&shoal) {
        true => Some(true),
        false => answer.is_finished().then_some(false),
    });
    // The stage does not end before this.
    let (code, _) = answer.await.expect("task").expect("an answer");
    assert_eq!(code, Code::DeadlineExceeded, "{stage:?}");
    hold.release();
    check_sound(&shoal).await;
    is_seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_lost_at_any_point_of_a_batch_costs_nothing_but_time() {
    for (failpoint, batches) in
        [("link-run=1*drop", 2.0), ("results=1*drop", 2.0), ("batch-end=1*drop", 1.0), ("batch-ended=1*drop", 1.0)]
    {
        let shoal = Shoal::serve_with(failpoint, &["--model", MODEL]);
        assert!(call(&shoal, "mine").await.await.expect("task").expect("an answer"), "{failpoint}: the wrong answer");
        // It was computed once, unless its result was lost with the worker.
        let total: f64 = shoal.metric("shoal_batch_rows_count{model=\"s\"}");
        assert_eq!(total, batches, "{failpoint}");
        // By dialling again, or as another process.
        let ready = || (shoal.metric("shoal_model_workers{model=\"s\"}") == 1.0).then_some(());
        wait_for("the worker to be back", ready);
        check_sound(&shoal).await;
        assert_eq!(shoal.metric("shoal_calls_total{model=\"s\",code=\"OK\"}"), 3.0, "{failpoint}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_after_its_results_and_before_the_end_of_their_batch_is_not_asked_again() {
    let (shoal, hold) = Stage::Answered.serve(&[]);
    let workers = shoal.workers();
    let answer = call(&shoal, "mine").await;
    Stage::Answered.wait(&shoal);
    signal(workers[0], Signal::KILL);
    shoal.wait_for_workers(1, &workers);
    hold.release();
    assert!(answer.await.expect("task").expect("an answer"), "the wrong answer");
    assert_eq!(shoal.metric("shoal_batch_rows_count{model=\"s\"}"), 1.0);
    check_sound(&shoal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_a_call_at_any_stage_and_for_one_that_cannot_run_no_longer_than_it_may() {
    for stage in STAGES {
        let drain_time_max = if matches!(stage, Stage::Queued) { "1s" } else { "10min" };
        let (shoal, hold) = stage.serve(&["--drain-time-max", drain_time_max]);
        let open = call(&shoal, "open").await;
        stage.wait(&shoal);
        let workers = shoal.workers();
        signal(shoal.pid(), Signal::TERM);
        shoal.wait_for_log("stopping: no new calls");
        hold.release();
        let (status, log) = tokio::task::spawn_blocking(move || shoal.ended(&workers)).await.expect("stop");
        assert!(status.success(), "{stage:?}: {status:?}\n{log:#?}");
        match (stage, open.await.expect("task")) {
            (Stage::Queued, outcome) => assert!(outcome.is_err(), "nothing could run it"),
            (_, outcome) => assert!(outcome.expect("an answer"), "{stage:?}: the wrong answer"),
        }
    }
}
