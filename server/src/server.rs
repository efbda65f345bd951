//! The composition root: starts every part of a server, in order, and stops them in the opposite one.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use shoal_proto::v1::admin_server::AdminServer;
use shoal_proto::v1::inference_server::InferenceServer;
use shoal_scheduler::Limits;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::{Deflate, Gzip};
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tracing::{error, info};

use crate::admin::Admin;
use crate::artifacts;
use crate::config::Config;
use crate::costs;
use crate::driver::{Driver, Handle, Inbox, ModelSettings, Surroundings, drive};
use crate::frontend::Frontend;
use crate::http;
use crate::lanes::Lanes;
use crate::link::{self, LinkAddress, LinkOptions, LinkService, Tokens};
use crate::metrics::Metrics;
use crate::registry::{ModelState, Registry};
use crate::rpc::{AdminService, HealthGate, InferenceService, Listener, OipService};
use crate::supervisor::{ChildOptions, GivenUp, LocalWorkers, Supervisor};
use crate::telemetry::LogControl;
use crate::tokenize::TokenizerPool;

/// How long a local worker may take to end by itself once its batches are done.
const WORKER_STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a stop waits for what was learned to be on disk.
const KEEP_TIME_MAX: Duration = Duration::from_secs(2);
/// How long an operator may take over an answer when everything else has stopped.
const OPERATORS_FAREWELL_TIME_MAX: Duration = Duration::from_secs(1);
/// Answers may be as large as a call with the most rows of the widest embeddings makes them.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen for clients on {address}: {error}{}", port_hint(.error, "grpc-port"))]
    Grpc { address: SocketAddr, error: io::Error },
    #[error("cannot listen for HTTP clients on {address}: {error}{}", http_port_hint(.error))]
    Http { address: SocketAddr, error: io::Error },
    #[error("cannot listen for metrics on {address}: {error}{}", port_hint(.error, "metrics-port"))]
    Metrics { address: SocketAddr, error: io::Error },
    #[error("cannot listen for admin calls on {address}: {error}{}", admin_hint(.error))]
    Admin { address: SocketAddr, error: io::Error },
    #[error("cannot listen for workers on {address}: {error}{}", port_hint(.error, "link-port"))]
    Link { address: LinkAddress, error: io::Error },
    #[error("the system refused a thread or a file: {0}")]
    System(#[from] io::Error),
}

fn port_hint(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("; is a server running already? --{flag} picks another port"),
        _ => String::new(),
    }
}

fn admin_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; is a server running already? --admin-listen picks another address or port",
        _ => "",
    }
}

/// The one port that is there unless told otherwise and need not be.
fn http_port_hint(error: &io::Error) -> String {
    match port_hint(error, "http-port") {
        hint if hint.is_empty() => hint,
        hint => format!("{hint}, --http-port off does without"),
    }
}

/// Why a server that started cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("model `{model}` cannot be served: {reason}")]
    Model { model: Arc<str>, reason: String },
    #[error("worker `{}` was given up: {}", .0.worker, .0.reason)]
    Worker(GivenUp),
    #[error("the driver or the worker link ended by itself")]
    Ended,
}

/// Something that does not mend by itself.
#[derive(Debug)]
pub struct Trouble {
    /// What it is.
    pub what: String,
    /// There is no point in serving on.
    pub fatal: bool,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    grpc: SocketAddr,
    http: Option<SocketAddr>,
    link: LinkAddress,
    admin: Admin,
    operators: Option<Operators>,
    registry: Registry,
    health: HealthGate,
    driver: Handle,
    /// Cancelled when the server stops taking calls.
    draining: CancellationToken,
    drain_time_max: Duration,
    /// Of gRPC and of HTTP.
    listeners: JoinSet<()>,
    backstage: Backstage,
    given_up: mpsc::UnboundedReceiver<GivenUp>,
    /// Local workers that were not given up.
    workers_left: usize,
    /// Dropped last: everything above runs on them.
    _lanes: Lanes,
}

