//! Which services are under which paths.

use shoal_proto::externalscaler::external_scaler_server::ExternalScalerServer;
use shoal_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use shoal_proto::v1::admin_server::AdminServer;
use shoal_proto::v1::inference_server::InferenceServer;
use tonic::codec::CompressionEncoding::{Deflate, Gzip};
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::rpc::{AdminService, InferenceService, OipService, ScalerService};

/// Answers may be as large as a call with the most rows of the widest embeddings makes them.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Every client-facing service under its path. Requests may be compressed, within the same limit once they are not;
/// answers never are, since most clients say that they take it without asking for it, and vectors hardly shrink.
pub(crate) fn routes<H: Health>(
    inference: InferenceService,
    oip: OipService,
    health: HealthServer<H>,
    call_bytes_max: usize,
) -> Routes {
    let inference = InferenceServer::new(inference)
        .max_decoding_message_size(call_bytes_max)
        .max_encoding_message_size(ANSWER_BYTES_MAX)
        .accept_compressed(Gzip)
        .accept_compressed(Deflate);
    let oip = GrpcInferenceServiceServer::new(oip)
        .max_decoding_message_size(call_bytes_max)
        .max_encoding_message_size(ANSWER_BYTES_MAX)
        .accept_compressed(Gzip)
        .accept_compressed(Deflate);
    // Clients compress all calls of a connection or none.
    let health = health.accept_compressed(Gzip).accept_compressed(Deflate);
    let routes = Routes::new(inference).add_service(oip).add_service(health);
    described(routes, &["shoal.v1.Inference", "inference.GRPCInferenceService", "grpc.health.v1.Health"])
}

/// The services on the listener for admin calls.
pub(super) fn admin_routes<H: Health>(admin: AdminService, health: HealthServer<H>) -> Routes {
    let routes = Routes::new(AdminServer::new(admin)).add_service(health);
    described(routes, &["shoal.v1.Admin", "grpc.health.v1.Health"])
}

/// The services on the listener for KEDA.
pub(super) fn scaler_routes<H: Health>(scaler: ScalerService, health: HealthServer<H>) -> Routes {
    let routes = Routes::new(ExternalScalerServer::new(scaler)).add_service(health);
    described(routes, &["externalscaler.ExternalScaler", "grpc.health.v1.Health"])
}

/// Adds reflection, which tells of these services.
fn described(routes: Routes, services: &[&str]) -> Routes {
    let described = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(shoal_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Types of a status's details, which grpcurl and ghz ask for when they show one.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET);
        services.iter().fold(builder, |builder, service| builder.with_service_name(*service))
    };
    // Both versions of the protocol: ghz and older clients know only v1alpha. The descriptors are compiled in, so
    // that reading them fails in every build or in none.
    match (described().build_v1(), described().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            let v1 = v1.accept_compressed(Gzip).accept_compressed(Deflate);
            let v1alpha = v1alpha.accept_compressed(Gzip).accept_compressed(Deflate);
            routes.add_service(v1).add_service(v1alpha)
        }
        _ => routes,
    }
}
