//! One worker's connection: from Hello to the end, in one task.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::link::limits::FAREWELL_SECONDS_MAX;
use shoal_proto::link::{self as wire, control_request, control_response, data_request, data_response};
use shoal_scheduler::{Epoch, Slot};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use crate::driver::{Batch, Event, FromWorker, ToWorker, Wanted, WorkerUp};
use crate::failpoints::{Cut, Point, reach};
use crate::oip::Short;

use super::convert;
use super::frames::{Assembly, Whole, cut};
use super::guest::Connection;
use super::service::{Admitted, DataEnds, Shared, Waiting, lock};
use super::tokens::Origin;

/// After Goodbye the data stream is read for so long at most.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(FAREWELL_SECONDS_MAX);

pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    /// That its streams are on.
    pub(super) connection: Connection,
    pub(super) requests: Streaming<wire::ControlRequest>,
    pub(super) responses: mpsc::Sender<Result<wire::ControlResponse, Status>>,
    /// It said last how its GPU is.
    pub(super) has_gpu: bool,
    /// It says by itself which weights are not on its device.
    pub(super) tells_weights: bool,
}

/// What goes out on the data stream, in the order in which the driver said it.
enum ToData {
    Run(Batch),
    Bid { model: Arc<str>, want: Option<Wanted> },
    Pass { slot: Slot },
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

impl From<Cut> for End {
    fn from(_: Cut) -> Self {
        Self::lost("cut by a failpoint")
    }
}

impl Session {
    /// Serves the worker until either side is gone.
    pub(super) async fn run(mut self) {
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
        let peer = self.connection.peer;
        let admitted = self.shared.admit(&hello, peer);
        let Admitted { protocol, epoch, origin } = match admitted {
            Ok(admitted) => admitted,
            Err((reason, detail)) => {
                // Nobody has said who that is.
                warn!(worker = %Short(&hello.worker), %detail, "worker refused");
                let refused = wire::Refused { reason: reason.into(), detail };
                self.send(control_response::Message::Refused(refused)).await;
                return None;
            }
        };
        self.connection.place.leave();
        let (attach, attached) = oneshot::channel();
        lock(&self.shared.waiting).insert(epoch, Waiting { worker: hello.worker.clone(), peer, attach });
        let options = self.shared.options;
        self.send(control_response::Message::Welcome(wire::Welcome {
            protocol,
            epoch,
            heartbeat_interval: Some(convert::to_wire(options.heartbeat_interval)),
            silence_max: Some(convert::to_wire(options.silence_max)),
            shares_workers: options.shares_workers,
            server: self.shared.server,
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
            device_class: format!("{} ({}), {} threads", device.kind, device.name, device.threads).into(),
            gpu: convert::gpu_of(&device),
            local: origin == Origin::Child,
            pool: if hello.pool.is_empty() { "default".into() } else { hello.pool.as_str().into() },
            held: hello
                .offers
                .iter()
                .filter(|offer| offer.card.is_some())
                .map(|offer| offer.name.as_str().into())
                .collect(),
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
                    Some(ToWorker::Run(batch)) => reach(Point::LinkRun).await.map_err(End::from).map(|()| {
                        let _ = batches.send(ToData::Run(batch));
                    }),
                    Some(ToWorker::Bid { model, want }) => {
                        let _ = batches.send(ToData::Bid { model, want });
                        Ok(())
                    }
                    Some(ToWorker::Pass { slot }) => {
                        let _ = batches.send(ToData::Pass { slot });
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
        &mut self,
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
            Some(Message::Stats(stats)) => {
                let gpu = stats.gpu.map(convert::gpu);
                // The other statistics are for `shoal top`. Of a worker without a GPU there is nothing to say each time.
                if !std::mem::replace(&mut self.has_gpu, gpu.is_some()) && gpu.is_none() {
                    return Ok(None);
                }
                FromWorker::Gpu(gpu)
            }
            Some(Message::Turn(turn)) => convert::turn(turn).map_err(End::lost)?,
            Some(Message::Weights(weights)) => {
                self.tells_weights = true;
                convert::weights(&weights.absent)
            }
            // Messages of later versions mean nothing here.
            None => return Ok(None),
        };
        self.tell(epoch, said).await;
        Ok(None)
    }

    async fn data_request(
        &mut self,
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
                reach(Point::BatchEnd).await?;
                if let Some(page_in) = convert::page_in(&end).map_err(End::lost)? {
                    self.tell(epoch, page_in).await;
                }
                // What is said on Control is newer, or will be.
                if let Some(page_in) = end.page_in.as_ref().filter(|_| !self.tells_weights) {
                    self.tell(epoch, convert::weights(&page_in.absent)).await;
                }
                self.tell(epoch, convert::batch_end(&end).map_err(End::lost)?).await;
                reach(Point::BatchEnded).await?;
                None
            }
            Some(Message::Begun(begun)) => {
                assembly.check_closed().map_err(broken)?;
                self.tell(epoch, convert::begun(&begun).map_err(End::lost)?).await;
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
            Some(Whole::Results(results)) => {
                reach(Point::Results).await?;
                self.tell(epoch, convert::items(results).map_err(End::lost)?).await;
            }
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
            ToWorker::Run(_) | ToWorker::Bid { .. } | ToWorker::Pass { .. } | ToWorker::Close => return Ok(()),
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

/// Sends batches, frame by frame, and what is said between them, until either end is gone.
async fn write_data(
    mut queue: mpsc::UnboundedReceiver<ToData>,
    frames: mpsc::Sender<Result<wire::DataResponse, Status>>,
) {
    use data_response::Message;
    while let Some(next) = queue.recv().await {
        let (message, fragments) = match next {
            ToData::Run(batch) => {
                let (run, fragments) = cut(convert::run(batch));
                (Message::Run(run), fragments)
            }
            ToData::Bid { model, want } => (Message::Bid(convert::bid(&model, want, Instant::now())), Vec::new()),
            ToData::Pass { slot } => (Message::Pass(wire::Pass { slot: slot.0 }), Vec::new()),
        };
        let fragments = fragments.into_iter().map(|data| Message::Fragment(wire::Fragment { data }));
        for message in std::iter::once(message).chain(fragments) {
            if frames.send(Ok(wire::DataResponse { message: Some(message) })).await.is_err() {
                return;
            }
        }
    }
    // The session holds the other end for as long as it lives.
    std::future::pending::<()>().await;
}
