//! Server and worker that are one step of the protocol apart: each of them against the other as it was when its messages
//! were pinned, over real connections.

use std::pin::Pin;

use bytes::Bytes;
use shoal_skew as old;
use shoal_skew::worker_link_client::WorkerLinkClient;
use shoal_skew::worker_link_server::{WorkerLink, WorkerLinkServer};
use shoal_skew::{control_request, control_response, data_request, data_response};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::{waiting_for_workers, worker};
use crate::oip::floats;
use crate::process::PATIENCE;

const TOKEN: &str = "the-token-of-all-workers";

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

fn hello(min: u32, max: u32) -> old::Hello {
    old::Hello {
        protocol_min: min,
        protocol_max: max,
        worker: format!("speaks-{min}-to-{max}"),
        auth: TOKEN.into(),
        offers: vec![old::ModelOffer { name: "echo".into(), card: None }],
        ..old::Hello::default()
    }
}

fn control(message: control_request::Message) -> old::ControlRequest {
    old::ControlRequest { message: Some(message) }
}

/// What today's server says to a worker that speaks these versions.
async fn answer_to(address: &str, hello: old::Hello) -> control_response::Message {
    let mut client = WorkerLinkClient::connect(address.to_owned()).await.expect("connection");
    let (controls, queue) = mpsc::channel(8);
    controls.send(control(control_request::Message::Hello(hello))).await.expect("room");
    let mut heard = within(client.control(ReceiverStream::new(queue))).await.expect("a stream").into_inner();
    within(heard.message()).await.expect("a message").expect("one").message.expect("a kind")
}

/// The card of a model that gives back its input.
fn card() -> old::ModelCard {
    let spec =
        |name: &str| old::TensorSpec { name: name.into(), data_type: old::DataType::F32.into(), shape: vec![-1] };
    old::ModelCard {
        name: "echo".into(),
        version: "1".into(),
        architecture: "echo".into(),
        task: old::Task::Tensor.into(),
        dtype: "f32".into(),
        backend: "echo".into(),
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        ..old::ModelCard::default()
    }
}

/// A worker of then: it loads what it is told to, grants one credit at a time, and gives back what it is sent.
async fn work(address: String) {
    let mut client = WorkerLinkClient::connect(address).await.expect("connection");
    let (controls, queue) = mpsc::channel(64);
    let hello = hello(old::PROTOCOL, old::PROTOCOL);
    let name = hello.worker.clone();
    controls.send(control(control_request::Message::Hello(hello))).await.expect("room");
    let mut heard = client.control(ReceiverStream::new(queue)).await.expect("a stream").into_inner();
    let first = within(heard.message()).await.expect("a message").expect("one").message;
    let Some(control_response::Message::Welcome(welcome)) = first else { panic!("{first:?}") };
    assert_eq!(welcome.protocol, old::PROTOCOL);
    let (datas, queue) = mpsc::channel(64);
    let send = async |message| datas.send(old::DataRequest { message: Some(message) }).await.expect("room");
    let attach = old::Attach { epoch: welcome.epoch, worker: name, auth: TOKEN.into() };
    send(data_request::Message::Attach(attach)).await;
    let mut batches = client.data(ReceiverStream::new(queue)).await.expect("a stream").into_inner();
    let credit = || old::Credit { slot: 0, rows: 16, tokens: 1 << 20, bytes: 1 << 20, ..old::Credit::default() };
    loop {
        tokio::select! {
            message = heard.message() => match message.expect("a message").and_then(|message| message.message) {
                Some(control_response::Message::Load(load)) => {
                    let state = old::ModelState {
                        model: load.model,
                        state: old::model_state::State::Ready.into(),
                        card: Some(card()),
                        ..old::ModelState::default()
                    };
                    controls.send(control(control_request::Message::ModelState(state))).await.expect("room");
                    controls.send(control(control_request::Message::Credit(credit()))).await.expect("room");
                }
                Some(control_response::Message::Heartbeat(beat)) if !beat.reply => {
                    let beat = old::Heartbeat { reply: true, ..beat };
                    controls.send(control(control_request::Message::Heartbeat(beat))).await.expect("room");
                }
                Some(_) => {}
                None => return,
            },
            message = batches.message() => match message.expect("a message").and_then(|message| message.message) {
                Some(data_response::Message::Run(run)) => {
                    let (batch, attempt, epoch) = (run.batch, run.attempt, run.epoch);
                    send(data_request::Message::Results(echoed(&run))).await;
                    let end = old::BatchEnd { batch, attempt, epoch, ..old::BatchEnd::default() };
                    send(data_request::Message::BatchEnd(end)).await;
                    controls.send(control(control_request::Message::Credit(credit()))).await.expect("room");
                }
                Some(data_response::Message::Fragment(_)) => panic!("so small a batch is not cut"),
                None => return,
            },
        }
    }
}

