//! The services in front of a real driver whose only worker never takes a batch, so that every call stays open.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::v1::inference_client::InferenceClient;
use shoal_proto::v1::inference_server::{Inference as _, InferenceServer};
use shoal_proto::v1::{EmbedRequest, EmbedStreamRequest, TokenizeRequest};
use shoal_scheduler::{Epoch, Limits, PolicyConfig};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::caller::{ClientTimeout, by_deadline};
use super::{Frontend, FrontendOptions, InferenceService};
use crate::call::{CallError, DataType};
use crate::card::{Card, Task, TensorSpec};
use crate::driver::{
    Driver, Event, FromWorker, Handle, ModelReport, ModelSettings, Surroundings, ToWorker, WorkerUp, drive,
};
use crate::metrics::Metrics;
use crate::registry::{ModelState, Registry};
use crate::tokenize::{TokenizerPool, Vocabulary};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKENIZER: &[u8] =
    br#"{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}"#;

struct Bench {
    driver: Handle,
    metrics: Metrics,
    draining: CancellationToken,
    frontend: Frontend,
    _commands: mpsc::UnboundedReceiver<ToWorker>,
}

impl Bench {
    /// Serves `e`, which embeds, and `slow`, which is never loaded.
    async fn new() -> Self {
        let (registry, metrics) = (Registry::default(), Metrics::new());
        let (driver, inbox) = Handle::new();
        let (supervisor, _) = mpsc::unbounded_channel();
        let (artifacts, _) = mpsc::unbounded_channel();
        let around = Surroundings { registry: registry.clone(), metrics: metrics.clone(), supervisor, artifacts };
        tokio::spawn(drive(Driver::new(Limits::default(), Instant::now(), around), inbox));
        driver.configure(vec![settings("e"), settings("slow")]).await;
        let (commands, commands_in) = mpsc::unbounded_channel();
        let epoch = Epoch(1);
        let (name, device, offers) = ("w".into(), "cpu".into(), vec!["e".into(), "slow".into()]);
        driver.tell(Event::WorkerUp(WorkerUp { epoch, name, device, local: false, offers, commands })).await;
        let state = ModelReport::Ready(Arc::new(card()));
        driver.tell(Event::Worker { epoch, said: FromWorker::Model { model: "e".into(), state } }).await;
        let vocabulary = Vocabulary::parse("ab", TOKENIZER).expect("a tokenizer");
        driver.tell(Event::Tokenizer { sha256: "ab".into(), result: Ok(vocabulary) }).await;
        let mut changes = registry.changes();
        while registry.model("e").map_or(true, |view| view.state != ModelState::Ready) {
            timeout(PATIENCE, changes.changed()).await.expect("it gets ready").expect("registry");
        }
        let tokenizers = TokenizerPool::start(1).expect("a thread");
        let frontend = Frontend::new(driver.clone(), registry.clone(), tokenizers, FrontendOptions::default());
        let draining = CancellationToken::new();
        Self { driver, metrics, draining, frontend, _commands: commands_in }
    }

    fn inference(&self) -> InferenceService {
        InferenceService::new(self.frontend.clone(), self.draining.clone())
    }

    async fn wait_for_calls(&self, count: i64) {
        let counted = async {
            while self.metrics.calls_in_flight.get() != count {
                tokio::task::yield_now().await;
                self.driver.measure(PATIENCE).await;
            }
        };
        timeout(PATIENCE, counted).await.expect("calls come and go");
    }
}

fn settings(name: &str) -> ModelSettings {
    ModelSettings {
        name: name.into(),
        place: None,
        dtype: "auto".into(),
        slo: Duration::from_millis(50),
        queue_time_max: 10 * PATIENCE,
        queue_requests_max: NonZeroU32::new(1 << 16).expect("not zero"),
        batch_time_max: PATIENCE,
        batch_rows_max: NonZeroU32::new(8).expect("not zero"),
        batch_tokens_max: NonZeroU32::new(1000).expect("not zero"),
        policy: PolicyConfig::Fixed,
    }
}

fn card() -> Card {
    let tensor =
        |name: &str, data_type, shape: &[i64]| TensorSpec { name: name.into(), data_type, shape: shape.into() };
    Card {
        name: "e".into(),
        version: "1".into(),
        weights_sha256: String::new(),
        architecture: "test".into(),
        task: Task::Embed,
        dims: 4,
        labels: Vec::new(),
        tokens_max: 16,
        vocabulary: 1,
        bytes: 0,
        parameters: 0,
        dtype: "f32".into(),
        backend: "test".into(),
        tokenizer_sha256: "ab".into(),
        inputs: vec![tensor("ids", DataType::I32, &[-1])],
        outputs: vec![tensor("embedding", DataType::F32, &[4])],
        normalizes: true,
        smallest_batch: Duration::from_millis(1),
    }
}

fn embed(id: u32) -> EmbedStreamRequest {
    let request = EmbedRequest { model: "e".into(), texts: vec!["a".into()], ..Default::default() };
    EmbedStreamRequest { id: id.to_string(), request: Some(request) }
}

/// A request whose client waits so long.
fn within<T>(left: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(ClientTimeout { arrived: Instant::now(), left });
    request
}

#[tokio::test]
async fn a_client_that_sent_all_and_leaves_frees_its_calls() {
    let bench = Bench::new().await;
    let mut client = InferenceClient::new(InferenceServer::new(bench.inference()));
    let answers = client.embed_stream(tokio_stream::iter([embed(1), embed(2)])).await.expect("stream");
    bench.wait_for_calls(2).await;
    drop(answers);
    bench.wait_for_calls(0).await;
}

#[tokio::test]
async fn a_client_that_fills_its_stream_and_leaves_frees_its_calls() {
    let bench = Bench::new().await;
    let mut client = InferenceClient::new(InferenceServer::new(bench.inference()));
    let answers = client.embed_stream(tokio_stream::iter((0..1000).map(embed))).await.expect("stream");
    bench.wait_for_calls(256).await;
    drop(answers);
    bench.wait_for_calls(0).await;
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let bench = Bench::new().await;
    let mut client = InferenceClient::new(InferenceServer::new(bench.inference()));
    let request = within(Duration::from_millis(50), tokio_stream::pending());
    let mut answers = client.embed_stream(request).await.expect("stream").into_inner();
    let late = timeout(PATIENCE, answers.message()).await.expect("an end").expect_err("late");
    assert_eq!(late.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn tokenizing_is_bounded_by_the_deadline() {
    let bench = Bench::new().await;
    let message = TokenizeRequest { model: "e".into(), texts: vec!["a ".repeat(4000); 2000], truncate: true };
    let late = bench.inference().tokenize(within(Duration::ZERO, message)).await.expect_err("late");
    assert_eq!(late.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_load_ends_with_the_server_or_the_clients_patience() {
    let bench = Bench::new().await;
    let impatient = by_deadline(Some(Instant::now()), bench.frontend.load("slow", &bench.draining)).await;
    assert_eq!(impatient, Err(CallError::DeadlinePassed));
    let load = bench.frontend.load("slow", &bench.draining);
    let drain = async {
        tokio::task::yield_now().await;
        bench.draining.cancel();
    };
    let (loaded, ()) = timeout(PATIENCE, async { tokio::join!(load, drain) }).await.expect("it ends");
    assert_eq!(loaded, Err(CallError::Draining));
}
