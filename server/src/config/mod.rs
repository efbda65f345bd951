//! Configuration: one TOML file, every key of which is also a flag and a `SHOAL_…` variable.
//!
//! A flag wins over a variable, a variable over the file, the file over the default. All of it is checked before a port
//! is bound; what comes out cannot be wrong.

mod access;
mod error;
mod file;
mod model;
mod secrets;
mod settings;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use shoal_scheduler::Limits;

pub use error::ConfigError;
pub use model::{ModelConfig, PolicyName};
pub use secrets::Secrets;
pub use settings::{CpuIsa, Device, HttpPort, HumanDuration, ListenAt, ModelControl, Settings, Workers};

use crate::access::Entry;
use crate::frontend::FrontendOptions;
use crate::http;
use crate::lanes::Lanes;
use crate::link::LinkAddress;
use crate::rpc::ListenerOptions;
use crate::telemetry::LogFormat;
use crate::tls::{ClientAuth, TlsFiles};
use crate::traces::{self, TraceOptions, TraceSettings};

use file::File;

/// Rows of one batch that a worker takes unless told otherwise.
pub const WORKER_BATCH_ROWS: u32 = 1024;
/// Tokens of one batch that a worker takes unless told otherwise, on a CPU.
pub const WORKER_BATCH_TOKENS: u32 = 2048;

/// What workers show that are no children of the server.
#[derive(Clone, PartialEq, Eq)]
pub enum WorkerProof {
    /// This token; with an empty one there are no such workers.
    Token(String),
    /// One of the tokens of this file.
    TokenFile(PathBuf),
    /// A certificate that the link's authority signed.
    Certificate,
}

impl std::fmt::Debug for WorkerProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token(…)"),
            Self::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
            Self::Certificate => f.write_str("Certificate"),
        }
    }
}

/// All a server needs to know to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where gRPC clients call.
    pub grpc: SocketAddr,
    /// Where HTTP clients call, if they may.
    pub http: Option<SocketAddr>,
    /// Where metrics and probes are.
    pub metrics: SocketAddr,
    /// Where operators ask how things stand, if they may.
    pub admin: Option<SocketAddr>,
    /// Where KEDA asks how many workers there should be, if it may.
    pub scaler: Option<SocketAddr>,
    /// Where workers of other machines dial; unset with local workers.
    pub link: Option<LinkAddress>,
    /// What such workers show.
    pub worker_proof: WorkerProof,
    /// TLS of the ports for clients and for admin calls, if they speak it.
    pub tls: Option<TlsFiles>,
    /// TLS of the port for workers, if it speaks it.
    pub link_tls: Option<TlsFiles>,
    /// Who may call; everybody where this is empty.
    pub access: Vec<Entry>,
    /// Local workers, or none.
    pub workers: Workers,
    /// Somebody said so: it is no default.
    pub are_workers_stated: bool,
    /// What local workers compute on.
    pub device: Device,
    /// Which instructions they compute with on the processor.
    pub cpu_isa: CpuIsa,
    /// Threads of each local worker; all of the machine when unset.
    pub worker_threads: Option<NonZeroUsize>,
    /// Tokens in one batch of a local worker at most.
    pub worker_batch_tokens: Option<u32>,
    /// Threads that carry calls.
    pub server_threads: NonZeroUsize,
    /// Threads that tokenise.
    pub tokenizer_threads: usize,
    /// Where models and tokenizers are kept; the platform's cache folder when unset.
    pub home: Option<PathBuf>,
    /// Who may load and unload models and change settings over gRPC.
    pub model_control: ModelControl,
    /// Bytes of models that each worker holds at most.
    pub resident_bytes_max: Option<NonZeroU64>,
    /// How long a stop waits for calls.
    pub drain_time_max: Duration,
    /// What is logged.
    pub log: String,
    /// How it looks.
    pub log_format: LogFormat,
    /// Where and which spans are sent, if any are.
    pub traces: Option<TraceOptions>,
    /// Limits on one call.
    pub frontend: FrontendOptions,
    /// Limits on gRPC connections.
    pub listener: ListenerOptions,
    /// Limits on HTTP connections.
    pub http_listener: http::Options,
    /// Limits on the queue.
    pub limits: Limits,
    /// The models, by name.
    pub models: Vec<ModelConfig>,
    /// As all of this was stated.
    pub(crate) stated: Settings,
}

