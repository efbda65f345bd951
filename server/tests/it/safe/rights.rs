//! Each method of each service, called by nobody, by somebody who may not, and by somebody who may.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use shoal_proto::inference as wire;
use shoal_proto::v1 as own;
use tokio::time::timeout;
use tonic::{Code, Request};

use crate::oip::floats;
use crate::process::{PATIENCE, Shoal, framed};

const RIGHTS: [&str; 4] = ["infer", "inspect", "control", "admin"];

/// The token of the identity that has this right, and no other.
fn token(right: &str) -> String {
    format!("token-of-the-one-with-{right}")
}

/// A server that tells callers apart: one for each right, and these entries.
fn serve(folder: &Path, entries: &str) -> Shoal {
    let mut config =
        "admin_listen = \"127.0.0.1:0\"\nscaler_listen = \"127.0.0.1:0\"\nmodel_control = \"explicit\"\n".to_owned();
    for right in RIGHTS {
        let file = folder.join(right);
        std::fs::write(&file, token(right)).expect("write");
        let file = file.display();
        writeln!(config, "[[access]]\nname = \"{right}\"\ntoken_file = \"{file}\"\nrights = [\"{right}\"]")
            .expect("text");
    }
    config += entries;
    config += "[models.echo]\n[models.other]\nsource = \"echo\"\n";
    let path = folder.join("shoal.toml");
    std::fs::write(&path, config).expect("write");
    Shoal::serve(&["--config", super::text(&path)])
}

/// What the page says that each method needs. A test of the library holds the page to the table, and the table to all
/// descriptors.
fn needs() -> BTreeMap<String, String> {
    let page = include_str!("../../../docs/security.md");
    let row = |line: &str| {
        let (method, need) = line.strip_prefix("| `")?.split_once("` | ")?;
        method.contains('/').then(|| (method.to_owned(), need.trim_end_matches(" |").trim_matches('`').to_owned()))
    };
    page.lines().filter_map(row).collect()
}

type Sender = SendRequest<BoxBody<Bytes, std::convert::Infallible>>;

async fn connect(address: &str) -> Sender {
    let stream = tokio::net::TcpStream::connect(address).await.expect("connection");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("handshake");
    tokio::spawn(connection);
    sender
}

