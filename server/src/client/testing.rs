//! A small server in the test's own process, on a free loopback port, with embeddings that are word counts.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use shoal_proto::inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::inference::model_infer_response::InferOutputTensor;
use shoal_proto::inference::model_metadata_response::TensorMetadata;
use shoal_proto::inference::*;
use shoal_proto::v1::inference_server::{Inference, InferenceServer};
use shoal_proto::v1::*;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use super::Address;

/// Dimensions of an embedding.
pub(super) const DIMS: usize = 4096;

/// The server, ended when dropped.
pub(super) struct TestServer {
    address: SocketAddr,
    pub(super) seen: Arc<Seen>,
    serving: JoinHandle<()>,
}

/// What the server saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub calls: AtomicU64,
    pub rows: AtomicU64,
    /// Calls on their way now, and the most ever.
    pub now: AtomicUsize,
    pub most: AtomicUsize,
    pub with_tenant: AtomicU64,
    pub with_timeout: AtomicU64,
    stall: tokio::sync::Mutex<()>,
}

impl TestServer {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let router = tonic::transport::Server::builder()
            .add_service(InferenceServer::new(Fake(seen.clone())))
            .add_service(GrpcInferenceServiceServer::new(Fake(seen.clone())));
        let serving = tokio::spawn(async move {
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, seen, serving }
    }

