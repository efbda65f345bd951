//! Which batches the executor has begun. Nothing on the link says so, but the worker logs a row that has a trace context
//! when it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use shoal_proto::link::Run;
use tokio::sync::oneshot;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Trace contexts of batches that are awaited, by tests of this process.
type Awaited = BTreeMap<String, oneshot::Sender<()>>;

/// Marks a batch. What is returned resolves when the executor begins it, after which no cancel can stop it.
pub(crate) fn awaited(run: &mut Run) -> oneshot::Receiver<()> {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let traceparent = format!("00-{:032x}-0000000000000001-01", COUNT.fetch_add(1, Ordering::Relaxed));
    let (begun, waiting) = oneshot::channel();
    known().insert(traceparent.clone(), begun);
    run.items[0].traceparent = traceparent;
    waiting
}

fn known() -> MutexGuard<'static, Awaited> {
    static KNOWN: LazyLock<Mutex<Awaited>> = LazyLock::new(|| {
        // The executor has a thread of its own, so that this must hear all threads.
        tracing::subscriber::set_global_default(Log).expect("nothing else listens in this process");
        Mutex::default()
    });
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hears the executor's events and nothing else.
struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "shoal_worker::executor"
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Traceparent);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Tells whoever awaits the batch of an event.
struct Traceparent;

impl Visit for Traceparent {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "traceparent"
            && let Some(begun) = known().remove(&format!("{value:?}"))
        {
            // A test that has ended meanwhile does not mind.
            let _: Result<(), ()> = begun.send(());
        }
    }
}