fn request(
    path: &str,
    token: Option<&str>,
    body: BoxBody<Bytes, std::convert::Infallible>,
) -> http::Request<BoxBody<Bytes, std::convert::Infallible>> {
    let mut request = http::Request::post(format!("http://shoal/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(body).expect("request")
}

/// How a call of a method begins to be answered: a status in the head is one that was given at once.
async fn answer(sender: &mut Sender, path: &str, token: Option<&str>) -> Code {
    let empty = framed(&wire::ServerLiveRequest::default());
    let response = sender.send_request(request(path, token, Full::new(empty).boxed()));
    let response = timeout(PATIENCE, response).await.expect("an answer in time").expect("an answer");
    response.headers().get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

const DENIALS: [Code; 2] = [Code::Unauthenticated, Code::PermissionDenied];

#[tokio::test(flavor = "multi_thread")]
async fn every_method_on_every_port_is_for_those_who_have_its_right_and_for_nobody_else() {
    let folder = tempfile::tempdir().expect("folder");
    let shoal = serve(folder.path(), "");
    let needs = needs();
    assert!(needs.len() > 30, "{needs:?}");
    let mut called = 0;
    for port in [&shoal.grpc, &shoal.admin, &shoal.scaler] {
        let mut sender = connect(port).await;
        for (path, need) in needs.iter().filter(|(path, _)| !path.contains(' ')) {
            let nobody = answer(&mut sender, path, None).await;
            let wrong = answer(&mut sender, path, Some("a-token-that-nobody-has")).await;
            if need == "nothing" {
                assert!(!DENIALS.contains(&nobody) && !DENIALS.contains(&wrong), "{path}: {nobody:?}, {wrong:?}");
            } else {
                assert_eq!((nobody, wrong), (DENIALS[0], DENIALS[0]), "{path}");
            }
            for right in RIGHTS {
                let code = answer(&mut sender, path, Some(&token(right))).await;
                let may = matches!(need.as_str(), "nothing" | "an identity") || need == right;
                if may {
                    assert!(!DENIALS.contains(&code), "{path} with {right}: {code:?}");
                } else {
                    assert_eq!(code, Code::PermissionDenied, "{path} with {right}");
                }
                called += 1;
            }
        }
        for path in ["shoal.link.v1.WorkerLink/Control", "shoal.v1.Inference/Embed/", "shoal.v1.Inference/embed", ""] {
            assert_eq!(answer(&mut sender, path, None).await, Code::Unauthenticated, "{path}");
            assert_eq!(answer(&mut sender, path, Some(&token("admin"))).await, Code::PermissionDenied, "{path}");
        }
    }
    assert!(called > 200, "{called}");
    assert!(shoal.metric("shoal_denied_calls_total{port=\"grpc\",code=\"PERMISSION_DENIED\"}") > 50.0);
    assert!(shoal.metric("shoal_denied_calls_total{port=\"admin\",code=\"UNAUTHENTICATED\"}") > 30.0);
    let (_, log) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(!log.iter().any(|line| line.contains("token-of-the-one")), "{log:#?}");
}

/// The status of a page, and all of its answer.
fn page(address: &str, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
    write!(stream, "{head}\r\nhost: x\r\nconnection: close\r\n\r\n{body}").expect("request");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("an answer");
    let status = heard.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {heard}")), heard)
}

#[test]
fn every_page_is_for_those_who_have_its_right_and_for_nobody_else() {
    let folder = tempfile::tempdir().expect("folder");
    let shoal = serve(folder.path(), "");
    for (page_of, need) in needs().iter().filter(|(path, _)| path.contains(' ')) {
        let path = page_of.replace("{model}", "echo");
        let head = |token: &str| format!("{path} HTTP/1.1\r\ncontent-length: 0\r\nauthorization: Bearer {token}");
        let (nobody, heard) = page(&shoal.http, &format!("{path} HTTP/1.1"), "");
        assert_eq!(nobody, 401, "{path}");
        assert!(heard.contains("www-authenticate: Bearer"), "{heard}");
        assert_eq!(page(&shoal.http, &head("a-token-that-nobody-has"), "").0, 401, "{path}");
        for right in RIGHTS {
            let (status, _) = page(&shoal.http, &head(&token(right)), "");
            assert_eq!(status == 403, right != need, "{path} with {right}: {status}");
            assert_ne!(status, 401, "{path} with {right}");
        }
    }
    // However a page is spelt, and whatever is asked of it, there is no way around.
    for path in ["GET /v1/models/", "GET //v1/models", "GET /v1/%6dodels", "PUT /v1/models", "GET /", "OPTIONS *"] {
        assert_eq!(page(&shoal.http, &format!("{path} HTTP/1.1"), "").0, 401, "{path}");
        let known = format!("{path} HTTP/1.1\r\nauthorization: Bearer {}", token("inspect"));
        assert_eq!(page(&shoal.http, &known, "").0, 403, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_nobody_is_refused_before_its_body_is_there() {
    let folder = tempfile::tempdir().expect("folder");
    let shoal = serve(folder.path(), "");
    let mut sender = connect(&shoal.grpc).await;
    let never = StreamBody::new(tokio_stream::pending());
    let response = sender.send_request(request("shoal.v1.Inference/Embed", None, never.boxed()));
    let response = timeout(PATIENCE, response).await.expect("an answer in time").expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "16");
    let head = "POST /v1/embeddings HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 1000000";
    let address = shoal.http.clone();
    let told = tokio::task::spawn_blocking(move || page(&address, head, "")).await.expect("a page");
    assert_eq!(told.0, 401, "{}", told.1);
    let empty = Empty::new().boxed();
    let response = sender.send_request(request("grpc.health.v1.Health/Check", None, empty)).await.expect("an answer");
    assert_eq!(response.status(), 200);
}

/// A message of this identity.
fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_with_models_and_a_tenant_sees_and_is_nothing_else() {
    let folder = tempfile::tempdir().expect("folder");
    let mine = "token-of-the-one-with-one-model";
    let digest: String = sha256(mine.as_bytes());
    let entry = format!(
        "[[access]]\nname = \"mine\"\ntoken_sha256 = \"{digest}\"\ntenant = \"search\"\n\
         rights = [\"infer\", \"inspect\"]\nmodels = [\"echo\"]\n"
    );
    let shoal = serve(folder.path(), &entry);
    let mut oip = shoal.oip().await;
    let named = |model: &str| wire::ModelInferRequest { model_name: model.into(), ..floats(&[&[1.0]]) };
    oip.model_infer(by(mine, named("echo"))).await.expect("its model");
    let other = oip.model_infer(by(mine, named("other"))).await.expect_err("another's");
    assert_eq!((other.code(), other.message()), (Code::NotFound, "model `other` is not served here"));
    oip.model_infer(by(&token("infer"), named("other"))).await.expect("one who has all");

    let metadata = |name: &str| wire::ModelMetadataRequest { name: name.into(), ..Default::default() };
    oip.model_metadata(by(mine, metadata("echo"))).await.expect("its model");
    let other = oip.model_metadata(by(mine, metadata("other"))).await.expect_err("another's");
    assert_eq!(other.code(), Code::NotFound);
    let index = oip.repository_index(by(mine, wire::RepositoryIndexRequest::default())).await.expect("a list");
    let names: Vec<_> = index.into_inner().models.into_iter().map(|model| model.name).collect();
    assert_eq!(names, ["echo"]);
    let counted = oip.model_statistics(by(mine, wire::ModelStatisticsRequest::default())).await.expect("a list");
    assert_eq!(counted.into_inner().model_stats.len(), 1);
    let mut inference = shoal.inference().await;
    let listed = inference.list_models(by(mine, own::ListModelsRequest::default())).await.expect("a list").into_inner();
    assert_eq!(listed.models.len(), 1);
    let mut calls = oip
        .model_stream_infer(by(mine, tokio_stream::iter([named("other"), named("echo")])))
        .await
        .expect("a stream")
        .into_inner();
    let first = calls.message().await.expect("an answer").expect("one");
    assert!(first.error_message.contains("`other` is not served here"), "{first:?}");
    assert_eq!(calls.message().await.expect("an answer").expect("one").error_message, "");
    let head = format!("GET /v1/models HTTP/1.1\r\nauthorization: Bearer {mine}");
    let address = shoal.http.clone();
    let (_, listed) = tokio::task::spawn_blocking(move || page(&address, &head, "")).await.expect("a page");
    assert!(listed.contains("\"echo\"") && !listed.contains("\"other\""), "{listed}");

    // It is the tenant that its entry says, and says no other.
    let mut request = by(mine, named("echo"));
    request.metadata_mut().insert("x-shoal-tenant", "ads".parse().expect("ASCII"));
    let refused = oip.model_infer(request).await.expect_err("another tenant");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("x-shoal-tenant"), "{refused:?}");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text");
        text
    })
}
