//! The gRPC service workers dial: who is admitted, and which data stream belongs to which session.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_proto::link::limits::{PROTOCOL, PROTOCOL_MIN};
use shoal_proto::link::{self as wire, data_request};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::driver::Handle;

use super::guest::{Connection, LinkPeer};
use super::session::Session;
use super::tokens::{Origin, Tokens};

/// Control messages on their way to a worker. A worker that does not take them is stuck.
const CONTROL_QUEUE: usize = 256;
/// Data frames on their way to a worker; the writer waits beyond that.
const DATA_QUEUE: usize = 8;

/// Times and limits of the link.
#[derive(Clone, Copy, Debug)]
pub struct LinkOptions {
    /// How often both sides say that they are there.
    pub heartbeat_interval: Duration,
    /// Silence after which a worker counts as lost.
    pub silence_max: Duration,
    /// How long a new connection may take to introduce itself and attach.
    pub hello_time_max: Duration,
    /// Connections at once that have not introduced themselves; more wait to be accepted. Those over a Unix socket are the
    /// user's own, and take no place.
    pub strangers_max: usize,
    /// Workers connected at once.
    pub workers_max: usize,
    /// Workers serve other servers as well: they are told what waits, and give turns instead of credits.
    pub shares_workers: bool,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(500),
            silence_max: Duration::from_secs(3),
            hello_time_max: Duration::from_secs(5),
            strangers_max: 1024,
            workers_max: 1024,
            shares_workers: false,
        }
    }
}

/// The gRPC service workers dial.
#[derive(Clone, Debug)]
pub struct LinkService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) driver: Handle,
    pub(super) options: LinkOptions,
    pub(super) tokens: Tokens,
    pub(super) next_epoch: AtomicU64,
    /// Tells this life of the server from others.
    pub(super) server: u64,
    /// Sessions that said Hello and wait for their data stream.
    pub(super) waiting: Mutex<HashMap<u64, Waiting>>,
    /// Who holds each name of a worker.
    pub(super) live: Mutex<HashMap<String, Live>>,
}

/// The holder of a worker's name, for as long as it has a session: attached, or let in and not attached yet. It may have
/// several: a worker that dials a server at two of its addresses says Hello at the second before it finds that it is
/// attached already.
#[derive(Debug)]
pub(super) struct Live {
    epochs: Vec<u64>,
    incarnation: u64,
    child: bool,
}

/// A session without its data stream yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) worker: String,
    /// Of the connection that it said Hello on.
    pub(super) peer: LinkPeer,
    pub(super) attach: oneshot::Sender<DataEnds>,
}

/// What a worker was let in as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    /// The version that is spoken from now on.
    pub(super) protocol: u32,
    pub(super) epoch: u64,
    pub(super) origin: Origin,
}

/// Both ends of an attached data stream.
#[derive(Debug)]
pub(super) struct DataEnds {
    pub(super) requests: Streaming<wire::DataRequest>,
    pub(super) responses: mpsc::Sender<Result<wire::DataResponse, Status>>,
}