    pub(super) fn address(&self) -> Address {
        self.address.into()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Fake(Arc<Seen>);

/// Counts a call while it lives.
struct Guest<'a>(&'a Seen);

impl<'a> Guest<'a> {
    fn enter<T>(seen: &'a Seen, request: &Request<T>, rows: usize) -> (u64, Self) {
        let metadata = request.metadata();
        seen.with_tenant.fetch_add(u64::from(metadata.contains_key("x-shoal-tenant")), Ordering::Relaxed);
        seen.with_timeout.fetch_add(u64::from(metadata.contains_key("grpc-timeout")), Ordering::Relaxed);
        seen.rows.fetch_add(rows as u64, Ordering::Relaxed);
        let now = seen.now.fetch_add(1, Ordering::Relaxed) + 1;
        seen.most.fetch_max(now, Ordering::Relaxed);
        (seen.calls.fetch_add(1, Ordering::Relaxed), Self(seen))
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fake {
    /// What a model of this name does before it answers.
    async fn behave(&self, model: &str, number: u64) -> Result<(), Status> {
        match model {
            "missing" => Err(Status::not_found("model `missing` is not served here")),
            "full-half" if number % 2 == 1 => Err(Status::resource_exhausted("the model's queue is full")),
            "hang" => std::future::pending().await,
            // Answers one after the other and stands still once for 300 ms.
            "stall" => {
                let _turn = self.0.stall.lock().await;
                if number == 20 {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Counts words, each at a place of its own.
fn embed(text: &str) -> Embedding {
    let mut values = vec![0.0; DIMS];
    for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 4) {
        let mut hasher = DefaultHasher::new();
        word.hash(&mut hasher);
        values[(hasher.finish() % DIMS as u64) as usize] += 1.0;
    }
    Embedding { values }
}

#[tonic::async_trait]
impl Inference for Fake {
    type EmbedStreamStream = tokio_stream::Empty<Result<EmbedStreamResponse, Status>>;

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let (number, _guest) = Guest::enter(&self.0, &request, request.get_ref().texts.len());
        let request = request.into_inner();
        self.behave(&request.model, number).await?;
        let own_rows = request.texts.len() as u32;
        // A model named after batches of one runs each row apart; all others share batches of eight.
        let rows = if request.model.ends_with("-b1") { 1 } else { 8.max(own_rows) };
        let millisecond = prost_types::Duration { seconds: 0, nanos: 1_000_000 };
        let usage = Usage {
            tokens: request.texts.iter().map(|text| text.split_whitespace().count() as u32 + 2).sum(),
            queue_time: Some(millisecond),
            compute_time: Some(millisecond),
            batches: vec![BatchUsage { rows, own_rows, ..BatchUsage::default() }],
            dtype: "f32".to_owned(),
            model: request.model,
            model_version: "1".to_owned(),
            ..Usage::default()
        };
        let embeddings = request.texts.iter().map(|text| embed(text)).collect();
        Ok(Response::new(EmbedResponse { embeddings, usage: Some(usage) }))
    }

    async fn embed_stream(
        &self,
        _: Request<Streaming<EmbedStreamRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    /// Every text is rather good.
    async fn classify(&self, request: Request<ClassifyRequest>) -> Result<Response<ClassifyResponse>, Status> {
        let request = request.into_inner();
        let scores: Vec<_> = [("good", 0.75), ("bad", 0.25)]
            .map(|(label, score)| LabelScore { label: label.to_owned(), score })
            .into_iter()
            .take(if request.top_k == 0 { 2 } else { request.top_k as usize })
            .collect();
        let results = vec![Classification { scores }; request.texts.len()];
        Ok(Response::new(ClassifyResponse { results, usage: Some(usage(request.model)) }))
    }

    /// The last text first.
    async fn rerank(&self, request: Request<RerankRequest>) -> Result<Response<RerankResponse>, Status> {
        let request = request.into_inner();
        let ranked = |(at, text): (usize, String)| RankedText { index: at as u32, score: at as f32, text };
        let results = request.texts.into_iter().enumerate().rev().map(ranked).collect();
        Ok(Response::new(RerankResponse { results, usage: Some(usage(request.model)) }))
    }

    /// Every text has its mask at 1, for `token` or the targets.
    async fn fill_mask(&self, request: Request<FillMaskRequest>) -> Result<Response<FillMaskResponse>, Status> {
        let request = request.into_inner();
        let tokens = if request.targets.is_empty() { vec!["token".to_owned()] } else { request.targets };
        let candidate = |(at, token)| Candidate { token_id: at, token, score: 0.5 };
        let candidates = (7..).zip(tokens).map(candidate).collect();
        let text = FilledText { masks: vec![FilledMask { token_index: 1, candidates }] };
        let results = vec![text; request.texts.len()];
        Ok(Response::new(FillMaskResponse { results, usage: Some(usage(request.model)) }))
    }

    async fn tokenize(&self, _: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        let model = Model {
            name: "m".to_owned(),
            architecture: "bert".to_owned(),
            dtype: "bf16".to_owned(),
            backend: "cpu".to_owned(),
            ..Model::default()
        };
        Ok(Response::new(ListModelsResponse { models: vec![model] }))
    }
}

fn usage(model: String) -> Usage {
    Usage { tokens: 9, dtype: "f32".to_owned(), model, model_version: "1".to_owned(), ..Usage::default() }
}

/// `echo` takes FP32, `tokens` takes INT64, all others texts.
fn input_of(model: &str) -> (&'static str, &'static str) {
    match model {
        "echo" => ("x", "FP32"),
        "tokens" => ("input_ids", "INT64"),
        _ => ("text", "BYTES"),
    }
}

fn expect(right: bool, problem: &str) -> Result<(), Status> {
    if right { Ok(()) } else { Err(Status::invalid_argument(problem)) }
}

/// Whether raw BYTES are so many elements of the length each one states.
fn is_framed(mut raw: &[u8], rows: i64) -> bool {
    for _ in 0..rows {
        let Some((length, rest)) = raw.split_first_chunk::<4>() else { return false };
        let Some(rest) = rest.get(u32::from_le_bytes(*length) as usize..) else { return false };
        raw = rest;
    }
    raw.is_empty()
}

/// The calls a load generator makes, and the rest of the service left out.
macro_rules! open_inference {
    ($($left_out:ident $request:ident $response:ident;)*) => {
        #[tonic::async_trait]
        impl GrpcInferenceService for Fake {
            type ModelStreamInferStream = tokio_stream::Empty<Result<ModelStreamInferResponse, Status>>;

            async fn model_metadata(
                &self,
                request: Request<ModelMetadataRequest>,
            ) -> Result<Response<ModelMetadataResponse>, Status> {
                let name = request.into_inner().name;
                self.behave(&name, 0).await?;
                let (input, datatype) = input_of(&name);
                let (name, input, datatype) = (name, input.to_owned(), datatype.to_owned());
                let input = TensorMetadata { name: input, datatype, shape: vec![-1] };
                let inputs = vec![input];
                Ok(Response::new(ModelMetadataResponse { name, inputs, ..ModelMetadataResponse::default() }))
            }

            async fn model_infer(
                &self,
                request: Request<ModelInferRequest>,
            ) -> Result<Response<ModelInferResponse>, Status> {
                let rows = request.get_ref().inputs[0].shape[0];
                let (number, _guest) = Guest::enter(&self.0, &request, rows as usize);
                let request = request.into_inner();
                self.behave(&request.model_name, number).await?;
                let (name, datatype) = input_of(&request.model_name);
                let (input, raw) = (&request.inputs[0], &request.raw_input_contents[0]);
                expect(input.name == name && input.datatype == datatype, "inputs[0]")?;
                match datatype {
                    "FP32" => expect(raw.len() as i64 == 4 * input.shape.iter().product::<i64>(), "raw FP32")?,
                    _ => expect(is_framed(raw, rows), "raw BYTES")?,
                }
                let (name, shape) = ("y".to_owned(), vec![rows, 1]);
                let output = InferOutputTensor { name, shape, ..InferOutputTensor::default() };
                let parameter = |n| InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(n)) };
                let told = [("queue_us", 1000), ("batch_rows", 8)];
                let parameters = told.into_iter().map(|(name, n)| (name.to_owned(), parameter(n))).collect();
                let answer = ModelInferResponse { outputs: vec![output], parameters, ..ModelInferResponse::default() };
                Ok(Response::new(answer))
            }

            async fn model_stream_infer(
                &self,
                _: Request<Streaming<ModelInferRequest>>,
            ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
                Err(Status::unimplemented("not needed here"))
            }

            $(async fn $left_out(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("not needed here"))
            })*
        }
    };
}

open_inference! {
    server_live ServerLiveRequest ServerLiveResponse;
    server_ready ServerReadyRequest ServerReadyResponse;
    model_ready ModelReadyRequest ModelReadyResponse;
    server_metadata ServerMetadataRequest ServerMetadataResponse;
    model_config ModelConfigRequest ModelConfigResponse;
    model_statistics ModelStatisticsRequest ModelStatisticsResponse;
    repository_index RepositoryIndexRequest RepositoryIndexResponse;
    repository_model_load RepositoryModelLoadRequest RepositoryModelLoadResponse;
    repository_model_unload RepositoryModelUnloadRequest RepositoryModelUnloadResponse;
    system_shared_memory_status SystemSharedMemoryStatusRequest SystemSharedMemoryStatusResponse;
    system_shared_memory_register SystemSharedMemoryRegisterRequest SystemSharedMemoryRegisterResponse;
    system_shared_memory_unregister SystemSharedMemoryUnregisterRequest SystemSharedMemoryUnregisterResponse;
    cuda_shared_memory_status CudaSharedMemoryStatusRequest CudaSharedMemoryStatusResponse;
    cuda_shared_memory_register CudaSharedMemoryRegisterRequest CudaSharedMemoryRegisterResponse;
    cuda_shared_memory_unregister CudaSharedMemoryUnregisterRequest CudaSharedMemoryUnregisterResponse;
    trace_setting TraceSettingRequest TraceSettingResponse;
    log_settings LogSettingsRequest LogSettingsResponse;
}
