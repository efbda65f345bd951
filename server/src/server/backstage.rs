//! What clients do not see: driver, worker link, supervisor and disk errands.

use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use shoal_scheduler::Limits;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::StartError;
use crate::artifacts;
use crate::costs;
use crate::driver::{Driver, Handle, Inbox, ModelSettings, Surroundings, drive};
use crate::lanes::Lanes;
use crate::link::{self, LinkAddress, LinkOptions, LinkService, Tokens};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::supervisor::{ChildOptions, GivenUp, LocalWorkers, Supervisor};
use crate::tls::Tls;
use crate::traces::Tracer;

/// How long a local worker may take to end by itself once its batches are done.
const WORKER_STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// All on the first lane.
#[derive(Debug)]
pub(super) struct Backstage {
    stop: CancellationToken,
    /// Closed when one of them ended by itself.
    pub(super) ended: oneshot::Receiver<()>,
}

/// What they are started with.
pub(super) struct BackstagePlan {
    pub(super) limits: Limits,
    pub(super) resident_bytes_max: Option<NonZeroU64>,
    pub(super) models: Vec<ModelSettings>,
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) home: PathBuf,
    pub(super) tokens: Tokens,
    pub(super) link: Option<LinkAddress>,
    pub(super) link_tls: Option<Tls>,
    pub(super) local: Option<LocalWorkers>,
    pub(super) given_up: mpsc::UnboundedSender<GivenUp>,
    pub(super) tracer: Tracer,
}

impl Backstage {
    pub(super) async fn start(
        lanes: &Lanes,
        plan: BackstagePlan,
        driver: Handle,
        inbox: Inbox,
    ) -> Result<(Self, LinkAddress), StartError> {
        let stop = CancellationToken::new();
        let (bound, address) = oneshot::channel();
        let (done, ended) = oneshot::channel::<()>();
        let stopped = stop.clone();
        lanes.first().spawn(async move {
            plan.run(driver, inbox, bound, stopped).await;
            let _ = done.send(());
        });
        let ended_early = || StartError::System(io::Error::other("the driver ended"));
        let address = address.await.map_err(|_| ended_early())??;
        Ok((Self { stop, ended }, address))
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        // It may have ended by itself, or with a panic that it reported.
        if !self.ended.is_terminated() {
            let _ = self.ended.await;
        }
    }
}

impl BackstagePlan {
    async fn run(
        self,
        driver: Handle,
        inbox: Inbox,
        bound: oneshot::Sender<Result<LinkAddress, StartError>>,
        stop: CancellationToken,
    ) {
        // Removed with all that is in it when this function ends.
        let folder = match tempfile::Builder::new().prefix("shoal-").tempdir() {
            Ok(folder) => folder,
            Err(error) => {
                let _ = bound.send(Err(StartError::System(error)));
                return;
            }
        };
        let (supervisor, told) = mpsc::unbounded_channel();
        let (errands, errands_in) = mpsc::unbounded_channel();
        let (costs, costs_in) = mpsc::unbounded_channel();
        let around = Surroundings {
            registry: self.registry,
            metrics: self.metrics.clone(),
            supervisor,
            artifacts: errands,
            costs,
            resident_bytes_max: self.resident_bytes_max,
            tracer: self.tracer,
        };
        let mut state = Driver::new(self.limits, Instant::now(), around);
        // Before a worker can dial, since it is asked for the models there are when it does, and before a client can: a
        // server without models is ready at once, and this one is not.
        state.configure(Instant::now(), self.models);
        let socket = folder.path().join("link.sock");
        let address = self.link.unwrap_or_else(|| LinkAddress::Unix(socket.clone()));
        let options = LinkOptions { shares_workers: self.limits.workers_are_shared, ..LinkOptions::default() };
        let service = LinkService::new(driver.clone(), options, self.tokens.clone());
        let link_stop = CancellationToken::new();
        let serving =
            match link::serve(&address, self.link_tls.as_ref(), self.metrics.clone(), service, link_stop.clone()).await
            {
                Ok((at, serving)) => {
                    let _ = bound.send(Ok(at));
                    serving
                }
                Err(error) => {
                    let _ = bound.send(Err(StartError::Link { address, error }));
                    return;
                }
            };
        // None of these ends before the server does; if one does, the server is no server any more.
        let mut parts = JoinSet::new();
        parts.spawn(async move {
            let _ = serving.await;
            "worker link"
        });
        let costs_done = costs::run_errands(self.home.clone(), costs_in, driver.clone());
        parts.spawn(async move {
            costs_done.await;
            "cost errands"
        });
        let errands_done = artifacts::run_errands(self.home, errands_in, driver.clone());
        parts.spawn(async move {
            errands_done.await;
            "disk errands"
        });
        let driving = drive(state, inbox);
        parts.spawn(async move {
            driving.await;
            "driver"
        });
        let supervisor = self.local.map(|workers| {
            let options = ChildOptions { workers, socket, stop_time_max: WORKER_STOP_TIME_MAX };
            Supervisor::start(options, self.tokens, driver, self.metrics, told, self.given_up)
        });
        tokio::select! {
            () = stop.cancelled() => {}
            Some(ended) = parts.join_next() => error!(?ended, "a part of the server ended by itself"),
        }
        if let Some(supervisor) = supervisor {
            supervisor.stop().await;
        }
        link_stop.cancel();
        drop(folder);
    }
}