pub(super) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl LinkService {
    pub(super) fn options(&self) -> &LinkOptions {
        &self.shared.options
    }

    /// A service that tells `driver` of workers.
    pub fn new(driver: Handle, options: LinkOptions, tokens: Tokens) -> Self {
        let shared = Shared {
            driver,
            options,
            tokens,
            next_epoch: AtomicU64::new(1),
            server: rand::random(),
            waiting: Mutex::default(),
            live: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }
}

#[tonic::async_trait]
impl wire::worker_link_server::WorkerLink for LinkService {
    type ControlStream = Responses<wire::ControlResponse>;
    type DataStream = Responses<wire::DataResponse>;

    async fn control(
        &self,
        request: Request<Streaming<wire::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let (responses, stream) = mpsc::channel(CONTROL_QUEUE);
        let session = Session {
            shared: self.shared.clone(),
            connection: connection(&request),
            requests: request.into_inner(),
            responses,
            has_gpu: false,
            tells_weights: false,
        };
        tokio::spawn(session.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn data(&self, request: Request<Streaming<wire::DataRequest>>) -> Result<Response<Self::DataStream>, Status> {
        let Connection { peer, place } = connection(&request);
        let mut requests = request.into_inner();
        let first = timeout(self.shared.options.hello_time_max, requests.message());
        let first = first.await.map_err(|_| Status::deadline_exceeded("no Attach came"))??;
        let Some(data_request::Message::Attach(attach)) = first.and_then(|request| request.message) else {
            return Err(Status::invalid_argument("the first message on Data must be Attach"));
        };
        if self.shared.tokens.check(&attach.worker, &attach.auth, peer.certificate.is_some()).is_none() {
            return Err(Status::unauthenticated("`auth` is not a token of this server"));
        }
        let Some(waiting) = self.shared.take_waiting(attach.epoch, &attach.worker, peer) else {
            return Err(Status::failed_precondition(
                "`epoch` names no session of `worker` that waits for its data stream",
            ));
        };
        place.leave();
        let (responses, stream) = mpsc::channel(DATA_QUEUE);
        let ends = DataEnds { requests, responses };
        waiting.attach.send(ends).map_err(|_| Status::aborted("the session ended"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// What a call came on.
fn connection<T>(request: &Request<T>) -> Connection {
    request.extensions().get::<Connection>().cloned().unwrap_or_default()
}

/// The latest version that both ends speak, of those from the first to the second of each.
pub(super) fn agreed(own: (u32, u32), theirs: (u32, u32)) -> Option<u32> {
    let latest = own.1.min(theirs.1);
    (latest >= own.0.max(theirs.0)).then_some(latest)
}

/// A poisoned lock means that a panic is already under way; the maps behind it are whole all the same.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Lets a worker in, or says why not.
    pub(super) fn admit(
        &self,
        hello: &wire::Hello,
        peer: LinkPeer,
    ) -> Result<Admitted, (wire::refused::Reason, String)> {
        use wire::refused::Reason;
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        let Some(protocol) = agreed((PROTOCOL_MIN, PROTOCOL), (min, max)) else {
            let detail =
                format!("this server speaks protocols {PROTOCOL_MIN} to {PROTOCOL}, the worker {min} to {max}");
            return Err((Reason::Protocol, detail));
        };
        if self.options.shares_workers && !hello.knows_turns {
            let detail =
                "this server shares its workers (share_workers), of which the worker knows nothing: it is older";
            return Err((Reason::Protocol, detail.into()));
        }
        if hello.worker.is_empty() || hello.worker.len() > 256 {
            return Err((Reason::NameTaken, "`worker` must have 1 to 256 bytes".into()));
        }
        let Some(origin) = self.tokens.check(&hello.worker, &hello.auth, peer.certificate.is_some()) else {
            return Err((Reason::Auth, "`auth` is not a token of this server".into()));
        };
        let mut live = lock(&self.live);
        if live.len() >= self.options.workers_max && !live.contains_key(&hello.worker) {
            let detail = format!("{} workers are connected, the most this server takes", self.options.workers_max);
            return Err((Reason::TooManyWorkers, detail));
        }
        // A child's name is its own by its token; anyone else must be the same process that holds the name.
        if let Some(holder) = live.get(&hello.worker)
            && !holder.child
            && holder.incarnation != hello.incarnation
        {
            return Err((Reason::NameTaken, format!("another worker is connected as `{}`", hello.worker)));
        }
        let epoch = self.next_epoch.fetch_add(1, Ordering::Relaxed);
        let mut epochs = live.remove(&hello.worker).map(|holder| holder.epochs).unwrap_or_default();
        epochs.push(epoch);
        let holder = Live { epochs, incarnation: hello.incarnation, child: origin == Origin::Child };
        live.insert(hello.worker.clone(), holder);
        Ok(Admitted { protocol, epoch, origin })
    }

    /// The session that a worker opened under an epoch; another worker's stays where it is, as does one that was opened
    /// with another certificate.
    pub(super) fn take_waiting(&self, epoch: u64, worker: &str, peer: LinkPeer) -> Option<Waiting> {
        let mut waiting = lock(&self.waiting);
        waiting.get(&epoch).filter(|waiting| waiting.worker == worker && waiting.peer == peer)?;
        waiting.remove(&epoch)
    }

    /// A session is over. The name is free when it was the last of its worker.
    pub(super) fn forget(&self, name: &str, epoch: u64) {
        let mut live = lock(&self.live);
        let Some(holder) = live.get_mut(name) else { return };
        holder.epochs.retain(|held| *held != epoch);
        if holder.epochs.is_empty() {
            live.remove(name);
        }
    }
}
