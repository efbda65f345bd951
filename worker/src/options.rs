//! What a worker is started with.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::Uri;

use crate::{CpuIsa, ModelSource, Resolver};

/// Everything `run` needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where servers listen for workers. A name stands for every server that it is an address of. Several servers are served
    /// at once, if all of them share their workers.
    pub connect: Vec<Endpoint>,
    /// How names are looked up,
    pub resolver: Resolver,
    /// and how often. A new server waits for its workers so long at most.
    pub resolve_every: Duration,
    /// How long a turn waits for the answers of servers that share this worker. One that is there answers in a round trip;
    /// one that is not costs each model that long once, since what it wanted is taken back with the turn.
    pub turn_wait_max: Duration,
    /// The worker's own name, stable across reconnects and unique among workers of one server.
    pub name: String,
    /// The token the server gave to this child, or the cluster's shared token.
    pub auth: Auth,
    /// How TLS is spoken, where `connect` says that it is.
    pub tls: TlsFiles,
    /// What to compute on.
    pub device: DeviceChoice,
    /// Which GPU, of those that the driver shows this process.
    pub gpu: GpuChoice,
    /// Workers on that GPU, this one among them, each of which takes its part of the memory.
    pub gpu_workers: NonZeroU32,
    /// Where kernels are kept once they are compiled for the GPU; nowhere when unset.
    pub kernels: Option<PathBuf>,
    /// Instructions to compute with on the processor; the best it has when unset.
    pub cpu_isa: Option<CpuIsa>,
    /// Threads to compute on; all the machine offers when unset. Loading, the link and logging run on others.
    pub threads: Option<NonZeroUsize>,
    /// Models this worker has a source for by itself. Empty for a server's own children, which are told a source with
    /// each load.
    pub offers: BTreeMap<String, ModelSource>,
    /// What one batch may hold at most; what suits the device when unset.
    pub budget: Option<Budget>,
    /// How long batches may still run once asked to stop. A server's own drain request brings its own bound.
    pub grace: Duration,
    /// After a connection is lost, how long what it left running may go on before this worker counts as stuck and ends.
    pub stuck_max: Duration,
    /// Process id of the parent this worker must not outlive; unset for one started by hand.
    ///
    /// On Linux the kernel kills the worker when the *thread* that started it ends, so a parent starts it from a thread
    /// that lives as long as itself.
    pub parent: Option<u32>,
    /// Exit when standard input ends, which is what a parent's death looks like on any system.
    pub exit_on_stdin_end: bool,
    /// Which workers it is one of, of those that are scaled together; empty where nobody says.
    pub pool: String,
    /// The program's version, for the server's log.
    pub version: String,
}

impl Options {
    /// For one server, with every default.
    pub fn new(connect: Endpoint, name: impl Into<String>, auth: impl Into<Auth>) -> Self {
        Self::to(vec![connect], name, auth)
    }

    /// For these servers, with every default.
    pub fn to(connect: Vec<Endpoint>, name: impl Into<String>, auth: impl Into<Auth>) -> Self {
        Self {
            connect,
            resolver: Resolver::default(),
            resolve_every: Duration::from_secs(5),
            turn_wait_max: Duration::from_millis(10),
            name: name.into(),
            auth: auth.into(),
            tls: TlsFiles::default(),
            device: DeviceChoice::default(),
            gpu: GpuChoice::default(),
            gpu_workers: NonZeroU32::MIN,
            kernels: None,
            cpu_isa: None,
            threads: None,
            offers: BTreeMap::new(),
            budget: None,
            grace: Duration::from_secs(25),
            stuck_max: Duration::from_secs(60),
            parent: None,
            exit_on_stdin_end: false,
            pool: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Where a server listens for workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// `http://host:port`, or `https://host:port` for TLS.
    Tcp(String),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// An absolute path, `unix:PATH`, `http://host:port` or `https://host:port`.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(EndpointError(text.to_owned()));
            }
            return Ok(Self::Unix(path.into()));
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        match text.parse::<Uri>() {
            Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.port().is_some() => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err(EndpointError(text.to_owned())),
        }
    }
}

impl Endpoint {
    /// Whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp(uri) if uri.starts_with("https://"))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(uri) => f.write_str(uri),
        }
    }
}

/// Text that names no place to connect to.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is neither an absolute path of a Unix socket nor `http://host:port` or `https://host:port`")]
pub struct EndpointError(String);

/// What to compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where there is one that can be used, else the processor.
    #[default]
    Auto,
    Cpu,
    Cuda,
    /// A GPU's kernels on the emulator, for tests: thousands of times slower.
    #[cfg(feature = "emulator")]
    Emulated,
}

/// Which GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuChoice {
    /// By its number, which may be another's once a GPU is gone.
    Number(u32),
    /// By its UUID, as NVIDIA's tools write it. No other will do, and neither will the processor.
    Uuid(String),
}

