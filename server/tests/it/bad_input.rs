//! What only exists on the wire: sizes, compression, framing, HTTP/2 turned against the server, and no HTTP/2 at all.
//!
//! Each test ends with a good call by somebody else, and those about memory with a look at the server's peak.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::oip::floats;
use crate::process::{PATIENCE, Shoal};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const EMBED: &str = "/shoal.v1.Inference/Embed";
/// Room above what an idle server takes: twice the largest message, read and unpacked, and some for the allocator.
const ROOM_KIB: u64 = 96 << 10;

type Headers<'a> = &'a [(&'a str, &'a [u8])];

impl Shoal {
    /// The most memory it ever had resident, in KiB.
    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// It never had much more memory than `before`.
    fn assert_small_since(&self, before: u64) {
        let more = self.peak_kib() - before;
        println!("at its peak {more} KiB more than before");
        assert!(more < ROOM_KIB, "{more} KiB more than before");
    }

    /// Somebody else is served as if nothing had happened.
    async fn assert_unharmed(&self) {
        let request = floats(&[&[1.0, f32::NAN]]);
        let answer = self.oip().await.model_infer(request.clone()).await.expect("an answer").into_inner();
        assert_eq!(answer.raw_output_contents, request.raw_input_contents);
    }

    /// Posts a body as it is, and returns the HTTP status and the gRPC status, if there is one.
    async fn post(&self, path: &str, headers: Headers<'_>, body: Vec<u8>) -> (u16, Option<Status>) {
        let stream = tokio::net::TcpStream::connect(&self.grpc).await.expect("connection");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.expect("handshake");
        tokio::spawn(connection);
        let mut request = http::Request::post(format!("http://{}{path}", self.grpc)).header("te", "trailers");
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, http::HeaderValue::from_bytes(value).expect("a value"));
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        let (code, in_head) = (answer.status().as_u16(), Status::from_header_map(answer.headers()));
        let body = answer.into_body().collect().await.expect("a body");
        (code, in_head.or_else(|| body.trailers().and_then(Status::from_header_map)))
    }
}

fn framed(compressed: bool, message: &[u8]) -> Vec<u8> {
    [&[compressed.into()], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

fn infer() -> Vec<u8> {
    floats(&[&[1.0]]).encode_to_vec()
}

/// The field an INVALID_ARGUMENT names.
fn field(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    details.bad_request().expect("details").field_violations[0].field.clone()
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_by_the_limits_name() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let row = vec![1.0; 5 << 20];
    let mut client = shoal.oip().await.max_encoding_message_size(64 << 20);
    let status = client.model_infer(floats(&[&row])).await.expect_err("20 MiB");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("call_bytes_max"), "{status:?}");
    assert_eq!(status.get_error_details().error_info().expect("details").reason, "MESSAGE_TOO_LARGE");
    shoal.assert_unharmed().await;
}

/// A gzip stream of zeros without end: so many times 16 MiB, and nothing behind them.
fn bomb(times: usize) -> Vec<u8> {
    let mut part = Vec::with_capacity(1 << 20);
    let mut deflate = Compress::new(Compression::best(), false);
    deflate.compress_vec(&vec![0; 16 << 20], &mut part, FlushCompress::Full).expect("compressed");
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    [&head[..], &part.repeat(times)].concat()
}

#[tokio::test]
async fn a_message_that_unpacks_without_end_takes_no_more_memory_than_a_large_one() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    shoal.assert_unharmed().await;
    let before = shoal.peak_kib();
    // 8 GiB in 8 MiB.
    let bomb = bomb(512);
    assert!((6 << 20..16 << 20).contains(&bomb.len()), "{}", bomb.len());
    for _ in 0..3 {
        let (_, status) = shoal.post(INFER, &[("grpc-encoding", b"gzip")], framed(true, &bomb)).await;
        let status = status.expect("a status");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().contains("call_bytes_max"), "{status:?}");
    }
    shoal.assert_small_since(before);
    shoal.assert_unharmed().await;
}

#[tokio::test]
async fn millions_of_empty_fields_take_no_more_memory_than_a_large_message() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    shoal.assert_unharmed().await;
    let before = shoal.peak_kib();
    // `inputs {}`, which is 300 bytes in memory, `outputs {}` and `texts: ""`.
    for (path, pair) in [(INFER, [0x2a, 0]), (INFER, [0x32, 0]), (EMBED, [0x12, 0])] {
        let (_, status) = shoal.post(path, &[], framed(false, &pair.repeat(8_000_000))).await;
        assert_eq!(field(&status.expect("a status")), "request");
    }
    shoal.assert_small_since(before);
    shoal.assert_unharmed().await;
}

