//! `inference.GRPCInferenceService`: the Open Inference Protocol and Triton's extensions, served.
//!
//! What requests and answers mean is in [`crate::oip`]; this file puts it to the models.

mod stream;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dashmap::DashMap;
use shoal_proto::inference::{self as wire, grpc_inference_service_server::GrpcInferenceService};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use crate::access::Scope;
use crate::call::{Answer, CallError, Caller};
use crate::card::Task;
use crate::config::ModelControl;
use crate::frontend::{Frontend, by_deadline, check_lone_masks};
use crate::oip::{
    self, CallTimes, GRPC_ERROR_METADATA, InferRequest, Limits, LogSettings, Payload, Signature, TraceLevel,
    TraceSampler, TraceSettings, Usage, load_request, model_config, model_metadata, repository_index, server_metadata,
    unload_request,
};
use crate::registry::{ModelState, ModelView};
use crate::telemetry::LogControl;
use crate::traces::{Outcome, Rpc};

use super::caller::{caller, deadline, scope};
use super::health::HealthGate;
use super::inference::{failed, outcome};
use super::status::{explained_status, status};
use stream::answer_stream;

/// Calls of one stream that run at once; the stream is not read further beyond that.
const STREAM_CALLS_MAX: usize = 256;

const MODEL_INFER: Rpc = rpc("ModelInfer");
const MODEL_STREAM_INFER: Rpc = rpc("ModelStreamInfer");

const fn rpc(method: &'static str) -> Rpc {
    Rpc::Grpc { service: "inference.GRPCInferenceService", method }
}

/// The service.
#[derive(Clone, Debug)]
pub struct OipService {
    frontend: Frontend,
    health: HealthGate,
    control: ModelControl,
    log: LogControl,
    draining: CancellationToken,
    settings: Arc<Settings>,
}

/// What clients may set, where they may.
#[derive(Debug)]
struct Settings {
    log: Mutex<LogSettings>,
    trace: Mutex<TraceSettings>,
    samplers: DashMap<Arc<str>, Arc<TraceSampler>>,
}

impl OipService {
    /// A service on top of `frontend`; `control` says whether clients may change anything.
    pub fn new(
        frontend: Frontend,
        health: HealthGate,
        control: ModelControl,
        log: LogControl,
        draining: CancellationToken,
    ) -> Self {
        let settings = Settings {
            log: Mutex::new(LogSettings::new(log.level())),
            trace: Mutex::default(),
            samplers: DashMap::new(),
        };
        Self { frontend, health, control, log, draining, settings: Arc::new(settings) }
    }

    /// Reads, runs and answers one request.
    async fn infer(
        &self,
        mut caller: Caller,
        request: wire::ModelInferRequest,
    ) -> Result<wire::ModelInferResponse, CallError> {
        let arrived = Instant::now();
        if let Some(timeout) = oip::timeout(&request.parameters)? {
            let deadline = arrived + timeout;
            caller.deadline = Some(caller.deadline.map_or(deadline, |sooner| sooner.min(deadline)));
        }
        let model = self.frontend.registry.seen(&request.model_name, &caller.scope)?;
        let mut model = self.frontend.ready_to_ask(model, caller.deadline).await?;
        // Who asks for a version gets that one.
        if request.model_version.is_empty() {
            model = self.frontend.to_answer(model);
        }
        let result = self.infer_on(&model, &mut caller, request, arrived).await;
        if result.is_err() {
            model.statistics.record_failure(arrived.elapsed());
        }
        result
    }

