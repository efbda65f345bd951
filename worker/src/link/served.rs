//! What a server in service says, and what it is told. Nothing here waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_proto::link::{
    Artifact, Bid, Cancel, ControlResponse, Credit, DataResponse, Drain, FetchArtifact, Heartbeat, Load, Pass, Run,
    Unload, Weights, control_request, control_response, data_request, data_response,
};

use super::artifact::{self, ArtifactError};
use super::frames::{pack_artifact, pack_results};
use super::memory::Held;
use super::peer::{Arriving, Fate, Io, OUTBOX_HIGH};
use super::{Hub, Leave, LinkError, convert, register, send};
use crate::batch::{BatchError, BatchKey, Finished, ServerId};
use crate::session::{Admission, Begun, LoadStep, ModelStatus, Session, Totals, Turn, UnloadStep};
use crate::source::Precision;

/// Outgoing data messages above which a server counts as lost that shares its workers: others must not wait for it.
const OUTBOX_MAX: usize = 1024;
/// Artifacts read at once.
const ARTIFACTS_MAX: usize = 4;
/// Artifacts that wait for others to be read. A server asks once for each that its models have.
const ARTIFACTS_WAITING_MAX: usize = 1024;

/// A server in service, and what it shares with the others.
pub(super) struct Served<'a> {
    pub(super) id: ServerId,
    pub(super) hub: &'a mut Hub,
    pub(super) session: &'a mut Session,
    pub(super) io: &'a mut Io,
}

