//! The settings as a user may give them: each a key of the file, a flag and a variable, each optional.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::models::ModelArg;
use crate::telemetry::LogFormat;
use crate::tls::ClientAuth;
use crate::traces::{KeepRule, OtlpEndpoint, Sample};

/// A duration as people write it: `50ms`, `2s`, `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HumanDuration(pub Duration);

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = humantime::parse_duration(text);
        parsed.map(Self).map_err(|_| format!("`{text}` is not a duration such as 50ms or 2s"))
    }
}

impl TryFrom<String> for HumanDuration {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Who runs the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum Workers {
    /// So many child processes of this server.
    Local(NonZeroUsize),
    /// Processes that dial in, started by somebody else.
    External,
}

impl Default for Workers {
    fn default() -> Self {
        Self::Local(NonZeroUsize::MIN)
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "external" => Ok(Self::External),
            count => match count.parse::<NonZeroUsize>() {
                Ok(count) if count.get() <= 256 => Ok(Self::Local(count)),
                _ => Err(format!("`{text}` is neither a number from 1 to 256 nor `external`")),
            },
        }
    }
}

impl TryFrom<toml::Value> for Workers {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::Integer(count) => count.to_string().parse(),
            toml::Value::String(text) => text.parse(),
            other => Err(format!("`{other}` is neither a number from 1 to 256 nor `external`")),
        }
    }
}

/// Where HTTP is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum HttpPort {
    /// On this port; 0 picks a free one.
    Port(u16),
    /// Nowhere.
    Off,
}

impl FromStr for HttpPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            port => port.parse().map(Self::Port).map_err(|_| format!("`{text}` is neither a port nor `off`")),
        }
    }
}

impl TryFrom<toml::Value> for HttpPort {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::Integer(port) => port.to_string().parse(),
            toml::Value::String(text) => text.parse(),
            other => Err(format!("`{other}` is neither a port nor `off`")),
        }
    }
}

/// Where calls are served that are none of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ListenAt {
    /// On this address; port 0 picks a free one.
    At(SocketAddr),
    /// Nowhere.
    #[default]
    Off,
}

impl ListenAt {
    pub(super) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::At(address) => Some(address),
            Self::Off => None,
        }
    }
}

impl FromStr for ListenAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            address => address
                .parse()
                .map(Self::At)
                .map_err(|_| format!("`{text}` is neither an address with a port, such as 127.0.0.1:8004, nor `off`")),
        }
    }
}

impl TryFrom<String> for ListenAt {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What local workers compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A GPU where there is one that can be used, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, or an error.
    Cuda,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// Which of the processor's instructions local workers compute with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuIsa {
    /// The best the processor has.
    #[default]
    Auto,
    /// No kernels of our own: models run on candle, in f32.
    Portable,
    /// AVX2 and FMA: f32.
    Avx2,
    /// AVX-512: f32.
    Avx512,
    /// AVX-512 with BF16 and VNNI: f32, bf16 and int8.
    Avx512Bf16,
}

impl CpuIsa {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
        }
    }
}

/// Who may load and unload models and change settings over gRPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelControl {
    /// Nobody: such calls are PERMISSION_DENIED.
    #[default]
    None,
    /// Every client.
    Explicit,
}

