//! OpenAI's API with the clients people use: curl, and OpenAI's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::minilm::{self, Fixtures};
use crate::process::{Shoal, wait_for};
use crate::tools;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/minilm");

/// Has OpenAI's client do a task of `clients/openai_client.py`.
fn openai(python: &Path, task: &str, shoal: &Shoal) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients/openai_client.py");
    let base_url = format!("http://{}/v1", shoal.http);
    let mut command = Command::new(python);
    command.args([script, task, &base_url, FIXTURES]).env("NO_PROXY", "127.0.0.1").stdin(Stdio::null());
    let output = command.output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A Python with OpenAI's client, and a home with the weights.
fn openai_and_weights() -> Option<(PathBuf, PathBuf)> {
    Some((tools::python("openai")?, minilm::home()?))
}

/// A curl that asks the server it is given, whatever proxies the machine has.
fn curl(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]).stdin(Stdio::null());
    command
}

fn text(command: &mut Command) -> String {
    let output = command.output().expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn openais_client_gets_what_sentence_transformers_computes() {
    let Some((python, home)) = openai_and_weights() else { return };
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    openai(&python, "answers", &shoal);
    assert!(shoal.metric("shoal_calls_total{model=\"minilm\",code=\"OK\"}") > 10.0);
}

#[test]
fn openais_client_raises_the_exception_of_each_error() {
    let Some((python, home)) = openai_and_weights() else { return };
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    openai(&python, "errors", &shoal);
}

#[test]
fn openais_client_waits_for_a_full_queue() {
    let Some((python, home)) = openai_and_weights() else { return };
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("shoal.toml");
    std::fs::write(&config, "[models.minilm]\nqueue_requests_max = 2\nbatch_rows_max = 1\n").expect("config");
    let shoal = Shoal::serve_in(&home, &["--config", config.to_str().expect("path")]);
    openai(&python, "full", &shoal);
}

#[test]
fn the_banners_curl_line_works_as_it_is() {
    let (Some(_), Some(home)) = (tools::tool("curl"), minilm::home()) else { return };
    let mut shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    let line = shoal.line_with("/v1/embeddings");
    let answer = text(Command::new("sh").args(["-c", &line]).env("NO_PROXY", "127.0.0.1").stdin(Stdio::null()));
    let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert_eq!(answer["data"][1]["embedding"].as_array().map(Vec::len), Some(384));
}

#[test]
fn curl_asks_twice_over_one_connection() {
    let Some(program) = tools::tool("curl") else { return };
    let shoal = Shoal::serve(&["--model", "echo"]);
    let url = format!("http://{}/v1/models/echo", shoal.http);
    let mut command = curl(&program);
    command.args(["--write-out", "\n%{http_code} %{num_connects}\n", &url, &url]);
    let said = text(&mut command);
    let counts: Vec<_> = said.lines().filter(|line| line.starts_with("200 ")).collect();
    assert_eq!(counts, ["200 1", "200 0"], "{said}");
    let model: Value = serde_json::from_str(said.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&model["id"], &model["object"]), (&json!("echo"), &json!("model")));
}

#[test]
fn a_model_that_embeds_nothing_is_refused_by_name() {
    let Some(program) = tools::tool("curl") else { return };
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut command = curl(&program);
    command.args(["--write-out", "\n%{http_code}", &format!("http://{}/v1/embeddings", shoal.http)]);
    // Without a header that says so, curl calls it a form.
    let body = r#"{"model": "echo", "input": "a"}"#;
    let form = text(command.args(["--data", body]));
    assert!(form.ends_with("\n415") && form.contains("application/json"), "{form}");
    let refused = text(command.args(["--header", "content-type: application/json"]));
    let (answer, status) = refused.rsplit_once('\n').expect("a status");
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    assert_eq!((status, &answer["error"]["param"]), ("400", &json!("model")), "{answer}");
}

#[test]
fn a_stop_answers_the_call_that_is_open_and_closes_its_connection() {
    let (Some(program), Some(home)) = (tools::tool("curl"), minilm::home()) else { return };
    let text = Fixtures::read().texts.remove(0).text;
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    let folder = tempfile::tempdir().expect("folder");
    let body = folder.path().join("body.json");
    std::fs::write(&body, json!({"input": vec![text; 100]}).to_string()).expect("body");
    let mut command = curl(&program);
    command.args(["--include", "--header", "content-type: application/json", "--data"]);
    command.args([&format!("@{}", body.display()), &format!("http://{}/v1/embeddings", shoal.http)]);
    // Into a file: a client that waits for somebody to read what it got holds up a stop.
    let answer = folder.path().join("answer");
    let mut call = command.arg("--output").arg(&answer).spawn().expect("curl");
    wait_for("the call to run", || (shoal.metric("shoal_rows_in_flight") > 0.0).then_some(()));
    // Another that is only connected.
    let idle = std::net::TcpStream::connect(&shoal.http).expect("connection");
    let (status, log) = shoal.stop();
    assert!(status.success(), "{status:?}\n{log:#?}");
    assert!(call.wait().expect("curl ends").success());
    let answer = std::fs::read_to_string(answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("connection: close"), "{head}");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["data"].as_array().map(Vec::len), Some(100));
    drop(idle);
}
