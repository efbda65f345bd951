//! Which addresses the servers have: a name may stand for several, and for others a moment later.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::Uri;

use crate::Endpoint;

/// After a loss it is looked up at once, but not more often than this.
const EVERY_MIN: Duration = Duration::from_secs(1);

type Answer = io::Result<Vec<SocketAddr>>;
type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Looks up names.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(String, u16) -> Answering + Send + Sync>);

impl Resolver {
    /// One that answers as `look_up` does, which is given a host and a port.
    pub fn new<F>(look_up: impl Fn(String, u16) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self(Arc::new(move |host, port| Box::pin(look_up(host, port))))
    }
}

impl Default for Resolver {
    /// Asks the system.
    fn default() -> Self {
        Self::new(|host, port| async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver(…)")
    }
}

/// The names among the endpoints of a worker.
pub(super) struct Names {
    resolver: Resolver,
    names: Vec<Name>,
    every: Duration,
    timer: Pin<Box<Sleep>>,
    asked: Option<Instant>,
}

struct Name {
    endpoint: Endpoint,
    host: String,
    port: u16,
    answering: Option<Answering>,
}

/// What a name stands for now.
pub(super) struct Found {
    pub(super) endpoint: Endpoint,
    pub(super) answer: Answer,
}

impl Names {
    /// The names of these, to be looked up at once, and those that are none.
    pub(super) fn of(endpoints: &[Endpoint], resolver: Resolver, every: Duration) -> (Self, Vec<Endpoint>) {
        let (mut names, mut others) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            match host_of(endpoint) {
                Some((host, port)) => names.push(Name { endpoint: endpoint.clone(), host, port, answering: None }),
                None => others.push(endpoint.clone()),
            }
        }
        (Self { resolver, names, every, timer: Box::pin(sleep(Duration::ZERO)), asked: None }, others)
    }

    /// A server was lost: its successor may have another address.
    pub(super) fn hurry(&mut self) {
        if let Some(asked) = self.asked {
            let soon = asked + EVERY_MIN;
            if soon < self.timer.deadline() {
                self.timer.as_mut().reset(soon.max(Instant::now()));
            }
        }
    }

    /// What one of them stands for, each in its turn.
    pub(super) fn poll_found(&mut self, context: &mut Context<'_>) -> Poll<Found> {
        if self.names.is_empty() {
            return Poll::Pending;
        }
        if self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            self.asked = Some(now);
            self.timer.as_mut().reset(now + self.every);
            // So that it wakes this task when it is due again.
            let _ = self.timer.as_mut().poll(context);
            for name in &mut self.names {
                // One that is not answered yet is not asked for twice.
                name.answering.get_or_insert_with(|| (self.resolver.0)(name.host.clone(), name.port));
            }
        }
        for name in &mut self.names {
            if let Some(answering) = &mut name.answering
                && let Poll::Ready(answer) = answering.as_mut().poll(context)
            {
                name.answering = None;
                return Poll::Ready(Found { endpoint: name.endpoint.clone(), answer });
            }
        }
        Poll::Pending
    }
}

/// The host and port of an endpoint that names a host.
fn host_of(endpoint: &Endpoint) -> Option<(String, u16)> {
    let Endpoint::Tcp(uri) = endpoint else { return None };
    let uri: Uri = uri.parse().ok()?;
    let (host, port) = (uri.host()?, uri.port_u16()?);
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    (!is_address).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_looked_up() {
        let endpoints = [
            "http://shoal-workers:8003",
            "http://10.0.0.1:8003",
            "http://[::1]:8003",
            "/run/s.sock",
            "http://localhost:1",
        ];
        let endpoints = endpoints.map(|text| text.parse::<Endpoint>().unwrap());
        let hosts: Vec<_> = endpoints.iter().filter_map(host_of).collect();
        assert_eq!(hosts, [("shoal-workers".to_owned(), 8003), ("localhost".to_owned(), 1)]);
    }
}
