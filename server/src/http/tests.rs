//! The pages in front of a real driver, over real connections.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Listener, Options, routes};
use crate::access::{Access, Right};
use crate::frontend::FrontendOptions;
use crate::frontend::testing::{Bench, PATIENCE, settings, vector};
use crate::lanes::Lanes;
use crate::listen::Gate;

const BRIEF: Duration = Duration::from_millis(100);

/// A listener in front of a bench.
struct Serving {
    bench: Bench,
    address: SocketAddr,
    draining: CancellationToken,
    ended: JoinHandle<()>,
}

/// A client with one connection.
struct Client(SendRequest<Full<Bytes>>);

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
}

impl Serving {
    fn start(bench: Bench) -> Self {
        Self::start_with(bench, Options::default(), PATIENCE)
    }

    fn start_with(bench: Bench, options: Options, grace: Duration) -> Self {
        Self::start_behind(Access::default(), bench, options, grace)
    }

    fn start_behind(access: Access, bench: Bench, options: Options, grace: Duration) -> Self {
        let gate = Gate::new("http", None, access, bench.metrics.clone());
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), options, bench.metrics.clone()).expect("port");
        let listener = listener.behind(gate);
        let address = listener.address().expect("address");
        let draining = CancellationToken::new();
        let pages = routes(bench.frontend.clone(), &options);
        let ended = tokio::spawn(listener.serve(Lanes::here(), pages, draining.clone(), grace));
        Self { bench, address, draining, ended }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connection")
    }

    async fn client(&self) -> Client {
        let (client, connection) = handshake(TokioIo::new(self.connect().await)).await.expect("handshake");
        tokio::spawn(connection);
        Client(client)
    }

    /// All that is said on a connection to which `bytes` are written.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.expect("write");
        let mut heard = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("an end").expect("read");
        String::from_utf8(heard).expect("text")
    }

    async fn stop(self) {
        self.draining.cancel();
        timeout(PATIENCE / 2, self.ended).await.expect("it ends in time").expect("task");
    }
}

impl Client {
    async fn send(&mut self, request: http::Request<Full<Bytes>>) -> Answer {
        let answer = timeout(PATIENCE, self.0.send_request(request)).await.expect("in time").expect("answer");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("body").to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"));
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(http::Request::get(path).body(Full::default()).expect("request")).await
    }

    async fn embed(&mut self, body: &Value, headers: &[(&str, &str)]) -> Answer {
        self.send(embed(body, headers)).await
    }
}

fn embed(body: &Value, headers: &[(&str, &str)]) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::post("/v1/embeddings").header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.to_string().into())).expect("request")
}

fn one() -> Value {
    json!({"model": "e", "input": "a"})
}

#[tokio::test]
async fn embeds_texts_and_ids_and_says_what_it_did() {
    let serving = Serving::start(Bench::new().await.work());
    let mut client = serving.client().await;
    let answer = client.embed(&json!({"model": "e", "input": ["a", "b"]}), &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let expected = json!({
        "object": "list", "model": "e", "usage": {"prompt_tokens": 2, "total_tokens": 2},
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.0, 0.1, -1e-7, 3.0]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 0.1, -1e-7, 3.0]},
        ],
    });
    assert_eq!(answer.body, expected);
    assert_eq!(answer.headers["x-shoal-batch-rows"], "2");
    assert_eq!(answer.headers["x-shoal-batch-tokens"], "2");
    assert_eq!(answer.headers["x-shoal-batch-close-reason"], "drained");
    assert_eq!(answer.headers["x-shoal-compute-us"], "1000");
    assert_eq!(answer.headers["x-shoal-dtype"], "f32");
    assert!(answer.headers.contains_key("x-shoal-queue-us"));
    let ids = client.embed(&json!({"input": [[1, 0, 0], [0]], "dimensions": 2}), &[]).await;
    assert_eq!(ids.body["usage"]["prompt_tokens"], 4, "{}", ids.body);
    let first: Vec<f32> = serde_json::from_value(ids.body["data"][0]["embedding"].clone()).expect("numbers");
    assert_eq!(first, vector(1)[..2]);
    let flat = client.embed(&json!({"input": [1], "encoding_format": "base64"}), &[]).await;
    assert_eq!(flat.body["data"][0]["embedding"], "AACAP83MzD2Vv9azAABAQA==");
    serving.stop().await;
}

