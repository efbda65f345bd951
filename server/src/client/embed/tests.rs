use clap::Parser as _;

use super::{AskError, EmbedArgs, run};
use crate::client::testing::{DIMS, TestServer};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: EmbedArgs,
}

fn args(addr: &str, more: &[&str]) -> EmbedArgs {
    Cli::try_parse_from([&["shoal", "--addr", addr], more].concat()).unwrap().args
}

async fn embed(input: &str, more: &[&str]) -> (Result<(), AskError>, String) {
    let server = TestServer::start().await;
    let args = args(&server.address().to_string(), more);
    let mut out = Vec::new();
    let result = run(&args, input.as_bytes(), &mut out).await;
    (result, String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn shows_each_vector_their_cosines_and_the_usage() {
    let (result, out) = embed("", &["--model", "m", "green apples", "green apples", "seven years"]).await;
    result.unwrap();
    assert!(out.contains(&format!("{DIMS} dims, length 1.4142")), "{out}");
    assert!(out.contains("\n  1   1.0000  1.0000  0.0000\n"), "{out}");
    assert!(out.ends_with("m 1 (f32): 12 tokens, queued 1.00 ms, computed 1.00 ms, batch rows 8\n"), "{out}");
}

#[tokio::test]
async fn json_has_every_value() {
    let (result, out) = embed("", &["--json", "green apples"]).await;
    result.unwrap();
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["embeddings"][0]["text"], "green apples");
    assert_eq!(json["embeddings"][0]["values"].as_array().unwrap().len(), DIMS);
    assert_eq!(json["usage"]["queue_us"], 1000);
    assert_eq!(json["usage"]["batch_rows"][0], 8);
}

#[tokio::test]
async fn a_dash_reads_lines() {
    let (result, out) = embed("first line\nsecond line\n", &["before", "-"]).await;
    result.unwrap();
    for text in ["  1  \"before\"", "  2  \"first line\"", "  3  \"second line\""] {
        assert!(out.contains(text), "{out}");
    }
    assert!(matches!(embed("", &["-"]).await.0, Err(AskError::NoTexts)));
    assert!(matches!(embed(&"x\n".repeat(2049), &["-"]).await.0, Err(AskError::TooMany)));
}

#[tokio::test]
async fn passes_on_what_the_server_says() {
    let (result, _) = embed("", &["--model", "missing", "x"]).await;
    let error = result.unwrap_err().to_string();
    assert_eq!(error, "the server answered NotFound: model `missing` is not served here");
}

#[tokio::test]
async fn gives_up_after_the_time_out() {
    let (result, _) = embed("", &["--model", "hang", "--timeout", "50ms", "x"]).await;
    assert!(matches!(result, Err(AskError::Refused(status)) if status.code() == tonic::Code::DeadlineExceeded));
}
