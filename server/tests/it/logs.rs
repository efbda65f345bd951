//! What logs say of calls: which they are, never what was in them.

use std::time::Duration;

use shoal_proto::v1 as api;
use tonic::{Code, Request};

use crate::minilm;
use crate::oip::texts;
use crate::process::{Shoal, post};

/// In every text, and in no log. Letters alone, so that no way of writing it down changes it.
const MARKER: &str = "xylophonequagmire";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// All that libraries say for debugging, and all that the product's own crates say.
const LOG: &str = "debug,shoal_server=trace,shoal_worker=trace,shoal_scheduler=trace,shoal=trace";

/// Text, and the same as bytes and as base64 would be written.
fn told(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let bytes = MARKER.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>();
    let (decimal, hex) = (bytes[..6].join(", "), MARKER.bytes().take(6).map(|byte| format!("{byte:02x}")));
    line.contains(&MARKER[..8]) || line.contains(&decimal) || line.contains(&hex.collect::<String>())
}

/// A call that is part of [`TRACE`].
fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    request.metadata_mut().insert("traceparent", parent.parse().expect("ASCII"));
    request
}

#[test]
fn what_is_looked_for_is_found_however_it_is_written() {
    let bytes = MARKER.as_bytes();
    assert!(
        told(&format!("a {MARKER} b")) && told(&format!("{bytes:?}")) && told(&format!("{bytes:x?}").replace(", ", ""))
    );
    assert!(told(&MARKER.to_ascii_uppercase()) && !told("xylophone"[..7].as_ref()));
}

#[tokio::test]
async fn logs_name_calls_and_traces_and_never_what_is_in_them() {
    let Some(home) = minilm::home() else { return };
    let args = ["--model", "s=synthetic:base=1ms+faults", "--model", "minilm", "--log", LOG, "--call-texts-max", "4"];
    let shoal = Shoal::serve_in(&home, &args);
    let mut oip = shoal.oip().await;
    let text = |with: &str| texts("s", &[&format!("{with} {MARKER}")]);
    oip.model_infer(traced(text("fine"))).await.expect("an answer");
    // An input that cannot be computed, one that breaks its batch, one that needs too much memory, one that ends its
    // worker, and that again, which is held now.
    for (fault, code) in [
        ("!fail", Code::InvalidArgument),
        ("!break", Code::Internal),
        ("!oom", Code::ResourceExhausted),
        ("!abort", Code::Internal),
        ("!abort", Code::Internal),
    ] {
        let status = oip.model_infer(traced(text(fault))).await.expect_err(fault);
        assert_eq!(status.code(), code, "{fault}: {status:?}");
    }
    let mut late = traced(text("late"));
    late.set_timeout(Duration::from_nanos(1));
    oip.model_infer(late).await.expect_err("no time");
    let mut wrong = text("wrong");
    wrong.inputs[0].datatype = MARKER.to_owned();
    oip.model_infer(wrong).await.expect_err("no such type");
    oip.model_infer(texts(MARKER, &[MARKER])).await.expect_err("no such model");
    // Texts that are tokenised, over both wires: right, too many, too long to be read, and no JSON at all.
    let mut client = shoal.inference().await;
    let embed = |count: usize| minilm::embed(&vec![format!("{MARKER} text"); count]);
    client.embed(traced(embed(2))).await.expect("vectors");
    client.embed(embed(9)).await.expect_err("too many");
    let long = minilm::embed(&[format!("{MARKER} ").repeat(2000)]);
    client.embed(api::EmbedRequest { truncate: false, ..long }).await.expect_err("too long");
    for json in [
        format!(r#"{{"model":"minilm","input":"{MARKER}"}}"#),
        format!(r#"{{"model":"minilm","input":"{MARKER}","{MARKER}":1}}"#),
        format!(r#"{{"model":"minilm","input":"{MARKER}"#),
        format!(r#"{{"model":"{MARKER}","input":["{MARKER}"]}}"#),
    ] {
        post(&shoal.http, "/v1/embeddings", &json);
    }
    let (status, log) = shoal.stop();
    assert!(status.success());
    let line = |parts: &[&str]| {
        assert!(log.iter().any(|line| parts.iter().all(|part| line.contains(part))), "no line with {parts:?}");
    };
    // So loud that it is worth looking.
    line(&["call answered", "request_id=", TRACE]);
    line(&["call refused", "request_id=", TRACE, "reason=\"poison\""]);
    line(&["dispatch", "requests=["]);
    line(&["runs", TRACE]);
    line(&["answered", "request_id=\"req_"]);
    line(&["batch failed"]);
    let found: Vec<_> = log.iter().filter(|line| told(line)).collect();
    assert!(found.is_empty(), "{found:#?}");
}
