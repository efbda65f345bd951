//! What the executor says, told to the servers that it is of, and what the desk wants of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Link;
use super::peer::OUTBOX_HIGH;
use crate::batch::{BatchError, BatchKey, Finished, HostBatch, ServerId};
use crate::executor::Event as ExecutorEvent;
use crate::session::{ModelStatus, Step};

impl Link {
    /// Takes in what the executor says, and tells those that care.
    pub(super) fn news(&mut self, event: ExecutorEvent) {
        match event {
            ExecutorEvent::Loading { name, progress } => self.tell(&name, &ModelStatus::Loading { progress }),
            ExecutorEvent::Ready { name, card } => {
                let card = Arc::new(card);
                if self.hub.models.ready(&name, card.clone()) {
                    return self.hub.evict(name);
                }
                tracing::info!(model = %name, bytes = card.bytes, smallest_batch = ?card.smallest_batch, "loaded");
                self.tell(&name, &ModelStatus::Ready(card));
            }
            ExecutorEvent::LoadFailed { name, reason } => {
                tracing::warn!(model = %name, reason, "cannot load");
                self.tell(&name, &ModelStatus::Failed { reason });
                self.hub.models.failed(&name);
            }
            ExecutorEvent::Evicted { name } => {
                self.hub.models.evicted(&name);
                // It may be wanted again, and on its way back: whoever wants it has been told so.
                self.each(|served| match served.hub.models.is_wanted(served.id, &name) {
                    true => Ok(()),
                    false => served.tell(&name, &ModelStatus::Unloaded),
                });
            }
            ExecutorEvent::Finished(finished) => {
                if finished.key.server == ServerId::NONE {
                    self.joined_finished(finished);
                } else {
                    self.own_finished(finished);
                }
                self.dial_settled();
            }
            ExecutorEvent::Weights { absent } => {
                self.hub.models.set_without_weights(absent);
                self.each(|served| served.tell_weights());
            }
            // Whoever hears it leaves.
            ExecutorEvent::Broken { .. } => {}
        }
    }

    pub(super) fn tell(&mut self, name: &str, status: &ModelStatus) {
        self.each(|served| if served.cares(name) { served.tell(name, status) } else { Ok(()) });
    }

    /// A batch that a server sent for itself is over.
    pub(super) fn own_finished(&mut self, finished: Finished) {
        let id = finished.key.server;
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) else { return };
        if peer.is_serving() {
            self.with(id, |served| served.own_finished(finished));
        } else {
            peer.session.finish(&finished);
        }
    }

    /// A batch of parts is over.
    pub(super) fn joined_finished(&mut self, finished: Finished) {
        for part in self.hub.desk.finished(Instant::now(), finished) {
            let id = part.key.server;
            let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) else { continue };
            if peer.is_serving() {
                self.with(id, |served| served.part_finished(part));
            } else {
                peer.session.end(&part.key);
            }
        }
    }

    /// Carries out what the device's sharing wants.
    pub(super) fn act(&mut self) {
        while let Some(step) = self.hub.desk.step(Instant::now()) {
            match step {
                Step::Give(server, model, turn) => self.with(server, |served| served.give(&model, &turn)),
                Step::Run(batch) => self.launch(batch),
            }
        }
        self.tell_begun();
    }

    pub(super) fn launch(&mut self, batch: HostBatch) {
        self.tell_begun();
        let key = batch.key;
        // Servers that do not read their results get no faster ones.
        let may_run_here = self.peers.iter().all(|peer| peer.io().is_none_or(|io| io.outbox.len() < OUTBOX_HIGH));
        let executor = &self.hub.executor;
        match if may_run_here { executor.run(batch) } else { executor.queue(batch) } {
            Ok(None) => {}
            Ok(Some(finished)) => self.joined_finished(finished),
            Err(full) => self.joined_finished(unrun(key, BatchError::Device(full.to_string()))),
        }
    }

    /// Tells servers which of their batches the device has come to.
    pub(super) fn tell_begun(&mut self) {
        for begun in self.hub.desk.begun(Instant::now()) {
            self.with(begun.key.server, |served| {
                served.begun(&begun);
                Ok(())
            });
        }
    }
}

/// The end of a batch that the executor did not take.
fn unrun(key: BatchKey, error: BatchError) -> Finished {
    let (waited, compute) = (Duration::ZERO, Duration::ZERO);
    Finished { key, waited, compute, page_in: None, rows: 0, tokens: 0, cancelled: 0, outcome: Err(error) }
}
