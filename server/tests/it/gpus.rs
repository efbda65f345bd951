//! GPUs, which are the emulator's: a server that finds them, with a worker on each, down to its metrics; and one that
//! breaks.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use shoal_proto::v1::EmbedRequest;
use shoal_worker::gpu_check::Encoder;

use crate::process::{Shoal, shoal, wait_for};

const TEXTS: [&str; 3] = ["w1 w2 w3", "w7 w7 w7 w7 w7 w7 w7 w7 w9", "w5"];
/// What an emulated GPU draws in watts, by its number.
const WATTS: [f64; 2] = [100.5, 101.5];

/// A folder with a model for which there are kernels, and the file that breaks a GPU.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let model = folder.path().join("model");
        Encoder::TINY.write(&model, 1).expect("a model");
        let vocabulary: serde_json::Map<String, Value> =
            (0..Encoder::TINY.vocabulary).map(|id| (format!("w{id}"), id.into())).collect();
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}
        });
        fs::write(model.join("tokenizer.json"), tokenizer.to_string()).expect("file");
        Self { folder }
    }

    fn model(&self) -> String {
        format!("tiny={}", self.folder.path().join("model").display())
    }

    /// Where a file breaks whichever GPU finds it.
    fn fault(&self) -> PathBuf {
        self.folder.path().join("fault")
    }

    fn serve(&self, gpus: u32, args: &[&str]) -> Shoal {
        Shoal::serve_on_gpus(gpus, &self.fault(), &[&["--model", &self.model()], args].concat())
    }
}

async fn embed(server: &Shoal, texts: &[&str]) -> Vec<Vec<f32>> {
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    let request = EmbedRequest { model: "tiny".into(), texts, ..EmbedRequest::default() };
    let answer = server.inference().await.embed(request).await.expect("an answer").into_inner();
    answer.embeddings.into_iter().map(|embedding| embedding.values).collect()
}

/// The GPUs on the page of metrics, as worker, last digit of the UUID, and watts.
fn drawn(server: &Shoal) -> Vec<(String, String, f64)> {
    let (_, page) = server.page("/metrics");
    let lines = page.lines().filter_map(|line| line.strip_prefix("shoal_gpu_power_watts{worker=\""));
    let parts = lines.map(|line| {
        let (worker, rest) = line.split_once("\",uuid=\"GPU-00000000-0000-0000-0000-00000000000").expect("labels");
        let (digit, watts) = rest.split_once("\"} ").expect("a value");
        (worker.to_owned(), digit.to_owned(), watts.parse().expect("a number"))
    });
    parts.collect()
}

/// Waits until both GPUs are on the page and both workers hold the model.
fn wait_for_both(server: &Shoal) {
    let both = [("local-0", "0", WATTS[0]), ("local-1", "1", WATTS[1])];
    let both = both.map(|(worker, digit, watts)| (worker.to_owned(), digit.to_owned(), watts));
    wait_for("a worker on each GPU", || {
        let is_ready = server.metric_or_zero("shoal_model_workers{model=\"tiny\"}") >= 2.0;
        (is_ready && drawn(server) == both).then_some(())
    });
}

#[tokio::test]
async fn a_server_has_a_worker_on_each_gpu_and_answers_as_on_the_processor() {
    let scene = Scene::new();
    let model = format!("{},dtype=f32", scene.model());
    let expected = embed(&Shoal::serve(&["--device", "cpu", "--model", &model]), &TEXTS).await;
    let server = scene.serve(2, &[]);
    wait_for_both(&server);
    for (found, expected) in embed(&server, &TEXTS).await.iter().zip(&expected) {
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
        let cosine = dot(found, expected) / (dot(found, found) * dot(expected, expected)).sqrt();
        assert!(cosine > 0.999, "{cosine}");
    }
    let first = |metric: &str| {
        let labels = r#"worker="local-0",uuid="GPU-00000000-0000-0000-0000-000000000000""#;
        server.metric(&format!("{metric}{{{labels}}}"))
    };
    assert_eq!(first("shoal_gpu_memory_bytes"), (1_u64 << 30) as f64);
    assert_eq!(first("shoal_gpu_temperature_celsius"), 40.0);
    assert_eq!(first("shoal_gpu_utilization_ratio"), 0.25);
    let (status, log) = server.stop();
    assert!(status.success(), "{status}");
    let line = "2 GPUs: 0 emulated, 1 emulated; 2 workers, on GPUs 0, 1";
    assert!(log.iter().any(|told| told.ends_with(line)), "{log:#?}");
}

#[tokio::test]
async fn a_gpu_that_breaks_costs_no_answer_and_its_worker_comes_back_on_it() {
    let scene = Scene::new();
    let server = scene.serve(2, &[]);
    wait_for_both(&server);
    let expected = embed(&server, &TEXTS).await;
    // A row alone in its batch is no more to blame than one of several.
    for (breaks, texts) in [(1.0, &TEXTS[..1]), (2.0, &TEXTS)] {
        let before = server.workers();
        fs::write(scene.fault(), []).expect("file");
        assert_eq!(embed(&server, texts).await, expected[..texts.len()]);
        assert!(!scene.fault().exists(), "no GPU broke");
        server.wait_for_workers(1, &before);
        wait_for_both(&server);
        assert_eq!(server.restarts(), breaks);
    }
    let (status, log) = server.stop();
    assert!(status.success(), "{status}");
    let line = "the device broke: a test ordered an illegal address";
    assert!(log.iter().any(|told| told.contains(line)), "{log:#?}");
}

#[test]
fn the_devices_there_are_can_be_asked_for() {
    let home = tempfile::tempdir().expect("folder");
    let devices = |count: &str, arguments: &[&str]| {
        let output = shoal(home.path()).arg("devices").args(arguments).env("SHOAL_EMULATED_GPUS", count).output();
        let output = output.expect("shoal runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let table = devices("2", &[]);
    assert!(["GPU-00000000-0000-0000-0000-000000000001", "8.0", "1024 MiB"].iter().all(|word| table.contains(word)));
    let found: Value = serde_json::from_str(&devices("1", &["--json"])).expect("JSON");
    assert_eq!(found["gpus"][0]["compute_capability"], "8.0");
    assert_eq!(devices("0", &[]), "no GPU: no CUDA: the driver finds no GPU\n");
}

#[test]
fn a_worker_whose_gpu_is_gone_takes_no_other() {
    let home = tempfile::tempdir().expect("folder");
    let told = |gpus: &str, uuid: u32| {
        let mut worker = shoal(home.path());
        worker.args(["worker", "--connect", "unix:/nowhere", "--gpu"]);
        worker.arg(format!("GPU-00000000-0000-0000-0000-{uuid:012}"));
        let output = worker.env("SHOAL_EMULATED_GPUS", gpus).output().expect("shoal runs");
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let cases = [
        (told("1", 1), "--gpu: there is no GPU GPU-00000000-0000-0000-0000-000000000001 among the 1"),
        (told("0", 0), "--gpu: no CUDA: the driver finds no GPU"),
    ];
    for (told, line) in cases {
        assert!(told.contains(&format!("shoal: {line}")), "{told}");
    }
}
