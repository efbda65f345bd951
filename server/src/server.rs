//! The composition root: starts every part of a server, in order, and stops them in the opposite one.

mod backstage;
mod doors;
mod errors;
mod routes;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{error, info};

pub use self::errors::{NotReady, StartError, Trouble};
pub(crate) use self::routes::routes;

use self::backstage::{Backstage, BackstagePlan};
use self::doors::Doors;
use self::routes::{admin_routes, scaler_routes};
use crate::admin::Admin;
use crate::config::{Config, Secrets};
use crate::driver::{Handle, ModelSettings};
use crate::frontend::Frontend;
use crate::http;
use crate::lanes::Lanes;
use crate::link::{LinkAddress, Tokens};
use crate::metrics::Metrics;
use crate::registry::{ModelState, Registry};
use crate::rpc::{AdminService, HealthGate, InferenceService, Listener, OipService, ScalerService};
use crate::supervisor::{GivenUp, LocalWorkers};
use crate::telemetry::LogControl;
use crate::tls::{H2, HTTP1};
use crate::tokenize::TokenizerPool;
use crate::traces::{Exporting, Tracer};

/// How long a stop waits for what was learned to be on disk.
const KEEP_TIME_MAX: Duration = Duration::from_secs(2);
/// How long an operator may take over an answer when everything else has stopped.
const OPERATORS_FAREWELL_TIME_MAX: Duration = Duration::from_secs(1);

/// A running server.
#[derive(Debug)]
pub struct Server {
    grpc: SocketAddr,
    http: Option<SocketAddr>,
    link: LinkAddress,
    admin: Admin,
    operators: Option<Operators>,
    scaler: Option<Operators>,
    registry: Registry,
    metrics: Metrics,
    health: HealthGate,
    driver: Handle,
    /// Cancelled when the server stops taking calls.
    draining: CancellationToken,
    drain_time_max: Duration,
    /// Of gRPC and of HTTP.
    listeners: JoinSet<()>,
    backstage: Backstage,
    exporting: Option<Exporting>,
    given_up: mpsc::UnboundedReceiver<GivenUp>,
    /// Local workers that were not given up.
    workers_left: usize,
    /// Dropped last: everything above runs on them.
    _lanes: Lanes,
}

