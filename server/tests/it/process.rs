//! A server of its own for each test: the real binary on free ports, ended when the test is.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use shoal_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use shoal_proto::v1::inference_client::InferenceClient;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The `shoal` binary of this build, or the one that `SHOAL_TEST_BINARY` names.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("SHOAL_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_shoal").into(), PathBuf::from)
}

/// A running `shoal serve`.
pub(crate) struct Shoal {
    child: Child,
    pub(crate) grpc: String,
    /// Empty where it serves no HTTP.
    pub(crate) http: String,
    pub(crate) metrics: String,
    /// Empty where it takes no admin calls.
    pub(crate) admin: String,
    /// Empty where it does not answer KEDA.
    pub(crate) scaler: String,
    lines: mpsc::Receiver<String>,
    log: Log,
    /// Folders of this server; gone with it.
    scratch: Vec<tempfile::TempDir>,
}

/// What a process writes to standard error.
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// Reads until the process and all that it started are gone.
    reading: thread::JoinHandle<()>,
}

impl Log {
    fn read(from: impl std::io::Read + Send + 'static) -> Self {
        let lines = Arc::default();
        let reading = thread::spawn({
            let lines: Arc<Mutex<Vec<String>>> = Arc::clone(&lines);
            move || {
                for text in BufReader::new(from).lines().map_while(Result::ok) {
                    eprintln!("{text}");
                    lines.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                }
            }
        });
        Self { lines, reading }
    }

    fn has(&self, part: &str) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().any(|line| line.contains(part))
    }

    /// All of it, once nothing more can come.
    fn whole(self) -> Vec<String> {
        self.reading.join().expect("log");
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Has a failpoint hold what comes by, until it is told to let go. A worker whose connection is held for three seconds dials
/// anew.
pub(crate) struct Hold(tempfile::TempDir);

impl Hold {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("folder"))
    }

    /// What the failpoint is to do.
    pub(crate) fn action(&self) -> String {
        format!("until({})", self.file().display())
    }

    pub(crate) fn release(&self) {
        std::fs::write(self.file(), "").expect("a file");
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("go")
    }
}

/// A command that touches nothing of the user's.
pub(crate) fn shoal(home: &Path) -> Command {
    let mut command = Command::new(binary());
    command.env("SHOAL_HOME", home).env_remove("SHOAL_LOG").stdin(Stdio::null());
    // Nobody gets in another's way, whatever flags a test gives.
    command.env("SHOAL_HTTP_PORT", "0");
    // Nor does one send anything to somebody's collector.
    for name in ["ENDPOINT", "TRACES_ENDPOINT", "HEADERS"] {
        command.env_remove(format!("OTEL_EXPORTER_OTLP_{name}"));
    }
    command
}

impl Shoal {
    /// Serves what `args` say, and returns once it says that it does.
    pub(crate) fn serve(args: &[&str]) -> Self {
        let scratch = tempfile::tempdir().expect("folder");
        let mut server = Self::serve_in(scratch.path(), args);
        server.scratch.push(scratch);
        server
    }

    /// As [`Self::serve`], with these failpoints, which only batches of calls come by.
    pub(crate) fn serve_with(failpoints: &str, args: &[&str]) -> Self {
        let scratch = tempfile::tempdir().expect("folder");
        let mut command = shoal(scratch.path());
        command.env("SHOAL_FAILPOINTS", format!("probe=drop;{failpoints}"));
        let mut server = Self::serving(command, args);
        server.scratch.push(scratch);
        server
    }

    /// As [`Self::serve`], on so many emulated GPUs. One breaks when it is to run a kernel and finds the file `fault`, which
    /// it takes away. Only batches of calls are run: each takes the emulator long.
    pub(crate) fn serve_on_gpus(count: u32, fault: &Path, args: &[&str]) -> Self {
        let scratch = tempfile::tempdir().expect("folder");
        let mut command = shoal(scratch.path());
        command.env("SHOAL_EMULATED_GPUS", count.to_string()).env("SHOAL_EMULATED_FAULT", fault);
        command.env("SHOAL_FAILPOINTS", "probe=drop");
        let mut server = Self::serving(command, args);
        server.scratch.push(scratch);
        server
    }