impl Config {
    /// Puts flags, variables and the file together.
    ///
    /// # Errors
    /// What is wrong, by key, with the nearest key where one is unknown.
    pub fn load(flags: Settings) -> Result<Self, ConfigError> {
        let mut file = match &flags.config {
            Some(path) => file::read(path)?,
            None => File::default(),
        };
        let settings = flags.over(std::mem::take(&mut file.settings));
        file.models = model::merge(file.models, &settings.model)?;
        Self::check(settings, file)
    }

    /// What the file says beside settings is in `file`.
    fn check(settings: Settings, file: File) -> Result<Self, ConfigError> {
        let File { models, access, .. } = file;
        model::check_demand(&models)?;
        model::check_canaries(&models)?;
        let address = settings.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let workers = settings.workers.unwrap_or_default();
        let link_at = SocketAddr::new(settings.link_address.unwrap_or(address), settings.link_port.unwrap_or(8003));
        let (tls, link_tls) = (client_tls(&settings)?, link_tls(&settings)?);
        let worker_proof = worker_proof(&settings)?;
        let access = access::check(access, &models, settings.tls_client_ca.is_some())?;
        let share_workers = settings.share_workers.unwrap_or(false);
        if share_workers && workers != Workers::External {
            let problem = "needs `workers = \"external\"`: local workers are children of one server and serve it alone";
            return Err(ConfigError::Value { key: "share_workers".into(), problem: problem.into() });
        }
        let defaults = Limits::default();
        let connections_max = settings.connections_max.map_or(4096, Into::into);
        let age_max = connection_age(&settings)?;
        Ok(Self {
            grpc: SocketAddr::new(address, settings.grpc_port.unwrap_or(8001)),
            http: match settings.http_port.unwrap_or(HttpPort::Port(8000)) {
                HttpPort::Port(port) => Some(SocketAddr::new(address, port)),
                HttpPort::Off => None,
            },
            metrics: SocketAddr::new(
                settings.metrics_address.unwrap_or(address),
                settings.metrics_port.unwrap_or(8002),
            ),
            admin: settings.admin_listen.unwrap_or_default().address(),
            scaler: settings.scaler_listen.unwrap_or_default().address(),
            link: (workers == Workers::External).then_some(LinkAddress::Tcp(link_at)),
            worker_proof,
            tls,
            link_tls,
            access,
            workers,
            are_workers_stated: settings.workers.is_some(),
            device: settings.device.unwrap_or_default(),
            cpu_isa: settings.cpu_isa.unwrap_or_default(),
            worker_threads: settings.worker_threads,
            worker_batch_tokens: settings.worker_batch_tokens.map(Into::into),
            server_threads: settings.server_threads.unwrap_or_else(|| Lanes::suitable(processors())),
            tokenizer_threads: settings.tokenizer_threads.map_or(processors().div_ceil(2), Into::into),
            home: settings.home.clone(),
            model_control: settings.model_control.unwrap_or_default(),
            resident_bytes_max: settings.resident_bytes_max,
            drain_time_max: settings.drain_time_max.map_or(Duration::from_secs(30), Into::into),
            log: settings.log.clone().unwrap_or_else(|| "info".into()),
            log_format: settings.log_format.unwrap_or_default(),
            traces: traces::options(trace_settings(&settings), |name| std::env::var(name).ok())?,
            frontend: frontend(&settings)?,
            listener: ListenerOptions { connections_max, age_max, ..ListenerOptions::default() },
            http_listener: http::Options { connections_max, age_max, ..http::Options::default() },
            limits: Limits {
                tenant_requests_max: settings.tenant_requests_max.unwrap_or(defaults.tenant_requests_max),
                class_requests_max: settings.class_requests_max.unwrap_or(defaults.class_requests_max),
                queue_bytes_max: settings.queue_bytes_max.unwrap_or(defaults.queue_bytes_max),
                attempts_max: settings.attempts_max.unwrap_or(defaults.attempts_max),
                workers_are_shared: share_workers,
                ..defaults
            },
            models,
            stated: settings,
        })
    }
}

