//! The configuration read again while it is served, and models that are tried on a part of another one's calls.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use shoal_proto::inference::ModelInferRequest;
use shoal_proto::v1 as wire;
use tonic::Code;

use crate::oip::floats;
use crate::process::{Shoal, signal, wait_for};

fn write(path: &Path, text: &str) {
    // Another file in its place, as whoever means well does it.
    let next = path.with_extension("next");
    std::fs::write(&next, text).expect("file");
    std::fs::rename(next, path).expect("rename");
}

fn infer(model: &str) -> ModelInferRequest {
    ModelInferRequest { model_name: model.into(), ..floats(&[&[1.0]]) }
}

fn wait_for_count(shoal: &Shoal, outcome: &str, count: f64) {
    let name = format!("shoal_configurations_total{{outcome=\"{outcome}\"}}");
    tokio::task::block_in_place(|| {
        wait_for(&name, || (shoal.metric_or_zero(&name) >= count).then_some(()));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn models_come_and_go_and_change_without_a_failed_call() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("shoal.toml");
    write(&path, "[models.echo]\n[models.s]\nsource = \"synthetic\"\nslo = \"50ms\"\n");
    let shoal = Shoal::serve(&["--config", path.to_str().expect("UTF-8")]);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (mut oip, stop, answered) = (shoal.oip().await, stop.clone(), answered.clone());
        callers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                oip.model_infer(infer("echo")).await.expect("an answer");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    write(&path, "call_texts_max = 5\n[models.echo]\nslo = \"70ms\"\n[models.more]\nsource = \"echo\"\n");
    wait_for_count(&shoal, "taken", 1.0);
    // What came later is waited for like anything else.
    shoal.oip().await.model_infer(infer("more")).await.expect("an answer");
    let gone = shoal.oip().await.model_infer(infer("s")).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound, "{gone:?}");
    let list = shoal.inference().await.list_models(wire::ListModelsRequest {}).await.expect("list").into_inner();
    let told: Vec<_> = list.models.iter().map(|model| (model.name.as_str(), model.slo)).collect();
    let millis = |millis: u64| Some(prost_types::Duration { seconds: 0, nanos: (millis * 1_000_000) as i32 });
    assert_eq!(told, [("echo", millis(70)), ("more", millis(200))]);
    assert!(shoal.page("/readyz").0.contains("200"));

    // Nothing of what is wrong is taken.
    for (count, wrong) in [
        (1.0, "[models.echo]\nslo = \"70\"\n"),
        (2.0, "[models.echo]\nsource = \"synthetic\"\n"),
        (3.0, "workers = 1\n"),
        (4.0, "[models.echo]\n[models.new]\nsource = \"/nowhere/at/all\"\n"),
        // Workers may hold it still, and calls have it.
        (5.0, "[models.echo]\n[models.s]\nsource = \"echo\"\n"),
    ] {
        write(&path, wrong);
        wait_for_count(&shoal, "refused", count);
        shoal.oip().await.model_infer(infer("more")).await.expect("an answer");
    }
    // Who asks for it has it read, changed or not; and what was taken out comes back.
    write(&path, "[models.echo]\n[models.s]\nsource = \"synthetic\"\n");
    signal(shoal.pid(), rustix::process::Signal::HUP);
    wait_for_count(&shoal, "taken", 2.0);
    shoal.oip().await.model_infer(crate::oip::texts("s", &["a"])).await.expect("an answer");
    signal(shoal.pid(), rustix::process::Signal::HUP);
    wait_for_count(&shoal, "taken", 3.0);

    stop.store(true, Ordering::Relaxed);
    callers.join_all().await;
    assert!(answered.load(Ordering::Relaxed) > 100);
    let (status, log) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(status.success());
    for line in [
        "models added: more; changed: echo; removed: s",
        "takes a restart: call_texts_max",
        "`models.echo.slo`: ",
        "`models.echo.source`: what is served under a name stays what it is",
        "`models.s.source`: what is served under a name stays what it is",
        "`models`: there is none",
        "/nowhere/at/all",
    ] {
        assert!(log.iter().any(|told| told.contains(line)), "{line}: {log:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_takes_its_part_of_the_calls_and_one_that_is_other_none() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("shoal.toml");
    let canary = "source = \"echo\"\ncanary_of = \"echo\"\ncanary_percent = 40\n";
    let other = "source = \"synthetic\"\ncanary_of = \"echo\"\ncanary_percent = 40\n";
    write(&path, &format!("[models.echo]\n[models.next]\n{canary}[models.other]\n{other}"));
    let shoal = Shoal::serve(&["--config", path.to_str().expect("UTF-8")]);
    let mut oip = shoal.oip().await;
    let mut taken = 0;
    for _ in 0..400 {
        let answer = oip.model_infer(infer("echo")).await.expect("an answer").into_inner();
        assert!(["echo", "next"].contains(&answer.model_name.as_str()), "{}", answer.model_name);
        taken += usize::from(answer.model_name == "next");
    }
    // Eight standard deviations to either side.
    assert!((80..=240).contains(&taken), "{taken} of 400");
    for (name, version, expected) in [("next", "", "next"), ("echo", "1", "echo")] {
        for _ in 0..20 {
            let request = ModelInferRequest { model_version: version.into(), ..infer(name) };
            let answer = oip.model_infer(request).await.expect("an answer").into_inner();
            assert_eq!(answer.model_name, expected);
        }
    }
    // All of it, without a restart.
    write(&path, &format!("[models.echo]\n[models.next]\n{}", canary.replace("40", "100")));
    wait_for_count(&shoal, "taken", 1.0);
    tokio::time::timeout(Duration::from_secs(60), async {
        while oip.model_infer(infer("echo")).await.expect("an answer").into_inner().model_name != "next" {}
    })
    .await
    .expect("it takes over");
    for _ in 0..20 {
        assert_eq!(oip.model_infer(infer("echo")).await.expect("an answer").into_inner().model_name, "next");
    }
}
