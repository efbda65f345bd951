//! How connections begin, break and end.

use std::time::Duration;

use shoal_proto::link::{Drain, Goodbye, Refused, control_request, control_response, data_response, refused};
use shoal_worker::{DeviceChoice, Exit, Refusal, RunError};

use crate::server::{Peer, Server, Worker, echo_run, text_run, within};

/// The goodbye, once credits that were under way are past.
async fn goodbye(peer: &mut Peer) -> Goodbye {
    loop {
        match peer.try_control().await {
            Some(control_request::Message::Goodbye(goodbye)) => return goodbye,
            Some(control_request::Message::Credit(_)) => {}
            other => panic!("no goodbye but {other:?}"),
        }
    }
}

#[tokio::test]
async fn says_who_it_is() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let caller = server.call().await;
    let hello = &caller.hello;
    assert_eq!((hello.protocol_min, hello.protocol_max), (1, 1));
    assert_eq!((hello.worker.as_str(), hello.auth.as_str()), ("w1", "token"));
    assert_eq!(hello.process_id, std::process::id());
    let device = hello.device.as_ref().unwrap();
    assert_eq!((device.kind.as_str(), device.threads), ("cpu", 1));
}

#[tokio::test]
async fn links_over_tcp_as_well() {
    let mut server = Server::start_tcp().await;
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_echo().await;
    peer.run(echo_run(1, &[&[1.0]])).await;
    assert_eq!(peer.answer(1).await.items().len(), 1);
}

#[tokio::test]
async fn a_refusal_for_good_ends_it_with_the_reason() {
    let mut server = Server::start();
    let worker = Worker::start(server.options());
    let refused = Refused { reason: refused::Reason::Auth.into(), detail: "wrong token".to_owned() };
    server.call().await.refuse(refused).await;
    assert_eq!(worker.exit().await, Exit::Refused { reason: Refusal::Auth, detail: "wrong token".to_owned() });
}

#[tokio::test]
async fn a_refusal_that_may_pass_is_tried_again() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let refused = Refused { reason: refused::Reason::NameTaken.into(), detail: String::new() };
    server.call().await.refuse(refused).await;
    server.peer(1).await;
}

#[tokio::test]
async fn comes_back_after_the_stream_broke_with_its_models_and_a_new_epoch() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut first = server.peer(1).await;
    first.load_echo().await;
    let incarnation = first.hello.incarnation;
    drop(first);
    let mut second = server.peer(2).await;
    assert_eq!(second.hello.incarnation, incarnation);
    assert_eq!(second.hello.offers[0].name, "echo");
    assert_eq!(second.hello.offers[0].card.as_ref().unwrap().backend, "echo");
    second.run(echo_run(1, &[&[1.0]])).await;
    assert_eq!(second.answer(1).await.items().len(), 1);
}

#[tokio::test]
async fn what_an_old_connection_asked_for_is_never_told_to_a_new_one() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut first = server.peer(1).await;
    first.load_synthetic().await;
    first.begin(text_run(1, &["!sleep 300ms"])).await;
    drop(first);
    let mut second = server.peer(2).await;
    // The device is still busy, so the credit comes when the old batch is over.
    second.run(text_run(1, &["again"])).await;
    // `answer` fails on any message of another epoch.
    assert_eq!(second.answer(1).await.items().len(), 1);
    assert_eq!(second.stats().await.dropped, 1);
}

#[tokio::test]
async fn a_silent_server_is_dialled_anew() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let caller = server.call().await;
    let silent = server.welcome(caller, 1, Duration::from_millis(200)).await;
    // It says nothing more, and its streams stay open.
    server.peer(2).await;
    drop(silent);
}

#[tokio::test]
async fn answers_heartbeats_with_their_own_time() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.barrier().await;
    loop {
        if let control_request::Message::Heartbeat(heartbeat) = peer.raw_control().await {
            assert!(!heartbeat.reply);
            break;
        }
    }
}