/// What a batch of one column gives.
fn echoed(run: &old::Run) -> old::Results {
    let [column] = &run.columns[..] else { panic!("{run:?}") };
    let items = column.row_splits.windows(2).enumerate().map(|(index, row)| {
        let (from, to) = (row[0] as usize * 4, row[1] as usize * 4);
        let data = column.data.slice(from..to);
        let tensor = old::Tensor {
            name: "y".into(),
            data_type: old::DataType::F32.into(),
            shape: vec![i64::from(row[1] - row[0])],
            size: data.len() as u64,
            data,
        };
        old::ItemResult { index: index as u32, last: true, tensors: vec![tensor], ..old::ItemResult::default() }
    });
    old::Results { batch: run.batch, attempt: run.attempt, epoch: run.epoch, items: items.collect() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_the_pinned_version_works_for_todays_server() {
    let home = tempfile::tempdir().expect("folder");
    let (mut shoal, address) = waiting_for_workers(home.path(), &["--model", "echo", "--worker-token", TOKEN]);
    let working = tokio::spawn(work(address));
    shoal.read_addresses();
    let request = floats(&[&[1.0, -2.5], &[3.0, 4.0]]);
    let answer = within(shoal.oip().await.model_infer(request.clone())).await.expect("an answer").into_inner();
    assert_eq!(answer.raw_output_contents, request.raw_input_contents);
    working.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_speaks_more_is_met_where_both_speak_and_one_that_does_not_is_told_both_ranges() {
    let home = tempfile::tempdir().expect("folder");
    let (_shoal, address) = waiting_for_workers(home.path(), &["--model", "echo", "--worker-token", TOKEN]);
    let latest = shoal_proto::link::limits::PROTOCOL;
    let earliest = shoal_proto::link::limits::PROTOCOL_MIN;
    for (min, max) in [(latest, latest), (earliest, latest + 1), (latest, latest + 1), (0, u32::MAX)] {
        let answer = answer_to(&address, hello(min, max)).await;
        let control_response::Message::Welcome(welcome) = answer else { panic!("{min} to {max}: {answer:?}") };
        assert_eq!(welcome.protocol, latest, "{min} to {max}");
    }
    for (min, max) in [(latest + 1, latest + 2), (0, earliest - 1), (latest + 1, earliest)] {
        let answer = answer_to(&address, hello(min, max)).await;
        let control_response::Message::Refused(refused) = answer else { panic!("{min} to {max}: {answer:?}") };
        assert_eq!(refused.reason(), old::refused::Reason::Protocol);
        let told = format!("this server speaks protocols {earliest} to {latest}, the worker {min} to {max}");
        assert_eq!(refused.detail, told);
    }
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A server of then: the streams that a worker opens go to the test.
struct Then(mpsc::Sender<Opened>);

enum Opened {
    Control(Streaming<old::ControlRequest>, mpsc::Sender<Result<old::ControlResponse, Status>>),
    Data(Streaming<old::DataRequest>, mpsc::Sender<Result<old::DataResponse, Status>>),
}

#[tonic::async_trait]
impl WorkerLink for Then {
    type ControlStream = Out<old::ControlResponse>;
    type DataStream = Out<old::DataResponse>;

    async fn control(
        &self,
        request: Request<Streaming<old::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let (out, queue) = mpsc::channel(64);
        self.0.send(Opened::Control(request.into_inner(), out)).await.map_err(|_| Status::unavailable("gone"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }

    async fn data(&self, request: Request<Streaming<old::DataRequest>>) -> Result<Response<Self::DataStream>, Status> {
        let (out, queue) = mpsc::channel(64);
        self.0.send(Opened::Data(request.into_inner(), out)).await.map_err(|_| Status::unavailable("gone"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn todays_worker_works_for_a_server_of_the_pinned_version() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    let (opened, mut streams) = mpsc::channel(8);
    let serving = tonic::transport::Server::builder()
        .add_service(WorkerLinkServer::new(Then(opened)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let serving = tokio::spawn(serving);
    let home = tempfile::tempdir().expect("folder");
    let _worker = worker(home.path(), &address, &["--worker-token", TOKEN, "--model", "echo", "--name", "w"]);

    let Some(Opened::Control(mut controls, out)) = within(streams.recv()).await else { panic!("Control comes first") };
    let say = async |message| out.send(Ok(old::ControlResponse { message: Some(message) })).await.expect("room");
    let first = within(controls.message()).await.expect("a message").expect("one").message;
    let Some(control_request::Message::Hello(hello)) = first else { panic!("{first:?}") };
    assert!((hello.protocol_min..=hello.protocol_max).contains(&old::PROTOCOL), "{hello:?}");
    assert_eq!((hello.worker.as_str(), hello.auth.as_str()), ("w", TOKEN));
    assert_eq!(hello.offers.iter().map(|offer| offer.name.as_str()).collect::<Vec<_>>(), ["echo"]);
    let epoch = 7;
    say(control_response::Message::Welcome(old::Welcome { protocol: old::PROTOCOL, epoch, ..Default::default() }))
        .await;
    let Some(Opened::Data(mut datas, batches)) = within(streams.recv()).await else { panic!("Data comes second") };
    let first = within(datas.message()).await.expect("a message").expect("one").message;
    let Some(data_request::Message::Attach(attach)) = first else { panic!("{first:?}") };
    assert_eq!((attach.epoch, attach.worker.as_str(), attach.auth.as_str()), (epoch, "w", TOKEN));

    let load = old::Load { model: "echo".into(), source: None, dtype: "auto".into() };
    say(control_response::Message::Load(load)).await;
    // Ready and with room, in whichever order it says so.
    let (mut card, mut credit) = (None, None);
    while card.is_none() || credit.is_none() {
        match within(controls.message()).await.expect("a message").expect("one").message {
            Some(control_request::Message::ModelState(state)) if state.state() == old::model_state::State::Ready => {
                card = state.card;
            }
            Some(control_request::Message::Credit(given)) if given.rows > 0 => credit = Some(given),
            Some(control_request::Message::Heartbeat(beat)) if !beat.reply => {
                say(control_response::Message::Heartbeat(old::Heartbeat { reply: true, ..beat })).await;
            }
            _ => {}
        }
    }
    let (card, credit) = (card.expect("a card"), credit.expect("a credit"));
    assert_eq!((card.task(), card.backend.as_str()), (old::Task::Tensor, "echo"));
    let values: Bytes = [1.5_f32, -2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into();
    let run = old::Run {
        batch: 1,
        attempt: 1,
        epoch,
        slot: credit.slot,
        model: "echo".into(),
        columns: vec![old::Column {
            name: card.inputs[0].name.clone(),
            data_type: old::DataType::F32.into(),
            row_splits: vec![0, 1, 3],
            size: values.len() as u64,
            data: values.clone(),
            ..Default::default()
        }],
        items: vec![old::Item::default(); 2],
        ..Default::default()
    };
    let message = Some(data_response::Message::Run(run));
    batches.send(Ok(old::DataResponse { message })).await.expect("room");
    let mut given = vec![Bytes::new(); 2];
    loop {
        match within(datas.message()).await.expect("a message").expect("one").message {
            Some(data_request::Message::Results(results)) => {
                assert_eq!((results.batch, results.attempt, results.epoch), (1, 1, epoch));
                for mut item in results.items {
                    assert!(item.last && item.error.is_none(), "{item:?}");
                    given[item.index as usize] = item.tensors.remove(0).data;
                }
            }
            Some(data_request::Message::BatchEnd(end)) => {
                assert_eq!((end.batch, end.attempt, end.epoch), (1, 1, epoch));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(given, [values.slice(..4), values.slice(4..)]);
    let drain = old::Drain { grace: Some(prost_types::Duration { seconds: 1, nanos: 0 }) };
    say(control_response::Message::Drain(drain)).await;
    let left = within(async {
        while let Ok(Some(message)) = controls.message().await {
            if let Some(control_request::Message::Goodbye(goodbye)) = message.message {
                return goodbye.drained;
            }
        }
        false
    });
    assert!(left.await, "it leaves as it is asked to");
    serving.abort();
}