impl Default for GpuChoice {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl FromStr for GpuChoice {
    type Err = UnknownGpu;

    fn from_str(text: &str) -> Result<Self, UnknownGpu> {
        match text.parse() {
            Ok(number) => Ok(Self::Number(number)),
            Err(_) if text.starts_with("GPU-") || text.starts_with("MIG-") => Ok(Self::Uuid(text.to_owned())),
            Err(_) => Err(UnknownGpu(text.to_owned())),
        }
    }
}

/// Text that names no GPU.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is neither a GPU's number nor its UUID, such as `shoal devices` shows")]
pub struct UnknownGpu(String);

/// What one batch may hold at most. Memory for a batch is bounded by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Rows.
    pub rows: u32,
    /// Tokens of all rows.
    pub tokens: u32,
    /// Bytes of payload.
    pub bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        // A 22M-parameter encoder in bf16 on two processors computes 37,000 tokens/s in batches of 16 tokens, and 42,000
        // from 128 on; on candle it is still a little faster in 4,096 than in 1,024. Beyond about here a larger batch only
        // makes the next one wait.
        Self { rows: 1024, tokens: 2048, bytes: 64 << 20 }
    }
}

impl Budget {
    /// For a GPU, which is not busy with less.
    pub(crate) fn of_gpu() -> Self {
        Self { tokens: 16_384, ..Self::default() }
    }
}

/// What proves this worker to a server, beside its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// This token.
    Token(Secret),
    /// The first token of a file, which is read again for each connection.
    File(PathBuf),
}

impl<T: Into<Secret>> From<T> for Auth {
    fn from(token: T) -> Self {
        Self::Token(token.into())
    }
}

impl Auth {
    /// The token of now.
    pub(crate) fn token(&self) -> Result<Secret, AuthError> {
        let path = match self {
            Self::Token(token) => return Ok(token.clone()),
            Self::File(path) => path,
        };
        let wrong = |problem: String| AuthError { path: path.clone(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let first = text.lines().map(str::trim).find(|line| !line.is_empty());
        first.map(Secret::from).ok_or_else(|| wrong("has no token".to_owned()))
    }
}

/// A file without a token.
#[derive(Debug, thiserror::Error)]
#[error("the token file {path} {problem}", path = path.display())]
pub struct AuthError {
    path: PathBuf,
    problem: String,
}

/// How TLS is spoken to a server. Files are read again for each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities, in PEM, by one of which the server's certificate must be signed. TLS needs it.
    pub ca: Option<PathBuf>,
    /// This worker's certificate and its key, in PEM, for servers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have; that of the address when unset.
    pub server_name: Option<String>,
}

/// Text that no log shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_path_or_a_place_with_a_port() {
        assert_eq!("/run/s.sock".parse::<Endpoint>().unwrap(), Endpoint::Unix("/run/s.sock".into()));
        assert_eq!("unix:s.sock".parse::<Endpoint>().unwrap(), Endpoint::Unix("s.sock".into()));
        assert_eq!("http://[::1]:8003".parse::<Endpoint>().unwrap(), Endpoint::Tcp("http://[::1]:8003".into()));
        let tls = "https://shoal.example:8003".parse::<Endpoint>().unwrap();
        assert!(tls.is_tls() && !"http://a:1".parse::<Endpoint>().unwrap().is_tls());
        for bad in ["", "unix:", "host:8003", "http://", "http://host", "https://host", "ftp://host:1"] {
            let error = bad.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn a_gpu_is_named_by_its_number_or_its_uuid() {
        assert_eq!("3".parse::<GpuChoice>().unwrap(), GpuChoice::Number(3));
        for uuid in ["GPU-00112233-4455-6677-8899-aabbccddeeff", "MIG-00112233-4455-6677-8899-aabbccddeeff"] {
            assert_eq!(uuid.parse::<GpuChoice>().unwrap(), GpuChoice::Uuid(uuid.to_owned()));
        }
        for bad in ["", "-1", "first", "0,1"] {
            let error = bad.parse::<GpuChoice>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn the_token_is_the_first_of_its_file_whatever_that_holds_by_then() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let auth = Auth::File(file.path().to_owned());
        for (text, token) in [("old\n", "old"), ("\n new \nold\n", "new")] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(auth.token().unwrap(), Secret::from(token));
        }
        std::fs::write(file.path(), "\n").unwrap();
        let told = auth.token().unwrap_err().to_string();
        assert!(told.contains(file.path().to_str().unwrap()) && told.ends_with("has no token"), "{told}");
        assert!(Auth::File("/nowhere".into()).token().unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let options = Options::new(Endpoint::Unix("/s".into()), "w", "hunter2");
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
