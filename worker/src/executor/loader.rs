//! The thread that reads models, one after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Event, Order, panic_message};
use crate::backend::{Backend, Compute, PrepareRequest};

/// Reads what it is asked to and hands it to the thread that owns the backend.
pub(super) struct Loader<B: Backend> {
    compute: Compute,
    requests: flume::Receiver<PrepareRequest>,
    /// Weak, so that the owning thread ends when the executor's handle is dropped.
    orders: flume::WeakSender<Order<B::Prepared>>,
    /// Weak, so that the channel closes, and the process ends, should the owning thread end by itself.
    events: flume::WeakSender<Event>,
}

impl<B: Backend> Loader<B> {
    pub(super) fn new(
        compute: Compute,
        requests: flume::Receiver<PrepareRequest>,
        orders: flume::WeakSender<Order<B::Prepared>>,
        events: flume::WeakSender<Event>,
    ) -> Self {
        Self { compute, requests, orders, events }
    }

    /// Until nobody can ask for another.
    pub(super) fn run(self) {
        while let Ok(request) = self.requests.recv() {
            if self.load(&request).is_none() {
                return;
            }
        }
    }

    /// None when nobody wants the model any more.
    fn load(&self, request: &PrepareRequest) -> Option<()> {
        let name = request.name.clone();
        self.events.upgrade()?.send(Event::Loading { name: name.clone(), progress: 0.0 }).ok()?;
        let mut progress = |part| {
            // Only news for a person to watch: not worth waiting for room.
            let news = Event::Loading { name: name.clone(), progress: part };
            if let Some(events) = self.events.upgrade() {
                let _: Result<(), flume::TrySendError<Event>> = events.try_send(news);
            }
        };
        let prepared = catch_unwind(AssertUnwindSafe(|| B::prepare(request, &self.compute, &mut progress)));
        let event = match prepared {
            Ok(Ok((prepared, card))) => {
                return self.orders.upgrade()?.send(Order::Install { name, prepared, card }).ok();
            }
            Ok(Err(error)) => Event::unloaded(name, &error),
            Err(panic) => {
                Event::LoadFailed { name, reason: format!("reading it panicked: {}", panic_message(&*panic)) }
            }
        };
        self.events.upgrade()?.send(event).ok()
    }
}
