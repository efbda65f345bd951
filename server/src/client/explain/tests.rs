//! The page as a person sees it, and what is said when there is none.

use std::sync::Mutex;

use clap::Parser as _;
use shoal_proto::v1::admin_server::{Admin, AdminServer};
use shoal_proto::v1::{LearnedCost, QueuedRows, RunningBatch, WaitReason, Waits};

use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};

use super::*;
use crate::client::testing::TestServer;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: ExplainArgs,
}

fn micros(micros: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: 0, nanos: micros * 1000 })
}

fn answer() -> ExplainResponse {
    use shoal_proto::v1::{ExplainedModel, ExplainedWorker, WaitingCall, model::State};
    let model = ExplainedModel {
        name: "minilm".into(),
        text: "7 rows wait for busy workers, the oldest for 12.4 ms.".into(),
        state: State::Ready.into(),
        objective: micros(50_000),
        workers: 1,
        cost: Some(LearnedCost { text: "3.1ms a batch".into(), ..LearnedCost::default() }),
        queued: Some(QueuedRows { standard: 5, bulk: 2, ..QueuedRows::default() }),
        oldest_age: micros(12_400),
        waits_for: WaitReason::WorkersBusy.into(),
        ..ExplainedModel::default()
    };
    let worker = ExplainedWorker {
        name: "local-0".into(),
        text: "Has run 16 rows of minilm for 3.0 ms, 9.0 ms expected.".into(),
        device: "cpu".into(),
        free_in: micros(6_000),
        ready: vec!["minilm".into()],
        running: vec![RunningBatch { model: "minilm".into(), rows: 16, ..RunningBatch::default() }],
        ..ExplainedWorker::default()
    };
    let call = WaitingCall {
        model: "minilm".into(),
        class: "standard".into(),
        waited: micros(12_400),
        waits: Some(Waits { workers_busy: micros(12_400), ..Waits::default() }),
        rows: 3,
        open_rows: 2,
        waits_for: WaitReason::WorkersBusy.into(),
        text: "Has waited 12.4 ms for busy workers; it is next.".into(),
        ..WaitingCall::default()
    };
    ExplainResponse { models: vec![model], workers: vec![worker], calls: vec![call], open_calls: 9, draining: false }
}

#[test]
fn tables_and_sentences_stand_below_each_other() {
    let page = page::page(&answer());
    let lines: Vec<Vec<&str>> = page.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
    let has = |words: &[&str]| lines.iter().any(|line| line.iter().filter(|word| !word.is_empty()).eq(words.iter()));
    assert!(has(&["minilm", "ready", "50.0 ms", "1", "3.1ms a batch", "5 standard, 2 bulk", "0", "12.4 ms"]), "{page}");
    assert!(has(&["minilm: 7 rows wait for busy workers, the oldest for 12.4 ms."]), "{page}");
    assert!(has(&["local-0", "cpu", "minilm", "16 × minilm", "6.0 ms"]), "{page}");
    assert!(has(&["1", "minilm", "–", "standard", "2 of 3", "12.4 ms", "0", "–", "–"]), "{page}");
    assert!(
        page.ends_with("\n  1: Has waited 12.4 ms for busy workers; it is next.\n\n9 calls are without an answer.\n")
    );
}

#[test]
fn a_worker_is_overdue_only_where_it_is_known_how_long_it_takes() {
    let free_in = |free_in| {
        let mut answer = answer();
        answer.workers[0].free_in = free_in;
        let page = page::page(&answer);
        let line = page.lines().find(|line| line.starts_with(" local-0")).expect("the worker").to_owned();
        line.rsplit("  ").map(str::trim).find(|cell| !cell.is_empty()).expect("its last column").to_owned()
    };
    assert_eq!([micros(6_000), micros(0), None].map(free_in), ["6.0 ms", "overdue", "not known"]);
}

#[test]
fn nothing_that_waits_is_said_so() {
    let page = page::page(&ExplainResponse { calls: Vec::new(), workers: Vec::new(), draining: true, ..answer() });
    assert!(page.starts_with("The server is shutting down"), "{page}");
    assert!(page.contains("\nNo worker is connected that holds minilm or loads it.\n"), "{page}");
    assert!(page.ends_with("\nNo call waits; 9 calls are without an answer.\n"), "{page}");
}

#[test]
fn json_names_times_by_their_unit() {
    let line = json::line(&answer());
    assert_eq!(line.matches('\n').count(), 1);
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(value["models"][0]["oldest_age_us"], 12_400);
    assert_eq!(value["models"][0]["waits_for"], "workers_busy");
    assert_eq!(value["calls"][0]["waits_us"]["workers_busy"], 12_400);
    assert_eq!(value["calls"][0]["deadline_in_us"], serde_json::Value::Null);
    assert_eq!(value["workers"][0]["running"][0]["rows"], 16);
}

#[tokio::test]
async fn who_asks_at_a_port_for_clients_is_told() {
    let server = TestServer::start().await;
    let args = Cli::parse_from(["shoal", "--addr", &server.address().to_string()]).args;
    let error =
        run(&args, false, &mut Vec::new(), &mut Vec::new()).await.expect_err("no admin calls there").to_string();
    assert!(error.ends_with("is no address for admin calls: ask at the one the server was given as --admin-listen"));
}

#[tokio::test]
async fn who_finds_nobody_is_told_how_to_start_a_server() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let args = Cli::parse_from(["shoal", "--addr", &address]).args;
    let error = run(&args, false, &mut Vec::new(), &mut Vec::new()).await.expect_err("nobody").to_string();
    assert!(error.contains(&format!("`shoal serve --admin-listen {address}`")), "{error}");
}

#[test]
fn watching_is_every_second_unless_told_otherwise() {
    let watch = |given: &[&str]| Cli::parse_from(["shoal"].iter().chain(given)).args.watch;
    assert_eq!(watch(&[]), None);
    assert_eq!(watch(&["--watch"]), Some(Duration::from_secs(1)));
    assert_eq!(watch(&["--watch=200ms", "--model", "m"]), Some(Duration::from_millis(200)));
    let error =
        Cli::try_parse_from(["shoal", "--watch=0s"]).map(|cli| cli.args.watch).expect_err("no pause").to_string();
    assert!(error.contains("--watch") && error.contains("must be at least 100ms"), "{error}");
}

/// Says one thing after the other.
struct Script(Mutex<Vec<Result<ExplainResponse, Status>>>);

#[tonic::async_trait]
impl Admin for Script {
    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        self.0.lock().expect("a lock").remove(0).map(Response::new)
    }
}

#[tokio::test]
async fn who_watches_is_told_of_a_server_that_cannot_say_and_goes_on() {
    let busy = || Err(Status::unavailable("the server is too busy"));
    let script = vec![busy(), Ok(answer()), busy(), Err(Status::not_found("model `m` is not served here"))];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let router = tonic::transport::Server::builder().add_service(AdminServer::new(Script(Mutex::new(script))));
    let serving = tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let args = Cli::parse_from(["shoal", "--addr", &address, "--watch=100ms"]).args;
    let (mut out, mut problems) = (Vec::new(), Vec::new());
    let error = run(&args, false, &mut out, &mut problems).await.expect_err("a model that is gone").to_string();
    serving.abort();
    assert!(error.contains("model `m` is not served here"), "{error}");
    assert_eq!(String::from_utf8(out).expect("UTF-8"), page::page(&answer()));
    let problems = String::from_utf8(problems).expect("UTF-8");
    assert_eq!(problems, "shoal: the server answered Unavailable: the server is too busy\n".repeat(2));
}