#[tokio::test]
async fn the_field_that_is_wrong_is_named_as_the_client_wrote_it() {
    let serving = Serving::start(Bench::new().await.work());
    let mut client = serving.client().await;
    let long = "x".repeat(20_000);
    let cases = [
        (json!({"input": [long]}), "input[0]"),
        (json!({"input": long}), "input"),
        (json!({"input": [[0], [3]]}), "input[1]"),
        (json!({"input": [0, 3]}), "input"),
        (json!({"input": vec![0; 17]}), "input"),
        (json!({"input": [[0], []]}), "input[1]"),
        (json!({"input": []}), "input"),
        // The one that the worker cannot compute.
        (json!({"input": ["a", "c"]}), "input[1]"),
        (json!({"input": "c"}), "input"),
        (json!({"input": "a", "dimensions": 5}), "dimensions"),
    ];
    for (body, field) in cases {
        let answer = client.embed(&body, &[]).await;
        assert_eq!((answer.status, &answer.body["error"]["param"]), (400, &json!(field)), "{}", answer.body);
    }
    for (header, value) in [("x-shoal-class", "urgent"), ("x-shoal-timeout", "soon")] {
        let answer = client.embed(&one(), &[(header, value)]).await;
        assert_eq!((answer.status, &answer.body["error"]["param"]), (400, &json!(header)), "{}", answer.body);
    }
    serving.stop().await;
}

#[tokio::test]
async fn models_are_listed_and_found_by_name() {
    let serving = Serving::start(Bench::new().await);
    let mut client = serving.client().await;
    let list = client.get("/v1/models").await;
    assert_eq!((list.status, &list.body["object"]), (200, &json!("list")));
    let names: Vec<_> = list.body["data"].as_array().expect("a list").iter().map(|model| model["id"].clone()).collect();
    assert_eq!(names, ["e", "slow"]);
    let one = client.get("/v1/models/e").await.body;
    assert_eq!(one, list.body["data"][0]);
    assert_eq!((&one["object"], &one["owned_by"]), (&json!("model"), &json!("shoal")));
    assert!(one["created"].as_u64().expect("a time") > 1_700_000_000);
    for missing in ["nobody", "%FF", "%2e%2e"] {
        let answer = client.get(&format!("/v1/models/{missing}")).await;
        assert_eq!((answer.status, &answer.body["error"]["code"]), (404, &json!("model_not_found")), "{missing}");
    }
    let unready = client.embed(&json!({"model": "slow", "input": "a"}), &[]).await;
    assert_eq!((unready.status, &unready.body["error"]["code"]), (503, &json!("model_not_ready")));
    serving.stop().await;
}