/// How old connections may be: less than a second would have clients do little but connect.
fn connection_age(settings: &Settings) -> Result<Option<Duration>, ConfigError> {
    match settings.connection_age_max {
        Some(HumanDuration(age)) if age < Duration::from_secs(1) => {
            let problem = "must be 1s or more".to_owned();
            Err(ConfigError::Value { key: "connection_age_max".into(), problem })
        }
        stated => Ok(stated.map(Into::into)),
    }
}

fn trace_settings(settings: &Settings) -> TraceSettings {
    TraceSettings {
        endpoint: settings.otlp_endpoint.clone(),
        headers_file: settings.otlp_headers_file.clone(),
        ca_file: settings.otlp_ca_file.clone(),
        sample: settings.trace_sample,
        keep: settings.trace_keep,
    }
}

fn client_tls(settings: &Settings) -> Result<Option<TlsFiles>, ConfigError> {
    let auth = settings.tls_client_auth;
    if auth.is_some() && settings.tls_client_ca.is_none() {
        let problem = "needs `tls_client_ca`, by which certificates are checked".to_owned();
        return Err(ConfigError::Value { key: "tls_client_auth".into(), problem });
    }
    let client_ca = settings.tls_client_ca.clone().map(|path| (path, auth.unwrap_or_default()));
    tls("", settings.tls_cert.as_ref(), settings.tls_key.as_ref(), client_ca)
}

fn link_tls(settings: &Settings) -> Result<Option<TlsFiles>, ConfigError> {
    let client_ca = settings.link_tls_client_ca.clone().map(|path| (path, ClientAuth::Required));
    tls("link_", settings.link_tls_cert.as_ref(), settings.link_tls_key.as_ref(), client_ca)
}

/// TLS as the settings have it whose keys begin with `prefix`: all of it, or nothing.
fn tls(
    prefix: &'static str,
    cert: Option<&PathBuf>,
    key: Option<&PathBuf>,
    client_ca: Option<(PathBuf, ClientAuth)>,
) -> Result<Option<TlsFiles>, ConfigError> {
    let missing = |missing: &str, with: &str| {
        let problem = format!("must be set with `{prefix}{with}`");
        Err(ConfigError::Value { key: format!("{prefix}{missing}"), problem })
    };
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { prefix, cert: cert.clone(), key: key.clone(), client_ca })),
        (Some(_), None) => missing("tls_key", "tls_cert"),
        (None, Some(_)) => missing("tls_cert", "tls_key"),
        (None, None) if client_ca.is_some() => missing("tls_cert", "tls_client_ca"),
        (None, None) => Ok(None),
    }
}

/// What workers show: tokens where there are some, else the certificate that the link asks for.
fn worker_proof(settings: &Settings) -> Result<WorkerProof, ConfigError> {
    let token = settings.worker_token.clone().unwrap_or_default();
    match &settings.worker_token_file {
        Some(_) if !token.is_empty() => {
            let problem = "must be alone: `worker_token` is set too".to_owned();
            Err(ConfigError::Value { key: "worker_token_file".into(), problem })
        }
        Some(path) => Ok(WorkerProof::TokenFile(path.clone())),
        None if token.is_empty() && settings.link_tls_client_ca.is_some() => Ok(WorkerProof::Certificate),
        None => Ok(WorkerProof::Token(token)),
    }
}

fn frontend(settings: &Settings) -> Result<FrontendOptions, ConfigError> {
    let defaults = FrontendOptions::default();
    let tenant_key = settings.tenant_key.clone().unwrap_or(defaults.tenant_key);
    // HTTP/2 header names are lower case; one that ends in -bin carries base64, which a name is not.
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if tenant_key.is_empty() || !tenant_key.bytes().all(is_plain) || tenant_key.ends_with("-bin") {
        let problem = format!("`{tenant_key}` is not a metadata key: lower-case letters, digits, `-`, `_`, `.`");
        return Err(ConfigError::Value { key: "tenant_key".into(), problem });
    }
    Ok(FrontendOptions {
        tenant_key,
        call_texts_max: settings.call_texts_max.map_or(defaults.call_texts_max, Into::into),
        call_rows_max: settings.call_rows_max.map_or(defaults.call_rows_max, Into::into),
        call_bytes_max: settings.call_bytes_max.map_or(defaults.call_bytes_max, Into::into),
    })
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