    /// As [`Self::serve`], with models in `home`.
    pub(crate) fn serve_in(home: &Path, args: &[&str]) -> Self {
        Self::serving(shoal(home), args)
    }

    fn serving(mut command: Command, args: &[&str]) -> Self {
        command.args(["serve", "--grpc-port", "0", "--metrics-port", "0"]).args(args);
        let mut server = Self::spawn(command);
        server.read_addresses();
        server
    }

    /// Returns once it says that it serves, and where.
    pub(crate) fn read_addresses(&mut self) {
        let serving = self.line_with("gRPC on ");
        // "gRPC on 127.0.0.1:1, HTTP on 127.0.0.1:2, metrics and probes on http://127.0.0.1:3, workers: 1 local"
        let words: Vec<&str> = serving.split([' ', ',']).collect();
        self.grpc = words[2].to_owned();
        let http = words.iter().position(|word| *word == "HTTP").map(|at| words[at + 2].to_owned());
        self.http = http.unwrap_or_default();
        let metrics = words.iter().find_map(|word| word.strip_prefix("http://"));
        self.metrics = metrics.expect("the metrics address").to_owned();
        let admin = words.iter().position(|word| *word == "admin").map(|at| words[at + 3].to_owned());
        self.admin = admin.unwrap_or_default();
        let scaler = words.iter().position(|word| *word == "KEDA").map(|at| words[at + 3].to_owned());
        self.scaler = scaler.unwrap_or_default();
    }

    /// Starts a command and collects what it prints.
    pub(crate) fn spawn(mut command: Command) -> Self {
        // Its own, since a server that is killed cannot clean up.
        let temporary = tempfile::tempdir().expect("folder");
        let mut child = command
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("shoal starts");
        let (line, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("stdout"));
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        let log = Log::read(child.stderr.take().expect("stderr"));
        Self {
            child,
            grpc: String::new(),
            http: String::new(),
            metrics: String::new(),
            admin: String::new(),
            scaler: String::new(),
            lines,
            log,
            scratch: vec![temporary],
        }
    }

