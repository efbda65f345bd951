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

/// After a loss it is looked up at once, and soon after a look-up that failed, but not more often than this.
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
    /// Look-ups in a row that found no address.
    misses: u32,
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
                Some((host, port)) => {
                    names.push(Name { endpoint: endpoint.clone(), host, port, answering: None, misses: 0 })
                }
                None => others.push(endpoint.clone()),
            }
        }
        (Self { resolver, names, every, timer: Box::pin(sleep(Duration::ZERO)), asked: None }, others)
    }

    /// A server was lost: its successor may have another address.
    pub(super) fn hurry(&mut self) {
        if let Some(asked) = self.asked {
            self.look_by((asked + EVERY_MIN).max(Instant::now()));
        }
    }

    /// Looks them up at that time, or sooner.
    fn look_by(&mut self, at: Instant) {
        if at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
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
                let endpoint = name.endpoint.clone();
                if answer.as_ref().is_ok_and(|addresses| !addresses.is_empty()) {
                    name.misses = 0;
                } else {
                    let wait = EVERY_MIN * 2_u32.saturating_pow(name.misses);
                    name.misses = name.misses.saturating_add(1);
                    self.look_by(Instant::now() + wait);
                }
                return Poll::Ready(Found { endpoint, answer });
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
    use std::future::poll_fn;

    use super::*;

    /// As in the first moments of a cluster, when the name of a server stands for nothing yet.
    #[tokio::test]
    async fn a_name_that_is_not_found_is_looked_up_again_soon_and_less_and_less_often() {
        let every = Duration::from_secs(5);
        for answer in [|| Ok(Vec::new()), || Err(io::Error::other("no such name"))] as [fn() -> Answer; 2] {
            let resolver = Resolver::new(move |_, _| async move { answer() });
            let (mut names, _) = Names::of(&["http://shoal-workers:8003".parse().unwrap()], resolver, every);
            let mut waits = Vec::new();
            for _ in 0..40 {
                // Its time has come.
                names.timer.as_mut().reset(Instant::now());
                poll_fn(|context| names.poll_found(context)).await.answer.unwrap_or_default();
                waits.push((names.timer.deadline() - names.asked.unwrap()).as_secs());
            }
            assert_eq!((&waits[..5], waits[39]), (&[1, 2, 4, 5, 5][..], 5));
        }
    }

    #[tokio::test]
    async fn a_name_that_is_found_is_looked_up_at_its_leisure() {
        let address = "10.0.0.1:8003".parse().unwrap();
        let resolver = Resolver::new(move |_, _| async move { Ok(vec![address]) });
        let every = Duration::from_secs(5);
        let (mut names, _) = Names::of(&["http://shoal-workers:8003".parse().unwrap()], resolver, every);
        let found = poll_fn(|context| names.poll_found(context)).await;
        assert_eq!((found.answer.unwrap(), names.timer.deadline()), (vec![address], names.asked.unwrap() + every));
    }

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
