//! The connections to servers: dial, register, serve, and after a loss back off and dial again. Everything the wire says is
//! turned into the worker's own words here and nowhere else.
//!
//! One task has everything: the executor, the models, and every server with what it sent. `next` only waits and names what
//! happened; `handle` decides, without waiting. A server that shares its workers is one of several, each behind a connection
//! of its own; what they send runs as the [`Desk`] says. A server that does not is the only one, and gets credits.
//!
//! The executor lives longer than any connection. While there is none, batches in flight are finished or dropped, models
//! go on loading, and what they give is remembered or counted as stale.
//!
//! While a batch of an earlier connection to a server runs, that server is not dialled: the worker could offer it models
//! and run none. One that still runs after `stuck_max` is taken for hung, and the worker ends with an error, so that
//! whatever keeps it alive starts another.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use shoal_proto::link::{ControlRequest, control_request};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tonic::Streaming;

use crate::Options;
use crate::backend::Stack;
use crate::batch::ServerId;
use crate::device::Device;
use crate::executor::{Event as ExecutorEvent, Executor};
use crate::monitor::Monitor;
use crate::run::{Exit, RunError};
use crate::session::{Desk, Models, Totals};

mod artifact;
mod backoff;
mod convert;
mod dial;
mod errors;
mod frames;
mod hub;
pub(crate) mod memory;
mod names;
mod news;
mod peer;
mod register;
mod roster;
mod served;

use errors::{Leave, LinkError};
use hub::Hub;
pub use names::Resolver;
use names::{Found, Names};
use peer::{Io, OUTBOX_HIGH, Peer, PeerEvent, Place, State};
use served::Served;

/// From opening the first stream to the server's word on it.
const REGISTER_MAX: Duration = Duration::from_secs(10);

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
pub(crate) struct Link {
    hub: Hub,
    peers: Vec<Peer>,
    /// Servers known so far.
    numbered: u32,
    names: Names,
    stop: watch::Receiver<Stop>,
    /// No connection is made any more, and those that are there are drained.
    is_ending: bool,
    /// Which server is looked at first.
    first: usize,
}

/// What happened.
enum Event {
    Stop(Stop),
    /// A time came that was waited for.
    Time,
    Peer(usize, PeerEvent),
    Found(Found),
    Executor(Option<ExecutorEvent>),
}