/// Those who may ask how things stand: longer than clients may call, so that a drain can be watched.
#[derive(Debug)]
struct Operators {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    /// Binds every port and starts every part, with these local workers, if any.
    ///
    /// # Errors
    /// The first port or thread that could not be had.
    pub async fn start(
        config: &Config,
        models: Vec<ModelSettings>,
        home: PathBuf,
        local: Option<LocalWorkers>,
        log: LogControl,
    ) -> Result<Self, StartError> {
        let lanes = Lanes::start(config.server_threads)?;
        let workers_left = local.as_ref().map_or(0, |local| local.arguments.len());
        let metrics = Metrics::new();
        let listener = Listener::bind(config.grpc, config.listener, metrics.clone());
        let listener = listener.map_err(|error| StartError::Grpc { address: config.grpc, error })?;
        let grpc = listener.address()?;
        let http_listener = bind_http(config, metrics.clone())?;
        let http = http_listener.as_ref().map(http::Listener::address).transpose()?;
        let draining = CancellationToken::new();
        let registry = Registry::default();
        let (health, health_service) = HealthGate::new(registry.clone(), draining.clone()).await;
        let (driver, inbox) = Handle::new();
        let admin =
            Admin::bind(config.metrics).map_err(|error| StartError::Metrics { address: config.metrics, error })?;
        let admin_listener = config.admin.map(|address| bind_admin(address, config, metrics.clone())).transpose()?;
        let (given_up, given_up_in) = mpsc::unbounded_channel();
        let plan = BackstagePlan {
            limits: config.limits,
            models,
            registry: registry.clone(),
            metrics: metrics.clone(),
            home,
            tokens: Tokens::shared(&config.worker_token),
            link: config.link.clone(),
            local,
            given_up,
        };
        let (backstage, link) = Backstage::start(&lanes, plan, driver.clone(), inbox).await?;
        let admin = admin.start(metrics, health.clone(), driver.clone(), lanes.load())?;
        let tokenizers = TokenizerPool::start(config.tokenizer_threads)?;
        let frontend = Frontend::new(driver.clone(), registry.clone(), tokenizers, config.frontend.clone());
        let oip = OipService::new(frontend.clone(), health.clone(), config.model_control, log, draining.clone());
        let inference = InferenceService::new(frontend.clone(), draining.clone());
        let operators = admin_listener.map(|listener| {
            let service = AdminService::new(driver.clone(), registry.clone(), draining.clone());
            Operators::serve(listener, admin_routes(service, health_service.clone()), &lanes)
        });
        let operators = operators.transpose()?;
        let routes = routes(inference, oip, health_service, config.frontend.call_bytes_max);
        lanes.first().spawn(health.clone().watch());
        let mut listeners = JoinSet::new();
        let serving = listener.serve(lanes.clone(), routes, draining.clone(), config.drain_time_max);
        listeners.spawn_on(serving, lanes.first());
        if let Some(listener) = http_listener {
            let pages = http::routes(frontend, &config.http_listener);
            let serving = listener.serve(lanes.clone(), pages, draining.clone(), config.drain_time_max);
            listeners.spawn_on(serving, lanes.first());
        }
        Ok(Self {
            grpc,
            http,
            link,
            admin,
            operators,
            registry,
            health,
            driver,
            draining,
            drain_time_max: config.drain_time_max,
            listeners,
            backstage,
            given_up: given_up_in,
            workers_left,
            _lanes: lanes,
        })
    }

