//! A worker with a GPU, which is the emulator's: whole models over the link.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::path::Path;

use shoal_proto::link::{Load, ModelSource, control_response, model_source, model_state};
use shoal_worker::DeviceChoice;
use tempfile::TempDir;

use crate::server::{Peer, Server, Worker, ids_run};
use crate::tiny::Tiny;

const TEXTS: [&[i32]; 4] = [&[1, 2, 3], &[7; 70], &[5], &[9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11, 12, 13, 14, 15, 16, 17]];

fn source(folder: &Path) -> model_source::Source {
    model_source::Source::Folder(folder.to_str().unwrap().to_owned())
}

/// A tiny model of sizes that there are kernels for: one head of 32, and between a block's products four numbers more than
/// the checkpoint has, which are 0.
fn model() -> TempDir {
    const INNER: usize = 44;
    const WIDER: usize = 48;
    let mut tiny = Tiny::read("bert-embed").set("num_attention_heads", 1).set("intermediate_size", WIDER);
    for tensor in tiny.tensors.values_mut() {
        let element = tensor.data.len() / tensor.shape.iter().product::<usize>();
        match tensor.shape[..] {
            [INNER] | [INNER, _] => {
                let row = tensor.data.len() / INNER;
                tensor.data.resize(WIDER * row, 0);
                tensor.shape[0] = WIDER;
            }
            [_, INNER] => {
                let wider = |row: &[u8]| [row, &vec![0; (WIDER - INNER) * element]].concat();
                tensor.data = tensor.data.chunks_exact(INNER * element).flat_map(wider).collect();
                tensor.shape[1] = WIDER;
            }
            _ => {}
        }
    }
    tiny.write()
}

/// The embeddings of all texts, three times, so that the last ones are replayed.
async fn embed(peer: &mut Peer) -> Vec<Vec<f32>> {
    let mut answers = Vec::new();
    for batch in 1..=3 {
        peer.run(ids_run(batch, "tiny", &TEXTS)).await;
        let values = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        let items = peer.answer(batch).await.items();
        answers.push(items.iter().map(|item| values(&item.tensors[0].data)).collect::<Vec<Vec<f32>>>());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    answers.swap_remove(0)
}

#[tokio::test]
async fn a_gpu_answers_as_the_processor_does() {
    let folder = model();
    let mut answers = Vec::new();
    for (device, kind, dtype) in [
        (DeviceChoice::Cpu, "cpu", "f32"),
        (DeviceChoice::Emulated, "cuda", ""),
        (DeviceChoice::Emulated, "cuda", "f16"),
        (DeviceChoice::Emulated, "cuda", "f32"),
    ] {
        let mut server = Server::start();
        let mut options = server.options();
        options.device = device;
        let _worker = Worker::start(options);
        let mut peer = server.peer(1).await;
        let device = peer.hello.device.clone().unwrap();
        assert_eq!((device.kind.as_str(), device.uuid.starts_with("GPU-")), (kind, kind == "cuda"), "{device:?}");
        let card = peer.load_in(dtype, "tiny", source(folder.path())).await;
        assert_eq!(card.dtype, if dtype.is_empty() { "bf16" } else { dtype });
        assert_eq!(device.threads == 0, kind == "cuda", "{device:?}");
        answers.push(embed(&mut peer).await);
    }
    for (gpu, least) in answers[1..].iter().zip([0.999, 0.99999, 0.999_999]) {
        for (cpu, gpu) in answers[0].iter().zip(gpu) {
            // Both are of length 1.
            let cosine: f32 = cpu.iter().zip(gpu).map(|(x, y)| x * y).sum();
            assert!(cosine > least, "{cosine}");
        }
    }
}

#[tokio::test]
async fn a_gpu_answers_in_bytes_nearly_as_it_does_without() {
    let folder = model();
    let mut answers = Vec::new();
    for dtype in ["bf16", "int8", "int8-mixed"] {
        let mut server = Server::start();
        let mut options = server.options();
        options.device = DeviceChoice::Emulated;
        let _worker = Worker::start(options);
        let mut peer = server.peer(1).await;
        let card = peer.load_in(dtype, "tiny", source(folder.path())).await;
        assert_eq!((card.dtype.as_str(), card.backend.as_str()), (dtype, "cuda"));
        answers.push(embed(&mut peer).await);
    }
    let [narrow, bytes, mixed] = &answers[..] else { unreachable!("there are three") };
    assert!(narrow != bytes);
    for (expected, found) in narrow.iter().zip(bytes).chain(narrow.iter().zip(mixed)) {
        let cosine: f32 = expected.iter().zip(found).map(|(x, y)| x * y).sum();
        assert!(cosine > 0.99, "{cosine}");
    }
}

#[tokio::test]
async fn a_gpu_refuses_what_it_has_no_kernels_for() {
    let folder = Tiny::read("bert-embed").set("num_attention_heads", 4).write();
    let mut server = Server::start();
    let mut options = server.options();
    options.device = DeviceChoice::Emulated;
    let _worker = Worker::start(options);
    let mut peer = server.peer(1).await;
    let source = Some(ModelSource { source: Some(source(folder.path())) });
    peer.send(control_response::Message::Load(Load { model: "tiny".to_owned(), source, ..Load::default() })).await;
    let state = loop {
        let state = peer.model_state().await;
        if state.state() != model_state::State::Loading {
            break state;
        }
    };
    assert_eq!(state.state(), model_state::State::Failed);
    assert!(state.reason.contains("attention heads are 8 wide"), "{}", state.reason);
}
