//! The connection to a server: dial, register, serve, and after a loss back off and dial again. One function per state.
//! Everything the wire says is turned into the worker's own words here and nowhere else.
//!
//! The executor lives longer than any connection. While there is none, batches in flight are finished or dropped, models
//! go on loading, and what they give is remembered or counted as stale.
//!
//! While a batch of an earlier connection runs, the worker does not dial: it could offer its models and run none. One that
//! still runs after `stuck_max` is taken for hung, and the worker ends with an error, so that whatever keeps it alive
//! starts another.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::link::limits::{MESSAGE_BYTES_MAX, PROTOCOL, PROTOCOL_MIN};
use shoal_proto::link::worker_link_client::WorkerLinkClient;
use shoal_proto::link::{
    self as wire, Attach, ControlRequest, ControlResponse, DataRequest, DataResponse, Hello, ModelOffer, Refused,
    control_request, control_response, data_request, refused,
};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::backend::Stack;
use crate::device::Device;
use crate::executor::{Event, Executor};
use crate::monitor::Monitor;
use crate::run::{Exit, Refusal, RunError};
use crate::session::{Models, Session};
use crate::{Auth, AuthError, Endpoint, Options, TlsFiles};

mod artifact;
mod backoff;
mod convert;
mod dial;
mod frames;
pub(crate) mod memory;
mod serve;

use backoff::BackOff;
use frames::Violation;
use serve::Serving;

/// From opening the first stream to the server's word on it.
const REGISTER_MAX: Duration = Duration::from_secs(10);
/// Messages that wait for a stream at most. A server that reads so little is lost.
const CONTROL_OUT_MAX: usize = 256;
/// Messages of a frame each that wait for the data stream at most.
const DATA_OUT_MAX: usize = 4;
/// When the server does not say how often it wants to hear from its workers, or when silence means loss.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A server cannot ask for more heartbeats than that.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// How much longer the worker is to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// On.
    Not,
    /// Until what runs is done.
    Drain,
    /// Not at all: the parent is gone, and the server with it.
    ParentGone,
}

/// One worker's side of the link, across connections.
#[derive(Debug)]
pub(crate) struct Link {
    options: Options,
    executor: Executor<Stack>,
    device: Device,
    /// Of the GPU, where there is one.
    monitor: Option<Monitor>,
    session: Session,
    models: Models,
    stop: watch::Receiver<Stop>,
    /// Tells a restart from a reconnect.
    incarnation: u64,
}

