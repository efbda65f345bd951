//! Loading, unloading, and what is said of models.

use shoal_proto::link::{
    FetchArtifact, Load, ModelSource, Task, Unload, control_response, data_request, model_source, model_state,
};
use shoal_worker::ModelSource as OwnSource;

use crate::server::{Server, Worker, ids_run};
use crate::tiny::Tiny;

#[tokio::test]
async fn a_card_says_what_the_model_takes_and_gives() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    let card = peer.load_echo().await;
    assert_eq!((card.name.as_str(), card.version.as_str(), card.backend.as_str()), ("echo", "1", "echo"));
    assert_eq!(card.task(), Task::Tensor);
    assert_eq!((card.inputs[0].name.as_str(), &card.inputs[0].shape[..]), ("x", &[-1][..]));
    assert_eq!((card.outputs[0].name.as_str(), &card.outputs[0].shape[..]), ("y", &[-1][..]));
}

#[tokio::test]
async fn loads_its_own_source_by_name() {
    let mut server = Server::start();
    let mut options = server.options();
    options.offers.insert("mine".to_owned(), OwnSource::Echo);
    let _worker = Worker::start(options);
    let mut peer = server.peer(1).await;
    assert_eq!(peer.hello.offers[0].name, "mine");
    assert!(peer.hello.offers[0].card.is_none());
    let load = |model: &str| Load { model: model.to_owned(), ..Load::default() };
    peer.send(control_response::Message::Load(load("mine"))).await;
    assert_eq!(peer.model_state().await.state(), model_state::State::Loading);
    assert_eq!(peer.model_state().await.state(), model_state::State::Ready);
    peer.send(control_response::Message::Load(load("yours"))).await;
    let state = peer.model_state().await;
    assert_eq!(state.state(), model_state::State::Failed);
    assert!(state.reason.contains("`yours`") && state.reason.contains("mine"), "{}", state.reason);
}

#[tokio::test]
async fn loading_what_is_loaded_is_ready_at_once() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    let card = peer.load_echo().await;
    assert_eq!(peer.load_echo().await, card);
}

#[tokio::test]
async fn says_which_dtypes_there_are() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    for (dtype, says) in [("bf16", "only in f32"), ("f64", "none of auto, f32, f16, bf16, int8, int8-mixed")] {
        let source = Some(ModelSource { source: Some(model_source::Source::Echo(Default::default())) });
        let load = Load { model: "echo".to_owned(), source, dtype: dtype.to_owned() };
        peer.send(control_response::Message::Load(load)).await;
        let state = loop {
            let state = peer.model_state().await;
            if state.state() != model_state::State::Loading {
                break state;
            }
        };
        assert_eq!(state.state(), model_state::State::Failed);
        assert!(state.reason.contains(says), "{}", state.reason);
    }
}

#[tokio::test]
async fn unloads_and_loads_again() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    for _ in 0..2 {
        peer.load_echo().await;
        peer.send(control_response::Message::Unload(Unload { model: "echo".to_owned() })).await;
        assert_eq!(peer.model_state().await.state(), model_state::State::Unloaded);
    }
}

#[tokio::test]
async fn says_why_an_artifact_does_not_come() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    let fetch = FetchArtifact { sha256: "00".repeat(32) };
    peer.send(control_response::Message::FetchArtifact(fetch)).await;
    let data_request::Message::Artifact(artifact) = peer.data().await else { panic!("no artifact") };
    assert!(artifact.error.contains("no model"), "{artifact:?}");
}

#[tokio::test]
async fn hands_over_as_many_artifacts_as_are_asked_for_at_once() {
    let folder = Tiny::read("bert-embed").write();
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    let card = peer.load("tiny", model_source::Source::Folder(folder.path().to_str().unwrap().to_owned())).await;
    // As a server does that has as many models to serve.
    const COUNT: usize = 100;
    for _ in 0..COUNT {
        let fetch = FetchArtifact { sha256: card.tokenizer_sha256.clone() };
        peer.send(control_response::Message::FetchArtifact(fetch)).await;
    }
    for _ in 0..COUNT {
        let data_request::Message::Artifact(artifact) = peer.data().await else { panic!("no artifact") };
        assert_eq!((artifact.error.as_str(), artifact.data.len() as u64), ("", artifact.size));
    }
}

#[tokio::test]
async fn embeds_with_a_model_read_from_a_folder_and_hands_over_its_tokenizer() {
    let folder = Tiny::read("bert-embed").write();
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    let card = peer.load("tiny", model_source::Source::Folder(folder.path().to_str().unwrap().to_owned())).await;
    assert_eq!((card.task(), card.dims, card.tokens_max), (Task::Embed, 32, 96));

    let fetch = FetchArtifact { sha256: card.tokenizer_sha256.clone() };
    peer.send(control_response::Message::FetchArtifact(fetch)).await;
    let data_request::Message::Artifact(artifact) = peer.data().await else { panic!("no artifact") };
    let tokenizer = std::fs::read(folder.path().join("tokenizer.json")).unwrap();
    assert_eq!((artifact.sha256, artifact.size), (card.tokenizer_sha256, tokenizer.len() as u64));
    assert_eq!(artifact.data, tokenizer);

    // The second text is of no use to the model; the first is answered all the same.
    peer.run(ids_run(1, "tiny", &[&[1, 2, 3], &[999]])).await;
    let items = peer.answer(1).await.items();
    let values: Vec<f32> = items[0].tensors[0].data.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
    assert_eq!(values.len(), 32);
    assert!((values.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    assert!(items[1].error.as_ref().unwrap().detail.contains("999"));
}

#[tokio::test]
async fn says_what_is_wrong_with_a_folder() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    let source = Some(ModelSource { source: Some(model_source::Source::Folder("/nowhere/at/all".to_owned())) });
    peer.send(control_response::Message::Load(Load { model: "m".to_owned(), source, ..Load::default() })).await;
    assert_eq!(peer.model_state().await.state(), model_state::State::Loading);
    let state = peer.model_state().await;
    assert_eq!(state.state(), model_state::State::Failed);
    assert!(state.reason.starts_with("/nowhere/at/all/config.json: "), "{}", state.reason);
}