#[tokio::test]
async fn drains_what_it_has_and_says_goodbye() {
    let mut server = Server::start();
    let worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_synthetic().await;
    peer.begin(text_run(1, &["!sleep 100ms"])).await;
    peer.send(control_response::Message::Drain(Drain { grace: Some(prost_types::Duration { seconds: 10, nanos: 0 }) }))
        .await;
    assert_eq!(peer.answer(1).await.items().len(), 1);
    assert!(goodbye(&mut peer).await.drained);
    drop(peer);
    assert_eq!(worker.exit().await, Exit::Drained);
}

#[tokio::test]
async fn drains_when_told_to_shut_down() {
    let mut server = Server::start();
    let mut worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_synthetic().await;
    peer.begin(text_run(1, &["!sleep 100ms"])).await;
    worker.stop();
    assert_eq!(peer.answer(1).await.items().len(), 1);
    assert!(goodbye(&mut peer).await.drained);
    drop(peer);
    assert_eq!(worker.exit().await, Exit::Drained);
}

#[tokio::test]
async fn a_batch_that_hangs_does_not_outlive_the_grace() {
    let mut server = Server::start();
    let mut options = server.options();
    options.grace = Duration::from_millis(50);
    let mut worker = Worker::start(options);
    let mut peer = server.peer(1).await;
    peer.load_synthetic().await;
    peer.begin(text_run(1, &["!hang"])).await;
    worker.stop();
    assert!(!goodbye(&mut peer).await.drained);
    drop(peer);
    assert_eq!(worker.exit().await, Exit::GraceEnded);
}

#[tokio::test]
async fn shuts_down_while_there_is_no_server() {
    let server = Server::start();
    let mut options = server.options();
    options.connect = vec!["/nowhere/at/all".parse().unwrap()];
    let mut worker = Worker::start(options);
    worker.stop();
    assert_eq!(worker.exit().await, Exit::Drained);
}

#[tokio::test]
async fn a_batch_without_a_credit_ends_the_connection() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_echo().await;
    let mut run = echo_run(1, &[&[1.0]]);
    (run.epoch, run.slot) = (1, 17);
    peer.send_data(data_response::Message::Run(run)).await;
    server.peer(2).await;
}

#[tokio::test]
async fn says_that_there_is_no_cuda_in_this_build() {
    let server = Server::start();
    let mut options = server.options();
    options.device = DeviceChoice::Cuda;
    let error = within(shoal_worker::run(options, std::future::pending())).await.unwrap_err();
    assert!(matches!(error, RunError::NoCuda(_)), "{error}");
}

#[tokio::test]
async fn a_parent_that_is_gone_already_ends_it_at_once() {
    let server = Server::start();
    let mut options = server.options();
    // No process has this id: the kernel's own limit is far below.
    options.parent = Some(u32::MAX >> 1);
    assert_eq!(within(shoal_worker::run(options, std::future::pending())).await.unwrap(), Exit::ParentGone);
}

#[tokio::test]
async fn a_hanging_batch_does_not_stop_heartbeats_or_cancels() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_synthetic().await;
    peer.begin(text_run(1, &["!hang"])).await;
    for _ in 0..3 {
        peer.barrier().await;
    }
}

#[tokio::test]
async fn a_batch_that_hangs_across_a_lost_connection_ends_the_worker() {
    let mut server = Server::start();
    let mut options = server.options();
    options.stuck_max = Duration::from_millis(50);
    let worker = Worker::start(options);
    let mut peer = server.peer(1).await;
    peer.load_synthetic().await;
    peer.begin(text_run(1, &["!hang"])).await;
    // A batch for which there is no credit: reading it ends the connection.
    let mut run = text_run(2, &["x"]);
    (run.epoch, run.slot) = (1, 17);
    peer.send_data(data_response::Message::Run(run)).await;
    assert!(matches!(worker.error().await, RunError::Stuck(_)));
}

#[tokio::test]
async fn takes_its_credit_back_before_it_says_goodbye() {
    let mut server = Server::start();
    let mut worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    let slot = peer.credit().await.slot;
    worker.stop();
    let withdrawn = peer.credit().await;
    assert_eq!((withdrawn.slot, withdrawn.rows), (slot, 0));
    assert!(goodbye(&mut peer).await.drained);
}

#[tokio::test]
async fn a_message_it_does_not_know_is_ignored() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.send_unknown().await;
    peer.barrier().await;
}
