//! A scripted worker against the service, with the test in the driver's place.

use std::net::SocketAddr;
use std::time::Duration;

use shoal_proto::link::worker_link_client::WorkerLinkClient;
use shoal_proto::link::{
    Attach, BatchEnd, ControlRequest, ControlResponse, DataRequest, DataResponse, Device, Goodbye, Hello, ItemResult,
    PageIn, Pass, Results, Weights, control_request, control_response, data_request, data_response,
};
use shoal_scheduler::Slot;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use control_response::Message as Said;

use super::{LinkAddress, LinkOptions, LinkService, Tokens, serve};
use crate::driver::{Event, FromWorker, Handle, Inbox, ToWorker, WorkerUp};
use crate::metrics::Metrics;

/// A server on a free port; it ends when the guard is dropped.
async fn client() -> (WorkerLinkClient<Channel>, Inbox, tokio_util::sync::DropGuard) {
    client_of(LinkOptions::default()).await
}

async fn client_of(options: LinkOptions) -> (WorkerLinkClient<Channel>, Inbox, tokio_util::sync::DropGuard) {
    let (at, inbox, stop) = server_of(options).await;
    let client = WorkerLinkClient::connect(format!("http://{at}")).await.expect("connected");
    (client, inbox, stop)
}

async fn server_of(options: LinkOptions) -> (SocketAddr, Inbox, tokio_util::sync::DropGuard) {
    let (handle, inbox) = Handle::new();
    let service = LinkService::new(handle, options, Tokens::shared("token"));
    let stop = CancellationToken::new();
    let any = LinkAddress::Tcp("127.0.0.1:0".parse().expect("an address"));
    let (at, serving) = serve(&any, None, Metrics::new(), service, stop.clone()).await.expect("bound");
    tokio::spawn(serving);
    let LinkAddress::Tcp(at) = at else { panic!("{at:?}") };
    (at, inbox, stop.drop_guard())
}

fn control(message: control_request::Message) -> ControlRequest {
    ControlRequest { message: Some(message) }
}

fn data(message: data_request::Message) -> DataRequest {
    DataRequest { message: Some(message) }
}

fn hello(worker: &str) -> ControlRequest {
    let (worker, auth) = (worker.to_owned(), "token".to_owned());
    control(control_request::Message::Hello(Hello {
        protocol_min: 1,
        protocol_max: 1,
        worker,
        auth,
        device: Some(Device { uuid: "GPU-1".to_owned(), ..Device::default() }),
        ..Hello::default()
    }))
}

/// The answer to the Hello of one process that calls itself `w`.
async fn answer(client: &mut WorkerLinkClient<Channel>, incarnation: u64) -> (Said, Streaming<ControlResponse>) {
    let (controls, queue) = mpsc::channel(8);
    let mut hello = hello("w");
    if let Some(control_request::Message::Hello(hello)) = &mut hello.message {
        hello.incarnation = incarnation;
    }
    controls.send(hello).await.expect("sent");
    let mut answered = client.control(ReceiverStream::new(queue)).await.expect("opened").into_inner();
    let answer = answered.message().await.expect("heard").and_then(|response| response.message);
    (answer.expect("an answer"), answered)
}

fn attach(epoch: u64, worker: &str) -> DataRequest {
    data(data_request::Message::Attach(Attach { epoch, worker: worker.into(), auth: "token".into() }))
}