/// Declares the settings once: a field, its help, its variable; and how one set is laid over another.
macro_rules! settings {
    ($($(#[doc = $help:literal])+ $(#[arg($($arg:tt)+)])? $name:ident: $type:ty = $env:literal,)+) => {
        /// Settings as a user gave them; unset ones have a default.
        #[derive(Args, Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            /// Read settings and models from this TOML file; flags and variables win over it.
            #[arg(long, value_name = "FILE", env = "SHOAL_CONFIG")]
            #[serde(skip)]
            pub config: Option<PathBuf>,
            #[arg(long = "model", value_name = "MODEL", help = ModelArg::HELP)]
            #[serde(skip)]
            /// Models named on the command line.
            pub model: Vec<ModelArg>,
            $($(#[doc = $help])+
              #[arg(long, env = $env, $($($arg)+)?)]
              pub $name: Option<$type>,)+
        }

        impl Settings {
            /// Every key of the file, apart from the models.
            pub(super) const KEYS: &[&str] = &[$(stringify!($name)),+];

            /// Keys that two settings have different values of.
            pub(crate) fn differing(&self, other: &Self) -> Vec<&'static str> {
                let keys = [$((stringify!($name), self.$name != other.$name)),+];
                keys.into_iter().filter(|(_, differ)| *differ).map(|(key, _)| key).collect()
            }

            /// These settings, and where they say nothing, `below`.
            #[must_use]
            pub(super) fn over(self, below: Self) -> Self {
                Self {
                    config: self.config.or(below.config),
                    model: if self.model.is_empty() { below.model } else { self.model },
                    $($name: self.$name.or(below.$name),)+
                }
            }
        }
    };
}

settings! {
    /// Address to listen on. Loopback unless told otherwise: whoever can reach the port can use the models [default: 127.0.0.1]
    #[arg(value_name = "IP")]
    address: IpAddr = "SHOAL_ADDRESS",
    /// Port for gRPC clients; 0 picks a free one [default: 8001]
    #[arg(value_name = "PORT")]
    grpc_port: u16 = "SHOAL_GRPC_PORT",
    /// Port for HTTP clients, who find OpenAI's embeddings there; 0 picks a free one, `off` serves none [default: 8000]
    #[arg(value_name = "PORT|off")]
    http_port: HttpPort = "SHOAL_HTTP_PORT",
    /// Address for metrics and probes [default: that of --address]
    #[arg(value_name = "IP")]
    metrics_address: IpAddr = "SHOAL_METRICS_ADDRESS",
    /// Port for /metrics, /livez and /readyz; 0 picks a free one [default: 8002]
    #[arg(value_name = "PORT")]
    metrics_port: u16 = "SHOAL_METRICS_PORT",
    /// Address and port for admin calls, which `shoal explain` makes: they show what every tenant waits for, so keep it to operators; port 0 picks a free one, `off` serves none [default: off]
    #[arg(value_name = "IP:PORT|off")]
    admin_listen: ListenAt = "SHOAL_ADMIN_LISTEN",
    /// Address and port where KEDA asks how many workers a pool should have; port 0 picks a free one, `off` serves none [default: off]
    #[arg(value_name = "IP:PORT|off")]
    scaler_listen: ListenAt = "SHOAL_SCALER_LISTEN",
    /// Local worker processes, or `external` for workers that dial in. More workers hide each other's faults and share one machine's memory and processors; on a machine with GPUs they go round these [default: one for each GPU, or 1]
    #[arg(value_name = "N|external")]
    workers: Workers = "SHOAL_WORKERS",
    /// Address external workers dial [default: that of --address]
    #[arg(value_name = "IP")]
    link_address: IpAddr = "SHOAL_LINK_ADDRESS",
    /// Port external workers dial; 0 picks a free one [default: 8003]
    #[arg(value_name = "PORT")]
    link_port: u16 = "SHOAL_LINK_PORT",
    /// Token external workers show; better given as a variable or in the file than as a flag, which other users can see
    #[arg(value_name = "TOKEN", hide_env_values = true)]
    worker_token: String = "SHOAL_WORKER_TOKEN",
    /// File of tokens external workers show, one a line; it is read again when it changes, so that a new token can be added before the old one is taken away
    #[arg(value_name = "FILE")]
    worker_token_file: PathBuf = "SHOAL_WORKER_TOKEN_FILE",
    /// Certificate, in PEM, by which the ports for clients and for admin calls speak TLS, with those that lead to its authority; read again when it changes. The port for metrics and probes stays as it is
    #[arg(value_name = "FILE")]
    tls_cert: PathBuf = "SHOAL_TLS_CERT",
    /// The certificate's key, in PEM
    #[arg(value_name = "FILE")]
    tls_key: PathBuf = "SHOAL_TLS_KEY",
    /// Authorities, in PEM, by one of which clients' certificates must be signed; clients must show one then, unless --tls-client-auth says otherwise
    #[arg(value_name = "FILE")]
    tls_client_ca: PathBuf = "SHOAL_TLS_CLIENT_CA",
    /// Whether clients must show a certificate [default: required]
    #[arg(value_enum)]
    tls_client_auth: ClientAuth = "SHOAL_TLS_CLIENT_AUTH",
    /// Certificate, in PEM, by which the port that external workers dial speaks TLS; read again when it changes
    #[arg(value_name = "FILE")]
    link_tls_cert: PathBuf = "SHOAL_LINK_TLS_CERT",
    /// The certificate's key, in PEM
    #[arg(value_name = "FILE")]
    link_tls_key: PathBuf = "SHOAL_LINK_TLS_KEY",
    /// Authorities, in PEM, by one of which workers' certificates must be signed; with it a worker needs no token, unless one is set
    #[arg(value_name = "FILE")]
    link_tls_client_ca: PathBuf = "SHOAL_LINK_TLS_CLIENT_CA",
    /// Whether external workers serve other servers as well: each then works for all that it is told to connect to, as if they were one. For `--workers external` alone [default: false]
    #[arg(value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    share_workers: bool = "SHOAL_SHARE_WORKERS",
    /// What local workers compute on [default: auto]
    #[arg(value_enum)]
    device: Device = "SHOAL_DEVICE",
    /// Instructions local workers compute with on the processor; less than it has only to compare [default: auto]
    #[arg(value_enum)]
    cpu_isa: CpuIsa = "SHOAL_CPU_ISA",
    /// Compute threads of each local worker. Fewer leave processors to the server and to other workers [default: all]
    #[arg(value_name = "N")]
    worker_threads: NonZeroUsize = "SHOAL_WORKER_THREADS",
    /// Tokens in one batch at most. Larger batches raise throughput until the device is busy, and make whoever comes next wait for longer [default: 2048 on a CPU, 16384 on a GPU]
    #[arg(value_name = "N")]
    worker_batch_tokens: NonZeroU32 = "SHOAL_WORKER_BATCH_TOKENS",
    /// Threads that carry calls. One carries tens of thousands of small calls per second; each more takes a processor from the models [default: a quarter of the processors, 8 at most]
    #[arg(value_name = "N")]
    server_threads: NonZeroUsize = "SHOAL_SERVER_THREADS",
    /// Threads that tokenise [default: half the processors]
    #[arg(value_name = "N")]
    tokenizer_threads: NonZeroUsize = "SHOAL_TOKENIZER_THREADS",
    /// Folder that keeps models and tokenizers [default: the platform's cache folder]
    #[arg(value_name = "FOLDER")]
    home: PathBuf = "SHOAL_HOME",
    /// Whether clients may load and unload models and change settings over gRPC [default: none]
    #[arg(value_enum)]
    model_control: ModelControl = "SHOAL_MODEL_CONTROL",
    /// Bytes of models that each worker holds at most: those loaded on demand make room, who was called longest ago first [default: no limit]
    #[arg(value_name = "BYTES")]
    resident_bytes_max: NonZeroU64 = "SHOAL_RESIDENT_BYTES_MAX",
    /// How long a stop waits for calls before it ends them [default: 30s]
    #[arg(value_name = "TIME")]
    drain_time_max: HumanDuration = "SHOAL_DRAIN_TIME_MAX",
    /// What to log: error, warn, info, debug, trace, or per module such as info,shoal_server=debug [default: info]
    #[arg(value_name = "FILTER")]
    log: String = "SHOAL_LOG",
    /// How log lines look [default: text]
    #[arg(value_enum)]
    log_format: LogFormat = "SHOAL_LOG_FORMAT",
    /// Collector that spans are sent to over OTLP/gRPC, such as http://127.0.0.1:4317; `off` sends none [default: that of OTEL_EXPORTER_OTLP_ENDPOINT, else off]
    #[arg(value_name = "URL|off")]
    otlp_endpoint: OtlpEndpoint = "SHOAL_OTLP_ENDPOINT",
    /// File of headers for the collector, such as its token: `name: value` on each line [default: those of OTEL_EXPORTER_OTLP_HEADERS]
    #[arg(value_name = "FILE")]
    otlp_headers_file: PathBuf = "SHOAL_OTLP_HEADERS_FILE",
    /// Certificates, in PEM, of whoever vouches for a collector at https:// [default: those of the web]
    #[arg(value_name = "FILE")]
    otlp_ca_file: PathBuf = "SHOAL_OTLP_CA_FILE",
    /// Part of the calls whose spans are sent, from 0 to 1. Callers that send a traceparent decide for themselves [default: 0.01]
    #[arg(value_name = "PART")]
    trace_sample: Sample = "SHOAL_TRACE_SAMPLE",
    /// Other calls whose spans are sent, ten a second of each kind at most: those that failed (errors), those that missed their model's slo (late), or none [default: errors,late]
    #[arg(value_name = "errors,late|none")]
    trace_keep: KeepRule = "SHOAL_TRACE_KEEP",
    /// Metadata key, and HTTP header, whose value names the tenant [default: x-shoal-tenant]
    #[arg(value_name = "KEY")]
    tenant_key: String = "SHOAL_TENANT_KEY",
    /// Texts in one call at most; over HTTP inputs of any kind, and never more than 2048. One call is admitted, fails and is answered whole, so a larger one waits longer and risks more [default: 2048]
    #[arg(value_name = "N")]
    call_texts_max: NonZeroUsize = "SHOAL_CALL_TEXTS_MAX",
    /// Rows of tensors in one call at most [default: 8192]
    #[arg(value_name = "N")]
    call_rows_max: NonZeroUsize = "SHOAL_CALL_ROWS_MAX",
    /// Bytes of one call's message at most [default: 16 MiB]
    #[arg(value_name = "BYTES")]
    call_bytes_max: NonZeroUsize = "SHOAL_CALL_BYTES_MAX",
    /// Client connections open at once on each port; more wait to be accepted [default: 4096]
    #[arg(value_name = "N")]
    connections_max: NonZeroUsize = "SHOAL_CONNECTIONS_MAX",
    /// How old a client's connection may be, a tenth more or less: its calls are answered, and the client connects anew, to servers that came after it as well [default: no limit]
    #[arg(value_name = "TIME")]
    connection_age_max: HumanDuration = "SHOAL_CONNECTION_AGE_MAX",
    /// Rows one tenant may have queued. Lower keeps one tenant from filling the queue [default: 65536]
    #[arg(value_name = "N")]
    tenant_requests_max: u32 = "SHOAL_TENANT_REQUESTS_MAX",
    /// Rows of one class that may be queued [default: 131072]
    #[arg(value_name = "N")]
    class_requests_max: u32 = "SHOAL_CLASS_REQUESTS_MAX",
    /// Bytes of payload that may be queued [default: 1 GiB]
    #[arg(value_name = "BYTES")]
    queue_bytes_max: u64 = "SHOAL_QUEUE_BYTES_MAX",
    /// How often a row is sent to a worker before its call fails [default: 3]
    #[arg(value_name = "N")]
    attempts_max: NonZeroU16 = "SHOAL_ATTEMPTS_MAX",
}
