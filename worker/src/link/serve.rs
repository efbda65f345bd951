//! A connection in service. `next` only waits and names what happened; `handle` decides, without waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_proto::link::limits::FAREWELL_SECONDS_MAX;
use shoal_proto::link::{
    Artifact, Cancel, ControlResponse, Credit, DataRequest, DataResponse, Demand, Drain, FetchArtifact, Goodbye,
    Heartbeat, Load, Run, Unload, Weights, control_request, control_response, data_request, data_response,
};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until, timeout};

use super::artifact::{self, ArtifactError};
use super::frames::{Assembly, pack_artifact, pack_results};
use super::memory::Held;
use super::{Connection, Leave, Link, LinkError, Stop, convert, next_message, send, stopped};
use crate::batch::{BatchError, BatchKey, Finished};
use crate::executor::Event as ExecutorEvent;
use crate::run::{Exit, RunError};
use crate::session::{Admission, LoadStep, ModelStatus};
use crate::source::Precision;

/// Outgoing data messages above which the executor's news have to wait.
const OUTBOX_HIGH: usize = 16;
/// Artifacts read at once.
const ARTIFACTS_MAX: usize = 4;
/// Artifacts that wait for others to be read. A server asks once for each that its models have.
const ARTIFACTS_WAITING_MAX: usize = 1024;
/// After Goodbye, the server is given so long to read the last results and end the streams.
const FAREWELL_MAX: Duration = Duration::from_secs(FAREWELL_SECONDS_MAX);

/// One connection, from its registration to its end.
pub(super) struct Serving<'a> {
    link: &'a mut Link,
    connection: Connection,
    /// Time zero of heartbeats.
    opened: Instant,
    /// When the server was last heard.
    heard: Instant,
    heartbeat: Interval,
    /// When draining ends, done or not.
    drain_by: Option<tokio::time::Instant>,
    assembly: Assembly,
    arriving: Option<Arriving>,
    outbox: VecDeque<data_request::Message>,
    artifacts: JoinSet<Vec<data_request::Message>>,
    /// By hash, those to be read next.
    artifacts_waiting: VecDeque<String>,
    held: Held,
}

/// A batch whose payload is coming.
struct Arriving {
    run: Run,
    begun: Instant,
    fate: Fate,
}

/// What is to become of a batch once its payload is there.
enum Fate {
    Run,
    Drop,
    Refuse(BatchError),
}

/// What happened.
enum Event {
    Control(Result<ControlResponse, LinkError>),
    Data(Result<DataResponse, LinkError>),
    Executor(Option<ExecutorEvent>),
    Artifact(Vec<data_request::Message>),
    /// Time for a heartbeat.
    Beat,
    /// A data message was handed to the stream.
    Sent,
    /// The data stream takes no more.
    DataClosed,
    Stop(Stop),
    DrainEnded,
}