async fn said(inbox: &mut Inbox) -> FromWorker {
    match timeout(Duration::from_secs(20), inbox.next()).await.expect("in time") {
        Some(Event::Worker { said, .. }) => said,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn results_behind_a_goodbye_are_read_before_the_worker_has_left() {
    let (mut client, mut inbox, _stop) = client().await;
    let (controls, queue) = mpsc::channel(8);
    controls.send(hello("w")).await.expect("sent");
    let mut welcome = client.control(ReceiverStream::new(queue)).await.expect("opened").into_inner();
    let first = welcome.message().await.expect("heard").and_then(|response| response.message);
    let Some(control_response::Message::Welcome(first)) = first else { panic!("{first:?}") };

    let (thefts, queue) = mpsc::channel(8);
    thefts.send(attach(first.epoch, "thief")).await.expect("sent");
    let refused = client.data(ReceiverStream::new(queue)).await.expect_err("another's epoch");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);

    let (datas, queue) = mpsc::channel(8);
    datas.send(attach(first.epoch, "w")).await.expect("sent");
    let _data_in = client.data(ReceiverStream::new(queue)).await.expect("opened");
    let up = timeout(Duration::from_secs(20), inbox.next()).await.expect("in time");
    let Some(Event::WorkerUp(_up)) = up else { panic!("{up:?}") };

    let goodbye = Goodbye { reason: "drained".into(), drained: true };
    controls.send(control(control_request::Message::Goodbye(goodbye))).await.expect("sent");
    drop(controls);
    // Whichever stream the server reads first, the results count.
    let epoch = first.epoch;
    let items = vec![ItemResult { last: true, ..ItemResult::default() }];
    let results = Results { batch: 7, attempt: 1, epoch, items };
    datas.send(data(data_request::Message::Results(results))).await.expect("sent");
    let end = BatchEnd { batch: 7, attempt: 1, epoch, ..BatchEnd::default() };
    datas.send(data(data_request::Message::BatchEnd(end))).await.expect("sent");
    drop(datas);

    assert!(matches!(said(&mut inbox).await, FromWorker::Items { .. }));
    assert!(matches!(said(&mut inbox).await, FromWorker::BatchEnd { .. }));
    let gone = said(&mut inbox).await;
    assert!(matches!(gone, FromWorker::Gone { left: true, .. }), "{gone:?}");
}

/// A worker that has joined: what it says on both streams, and what it hears.
struct Joined {
    epoch: u64,
    controls: mpsc::Sender<ControlRequest>,
    datas: mpsc::Sender<DataRequest>,
    up: WorkerUp,
    _heard: (Streaming<ControlResponse>, Streaming<DataResponse>),
}

async fn join(client: &mut WorkerLinkClient<Channel>, inbox: &mut Inbox) -> Joined {
    let (controls, queue) = mpsc::channel(8);
    controls.send(hello("w")).await.expect("sent");
    let mut control_in = client.control(ReceiverStream::new(queue)).await.expect("opened").into_inner();
    let first = control_in.message().await.expect("heard").and_then(|response| response.message);
    let Some(control_response::Message::Welcome(welcome)) = first else { panic!("{first:?}") };
    let (datas, queue) = mpsc::channel(8);
    datas.send(attach(welcome.epoch, "w")).await.expect("sent");
    let data_in = client.data(ReceiverStream::new(queue)).await.expect("opened").into_inner();
    let up = timeout(Duration::from_secs(20), inbox.next()).await.expect("in time");
    let Some(Event::WorkerUp(up)) = up else { panic!("{up:?}") };
    Joined { epoch: welcome.epoch, controls, datas, up, _heard: (control_in, data_in) }
}

impl Joined {
    /// A batch ends for which weights had to come.
    async fn end(&self, batch: u64, absent: &str) {
        let page_in = Some(PageIn { taken: None, absent: vec![absent.to_owned()] });
        let end = BatchEnd { batch, attempt: 1, epoch: self.epoch, page_in, ..BatchEnd::default() };
        self.datas.send(data(data_request::Message::BatchEnd(end))).await.expect("sent");
    }
}

#[tokio::test]
async fn a_worker_that_tells_of_weights_on_control_is_not_asked_elsewhere() {
    let (mut client, mut inbox, _stop) = client().await;
    let worker = join(&mut client, &mut inbox).await;
    assert_eq!(worker.up.gpu.as_deref(), Some("GPU-1"));
    // As long as it does not, what it says with its page-ins counts.
    worker.end(1, "a").await;
    assert!(matches!(said(&mut inbox).await, FromWorker::PagedIn { .. }));
    let told = said(&mut inbox).await;
    assert!(matches!(&told, FromWorker::Weights { absent } if **absent == ["a".into()]), "{told:?}");
    assert!(matches!(said(&mut inbox).await, FromWorker::BatchEnd { .. }));
    let weights = Weights { absent: vec!["b".to_owned()] };
    worker.controls.send(control(control_request::Message::Weights(weights))).await.expect("sent");
    let told = said(&mut inbox).await;
    assert!(matches!(&told, FromWorker::Weights { absent } if **absent == ["b".into()]), "{told:?}");
    worker.end(2, "c").await;
    assert!(matches!(said(&mut inbox).await, FromWorker::PagedIn { .. }));
    assert!(matches!(said(&mut inbox).await, FromWorker::BatchEnd { .. }));
}

#[tokio::test]
async fn a_server_that_shares_its_workers_says_so_and_refuses_one_that_knows_no_turns() {
    let (mut client, _inbox, _stop) = client_of(LinkOptions { shares_workers: true, ..LinkOptions::default() }).await;
    let mut answers = Vec::new();
    for knows_turns in [false, true] {
        let (controls, queue) = mpsc::channel(8);
        let mut hello = hello("w");
        if let Some(control_request::Message::Hello(hello)) = &mut hello.message {
            hello.knows_turns = knows_turns;
        }
        controls.send(hello).await.expect("sent");
        let mut answered = client.control(ReceiverStream::new(queue)).await.expect("opened").into_inner();
        answers.push(answered.message().await.expect("heard").and_then(|response| response.message));
    }
    let [Some(control_response::Message::Refused(refused)), Some(control_response::Message::Welcome(welcome))] =
        &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert!(refused.detail.contains("share_workers"), "{refused:?}");
    assert!(welcome.shares_workers && welcome.server != 0);
}

/// Whatever the driver says in some order is heard in that order: a bid that overtook a batch would be taken for one made
/// before the turn that the batch answers.
#[tokio::test]
async fn bids_and_passes_stay_behind_the_batches_before_them() {
    let (mut client, mut inbox, _stop) = client().await;
    let (controls, queue) = mpsc::channel(8);
    controls.send(hello("w")).await.expect("sent");
    let mut control_in = client.control(ReceiverStream::new(queue)).await.expect("opened").into_inner();
    let first = control_in.message().await.expect("heard").and_then(|response| response.message);
    let Some(control_response::Message::Welcome(welcome)) = first else { panic!("{first:?}") };
    let (datas, queue) = mpsc::channel(8);
    datas.send(attach(welcome.epoch, "w")).await.expect("sent");
    let mut data_in = client.data(ReceiverStream::new(queue)).await.expect("opened").into_inner();
    let up = timeout(Duration::from_secs(20), inbox.next()).await.expect("in time");
    let Some(Event::WorkerUp(up)) = up else { panic!("{up:?}") };
    for slot in 1..=3 {
        up.commands.send(ToWorker::Bid { model: "m".into(), want: None }).expect("there");
        up.commands.send(ToWorker::Pass { slot: Slot(slot) }).expect("there");
    }
    for expected in 1..=3 {
        let mut next = async || data_in.message().await.expect("heard").and_then(|response| response.message);
        assert!(matches!(next().await, Some(data_response::Message::Bid(bid)) if bid.model == "m"));
        assert!(matches!(next().await, Some(data_response::Message::Pass(Pass { slot })) if slot == expected));
    }
}

/// Time enough to say Hello, and little to wait for.
const BRIEF: Duration = Duration::from_secs(2);

/// Of a server that gives workers so little time to say Hello, and does not mind that they say nothing after it.
fn brief() -> LinkOptions {
    LinkOptions { hello_time_max: BRIEF, silence_max: Duration::from_secs(60), ..LinkOptions::default() }
}

/// A connection that speaks HTTP/2, answers nothing, and says no Hello.
async fn stranger(at: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.expect("connection");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("write");
    stream
}

/// Returns once the server has closed it.
async fn closed(mut stream: TcpStream) {
    let mut heard = Vec::new();
    // Whether it ends or is reset does not matter.
    let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut heard)).await.expect("it is closed");
}

