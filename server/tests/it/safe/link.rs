//! Strangers at the worker link: what they say is written by hand, so that it may be anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_proto::link::worker_link_client::WorkerLinkClient;
use shoal_proto::link::{
    Attach, BatchEnd, ControlRequest, ControlResponse, Credit, DataRequest, DataResponse, Heartbeat, Hello, ItemResult,
    ModelOffer, Refused, Results, control_request, control_response, data_request, refused,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status, Streaming};

use super::{text, waiting_for_workers, worker};
use crate::oip::{floats, texts};
use crate::pki::{Authority, Files};
use crate::process::{PATIENCE, Shoal, wait_for};

const TOKEN: &str = "the-token-of-all-workers";
const OTHER: &str = "a-token-that-nobody-has";

/// A worker that says what a test has it say.
struct Scripted {
    epoch: u64,
    controls: mpsc::Sender<ControlRequest>,
    datas: mpsc::Sender<DataRequest>,
    heard: Streaming<ControlResponse>,
    _data: Streaming<DataResponse>,
}

fn hello(name: &str, auth: &str) -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        worker: name.into(),
        auth: auth.into(),
        offers: vec![ModelOffer { name: "s".into(), card: None }],
        ..Hello::default()
    }
}

/// What the server says to a first message on Control.
async fn said(
    client: &mut WorkerLinkClient<Channel>,
    first: control_request::Message,
) -> Result<(mpsc::Sender<ControlRequest>, Option<control_response::Message>, Streaming<ControlResponse>), Status> {
    let (controls, queue) = mpsc::channel(64);
    controls.send(ControlRequest { message: Some(first) }).await.expect("room");
    let mut heard = client.control(ReceiverStream::new(queue)).await?.into_inner();
    let message = timeout(PATIENCE, heard.message()).await.expect("in time")?;
    Ok((controls, message.and_then(|response| response.message), heard))
}

async fn refusal(client: &mut WorkerLinkClient<Channel>, hello: Hello) -> Refused {
    let (_controls, message, mut heard) = said(client, control_request::Message::Hello(hello)).await.expect("a stream");
    let Some(control_response::Message::Refused(refused)) = message else { panic!("let in: {message:?}") };
    assert!(timeout(PATIENCE, heard.message()).await.expect("in time").expect("an end").is_none());
    refused
}

async fn attached(
    client: &mut WorkerLinkClient<Channel>,
    attach: Attach,
) -> Result<(mpsc::Sender<DataRequest>, Streaming<DataResponse>), Status> {
    let (datas, queue) = mpsc::channel(1024);
    let message = Some(data_request::Message::Attach(attach));
    datas.send(DataRequest { message }).await.expect("room");
    Ok((datas, client.data(ReceiverStream::new(queue)).await?.into_inner()))
}

async fn welcomed(client: &mut WorkerLinkClient<Channel>, name: &str, auth: &str) -> Scripted {
    let hello = control_request::Message::Hello(hello(name, auth));
    let (controls, message, heard) = said(client, hello).await.expect("a stream");
    let Some(control_response::Message::Welcome(welcome)) = message else { panic!("refused: {message:?}") };
    let epoch = welcome.epoch;
    let attach = Attach { epoch, worker: name.into(), auth: auth.into() };
    let (datas, data) = attached(client, attach).await.expect("attached");
    Scripted { epoch, controls, datas, heard, _data: data }
}

