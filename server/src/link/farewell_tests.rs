//! A scripted worker against the service, with the test in the driver's place.

use std::time::Duration;

use shoal_proto::link::worker_link_client::WorkerLinkClient;
use shoal_proto::link::{
    Attach, BatchEnd, ControlRequest, DataRequest, Goodbye, Hello, ItemResult, Results, control_request,
    control_response, data_request,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{LinkAddress, LinkOptions, LinkService, Tokens, serve};
use crate::driver::{Event, FromWorker, Handle, Inbox};

/// A server on a free port; it ends when the guard is dropped.
async fn client() -> (WorkerLinkClient<Channel>, Inbox, tokio_util::sync::DropGuard) {
    let (handle, inbox) = Handle::new();
    let service = LinkService::new(handle, LinkOptions::default(), Tokens::shared("token"));
    let stop = CancellationToken::new();
    let any = LinkAddress::Tcp("127.0.0.1:0".parse().expect("an address"));
    let (at, serving) = serve(&any, service, stop.clone()).await.expect("bound");
    tokio::spawn(serving);
    let LinkAddress::Tcp(at) = at else { panic!("{at:?}") };
    let client = WorkerLinkClient::connect(format!("http://{at}")).await.expect("connected");
    (client, inbox, stop.drop_guard())
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
        ..Hello::default()
    }))
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
