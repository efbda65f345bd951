//! A hub on a free loopback port that answers as a test says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// One request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub path: String,
    /// First byte of the range asked for.
    pub from: Option<u64>,
    pub authorization: Option<String>,
}

impl Request {
    /// Below the model's folder.
    pub(super) fn file(&self) -> &str {
        // /org/model/resolve/revision/file
        self.path.splitn(6, '/').nth(5).unwrap_or_default()
    }
}

pub(super) enum Reply {
    Status(u16),
    /// The file from this byte on; 206 unless it is the first.
    File {
        bytes: Vec<u8>,
        from: u64,
    },
    /// States the whole length, sends so many bytes, closes.
    Cut {
        bytes: Vec<u8>,
        after: usize,
    },
    /// States the whole length, sends so many bytes, and no more while the hub lives.
    Stall {
        bytes: Vec<u8>,
        after: usize,
    },
    /// Answers nothing while the hub lives.
    Hang,
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

struct Shared {
    answer: Box<Answer>,
    commit: Mutex<Option<&'static str>>,
    requests: Mutex<Vec<Request>>,
    over: Mutex<bool>,
    is_over: Condvar,
}

pub(super) struct TestHub {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl TestHub {
    pub(super) fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            commit: Mutex::new(None),
            requests: Mutex::new(Vec::new()),
            over: Mutex::new(false),
            is_over: Condvar::new(),
        });
        let accepting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    /// Serves these files, ranges too.
    pub(super) fn serving(files: Vec<(&'static str, Vec<u8>)>) -> Self {
        Self::new(move |request| match files.iter().find(|(name, _)| *name == request.file()) {
            Some((_, bytes)) => Reply::File { bytes: bytes.clone(), from: request.from.unwrap_or(0) },
            None => Reply::Status(404),
        })
    }

    /// Says that everything is of this commit.
    pub(super) fn at_commit(self, commit: &'static str) -> Self {
        *self.shared.commit.lock().unwrap() = Some(commit);
        self
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        *self.shared.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.is_over.notify_all();
        // Wakes the thread that accepts, so that it sees the end.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    for stream in listener.incoming() {
        if *shared.over.lock().unwrap() {
            break;
        }
        let (stream, shared) = (stream.unwrap(), Arc::clone(shared));
        connections.push(std::thread::spawn(move || converse(&stream, &shared)));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// One request, one answer, end. A client that goes away is no error.
fn converse(stream: &TcpStream, shared: &Shared) -> Option<()> {
    let request = read(stream)?;
    shared.requests.lock().unwrap().push(request.clone());
    let commit = match *shared.commit.lock().unwrap() {
        Some(commit) => format!("X-Repo-Commit: {commit}\r\n"),
        None => String::new(),
    };
    let head = |status: &str, length: usize, more: &str| {
        format!("HTTP/1.1 {status}\r\n{commit}{more}Content-Length: {length}\r\nConnection: close\r\n\r\n")
    };
    let send = |head: String, body: &[u8]| {
        let mut stream = stream;
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok()
    };
    match (shared.answer)(&request) {
        Reply::Status(status) => send(head(&format!("{status} As Asked"), 0, ""), b""),
        Reply::File { bytes, from: 0 } => send(head("200 OK", bytes.len(), ""), &bytes),
        Reply::File { bytes, from } => match bytes.get(usize::try_from(from).unwrap()..) {
            Some(rest) if !rest.is_empty() => {
                let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
                send(head("206 Partial Content", rest.len(), &range), rest)
            }
            _ => send(head("416 Range Not Satisfiable", 0, ""), b""),
        },
        Reply::Cut { bytes, after } => send(head("200 OK", bytes.len(), ""), &bytes[..after]),
        Reply::Stall { bytes, after } => {
            send(head("200 OK", bytes.len(), ""), &bytes[..after])?;
            wait(shared)
        }
        Reply::Hang => wait(shared),
    }
}

fn wait(shared: &Shared) -> Option<()> {
    let over = shared.over.lock().unwrap();
    drop(shared.is_over.wait_while(over, |over| !*over).unwrap());
    Some(())
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut request = Request { path: first.split(' ').nth(1)?.to_owned(), from: None, authorization: None };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.from = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}
