//! `shoal worker`: its arguments, checked and put in plain words for the binary to start the role with.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::Args;

use crate::config::{CpuIsa, Device};
use crate::models::{ModelArg, Place};
use crate::telemetry::LogFormat;

/// Arguments of `shoal worker`.
#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// The server to work for: http://HOST:8003, https://HOST:8003 for TLS, or unix:PATH. May be given several times, or list several with commas:
    /// the worker then serves all of them at once, which have to share it (`shoal serve --share-workers`). A name stands
    /// for every address that it is found to have, and is looked up again every few seconds.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SHOAL_CONNECT",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8003"
    )]
    pub connect: Vec<String>,
    /// This worker's name, unique among the workers of a server [default: host name and process id]
    #[arg(long, env = "SHOAL_WORKER_NAME")]
    pub name: Option<String>,
    /// Which workers it is one of, of those that are scaled together: metrics and KEDA are told of each pool.
    #[arg(long, value_name = "NAME", env = "SHOAL_WORKER_POOL", default_value = "default", value_parser = pool_name)]
    pub pool: String,
    /// The token the server expects; better given as a variable than as a flag, which other users can see.
    #[arg(long, env = "SHOAL_WORKER_TOKEN", hide_env_values = true, default_value = "")]
    pub worker_token: String,
    /// File whose first line is that token; it is read again for each connection.
    #[arg(long, value_name = "FILE", env = "SHOAL_WORKER_TOKEN_FILE", conflicts_with = "worker_token")]
    pub token_file: Option<PathBuf>,
    /// Authorities, in PEM, by one of which the server's certificate must be signed; read again for each connection, as
    /// the two files below are.
    #[arg(long, value_name = "FILE", env = "SHOAL_WORKER_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
    /// This worker's certificate, in PEM, for servers that ask for one.
    #[arg(long, value_name = "FILE", env = "SHOAL_WORKER_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM.
    #[arg(long, value_name = "FILE", env = "SHOAL_WORKER_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Name that the server's certificate must have [default: the host of --connect]
    #[arg(long, value_name = "NAME", env = "SHOAL_WORKER_TLS_SERVER_NAME")]
    pub tls_server_name: Option<String>,
    #[arg(long = "model", value_name = "MODEL", help = ModelArg::HELP)]
    /// Models this worker can load by itself.
    pub models: Vec<ModelArg>,
    /// What to compute on.
    #[arg(long, value_enum, env = "SHOAL_DEVICE", default_value_t = Device::Auto)]
    pub device: Device,
    /// Which GPU, by its number or UUID in `shoal devices`. One named by its UUID is used or nothing is: another may get
    /// its number once it is gone [default: the first]
    #[arg(long, value_name = "N|UUID", env = "SHOAL_GPU", default_value = "0", hide_default_value = true)]
    pub gpu: String,
    /// Workers on that GPU, this one among them: each takes at most its part of the memory.
    #[arg(long, value_name = "N", env = "SHOAL_GPU_WORKERS", default_value_t = NonZeroU32::MIN)]
    pub gpu_workers: NonZeroU32,
    /// Instructions to compute with on the processor; less than it has only to compare.
    #[arg(long, value_enum, env = "SHOAL_CPU_ISA", default_value_t = CpuIsa::Auto)]
    pub cpu_isa: CpuIsa,
    /// Compute threads. Fewer leave processors to others [default: all]
    #[arg(long, value_name = "N", env = "SHOAL_WORKER_THREADS")]
    pub worker_threads: Option<NonZeroUsize>,
    /// Tokens in one batch at most. Larger batches raise throughput until the device is busy, and make whoever comes
    /// next wait for longer [default: 2048 on a CPU, 16384 on a GPU]
    #[arg(long, value_name = "N", env = "SHOAL_WORKER_BATCH_TOKENS")]
    pub worker_batch_tokens: Option<NonZeroU32>,
    /// What to log.
    #[arg(long, value_name = "FILTER", env = "SHOAL_LOG", default_value = "info")]
    pub log: String,
    /// How log lines look.
    #[arg(long, value_enum, env = "SHOAL_LOG_FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Process id of the server that started this worker; the token comes on standard input.
    #[arg(long, value_name = "PID", hide = true)]
    pub child_of: Option<u32>,
}

/// A name of a pool: what Kubernetes takes for a label, in lower case.
fn pool_name(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [text.as_bytes().first(), text.as_bytes().last()];
    let is_name = text.len() <= 63
        && text.bytes().all(|byte| is_part(byte) || byte == b'-')
        && ends.into_iter().all(|end| end.copied().is_some_and(is_part));
    let problem = "must be 1 to 63 lower-case letters, digits and `-`, the first and last no `-`";
    is_name.then(|| text.to_owned()).ok_or_else(|| problem.to_owned())
}

/// What a child reads from its parent.
#[derive(Debug)]
pub struct StandardInput {
    /// The token made for it.
    pub token: String,
}

impl StandardInput {
    /// Reads the token from the first line.
    ///
    /// # Errors
    /// When the parent is gone or sent none.
    pub fn read() -> anyhow::Result<Self> {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        let token = line.trim_end().to_owned();
        anyhow::ensure!(!token.is_empty(), "no token came on standard input: was this worker started by a server?");
        Ok(Self { token })
    }
}

impl WorkerArgs {
    /// The name, made up where none was given.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            format!("{host}-{}", std::process::id())
        })
    }

    /// Where kernels are kept once they are compiled; nowhere when there is no home for them.
    pub fn kernels(&self) -> Option<PathBuf> {
        super::store(None).ok().map(|store| store.home().join("kernels"))
    }

    /// Finds the files of each model, pulling what is missing.
    ///
    /// # Errors
    /// The first model that cannot be found.
    pub fn find_models(&self) -> anyhow::Result<Vec<(String, Place)>> {
        let mut args = self.models.clone();
        if args.is_empty() && self.child_of.is_none() {
            args = super::models_of_environment()?;
        }
        if args.is_empty() {
            return Ok(Vec::new());
        }
        let store = super::store(None)?;
        args.iter().map(|arg| Ok((arg.name.to_string(), super::find(&store, &arg.source)?.place))).collect()
    }
}