impl Served<'_> {
    /// It has just been attached.
    pub(super) fn welcome(&mut self) -> Result<(), LinkError> {
        if self.session.is_shared() {
            self.hub.desk.join(Instant::now(), self.id);
        }
        self.tell_models()?;
        if !self.hub.models.without_weights().is_empty() {
            self.tell_weights()?;
        }
        self.grant()
    }

    pub(super) fn control(&mut self, message: ControlResponse) -> Result<(), Leave> {
        use control_response::Message;
        match message.message {
            Some(Message::Load(load)) => self.load(load)?,
            Some(Message::Unload(Unload { model })) => self.unload(&model.into())?,
            Some(Message::Cancel(Cancel { batch, items })) => self.session.cancel(batch, items),
            Some(Message::Drain(Drain { grace })) => self.drain(convert::time_or(grace, self.hub.options.grace))?,
            Some(Message::Heartbeat(heartbeat)) => self.heartbeat(heartbeat)?,
            Some(Message::FetchArtifact(FetchArtifact { sha256 })) => self.fetch(sha256),
            Some(Message::Refused(refused)) => return Err(register::refusal(refused)),
            Some(Message::Welcome(_)) => return Err(LinkError::NotWelcome.into()),
            // Messages of later versions mean nothing here.
            None => {}
        }
        Ok(())
    }

    pub(super) fn data(&mut self, message: DataResponse) -> Result<(), Leave> {
        match message.message {
            Some(data_response::Message::Run(run)) => self.begin(run)?,
            Some(data_response::Message::Fragment(fragment)) => {
                self.io.assembly.fragment(fragment.data).map_err(LinkError::from)?;
            }
            Some(data_response::Message::Bid(bid)) => {
                self.bid(bid);
                return Ok(());
            }
            Some(data_response::Message::Pass(Pass { slot })) => {
                self.session.pass(slot);
                self.hub.desk.pass(Instant::now(), self.id, slot);
                return Ok(());
            }
            // Of a later version, and no part of any batch.
            None => return Ok(()),
        }
        if self.io.assembly.is_complete()
            && let Some(arriving) = self.io.arriving.take()
        {
            self.arrived(arriving)?;
        }
        Ok(())
    }

    /// The first part of a batch came.
    fn begin(&mut self, mut run: Run) -> Result<(), LinkError> {
        let begun = Instant::now();
        self.session.held(run.slot, Duration::from_micros(run.held_micros));
        let fate = match self.session.begin(begun, convert::key(self.id, &run), run.slot, &run.model)? {
            Admission::Drop => Fate::Drop,
            Admission::Run => match convert::check_size(&run, self.hub.device.budget) {
                Ok(()) => Fate::Run,
                Err(error) => Fate::Refuse(error),
            },
        };
        self.io.assembly.begin(&mut run, !matches!(fate, Fate::Run))?;
        self.io.arriving = Some(Arriving { run, begun, fate });
        Ok(())
    }

    /// The last part of a batch came.
    fn arrived(&mut self, arriving: Arriving) -> Result<(), LinkError> {
        let payload = self.io.assembly.take();
        let Arriving { run, begun, fate } = arriving;
        let (key, slot) = (convert::key(self.id, &run), run.slot);
        let launched = match fate {
            Fate::Drop => return Ok(()),
            Fate::Refuse(error) => Err(error),
            Fate::Run => match self.launch(run, payload, begun) {
                Ok(()) => Ok(()),
                Err(Unrun::Bad(error)) => Err(error),
                Err(Unrun::NoTurn(violation)) => return Err(violation.into()),
            },
        };
        if let Err(error) = launched {
            self.session.refuse(slot);
            if self.session.is_shared() {
                self.hub.desk.pass(Instant::now(), self.id, slot);
            }
            self.fail(key, &error);
        }
        self.grant()
    }

    fn launch(&mut self, run: Run, payload: Vec<bytes::Bytes>, begun: Instant) -> Result<(), Unrun> {
        let Hub { models, executor, device, desk, .. } = &mut *self.hub;
        let Some(model) = models.card(&run.model) else {
            return Err(BatchError::Device(format!("model `{}` is not in memory", run.model)).into());
        };
        let (slot, arrived) = (run.slot, Instant::now());
        let mut batch =
            convert::host_batch(self.id, run, payload, (model.0, &**model.1), device.budget, (begun, arrived))?;
        let key = batch.key;
        batch.cancelled = self.session.launch(key, slot, batch.items.len(), arrived.saturating_duration_since(begun));
        if self.session.is_shared() {
            return Ok(desk.part(arrived, slot, batch).inspect_err(|_| self.session.abandon(&key))?);
        }
        // A server that does not read its results gets no faster ones.
        let may_run_here = self.io.outbox.len() < OUTBOX_HIGH;
        let finished = if may_run_here { executor.run(batch) } else { executor.queue(batch) };
        let finished = finished.map_err(|full| {
            self.session.abandon(&key);
            BatchError::Device(full.to_string())
        })?;
        if let Some(finished) = finished {
            self.finished(finished);
        }
        Ok(())
    }

    /// What waits with the server, of one model.
    fn bid(&mut self, bid: Bid) {
        // A model that is not in memory any more cannot be run, whoever wants it.
        let Some((model, _)) = self.hub.models.card(&bid.model) else { return };
        if !self.session.is_shared() || self.session.is_draining() {
            return;
        }
        let (model, now) = (model.clone(), Instant::now());
        let want = bid.want.map(|want| convert::want(want, self.hub.desk.stamp(now)));
        self.hub.desk.bid(now, self.id, &model, want);
    }

    /// The server is given a turn.
    pub(super) fn give(&mut self, model: &Arc<str>, turn: &Turn) -> Result<(), LinkError> {
        self.session.give(turn.slot, model.clone());
        let turn = convert::turn(turn, model, self.hub.device.budget);
        send(&self.io.connection.control_out, control_request::Message::Turn(turn))
    }

    /// A part that it sent began.
    pub(super) fn begun(&mut self, begun: &Begun) {
        self.io.outbox.push_back(data_request::Message::Begun(convert::begun(begun)));
    }

    /// A part that it sent is over.
    pub(super) fn part_finished(&mut self, part: Finished) -> Result<(), LinkError> {
        if self.session.end(&part.key) {
            self.report(part);
        }
        if self.io.outbox.len() > OUTBOX_MAX { Err(LinkError::Clogged) } else { Ok(()) }
    }

    /// A batch of its own is over.
    pub(super) fn own_finished(&mut self, finished: Finished) -> Result<(), LinkError> {
        self.finished(finished);
        self.grant()
    }

    fn finished(&mut self, finished: Finished) {
        if self.session.finish(&finished) {
            self.report(finished);
        }
    }

    fn report(&mut self, finished: Finished) {
        let key = finished.key;
        let end = convert::batch_end(&finished, self.io.held.now);
        match finished.outcome {
            Ok(results) => {
                self.io.outbox.extend(pack_results(key, convert::item_results(results)));
                self.io.outbox.push_back(data_request::Message::BatchEnd(end));
            }
            Err(error) => self.fail(key, &error),
        }
    }

    fn fail(&mut self, key: BatchKey, error: &BatchError) {
        tracing::debug!(batch = key.batch, attempt = key.attempt, error = %error, "a batch failed");
        self.io.outbox.push_back(data_request::Message::BatchFailed(convert::batch_failed(key, error)));
    }

    fn grant(&mut self) -> Result<(), LinkError> {
        let budget = self.hub.device.budget;
        for slot in self.session.grants(Instant::now()) {
            let credit =
                Credit { slot, rows: budget.rows, tokens: budget.tokens, bytes: budget.bytes, ..Credit::default() };
            send(&self.io.connection.control_out, control_request::Message::Credit(credit))?;
        }
        Ok(())
    }

    fn load(&mut self, load: Load) -> Result<(), LinkError> {
        let name: Arc<str> = load.model.into();
        let source = load.source.map_or(Ok(None), convert::source);
        let precision = Precision::parse(&load.dtype)
            .ok_or_else(|| format!("dtype `{}` is none of {}", load.dtype, Precision::names()));
        let step = match source.and_then(|source| Ok((source, precision?))) {
            Ok((source, precision)) => self.hub.models.load(self.id, &name, source, precision),
            Err(reason) => LoadStep::Tell(ModelStatus::Failed { reason }),
        };
        let request = match step {
            LoadStep::Tell(status) => return self.tell(&name, &status),
            LoadStep::Start(request) => request,
            LoadStep::Replace(request) => {
                self.hub.evict(name.clone());
                request
            }
        };
        match self.hub.executor.load(request) {
            Ok(()) => Ok(()),
            Err(full) => {
                self.hub.models.failed(&name);
                self.tell(&name, &ModelStatus::Failed { reason: full.to_string() })
            }
        }
    }

    fn unload(&mut self, name: &Arc<str>) -> Result<(), LinkError> {
        match self.hub.models.unload(self.id, name) {
            UnloadStep::Evict => self.hub.evict(name.clone()),
            UnloadStep::Tell => return self.tell(name, &ModelStatus::Unloaded),
            UnloadStep::Wait => {}
        }
        Ok(())
    }

    /// Whether it is to be told of a model: one that shares its workers counts on what it asked for alone.
    pub(super) fn cares(&self, name: &str) -> bool {
        !self.session.is_shared() || self.hub.models.is_wanted(self.id, name)
    }

    pub(super) fn tell(&self, name: &str, status: &ModelStatus) -> Result<(), LinkError> {
        let state = convert::model_state(name, status);
        send(&self.io.connection.control_out, control_request::Message::ModelState(state))
    }

    /// Says again which models are being read: the connection that asked for them may have been another.
    fn tell_models(&self) -> Result<(), LinkError> {
        for name in self.hub.models.loading() {
            self.tell(name, &ModelStatus::Loading { progress: 0.0 })?;
        }
        Ok(())
    }

    pub(super) fn tell_weights(&self) -> Result<(), LinkError> {
        let absent = self.hub.models.without_weights().iter().map(|name| name.to_string()).collect();
        send(&self.io.connection.control_out, control_request::Message::Weights(Weights { absent }))
    }

    fn fetch(&mut self, sha256: String) {
        if self.io.artifacts_waiting.len() >= ARTIFACTS_WAITING_MAX {
            self.io.outbox.push_back(no_artifact(sha256, &ArtifactError::Busy));
            return;
        }
        self.io.artifacts_waiting.push_back(sha256);
        self.read_artifacts();
    }

    /// Begins to read as many as may be read at once.
    pub(super) fn read_artifacts(&mut self) {
        while self.io.artifacts.len() < ARTIFACTS_MAX
            && let Some(sha256) = self.io.artifacts_waiting.pop_front()
        {
            self.read_artifact(sha256);
        }
    }

    fn read_artifact(&mut self, sha256: String) {
        match artifact::find(&self.hub.models, &sha256) {
            Ok(path) => {
                let read = tokio::task::spawn_blocking({
                    let sha256 = sha256.clone();
                    move || artifact::read(&path, &sha256)
                });
                // Whatever becomes of it, the server is waiting for an answer.
                self.io.artifacts.spawn(async move {
                    match read.await {
                        Ok(Ok(data)) => pack_artifact(sha256, data),
                        Ok(Err(error)) => vec![no_artifact(sha256, &error)],
                        Err(panic) => vec![no_artifact(sha256, &panic)],
                    }
                });
            }
            Err(error) => self.io.outbox.push_back(no_artifact(sha256, &error)),
        }
    }

    fn heartbeat(&mut self, heartbeat: Heartbeat) -> Result<(), LinkError> {
        let Heartbeat { sent_micros, reply } = heartbeat;
        if reply {
            let sent = Duration::from_micros(sent_micros);
            let took = self.io.opened.elapsed().saturating_sub(sent);
            self.session.round_trip(took);
            self.hub.desk.round_trip(took);
            return Ok(());
        }
        let answer = Heartbeat { sent_micros, reply: true };
        send(&self.io.connection.control_out, control_request::Message::Heartbeat(answer))
    }

    pub(super) fn beat(&mut self, totals: Totals) -> Result<(), LinkError> {
        let silence_max = self.io.connection.silence_max;
        if self.io.heard.elapsed() > silence_max {
            return Err(LinkError::Silent(silence_max));
        }
        self.io.held = Held::read();
        let sent_micros = u64::try_from(self.io.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        let out = &self.io.connection.control_out;
        send(out, control_request::Message::Heartbeat(Heartbeat { sent_micros, reply: false }))?;
        let gpu = self.hub.monitor.as_ref().and_then(convert::gpu);
        let stats = convert::stats(totals, self.io.held, gpu);
        send(out, control_request::Message::Stats(stats))
    }

    /// Takes no more of it, and is done with it by the end of `grace`.
    pub(super) fn drain(&mut self, grace: Duration) -> Result<(), LinkError> {
        tracing::info!(?grace, "draining");
        if self.session.is_shared() {
            self.hub.desk.withdraw(Instant::now(), self.id);
        }
        for slot in self.session.drain() {
            send(
                &self.io.connection.control_out,
                control_request::Message::Credit(Credit { slot, ..Credit::default() }),
            )?;
        }
        let by = tokio::time::Instant::now() + grace;
        self.io.drain_by = Some(self.io.drain_by.map_or(by, |sooner| sooner.min(by)));
        Ok(())
    }
}

/// Why a batch that came does not run.
enum Unrun {
    Bad(BatchError),
    NoTurn(crate::session::NoCredit),
}

impl From<BatchError> for Unrun {
    fn from(error: BatchError) -> Self {
        Self::Bad(error)
    }
}

impl From<crate::session::NoCredit> for Unrun {
    fn from(error: crate::session::NoCredit) -> Self {
        Self::NoTurn(error)
    }
}

fn no_artifact(sha256: String, error: &dyn std::fmt::Display) -> data_request::Message {
    data_request::Message::Artifact(Artifact { sha256, error: error.to_string(), ..Artifact::default() })
}
