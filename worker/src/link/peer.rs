//! One server of a worker: where it is, how the connection to it stands, and what it knows of batches across connections.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use shoal_proto::link::limits::FAREWELL_SECONDS_MAX;
use shoal_proto::link::{ControlResponse, DataRequest, DataResponse, Goodbye, Run, control_request, data_request};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, Sleep, interval, sleep, timeout};
use tokio_stream::Stream as _;
use tokio_util::sync::PollSender;
use tonic::Streaming;

use super::backoff::BackOff;
use super::frames::Assembly;
use super::memory::Held;
use super::register::{Connection, Greeted};
use super::{Leave, LinkError, send};
use crate::Endpoint;
use crate::batch::{BatchError, ServerId};
use crate::run::Exit;
use crate::session::Session;

/// Outgoing data messages above which the executor's news have to wait.
pub(super) const OUTBOX_HIGH: usize = 16;
/// After Goodbye, the server is given so long to read the last results and end the streams.
const FAREWELL_MAX: Duration = Duration::from_secs(FAREWELL_SECONDS_MAX);

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    /// What the endpoint's name was found to stand for; none where it is no name.
    pub(super) address: Option<SocketAddr>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{} ({address})", self.endpoint),
            None => self.endpoint.fmt(f),
        }
    }
}

/// One server, across connections.
pub(super) struct Peer {
    pub(super) id: ServerId,
    pub(super) place: Place,
    /// Its name stands for this address still; once it does not, the end of the connection is the last.
    pub(super) is_listed: bool,
    pub(super) session: Session,
    pub(super) back_off: BackOff,
    pub(super) state: State,
    /// Who it says that it is, while it is greeted, and whether it shares its workers.
    pub(super) identity: Option<Identity>,
    /// It will never have this worker.
    pub(super) refused: Option<Exit>,
    /// Nobody answered when it was dialled last.
    pub(super) is_unanswered: bool,
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// 0 where it does not say.
    pub(super) server: u64,
    pub(super) is_shared: bool,
}

pub(super) type Opening<T> = Pin<Box<dyn Future<Output = Result<T, Leave>> + Send>>;

/// How the connection to a server stands.
pub(super) enum State {
    /// Waits before it is dialled again.
    Resting(Pin<Box<Sleep>>),
    /// Waits for what its last connection left running; until then that is not taken for hung.
    Settling(tokio::time::Instant),
    Greeting(Opening<Greeted>),
    Attaching(Opening<Connection>),
    Serving(Box<Io>),
    /// Goodbye is said, and the server reads to the end.
    Leaving(Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// What happened with one server.
pub(super) enum PeerEvent {
    /// Its rest is over.
    Rested,
    Greeted(Result<Box<Greeted>, Leave>),
    Attached(Result<Box<Connection>, Leave>),
    Control(Result<ControlResponse, LinkError>),
    Data(Result<DataResponse, LinkError>),
    Artifact(Vec<data_request::Message>),
    /// Time for a heartbeat.
    Beat,
    /// A data message was handed to the stream.
    Sent,
    /// The data stream takes no more.
    DataClosed,
    /// It heard the goodbye.
    Left,
}

/// The streams of a connection in service, and what is under way on them.
pub(super) struct Io {
    pub(super) connection: Connection,
    data_out: PollSender<DataRequest>,
    /// Time zero of heartbeats.
    pub(super) opened: Instant,
    /// When the server was last heard.
    pub(super) heard: Instant,
    heartbeat: Interval,
    /// When draining ends, done or not.
    pub(super) drain_by: Option<tokio::time::Instant>,
    pub(super) assembly: Assembly,
    pub(super) arriving: Option<Arriving>,
    pub(super) outbox: VecDeque<data_request::Message>,
    pub(super) artifacts: JoinSet<Vec<data_request::Message>>,
    /// By hash, those to be read next.
    pub(super) artifacts_waiting: VecDeque<String>,
    pub(super) held: Held,
}

/// A batch whose payload is coming.
pub(super) struct Arriving {
    pub(super) run: Run,
    pub(super) begun: Instant,
    pub(super) fate: Fate,
}

/// What is to become of a batch once its payload is there.
pub(super) enum Fate {
    Run,
    Drop,
    Refuse(BatchError),
}

impl Peer {
    /// Not dialled yet.
    pub(super) fn new(id: ServerId, place: Place, seed: u64) -> Self {
        Self {
            id,
            place,
            is_listed: true,
            session: Session::new(),
            back_off: BackOff::new(seed.wrapping_add(u64::from(id.0))),
            state: State::Resting(Box::pin(sleep(Duration::ZERO))),
            identity: None,
            refused: None,
            is_unanswered: false,
        }
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.state, State::Serving(_))
    }

    pub(super) fn io(&self) -> Option<&Io> {
        match &self.state {
            State::Serving(io) => Some(io),
            _ => None,
        }
    }

    /// Whether everything that was taken is answered and sent.
    pub(super) fn is_done(&self) -> bool {
        self.session.is_idle() && self.io().is_none_or(|io| io.outbox.is_empty())
    }

    /// What cannot wait: how the connection stands, control messages, and what goes out.
    pub(super) fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<PeerEvent> {
        match &mut self.state {
            State::Resting(rest) => rest.as_mut().poll(context).map(|()| PeerEvent::Rested),
            State::Settling(_) => Poll::Pending,
            State::Greeting(opening) => {
                opening.as_mut().poll(context).map(|done| PeerEvent::Greeted(done.map(Box::new)))
            }
            State::Attaching(opening) => {
                opening.as_mut().poll(context).map(|done| PeerEvent::Attached(done.map(Box::new)))
            }
            State::Serving(io) => io.poll_first(context),
            State::Leaving(farewell) => farewell.as_mut().poll(context).map(|()| PeerEvent::Left),
        }
    }

    /// What comes after the executor's news: artifacts that were read, and batches.
    pub(super) fn poll_last(&mut self, context: &mut Context<'_>) -> Poll<PeerEvent> {
        match &mut self.state {
            State::Serving(io) => io.poll_last(context),
            _ => Poll::Pending,
        }
    }
}

impl Io {
    pub(super) fn new(connection: Connection) -> Self {
        let now = Instant::now();
        let mut heartbeat = interval(connection.heartbeat_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            data_out: PollSender::new(connection.data_out.clone()),
            connection,
            opened: now,
            heard: now,
            heartbeat,
            drain_by: None,
            assembly: Assembly::default(),
            arriving: None,
            outbox: VecDeque::new(),
            artifacts: JoinSet::new(),
            artifacts_waiting: VecDeque::new(),
            held: Held::read(),
        }
    }

