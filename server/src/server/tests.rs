use std::io::Write as _;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt as _;

use shoal_scheduler::Limits;
use tokio::time::timeout;

use super::*;
use crate::config::Settings;
use crate::frontend::testing::settings;

#[tokio::test]
async fn the_models_are_known_before_a_worker_can_dial() {
    let home = tempfile::tempdir().expect("folder");
    let registry = Registry::default();
    let (driver, inbox) = Handle::new();
    let plan = BackstagePlan {
        limits: Limits::default(),
        resident_bytes_max: None,
        models: vec![settings("m")],
        registry: registry.clone(),
        metrics: Metrics::new(),
        home: home.path().into(),
        tokens: Tokens::shared("token"),
        link: None,
        link_tls: None,
        local: None,
        given_up: mpsc::unbounded_channel().0,
        tracer: Tracer::default(),
    };
    let lanes = Lanes::start(NonZeroUsize::MIN).expect("a thread");
    let (backstage, _) = Backstage::start(&lanes, plan, driver, inbox).await.expect("a start");
    assert!(registry.model("m").is_ok());
    backstage.stop().await;
}

#[tokio::test]
async fn a_start_goes_on_for_as_long_as_one_worker_is_left() {
    let home = tempfile::tempdir().expect("folder");
    let program = home.path().join("worker");
    // One that never loads a model, and one that cannot work.
    let script = "#!/bin/sh\nfor last; do :; done\ntest \"$last\" = lives && exec cat\nexit 1\n";
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).mode(0o700);
    options.open(&program).and_then(|mut file| file.write_all(script.as_bytes())).expect("file");
    let settings = Settings {
        grpc_port: Some(0),
        http_port: Some("off".parse().expect("a port")),
        metrics_port: Some(0),
        server_threads: Some(NonZeroUsize::MIN),
        ..Settings::default()
    };
    let config = Config::load(settings).expect("a configuration");
    let start = |arguments: &[&str]| {
        let arguments = arguments.iter().map(|word| vec![(*word).to_owned()]).collect();
        let local = Some(LocalWorkers { program: program.clone(), arguments });
        Server::start(&config, vec![self::settings("m")], home.path().into(), local, LogControl::unheard())
    };
    let mut server = start(&["lives", "dies"]).await.expect("a start");
    while server.workers_left > 1 {
        let waited = timeout(Duration::from_millis(50), server.ready()).await;
        assert!(waited.is_err(), "neither ready nor lost: {waited:?}");
    }
    server.stop().await;
    let mut server = start(&["dies", "dies"]).await.expect("a start");
    assert!(matches!(server.ready().await, Err(NotReady::Worker(_))));
    server.stop().await;
}
