//! Every method with requests that are nearly right: whatever comes, the outcome is one that is documented, and the
//! next caller notices nothing.
//!
//! The services are mounted as a server mounts them, on the real driver and a worker that echoes. Quick by default;
//! `SHOAL_HOSTILE_CASES=100000` tries more.

mod cases;
mod mutation;
mod requests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use prost::Message;
use shoal_proto::inference as oip;
use shoal_proto::v1;
use shoal_scheduler::{Budget, Epoch, Limits, PolicyConfig, Slot};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::ServiceExt;

use super::unreadable::explain;
use super::{HealthGate, InferenceService, OipService};
use crate::call::{DataType, Tensor};
use crate::card::{Card, Task, TensorSpec};
use crate::config::ModelControl;
use crate::driver::{
    ArtifactWanted, Batch, BatchRow, Driver, Event, FromWorker, Handle, ItemResult, ModelReport, ModelSettings,
    Surroundings, ToWorker, WorkerUp, drive,
};
use crate::frontend::testing::heads;
use crate::frontend::{Frontend, FrontendOptions};
use crate::metrics::Metrics;
use crate::registry::{ModelState, Registry};
use crate::telemetry::LogControl;
use crate::tokenize::{TokenizerPool, Vocabulary};
use mutation::{change_bytes, change_fields};
use requests::{EMBED, EMBED_STREAM, INFER, INFER_STREAM, Valid};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKENIZER: &[u8] = br#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Whitespace"},
    "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"[UNK]":2},"unk_token":"[UNK]"}}"#;
const TOKENIZER_SHA256: &str = "ab";
/// Of the models that score.
const HEADS_TOKENIZER_SHA256: &str = "cd";
/// Statuses that [errors.md](../../docs/errors.md) has for a caller's own doing, or for a busy server.
const DOCUMENTED: [Code; 8] = [
    Code::Ok,
    Code::NotFound,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::ResourceExhausted,
    Code::Unavailable,
    Code::PermissionDenied,
    Code::Unimplemented,
];

/// How a call ended.
#[derive(Debug)]
struct Outcome {
    status: Status,
    messages: Vec<Bytes>,
}

impl Outcome {
    fn only<M: Message + Default>(&self) -> M {
        assert_eq!((self.status.code(), self.messages.len()), (Code::Ok, 1), "{self:?}");
        M::decode(self.messages[0].clone()).expect("an answer that can be read")
    }
}

/// The services, and their routes as the listener has them.
struct Bench {
    routes: Routes,
}

impl Bench {
    /// Serves `e`, which embeds, `c`, `r` and `f`, which score, and `echo` and `several`, which return what they are given.
    async fn new(control: ModelControl) -> Self {
        let registry = Registry::default();
        let (driver, inbox) = Handle::new();
        let (around, errands) = Surroundings::of_test(registry.clone(), Metrics::new());
        tokio::spawn(drive(Driver::new(Limits::default(), Instant::now(), around), inbox));
        driver.configure(cards().iter().map(settings).collect()).await;
        let epoch = Epoch(1);
        let (up, commands) = WorkerUp::of_test(epoch, "w");
        let offers = cards().iter().map(|card| card.name.clone()).collect();
        driver.tell(Event::WorkerUp(WorkerUp { offers, ..up })).await;
        let budget = Budget { rows: 64, tokens: 1 << 20, bytes: 1 << 30 };
        driver.tell(Event::Worker { epoch, said: FromWorker::Credit { slot: Slot(0), budget } }).await;
        tokio::spawn(work(driver.clone(), epoch, budget, commands));
        tokio::spawn(fetch(driver.clone(), errands.artifacts));
        let mut changes = registry.changes();
        while registry.all().iter().any(|view| view.state != ModelState::Ready) {
            timeout(PATIENCE, changes.changed()).await.expect("all get ready").expect("registry");
        }
        let tokenizers = TokenizerPool::start(1).expect("a thread");
        let draining = CancellationToken::new();
        let (health, health_service) = HealthGate::new(registry.clone(), draining.clone()).await;
        let frontend = Frontend::new(driver, registry, tokenizers, FrontendOptions::default(), draining.clone());
        let oip = OipService::new(frontend.clone(), health, control, LogControl::unheard(), draining.clone());
        let inference = InferenceService::new(frontend, draining);
        Self { routes: crate::server::routes(inference, oip, health_service, 1 << 20).prepare() }
    }