    /// Control comes before data, or a flood would outrun it.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<PeerEvent> {
        if let Poll::Ready(message) = poll_message(&mut self.connection.control_in, "control", context) {
            return Poll::Ready(PeerEvent::Control(message));
        }
        if self.heartbeat.poll_tick(context).is_ready() {
            return Poll::Ready(PeerEvent::Beat);
        }
        if !self.outbox.is_empty()
            && let Poll::Ready(reserved) = self.data_out.poll_reserve(context)
        {
            let sent = match (reserved, self.outbox.pop_front()) {
                (Ok(()), Some(message)) => self.data_out.send_item(DataRequest { message: Some(message) }).is_ok(),
                (Err(_), _) | (_, None) => false,
            };
            return Poll::Ready(if sent { PeerEvent::Sent } else { PeerEvent::DataClosed });
        }
        Poll::Pending
    }

    fn poll_last(&mut self, context: &mut Context<'_>) -> Poll<PeerEvent> {
        if self.outbox.len() < OUTBOX_HIGH
            && let Poll::Ready(Some(Ok(messages))) = self.artifacts.poll_join_next(context)
        {
            return Poll::Ready(PeerEvent::Artifact(messages));
        }
        poll_message(&mut self.connection.data_in, "data", context).map(PeerEvent::Data)
    }

    pub(super) fn say_goodbye(&self, reason: &str, drained: bool) -> Result<(), LinkError> {
        let goodbye = Goodbye { reason: reason.to_owned(), drained };
        send(&self.connection.control_out, control_request::Message::Goodbye(goodbye))
    }

    /// Says goodbye, ends both of its streams, and waits a little for the server to read to their ends.
    pub(super) async fn farewell(self, drained: bool) {
        let reason = if drained { "drained" } else { "the grace to drain ended" };
        if self.say_goodbye(reason, drained).is_err() {
            return;
        }
        let Connection { control_out, mut control_in, data_out, mut data_in, .. } = self.connection;
        drop((control_out, data_out, self.data_out));
        let read_to_end = async {
            while let Ok(Some(_)) = control_in.message().await {}
            while let Ok(Some(_)) = data_in.message().await {}
        };
        if timeout(FAREWELL_MAX, read_to_end).await.is_err() {
            tracing::debug!("the server did not end the streams after goodbye");
        }
    }
}

fn poll_message<T>(
    stream: &mut Streaming<T>,
    name: &'static str,
    context: &mut Context<'_>,
) -> Poll<Result<T, LinkError>> {
    Pin::new(stream).poll_next(context).map(|message| match message {
        Some(Ok(message)) => Ok(message),
        Some(Err(status)) => Err(LinkError::Stream(Box::new(status))),
        None => Err(LinkError::Ended(name)),
    })
}
