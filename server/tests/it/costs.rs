//! What models cost: found out while nobody asks, kept over a restart, found out anew when what was kept is of no use.

use std::fs;
use std::path::{Path, PathBuf};

use crate::oip::texts;
use crate::process::{Shoal, wait_for};

const SOURCE: &str = "synthetic:base=3ms+per_row=200us+per_token=20us";
const PROBES: &str = "shoal_probes_total{model=\"s\"}";
const BASE: &str = "shoal_batch_cost_seconds{model=\"s\",part=\"batch\"}";

/// The files that say what models cost.
fn files(home: &Path) -> Vec<PathBuf> {
    // One of the two, by how the program was built.
    let folders = ["costs", "costs-debug"].map(|name| fs::read_dir(home.join(name)));
    folders.into_iter().flatten().flatten().map(|entry| entry.expect("entry").path()).collect()
}

/// Serves the model, and returns once it is known what it costs.
fn serve(home: &Path) -> Shoal {
    // With time for each probe even on a machine that stands still for a moment: one that took too long would be the last.
    let shoal = Shoal::serve_in(home, &["--model", &format!("s={SOURCE},slo=60s")]);
    wait_for("what it costs", || (shoal.metric_or_zero(BASE) > 0.0).then_some(()));
    shoal
}

async fn stop(shoal: Shoal) -> Vec<String> {
    let (status, log) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(status.success(), "{status:?}");
    log
}

fn has(log: &[String], text: &str) -> bool {
    log.iter().any(|line| line.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_costs_is_found_out_once_and_known_at_the_next_start() {
    let home = tempfile::tempdir().expect("folder");
    let shoal = serve(home.path());
    let base = shoal.metric(BASE);
    // And what sleeping, the link and a busy machine add.
    assert!(base > 0.001, "{base}");
    assert!(shoal.metric(PROBES) >= 3.0);
    assert_eq!(shoal.metric("shoal_batch_rows_count{model=\"s\"}"), 0.0, "nobody asked");
    let log = stop(shoal).await;
    assert!(has(&log, "calibrated s: "), "{log:#?}");
    let [file] = &files(home.path())[..] else { panic!("not one file: {:?}", files(home.path())) };
    let text = fs::read_to_string(file).expect("text");
    for line in ["version = 1\n", "model = \"s\"\n", "weights = \"synthetic:", "dtype = \"f32\"\n", "threads\"\n"] {
        assert!(text.contains(line), "{line}: {text}");
    }

    let shoal = serve(home.path());
    let client = shoal.oip().await;
    for _ in 0..20 {
        client.clone().model_infer(texts("s", &["a text"])).await.expect("an answer");
    }
    assert_eq!(shoal.metric(PROBES), 0.0, "there is nothing to find out");
    let log = stop(shoal).await;
    assert!(has(&log, "known from before: "), "{log:#?}");
    assert!(!has(&log, "calibrated s: "), "{log:#?}");

    fs::write(file, "version = 1\nmodel = 7\n").expect("written");
    let shoal = serve(home.path());
    wait_for("probes", || (shoal.metric(PROBES) > 0.0).then_some(()));
    let log = stop(shoal).await;
    let name = file.file_name().expect("name").to_str().expect("text");
    assert!(log.iter().any(|line| line.contains("cannot be read") && line.contains(name)), "{log:#?}");
    assert!(fs::read_to_string(file).expect("text").contains("model = \"s\"\n"), "it is there again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_requests_taught_is_kept_at_a_stop() {
    let home = tempfile::tempdir().expect("folder");
    // Nothing but requests teaches what a model costs under this policy.
    let config = home.path().join("shoal.toml");
    let text = format!("[models.s]\nsource = \"{SOURCE}\"\npolicy = \"fixed\"\n");
    fs::write(&config, text).expect("written");
    let shoal = Shoal::serve_in(home.path(), &["--config", config.to_str().expect("path")]);
    let client = shoal.oip().await;
    for _ in 0..10 {
        client.clone().model_infer(texts("s", &["a text"])).await.expect("an answer");
    }
    assert_eq!(shoal.metric(PROBES), 0.0);
    assert!(files(home.path()).is_empty(), "{:?}", files(home.path()));
    stop(shoal).await;
    assert_eq!(files(home.path()).len(), 1);
}
