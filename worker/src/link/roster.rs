//! Which servers there are: who is listed, dialled, let in, lost and let go.

use std::time::Instant;

use tokio::time::{sleep, timeout};

use super::errors::{Leave, LinkError};
use super::names::Found;
use super::peer::{Identity, Peer, Place, State};
use super::register::{self, Greeted};
use super::{End, Link, REGISTER_MAX, dial};
use crate::batch::ServerId;
use crate::run::{Exit, Refusal};
use crate::{Auth, Endpoint};

impl Link {
    /// A server said what it is.
    pub(super) fn greeted(&mut self, at: usize, greeted: Greeted) -> Result<(), Leave> {
        let identity = Identity { server: greeted.welcome.server, is_shared: greeted.welcome.shares_workers };
        for (other, peer) in self.peers.iter().enumerate().filter(|(other, _)| *other != at) {
            let is_there = matches!(peer.state, State::Serving(_) | State::Attaching(_) | State::Leaving(_));
            let Some(known) = peer.identity.filter(|_| is_there && other != at) else { continue };
            if known.server == identity.server && known.server != 0 {
                return Err(LinkError::Twice(peer.place.clone()).into());
            }
            match (known.is_shared, identity.is_shared) {
                (true, true) => {}
                (_, false) => return Err(LinkError::NotShared.into()),
                (false, true) => return Err(LinkError::NotAlone.into()),
            }
        }
        let peer = &mut self.peers[at];
        (peer.identity, peer.refused, peer.is_unanswered) = (Some(identity), None, false);
        peer.state = State::Attaching(Box::pin(async move {
            timeout(REGISTER_MAX, register::attach(greeted)).await.unwrap_or(Err(LinkError::NoWelcome.into()))
        }));
        Ok(())
    }

    /// Dials every server that waits for nothing but that.
    pub(super) fn dial_settled(&mut self) {
        for peer in &mut self.peers {
            if matches!(peer.state, State::Settling(_)) && peer.session.is_idle() {
                let (place, mut hello) = (peer.place.clone(), self.hub.hello());
                let (auth, tls) = (self.hub.options.auth.clone(), self.hub.options.tls.clone());
                peer.state = State::Greeting(Box::pin(async move {
                    let channel = dial::dial(&place.endpoint, place.address, &tls).await.map_err(LinkError::Dial)?;
                    hello.auth = auth.token().map_err(LinkError::Auth)?.reveal().to_owned();
                    let greeted = timeout(REGISTER_MAX, register::greet(channel, hello)).await;
                    match greeted.unwrap_or(Err(LinkError::NoWelcome.into())) {
                        // The file may have another token by the next time.
                        Err(Leave::Exit(Exit::Refused { reason: Refusal::Auth, detail }))
                            if matches!(auth, Auth::File(_)) =>
                        {
                            Err(LinkError::Refused(format!("auth: {detail}")).into())
                        }
                        greeted => greeted,
                    }
                }));
            }
        }
    }

    /// The connection to a server is over, or never came to be.
    pub(super) fn leave(&mut self, at: usize, leave: Leave) -> Result<(), End> {
        let peer = &mut self.peers[at];
        let error = match leave {
            Leave::Lost(error) => error,
            Leave::Exit(exit) => {
                let error = LinkError::Refused(match &exit {
                    Exit::Refused { detail, .. } => detail.clone(),
                    other => format!("{other:?}"),
                });
                peer.refused = Some(exit);
                error
            }
        };
        peer.is_unanswered = matches!(error, LinkError::Dial(_));
        if let Some(exit) = self.refused_by_all() {
            return Err(End::Exit(exit));
        }
        self.lose(at, &error);
        Ok(())
    }