/// A worker that shows a wrong token, hears so, and stays.
async fn guesser(at: SocketAddr) -> WorkerLinkClient<Channel> {
    let mut client = WorkerLinkClient::connect(format!("http://{at}")).await.expect("connected");
    let (controls, queue) = mpsc::channel(8);
    let mut guess = hello("guesser");
    let Some(control_request::Message::Hello(hello)) = &mut guess.message else { panic!("{guess:?}") };
    hello.auth = "guess".to_owned();
    controls.send(guess).await.expect("sent");
    let mut heard = client.control(ReceiverStream::new(queue)).await.expect("opened").into_inner();
    let refused = heard.message().await.expect("heard").and_then(|response| response.message);
    assert!(matches!(refused, Some(control_response::Message::Refused(_))), "{refused:?}");
    client
}

#[tokio::test]
async fn a_connection_without_a_hello_is_closed_and_one_with_it_stays() {
    let (at, mut inbox, _stop) = server_of(brief()).await;
    let mut client = WorkerLinkClient::connect(format!("http://{at}")).await.expect("connected");
    let joined = join(&mut client, &mut inbox).await;
    // It came later, so that the worker's time is over as well.
    closed(stranger(at).await).await;
    let goodbye = Goodbye { reason: "drained".into(), drained: true };
    joined.controls.send(control(control_request::Message::Goodbye(goodbye))).await.expect("sent");
    let gone = said(&mut inbox).await;
    assert!(matches!(gone, FromWorker::Gone { left: true, .. }), "{gone:?}");
}

#[tokio::test]
async fn connections_without_a_hello_are_bounded_and_those_with_one_take_no_place() {
    let (at, mut inbox, _stop) = server_of(LinkOptions { strangers_max: 1, ..brief() }).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        let mut client = WorkerLinkClient::connect(format!("http://{at}")).await.expect("connected");
        workers.push(join(&mut client, &mut inbox).await);
    }
    let started = tokio::time::Instant::now();
    // A Hello with a wrong token is none.
    let _guesser = guesser(at).await;
    closed(stranger(at).await).await;
    let taken = started.elapsed();
    assert!(taken >= BRIEF * 9 / 5, "one after the other, not {taken:?}");
}

#[tokio::test]
async fn a_hello_that_is_not_followed_up_takes_no_name_from_whoever_is_attached() {
    let (mut client, mut inbox, _stop) = client_of(brief()).await;
    let worker = join(&mut client, &mut inbox).await;
    // The same process, as it dials the same server at another address.
    let (welcome, mut again) = answer(&mut client, 0).await;
    assert!(matches!(welcome, Said::Welcome(_)), "{welcome:?}");
    let ended = timeout(Duration::from_secs(20), again.message()).await.expect("in time");
    assert_eq!(ended.expect_err("it does not attach").code(), tonic::Code::DeadlineExceeded);
    let (other, _) = answer(&mut client, 1).await;
    assert!(matches!(&other, Said::Refused(refused) if refused.detail.contains("`w`")), "{other:?}");
    drop((worker.controls, worker.datas));
    assert!(matches!(said(&mut inbox).await, FromWorker::Gone { .. }));
    let (other, _) = answer(&mut client, 1).await;
    assert!(matches!(other, Said::Welcome(_)), "the name is free: {other:?}");
}
