//! `grpc.health.v1`: whether the server and each of its services can be called.
//!
//! The whole server (`""`, `readiness`) and its services serve while every model does that is required; so does each under
//! its own name. A model that is loaded when it is called can be called at any time. `startup` serves once all of them did, whatever comes after, and `liveness` for as long as the process
//! answers at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::registry::{ModelState, Registry};

/// Services whose health is that of the whole server.
const SERVICES: [&str; 4] = ["", READINESS, "shoal.v1.Inference", "inference.GRPCInferenceService"];
/// Says that the server can be called now.
const READINESS: &str = "readiness";
/// Says that the server could be called at some time.
const STARTUP: &str = "startup";
/// Says only that the process answers.
const LIVENESS: &str = "liveness";
/// What is the process's own to say, and not a model's of that name.
const OWN: [&str; 3] = [READINESS, STARTUP, LIVENESS];

/// Whether this is no name of a model.
fn is_fixed(name: &str) -> bool {
    OWN.contains(&name) || SERVICES.contains(&name)
}

/// Keeps the health service true.
#[derive(Clone, Debug)]
pub struct HealthGate {
    reporter: HealthReporter,
    registry: Registry,
    draining: CancellationToken,
    /// Whether the health service says that the server serves.
    shown: watch::Sender<bool>,
    /// Whether it ever said so.
    started: watch::Sender<bool>,
}

impl HealthGate {
    /// The gate, and the service to mount. Nothing serves until [`Self::watch`] finds it ready.
    pub async fn new(
        registry: Registry,
        draining: CancellationToken,
    ) -> (Self, tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>) {
        let (reporter, service) = health_reporter();
        let gate =
            Self { reporter, registry, draining, shown: watch::Sender::new(false), started: watch::Sender::new(false) };
        // A reporter starts with the whole server as serving, which is not true yet.
        for name in SERVICES.into_iter().chain([STARTUP]) {
            gate.reporter.set_service_status(name, ServingStatus::NotServing).await;
        }
        gate.reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
        (gate, service)
    }

    /// Whether every configured model can be served, and the server is not draining.
    pub fn is_ready(&self) -> bool {
        !self.draining.is_cancelled() && self.unready().is_empty()
    }

    /// Whether every configured model could be served at some time.
    pub fn has_started(&self) -> bool {
        *self.started.borrow()
    }

    /// Returns once the health service says that the server serves.
    pub async fn shown_ready(&self) {
        // The sender is held by `self`.
        let _ = self.shown.subscribe().wait_for(|shown| *shown).await;
    }

    /// Models that cannot be served, and why.
    pub fn unready(&self) -> Vec<(Arc<str>, ModelState)> {
        let views = self.registry.all();
        let unready = views.iter().filter(|view| view.is_required && view.state != ModelState::Ready);
        unready.map(|view| (view.name.clone(), view.state.clone())).collect()
    }

    /// Follows the models until the server drains; from then on nothing serves, and open watches end.
    pub async fn watch(mut self) {
        let mut shown: BTreeMap<Arc<str>, bool> = BTreeMap::new();
        let mut changes = self.registry.changes();
        let mut has_started = false;
        loop {
            let views = self.registry.all();
            let is_gone = |name: &Arc<str>| !is_fixed(name) && views.iter().all(|view| view.name != *name);
            for name in shown.keys().filter(|name| is_gone(name)).cloned().collect::<Vec<_>>() {
                shown.remove(&name);
                self.reporter.set_service_status(&*name, ServingStatus::NotServing).await;
                self.reporter.clear_service_status(&name).await;
            }
            // A model may have any name.
            for view in views.iter().filter(|view| !OWN.contains(&&*view.name)) {
                let ready = match view.state {
                    ModelState::Ready => true,
                    ModelState::Loading | ModelState::Unloaded => view.on_demand,
                    ModelState::Failed(_) => false,
                };
                self.show(&mut shown, view.name.clone(), ready).await;
            }
            let ready = self.is_ready();
            for name in SERVICES {
                self.show(&mut shown, name.into(), ready).await;
            }
            has_started |= ready;
            self.started.send_replace(has_started);
            self.show(&mut shown, STARTUP.into(), has_started).await;
            self.shown.send_replace(ready);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                () = self.draining.cancelled() => break,
            }
        }
        for (name, _) in shown {
            self.reporter.set_service_status(&*name, ServingStatus::NotServing).await;
            // Ends its watches once they have said so; an open one would hold up the stop.
            self.reporter.clear_service_status(&name).await;
        }
        self.reporter.clear_service_status(LIVENESS).await;
    }

    async fn show(&self, shown: &mut BTreeMap<Arc<str>, bool>, name: Arc<str>, ready: bool) {
        if shown.get(&name) == Some(&ready) {
            return;
        }
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(&*name, status).await;
        shown.insert(name, ready);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Shown;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;
    use crate::registry::ModelView;

    #[tokio::test]
    async fn a_model_does_not_speak_for_the_process_and_watches_end_with_the_server() {
        let (registry, draining) = (Registry::default(), CancellationToken::new());
        let (gate, service) = HealthGate::new(registry.clone(), draining.clone()).await;
        registry.publish(ModelView::of_test("liveness", ModelState::Loading));
        registry.publish(ModelView::of_test("other", ModelState::Ready));
        let mut client = HealthClient::new(service);
        let ask = |service: &str| HealthCheckRequest { service: service.into() };
        let [live, started, whole, ready] = ["liveness", "startup", "", "readiness"];
        let mut watches = Vec::new();
        for (name, shown) in [
            (live, Shown::Serving),
            (started, Shown::NotServing),
            (whole, Shown::NotServing),
            (ready, Shown::NotServing),
        ] {
            let mut watch = client.watch(ask(name)).await.expect("watch").into_inner();
            assert_eq!(watch.message().await.expect("status").expect("one").status(), shown, "{name}");
            watches.push(watch);
        }
        let watching = tokio::spawn(gate.watch());
        registry.publish(ModelView::of_test("liveness", ModelState::Ready));
        for watch in &mut watches[1..] {
            assert_eq!(watch.message().await.expect("status").expect("one").status(), Shown::Serving);
        }
        registry.publish(ModelView::of_test("liveness", ModelState::Failed("of it".into())));
        for watch in &mut watches[2..] {
            assert_eq!(watch.message().await.expect("status").expect("one").status(), Shown::NotServing);
        }
        for name in [live, started] {
            let status = client.check(ask(name)).await.expect("status").into_inner().status();
            assert_eq!(status, Shown::Serving, "{name}");
        }
        draining.cancel();
        watching.await.expect("task");
        let patience = Duration::from_secs(60);
        for mut watch in watches {
            let rest = async { while watch.message().await.expect("no error").is_some() {} };
            timeout(patience, rest).await.expect("the watch ends");
        }
    }
}
