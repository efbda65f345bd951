//! What each method needs, by its full name: the one place where that is said. Whatever is not here is denied, and a test
//! holds it to the descriptors and to the pages that are served.

use super::Right;

/// What a method needs of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: probes and load balancers have no token.
    Nothing,
    /// To be known.
    Identity,
    /// To have this right.
    Right(Right),
}

const INFER: Need = Need::Right(Right::Infer);
const INSPECT: Need = Need::Right(Right::Inspect);
const CONTROL: Need = Need::Right(Right::Control);
const ADMIN: Need = Need::Right(Right::Admin);

/// Of gRPC, in the order of their paths.
pub(super) const GRPC: &[(&str, Need)] = &[
    // KEDA has no token to send; they tell how many workers a pool should have.
    ("/externalscaler.ExternalScaler/GetMetricSpec", Need::Nothing),
    ("/externalscaler.ExternalScaler/GetMetrics", Need::Nothing),
    ("/externalscaler.ExternalScaler/IsActive", Need::Nothing),
    ("/externalscaler.ExternalScaler/StreamIsActive", Need::Nothing),
    ("/grpc.health.v1.Health/Check", Need::Nothing),
    ("/grpc.health.v1.Health/Watch", Need::Nothing),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Identity),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Need::Identity),
    ("/inference.GRPCInferenceService/CudaSharedMemoryRegister", CONTROL),
    ("/inference.GRPCInferenceService/CudaSharedMemoryStatus", INSPECT),
    ("/inference.GRPCInferenceService/CudaSharedMemoryUnregister", CONTROL),
    ("/inference.GRPCInferenceService/LogSettings", CONTROL),
    ("/inference.GRPCInferenceService/ModelConfig", INSPECT),
    ("/inference.GRPCInferenceService/ModelInfer", INFER),
    ("/inference.GRPCInferenceService/ModelMetadata", INSPECT),
    ("/inference.GRPCInferenceService/ModelReady", INSPECT),
    ("/inference.GRPCInferenceService/ModelStatistics", INSPECT),
    ("/inference.GRPCInferenceService/ModelStreamInfer", INFER),
    ("/inference.GRPCInferenceService/RepositoryIndex", INSPECT),
    ("/inference.GRPCInferenceService/RepositoryModelLoad", CONTROL),
    ("/inference.GRPCInferenceService/RepositoryModelUnload", CONTROL),
    ("/inference.GRPCInferenceService/ServerLive", Need::Nothing),
    ("/inference.GRPCInferenceService/ServerMetadata", INSPECT),
    ("/inference.GRPCInferenceService/ServerReady", Need::Nothing),
    ("/inference.GRPCInferenceService/SystemSharedMemoryRegister", CONTROL),
    ("/inference.GRPCInferenceService/SystemSharedMemoryStatus", INSPECT),
    ("/inference.GRPCInferenceService/SystemSharedMemoryUnregister", CONTROL),
    ("/inference.GRPCInferenceService/TraceSetting", CONTROL),
    ("/shoal.v1.Admin/Explain", ADMIN),
    ("/shoal.v1.Inference/Classify", INFER),
    ("/shoal.v1.Inference/Embed", INFER),
    ("/shoal.v1.Inference/EmbedStream", INFER),
    ("/shoal.v1.Inference/FillMask", INFER),
    ("/shoal.v1.Inference/ListModels", INSPECT),
    ("/shoal.v1.Inference/Rerank", INFER),
    ("/shoal.v1.Inference/Tokenize", INFER),
];

/// Of HTTP, by the router's own name of the path.
pub(super) const HTTP: &[(&str, &str, Need)] = &[
    ("GET", "/v1/models", INSPECT),
    ("GET", "/v1/models/{model}", INSPECT),
    ("HEAD", "/v1/models", INSPECT),
    ("HEAD", "/v1/models/{model}", INSPECT),
    ("POST", "/v1/embeddings", INFER),
];

/// What a method of gRPC needs, by its path.
pub(crate) fn of_grpc(path: &str) -> Option<Need> {
    GRPC.binary_search_by_key(&path, |(path, _)| path).ok().map(|at| GRPC[at].1)
}

/// What a page of HTTP needs; `route` is what the router calls its path.
pub(crate) fn of_http(method: &str, route: &str) -> Option<Need> {
    HTTP.iter().find(|(of, path, _)| *of == method && *path == route).map(|(_, _, need)| *need)
}