#[tokio::test]
async fn bytes_that_are_no_call_are_the_requests_fault() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let cut = framed(false, &infer())[..20].to_vec();
    let lying = [&[0, 255, 255, 255, 255][..], &infer()].concat();
    let gzip: (&str, &[u8]) = ("grpc-encoding", b"gzip");
    let cases: [(&str, Headers<'_>, Vec<u8>, Code); 9] = [
        ("no message", &[], vec![], Code::InvalidArgument),
        ("half a head", &[], vec![0, 0, 0], Code::InvalidArgument),
        ("half a message", &[], cut, Code::InvalidArgument),
        ("no message of the protocol", &[], framed(false, &[0xff; 40]), Code::InvalidArgument),
        ("an unknown flag", &[], [&[7][..], &framed(false, &infer())[1..]].concat(), Code::InvalidArgument),
        ("packed by nobody knows what", &[], framed(true, &infer()), Code::InvalidArgument),
        ("packed, but not so", &[gzip], framed(true, &infer()), Code::InvalidArgument),
        ("packed in an unknown way", &[("grpc-encoding", b"br")], framed(true, &infer()), Code::Unimplemented),
        ("a length of 4 GiB", &[], lying, Code::ResourceExhausted),
    ];
    for (what, headers, body, code) in cases {
        let (http, status) = shoal.post(INFER, headers, body).await;
        let status = status.expect(what);
        assert_eq!((http, status.code()), (200, code), "{what}: {status:?}");
        if code == Code::InvalidArgument {
            assert_eq!(field(&status), "request", "{what}");
        }
    }
    for path in ["/inference.GRPCInferenceService/Nothing", "/nobody.Nothing/Infer", "/", "/%ff"] {
        let (_, status) = shoal.post(path, &[], framed(false, &infer())).await;
        assert_eq!(status.expect(path).code(), Code::Unimplemented, "{path}");
    }
    shoal.assert_unharmed().await;
}

#[tokio::test]
async fn metadata_that_is_wrong_is_named_by_its_key() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let long = vec![b'a'; 10_000];
    let cases: [(&str, &[u8]); 10] = [
        ("grpc-timeout", b"-1S"),
        ("grpc-timeout", b"99999999999H"),
        ("grpc-timeout", b""),
        ("grpc-timeout", b"1"),
        ("grpc-timeout", b"\xff\xfe"),
        ("x-shoal-class", b"nonsense"),
        ("x-shoal-class", b"\xf0\x9f\xa6\x91"),
        ("x-shoal-class", b""),
        ("x-shoal-tenant", "gr\u{f6}\u{df}e".as_bytes()),
        ("x-shoal-tenant", &long),
    ];
    for (key, value) in cases {
        let (_, status) = shoal.post(INFER, &[(key, value)], framed(false, &infer())).await;
        assert_eq!(field(&status.expect("a status")), key, "{value:?}");
    }
    // What is only said about a call must never break it.
    for (key, value) in [("traceparent", &b"00-zz-zz-zz"[..]), ("tracestate", b"\xff"), ("grpc-timeout", b"99999999H")]
    {
        let (_, status) = shoal.post(INFER, &[(key, value)], framed(false, &infer())).await;
        assert_eq!(status.expect("a status").code(), Code::Ok, "{key}");
    }
    let (_, status) = shoal.post(INFER, &[("grpc-timeout", b"0n")], framed(false, &infer())).await;
    assert_eq!(status.expect("a status").code(), Code::DeadlineExceeded);
    shoal.assert_unharmed().await;
}