    /// Where gRPC clients call.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where HTTP clients call, if they may.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where metrics and probes are.
    pub fn metrics_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Where operators ask how things stand, if they may.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.operators.as_ref().map(|operators| operators.address)
    }

    /// Where workers dial.
    pub fn link_address(&self) -> &LinkAddress {
        &self.link
    }

    /// The models and how they stand.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns once every model can be served.
    ///
    /// # Errors
    /// The first model of which that will not come true, or the last local worker: one that was given up before is logged.
    pub async fn ready(&mut self) -> Result<(), NotReady> {
        let mut changes = self.registry.changes();
        loop {
            let views = self.registry.all();
            for view in &views {
                if let ModelState::Failed(reason) = &view.state {
                    return Err(NotReady::Model { model: view.name.clone(), reason: reason.clone() });
                }
            }
            if self.health.unready().is_empty() {
                self.health.shown_ready().await;
                return Ok(());
            }
            tokio::select! {
                _ = changes.changed() => {}
                Some(given_up) = self.given_up.recv() => {
                    self.workers_left = self.workers_left.saturating_sub(1);
                    let problem = NotReady::Worker(given_up);
                    if self.workers_left == 0 {
                        return Err(problem);
                    }
                    error!("{problem}");
                }
                _ = &mut self.backstage.ended => return Err(NotReady::Ended),
            }
        }
    }

    /// Returns when something is wrong that does not mend by itself.
    pub async fn trouble(&mut self) -> Trouble {
        tokio::select! {
            Some(given_up) = self.given_up.recv() => {
                self.workers_left = self.workers_left.saturating_sub(1);
                let what = NotReady::Worker(given_up).to_string();
                Trouble { what, fatal: self.workers_left == 0 }
            }
            _ = &mut self.backstage.ended => {
                Trouble { what: NotReady::Ended.to_string(), fatal: true }
            }
        }
    }

    /// Takes no new call, answers those that are there, ends the workers.
    pub async fn stop(mut self) {
        let started = Instant::now();
        self.draining.cancel();
        while self.listeners.join_next().await.is_some() {}
        let left = self.drain_time_max.saturating_sub(started.elapsed());
        self.driver.drain(left).await;
        if let Some(operators) = self.operators {
            operators.stop().await;
        }
        self.driver.keep_costs(KEEP_TIME_MAX).await;
        self.backstage.stop().await;
        self.admin.stop();
        info!("stopped after {:?}", started.elapsed());
    }
}

impl Operators {
    fn serve(listener: Listener, routes: Routes, lanes: &Lanes) -> io::Result<Self> {
        let (address, stop) = (listener.address()?, CancellationToken::new());
        let serving = listener.serve(lanes.clone(), routes, stop.clone(), OPERATORS_FAREWELL_TIME_MAX);
        Ok(Self { address, stop, serving: lanes.first().spawn(serving) })
    }

    async fn stop(self) {
        self.stop.cancel();
        // A panic of that task has been printed; there is nothing to add.
        let _ = self.serving.await;
    }
}

fn bind_admin(address: SocketAddr, config: &Config, metrics: Metrics) -> Result<Listener, StartError> {
    Listener::bind(address, config.listener, metrics).map_err(|error| StartError::Admin { address, error })
}