    async fn infer_on(
        &self,
        model: &Arc<ModelView>,
        caller: &mut Caller,
        request: wire::ModelInferRequest,
        arrived: Instant,
    ) -> Result<wire::ModelInferResponse, CallError> {
        let signature = signature(model)?;
        let options = &self.frontend.options;
        let limits = Limits { texts_max: options.call_texts_max, rows_max: options.call_rows_max, ..Limits::default() };
        let request = InferRequest::parse(request, &signature, &limits)?;
        let InferRequest { payload, rows_field, options, reply } = request;
        if let Some(class) = options.class {
            caller.class = class;
        }
        let rows = match payload {
            Payload::Rows(rows) => rows,
            Payload::Texts(texts) => {
                let rows = self.frontend.text_rows(model, caller.deadline, texts, options.truncate, &options.row).await;
                rows.map_err(|error| error.within(&rows_field))?
            }
        };
        if signature.card().task == Task::FillMask {
            check_lone_masks(signature.card(), &rows).map_err(|error| error.within(&rows_field))?;
        }
        let usage = Usage {
            tokens: rows.iter().map(|row| u64::from(row.tokens)).sum(),
            truncated: rows.iter().filter(|row| row.truncated).count() as u32,
        };
        let count = rows.len() as u32;
        let submitted = Instant::now();
        let trace_id = caller.trace.id();
        let answer = self.frontend.submit(model, caller.clone(), rows).await;
        let answer = answer.map_err(|error| error.within(&rows_field))?;
        let by = &self.frontend.who_answered(model.clone(), &answer);
        let (model, signature) = if Arc::ptr_eq(by, model) { (model, signature) } else { (by, self::signature(by)?) };
        let answered = Instant::now();
        let response = reply.response(&signature, &answer, usage)?;
        let times = CallTimes {
            total: arrived.elapsed(),
            queue: answer.queue_time,
            compute_input: submitted - arrived,
            compute_infer: answer.compute_time,
            compute_output: answered.elapsed(),
        };
        model.statistics.record_success(count, &times, SystemTime::now());
        if let Some(level) = self.sampler(model).sample() {
            trace(model, level, &trace_id, &times, &answer, &response);
        }
        Ok(response)
    }

    /// What a model takes and gives: one of which nobody knows that yet is waited for.
    async fn known(&self, name: &str, scope: &Scope, deadline: Option<Instant>) -> Result<Signature, CallError> {
        let model = self.frontend.registry.seen(name, scope)?;
        let model = match model.card {
            Some(_) => model,
            None => self.frontend.once_known(model, deadline).await?,
        };
        signature(&model)
    }

    fn sampler(&self, model: &ModelView) -> Arc<TraceSampler> {
        // Copied out at once: a guard of the map is never held.
        if let Some(sampler) = self.settings.samplers.get(&model.name).map(|entry| entry.value().clone()) {
            return sampler;
        }
        let sampler = lock(&self.settings.trace).add_model(&model.name);
        self.settings.samplers.insert(model.name.clone(), sampler.clone());
        sampler
    }

    /// Trace settings know every configured model, whether it was called yet or not.
    fn trace_settings(&self) -> MutexGuard<'_, TraceSettings> {
        let mut settings = lock(&self.settings.trace);
        for view in self.frontend.registry.all() {
            settings.add_model(&view.name);
        }
        settings
    }

    fn check_control(&self, what: &str) -> Result<(), CallError> {
        match self.control {
            ModelControl::Explicit => Ok(()),
            ModelControl::None => Err(CallError::PermissionDenied {
                what: format!("{what} is for servers started with --model-control explicit"),
            }),
        }
    }

    async fn unload(&self, name: &str) -> Result<(), CallError> {
        self.frontend.registry.model(name)?;
        self.frontend.driver.want(name, false).await;
        Ok(())
    }
}

/// How clients of the protocol see the model.
fn signature(model: &ModelView) -> Result<Signature, CallError> {
    let card = model.ready_card()?.clone();
    Signature::new(card, model.batch_rows_max).map_err(|error| CallError::Internal { what: error.to_string() })
}

/// A poisoned lock means that a panic is already under way; settings are whole all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A trace is a log line.
fn trace(
    model: &ModelView,
    level: TraceLevel,
    trace_id: &Option<impl tracing::Value>,
    times: &CallTimes,
    answer: &Answer,
    response: &wire::ModelInferResponse,
) {
    let outputs = if level.tensors {
        response.outputs.iter().map(|output| format!("{}:{}{:?}", output.name, output.datatype, output.shape)).collect()
    } else {
        Vec::new()
    };
    let micros = |duration: std::time::Duration| duration.as_micros() as u64;
    if level.timestamps {
        info!(
            target: "shoal::trace",
            model = &*model.name,
            id = response.id,
            trace_id,
            rows = answer.rows.len(),
            batches = answer.batches.len(),
            total_us = micros(times.total),
            queue_us = micros(times.queue),
            input_us = micros(times.compute_input),
            infer_us = micros(times.compute_infer),
            output_us = micros(times.compute_output),
            outputs = ?outputs,
            "traced"
        );
    } else {
        info!(target: "shoal::trace", model = &*model.name, id = response.id, trace_id, outputs = ?outputs, "traced");
    }
}