    /// Why the worker is to end: no server will ever have it. A name may stand for an address where nobody listens: the server
    /// that refuses at another one speaks for it.
    fn refused_by_all(&self) -> Option<Exit> {
        let refuses = |endpoint: &Endpoint| {
            self.peers.iter().any(|peer| peer.refused.is_some() && peer.place.endpoint == *endpoint)
        };
        let is_over = |peer: &Peer| peer.refused.is_some() || (peer.is_unanswered && refuses(&peer.place.endpoint));
        let exit = self.peers.iter().find_map(|peer| peer.refused.clone())?;
        self.peers.iter().all(is_over).then_some(exit)
    }

    pub(super) fn lose(&mut self, at: usize, error: &LinkError) {
        let others = self.peers.iter().enumerate().any(|(other, peer)| other != at && peer.is_serving());
        let peer = &mut self.peers[at];
        let wait = peer.back_off.next();
        let was_there = peer.is_serving();
        peer.session.disconnect();
        peer.state = State::Resting(Box::pin(sleep(wait)));
        self.hub.desk.leave(Instant::now(), peer.id).iter().for_each(|key| peer.session.abandon(key));
        if peer.session.is_shared() {
            self.hub.models.leave(Instant::now(), peer.id);
        } else {
            self.hub.forget(peer.id);
        }
        self.names.hurry();
        let (server, is_listed) = (&peer.place, peer.is_listed);
        let is_twice = matches!(error, LinkError::Twice(_));
        // A name may stand for addresses at which nobody answers, again and again.
        let is_known = others && !was_there && server.address.is_some() && matches!(error, LinkError::Dial(_));
        let error: &dyn std::error::Error = error;
        if is_twice || is_known {
            tracing::debug!(error, %server, again_in = ?wait, "no link to the server");
        } else {
            tracing::warn!(error, %server, is_listed, again_in = ?wait, "no link to the server");
        }
    }

    /// What a name stands for now.
    pub(super) fn found(&mut self, Found { endpoint, answer }: Found) {
        let addresses = match answer {
            Ok(addresses) if !addresses.is_empty() => addresses,
            // Those that were found before stay.
            Ok(_) => return tracing::warn!(server = %endpoint, "the name stands for no address"),
            Err(error) => {
                return tracing::warn!(error = &error as &dyn std::error::Error, server = %endpoint, "the name cannot be looked up");
            }
        };
        for peer in self.peers.iter_mut().filter(|peer| peer.place.endpoint == endpoint) {
            let is_listed = peer.place.address.is_some_and(|address| addresses.contains(&address));
            if peer.is_listed && !is_listed {
                tracing::info!(server = %peer.place, "the name does not stand for this address any more");
            }
            peer.is_listed = is_listed;
        }
        for address in addresses {
            self.list(Place { endpoint: endpoint.clone(), address: Some(address) });
        }
    }

    /// Takes in a server, unless it is known.
    pub(super) fn list(&mut self, place: Place) {
        if !self.peers.iter().any(|peer| peer.place == place) {
            self.numbered += 1;
            self.peers.push(Peer::new(ServerId(self.numbered), place, self.hub.incarnation));
        }
    }

    /// Says goodbye to servers that are done with, and forgets those that are no longer listed.
    pub(super) fn part(&mut self) {
        let now = tokio::time::Instant::now();
        for peer in &mut self.peers {
            let is_due = peer.io().and_then(|io| io.drain_by).is_some_and(|by| peer.is_done() || by <= now);
            if self.is_ending || !is_due {
                continue;
            }
            let drained = peer.is_done();
            self.hub.desk.leave(Instant::now(), peer.id).iter().for_each(|key| peer.session.abandon(key));
            if let State::Serving(io) = std::mem::replace(&mut peer.state, State::Settling(now)) {
                peer.state = State::Leaving(Box::pin(io.farewell(drained)));
            }
        }
        let hub = &mut self.hub;
        self.peers.retain(|peer| {
            let is_kept = peer.is_listed || matches!(peer.state, State::Serving(_) | State::Leaving(_));
            if !is_kept {
                tracing::info!(server = %peer.place, "let go");
                hub.gone += peer.session.totals();
                hub.forget(peer.id);
            }
            is_kept
        });
    }
}
