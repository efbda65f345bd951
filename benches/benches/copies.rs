//! How often a payload is copied on its way from the client's socket to the backend and back.
//!
//! A copy of a large payload needs a large buffer, so bytes of large allocations, divided by bytes of payload, bound the
//! copies from above. They are counted by thread, for the server and for the worker. The client is on a thread of its own
//! and not counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shoal_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use shoal_proto::inference::model_infer_request::InferInputTensor;
use shoal_proto::inference::{ModelInferRequest, ServerReadyRequest};
use shoal_server::config::{Config, ModelConfig, Settings, WorkerProof, Workers};
use shoal_server::link::LinkAddress;
use shoal_server::models::Source;
use shoal_server::server::Server;
use shoal_worker::{Endpoint, ModelSource, Options};

/// Smaller allocations are messages and tables, not payloads.
const LARGE: usize = 128 << 10;
const ROWS: usize = 16;
const FLOATS_PER_ROW: usize = 48 << 10;
const CALLS: u64 = 20;

const SIDES: [&str; 3] = ["client", "server", "worker"];
static BYTES: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

thread_local! {
    /// The side a thread counts on; threads that say nothing belong to the server, which starts its own.
    static SIDE: Cell<usize> = const { Cell::new(1) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from the same allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(size: usize) {
    if size >= LARGE {
        // A thread on its way out has no side any more, and no payload either.
        let _ = SIDE.try_with(|side| BYTES[side.get()].fetch_add(size as u64, Ordering::Relaxed));
    }
}

fn request() -> ModelInferRequest {
    let data: Vec<u8> = (0..ROWS * FLOATS_PER_ROW).flat_map(|value| (value as f32).to_le_bytes()).collect();
    ModelInferRequest {
        model_name: "echo".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![ROWS as i64, FLOATS_PER_ROW as i64],
            ..Default::default()
        }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (address, server) = runtime.block_on(runtime.spawn(serve())).expect("the server starts");
    SIDE.set(0);
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    client.block_on(measure(address));
    runtime.block_on(runtime.spawn(server.stop())).expect("the server stops");
}

/// A server and, on a thread of its own, a worker that dials in.
async fn serve() -> (SocketAddr, Server) {
    let mut config = Config::load(Settings::default()).expect("defaults");
    let anywhere: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    (config.grpc, config.metrics, config.link) = (anywhere, anywhere, Some(LinkAddress::Tcp(anywhere)));
    config.http = None;
    (config.workers, config.worker_proof) = (Workers::External, WorkerProof::Token("token".into()));
    let home = tempfile::tempdir().expect("a folder");
    let log = shoal_server::telemetry::init("warn", Default::default()).expect("logs");
    let models = vec![ModelConfig::new("echo".parse().expect("a name"), Source::Echo).settings(None)];
    let server = Server::start(&config, models, home.path().into(), None, log).await;
    let mut server = server.expect("the server starts");
    let LinkAddress::Tcp(link) = *server.link_address() else { unreachable!("asked for above") };
    std::thread::spawn(move || {
        SIDE.set(2);
        let mut options = Options::new(Endpoint::Tcp(format!("http://{link}")), "bench", "token");
        options.offers = [("echo".to_owned(), ModelSource::Echo)].into();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _ = runtime.block_on(shoal_worker::run(options, std::future::pending()));
    });
    server.ready().await.expect("the model is served");
    (server.grpc_address(), server)
}

async fn measure(address: SocketAddr) {
    const LIMIT: usize = 64 << 20;
    let client = GrpcInferenceServiceClient::connect(format!("http://{address}")).await.expect("a connection");
    let mut client = client.max_decoding_message_size(LIMIT).max_encoding_message_size(LIMIT);
    client.server_ready(ServerReadyRequest {}).await.expect("ready");
    let request = request();
    client.model_infer(request.clone()).await.expect("a warm-up call");
    BYTES.iter().for_each(|bytes| bytes.store(0, Ordering::Relaxed));
    for _ in 0..CALLS {
        let answer = client.model_infer(request.clone()).await.expect("an answer").into_inner();
        assert_eq!(answer.raw_output_contents, request.raw_input_contents);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let payload = (ROWS * FLOATS_PER_ROW * 4) as u64 * CALLS;
    println!("bytes of large buffers per byte of payload, both ways together:");
    for (side, bytes) in SIDES.iter().zip(&BYTES).skip(1) {
        let copies = bytes.load(Ordering::Relaxed) as f64 / payload as f64;
        println!("  {side:8} {copies:.2}");
        // The server has two sides, clients and workers; the worker one.
        let sides = if *side == "server" { 2.0 } else { 1.0 };
        assert!(copies <= 4.0 * sides, "more than two copies each way");
    }
}