fn refused(error: CallError) -> Status {
    status(&error)
}

fn shared_memory() -> Status {
    refused(CallError::Unimplemented { what: "shared memory between clients and this server".into() })
}

type Infers = Pin<Box<dyn Stream<Item = Result<wire::ModelStreamInferResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GrpcInferenceService for OipService {
    async fn server_live(
        &self,
        _: Request<wire::ServerLiveRequest>,
    ) -> Result<Response<wire::ServerLiveResponse>, Status> {
        Ok(Response::new(wire::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<wire::ServerReadyRequest>,
    ) -> Result<Response<wire::ServerReadyResponse>, Status> {
        Ok(Response::new(wire::ServerReadyResponse { ready: self.health.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<wire::ModelReadyRequest>,
    ) -> Result<Response<wire::ModelReadyResponse>, Status> {
        let (scope, request) = (scope(request.extensions()), request.into_inner());
        let model = self.frontend.registry.seen(&request.name, &scope).map_err(refused)?;
        let served = request.version.is_empty() || request.version == model.version();
        let ready = served && model.state == ModelState::Ready && !self.draining.is_cancelled();
        Ok(Response::new(wire::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<wire::ServerMetadataRequest>,
    ) -> Result<Response<wire::ServerMetadataResponse>, Status> {
        Ok(Response::new(server_metadata()))
    }

    async fn model_metadata(
        &self,
        request: Request<wire::ModelMetadataRequest>,
    ) -> Result<Response<wire::ModelMetadataResponse>, Status> {
        let (scope, until) = (scope(request.extensions()), deadline(request.extensions()));
        let request = request.into_inner();
        let signature = self.known(&request.name, &scope, until).await.map_err(refused)?;
        signature.check_version(&request.version).map_err(refused)?;
        Ok(Response::new(model_metadata(&signature)))
    }

    async fn model_infer(
        &self,
        request: Request<wire::ModelInferRequest>,
    ) -> Result<Response<wire::ModelInferResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let mut span = self.frontend.tracer.open(&MODEL_INFER, &extensions);
        let caller = caller(&self.frontend, &metadata, &extensions);
        // Not kept while the call is open.
        drop((metadata, extensions));
        let answer = match caller {
            Err(error) => Err(refused(error)),
            Ok(mut caller) => {
                span.enter(&mut caller.trace);
                let explain = caller.explain.clone();
                let answer = self.infer(caller, request).await;
                answer.map(Response::new).map_err(|error| explained_status(&error, &explain))
            }
        };
        span.end(outcome(&answer));
        answer
    }

    type ModelStreamInferStream = Infers;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<wire::ModelInferRequest>>,
    ) -> Result<Response<Infers>, Status> {
        let (metadata, extensions, requests) = request.into_parts();
        let mut span = self.frontend.tracer.open(&MODEL_STREAM_INFER, &extensions);
        let mut caller = match caller(&self.frontend, &metadata, &extensions) {
            Ok(caller) => caller,
            Err(error) => return failed(span, refused(error)),
        };
        span.enter(&mut caller.trace);
        let calls = span.stream();
        let as_status = metadata.get(GRPC_ERROR_METADATA).is_some_and(|value| value == "true");
        let (answers, stream) = mpsc::channel(STREAM_CALLS_MAX);
        let (running, finished) = mpsc::channel(STREAM_CALLS_MAX);
        let deadline = caller.deadline;
        tokio::spawn(self.clone().read_stream(caller, requests, running, calls));
        tokio::spawn(async move {
            let answered = async { Ok(answer_stream(finished, &answers, as_status).await) };
            let outcome = match by_deadline(deadline, answered).await {
                Ok(outcome) => outcome,
                Err(late) => {
                    let late = status(&late);
                    let outcome = Outcome::Grpc(late.code().into());
                    let _ = answers.send(Err(late)).await;
                    outcome
                }
            };
            span.end(outcome);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn model_config(
        &self,
        request: Request<wire::ModelConfigRequest>,
    ) -> Result<Response<wire::ModelConfigResponse>, Status> {
        let (scope, until) = (scope(request.extensions()), deadline(request.extensions()));
        let request = request.into_inner();
        let signature = self.known(&request.name, &scope, until).await.map_err(refused)?;
        signature.check_version(&request.version).map_err(refused)?;
        Ok(Response::new(wire::ModelConfigResponse { config: Some(model_config(&signature)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<wire::ModelStatisticsRequest>,
    ) -> Result<Response<wire::ModelStatisticsResponse>, Status> {
        let (scope, request) = (scope(request.extensions()), request.into_inner());
        let models = match request.name.as_str() {
            "" => self.frontend.registry.all_seen(&scope),
            name => vec![self.frontend.registry.seen(name, &scope).map_err(refused)?],
        };
        let mut model_stats = Vec::with_capacity(models.len());
        for model in models {
            if !request.version.is_empty() {
                signature(&model).and_then(|signature| signature.check_version(&request.version)).map_err(refused)?;
            }
            model_stats.push(model.statistics.snapshot(&model.name, model.version()));
        }
        Ok(Response::new(wire::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<wire::RepositoryIndexRequest>,
    ) -> Result<Response<wire::RepositoryIndexResponse>, Status> {
        let models = self.frontend.registry.all_seen(&scope(request.extensions()));
        let index = repository_index(request.get_ref(), models.iter().map(AsRef::as_ref)).map_err(refused)?;
        Ok(Response::new(index))
    }

    async fn repository_model_load(
        &self,
        request: Request<wire::RepositoryModelLoadRequest>,
    ) -> Result<Response<wire::RepositoryModelLoadResponse>, Status> {
        self.check_control("loading models").map_err(refused)?;
        let name = load_request(request.get_ref()).map_err(refused)?;
        by_deadline(deadline(request.extensions()), self.frontend.load(name)).await.map_err(refused)?;
        Ok(Response::new(wire::RepositoryModelLoadResponse::default()))
    }

    async fn repository_model_unload(
        &self,
        request: Request<wire::RepositoryModelUnloadRequest>,
    ) -> Result<Response<wire::RepositoryModelUnloadResponse>, Status> {
        self.check_control("unloading models").map_err(refused)?;
        let name = unload_request(request.get_ref()).map_err(refused)?;
        self.unload(name).await.map_err(refused)?;
        Ok(Response::new(wire::RepositoryModelUnloadResponse::default()))
    }

    async fn trace_setting(
        &self,
        request: Request<wire::TraceSettingRequest>,
    ) -> Result<Response<wire::TraceSettingResponse>, Status> {
        let request = request.into_inner();
        if !request.settings.is_empty() {
            self.check_control("changing trace settings").map_err(refused)?;
        }
        let mut settings = self.trace_settings();
        settings.apply(&request).map_err(refused)?;
        Ok(Response::new(settings.response(&request.model_name).map_err(refused)?))
    }

    async fn log_settings(
        &self,
        request: Request<wire::LogSettingsRequest>,
    ) -> Result<Response<wire::LogSettingsResponse>, Status> {
        let request = request.into_inner();
        if !request.settings.is_empty() {
            self.check_control("changing log settings").map_err(refused)?;
        }
        let mut settings = lock(&self.settings.log);
        if let Some(level) = settings.apply(&request).map_err(refused)? {
            self.log.set_level(level).map_err(|what| refused(CallError::Internal { what }))?;
        }
        Ok(Response::new(settings.response()))
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<wire::SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<wire::SystemSharedMemoryStatusResponse>, Status> {
        Err(shared_memory())
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<wire::SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<wire::SystemSharedMemoryRegisterResponse>, Status> {
        Err(shared_memory())
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<wire::SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<wire::SystemSharedMemoryUnregisterResponse>, Status> {
        Err(shared_memory())
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<wire::CudaSharedMemoryStatusRequest>,
    ) -> Result<Response<wire::CudaSharedMemoryStatusResponse>, Status> {
        Err(shared_memory())
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<wire::CudaSharedMemoryRegisterRequest>,
    ) -> Result<Response<wire::CudaSharedMemoryRegisterResponse>, Status> {
        Err(shared_memory())
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<wire::CudaSharedMemoryUnregisterRequest>,
    ) -> Result<Response<wire::CudaSharedMemoryUnregisterResponse>, Status> {
        Err(shared_memory())
    }
}
