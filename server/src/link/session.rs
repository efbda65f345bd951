//! One worker's connection: from Hello to the end, in one task.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use shoal_proto::link::limits::{FAREWELL_SECONDS_MAX, PROTOCOL};
use shoal_proto::link::{self as wire, control_request, control_response, data_request, data_response};
use shoal_scheduler::Epoch;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use crate::driver::{Event, FromWorker, Handle, ToWorker, WorkerUp};

use super::convert;
use super::frames::{Assembly, Whole, cut};

/// Control messages on their way to a worker. A worker that does not take them is stuck.
const CONTROL_QUEUE: usize = 256;
/// After Goodbye the data stream is read for so long at most.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(FAREWELL_SECONDS_MAX);
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
    /// Workers connected at once.
    pub workers_max: usize,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(500),
            silence_max: Duration::from_secs(3),
            hello_time_max: Duration::from_secs(5),
            workers_max: 1024,
        }
    }
}

/// Who may attach.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Token of each local child, by worker name.
    children: Arc<DashMap<String, String>>,
    /// Token shared by all other workers; empty to have none.
    shared: Arc<str>,
}

impl Tokens {
    /// Lets workers with this token in; with an empty one, only local children.
    pub fn shared(token: &str) -> Self {
        Self { children: Arc::default(), shared: token.into() }
    }

    /// Lets a child in under its own name, with its own token.
    pub fn admit_child(&self, name: &str, token: &str) {
        self.children.insert(name.to_owned(), token.to_owned());
    }

    /// Whether a worker may attach, and whether it is a child of this server.
    fn check(&self, name: &str, token: &str) -> Option<Origin> {
        let child = self.children.get(name).map(|entry| entry.value().clone());
        match child {
            Some(expected) => same(&expected, token).then_some(Origin::Child),
            None => (!self.shared.is_empty() && same(&self.shared, token)).then_some(Origin::Elsewhere),
        }
    }
}

#[cfg(test)]
impl Tokens {
    pub(super) fn admits(&self, name: &str, token: &str) -> bool {
        self.check(name, token).is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Child,
    Elsewhere,
}

/// Compares in a time that depends on the length alone.
fn same(a: &str, b: &str) -> bool {
    let differing = a.bytes().zip(b.bytes()).fold(0, |acc, (x, y)| acc | (x ^ y));
    a.len() == b.len() && differing == 0
}

/// The gRPC service workers dial.
#[derive(Clone, Debug)]
pub struct LinkService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    driver: Handle,
    options: LinkOptions,
    tokens: Tokens,
    next_epoch: AtomicU64,
    /// Sessions that said Hello and wait for their data stream.
    waiting: Mutex<HashMap<u64, Waiting>>,
    /// Live sessions by worker name.
    live: Mutex<HashMap<String, Live>>,
}

#[derive(Debug)]
struct Live {
    epoch: u64,
    incarnation: u64,
    child: bool,
}

/// A session without its data stream yet.
#[derive(Debug)]
struct Waiting {
    worker: String,
    attach: oneshot::Sender<DataEnds>,
}