/// A client that writes frames of HTTP/2 itself.
struct Rude {
    stream: TcpStream,
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Rude {
    fn connect(shoal: &Shoal) -> Self {
        let stream = TcpStream::connect(&shoal.grpc).expect("connection");
        // A server may stop reading from whoever does not read; that is as good an end as any.
        stream.set_write_timeout(Some(Duration::from_millis(500))).expect("time-out");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        Self { stream }
    }

    /// One that has said hello, with these settings.
    fn greeted(shoal: &Shoal, settings: &[u8]) -> Self {
        let mut client = Self::connect(shoal);
        client.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        client.say(&frame(SETTINGS, 0, 0, settings));
        client
    }

    /// Writes, and says whether the server still takes it.
    fn say(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Reads until the server hangs up.
    fn hear_the_end(mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        // Whether it ends or is reset does not matter; that it is not kept open does.
        match self.stream.read_to_end(&mut heard) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("the connection stays open")
            }
            _ => heard,
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field as HPACK writes it: not indexed, not packed. 16 KiB at most.
fn header(name: &str, value: &str) -> Vec<u8> {
    let long = |length: usize| match length {
        0..127 => vec![length as u8],
        _ => vec![127, ((length - 127) & 0x7f) as u8 | 0x80, ((length - 127) >> 7) as u8],
    };
    [&[0][..], &long(name.len()), name.as_bytes(), &long(value.len()), value.as_bytes()].concat()
}

fn request_head() -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", INFER),
        (":authority", "shoal"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(name, value)| header(name, value)).collect()
}

#[tokio::test]
async fn what_does_not_speak_http2_is_hung_up_on() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let hello_of_tls = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 508]].concat();
    let cases: [&[u8]; 6] = [
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /inference HTTP/1.0\r\nContent-Length: 99999999999\r\n\r\n",
        &hello_of_tls,
        &[0; 4096],
        &[0xff; 100_000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nno frame at all, but as long as a few of them are together",
    ];
    for said in cases {
        let mut client = Rude::connect(&shoal);
        client.say(said);
        client.hear_the_end();
    }
    shoal.assert_unharmed().await;
}

#[tokio::test]
async fn headers_without_end_take_no_memory() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    shoal.assert_unharmed().await;
    let before = shoal.peak_kib();
    // One call whose headers go on and on.
    let mut endless = Rude::greeted(&shoal, &[]);
    endless.say(&frame(HEADERS, END_STREAM, 1, &request_head()));
    let more = frame(CONTINUATION, 0, 1, &header("x", &"y".repeat(16_000)));
    let taken = (0..20_000).take_while(|_| endless.say(&more)).count();
    assert!(taken < 20_000, "320 MB of headers were read");
    endless.hear_the_end();
    // A header of 4 KB, kept by the compression's table, and then called up thousands of times by one byte each.
    let mut amplified = Rude::greeted(&shoal, &[]);
    let mut head = request_head();
    let mut kept = header("x", &"y".repeat(3900));
    kept[0] = 0x40;
    head.extend(kept);
    head.extend([0x80 | 62; 8000]);
    for stream in (1..201).step_by(2) {
        amplified.say(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &head));
    }
    // A client that means no harm is told.
    let large = vec![b'a'; 20_000];
    let (http, _) = shoal.post(INFER, &[("x-large", &large)], framed(false, &infer())).await;
    assert_eq!(http, 431);
    shoal.assert_unharmed().await;
    shoal.assert_small_since(before);
    drop(amplified);
}

#[tokio::test]
async fn calls_reset_as_soon_as_they_are_made_harm_nobody() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    shoal.assert_unharmed().await;
    let before = shoal.peak_kib();
    let mut client = Rude::greeted(&shoal, &[]);
    let head = request_head();
    let calls = (0..50_000).map(|call| {
        let stream = 2 * call + 1;
        [frame(HEADERS, END_HEADERS, stream, &head), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    for call in calls {
        if !client.say(&call) {
            break;
        }
    }
    shoal.assert_unharmed().await;
    drop(client);
    shoal.assert_small_since(before);
}

#[tokio::test]
async fn floods_of_pings_and_settings_harm_nobody() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    shoal.assert_unharmed().await;
    let before = shoal.peak_kib();
    // Neither reads what the server says to it.
    for flood in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])] {
        let mut client = Rude::greeted(&shoal, &[]);
        let thousand = flood.repeat(1000);
        for _ in 0..500 {
            if !client.say(&thousand) {
                break;
            }
        }
        shoal.assert_unharmed().await;
        drop(client);
    }
    shoal.assert_small_since(before);
}

#[tokio::test]
async fn a_client_that_lets_no_answer_in_holds_up_nobody() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    shoal.assert_unharmed().await;
    // Streams may be sent nothing: their window is 0.
    let mut client = Rude::greeted(&shoal, &[0, 4, 0, 0, 0, 0]);
    let body = framed(false, &infer());
    for call in 0..100 {
        let stream = 2 * call + 1;
        assert!(client.say(&frame(HEADERS, END_HEADERS, stream, &request_head())));
        assert!(client.say(&frame(0, END_STREAM, stream, &body)));
    }
    let done = || shoal.metric("shoal_calls_total{model=\"echo\",code=\"OK\"}") >= 101.0;
    crate::process::wait_for("the answers nobody lets in", || done().then_some(()));
    shoal.assert_unharmed().await;
    // A stop does not wait for a client that is gone, either.
    drop(client);
    let (status, log) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(status.success(), "{log:#?}");
}