async fn plain(address: &str) -> WorkerLinkClient<Channel> {
    WorkerLinkClient::connect(address.to_owned()).await.expect("connection")
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_token_is_refused_and_takes_nobodys_place() {
    let home = tempfile::tempdir().expect("folder");
    let args = ["--model", "s=synthetic", "--worker-token", TOKEN];
    let (mut shoal, address) = waiting_for_workers(home.path(), &args);
    let mut client = plain(&address).await;
    for auth in ["", OTHER, &TOKEN[1..], &format!("{TOKEN} ")] {
        let refused = refusal(&mut client, hello("stranger", auth)).await;
        assert_eq!(refused.reason(), refused::Reason::Auth, "{auth}: {refused:?}");
        assert!(auth.is_empty() || !refused.detail.contains(auth), "{refused:?}");
    }
    let no_hello = control_request::Message::Credit(Credit { rows: 1, ..Credit::default() });
    let no_hello = said(&mut client, no_hello).await.expect_err("no hello");
    assert_eq!(no_hello.code(), Code::InvalidArgument);

    // One that is let in, before it has its data stream.
    let first = control_request::Message::Hello(hello("w", TOKEN));
    let (_controls, message, _heard) = said(&mut client, first).await.expect("a stream");
    let Some(control_response::Message::Welcome(welcome)) = message else { panic!("refused: {message:?}") };
    let own = Attach { epoch: welcome.epoch, worker: "w".into(), auth: TOKEN.into() };
    for (attach, code) in [
        (Attach { auth: OTHER.into(), ..own.clone() }, Code::Unauthenticated),
        (Attach { auth: String::new(), ..own.clone() }, Code::Unauthenticated),
        (Attach { worker: "thief".into(), ..own.clone() }, Code::FailedPrecondition),
        (Attach { epoch: welcome.epoch + 1, ..own.clone() }, Code::FailedPrecondition),
        (Attach { epoch: 0, ..own.clone() }, Code::FailedPrecondition),
    ] {
        let refused = attached(&mut client, attach.clone()).await.expect_err("another's");
        assert_eq!(refused.code(), code, "{attach:?}");
    }
    let (_datas, _data) = attached(&mut client, own.clone()).await.expect("its own is left");
    let again = attached(&mut client, own).await.expect_err("twice");
    assert_eq!(again.code(), Code::FailedPrecondition);

    // The models are still to be had from a worker that may.
    let _worker = worker(home.path(), &address, &["--worker-token", TOKEN, "--model", "s=synthetic"]);
    shoal.read_addresses();
    shoal.oip().await.model_infer(texts("s", &["a"])).await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_answers_for_nobody_else() {
    let home = tempfile::tempdir().expect("folder");
    let args = ["--model", "s=synthetic:base=200ms", "--worker-token", TOKEN];
    let (mut shoal, address) = waiting_for_workers(home.path(), &args);
    let _worker = worker(home.path(), &address, &["--worker-token", TOKEN, "--model", "s=synthetic:base=200ms"]);
    shoal.read_addresses();
    let mut client = plain(&address).await;
    // One that has the token, and no batch.
    let mut liar = welcomed(&mut client, "liar", TOKEN).await;
    let calls: Vec<_> = (0..5)
        .map(|call| {
            let address = shoal.grpc.clone();
            tokio::spawn(async move {
                let channel = Endpoint::from_shared(format!("http://{address}")).expect("address").connect_lazy();
                let mut oip =
                    shoal_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient::new(channel);
                oip.model_infer(texts("s", &[&format!("call {call}")])).await
            })
        })
        .collect();
    let stale = shoal.metric("shoal_stale_replies");
    while shoal.metric("shoal_rows_in_flight") == 0.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for batch in 0..100 {
        for epoch in 0..=liar.epoch {
            let items = (0..5).map(|index| ItemResult { index, last: true, ..ItemResult::default() }).collect();
            let results = Results { batch, attempt: 1, epoch, items };
            let end = BatchEnd { batch, attempt: 1, epoch, ..BatchEnd::default() };
            for message in [data_request::Message::Results(results), data_request::Message::BatchEnd(end)] {
                // The server may have enough of it.
                let _ = liar.datas.send(DataRequest { message: Some(message) }).await;
            }
        }
    }
    for call in calls {
        let answer = call.await.expect("task").expect("an answer").into_inner();
        assert_eq!(answer.outputs.len(), 1, "another's result has none: {answer:?}");
    }
    let dropped =
        wait_for("the lies to be counted", || Some(shoal.metric("shoal_stale_replies") - stale).filter(|n| *n > 0.0));
    println!("{dropped} replies dropped");
    let beat = Heartbeat { sent_micros: 1, reply: true };
    let _ = liar.controls.send(ControlRequest { message: Some(control_request::Message::Heartbeat(beat)) }).await;
    let _ = timeout(Duration::from_millis(1), liar.heard.message()).await;
}

/// A server whose link speaks TLS with these files, and asks for certificates of the authority `ca`.
struct Guarded {
    folder: tempfile::TempDir,
    authority: Authority,
    ca: PathBuf,
    own: Files,
}

impl Guarded {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let authority = Authority::new();
        let ca = authority.write(folder.path(), "ca.crt");
        let own = authority.issue(folder.path(), "server.example");
        Self { folder, authority, ca, own }
    }

    fn serve(&self, more: &[&str]) -> (Shoal, String) {
        let own = ["--link-tls-cert", text(&self.own.cert), "--link-tls-key", text(&self.own.key)];
        let ca = ["--link-tls-client-ca", text(&self.ca)];
        waiting_for_workers(self.folder.path(), &[&["--model", "echo"], &own[..], &ca[..], more].concat())
    }

    async fn client(&self, address: &str, identity: Option<&Files>) -> Result<WorkerLinkClient<Channel>, String> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority.pem()));
        if let Some(files) = identity {
            let read = |path: &Path| std::fs::read(path).expect("file");
            tls = tls.identity(Identity::from_pem(read(&files.cert), read(&files.key)));
        }
        let endpoint = Endpoint::from_shared(address.to_owned()).and_then(|endpoint| endpoint.tls_config(tls));
        endpoint.expect("settings").connect().await.map(WorkerLinkClient::new).map_err(|error| format!("{error:?}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_links_authority_is_enough_and_another_is_nothing() {
    let guarded = Guarded::new();
    let (mut shoal, address) = guarded.serve(&[]);
    assert!(address.starts_with("https://"), "{address}");
    let good = guarded.authority.issue(guarded.folder.path(), "w.example");
    let second = guarded.authority.issue(guarded.folder.path(), "v.example");
    let elsewhere = Authority::new().issue(guarded.folder.path(), "x.example");
    // In TLS 1.3 a client hears of it with its first answer.
    for identity in [None, Some(&elsewhere)] {
        if let Ok(mut client) = guarded.client(&address, identity).await {
            let first = said(&mut client, control_request::Message::Hello(hello("x", ""))).await;
            assert!(first.is_err(), "{first:?}");
        }
    }
    let mut client = guarded.client(&address, Some(&good)).await.expect("a connection");
    let first = control_request::Message::Hello(hello("w", ""));
    let (_controls, message, _heard) = said(&mut client, first).await.expect("a stream");
    let Some(control_response::Message::Welcome(welcome)) = message else { panic!("refused: {message:?}") };
    // The session is of this certificate alone.
    let attach = Attach { epoch: welcome.epoch, worker: "w".into(), auth: String::new() };
    let mut other = guarded.client(&address, Some(&second)).await.expect("a connection");
    let refused = attached(&mut other, attach.clone()).await.expect_err("another's certificate");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    attached(&mut client, attach).await.expect("its own");

    let tls = ["--tls-ca", text(&guarded.ca), "--tls-cert", text(&good.cert), "--tls-key", text(&good.key)];
    let _worker = worker(guarded.folder.path(), &address, &[&tls[..], &["--model", "echo"]].concat());
    shoal.read_addresses();
    shoal.oip().await.model_infer(floats(&[&[1.0]])).await.expect("an answer");
    assert!(shoal.metric("shoal_tls_handshake_failures_total{port=\"link\"}") >= 2.0);
    assert!(shoal.metric("shoal_tls_certificate_expiry_timestamp_seconds{port=\"link\"}") > 1e9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_speaks_tls_and_one_that_does_not_both_say_so() {
    let guarded = Guarded::new();
    let home = guarded.folder.path();
    let token = ["--worker-token", TOKEN];
    let (tls, https) = guarded.serve(&token);
    let (plain, http) = waiting_for_workers(home, &[&["--model", "echo"], &token[..]].concat());
    let without = worker(home, &https.replace("https", "http"), &token);
    let with = worker(home, &http.replace("http", "https"), &[&token[..], &["--tls-ca", text(&guarded.ca)]].concat());
    // Both try again and again.
    without.wait_for_log("this link speaks TLS");
    with.wait_for_log("the server speaks no TLS there");
    tls.wait_for_log("it speaks no TLS, and the link does");
    plain.wait_for_log("it speaks TLS, and the link does not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_token_is_replaced_in_its_file_without_a_restart() {
    let home = tempfile::tempdir().expect("folder");
    let (servers, workers) = (home.path().join("servers"), home.path().join("workers"));
    let (old, new) = ("the-old-token-of-workers", "the-new-token-of-workers");
    let write = |path: &Path, tokens: &str| std::fs::write(path, tokens).expect("write");
    write(&servers, old);
    write(&workers, new);
    let args = ["--model", "echo", "--worker-token-file", text(&servers)];
    let (mut shoal, address) = waiting_for_workers(home.path(), &args);
    // It comes with a token that is not known yet, and tries again.
    let _worker = worker(home.path(), &address, &["--token-file", text(&workers), "--model", "echo"]);
    shoal.wait_for_log("worker refused");
    write(&servers, &format!("{old}\n{new}\n"));
    shoal.read_addresses();
    // The old one goes, and the link stays.
    write(&servers, new);
    let mut client = plain(&address).await;
    let is_refused = async {
        loop {
            let late = control_request::Message::Hello(hello("late", old));
            let (_controls, message, _heard) = said(&mut client, late).await.expect("a stream");
            match message {
                Some(control_response::Message::Refused(refused)) if refused.reason() == refused::Reason::Auth => {
                    return;
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(PATIENCE, is_refused).await.expect("the old token goes");
    assert_eq!(shoal.metric("shoal_model_workers{model=\"echo\"}"), 1.0);
    let guess = worker(home.path(), &address, &["--worker-token", old, "--model", "echo", "--name", "late"]);
    let (status, log) = guess.ended(&[]);
    assert!(!status.success() && log.iter().any(|line| line.contains("refused")), "{log:#?}");
}