#[tokio::test]
async fn what_is_not_offered_is_refused_in_the_same_form() {
    let serving = Serving::start(Bench::new().await.work());
    let mut client = serving.client().await;
    let unknown = client.get("/v1/chat/completions").await;
    assert_eq!((unknown.status, &unknown.body["error"]["code"]), (404, &json!("unknown_url")));
    let wrong = client.get("/v1/embeddings").await;
    assert_eq!((wrong.status, &wrong.body["error"]["code"]), (405, &json!("method_not_supported")));
    assert_eq!(wrong.headers["allow"], "POST");
    let form = http::Request::post("/v1/embeddings").header("content-type", "application/x-www-form-urlencoded");
    let form = client.send(form.body(Full::from(one().to_string())).expect("request")).await;
    assert_eq!((form.status, &form.body["error"]["code"]), (415, &json!("unsupported_media_type")));
    let packed = client.embed(&one(), &[("content-encoding", "gzip")]).await;
    assert_eq!(packed.status, 415);
    let bare = http::Request::post("/v1/embeddings").body(Full::from(one().to_string())).expect("request");
    assert_eq!(client.send(bare).await.status, 200);
    serving.stop().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_the_answer_heard() {
    let options = FrontendOptions { call_bytes_max: 1000, ..Default::default() };
    let serving = Serving::start(Bench::with(options, settings("e")).await.work());
    // Far more than the sockets hold, so that it is read on or the client never gets to listen.
    let large = "x".repeat(16 << 20);
    let stated = format!("POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{large}", large.len());
    let chunked = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    let form = stated.replace("host: x", "connection: close\r\ncontent-type: text/plain");
    let heard = serving.raw(form.as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 415 "), "{heard}");
    let class = stated.replace("host: x", "connection: close\r\nx-shoal-class: urgent");
    let heard = serving.raw(class.as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 400 ") && heard.contains("x-shoal-class"), "{heard}");
    // One that waits to be asked for it is not.
    let asks = "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n";
    for request in [stated.as_str(), &chunked, asks] {
        let heard = serving.raw(request.as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 413 ") && heard.contains("request_too_large"), "{heard}");
        assert!(heard.contains("connection: close\r\n"), "{heard}");
    }
    serving.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let options = Options { body_time_max: BRIEF, ..Default::default() };
    let serving = Serving::start_with(Bench::new().await, options, PATIENCE);
    let heard = serving.raw(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{").await;
    assert!(heard.starts_with("HTTP/1.1 408 ") && heard.contains("request_timeout"), "{heard}");
    serving.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_whether_to_send_is_told_to() {
    let serving = Serving::start(Bench::new().await.work());
    let body = one().to_string();
    let mut stream = serving.connect().await;
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("write");
    let mut told = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut told)).await.expect("in time").expect("read");
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.expect("write");
    let mut answer = [0; 15];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time").expect("read");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    drop(stream);
    serving.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_call() {
    let serving = Serving::start(Bench::new().await);
    let mut client = serving.client().await;
    let call = tokio::spawn(async move { client.embed(&one(), &[]).await.status });
    serving.bench.wait_for_calls(1).await;
    call.abort();
    serving.bench.wait_for_calls(0).await;
    let mut patient = serving.connect().await;
    let body = one().to_string();
    let head = format!("POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    patient.write_all(head.as_bytes()).await.expect("write");
    serving.bench.wait_for_calls(1).await;
    // Both ways a client can go: its library drops the connection, or its socket is closed.
    drop(patient);
    serving.bench.wait_for_calls(0).await;
    let page = serving.bench.metrics.encode().expect("page");
    assert!(page.contains("shoal_calls_total{model=\"e\",code=\"CANCELLED\"} 2"), "{page}");
    serving.stop().await;
}

#[tokio::test]
async fn a_deadline_is_kept() {
    let serving = Serving::start(Bench::new().await);
    let mut client = serving.client().await;
    for (header, value) in [("x-shoal-timeout", "50ms"), ("x-stainless-read-timeout", "0.05")] {
        let answer = client.embed(&one(), &[(header, value)]).await;
        assert_eq!((answer.status, &answer.body["error"]["code"]), (504, &json!("deadline_passed")), "{header}");
    }
    serving.bench.wait_for_calls(0).await;
    let page = serving.bench.metrics.encode().expect("page");
    assert!(page.contains("shoal_calls_total{model=\"e\",code=\"DEADLINE_EXCEEDED\"} 2"), "{page}");
    serving.stop().await;
}

#[tokio::test]
async fn a_full_queue_is_refused_with_a_time_to_come_back() {
    let model = crate::driver::ModelSettings { queue_requests_max: std::num::NonZeroU32::MIN, ..settings("e") };
    let serving = Serving::start(Bench::with(FrontendOptions::default(), model).await);
    let (mut first, mut second) = (serving.client().await, serving.client().await);
    let held = tokio::spawn(async move { first.embed(&one(), &[]).await.status });
    serving.bench.wait_for_calls(1).await;
    let refused = second.embed(&one(), &[]).await;
    assert_eq!((refused.status, &refused.body["error"]["code"]), (429, &json!("model_queue_full")));
    assert!(refused.headers.contains_key("retry-after") && refused.headers.contains_key("retry-after-ms"));
    held.abort();
    serving.bench.wait_for_calls(0).await;
    serving.stop().await;
}

#[tokio::test]
async fn who_asks_is_told_why() {
    let asked = [("x-shoal-explain", "true")];
    let serving = Serving::start(Bench::new().await.work());
    let mut client = serving.client().await;
    let answer = client.embed(&one(), &asked).await;
    let why = answer.headers["x-shoal-explain"].to_str().expect("ASCII");
    assert!(why.contains("Ran without rows of other calls on w for 1.0 ms"), "{why}");
    assert!(!client.embed(&one(), &[]).await.headers.contains_key("x-shoal-explain"));
    let wrong = client.embed(&one(), &[("x-shoal-explain", "maybe")]).await;
    assert_eq!((wrong.status, &wrong.body["error"]["param"]), (400, &json!("x-shoal-explain")));
    serving.stop().await;
    // Nobody works.
    let serving = Serving::start(Bench::new().await);
    let late = serving.client().await.embed(&one(), &[asked[0], ("x-shoal-timeout", "20ms")]).await;
    assert_eq!(late.status, 504);
    let why = late.headers["x-shoal-explain"].to_str().expect("ASCII");
    assert!(why.starts_with("Ended after it had waited ") && why.contains(" for busy workers. "), "{why}");
    serving.stop().await;
}

#[tokio::test]
async fn a_call_has_an_id_its_own_or_a_new_one() {
    let serving = Serving::start(Bench::new().await.work());
    let mut client = serving.client().await;
    let own = client.embed(&one(), &[("x-request-id", "mine-7")]).await;
    assert_eq!(own.headers["x-request-id"], "mine-7");
    let made = client.get("/nothing").await.headers["x-request-id"].clone();
    let other = client.get("/nothing").await.headers["x-request-id"].clone();
    assert!(made != other && made.to_str().expect("text").starts_with("req_"), "{made:?} {other:?}");
    let long = client.embed(&one(), &[("x-request-id", &"x".repeat(1000))]).await;
    assert!(long.headers["x-request-id"].len() < 100);
    serving.stop().await;
}

#[tokio::test]
async fn a_stop_answers_what_is_open_and_waits_for_nobody_else() {
    let serving = Serving::start_with(Bench::new().await, Options::default(), PATIENCE);
    let mut busy = serving.client().await;
    let mut idle = serving.client().await;
    idle.get("/v1/models").await;
    let silent = serving.connect().await;
    let mut halfway = serving.connect().await;
    halfway.write_all(b"POST /v1/emb").await.expect("write");
    let call = tokio::spawn(async move { busy.embed(&one(), &[]).await });
    serving.bench.wait_for_calls(1).await;
    serving.draining.cancel();
    // Gone once the port is: a new client is refused.
    let refused = async { while TcpStream::connect(serving.address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("the port is closed");
    let bench = serving.bench.work();
    let answer = call.await.expect("task");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["connection"], "close");
    timeout(PATIENCE / 2, serving.ended).await.expect("it ends in time").expect("task");
    drop((silent, halfway, idle, bench));
}

#[tokio::test]
async fn a_stop_waits_for_an_answer_that_is_read_slowly() {
    // More than the sockets hold.
    const ANSWER_BYTES: usize = 16 << 20;
    let options = Options { farewell_time_max: BRIEF, ..Default::default() };
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), options, crate::metrics::Metrics::new()).expect("port");
    let address = listener.address().expect("address");
    let draining = CancellationToken::new();
    let large = get(async || Bytes::from(vec![7; ANSWER_BYTES]));
    let ended =
        tokio::spawn(listener.serve(Lanes::here(), Router::new().route("/large", large), draining.clone(), PATIENCE));
    let mut stream = TcpStream::connect(address).await.expect("connection");
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    let mut heard = vec![0; 100];
    stream.read_exact(&mut heard).await.expect("the first of it");
    draining.cancel();
    tokio::time::sleep(6 * BRIEF).await;
    timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("an end").expect("read");
    assert!(heard.len() > ANSWER_BYTES, "{} bytes", heard.len());
    timeout(PATIENCE / 2, ended).await.expect("it ends in time").expect("task");
}

#[tokio::test]
async fn a_stop_cuts_what_outlives_it() {
    let serving = Serving::start_with(Bench::new().await, Options::default(), BRIEF);
    let mut client = serving.client().await;
    let call = tokio::spawn(async move { client.0.send_request(embed(&one(), &[])).await.is_err() });
    serving.bench.wait_for_calls(1).await;
    serving.draining.cancel();
    timeout(PATIENCE / 2, serving.ended).await.expect("it ends in time").expect("task");
    assert!(call.await.expect("task"), "the connection is gone");
    serving.bench.wait_for_calls(0).await;
}

#[tokio::test]
async fn a_client_that_never_asks_loses_its_place() {
    let brief = Options { hello_time_max: BRIEF, farewell_time_max: BRIEF, ..Default::default() };
    let serving = Serving::start_with(Bench::new().await, brief, PATIENCE);
    for said in [&b""[..], b"GET /v1/mod", b"GET /v1/models HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = serving.connect().await;
        stream.write_all(said).await.expect("write");
        let mut heard = Vec::new();
        // Whether it ends or is reset does not matter.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("it is closed");
    }
    serving.stop().await;
}

#[tokio::test]
async fn a_client_that_may_have_nothing_that_it_asks_for_loses_its_place() {
    let options = Options { hello_time_max: 2 * BRIEF, farewell_time_max: BRIEF, ..Default::default() };
    let token = "0123456789abcdef0123";
    let access = Access::of_token(token, &[Right::Inspect]);
    let serving = Serving::start_behind(access, Bench::new().await, options, PATIENCE);
    let ask = async |client: &mut Client, page: &str| {
        let request = http::Request::get(page).header("host", "x");
        let request = request.header("authorization", format!("Bearer {token}"));
        client.0.ready().await?;
        let answer = client.0.send_request(request.body(Full::default()).expect("request")).await?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await?;
        Ok::<_, hyper::Error>(status)
    };
    let (mut lost, mut other) = (serving.client().await, serving.client().await);
    assert_eq!(ask(&mut other, "/v1/models").await.expect("answer"), 200);
    let mut denied = 0;
    let closed = async {
        loop {
            // Who is not known hears so once, and its connection is closed with that.
            let Ok(status) = ask(&mut lost, "/v1/no-such-page").await else { return };
            assert_eq!(status, 403);
            denied += 1;
            tokio::time::sleep(BRIEF / 10).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("it is closed");
    assert!(denied > 1, "not by a denial");
    assert_eq!(ask(&mut other, "/v1/models").await.expect("it stays"), 200);
    serving.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_the_end() {
    let brief = Options { idle_time_max: BRIEF, ..Default::default() };
    let serving = Serving::start_with(Bench::new().await, brief, PATIENCE);
    let heard = serving.raw(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 200 OK"), "{heard}");
    serving.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_never_reads_its_answer_is_left() {
    let options = Options { connections_max: 1, stall_time_max: 5 * BRIEF, ..Default::default() };
    let serving = Serving::start_with(Bench::new().await.work(), options, PATIENCE);
    let mut deaf = serving.connect().await;
    // Answers of which the sockets hold only so many; the only place is taken for as long as they are not read.
    let ids = json!({"input": vec![[1]; 2048]}).to_string();
    let call = format!("POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{ids}", ids.len());
    for _ in 0..100 {
        if timeout(10 * BRIEF, deaf.write_all(call.as_bytes())).await.map_or(true, |written| written.is_err()) {
            break;
        }
    }
    let answer = timeout(PATIENCE, async { serving.client().await.get("/v1/models").await }).await;
    assert_eq!(answer.expect("the place is free again").status, 200);
    drop(deaf);
    serving.stop().await;
}
