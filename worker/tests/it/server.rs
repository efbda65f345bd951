//! A server that says what the test tells it to and hands over whatever the worker says.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use prost_types::Duration as WireDuration;
use shoal_proto::link::worker_link_server::{WorkerLink, WorkerLinkServer};
use shoal_proto::link::{
    BatchEnd, BatchFailed, Begun, Bid, Class, Column, ControlRequest, ControlResponse, Credit, DataRequest,
    DataResponse, DataType, EchoSource, Heartbeat, Hello, Item, ItemResult, Load, ModelCard, ModelSource, ModelState,
    Pass, Run, Size, Stats, SyntheticSource, Turn, Want, Welcome, control_request, control_response, data_request,
    data_response, model_source, model_state,
};
use shoal_worker::{Endpoint, Exit, Options, RunError};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::begun;

/// Longer than anything here takes, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// A listening server. Each connection of a worker arrives as a [`Peer`].
pub(crate) struct Server {
    folder: TempDir,
    pub(crate) endpoint: Endpoint,
    /// Who it says that it is, if it shares its workers.
    shared: Option<u64>,
    connections: mpsc::Receiver<Streams>,
    task: JoinHandle<()>,
}

/// The streams of one kind a worker opened.
enum Streams {
    Control(Streaming<ControlRequest>, mpsc::Sender<Result<ControlResponse, Status>>),
    Data(Streaming<DataRequest>, mpsc::Sender<Result<DataResponse, Status>>),
}

/// A worker that said hello and was not answered yet.
pub(crate) struct Caller {
    pub(crate) hello: Hello,
    control_in: Streaming<ControlRequest>,
    control_out: mpsc::Sender<Result<ControlResponse, Status>>,
}

/// A worker that was welcomed and attached.
pub(crate) struct Peer {
    pub(crate) epoch: u64,
    pub(crate) hello: Hello,
    control_in: Streaming<ControlRequest>,
    control_out: mpsc::Sender<Result<ControlResponse, Status>>,
    data_in: Streaming<DataRequest>,
    data_out: mpsc::Sender<Result<DataResponse, Status>>,
    /// Credits that came while something else was awaited.
    credits: Vec<Credit>,
    /// Batches that began.
    pub(crate) begun: Vec<Begun>,
    /// Barriers so far.
    barriers: u64,
}

/// How a batch ended.
#[derive(Debug)]
pub(crate) enum Answer {
    Results { items: Vec<ItemResult>, end: BatchEnd },
    Failed(BatchFailed),
}

impl Answer {
    pub(crate) fn items(self) -> Vec<ItemResult> {
        match self {
            Self::Results { items, .. } => items,
            Self::Failed(failed) => panic!("the batch failed: {failed:?}"),
        }
    }

    pub(crate) fn failed(self) -> BatchFailed {
        match self {
            Self::Failed(failed) => failed,
            Self::Results { items, .. } => panic!("the batch ran: {items:?}"),
        }
    }
}

