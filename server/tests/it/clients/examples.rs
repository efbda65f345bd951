//! The examples of `proto/examples`: they do what they say, and the documentation shows them as they are.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use shoal_proto::v1 as wire;
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::{client, repository, run, succeed};
use crate::oip::texts;
use crate::process::{Shoal, signal, wait_for};
use crate::tools;

const TEXTS: [&str; 2] = ["the cat sat", "a kitten rests"];

/// One row of `s` runs for longer than any test, and two more fill the queue of the tenant that everyone is.
const CONFIG: &str = r#"
tenant_requests_max = 2
[models.minilm]
[models.s]
source = "synthetic:floor=50s"
batch_rows_max = 1
"#;

/// Embeds the texts with the example that `command` runs, first on a free server, then on a full one.
async fn check(home: &Path, command: impl Fn() -> Command) {
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("shoal.toml");
    fs::write(&config, CONFIG).expect("config");
    let shoal = Shoal::serve_in(home, &["--config", config.to_str().expect("path")]);
    let expected = similarity(&shoal).await;
    check_answer(&succeed(command().arg(&shoal.grpc).args(TEXTS)).await, expected);

    let fillers = fill(&shoal).await;
    let mut patient = command();
    patient.arg(&shoal.grpc).args(TEXTS);
    let patient = tokio::spawn(async move { run(&mut patient).await });
    let refused = "shoal_rejects_total{model=\"minilm\",reason=\"tenant_queue_full\"}";
    wait_for("its refusal", || shoal.page("/metrics").1.contains(refused).then_some(()));
    free(&shoal, fillers);
    let output = patient.await.expect("task");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("the server is full, trying again in"), "{said}");
    check_answer(&String::from_utf8_lossy(&output.stdout), expected);
}

/// What the examples must find.
async fn similarity(shoal: &Shoal) -> f32 {
    let request = wire::EmbedRequest { texts: TEXTS.map(String::from).into(), ..Default::default() };
    let answer = shoal.inference().await.embed(request).await.expect("answer").into_inner();
    answer.embeddings[0].values.iter().zip(&answer.embeddings[1].values).map(|(a, b)| a * b).sum()
}

fn check_answer(printed: &str, expected: f32) {
    let lines: Vec<&str> = printed.lines().collect();
    let [found, tokens, batch] = lines.as_slice() else { panic!("{printed}") };
    let found: f32 = found.strip_prefix("384 dimensions, similarity ").and_then(|it| it.parse().ok()).expect(printed);
    assert!((found - expected).abs() < 1e-3, "{found} is not {expected}");
    assert!(tokens.contains(" tokens, queued ") && tokens.contains(", computed "), "{printed}");
    assert!(batch.starts_with("batch of 2 rows, 2 of them ours, CLOSE_REASON_"), "{printed}");
}

/// Fills the queue, with as many more on the worker as it takes.
async fn fill(shoal: &Shoal) -> Vec<JoinHandle<()>> {
    let client = shoal.oip().await;
    let filler = |_| {
        let mut client = client.clone();
        tokio::spawn(async move { drop(client.model_infer(texts("s", &["a"])).await) })
    };
    let fillers = (0..8).map(filler).collect();
    wait_for("a full queue", || (shoal.metric("shoal_queued_rows{model=\"s\"}") == 2.0).then_some(()));
    fillers
}

/// Takes the fillers back, and the worker that still runs what it was given of them.
fn free(shoal: &Shoal, fillers: Vec<JoinHandle<()>>) {
    fillers.iter().for_each(JoinHandle::abort);
    wait_for("an empty queue", || (shoal.metric("shoal_queued_rows{model=\"s\"}") == 0.0).then_some(()));
    for worker in shoal.workers() {
        signal(worker, Signal::KILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_embeds_and_waits_for_a_full_server() {
    let (Some(home), Some(python)) = (crate::minilm::home(), tools::python("grpc_tools.protoc, grpc_status")) else {
        return;
    };
    let stubs = tempfile::tempdir().expect("folder");
    let (out, grpc_out) = (option("--python_out=", stubs.path()), option("--grpc_python_out=", stubs.path()));
    let mut protoc = client(python.clone());
    protoc.args(["-m", "grpc_tools.protoc", "-I", "proto/proto"]).args([out, grpc_out]);
    succeed(protoc.arg("shoal/v1/inference.proto")).await;
    let command = || {
        let mut command = client(python.clone());
        command.env("PYTHONPATH", stubs.path()).arg("proto/examples/python/embed.py");
        command
    };
    check(&home, command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_example_embeds_and_waits_for_a_full_server() {
    let (Some(home), Some(go)) = (crate::minilm::home(), tools::tool("go")) else { return };
    let (Some(plugin), Some(_)) = (tools::tool("protoc-gen-go"), tools::tool("protoc-gen-go-grpc")) else { return };
    let Some(python) = tools::python("grpc_tools.protoc") else { return };
    let folder = tempfile::tempdir().expect("folder");
    let module = folder.path().join("examples/go");
    fs::create_dir_all(&module).expect("folder");
    for file in ["main.go", "generate.go", "go.mod", "go.sum"] {
        fs::copy(repository().join("proto/examples/go").join(file), module.join(file)).expect(file);
    }
    std::os::unix::fs::symlink(repository().join("proto/proto"), folder.path().join("proto")).expect("link");
    let programs = [plugin.parent().expect("a folder").to_owned(), protoc(folder.path(), &python)];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&path))).expect("paths");
    for arguments in [["generate", "."].as_slice(), &["build", "-o", "embed", "."]] {
        succeed(client(go.clone()).current_dir(&module).env("PATH", &path).args(arguments)).await;
    }
    check(&home, || client(module.join("embed"))).await;
}

/// A folder with a `protoc`, which grpcio-tools has inside.
fn protoc(folder: &Path, python: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let program = folder.join("bin/protoc");
    fs::create_dir_all(folder.join("bin")).expect("folder");
    fs::write(&program, format!("#!/bin/sh\nexec '{}' -m grpc_tools.protoc \"$@\"\n", python.display())).expect("file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("permissions");
    folder.join("bin")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_example_embeds_and_waits_for_a_full_server() {
    let Some(home) = crate::minilm::home() else { return };
    // Of the whole workspace, as it is tested: most of it is built already then.
    let mut build = client(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()).into());
    build.args(["build", "--locked", "--quiet", "--workspace", "--example", "embed", "--message-format", "json"]);
    let messages = succeed(&mut build).await;
    let message = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("a message");
    let built = messages.lines().map(message).find(|message| message["executable"].is_string()).expect("an example");
    let example = PathBuf::from(built["executable"].as_str().expect("a path"));
    check(&home, || client(example.clone())).await;
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(path);
    option
}

#[test]
fn the_documentation_shows_the_examples_as_they_are() {
    let read =
        |path: &str| fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let page = read("server/docs/clients.md");
    for (language, path) in [("python", "python/embed.py"), ("go", "go/main.go"), ("rust", "embed.rs")] {
        let example = read(&format!("proto/examples/{path}"));
        assert!(example.lines().count() < 60, "{path} has grown beyond an example");
        assert!(page.contains(&format!("```{language}\n{example}```\n")), "clients.md does not show {path} as it is");
    }
}
