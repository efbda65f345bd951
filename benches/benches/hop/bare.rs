//! The baseline: the same protocol from the same library, with nothing behind it. It runs in a process of its own.

use std::net::SocketAddr;

use shoal_proto::inference::{
    self as wire,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// Serves on a free port, which it prints, until it is killed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let anywhere: SocketAddr = "127.0.0.1:0".parse()?;
        let listener = TcpListener::bind(anywhere).await?;
        println!("{}", listener.local_addr()?);
        let stream = TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().tcp_nodelay(true);
        let mut server = server.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
        Ok(server.add_service(GrpcInferenceServiceServer::new(Bare)).serve_with_incoming(stream).await?)
    })
}

struct Bare;

type Answer<T> = Result<Response<T>, Status>;

macro_rules! unimplemented_calls {
    ($($name:ident($request:ident) -> $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl GrpcInferenceService for Bare {
            async fn model_infer(
                &self,
                request: Request<wire::ModelInferRequest>,
            ) -> Answer<wire::ModelInferResponse> {
                Ok(Response::new(echo(request.into_inner())))
            }

            type ModelStreamInferStream =
                std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<wire::ModelStreamInferResponse, Status>> + Send>>;

            async fn model_stream_infer(
                &self,
                _: Request<Streaming<wire::ModelInferRequest>>,
            ) -> Answer<Self::ModelStreamInferStream> {
                Err(Status::unimplemented("only ModelInfer is measured"))
            }

            $(async fn $name(&self, _: Request<wire::$request>) -> Answer<wire::$response> {
                Err(Status::unimplemented("only ModelInfer is measured"))
            })*
        }
    };
}

unimplemented_calls! {
    server_live(ServerLiveRequest) -> ServerLiveResponse,
    server_ready(ServerReadyRequest) -> ServerReadyResponse,
    model_ready(ModelReadyRequest) -> ModelReadyResponse,
    server_metadata(ServerMetadataRequest) -> ServerMetadataResponse,
    model_metadata(ModelMetadataRequest) -> ModelMetadataResponse,
    model_config(ModelConfigRequest) -> ModelConfigResponse,
    model_statistics(ModelStatisticsRequest) -> ModelStatisticsResponse,
    repository_index(RepositoryIndexRequest) -> RepositoryIndexResponse,
    repository_model_load(RepositoryModelLoadRequest) -> RepositoryModelLoadResponse,
    repository_model_unload(RepositoryModelUnloadRequest) -> RepositoryModelUnloadResponse,
    system_shared_memory_status(SystemSharedMemoryStatusRequest) -> SystemSharedMemoryStatusResponse,
    system_shared_memory_register(SystemSharedMemoryRegisterRequest) -> SystemSharedMemoryRegisterResponse,
    system_shared_memory_unregister(SystemSharedMemoryUnregisterRequest) -> SystemSharedMemoryUnregisterResponse,
    cuda_shared_memory_status(CudaSharedMemoryStatusRequest) -> CudaSharedMemoryStatusResponse,
    cuda_shared_memory_register(CudaSharedMemoryRegisterRequest) -> CudaSharedMemoryRegisterResponse,
    cuda_shared_memory_unregister(CudaSharedMemoryUnregisterRequest) -> CudaSharedMemoryUnregisterResponse,
    trace_setting(TraceSettingRequest) -> TraceSettingResponse,
    log_settings(LogSettingsRequest) -> LogSettingsResponse,
}

/// The inputs as outputs.
fn echo(request: wire::ModelInferRequest) -> wire::ModelInferResponse {
    use wire::model_infer_response::InferOutputTensor;
    let output = |input: wire::model_infer_request::InferInputTensor| InferOutputTensor {
        name: "y".into(),
        datatype: input.datatype,
        shape: input.shape,
        ..Default::default()
    };
    wire::ModelInferResponse {
        model_name: request.model_name,
        model_version: "1".into(),
        id: request.id,
        outputs: request.inputs.into_iter().map(output).collect(),
        raw_output_contents: request.raw_input_contents,
        ..Default::default()
    }
}