impl<'a> Serving<'a> {
    pub(super) fn new(link: &'a mut Link, connection: Connection) -> Self {
        let now = Instant::now();
        let mut heartbeat = interval(connection.heartbeat_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            link,
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

    /// Until the connection ends or the worker's life does.
    pub(super) async fn run(mut self) -> Result<Exit, Leave> {
        self.tell_models()?;
        if !self.link.models.without_weights().is_empty() {
            self.tell_weights()?;
        }
        self.grant()?;
        loop {
            let event = self.next().await;
            self.handle(event)?;
            if let Some(exit) = self.end() {
                self.farewell(&exit).await;
                return Ok(exit);
            }
        }
    }

    async fn next(&mut self) -> Event {
        let drain_by = self.drain_by;
        let drain_ends = async move {
            match drain_by {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let has_out = !self.outbox.is_empty();
        let takes_news = self.outbox.len() < OUTBOX_HIGH;
        tokio::select! {
            biased;
            // A stop comes first, and control before data, or a flood would outrun them.
            stop = stopped(&mut self.link.stop), if !self.link.session.is_draining() => Event::Stop(stop),
            () = drain_ends => Event::DrainEnded,
            message = next_message(&mut self.connection.control_in, "control") => Event::Control(message),
            _ = self.heartbeat.tick() => Event::Beat,
            permit = self.connection.data_out.reserve(), if has_out => match (permit, self.outbox.pop_front()) {
                (Ok(permit), Some(message)) => {
                    permit.send(DataRequest { message: Some(message) });
                    Event::Sent
                }
                (Err(_), _) | (_, None) => Event::DataClosed,
            },
            event = self.link.executor.event(), if takes_news => Event::Executor(event),
            Some(Ok(messages)) = self.artifacts.join_next(), if takes_news => Event::Artifact(messages),
            message = next_message(&mut self.connection.data_in, "data") => Event::Data(message),
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Leave> {
        match event {
            Event::Control(message) => {
                self.heard = Instant::now();
                self.control(message?)?;
            }
            Event::Data(message) => {
                self.heard = Instant::now();
                self.data(message?)?;
            }
            Event::Executor(Some(event)) => {
                if let Some(reason) = event.breaks() {
                    self.say_goodbye(reason, false)?;
                    return Err(Leave::Fatal(RunError::Broken(reason.to_owned())));
                }
                self.executor(event)?;
            }
            Event::Executor(None) => {
                self.say_goodbye("the executor ended", false)?;
                return Err(Leave::Fatal(RunError::ExecutorEnded));
            }
            Event::Artifact(messages) => {
                self.outbox.extend(messages);
                self.read_artifacts();
            }
            Event::Beat => self.beat()?,
            Event::Sent | Event::DrainEnded => {}
            Event::DataClosed => return Err(LinkError::Ended("data").into()),
            Event::Stop(Stop::Not) => {}
            Event::Stop(Stop::Drain) => self.drain(self.link.options.grace)?,
            Event::Stop(Stop::ParentGone) => return Err(Leave::Exit(Exit::ParentGone)),
        }
        Ok(())
    }

    fn control(&mut self, message: ControlResponse) -> Result<(), Leave> {
        use control_response::Message;
        match message.message {
            Some(Message::Load(load)) => self.load(load)?,
            Some(Message::Unload(Unload { model })) => self.unload(&model.into())?,
            Some(Message::Cancel(Cancel { batch, items })) => self.link.session.cancel(batch, items),
            Some(Message::Drain(Drain { grace })) => self.drain(convert::time_or(grace, self.link.options.grace))?,
            Some(Message::Heartbeat(heartbeat)) => self.heartbeat(heartbeat)?,
            Some(Message::FetchArtifact(FetchArtifact { sha256 })) => self.fetch(sha256),
            // With one server, whatever it wants most it sends.
            Some(Message::Demand(Demand { .. })) => {}
            Some(Message::Refused(refused)) => return Err(super::refusal(refused)),
            Some(Message::Welcome(_)) => return Err(LinkError::NotWelcome.into()),
            // Messages of later versions mean nothing here.
            None => {}
        }
        Ok(())
    }

    fn data(&mut self, message: DataResponse) -> Result<(), Leave> {
        match message.message {
            Some(data_response::Message::Run(run)) => self.begin(run)?,
            Some(data_response::Message::Fragment(fragment)) => {
                self.assembly.fragment(fragment.data).map_err(LinkError::from)?;
            }
            // Of a later version, and no part of any batch.
            None => return Ok(()),
        }
        if self.assembly.is_complete()
            && let Some(arriving) = self.arriving.take()
        {
            self.arrived(arriving)?;
        }
        Ok(())
    }

    /// The first part of a batch came.
    fn begin(&mut self, mut run: Run) -> Result<(), LinkError> {
        let begun = Instant::now();
        self.link.session.held(run.slot, Duration::from_micros(run.held_micros));
        let fate = match self.link.session.begin(begun, convert::key(&run), run.slot)? {
            Admission::Drop => Fate::Drop,
            Admission::Run => match convert::check_size(&run, self.link.device.budget) {
                Ok(()) => Fate::Run,
                Err(error) => Fate::Refuse(error),
            },
        };
        self.assembly.begin(&mut run, !matches!(fate, Fate::Run))?;
        self.arriving = Some(Arriving { run, begun, fate });
        Ok(())
    }

    /// The last part of a batch came.
    fn arrived(&mut self, arriving: Arriving) -> Result<(), LinkError> {
        let payload = self.assembly.take();
        let Arriving { run, begun, fate } = arriving;
        let (key, slot) = (convert::key(&run), run.slot);
        let launched = match fate {
            Fate::Drop => return Ok(()),
            Fate::Refuse(error) => Err(error),
            Fate::Run => self.launch(run, payload, begun),
        };
        if let Err(error) = launched {
            self.link.session.refuse(slot);
            self.fail(key, &error);
        }
        self.grant()
    }

    fn launch(&mut self, run: Run, payload: Vec<bytes::Bytes>, begun: Instant) -> Result<(), BatchError> {
        let Link { models, session, executor, device, .. } = &mut *self.link;
        let Some(model) = models.card(&run.model) else {
            return Err(BatchError::Device(format!("model `{}` is not in memory", run.model)));
        };
        let (slot, arrived) = (run.slot, Instant::now());
        let mut batch = convert::host_batch(run, payload, (model.0, &**model.1), device.budget, (begun, arrived))?;
        let key = batch.key;
        batch.cancelled = session.launch(key, slot, batch.items.len(), arrived.saturating_duration_since(begun));
        // A server that does not read its results gets no faster ones.
        let may_run_here = self.outbox.len() < OUTBOX_HIGH;
        let finished = if may_run_here { executor.run(batch) } else { executor.queue(batch) };
        let finished = finished.map_err(|full| {
            session.abandon(&key);
            BatchError::Device(full.to_string())
        })?;
        if let Some(finished) = finished {
            self.finished(finished);
        }
        Ok(())
    }

    fn executor(&mut self, event: ExecutorEvent) -> Result<(), LinkError> {
        match event {
            ExecutorEvent::Loading { name, progress } => self.tell(&name, &ModelStatus::Loading { progress }),
            ExecutorEvent::Ready { name, card } => {
                let card = Arc::new(card);
                if self.link.models.ready(&name, card.clone()) {
                    return self.evict(name);
                }
                tracing::info!(model = %name, bytes = card.bytes, smallest_batch = ?card.smallest_batch, "loaded");
                self.tell(&name, &ModelStatus::Ready(card))
            }
            ExecutorEvent::LoadFailed { name, reason } => {
                tracing::warn!(model = %name, reason, "cannot load");
                self.link.models.failed(&name);
                self.tell(&name, &ModelStatus::Failed { reason })
            }
            ExecutorEvent::Evicted { name } => {
                if self.link.models.evicted(&name) {
                    self.tell(&name, &ModelStatus::Unloaded)?;
                }
                Ok(())
            }
            ExecutorEvent::Finished(finished) => {
                self.finished(finished);
                self.grant()
            }
            ExecutorEvent::Weights { absent } => {
                self.link.models.set_without_weights(absent);
                self.tell_weights()
            }
            // Whoever hears it leaves.
            ExecutorEvent::Broken { .. } => Ok(()),
        }
    }

    fn finished(&mut self, finished: Finished) {
        if self.link.session.finish(&finished) {
            self.report(finished);
        }
    }

    fn report(&mut self, finished: Finished) {
        let key = finished.key;
        let end = convert::batch_end(&finished, self.held.now);
        match finished.outcome {
            Ok(results) => {
                self.outbox.extend(pack_results(key, convert::item_results(results)));
                self.outbox.push_back(data_request::Message::BatchEnd(end));
            }
            Err(error) => self.fail(key, &error),
        }
    }

    fn fail(&mut self, key: BatchKey, error: &BatchError) {
        tracing::debug!(batch = key.batch, attempt = key.attempt, error = %error, "a batch failed");
        self.outbox.push_back(data_request::Message::BatchFailed(convert::batch_failed(key, error)));
    }

    fn grant(&mut self) -> Result<(), LinkError> {
        let budget = self.link.device.budget;
        for slot in self.link.session.grants(Instant::now()) {
            let credit =
                Credit { slot, rows: budget.rows, tokens: budget.tokens, bytes: budget.bytes, ..Credit::default() };
            send(&self.connection.control_out, control_request::Message::Credit(credit))?;
        }
        Ok(())
    }

    fn load(&mut self, load: Load) -> Result<(), LinkError> {
        let name: Arc<str> = load.model.into();
        let source = load.source.map_or(Ok(None), convert::source);
        let precision = Precision::parse(&load.dtype)
            .ok_or_else(|| format!("dtype `{}` is none of {}", load.dtype, Precision::names()));
        let step = match source.and_then(|source| Ok((source, precision?))) {
            Ok((source, precision)) => self.link.models.load(&name, source, precision),
            Err(reason) => LoadStep::Tell(ModelStatus::Failed { reason }),
        };
        match step {
            LoadStep::Tell(status) => self.tell(&name, &status),
            LoadStep::Start(request) => match self.link.executor.load(request) {
                Ok(()) => Ok(()),
                Err(full) => {
                    self.link.models.failed(&name);
                    self.tell(&name, &ModelStatus::Failed { reason: full.to_string() })
                }
            },
        }
    }

    fn unload(&mut self, name: &Arc<str>) -> Result<(), LinkError> {
        if self.link.models.unload(name) {
            return self.evict(name.clone());
        }
        if self.link.models.is_absent(name) {
            return self.tell(name, &ModelStatus::Unloaded);
        }
        Ok(())
    }

    fn evict(&mut self, name: Arc<str>) -> Result<(), LinkError> {
        if self.link.executor.evict(name.clone()).is_err() {
            tracing::error!(model = %name, "cannot evict: the executor's queue is full");
        }
        Ok(())
    }

    fn tell(&self, name: &str, status: &ModelStatus) -> Result<(), LinkError> {
        let state = convert::model_state(name, status);
        send(&self.connection.control_out, control_request::Message::ModelState(state))
    }

    /// Says again which models are being read: the connection that asked for them may have been another.
    fn tell_models(&self) -> Result<(), LinkError> {
        for name in self.link.models.loading() {
            self.tell(name, &ModelStatus::Loading { progress: 0.0 })?;
        }
        Ok(())
    }

    fn tell_weights(&self) -> Result<(), LinkError> {
        let absent = self.link.models.without_weights().iter().map(|name| name.to_string()).collect();
        send(&self.connection.control_out, control_request::Message::Weights(Weights { absent }))
    }

    fn fetch(&mut self, sha256: String) {
        if self.artifacts_waiting.len() >= ARTIFACTS_WAITING_MAX {
            self.outbox.push_back(no_artifact(sha256, &ArtifactError::Busy));
            return;
        }
        self.artifacts_waiting.push_back(sha256);
        self.read_artifacts();
    }

    /// Begins to read as many as may be read at once.
    fn read_artifacts(&mut self) {
        while self.artifacts.len() < ARTIFACTS_MAX
            && let Some(sha256) = self.artifacts_waiting.pop_front()
        {
            self.read_artifact(sha256);
        }
    }

    fn read_artifact(&mut self, sha256: String) {
        match artifact::find(&self.link.models, &sha256) {
            Ok(path) => {
                let read = tokio::task::spawn_blocking({
                    let sha256 = sha256.clone();
                    move || artifact::read(&path, &sha256)
                });
                // Whatever becomes of it, the server is waiting for an answer.
                self.artifacts.spawn(async move {
                    match read.await {
                        Ok(Ok(data)) => pack_artifact(sha256, data),
                        Ok(Err(error)) => vec![no_artifact(sha256, &error)],
                        Err(panic) => vec![no_artifact(sha256, &panic)],
                    }
                });
            }
            Err(error) => self.outbox.push_back(no_artifact(sha256, &error)),
        }
    }

    fn heartbeat(&mut self, heartbeat: Heartbeat) -> Result<(), LinkError> {
        let Heartbeat { sent_micros, reply } = heartbeat;
        if reply {
            let sent = Duration::from_micros(sent_micros);
            self.link.session.round_trip(self.opened.elapsed().saturating_sub(sent));
            return Ok(());
        }
        let answer = Heartbeat { sent_micros, reply: true };
        send(&self.connection.control_out, control_request::Message::Heartbeat(answer))
    }

    fn beat(&mut self) -> Result<(), LinkError> {
        let silence_max = self.connection.silence_max;
        if self.heard.elapsed() > silence_max {
            return Err(LinkError::Silent(silence_max));
        }
        self.held = Held::read();
        let sent_micros = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        let out = &self.connection.control_out;
        send(out, control_request::Message::Heartbeat(Heartbeat { sent_micros, reply: false }))?;
        let gpu = self.link.monitor.as_ref().and_then(convert::gpu);
        let stats = convert::stats(self.link.session.totals(), self.held, gpu);
        send(out, control_request::Message::Stats(stats))
    }

    fn drain(&mut self, grace: Duration) -> Result<(), LinkError> {
        tracing::info!(?grace, "draining");
        for slot in self.link.session.drain() {
            send(&self.connection.control_out, control_request::Message::Credit(Credit { slot, ..Credit::default() }))?;
        }
        let by = tokio::time::Instant::now() + grace;
        self.drain_by = Some(self.drain_by.map_or(by, |sooner| sooner.min(by)));
        Ok(())
    }

    /// The worker's life is over once it has drained, or had its time to.
    fn end(&self) -> Option<Exit> {
        let drain_by = self.drain_by?;
        if self.link.session.is_idle() && self.outbox.is_empty() {
            return Some(Exit::Drained);
        }
        (tokio::time::Instant::now() >= drain_by).then_some(Exit::GraceEnded)
    }

    /// Says goodbye, ends both of its streams, and waits a little for the server to read to their ends.
    async fn farewell(self, exit: &Exit) {
        let drained = *exit == Exit::Drained;
        let reason = if drained { "drained" } else { "the grace to drain ended" };
        if self.say_goodbye(reason, drained).is_err() {
            return;
        }
        let Connection { control_out, mut control_in, data_out, mut data_in, .. } = self.connection;
        drop((control_out, data_out));
        let read_to_end = async {
            while let Ok(Some(_)) = control_in.message().await {}
            while let Ok(Some(_)) = data_in.message().await {}
        };
        if timeout(FAREWELL_MAX, read_to_end).await.is_err() {
            tracing::debug!("the server did not end the streams after goodbye");
        }
    }

    fn say_goodbye(&self, reason: &str, drained: bool) -> Result<(), LinkError> {
        let goodbye = Goodbye { reason: reason.to_owned(), drained };
        send(&self.connection.control_out, control_request::Message::Goodbye(goodbye))
    }
}

fn no_artifact(sha256: String, error: &dyn std::fmt::Display) -> data_request::Message {
    data_request::Message::Artifact(Artifact { sha256, error: error.to_string(), ..Artifact::default() })
}
