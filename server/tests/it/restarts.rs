//! Ordered ends under load: of every worker in turn, and of the server itself.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use prost::Message as _;
use rustix::process::Signal;
use shoal_proto::inference::ModelInferResponse;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::endurance::fault_seconds;
use crate::oip::texts;
use crate::process::{Shoal, raw_answer, raw_request, signal, wait_for};
use crate::traffic::{drive, hashed, is_right};

const CLIENTS: u64 = 32;
const DEADLINE: Duration = Duration::from_secs(60);
const WORKERS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn restarting_every_worker_in_turn_fails_no_call() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=5ms+per_row=100us", "--workers", "3"]);
    let client = shoal.oip().await;
    let stop = CancellationToken::new();
    let ask = move |who, call| hashed(client.clone(), DEADLINE, who, call);
    let calls = tokio::spawn(drive(CLIENTS, DEADLINE, stop.clone(), ask));
    let rounds = fault_seconds().div_ceil(5);
    for _ in 0..rounds {
        let first = shoal.wait_for_workers(WORKERS, &[]);
        wait_for("calls", || (shoal.metric("shoal_rows_in_flight") > 0.0).then_some(()));
        for (done, pid) in (1..).zip(&first) {
            let before = shoal.restarts();
            signal(*pid, Signal::TERM);
            wait_for("its successor", || {
                let came = shoal.workers().iter().filter(|pid| !first.contains(pid)).count() == done;
                let loaded = shoal.metric("shoal_model_workers{model=\"s\"}") == WORKERS as f64;
                (came && loaded && shoal.restarts() == before + 1.0).then_some(())
            });
        }
    }
    stop.cancel();
    let tally = calls.await.expect("the clients");
    println!("rolling restart of {WORKERS} workers, {rounds} times: {tally}");
    assert!(tally.total() > CLIENTS, "{tally}");
    assert_eq!(tally.ok, tally.total(), "{tally}");
}

const CONNECTIONS: usize = 4;
const STREAMS: usize = 16;

/// How a call ended around the server's stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    /// The server never looked at it: it was not sent, or its stream was declared unprocessed. Safe to send elsewhere.
    NeverStarted,
    /// Anything else: a call that may have run and has no answer, or not its own.
    Broken(String),
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_answers_every_call_it_has_begun() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=50ms", "--workers", "2"]);
    let mut clients = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let sender = shoal.raw_connection().await;
        for stream in 0..STREAMS {
            let (address, mut sender) = (shoal.grpc.clone(), sender.clone());
            clients.spawn(async move {
                for call in 0_u64.. {
                    let text = format!("{connection}.{stream} asks {call}");
                    match call_raw(&address, &mut sender, &text).await {
                        End::Answered => {}
                        end => return (call, end),
                    }
                }
                unreachable!("it calls until the server stops")
            });
        }
    }
    let calls = (CONNECTIONS * STREAMS) as f64;
    wait_for("all to call", || (shoal.metric("shoal_calls_in_flight") == calls).then_some(()));
    let workers = shoal.workers();
    signal(shoal.pid(), Signal::TERM);
    let mut answered = 0;
    let mut broken = Vec::new();
    while let Some(ended) = clients.join_next().await {
        let (calls, end) = ended.expect("a client");
        answered += calls;
        if end != End::NeverStarted {
            broken.push(end);
        }
    }
    println!("stop under load: {answered} answered, {calls} never started, {} broken", broken.len());
    assert!(broken.is_empty(), "{broken:#?}");
    // Each had a call open when the stop came.
    assert!(answered >= calls as u64, "{answered} answered");
    let (status, _) = tokio::task::spawn_blocking(move || shoal.ended(&workers)).await.expect("stop");
    assert!(status.success(), "{status:?}");
}

/// Has the model `s` answer a text, over a connection to this address.
pub(crate) async fn call_raw(address: &str, sender: &mut SendRequest<Full<Bytes>>, text: &str) -> End {
    let request = raw_request(address, "/inference.GRPCInferenceService/ModelInfer", &[], &texts("s", &[text]));
    if sender.ready().await.is_err() {
        return End::NeverStarted;
    }
    let answer = match sender.try_send_request(request).await {
        Ok(response) => raw_answer(response).await,
        Err(mut failed) => match failed.take_message() {
            // Handed back: not a byte of it was sent.
            Some(_) => return End::NeverStarted,
            None => Err(failed.into_error()),
        },
    };
    match answer {
        Ok((Code::Ok, message)) => match ModelInferResponse::decode(message) {
            Ok(answer) if is_right(&answer, &[text]) => End::Answered,
            other => End::Broken(format!("{other:?}")),
        },
        Ok((code, _)) => End::Broken(format!("{code:?}")),
        Err(error) if is_unprocessed(&error) => End::NeverStarted,
        Err(error) => End::Broken(format!("{error:?}")),
    }
}

/// Whether the server said that it did not and will not process the stream (RFC 9113, 6.8 and 8.7).
fn is_unprocessed(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else { return false };
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let beyond_the_last = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (refused || beyond_the_last)
}
