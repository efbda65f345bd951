//! Tokenizers of text models: who is asked for them, and when.

use super::*;

/// Reports `m` as a text model with a tokenizer of this hash.
fn text_model(bench: &mut Bench, worker: &Scripted, sha256: &str) {
    let card = Card { tokenizer_sha256: sha256.into(), tokens_max: 16, ..(*card()).clone() };
    bench.say(worker, FromWorker::Model { model: "m".into(), state: ModelReport::Ready(Arc::new(card)) });
}

fn vocabulary(sha256: &str) -> Vocabulary {
    let json = br#"{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}"#;
    Vocabulary::parse(sha256, json).expect("a tokenizer")
}

fn missing() -> Result<Vocabulary, ArtifactError> {
    Err(ArtifactError::Missing("no such file".into()))
}

#[tokio::test(start_paused = true)]
async fn a_text_model_is_ready_once_its_tokenizer_is_there() {
    let mut bench = Bench::new();
    let mut worker = bench.connect("w", 1);
    assert!(matches!(worker.command(), ToWorker::Load { .. }));
    text_model(&mut bench, &worker, "ab");
    assert_eq!(bench.registry.model("m").expect("model").state, ModelState::Loading);
    assert!(matches!(bench.errands.try_recv(), Ok(ArtifactWanted::Read { sha256 }) if sha256 == "ab"));
    bench.apply(Event::Tokenizer { sha256: "ab".into(), result: missing() });
    assert!(matches!(worker.command(), ToWorker::FetchArtifact { sha256 } if sha256 == "ab"));
    bench.say(&worker, FromWorker::Artifact { sha256: "ab".into(), result: Ok(Bytes::from_static(b"json")) });
    assert!(matches!(bench.errands.try_recv(), Ok(ArtifactWanted::Keep { sha256, .. }) if sha256 == "ab"));
    bench.apply(Event::Tokenizer { sha256: "ab".into(), result: Ok(vocabulary("ab")) });
    assert_eq!(bench.registry.model("m").expect("model").state, ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_tokenizer_is_looked_for_once_however_many_workers_report_its_model() {
    let mut bench = Bench::new();
    for (name, epoch) in [("a", 1), ("b", 2), ("c", 3)] {
        let worker = bench.connect(name, epoch);
        text_model(&mut bench, &worker, "ab");
    }
    assert!(bench.errands.try_recv().is_ok());
    assert!(bench.errands.try_recv().is_err(), "one search is enough");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_give_its_tokenizer_or_goes_is_followed_by_the_next() {
    let mut bench = Bench::new();
    let mut workers: Vec<Scripted> = [("a", 1), ("b", 2), ("c", 3)]
        .map(|(name, epoch)| {
            let mut worker = bench.connect(name, epoch);
            assert!(matches!(worker.command(), ToWorker::Load { .. }));
            text_model(&mut bench, &worker, "ab");
            worker
        })
        .into();
    bench.apply(Event::Tokenizer { sha256: "ab".into(), result: missing() });
    assert!(matches!(workers[0].command(), ToWorker::FetchArtifact { .. }));
    let busy = FromWorker::Artifact { sha256: "ab".into(), result: Err("busy".into()) };
    bench.say(&workers[0], busy);
    assert!(matches!(workers[1].command(), ToWorker::FetchArtifact { .. }));
    bench.apply(Event::ProcessEnded { worker: "b".into(), cause: DownCause::Lost });
    assert!(matches!(workers[2].command(), ToWorker::FetchArtifact { .. }));
    let unasked = FromWorker::Artifact { sha256: "ab".into(), result: Ok(Bytes::new()) };
    bench.say(&workers[0], unasked);
    let _read = bench.errands.try_recv();
    assert!(bench.errands.try_recv().is_err(), "only the worker asked is listened to");
    bench.apply(Event::Tokenizer { sha256: "ab".into(), result: Ok(vocabulary("ab")) });
    assert_eq!(bench.registry.model("m").expect("model").state, ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn another_model_under_the_same_name_never_gets_the_old_tokenizer() {
    let mut bench = Bench::new();
    let worker = bench.connect("w", 1);
    text_model(&mut bench, &worker, "ab");
    bench.apply(Event::Tokenizer { sha256: "ab".into(), result: Ok(vocabulary("ab")) });
    assert!(bench.registry.model("m").expect("model").tokenizer.is_some());
    text_model(&mut bench, &worker, "cd");
    let view = bench.registry.model("m").expect("model");
    assert!(view.tokenizer.is_none());
    assert_eq!(view.state, ModelState::Loading);
}
