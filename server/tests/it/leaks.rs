//! Clients that behave badly leave nothing behind: after thousands of calls that were given up in every way there is,
//! the queue, the connections, the tasks and the memory are where they were before.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::oip::texts;
use crate::process::{PATIENCE, Shoal, framed, raw_answer, raw_request, wait_for};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
/// Memory that a round may add to what the rounds before it left: an allocator keeps what it was once given.
const GROWTH_BYTES_MAX: f64 = (24 << 20) as f64;

/// What a server holds when nobody calls.
#[derive(Debug)]
struct Level {
    tasks: f64,
    memory: f64,
}

impl Level {
    /// Waits until nothing of any call is left, and reads the rest.
    fn at_rest(shoal: &Shoal) -> Self {
        let gauges =
            ["shoal_calls_in_flight", "shoal_rows_in_flight", "shoal_queued_rows{model=\"s\"}", "shoal_streams"];
        for gauge in gauges.into_iter().chain(["shoal_connections"]) {
            wait_for(gauge, || (shoal.metric(gauge) == 0.0).then_some(()));
        }
        Self { tasks: shoal.metric("shoal_tasks"), memory: shoal.metric("shoal_resident_memory_bytes") }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_abused_calls_leave_nothing_behind() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=2ms+per_row=10us"]);
    let before = Level::at_rest(&shoal);
    abuse(&shoal).await;
    let first = Level::at_rest(&shoal);
    for _ in 0..2 {
        abuse(&shoal).await;
    }
    wait_for("the tasks to end", || (Level::at_rest(&shoal).tasks <= before.tasks).then_some(()));
    let after = Level::at_rest(&shoal);
    println!("before {before:?}\nafter one round {first:?}\nafter three {after:?}");
    assert!(after.memory - first.memory < GROWTH_BYTES_MAX, "{first:?} became {after:?}");
    shoal.oip().await.model_infer(texts("s", &["a"])).await.expect("the server is fine");
}

/// About two thousand calls, each ended in a way of its own.
async fn abuse(shoal: &Shoal) {
    cancel(shoal, 600).await;
    vanish(&shoal.grpc, 100).await;
    read_nothing(shoal, 20).await;
    let late = ask_too_late(shoal, 1000).await;
    assert!(late > 0, "no deadline passed");
    trickle(&shoal.grpc, 200).await;
}

/// Calls cancelled at any point of their way.
async fn cancel(shoal: &Shoal, calls: u64) {
    let client = shoal.oip().await;
    let mut running = JoinSet::new();
    for call in 0..calls {
        let mut client = client.clone();
        running.spawn(async move {
            let answer = client.model_infer(texts("s", &["a", "b"]));
            let _ = timeout(Duration::from_micros(call * 37 % 20_000), answer).await;
        });
    }
    running.join_all().await;
}

/// Clients whose machine is gone from one moment to the next, in the middle of a stream.
async fn vanish(address: &str, clients: usize) {
    for client in 0..clients {
        let socket = TcpStream::connect(address).await.expect("connection");
        socket.set_zero_linger().expect("a reset when it is closed");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
        let (mut sender, connection) = handshake.await.expect("handshake");
        let connection = tokio::spawn(connection);
        let (requests, body) = mpsc::channel(8);
        for _ in 0..4 {
            let frame = Frame::data(framed(&texts("s", &["a"])));
            requests.send(Ok::<_, std::io::Error>(frame)).await.expect("room");
        }
        let request = raw_request(address, STREAM, &[], &()).map(|_| StreamBody::new(ReceiverStream::new(body)));
        let response = tokio::spawn(sender.send_request(request));
        if client % 2 == 0 {
            // In the middle of its answers.
            let mut answers = response.await.expect("task").expect("response").into_body();
            let _ = answers.frame().await;
        } else {
            sleep(Duration::from_millis(1)).await;
        }
        connection.abort();
    }
}

/// Streams of calls whose answers nobody reads.
async fn read_nothing(shoal: &Shoal, streams: usize) {
    const ANSWERED: &str = "shoal_calls_total{model=\"s\",code=\"OK\"}";
    let before = shoal.metric_or_zero(ANSWERED);
    let client = shoal.oip().await;
    let mut open = Vec::new();
    for _ in 0..streams {
        let (ends_when_dropped, never) = mpsc::channel(1);
        let requests = tokio_stream::iter((0..300).map(|_| texts("s", &["a"]))).chain(ReceiverStream::new(never));
        open.push((ends_when_dropped, client.clone().model_stream_infer(requests).await.expect("stream")));
    }
    // Before the first call has come there is none in flight, either.
    let came = || (shoal.metric_or_zero(ANSWERED) >= before + streams as f64).then_some(());
    wait_for("the first answers", came);
    wait_for("answers that wait", || (shoal.metric("shoal_calls_in_flight") == 0.0).then_some(()));
    assert_eq!(shoal.metric("shoal_streams"), streams as f64);
    drop(open);
}

/// Calls with a deadline of a millisecond. Returns how many it was too short for.
async fn ask_too_late(shoal: &Shoal, calls: usize) -> usize {
    let sender = shoal.raw_connection().await;
    let mut running = JoinSet::new();
    for _ in 0..calls {
        let request = raw_request(&shoal.grpc, INFER, &[("grpc-timeout", "1m")], &texts("s", &["a"]));
        let mut sender = sender.clone();
        running.spawn(async move { raw_answer(sender.send_request(request).await?).await });
    }
    let answers = running.join_all().await;
    let codes = answers.into_iter().map(|answer| answer.expect("an answer").0);
    codes.filter(|code| *code == Code::DeadlineExceeded).count()
}

/// Calls whose body never comes to its end; each has a deadline, and ends at it.
async fn trickle(address: &str, calls: usize) {
    let socket = TcpStream::connect(address).await.expect("connection");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (sender, connection) = handshake.await.expect("handshake");
    let connection = tokio::spawn(connection);
    let mut running = JoinSet::new();
    for _ in 0..calls {
        let first = Frame::data(Bytes::from_static(&[0, 0, 0]));
        let body = tokio_stream::once(Ok::<_, std::io::Error>(first)).chain(tokio_stream::pending());
        let request = raw_request(address, INFER, &[("grpc-timeout", "50m")], &()).map(|_| StreamBody::new(body));
        let mut sender = sender.clone();
        running.spawn(async move { raw_answer(sender.send_request(request).await?).await });
    }
    let started = Instant::now();
    for answer in running.join_all().await {
        assert_eq!(answer.expect("an answer").0, Code::DeadlineExceeded);
    }
    assert!(started.elapsed() < PATIENCE / 4, "{:?}", started.elapsed());
    connection.abort();
}
