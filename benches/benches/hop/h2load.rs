//! h2load, the cheapest client there is: it sends one prepared message again and again.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use prost::Message as _;
use shoal_proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};

pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";

/// How many calls are in flight, and over how many connections.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) connections: u32,
    pub(crate) streams: u32,
}

/// The program, and the call it makes.
pub(crate) struct H2load {
    program: PathBuf,
    folder: tempfile::TempDir,
    pub(crate) duration: Duration,
}

/// What it measured.
pub(crate) struct Measured {
    /// Calls per second.
    pub(crate) rate: f64,
    /// Microseconds of each call, sorted.
    pub(crate) latencies_us: Vec<u32>,
    /// Calls that were answered.
    pub(crate) answered: u64,
}

impl H2load {
    pub(crate) fn find(duration: Duration) -> anyhow::Result<Self> {
        let own = std::env::var_os("SHOAL_TOOLS").map(|home| PathBuf::from(home).join("bin"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = own.into_iter().chain(std::env::split_paths(&path)).map(|place| place.join("h2load"));
        let program = places.find(|program| program.is_file());
        let program = program.context("h2load is not installed (Debian: nghttp2-client)")?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("call"), framed(&call()))?;
        Ok(Self { program, folder, duration })
    }

    pub(crate) fn run(&self, address: &str, shape: &Shape) -> anyhow::Result<Measured> {
        let log = self.folder.path().join("log");
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new(&self.program);
        command.args(["-c", &shape.connections.to_string(), "-m", &shape.streams.to_string()]);
        command.args(["-D", &self.duration.as_secs().to_string()]);
        command.arg(format!("--warm-up-time={}", WARM_UP.as_secs()));
        command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
        command.arg("-d").arg(self.folder.path().join("call"));
        command.arg("--log-file").arg(&log);
        command.arg(format!("http://{address}{PATH}"));
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        anyhow::ensure!(output.status.success(), "h2load failed:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let answered = field(&text, "requests:", " succeeded").with_context(|| format!("h2load said\n{text}"))?;
        let log = std::fs::read_to_string(log)?;
        let latency = |line: &str| line.split('\t').nth(2)?.trim().parse().ok();
        let mut latencies_us: Vec<u32> = log.lines().filter_map(latency).collect();
        latencies_us.sort_unstable();
        anyhow::ensure!(answered > 0 && !latencies_us.is_empty(), "nothing was answered:\n{text}");
        Ok(Measured { rate: answered as f64 / self.duration.as_secs_f64(), latencies_us, answered })
    }
}

/// The number before `unit` on the line that starts with `label`.
fn field(text: &str, label: &str, unit: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split(',').find_map(|part| part.strip_suffix(unit))?.trim().parse().ok()
}

/// One row of 64 bytes for `echo`.
fn call() -> ModelInferRequest {
    let values = (0..16u8).flat_map(|value| f32::from(value).to_le_bytes()).collect::<Vec<_>>();
    ModelInferRequest {
        model_name: "echo".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, 16],
            ..Default::default()
        }],
        raw_input_contents: vec![values.into()],
        ..Default::default()
    }
}

/// A message as gRPC frames it: not compressed, then its length.
fn framed(message: &ModelInferRequest) -> Vec<u8> {
    let body = message.encode_to_vec();
    let length = (body.len() as u32).to_be_bytes();
    [&[0][..], &length, &body].concat()
}
