//! What all connections of a worker share.

use std::sync::Arc;

use shoal_proto::link::limits::{PROTOCOL, PROTOCOL_MIN};
use shoal_proto::link::{self as wire, Hello, ModelOffer};

use super::convert;
use crate::Options;
use crate::backend::Stack;
use crate::batch::ServerId;
use crate::device::Device;
use crate::executor::Executor;
use crate::monitor::Monitor;
use crate::session::{Desk, Models, Totals};

/// What all connections share.
pub(super) struct Hub {
    pub(super) options: Options,
    pub(super) executor: Executor<Stack>,
    pub(super) device: Device,
    /// Of the GPU, where there is one.
    pub(super) monitor: Option<Monitor>,
    pub(super) models: Models,
    pub(super) desk: Desk,
    /// Tells a restart from a reconnect.
    pub(super) incarnation: u64,
    /// Counted with servers that were let go.
    pub(super) gone: Totals,
}

impl Hub {
    pub(super) fn evict(&self, name: Arc<str>) {
        if self.executor.evict(name.clone()).is_err() {
            tracing::error!(model = %name, "cannot evict: the executor's queue is full");
        }
    }

    /// A server is gone for good, and what it wanted with it.
    pub(super) fn forget(&mut self, server: ServerId) {
        self.models.forget(server).into_iter().for_each(|name| self.evict(name));
    }

    /// What a worker says of itself, without its token.
    pub(super) fn hello(&self) -> Hello {
        let offer = |(name, card): (&str, Option<&Arc<_>>)| ModelOffer {
            name: name.to_owned(),
            card: card.map(|card| convert::card(name, card)),
        };
        let Device { kind, ref name, ref uuid, memory_bytes, threads, .. } = self.device;
        let (kind, name, uuid) = (kind.to_owned(), name.clone(), uuid.clone());
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            worker: self.options.name.clone(),
            incarnation: self.incarnation,
            auth: String::new(),
            device: Some(wire::Device { kind, name, memory_bytes, threads, uuid }),
            offers: self.models.offers().into_iter().map(offer).collect(),
            version: self.options.version.clone(),
            process_id: std::process::id(),
            pool: self.options.pool.clone(),
            knows_turns: true,
        }
    }
}