/// Those who may ask how things stand, people or KEDA: longer than clients may call, so that a drain can be watched.
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
        let secrets = Secrets::read(config)?;
        let lanes = Lanes::start(config.server_threads)?;
        let workers_left = local.as_ref().map_or(0, |local| local.arguments.len());
        let metrics = Metrics::new();
        let (tracer, exporting) = start_traces(config, &metrics)?;
        let doors = Doors { secrets, metrics: metrics.clone() };
        doors.warn(config);
        let listener = Listener::bind(config.grpc, config.listener, metrics.clone());
        let listener = listener.map_err(|error| StartError::Grpc { address: config.grpc, error })?;
        let listener = listener.behind(doors.gate("grpc", H2));
        let listener = listener.shown_by(tracer.clone());
        let grpc = listener.address()?;
        let http_listener = bind_http(config, metrics.clone())?;
        let http_listener = http_listener.map(|listener| listener.behind(doors.gate("http", HTTP1)));
        let http = http_listener.as_ref().map(http::Listener::address).transpose()?;
        let draining = CancellationToken::new();
        let registry = Registry::default();
        let (health, health_service) = HealthGate::new(registry.clone(), draining.clone()).await;
        let (driver, inbox) = Handle::new();
        let admin =
            Admin::bind(config.metrics).map_err(|error| StartError::Metrics { address: config.metrics, error })?;
        let admin_listener = config.admin.map(|address| bind_admin(address, config, metrics.clone())).transpose()?;
        let admin_listener = admin_listener.map(|listener| listener.behind(doors.gate("admin", H2)));
        let scaler_listener = config.scaler.map(|address| bind_scaler(address, config, metrics.clone())).transpose()?;
        let scaler_listener = scaler_listener.map(|listener| listener.behind(doors.plain_gate("scaler")));
        let (given_up, given_up_in) = mpsc::unbounded_channel();
        let plan = BackstagePlan {
            limits: config.limits,
            resident_bytes_max: config.resident_bytes_max,
            models,
            registry: registry.clone(),
            metrics: metrics.clone(),
            home,
            tokens: Tokens::new(doors.secrets.worker_tokens.clone()),
            link: config.link.clone(),
            link_tls: doors.secrets.link_tls.clone(),
            local,
            given_up,
            tracer: tracer.clone(),
        };
        let (backstage, link) = Backstage::start(&lanes, plan, driver.clone(), inbox).await?;
        let admin = admin.start(metrics.clone(), health.clone(), driver.clone(), lanes.load())?;
        doors.follow(config, &lanes);
        let tokenizers = TokenizerPool::start(config.tokenizer_threads)?;
        let frontend =
            Frontend::new(driver.clone(), registry.clone(), tokenizers, config.frontend.clone(), draining.clone());
        let frontend = frontend.shown_by(tracer);
        let oip = OipService::new(frontend.clone(), health.clone(), config.model_control, log, draining.clone());
        let inference = InferenceService::new(frontend.clone(), draining.clone());
        let operators = admin_listener.map(|listener| {
            let service = AdminService::new(driver.clone(), registry.clone(), draining.clone());
            Operators::serve(listener, admin_routes(service, health_service.clone()), &lanes)
        });
        let operators = operators.transpose()?;
        let scaler = scaler_listener.map(|listener| {
            let service = ScalerService::new(driver.clone(), registry.clone(), draining.clone());
            Operators::serve(listener, scaler_routes(service, health_service.clone()), &lanes)
        });
        let scaler = scaler.transpose()?;
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
            scaler,
            registry,
            metrics,
            health,
            driver,
            draining,
            drain_time_max: config.drain_time_max,
            listeners,
            backstage,
            exporting,
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

    /// Where KEDA asks how many workers there should be, if it may.
    pub fn scaler_address(&self) -> Option<SocketAddr> {
        self.scaler.as_ref().map(|scaler| scaler.address)
    }

    /// Where workers dial.
    pub fn link_address(&self) -> &LinkAddress {
        &self.link
    }

    /// The way to whoever schedules.
    pub fn driver(&self) -> &Handle {
        &self.driver
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
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
                if let (true, ModelState::Failed(reason)) = (view.is_required, &view.state) {
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
        for operators in self.operators.into_iter().chain(self.scaler) {
            operators.stop().await;
        }
        self.driver.keep_costs(KEEP_TIME_MAX).await;
        self.backstage.stop().await;
        // By now every span has ended. Its counts can be read until it is done.
        if let Some(exporting) = self.exporting {
            exporting.stop().await;
        }
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

fn start_traces(config: &Config, metrics: &Metrics) -> Result<(Tracer, Option<Exporting>), StartError> {
    let Some(options) = &config.traces else { return Ok((Tracer::default(), None)) };
    let (tracer, exporting) = Tracer::start(options, metrics.spans.clone()).map_err(StartError::Traces)?;
    info!(endpoint = %options.endpoint, "spans of calls go to a collector");
    Ok((tracer, Some(exporting)))
}

fn bind_admin(address: SocketAddr, config: &Config, metrics: Metrics) -> Result<Listener, StartError> {
    Listener::bind(address, config.listener, metrics).map_err(|error| StartError::Admin { address, error })
}

fn bind_scaler(address: SocketAddr, config: &Config, metrics: Metrics) -> Result<Listener, StartError> {
    Listener::bind(address, config.listener, metrics).map_err(|error| StartError::Scaler { address, error })
}

fn bind_http(config: &Config, metrics: Metrics) -> Result<Option<http::Listener>, StartError> {
    let Some(address) = config.http else { return Ok(None) };
    let bound = http::Listener::bind(address, config.http_listener, metrics);
    bound.map(Some).map_err(|error| StartError::Http { address, error })
}