    /// Makes a call with what stands in `body`, frames and all.
    async fn call(&self, method: &str, body: Vec<u8>) -> Outcome {
        let request = http::Request::post(format!("http://shoal{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Full::new(Bytes::from(body)).map_err(|never| match never {})))
            .expect("a request");
        let answered = async {
            let service = ServiceExt::<http::Request<Body>>::map_response(self.routes.clone(), explain);
            let answer = service.oneshot(request).await.expect("an answer");
            let in_head = Status::from_header_map(answer.headers());
            let body = answer.into_body().collect().await.expect("a whole body");
            let in_trailers = body.trailers().and_then(Status::from_header_map);
            let status = in_head.or(in_trailers).expect("a status");
            Outcome { status, messages: unframed(body.to_bytes()) }
        };
        timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("{method} hangs"))
    }

    async fn ask(&self, method: &str, message: &impl Message) -> Outcome {
        self.call(method, framed(&message.encode_to_vec())).await
    }

    /// Loads what was unloaded; whoever may not has not unloaded anything either.
    async fn load(&self) {
        for card in cards() {
            let load = oip::RepositoryModelLoadRequest { model_name: card.name.to_string(), ..Default::default() };
            let loaded = self.ask("/inference.GRPCInferenceService/RepositoryModelLoad", &load).await.status;
            assert!([Code::Ok, Code::PermissionDenied].contains(&loaded.code()), "{loaded:?}");
        }
    }

    /// What a caller before it sent does not show in a good call's answer.
    async fn assert_unharmed(&self) {
        let echo = requests::infer_echo();
        let answer: oip::ModelInferResponse = self.ask(INFER, &echo).await.only();
        assert_eq!(answer.raw_output_contents, echo.raw_input_contents, "NaN and all");
        let answer: v1::EmbedResponse = self.ask(EMBED, &requests::embed()).await.only();
        let values: Vec<_> = answer.embeddings.iter().map(|embedding| embedding.values.clone()).collect();
        assert_eq!(values, [[2.0, 1.0], [1.0, 1.0]], "tokens and the sum of their ids");
    }
}

/// Answers every batch at once: embeddings are the number of a row's ids and their sum, tensors come back.
async fn work(driver: Handle, epoch: Epoch, budget: Budget, mut commands: mpsc::UnboundedReceiver<ToWorker>) {
    let say = async |said| driver.tell(Event::Worker { epoch, said }).await;
    while let Some(command) = commands.recv().await {
        match command {
            ToWorker::Load { model, .. } => {
                let card = cards().into_iter().find(|card| card.name == model).expect("a model on offer");
                say(FromWorker::Model { model, state: ModelReport::Ready(Arc::new(card)) }).await;
            }
            ToWorker::Unload { model } => say(FromWorker::Model { model, state: ModelReport::Unloaded }).await,
            ToWorker::Run(run) => {
                let Batch { batch, attempt, slot, card, rows, .. } = run;
                let result = |row: &BatchRow| Ok(outputs(&card, row));
                let items = (0..).zip(&rows).map(|(index, row)| ItemResult { index, result: result(row) }).collect();
                say(FromWorker::Items { batch, attempt, items }).await;
                say(FromWorker::BatchEnd { batch, attempt, waited: Duration::ZERO, compute: Duration::from_micros(1) })
                    .await;
                say(FromWorker::Credit { slot, budget }).await;
            }
            _ => {}
        }
    }
}

/// Finds every tokenizer.
async fn fetch(driver: Handle, mut errands: mpsc::UnboundedReceiver<ArtifactWanted>) {
    while let Some(ArtifactWanted::Read { sha256 } | ArtifactWanted::Keep { sha256, .. }) = errands.recv().await {
        let json = if sha256 == HEADS_TOKENIZER_SHA256 { heads::TOKENIZER } else { TOKENIZER };
        let vocabulary = Vocabulary::parse(&sha256, json).expect("a tokenizer");
        driver.tell(Event::Tokenizer { sha256, result: Ok(vocabulary) }).await;
    }
}

fn outputs(card: &Card, row: &BatchRow) -> Vec<Tensor> {
    if card.task == Task::Embed {
        let mut column = row.columns[0].clone();
        let ids: Vec<f32> =
            std::iter::from_fn(|| (column.remaining() >= 4).then(|| column.get_u32_le() as f32)).collect();
        let mut values = vec![ids.len() as f32, ids.iter().sum(), 0.0, 0.0];
        values.truncate(if row.options.dimensions == 0 { 4 } else { row.options.dimensions as usize });
        let (shape, data) = (vec![values.len() as i64], values.iter().flat_map(|value| value.to_le_bytes()).collect());
        return vec![Tensor { name: "embedding".into(), data_type: DataType::F32, shape, data }];
    }
    if card.task != Task::Tensor {
        return heads::compute(card, row);
    }
    let specs = card.outputs.iter().zip(&row.columns);
    let tensor = |(spec, data): (&TensorSpec, &Bytes)| {
        let element_bytes = if spec.data_type == DataType::F32 { 4 } else { 1 };
        let elements = (data.len() / element_bytes) as i64;
        let shape = spec.shape.iter().map(|dim| if *dim == -1 { elements } else { *dim }).collect();
        Tensor { name: spec.name.clone(), data_type: spec.data_type, shape, data: data.clone() }
    };
    specs.map(tensor).collect()
}

fn cards() -> Vec<Card> {
    let spec = |name: &str, data_type, shape: &[i64]| TensorSpec { name: name.into(), data_type, shape: shape.into() };
    let card = |name: &str, tensors: Vec<TensorSpec>| Card {
        inputs: tensors.clone(),
        outputs: tensors,
        normalizes: true,
        smallest_batch: Duration::from_micros(1),
        ..Card::testing(name)
    };
    let embedder = Card {
        task: Task::Embed,
        dims: 4,
        tokens_max: 16,
        vocabulary: 3,
        tokenizer_sha256: TOKENIZER_SHA256.into(),
        outputs: vec![spec("embedding", DataType::F32, &[4])],
        ..card("e", vec![spec("ids", DataType::I32, &[-1])])
    };
    let several = vec![
        spec("pixels", DataType::U8, &[-1]),
        spec("flag", DataType::Bool, &[]),
        spec("blob", DataType::Bytes, &[-1]),
    ];
    let heads = heads::cards().map(|card| Card { tokenizer_sha256: HEADS_TOKENIZER_SHA256.into(), ..card });
    let mut cards = vec![embedder, card("echo", vec![spec("x", DataType::F32, &[-1])]), card("several", several)];
    cards.extend(heads);
    cards
}

fn settings(card: &Card) -> ModelSettings {
    let many = |count| NonZeroU32::new(count).expect("not zero");
    ModelSettings {
        name: card.name.clone(),
        place: None,
        dtype: "auto".into(),
        slo: Duration::from_millis(50),
        is_slo_stated: true,
        queue_time_max: PATIENCE,
        queue_requests_max: many(1 << 16),
        batch_time_max: PATIENCE,
        batch_rows_max: many(64),
        batch_tokens_max: many(1 << 16),
        policy: PolicyConfig::Fixed,
        load: Default::default(),
        canary: None,
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

fn unframed(body: Bytes) -> Vec<Bytes> {
    let mut body = BytesMut::from(body);
    let mut messages = Vec::new();
    while body.len() >= 5 {
        body.advance(1);
        let length = body.get_u32() as usize;
        messages.push(body.split_to(length).freeze());
    }
    assert!(body.is_empty(), "half a frame");
    messages
}

/// Fails unless the outcome is one that the page of errors has, with the details it promises.
fn assert_documented(method: &str, outcome: &Outcome) {
    let Outcome { status, messages } = outcome;
    let code = status.code();
    assert!(DOCUMENTED.contains(&code), "{method}: {status:?}");
    assert!(status.message().len() + status.details().len() < 4096, "{method}: too much for a header: {status:?}");
    if code == Code::InvalidArgument {
        let details = status.get_error_details();
        let field = details.bad_request().and_then(|bad| Some(bad.field_violations.first()?.field.clone()));
        let field = field.unwrap_or_default();
        assert!(!field.is_empty(), "{method}: no field in {status:?}");
        assert!(status.message().contains(&field), "{method}: {field} is not in {status:?}");
    }
    for message in messages {
        match method {
            EMBED_STREAM => assert_stream_error(v1::EmbedStreamResponse::decode(message.clone()).expect("an answer")),
            INFER_STREAM => {
                let answer = oip::ModelStreamInferResponse::decode(message.clone()).expect("an answer");
                assert!(answer.infer_response.is_some(), "{answer:?}");
            }
            _ => {}
        }
    }
}

fn assert_stream_error(answer: v1::EmbedStreamResponse) {
    if let Some(v1::embed_stream_response::Result::Error(error)) = answer.result {
        let code = Code::from_i32(error.code);
        assert!(DOCUMENTED.contains(&code) && code != Code::Ok, "{error:?}");
        assert!(code != Code::InvalidArgument || error.message.starts_with('`'), "{error:?}");
    }
}

/// Puts `cases` wrong requests to both kinds of server, and after each a good one.
fn attack<S: Strategy>(cases: u32, changes: S, body: impl Fn(&Valid, &S::Value) -> Vec<u8>)
where
    S::Value: Clone,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let cases = std::env::var("SHOAL_HOSTILE_CASES").map_or(cases, |text| text.parse().expect("a number of cases"));
    let benches = [ModelControl::None, ModelControl::Explicit].map(|control| runtime.block_on(Bench::new(control)));
    let valid = requests::all();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let strategy = (any::<bool>(), any::<Index>(), changes);
    let codes = RefCell::new(BTreeMap::<String, u32>::new());
    let done = runner.run(&strategy, |(explicit, which, changes)| {
        let (bench, valid) = (&benches[usize::from(explicit)], which.get(&valid));
        let body = body(valid, &changes);
        runtime.block_on(async {
            let outcome = bench.call(valid.method, body).await;
            assert_documented(valid.method, &outcome);
            *codes.borrow_mut().entry(format!("{:?}", outcome.status.code())).or_default() += 1;
            bench.load().await;
            bench.assert_unharmed().await;
        });
        Ok(())
    });
    done.unwrap_or_else(|failed| panic!("{failed}"));
    let codes = codes.into_inner();
    println!("{cases} cases: {codes:?}");
    // Changes that break nothing, or all of them, would prove nothing.
    for code in ["Ok", "InvalidArgument"] {
        assert!(codes.get(code).is_some_and(|count| *count > cases / 50), "{codes:?}");
    }
}

#[test]
fn every_valid_request_is_answered() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let bench = Bench::new(ModelControl::Explicit).await;
        let mut methods = std::collections::BTreeSet::new();
        for valid in requests::all() {
            let outcome =
                bench.call(valid.method, valid.messages.iter().flat_map(|message| framed(message)).collect()).await;
            let expected = if valid.method.contains("SharedMemory") { Code::Unimplemented } else { Code::Ok };
            assert_eq!(outcome.status.code(), expected, "{}: {outcome:?}", valid.method);
            assert_documented(valid.method, &outcome);
            methods.insert(valid.method);
            bench.load().await;
        }
        assert_eq!(methods.len(), 20 + 7, "{methods:?}");
        bench.assert_unharmed().await;
    });
}

#[test]
fn fields_of_any_value_end_in_a_documented_outcome_and_harm_nobody() {
    attack(1500, mutation::field_changes(), |valid, changes| {
        let messages = valid.messages.iter().enumerate();
        // The first of a stream; those behind it must not suffer either.
        let changed =
            messages.map(|(at, message)| if at == 0 { change_fields(message, changes) } else { message.clone() });
        changed.flat_map(|message| framed(&message)).collect()
    });
}

#[test]
fn bytes_of_any_value_end_in_a_documented_outcome_and_harm_nobody() {
    attack(1500, (any::<bool>(), mutation::byte_changes()), |valid, (frames, changes)| {
        // Either the frames are right and what is in them is not, or nothing is.
        if *frames {
            let whole: Vec<u8> = valid.messages.iter().flat_map(|message| framed(message)).collect();
            return change_bytes(&whole, changes);
        }
        valid.messages.iter().flat_map(|message| framed(&change_bytes(message, changes))).collect()
    });
}