struct Service(mpsc::Sender<Streams>);

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerLink for Service {
    type ControlStream = Outgoing<ControlResponse>;
    type DataStream = Outgoing<DataResponse>;

    async fn control(
        &self,
        request: Request<Streaming<ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let (out, queue) = mpsc::channel(64);
        self.0.send(Streams::Control(request.into_inner(), out)).await.map_err(|_| Status::unavailable("gone"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }

    async fn data(&self, request: Request<Streaming<DataRequest>>) -> Result<Response<Self::DataStream>, Status> {
        let (out, queue) = mpsc::channel(64);
        self.0.send(Streams::Data(request.into_inner(), out)).await.map_err(|_| Status::unavailable("gone"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

impl Server {
    /// On a Unix socket of its own.
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let endpoint = Endpoint::Unix(folder.path().join("s"));
        Self::serve(folder, endpoint, UnixListenerStream::new(listener))
    }

    /// On a TCP port that the system chose.
    pub(crate) async fn start_tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        Self::serve(TempDir::new().unwrap(), endpoint, TcpListenerStream::new(listener))
    }

    fn serve<I>(
        folder: TempDir,
        endpoint: Endpoint,
        incoming: impl Stream<Item = io::Result<I>> + Send + 'static,
    ) -> Self
    where
        I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let (streams, connections) = mpsc::channel(8);
        let service = WorkerLinkServer::new(Service(streams)).max_decoding_message_size(4 << 20);
        let task = tokio::spawn(async move {
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Self { folder, endpoint, shared: None, connections, task }
    }

    /// One that shares its workers with others.
    pub(crate) fn sharing(mut self, server: u64) -> Self {
        self.shared = Some(server);
        self
    }

    pub(crate) fn options(&self) -> Options {
        let mut options = Options::new(self.endpoint.clone(), "w1", "token");
        options.threads = NonZeroUsize::new(1);
        options
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// The next worker to say hello.
    pub(crate) async fn call(&mut self) -> Caller {
        let Streams::Control(mut control_in, control_out) = within(self.connections.recv()).await.unwrap() else {
            panic!("the worker opened Data first");
        };
        let Some(control_request::Message::Hello(hello)) = within(control_in.message()).await.unwrap().unwrap().message
        else {
            panic!("the worker did not say hello first");
        };
        Caller { hello, control_in, control_out }
    }

    /// The next worker to say hello, welcomed.
    pub(crate) async fn peer(&mut self, epoch: u64) -> Peer {
        let caller = self.call().await;
        self.welcome(caller, epoch, Duration::from_secs(5)).await
    }

    pub(crate) async fn welcome(&mut self, caller: Caller, epoch: u64, silence_max: Duration) -> Peer {
        let Caller { hello, control_in, control_out } = caller;
        let welcome = Welcome {
            protocol: 1,
            epoch,
            heartbeat_interval: Some(WireDuration { seconds: 0, nanos: 50_000_000 }),
            silence_max: Some(silence_max.try_into().unwrap()),
            shares_workers: self.shared.is_some(),
            server: self.shared.unwrap_or_default(),
        };
        let message = Some(control_response::Message::Welcome(welcome));
        control_out.send(Ok(ControlResponse { message })).await.unwrap();
        let Streams::Data(mut data_in, data_out) = within(self.connections.recv()).await.unwrap() else {
            panic!("the worker opened Control again");
        };
        let Some(data_request::Message::Attach(attach)) = within(data_in.message()).await.unwrap().unwrap().message
        else {
            panic!("the worker did not attach first");
        };
        assert_eq!((attach.epoch, attach.worker.as_str(), attach.auth.as_str()), (epoch, "w1", "token"));
        let (credits, begun) = (Vec::new(), Vec::new());
        Peer { epoch, hello, control_in, control_out, data_in, data_out, credits, begun, barriers: 0 }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Caller {
    /// Welcomes the worker, which is to go without attaching.
    pub(crate) async fn sees_it_leave_after_welcome(mut self, shares_workers: bool, server: u64) {
        let welcome = Welcome { protocol: 1, epoch: 99, shares_workers, server, ..Welcome::default() };
        let message = Some(control_response::Message::Welcome(welcome));
        self.control_out.send(Ok(ControlResponse { message })).await.unwrap();
        let next = within(self.control_in.message()).await;
        assert!(!matches!(next, Ok(Some(_))), "{next:?}");
    }

    pub(crate) async fn refuse(self, refused: shoal_proto::link::Refused) {
        let message = Some(control_response::Message::Refused(refused));
        self.control_out.send(Ok(ControlResponse { message })).await.unwrap();
    }
}

impl Peer {
    pub(crate) async fn send(&self, message: control_response::Message) {
        self.control_out.send(Ok(ControlResponse { message: Some(message) })).await.unwrap();
    }

    pub(crate) async fn send_data(&self, message: data_response::Message) {
        self.data_out.send(Ok(DataResponse { message: Some(message) })).await.unwrap();
    }

    /// Messages of kinds that a later version may have, on both streams.
    pub(crate) async fn send_unknown(&self) {
        self.control_out.send(Ok(ControlResponse::default())).await.unwrap();
        self.data_out.send(Ok(DataResponse::default())).await.unwrap();
    }

    /// The next control message that is no heartbeat and no statistic, or none at the end. Heartbeats are answered.
    pub(crate) async fn try_control(&mut self) -> Option<control_request::Message> {
        loop {
            let message = within(self.control_in.message()).await.ok()??.message.unwrap();
            match message {
                control_request::Message::Heartbeat(mut heartbeat) => {
                    heartbeat.reply = true;
                    let message = Some(control_response::Message::Heartbeat(heartbeat));
                    // The worker may be gone by now.
                    drop(self.control_out.send(Ok(ControlResponse { message })).await);
                }
                control_request::Message::Stats(_) => {}
                message => return Some(message),
            }
        }
    }

    /// Returns when the worker's control stream is over.
    pub(crate) async fn ends_without_goodbye(&mut self) {
        within(async {
            while let Some(message) = self.try_control().await {
                assert!(!matches!(message, control_request::Message::Goodbye(_)), "{message:?}");
            }
        })
        .await;
    }

    /// The next control message of any kind, unanswered.
    pub(crate) async fn raw_control(&mut self) -> control_request::Message {
        within(self.control_in.message()).await.unwrap().unwrap().message.unwrap()
    }

    /// Returns once the worker has handled every control message sent before: it answers them in order.
    pub(crate) async fn barrier(&mut self) {
        let sent_micros = u64::MAX - self.barriers;
        self.barriers += 1;
        self.send(control_response::Message::Heartbeat(Heartbeat { sent_micros, reply: false })).await;
        loop {
            match self.raw_control().await {
                control_request::Message::Heartbeat(heartbeat) if heartbeat.reply => {
                    assert_eq!(heartbeat.sent_micros, sent_micros);
                    return;
                }
                control_request::Message::Credit(credit) => self.credits.push(credit),
                control_request::Message::Heartbeat(_) | control_request::Message::Stats(_) => {}
                other => panic!("no heartbeat but {other:?}"),
            }
        }
    }

    /// Statistics made after everything that came so far.
    pub(crate) async fn stats(&mut self) -> Stats {
        self.barrier().await;
        loop {
            match self.raw_control().await {
                control_request::Message::Stats(stats) => return stats,
                control_request::Message::Credit(credit) => self.credits.push(credit),
                control_request::Message::Heartbeat(_) => {}
                other => panic!("no statistics but {other:?}"),
            }
        }
    }

    pub(crate) async fn credit(&mut self) -> Credit {
        if let Some(credit) = self.credits.pop() {
            return credit;
        }
        match self.try_control().await {
            Some(control_request::Message::Credit(credit)) => credit,
            other => panic!("no credit but {other:?}"),
        }
    }

    pub(crate) async fn model_state(&mut self) -> ModelState {
        loop {
            match self.try_control().await {
                Some(control_request::Message::ModelState(state)) => return state,
                Some(control_request::Message::Credit(credit)) => self.credits.push(credit),
                other => panic!("no model state but {other:?}"),
            }
        }
    }

    /// Loads a model and waits until it is ready.
    pub(crate) async fn load(&mut self, model: &str, source: model_source::Source) -> ModelCard {
        self.load_in("", model, source).await
    }

    pub(crate) async fn load_in(&mut self, dtype: &str, model: &str, source: model_source::Source) -> ModelCard {
        let source = Some(ModelSource { source: Some(source) });
        let load = Load { model: model.to_owned(), source, dtype: dtype.to_owned() };
        self.send(control_response::Message::Load(load)).await;
        loop {
            let state = self.model_state().await;
            match state.state() {
                model_state::State::Loading => {}
                model_state::State::Ready => return state.card.unwrap(),
                _ => panic!("did not load: {state:?}"),
            }
        }
    }

    pub(crate) async fn load_echo(&mut self) -> ModelCard {
        self.load("echo", model_source::Source::Echo(EchoSource {})).await
    }

    pub(crate) async fn load_synthetic(&mut self) -> ModelCard {
        let source = SyntheticSource { faults: true, ..SyntheticSource::default() };
        self.load("synthetic", model_source::Source::Synthetic(source)).await
    }

    /// Sends a batch on the next credit.
    pub(crate) async fn run(&mut self, mut run: Run) {
        run.slot = self.credit().await.slot;
        run.epoch = self.epoch;
        self.send_data(data_response::Message::Run(run)).await;
    }

    /// Says that so many rows of a model wait, which should have started by now.
    pub(crate) async fn bid(&self, model: &str, rows: u64) {
        let size = Size { rows, tokens: 0, tokens_squared: 0 };
        let want = Want {
            class: Class::Standard.into(),
            start_micros: -1000,
            time_micros: 1000,
            on_time: Some(size),
            classes: vec![Class::Standard.into()],
            late: None,
            is_apart: false,
        };
        self.send_data(data_response::Message::Bid(Bid { model: model.to_owned(), want: Some(want) })).await;
    }

    /// The next turn.
    pub(crate) async fn turn(&mut self) -> Turn {
        match self.try_control().await {
            Some(control_request::Message::Turn(turn)) => turn,
            other => panic!("no turn but {other:?}"),
        }
    }

    pub(crate) async fn pass(&self, turn: &Turn) {
        self.send_data(data_response::Message::Pass(Pass { slot: turn.slot })).await;
    }

    /// Answers a turn with a batch.
    pub(crate) async fn run_in(&mut self, turn: &Turn, mut run: Run) {
        (run.slot, run.epoch) = (turn.slot, self.epoch);
        self.send_data(data_response::Message::Run(run)).await;
    }

    /// As [`Self::run`], and returns once the batch has begun: from then on it runs to its end, whatever comes.
    pub(crate) async fn begin(&mut self, mut run: Run) {
        let begun = begun::awaited(&mut run);
        self.run(run).await;
        within(begun).await.unwrap();
    }

    pub(crate) async fn data(&mut self) -> data_request::Message {
        within(self.data_in.message()).await.unwrap().unwrap().message.unwrap()
    }

    /// How a batch ended. Fragments are put together, parts of an item too.
    pub(crate) async fn answer(&mut self, batch: u64) -> Answer {
        let mut items: Vec<ItemResult> = Vec::new();
        loop {
            match self.data().await {
                data_request::Message::Results(results) => {
                    assert_eq!((results.batch, results.epoch), (batch, self.epoch));
                    for mut part in results.items {
                        self.complete(&mut part).await;
                        match items.last_mut() {
                            Some(before) if before.index == part.index => before.tensors.append(&mut part.tensors),
                            _ => items.push(part),
                        }
                    }
                }
                data_request::Message::BatchEnd(end) => {
                    assert_eq!((end.batch, end.epoch), (batch, self.epoch));
                    return Answer::Results { items, end };
                }
                data_request::Message::BatchFailed(failed) => {
                    assert_eq!((failed.batch, failed.epoch), (batch, self.epoch));
                    return Answer::Failed(failed);
                }
                data_request::Message::Begun(begun) => {
                    assert_eq!((begun.batch, begun.epoch), (batch, self.epoch));
                    self.begun.push(begun);
                }
                other => panic!("no result but {other:?}"),
            }
        }
    }

    async fn complete(&mut self, part: &mut ItemResult) {
        let Some(tensor) = part.tensors.last_mut() else { return };
        let mut data = tensor.data.to_vec();
        while (data.len() as u64) < tensor.size {
            match within(self.data_in.message()).await.unwrap().unwrap().message.unwrap() {
                data_request::Message::Fragment(fragment) => data.extend_from_slice(&fragment.data),
                other => panic!("no fragment but {other:?}"),
            }
        }
        tensor.data = data.into();
    }
}

/// A worker running in this process.
pub(crate) struct Worker {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<Exit, RunError>>,
}

impl Worker {
    pub(crate) fn start(options: Options) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            // A sender that is dropped never shuts anything down.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        Self { stop: Some(stop), task: tokio::spawn(shoal_worker::run(options, shutdown)) }
    }

    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn error(self) -> RunError {
        within(self.task).await.unwrap().unwrap_err()
    }

    pub(crate) async fn exit(self) -> Exit {
        within(self.task).await.unwrap().unwrap()
    }
}

/// A batch for the echo model, one row per slice.
pub(crate) fn echo_run(batch: u64, rows: &[&[f32]]) -> Run {
    let data: Vec<u8> = rows.concat().iter().flat_map(|value| value.to_le_bytes()).collect();
    run(batch, "echo", "x", DataType::F32, rows.iter().map(|row| row.len()), data.into())
}

/// A batch for the synthetic model, one row per text.
pub(crate) fn text_run(batch: u64, texts: &[&str]) -> Run {
    let data = texts.concat().into_bytes().into();
    run(batch, "synthetic", "text", DataType::Bytes, texts.iter().map(|text| text.len()), data)
}

/// A batch of token ids, one row per slice.
pub(crate) fn ids_run(batch: u64, model: &str, rows: &[&[i32]]) -> Run {
    let data: Vec<u8> = rows.concat().iter().flat_map(|id| id.to_le_bytes()).collect();
    run(batch, model, "input_ids", DataType::I32, rows.iter().map(|row| row.len()), data.into())
}

fn run(
    batch: u64,
    model: &str,
    column: &str,
    data_type: DataType,
    lengths: impl Iterator<Item = usize>,
    data: Bytes,
) -> Run {
    let mut row_splits = vec![0];
    for length in lengths {
        row_splits.push(row_splits[row_splits.len() - 1] + length as u32);
    }
    let items = vec![Item::default(); row_splits.len() - 1];
    let column = Column {
        name: column.to_owned(),
        data_type: data_type.into(),
        row_splits,
        size: data.len() as u64,
        data,
        shared_memory: None,
    };
    Run { batch, attempt: 1, model: model.to_owned(), columns: vec![column], items, ..Run::default() }
}

/// Fails a test that would hang.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("nothing happened in time")
}