    /// The next line of standard output that has `text` in it.
    pub(crate) fn line_with(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(_) => {
                    let status = self.child.try_wait();
                    panic!("shoal never printed `{text}`; its status is {status:?}");
                }
            }
        }
    }

    /// Process ids of its local workers.
    pub(crate) fn workers(&self) -> Vec<u32> {
        children_of(self.child.id())
    }

    /// Process ids of its local workers once there are `count` that are none of `but`.
    pub(crate) fn wait_for_workers(&self, count: usize, but: &[u32]) -> Vec<u32> {
        wait_for("workers", || {
            let mut workers = self.workers();
            workers.retain(|pid| !but.contains(pid));
            (workers.len() == count).then_some(workers)
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, and returns what it logged.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it runs");
        self.take_log()
    }

    /// Asks it to stop, and returns how it ended and what it logged.
    pub(crate) fn stop(self) -> (ExitStatus, Vec<String>) {
        let workers = self.workers();
        signal(self.child.id(), rustix::process::Signal::TERM);
        self.ended(&workers)
    }

    /// Waits for the end of one that was asked to stop when it had these workers.
    pub(crate) fn ended(mut self, workers: &[u32]) -> (ExitStatus, Vec<String>) {
        let status = wait_for("the end of the server", || self.child.try_wait().expect("status"));
        for pid in workers {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "worker {pid} outlived its server");
        }
        (status, self.take_log())
    }

    /// Of one that has ended.
    fn take_log(&mut self) -> Vec<String> {
        std::mem::replace(&mut self.log, Log::read(std::io::empty())).whole()
    }

    /// Returns once it has logged a line with `part` in it.
    pub(crate) fn wait_for_log(&self, part: &str) {
        wait_for(part, || self.log.has(part).then_some(()));
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).expect("endpoint");
        endpoint.connect().await.expect("connection")
    }

    /// The status of a call made without a gRPC library, with just these headers.
    pub(crate) async fn raw_status(
        &self,
        path: &str,
        headers: &[(&'static str, &'static str)],
        message: &impl prost::Message,
    ) -> tonic::Code {
        let mut sender = self.raw_connection().await;
        let response = sender.send_request(raw_request(&self.grpc, path, headers, message)).await.expect("response");
        raw_answer(response).await.expect("an answer").0
    }

    /// A connection of its own, without a gRPC library that would mend it.
    pub(crate) async fn raw_connection(&self) -> SendRequest<Full<Bytes>> {
        let stream = tokio::net::TcpStream::connect(&self.grpc).await.expect("connection");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("handshake");
        tokio::spawn(connection);
        sender
    }

    pub(crate) async fn inference(&self) -> InferenceClient<Channel> {
        InferenceClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub(crate) async fn oip(&self) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    /// A page of the admin port: its status line and its text.
    pub(crate) fn page(&self, path: &str) -> (String, String) {
        page(&self.metrics, path)
    }

    /// How often a worker's process was started again.
    pub(crate) fn restarts(&self) -> f64 {
        let (_, page) = self.page("/metrics");
        let lines = page.lines().filter_map(|line| line.strip_prefix("shoal_worker_restarts_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The value of a metric that is not on the page before it first counts.
    pub(crate) fn metric_or_zero(&self, name: &str) -> f64 {
        let [value] = self.metrics_or_zero([name]);
        value
    }

    /// Several such, of one moment.
    pub(crate) fn metrics_or_zero<const N: usize>(&self, names: [&str; N]) -> [f64; N] {
        let (_, page) = self.page("/metrics");
        let value = |name| page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        names.map(|name| value(name).unwrap_or(0.0))
    }

    /// The value of a metric, written as on the page.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, page) = self.page("/metrics");
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no metric {name} on\n{page}"))
    }
}

/// A page of the admin port at `address`: its status line and its text.
pub(crate) fn page(address: &str, path: &str) -> (String, String) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).expect("admin port");
    stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("page");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// The answer of the HTTP port at `address` to this JSON, its head included.
pub(crate) fn post(address: &str, path: &str, json: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).expect("HTTP port");
    stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{json}", json.len()).expect("request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// A call for the server at `address`.
pub(crate) fn raw_request(
    address: &str,
    path: &str,
    headers: &[(&'static str, &'static str)],
    message: &impl prost::Message,
) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(framed(message))).expect("request")
}

/// A message as it goes over the wire.
pub(crate) fn framed(message: &impl prost::Message) -> Bytes {
    let mut frame = vec![0; 5];
    message.encode(&mut frame).expect("a vector grows");
    let length = (frame.len() - 5) as u32;
    frame[1..5].copy_from_slice(&length.to_be_bytes());
    frame.into()
}

/// The status of an answer, and its first message's bytes.
pub(crate) async fn raw_answer(response: http::Response<Incoming>) -> hyper::Result<(tonic::Code, Bytes)> {
    let in_head = response.headers().get("grpc-status").cloned();
    let body = response.into_body().collect().await?;
    let trailers = body.trailers().cloned();
    let status = in_head.or_else(|| trailers?.get("grpc-status").cloned()).expect("a status");
    let bytes = body.to_bytes();
    Ok((tonic::Code::from_bytes(status.as_bytes()), bytes.slice(bytes.len().min(5)..)))
}

impl Drop for Shoal {
    fn drop(&mut self) {
        // Its workers end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("signal");
}

/// Children of a process, over all its threads.
fn children_of(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let read = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let lists: Vec<String> = tasks.filter_map(Result::ok).map(read).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

/// Asks again and again, for things that have no event to wait for.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(found) = ask() {
            return found;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} never came");
}

/// The folder models are kept in between test runs.
pub(crate) fn shared_home() -> PathBuf {
    match std::env::var_os("SHOAL_HOME") {
        Some(home) => home.into(),
        None => shoal_server::models::Store::from_env().expect("a home").home().to_owned(),
    }
}