/// Both ends of an attached data stream.
#[derive(Debug)]
struct DataEnds {
    requests: Streaming<wire::DataRequest>,
    responses: mpsc::Sender<Result<wire::DataResponse, Status>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl LinkService {
    /// A service that tells `driver` of workers.
    pub fn new(driver: Handle, options: LinkOptions, tokens: Tokens) -> Self {
        let shared = Shared {
            driver,
            options,
            tokens,
            next_epoch: AtomicU64::new(1),
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
        let session = Session { shared: self.shared.clone(), requests: request.into_inner(), responses };
        tokio::spawn(session.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn data(&self, request: Request<Streaming<wire::DataRequest>>) -> Result<Response<Self::DataStream>, Status> {
        let mut requests = request.into_inner();
        let first = timeout(self.shared.options.hello_time_max, requests.message());
        let first = first.await.map_err(|_| Status::deadline_exceeded("no Attach came"))??;
        let Some(data_request::Message::Attach(attach)) = first.and_then(|request| request.message) else {
            return Err(Status::invalid_argument("the first message on Data must be Attach"));
        };
        if self.shared.tokens.check(&attach.worker, &attach.auth).is_none() {
            return Err(Status::unauthenticated("`auth` is not a token of this server"));
        }
        let Some(waiting) = self.shared.take_waiting(attach.epoch, &attach.worker) else {
            return Err(Status::failed_precondition(
                "`epoch` names no session of `worker` that waits for its data stream",
            ));
        };
        let (responses, stream) = mpsc::channel(DATA_QUEUE);
        let ends = DataEnds { requests, responses };
        waiting.attach.send(ends).map_err(|_| Status::aborted("the session ended"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// A poisoned lock means that a panic is already under way; the maps behind it are whole all the same.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Session {
    shared: Arc<Shared>,
    requests: Streaming<wire::ControlRequest>,
    responses: mpsc::Sender<Result<wire::ControlResponse, Status>>,
}

/// A session that both sides agreed on.
struct Attached {
    epoch: u64,
    name: String,
    data: DataEnds,
    commands: mpsc::UnboundedReceiver<ToWorker>,
}

/// How a session ended.
struct End {
    left: bool,
    reason: String,
}

impl End {
    fn lost(reason: impl Into<String>) -> Self {
        Self { left: false, reason: reason.into() }
    }
}

impl Session {
    async fn run(mut self) {
        let Some(mut attached) = self.attach().await else { return };
        let epoch = Epoch(attached.epoch);
        let end = self.serve(&mut attached).await;
        debug!(worker = %attached.name, epoch = epoch.0, reason = %end.reason, "session over");
        self.shared.forget(&attached.name, attached.epoch);
        let said = FromWorker::Gone { left: end.left, reason: end.reason };
        self.shared.driver.tell(Event::Worker { epoch, said }).await;
    }

    /// Hello, Welcome, Attach.
    async fn attach(&mut self) -> Option<Attached> {
        let deadline = self.shared.options.hello_time_max;
        let first = timeout(deadline, self.requests.message()).await.ok()?.ok()??;
        let Some(control_request::Message::Hello(hello)) = first.message else {
            let _ = self.responses.send(Err(Status::invalid_argument("the first message must be Hello"))).await;
            return None;
        };
        let admitted = self.shared.admit(&hello);
        let (epoch, origin) = match admitted {
            Ok(admitted) => admitted,
            Err((reason, detail)) => {
                warn!(worker = %hello.worker, %detail, "worker refused");
                let refused = wire::Refused { reason: reason.into(), detail };
                self.send(control_response::Message::Refused(refused)).await;
                return None;
            }
        };
        let (attach, attached) = oneshot::channel();
        lock(&self.shared.waiting).insert(epoch, Waiting { worker: hello.worker.clone(), attach });
        let options = self.shared.options;
        self.send(control_response::Message::Welcome(wire::Welcome {
            protocol: PROTOCOL,
            epoch,
            heartbeat_interval: Some(convert::to_wire(options.heartbeat_interval)),
            silence_max: Some(convert::to_wire(options.silence_max)),
        }))
        .await;
        let data = timeout(deadline, attached).await;
        lock(&self.shared.waiting).remove(&epoch);
        let Ok(Ok(data)) = data else {
            self.shared.forget(&hello.worker, epoch);
            let _ = self.responses.send(Err(Status::deadline_exceeded("no data stream was attached"))).await;
            return None;
        };
        let (commands, commands_in) = mpsc::unbounded_channel();
        let device = hello.device.unwrap_or_default();
        let up = WorkerUp {
            epoch: Epoch(epoch),
            name: hello.worker.as_str().into(),
            device: format!("{} ({})", device.kind, device.name),
            local: origin == Origin::Child,
            offers: hello.offers.into_iter().map(|offer| offer.name.into()).collect(),
            commands,
        };
        self.shared.driver.tell(Event::WorkerUp(up)).await;
        Some(Attached { epoch, name: hello.worker, data, commands: commands_in })
    }

    async fn serve(&mut self, attached: &mut Attached) -> End {
        let options = self.shared.options;
        let started = Instant::now();
        let mut heartbeat = interval(options.heartbeat_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = started;
        let mut assembly = Assembly::default();
        let (batches, batches_in) = mpsc::unbounded_channel();
        let mut writer = tokio::spawn(write_data(batches_in, attached.data.responses.clone()));
        // Set by Goodbye. What was on its way on Data is still read, as it was sent before.
        let mut farewell: Option<End> = None;
        let mut data_ended = false;
        let mut over_at = started + options.silence_max;
        let end = loop {
            let is_closing = farewell.is_some() || data_ended;
            // Messages come before the silence timer: one that waits is no silence. The heartbeat's arm is seldom ready
            // and comes first, so that no flood of messages stops it.
            let step = tokio::select! {
                biased;
                _ = heartbeat.tick(), if !is_closing => {
                    let sent_micros = started.elapsed().as_micros() as u64;
                    let message = wire::Heartbeat { sent_micros, reply: false };
                    self.try_send(control_response::Message::Heartbeat(message))
                }
                request = self.requests.message(), if farewell.is_none() => {
                    heard = Instant::now();
                    match self.control_request(attached.epoch, request).await {
                        Ok(Some(end)) if data_ended => Err(end),
                        Ok(Some(end)) => {
                            over_at = heard + FAREWELL_TIME_MAX;
                            farewell = Some(end);
                            Ok(())
                        }
                        Ok(None) => Ok(()),
                        Err(end) => Err(end),
                    }
                }
                request = attached.data.requests.message(), if !data_ended => match request {
                    Ok(None) => {
                        // The streams are not ordered between them: Goodbye may still be on its way.
                        data_ended = true;
                        over_at = over_at.max(Instant::now() + FAREWELL_TIME_MAX);
                        if farewell.is_some() { Err(End::lost("it closed the connection")) } else { Ok(()) }
                    }
                    request => {
                        heard = Instant::now();
                        self.data_request(attached.epoch, &mut assembly, request).await
                    }
                },
                command = attached.commands.recv(), if !is_closing => match command {
                    Some(ToWorker::Run(batch)) => {
                        let _ = batches.send(batch);
                        Ok(())
                    }
                    Some(ToWorker::Close) | None => Err(End::lost("closed by the server")),
                    Some(command) => self.command(command),
                },
                () = sleep_until(over_at), if is_closing => Err(End::lost("it closed its data stream")),
                () = sleep_until(heard + options.silence_max) => Err(End::lost("it fell silent")),
                _ = &mut writer, if !is_closing => Err(End::lost("its data stream broke")),
            };
            if let Err(end) = step {
                break farewell.unwrap_or(end);
            }
        };
        writer.abort();
        end
    }

    /// Returns the end that a Goodbye announces.
    async fn control_request(
        &self,
        epoch: u64,
        request: Result<Option<wire::ControlRequest>, Status>,
    ) -> Result<Option<End>, End> {
        use control_request::Message;
        let message = received(request)?;
        let said = match message.message {
            Some(Message::Credit(credit)) => convert::credit(&credit),
            Some(Message::ModelState(state)) => convert::model_state(state).map_err(End::lost)?,
            Some(Message::Heartbeat(beat)) => {
                if beat.reply {
                    return Ok(None);
                }
                let reply = wire::Heartbeat { reply: true, ..beat };
                return self.try_send(control_response::Message::Heartbeat(reply)).map(|()| None);
            }
            Some(Message::Goodbye(goodbye)) => return Ok(Some(End { left: goodbye.drained, reason: goodbye.reason })),
            Some(Message::Hello(_)) => return Err(End::lost("it said Hello twice")),
            // Statistics are for `shoal top`; messages of later versions mean nothing here.
            Some(Message::Stats(_)) | None => return Ok(None),
        };
        self.tell(epoch, said).await;
        Ok(None)
    }

    async fn data_request(
        &self,
        epoch: u64,
        assembly: &mut Assembly,
        request: Result<Option<wire::DataRequest>, Status>,
    ) -> Result<(), End> {
        use data_request::Message;
        let message = received(request)?;
        let broken = |error: super::frames::FrameError| End::lost(error.to_string());
        let whole = match message.message {
            Some(Message::Fragment(fragment)) => assembly.fragment(&fragment.data).map_err(broken)?,
            Some(Message::Results(results)) => assembly.results(results).map_err(broken)?,
            Some(Message::Artifact(artifact)) => assembly.artifact(artifact).map_err(broken)?,
            Some(Message::BatchEnd(end)) => {
                assembly.check_closed().map_err(broken)?;
                self.tell(epoch, convert::batch_end(&end).map_err(End::lost)?).await;
                None
            }
            Some(Message::BatchFailed(failed)) => {
                assembly.check_closed().map_err(broken)?;
                self.tell(epoch, convert::batch_failed(failed).map_err(End::lost)?).await;
                None
            }
            Some(Message::Attach(_)) => return Err(End::lost("it attached twice")),
            None => None,
        };
        match whole {
            Some(Whole::Results(results)) => self.tell(epoch, convert::items(results).map_err(End::lost)?).await,
            Some(Whole::Artifact(artifact)) => self.tell(epoch, convert::artifact(artifact)).await,
            None => {}
        }
        Ok(())
    }

    fn command(&self, command: ToWorker) -> Result<(), End> {
        use control_response::Message;
        let message = match command {
            ToWorker::Cancel { batch, items } => Message::Cancel(wire::Cancel { batch: batch.0, items }),
            ToWorker::Load { model, source, dtype } => Message::Load(wire::Load {
                model: model.to_string(),
                source: source.map(convert::source),
                dtype: dtype.to_string(),
            }),
            ToWorker::Unload { model } => Message::Unload(wire::Unload { model: model.to_string() }),
            ToWorker::FetchArtifact { sha256 } => Message::FetchArtifact(wire::FetchArtifact { sha256 }),
            ToWorker::Drain { grace } => Message::Drain(wire::Drain { grace: Some(convert::to_wire(grace)) }),
            ToWorker::Run(_) | ToWorker::Close => return Ok(()),
        };
        self.try_send(message)
    }

    async fn tell(&self, epoch: u64, said: FromWorker) {
        self.shared.driver.tell(Event::Worker { epoch: Epoch(epoch), said }).await;
    }

    async fn send(&self, message: control_response::Message) {
        // A worker that is gone shows as the end of its requests.
        let _ = self.responses.send(Ok(wire::ControlResponse { message: Some(message) })).await;
    }

    /// Sends without waiting: a worker that lets control messages pile up is stuck.
    fn try_send(&self, message: control_response::Message) -> Result<(), End> {
        let response = wire::ControlResponse { message: Some(message) };
        self.responses.try_send(Ok(response)).map_err(|_| End::lost("it does not read its control stream"))
    }
}

fn received<T>(request: Result<Option<T>, Status>) -> Result<T, End> {
    match request {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(End::lost("it closed the connection")),
        Err(status) => Err(End::lost(format!("the connection broke: {}", status.message()))),
    }
}

/// Sends batches, frame by frame, until either end is gone.
async fn write_data(
    mut batches: mpsc::UnboundedReceiver<crate::driver::Batch>,
    frames: mpsc::Sender<Result<wire::DataResponse, Status>>,
) {
    while let Some(batch) = batches.recv().await {
        let (run, fragments) = cut(convert::run(batch));
        let fragments = fragments.into_iter().map(|data| data_response::Message::Fragment(wire::Fragment { data }));
        for message in std::iter::once(data_response::Message::Run(run)).chain(fragments) {
            if frames.send(Ok(wire::DataResponse { message: Some(message) })).await.is_err() {
                return;
            }
        }
    }
    // The session holds the other end for as long as it lives.
    std::future::pending::<()>().await;
}

impl Shared {
    /// Lets a worker in under a new epoch, or says why not.
    fn admit(&self, hello: &wire::Hello) -> Result<(u64, Origin), (wire::refused::Reason, String)> {
        use wire::refused::Reason;
        if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
            let (min, max) = (hello.protocol_min, hello.protocol_max);
            let detail = format!("this server speaks protocol {PROTOCOL}, the worker {min} to {max}");
            return Err((Reason::Protocol, detail));
        }
        if hello.worker.is_empty() || hello.worker.len() > 256 {
            return Err((Reason::NameTaken, "`worker` must have 1 to 256 bytes".into()));
        }
        let Some(origin) = self.tokens.check(&hello.worker, &hello.auth) else {
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
        let entry = Live { epoch, incarnation: hello.incarnation, child: origin == Origin::Child };
        live.insert(hello.worker.clone(), entry);
        Ok((epoch, origin))
    }

    /// The session that a worker opened under an epoch; another worker's stays where it is.
    fn take_waiting(&self, epoch: u64, worker: &str) -> Option<Waiting> {
        let mut waiting = lock(&self.waiting);
        waiting.get(&epoch).filter(|waiting| waiting.worker == worker)?;
        waiting.remove(&epoch)
    }

    fn forget(&self, name: &str, epoch: u64) {
        let mut live = lock(&self.live);
        if live.get(name).is_some_and(|entry| entry.epoch == epoch) {
            live.remove(name);
        }
    }
}