/// Why a connection ended, or never came to be. All of these are worth another try.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Dial(#[from] dial::DialError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("the server broke the stream")]
    Stream(#[source] Box<tonic::Status>),
    #[error("the server ended the {0} stream")]
    Ended(&'static str),
    #[error("the server sent no welcome within {} s", REGISTER_MAX.as_secs())]
    NoWelcome,
    #[error("the server sent something else than a welcome first")]
    NotWelcome,
    #[error("the server chose protocol {0}, and this worker speaks {PROTOCOL_MIN} to {PROTOCOL}")]
    Protocol(u32),
    #[error("the server refused: {0}")]
    Refused(String),
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error("the server does not read what is sent to it")]
    Clogged,
    #[error("the server broke the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("the server broke the protocol: {0}")]
    NoCredit(#[from] crate::session::NoCredit),
}

/// How a state of the link was left, other than forwards.
#[derive(Debug)]
enum Leave {
    /// Back off and dial again.
    Lost(LinkError),
    /// The worker's life is over.
    Exit(Exit),
    /// It cannot go on.
    Fatal(RunError),
}

impl From<LinkError> for Leave {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}

/// A registered connection.
#[derive(Debug)]
struct Connection {
    epoch: u64,
    heartbeat_interval: Duration,
    silence_max: Duration,
    control_out: mpsc::Sender<ControlRequest>,
    control_in: Streaming<ControlResponse>,
    data_out: mpsc::Sender<DataRequest>,
    data_in: Streaming<DataResponse>,
}

impl Link {
    pub(crate) fn new(
        mut options: Options,
        executor: Executor<Stack>,
        device: Device,
        monitor: Option<Monitor>,
        stop: watch::Receiver<Stop>,
    ) -> Self {
        let models = Models::new(std::mem::take(&mut options.offers));
        let incarnation = rand::random();
        Self { options, executor, device, monitor, session: Session::new(), models, stop, incarnation }
    }

    /// Until the worker's life is over.
    pub(crate) async fn run(mut self) -> Result<Exit, RunError> {
        let mut back_off = BackOff::new(self.incarnation);
        loop {
            let leave = match self.connect_and_serve(&mut back_off).await {
                Err(leave) => leave,
                Ok(exit) => return Ok(exit),
            };
            self.session.disconnect();
            match leave {
                Leave::Exit(exit) => return Ok(exit),
                Leave::Fatal(error) => return Err(error),
                Leave::Lost(error) => {
                    let wait = back_off.next();
                    self.log_loss(&error, wait);
                    match self.meanwhile(tokio::time::sleep(wait)).await {
                        Err(Leave::Exit(exit)) => return Ok(exit),
                        Err(Leave::Fatal(error)) => return Err(error),
                        Err(Leave::Lost(_)) | Ok(()) => {}
                    }
                }
            }
        }
    }

    async fn connect_and_serve(&mut self, back_off: &mut BackOff) -> Result<Exit, Leave> {
        self.settle().await?;
        let channel = self.connect().await?;
        let connection = self.register(channel).await?;
        back_off.reset();
        self.serve(connection).await
    }

    /// Waits for the batches that the last connection left running.
    async fn settle(&mut self) -> Result<(), Leave> {
        let stuck_max = self.options.stuck_max;
        let stuck = tokio::time::sleep(stuck_max);
        tokio::pin!(stuck);
        while !self.session.is_idle() {
            tokio::select! {
                biased;
                news = self.news() => news?,
                () = &mut stuck => return Err(Leave::Fatal(RunError::Stuck(stuck_max))),
            }
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<Channel, Leave> {
        let (endpoint, tls): (Endpoint, TlsFiles) = (self.options.connect.clone(), self.options.tls.clone());
        let dialled = self.meanwhile(async move { dial::dial(&endpoint, &tls).await }).await?;
        Ok(dialled.map_err(LinkError::Dial)?)
    }

    async fn register(&mut self, channel: Channel) -> Result<Connection, Leave> {
        let token = self.options.auth.token().map_err(LinkError::Auth)?;
        let hello = self.hello(token.reveal());
        let registered = self.meanwhile(timeout(REGISTER_MAX, register(channel, hello))).await?;
        match registered.unwrap_or(Err(Leave::Lost(LinkError::NoWelcome))) {
            // The file may have another token by the next time.
            Err(Leave::Exit(Exit::Refused { reason: Refusal::Auth, detail }))
                if matches!(self.options.auth, Auth::File(_)) =>
            {
                Err(LinkError::Refused(format!("auth: {detail}")).into())
            }
            registered => registered,
        }
    }

    async fn serve(&mut self, connection: Connection) -> Result<Exit, Leave> {
        let Connection { epoch, heartbeat_interval, silence_max, .. } = connection;
        tracing::info!(server = %self.options.connect, epoch, ?heartbeat_interval, ?silence_max, "linked");
        self.session.connect(epoch);
        Serving::new(self, connection).run().await
    }

    /// Waits for something while there is no connection: the executor's news are taken in, and a stop is heard.
    async fn meanwhile<T>(&mut self, step: impl Future<Output = T>) -> Result<T, Leave> {
        tokio::pin!(step);
        loop {
            tokio::select! {
                biased;
                done = &mut step => return Ok(done),
                news = self.news() => news?,
            }
        }
    }

    /// One piece of the executor's news is taken in, or a stop is heard.
    async fn news(&mut self) -> Result<(), Leave> {
        tokio::select! {
            biased;
            stop = stopped(&mut self.stop) => match stop {
                Stop::ParentGone => Err(Leave::Exit(Exit::ParentGone)),
                // Without a connection nothing in flight is wanted by anyone.
                Stop::Drain | Stop::Not => Err(Leave::Exit(Exit::Drained)),
            },
            event = self.executor.event() => match event {
                Some(event) => match event.breaks() {
                    Some(reason) => Err(Leave::Fatal(RunError::Broken(reason.to_owned()))),
                    None => {
                        self.absorb(event);
                        Ok(())
                    }
                },
                None => Err(Leave::Fatal(RunError::ExecutorEnded)),
            },
        }
    }

    /// Takes in what the executor says while nobody listens.
    fn absorb(&mut self, event: Event) {
        match event {
            Event::Loading { .. } => {}
            Event::Ready { name, card } => {
                if self.models.ready(&name, Arc::new(card)) && self.executor.evict(name.clone()).is_err() {
                    tracing::error!(model = %name, "cannot evict: the executor's queue is full");
                }
            }
            Event::LoadFailed { name, reason } => {
                tracing::warn!(model = %name, reason, "cannot load");
                self.models.failed(&name);
            }
            Event::Evicted { name } => {
                self.models.evicted(&name);
            }
            Event::Finished(finished) => {
                self.session.finish(&finished);
            }
            Event::Weights { absent } => self.models.set_without_weights(absent),
            // Whoever hears it leaves.
            Event::Broken { .. } => {}
        }
    }

    fn log_loss(&self, error: &LinkError, again_in: Duration) {
        let error: &dyn std::error::Error = error;
        tracing::warn!(error, server = %self.options.connect, ?again_in, "no link to the server");
    }

    fn hello(&self, token: &str) -> Hello {
        let offer = |(name, card): (&str, Option<&Arc<_>>)| ModelOffer {
            name: name.to_owned(),
            card: card.map(|card| convert::card(name, card)),
        };
        let Device { kind, ref name, ref uuid, memory_bytes, threads, .. } = self.device;
        let (kind, name, uuid) = (kind.to_owned(), name.clone(), uuid.clone());
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            worker: self.options.name.clone(),
            incarnation: self.incarnation,
            auth: token.to_owned(),
            device: Some(wire::Device { kind, name, memory_bytes, threads, uuid }),
            offers: self.models.offers().into_iter().map(offer).collect(),
            version: self.options.version.clone(),
            process_id: std::process::id(),
            pool: self.options.pool.clone(),
        }
    }
}

/// Resolves when the worker is to stop, also if it was told so before anyone asked: a stop that is only heard once could
/// be heard by somebody who is about to leave.
async fn stopped(stop: &mut watch::Receiver<Stop>) -> Stop {
    let told = stop.wait_for(|stop| *stop != Stop::Not).await.map(|stop| *stop);
    match told {
        Ok(stop) => stop,
        // Nobody can tell it any more.
        Err(_) => std::future::pending().await,
    }
}

/// Opens both streams: Hello and Welcome on the one, then Attach on the other.
async fn register(channel: Channel, hello: Hello) -> Result<Connection, Leave> {
    let mut client = WorkerLinkClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (worker, auth) = (hello.worker.clone(), hello.auth.clone());

    let (control_out, control_queue) = mpsc::channel(CONTROL_OUT_MAX);
    send(&control_out, control_request::Message::Hello(hello))?;
    let opened = client.control(ReceiverStream::new(control_queue)).await;
    let mut control_in = opened.map_err(|status| LinkError::Stream(Box::new(status)))?.into_inner();
    let welcome = match next_message(&mut control_in, "control").await?.message {
        Some(control_response::Message::Welcome(welcome)) => welcome,
        Some(control_response::Message::Refused(refused)) => return Err(refusal(refused)),
        _ => return Err(LinkError::NotWelcome.into()),
    };
    if !(PROTOCOL_MIN..=PROTOCOL).contains(&welcome.protocol) {
        return Err(LinkError::Protocol(welcome.protocol).into());
    }
    let heartbeat_interval =
        convert::time_or(welcome.heartbeat_interval, HEARTBEAT_INTERVAL).max(HEARTBEAT_INTERVAL_MIN);
    let silence_max = convert::time_or(welcome.silence_max, SILENCE_MAX).max(heartbeat_interval * 2);

    let (data_out, data_queue) = mpsc::channel(DATA_OUT_MAX);
    let attach = Attach { epoch: welcome.epoch, worker, auth };
    // The queue is empty and its other end is held, so there is room.
    if data_out.try_send(DataRequest { message: Some(data_request::Message::Attach(attach)) }).is_err() {
        return Err(LinkError::Clogged.into());
    }
    let opened = client.data(ReceiverStream::new(data_queue)).await;
    let data_in = opened.map_err(|status| LinkError::Stream(Box::new(status)))?.into_inner();
    Ok(Connection { epoch: welcome.epoch, heartbeat_interval, silence_max, control_out, control_in, data_out, data_in })
}

/// Queues a control message; a queue that is full means a server that reads nothing.
fn send(out: &mpsc::Sender<ControlRequest>, message: control_request::Message) -> Result<(), LinkError> {
    out.try_send(ControlRequest { message: Some(message) }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => LinkError::Clogged,
        mpsc::error::TrySendError::Closed(_) => LinkError::Ended("control"),
    })
}

async fn next_message<T>(stream: &mut Streaming<T>, name: &'static str) -> Result<T, LinkError> {
    match stream.message().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(LinkError::Ended(name)),
        Err(status) => Err(LinkError::Stream(Box::new(status))),
    }
}

/// A refusal that no waiting changes ends the worker; the others may pass.
fn refusal(refused: Refused) -> Leave {
    let reason = refused.reason();
    let Refused { detail, .. } = refused;
    match reason {
        refused::Reason::Protocol => Leave::Exit(Exit::Refused { reason: Refusal::Protocol, detail }),
        refused::Reason::Auth => Leave::Exit(Exit::Refused { reason: Refusal::Auth, detail }),
        refused::Reason::Unspecified
        | refused::Reason::NameTaken
        | refused::Reason::Draining
        | refused::Reason::TooManyWorkers => {
            let reason = reason.as_str_name().trim_start_matches("REASON_").to_lowercase();
            Leave::Lost(LinkError::Refused(format!("{reason}: {detail}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_is_heard_however_often_it_was_heard_before() {
        let (tell, mut stop) = watch::channel(Stop::Not);
        assert!(timeout(Duration::from_millis(1), stopped(&mut stop)).await.is_err());
        tell.send(Stop::ParentGone).expect("a receiver");
        for _ in 0..2 {
            assert_eq!(timeout(REGISTER_MAX, stopped(&mut stop)).await, Ok(Stop::ParentGone));
        }
    }
}
