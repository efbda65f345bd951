//! What a server's memory comes to with much in flight.
//!
//!     cargo bench -p shoal-benches --bench memory
//!
//! Calls are sent to a model that takes its time and stay open while the server's memory is read: resident, of its
//! process alone, since what a worker takes is the model's. The clients are in this process and not counted.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use shoal_benches::Served;
use shoal_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use shoal_proto::inference::model_infer_request::InferInputTensor;
use shoal_proto::inference::{InferTensorContents, ModelInferRequest};
use tokio::task::JoinSet;

/// A connection carries 256 calls at most.
const CALLS_PER_CONNECTION: usize = 250;
const PATIENCE: Duration = Duration::from_secs(60);
/// So slow that nothing is answered before it was looked at.
const CONFIG: &str = r#"
tenant_requests_max = 200_000
[models.s]
source = "synthetic:base=20s"
queue_requests_max = 200_000
"#;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut config = tempfile::NamedTempFile::new()?;
    config.write_all(CONFIG.as_bytes())?;
    println!("memory of the server's process, in MB:");
    println!("  {:40} {:>8} {:>8}", "", "now", "most");
    for (what, calls, texts, mb_max) in [
        ("10,000 calls of one text in flight", 10_000, 1, 150.0),
        ("100,000 texts in flight in 256 calls", 256, 391, 200.0),
    ] {
        let served = Served::shoal(&["--config", config.path().to_str().context("a path")?])?;
        let (idle, _) = served.resident_mb()?;
        println!("  {:40} {idle:>8.1}", "idle");
        runtime.block_on(fill(&served, calls, texts))?;
        let (now, most) = served.resident_mb()?;
        println!("  {what:40} {now:>8.1} {most:>8.1}");
        anyhow::ensure!(most < mb_max, "{what} took {most:.1} MB, and may take {mb_max}");
    }
    Ok(())
}

/// Sends `calls` of `texts` each and returns once all are in the queue or with a worker.
async fn fill(served: &Served, calls: usize, texts: usize) -> anyhow::Result<()> {
    let request = request(texts);
    let mut open = JoinSet::new();
    let mut left = calls;
    while left > 0 {
        let here = left.min(CALLS_PER_CONNECTION);
        left -= here;
        let client = GrpcInferenceServiceClient::connect(format!("http://{}", served.address)).await?;
        for _ in 0..here {
            let (mut client, request) = (client.clone(), request.clone());
            open.spawn(async move { client.model_infer(request).await });
        }
    }
    let until = Instant::now() + PATIENCE;
    while served.metric("shoal_calls_in_flight")? < calls as f64 {
        anyhow::ensure!(Instant::now() < until, "the calls did not all arrive");
        if let Some(ended) = open.try_join_next() {
            anyhow::bail!("a call ended early: {ended:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Kept open until here; the caller looks at once, and the server is ended next.
    std::mem::forget(open);
    Ok(())
}

fn request(texts: usize) -> ModelInferRequest {
    let text = |index| format!("text number {index:06}, about as long as a search query is, or a title").into();
    ModelInferRequest {
        model_name: "s".into(),
        inputs: vec![InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: vec![texts as i64],
            contents: Some(InferTensorContents {
                bytes_contents: (0..texts).map(text).collect(),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}