/// Why the worker ends.
#[derive(Debug)]
enum End {
    Exit(Exit),
    Fatal(RunError),
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
        let (names, endpoints) = Names::of(&options.connect, options.resolver.clone(), options.resolve_every);
        let desk = Desk::new(Instant::now(), device.budget, options.turn_wait_max);
        let (incarnation, gone) = (rand::random(), Totals::default());
        let hub = Hub { options, executor, device, monitor, models, desk, incarnation, gone };
        let mut link = Self { hub, peers: Vec::new(), numbered: 0, names, stop, is_ending: false, first: 0 };
        endpoints.into_iter().for_each(|endpoint| link.list(Place { endpoint, address: None }));
        link
    }

    /// Until the worker's life is over.
    pub(crate) async fn run(mut self) -> Result<Exit, RunError> {
        loop {
            let event = self.next().await;
            let end = match self.handle(event) {
                Ok(()) => {
                    self.act();
                    self.part();
                    self.over()
                }
                Err(end) => Some(end),
            };
            match end {
                None => {}
                Some(End::Exit(exit @ (Exit::Drained | Exit::GraceEnded))) => {
                    self.farewell(exit == Exit::Drained).await;
                    return Ok(exit);
                }
                Some(End::Exit(exit)) => return Ok(exit),
                Some(End::Fatal(error)) => return Err(error),
            }
        }
    }

    async fn next(&mut self) -> Event {
        let (wake, takes_news, count) = (self.wake(), self.takes_news(), self.peers.len());
        let (is_ending, first) = (self.is_ending, self.first);
        let Self { hub, peers, names, stop, .. } = self;
        let mut stopping = pin!(stopped(stop));
        let mut news = pin!(hub.executor.event());
        let mut timer = pin!(async move {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        });
        let order = move || (0..count).map(move |at| (first + at) % count);
        let event = poll_fn(|context| {
            // A stop comes first, and what all servers say on Control before what they send on Data.
            if !is_ending && let Poll::Ready(stop) = stopping.as_mut().poll(context) {
                return Poll::Ready(Event::Stop(stop));
            }
            if timer.as_mut().poll(context).is_ready() {
                return Poll::Ready(Event::Time);
            }
            for at in order() {
                if (!is_ending || peers[at].is_serving())
                    && let Poll::Ready(event) = peers[at].poll_first(context)
                {
                    return Poll::Ready(Event::Peer(at, event));
                }
            }
            if let Poll::Ready(found) = names.poll_found(context) {
                return Poll::Ready(Event::Found(found));
            }
            if takes_news && let Poll::Ready(event) = news.as_mut().poll(context) {
                return Poll::Ready(Event::Executor(event));
            }
            for at in order() {
                if let Poll::Ready(event) = peers[at].poll_last(context) {
                    return Poll::Ready(Event::Peer(at, event));
                }
            }
            Poll::Pending
        });
        let event = event.await;
        // Each in its turn, so that no flood of one hides the others.
        self.first = if count == 0 { 0 } else { (first + 1) % count };
        event
    }

    /// The executor's news wait for a server that does not read its results, unless others would wait with it.
    fn takes_news(&self) -> bool {
        let is_behind =
            |peer: &Peer| !peer.session.is_shared() && peer.io().is_some_and(|io| io.outbox.len() >= OUTBOX_HIGH);
        !self.peers.iter().any(is_behind)
    }

    /// When something is due that no message brings.
    fn wake(&self) -> Option<tokio::time::Instant> {
        let due = |peer: &Peer| match &peer.state {
            State::Settling(by) => Some(*by),
            State::Serving(io) => io.drain_by,
            _ => None,
        };
        let of_hub = [self.hub.desk.timeout(), self.hub.models.timeout()].into_iter().flatten();
        self.peers.iter().filter_map(due).chain(of_hub.map(tokio::time::Instant::from_std)).min()
    }

    fn handle(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Peer(at, event) => {
                if let Err(leave) = self.peer(at, event) {
                    self.leave(at, leave)?;
                }
            }
            Event::Executor(Some(event)) => {
                if let Some(reason) = event.breaks() {
                    // The server is told before the batch that it happened in would be, and counts that as lost.
                    self.each(|served| served.io.say_goodbye(reason, false));
                    return Err(End::Fatal(RunError::Broken(reason.to_owned())));
                }
                self.news(event);
            }
            Event::Executor(None) => {
                self.each(|served| served.io.say_goodbye("the executor ended", false));
                return Err(End::Fatal(RunError::ExecutorEnded));
            }
            Event::Found(found) => self.found(found),
            Event::Time => {
                self.hub.desk.tick(Instant::now());
                let unwanted = self.hub.models.expire(Instant::now());
                unwanted.into_iter().for_each(|name| self.hub.evict(name));
                let now = tokio::time::Instant::now();
                let is_stuck = |peer: &Peer| matches!(peer.state, State::Settling(by) if by <= now);
                if self.peers.iter().any(is_stuck) {
                    return Err(End::Fatal(RunError::Stuck(self.hub.options.stuck_max)));
                }
            }
            Event::Stop(Stop::Not) => {}
            Event::Stop(Stop::Drain) => {
                self.is_ending = true;
                let grace = self.hub.options.grace;
                self.each(|served| served.drain(grace));
            }
            Event::Stop(Stop::ParentGone) => return Err(End::Exit(Exit::ParentGone)),
        }
        Ok(())
    }

    fn peer(&mut self, at: usize, event: PeerEvent) -> Result<(), Leave> {
        match event {
            PeerEvent::Rested => {
                self.peers[at].state = State::Settling(tokio::time::Instant::now() + self.hub.options.stuck_max);
                self.dial_settled();
                Ok(())
            }
            PeerEvent::Greeted(greeted) => self.greeted(at, *greeted?),
            PeerEvent::Attached(connection) => {
                let connection = *connection?;
                let peer = &mut self.peers[at];
                let register::Connection { epoch, heartbeat_interval, silence_max, .. } = connection;
                let is_shared = peer.identity.is_some_and(|identity| identity.is_shared);
                tracing::info!(server = %peer.place, epoch, is_shared, ?heartbeat_interval, ?silence_max, "linked");
                peer.back_off.reset();
                peer.session.connect(epoch, is_shared);
                peer.state = State::Serving(Box::new(Io::new(connection)));
                served(&mut self.hub, peer).map_or(Ok(()), |mut served| Ok(served.welcome()?))
            }
            PeerEvent::Left => Err(LinkError::Drained.into()),
            event => self.serve(at, event),
        }
    }

    /// Something happened with a server in service.
    fn serve(&mut self, at: usize, event: PeerEvent) -> Result<(), Leave> {
        let totals = self.totals();
        let Some(mut served) = served(&mut self.hub, &mut self.peers[at]) else { return Ok(()) };
        match event {
            PeerEvent::Control(message) => {
                served.io.heard = Instant::now();
                served.control(message?)?;
                // One that does not share its workers is the only one.
                self.is_ending |= served.io.drain_by.is_some() && !served.session.is_shared();
            }
            PeerEvent::Data(message) => {
                served.io.heard = Instant::now();
                served.data(message?)?;
            }
            PeerEvent::Artifact(messages) => {
                served.io.outbox.extend(messages);
                served.read_artifacts();
            }
            PeerEvent::Beat => served.beat(totals)?,
            PeerEvent::DataClosed => return Err(LinkError::Ended("data").into()),
            PeerEvent::Sent | PeerEvent::Rested | PeerEvent::Greeted(_) | PeerEvent::Attached(_) | PeerEvent::Left => {}
        }
        Ok(())
    }

    /// Does something with every server in service.
    fn each(&mut self, mut act: impl FnMut(&mut Served<'_>) -> Result<(), LinkError>) {
        for at in 0..self.peers.len() {
            let done = served(&mut self.hub, &mut self.peers[at]).map_or(Ok(()), |mut served| act(&mut served));
            if let Err(error) = done {
                self.lose(at, &error);
            }
        }
    }

    /// Does something with one server, if it is in service.
    fn with(&mut self, id: ServerId, act: impl FnOnce(&mut Served<'_>) -> Result<(), LinkError>) {
        let Some(at) = self.peers.iter().position(|peer| peer.id == id) else { return };
        let done = served(&mut self.hub, &mut self.peers[at]).map_or(Ok(()), |mut served| act(&mut served));
        if let Err(error) = done {
            self.lose(at, &error);
        }
    }

    /// The worker's life is over once it has drained, or had its time to.
    fn over(&self) -> Option<End> {
        if !self.is_ending {
            return None;
        }
        if self.peers.iter().filter(|peer| peer.is_serving()).all(Peer::is_done) {
            return Some(End::Exit(Exit::Drained));
        }
        let now = tokio::time::Instant::now();
        let is_late = |peer: &Peer| peer.io().and_then(|io| io.drain_by).is_some_and(|by| by <= now);
        self.peers.iter().any(is_late).then_some(End::Exit(Exit::GraceEnded))
    }

    async fn farewell(self, drained: bool) {
        let mut farewells = JoinSet::new();
        for peer in self.peers {
            let done = drained || peer.is_done();
            match peer.state {
                State::Serving(io) => farewells.spawn(io.farewell(done)),
                State::Leaving(farewell) => farewells.spawn(farewell),
                _ => continue,
            };
        }
        farewells.join_all().await;
    }

    /// Counted over all servers.
    fn totals(&self) -> Totals {
        let mut totals = self.hub.gone;
        totals += self.hub.desk.totals();
        self.peers.iter().for_each(|peer| totals += peer.session.totals());
        totals
    }
}

/// A server in service, with what it shares with the others.
fn served<'a>(hub: &'a mut Hub, peer: &'a mut Peer) -> Option<Served<'a>> {
    match &mut peer.state {
        State::Serving(io) => Some(Served { id: peer.id, hub, session: &mut peer.session, io }),
        _ => None,
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

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

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