fn bind_http(config: &Config, metrics: Metrics) -> Result<Option<http::Listener>, StartError> {
    let Some(address) = config.http else { return Ok(None) };
    let bound = http::Listener::bind(address, config.http_listener, metrics);
    bound.map(Some).map_err(|error| StartError::Http { address, error })
}

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
fn admin_routes<H: Health>(admin: AdminService, health: HealthServer<H>) -> Routes {
    let routes = Routes::new(AdminServer::new(admin)).add_service(health);
    described(routes, &["shoal.v1.Admin", "grpc.health.v1.Health"])
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

/// What clients do not see: driver, worker link, supervisor and disk errands, all on the first lane.
#[derive(Debug)]
struct Backstage {
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

struct BackstagePlan {
    limits: Limits,
    models: Vec<ModelSettings>,
    registry: Registry,
    metrics: Metrics,
    home: PathBuf,
    tokens: Tokens,
    link: Option<LinkAddress>,
    local: Option<LocalWorkers>,
    given_up: mpsc::UnboundedSender<GivenUp>,
}

impl Backstage {
    async fn start(
        lanes: &Lanes,
        plan: BackstagePlan,
        driver: Handle,
        inbox: Inbox,
    ) -> Result<(Self, LinkAddress), StartError> {
        let stop = CancellationToken::new();
        let (bound, address) = oneshot::channel();
        let (done, ended) = oneshot::channel::<()>();
        let stopped = stop.clone();
        lanes.first().spawn(async move {
            plan.run(driver, inbox, bound, stopped).await;
            let _ = done.send(());
        });
        let ended_early = || StartError::System(io::Error::other("the driver ended"));
        let address = address.await.map_err(|_| ended_early())??;
        Ok((Self { stop, ended }, address))
    }

    async fn stop(self) {
        self.stop.cancel();
        // It may have ended by itself, or with a panic that it reported.
        if !self.ended.is_terminated() {
            let _ = self.ended.await;
        }
    }
}

impl BackstagePlan {
    async fn run(
        self,
        driver: Handle,
        inbox: Inbox,
        bound: oneshot::Sender<Result<LinkAddress, StartError>>,
        stop: CancellationToken,
    ) {
        // Removed with all that is in it when this function ends.
        let folder = match tempfile::Builder::new().prefix("shoal-").tempdir() {
            Ok(folder) => folder,
            Err(error) => {
                let _ = bound.send(Err(StartError::System(error)));
                return;
            }
        };
        let (supervisor, told) = mpsc::unbounded_channel();
        let (errands, errands_in) = mpsc::unbounded_channel();
        let (costs, costs_in) = mpsc::unbounded_channel();
        let around = Surroundings {
            registry: self.registry,
            metrics: self.metrics.clone(),
            supervisor,
            artifacts: errands,
            costs,
        };
        let mut state = Driver::new(self.limits, Instant::now(), around);
        // Before a worker can dial, since it is asked for the models there are when it does, and before a client can: a
        // server without models is ready at once, and this one is not.
        state.configure(Instant::now(), self.models);
        let socket = folder.path().join("link.sock");
        let address = self.link.unwrap_or_else(|| LinkAddress::Unix(socket.clone()));
        let service = LinkService::new(driver.clone(), LinkOptions::default(), self.tokens.clone());
        let link_stop = CancellationToken::new();
        let serving = match link::serve(&address, service, link_stop.clone()).await {
            Ok((at, serving)) => {
                let _ = bound.send(Ok(at));
                serving
            }
            Err(error) => {
                let _ = bound.send(Err(StartError::Link { address, error }));
                return;
            }
        };
        // None of these ends before the server does; if one does, the server is no server any more.
        let mut parts = JoinSet::new();
        parts.spawn(async move {
            let _ = serving.await;
            "worker link"
        });
        let costs_done = costs::run_errands(self.home.clone(), costs_in, driver.clone());
        parts.spawn(async move {
            costs_done.await;
            "cost errands"
        });
        let errands_done = artifacts::run_errands(self.home, errands_in, driver.clone());
        parts.spawn(async move {
            errands_done.await;
            "disk errands"
        });
        let driving = drive(state, inbox);
        parts.spawn(async move {
            driving.await;
            "driver"
        });
        let supervisor = self.local.map(|workers| {
            let options = ChildOptions { workers, socket, stop_time_max: WORKER_STOP_TIME_MAX };
            Supervisor::start(options, self.tokens, driver, self.metrics, told, self.given_up)
        });
        tokio::select! {
            () = stop.cancelled() => {}
            Some(ended) = parts.join_next() => error!(?ended, "a part of the server ended by itself"),
        }
        if let Some(supervisor) = supervisor {
            supervisor.stop().await;
        }
        link_stop.cancel();
        drop(folder);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::num::NonZeroUsize;
    use std::os::unix::fs::OpenOptionsExt as _;

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
            models: vec![settings("m")],
            registry: registry.clone(),
            metrics: Metrics::new(),
            home: home.path().into(),
            tokens: Tokens::shared("token"),
            link: None,
            local: None,
            given_up: mpsc::unbounded_channel().0,
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
}
