//! Who calls: tenant, class, deadline and trace context, read from a request's metadata.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use shoal_scheduler::Class;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataMap;

use crate::call::{CallError, Caller, Trace};

/// How urgent a call is.
const CLASS_KEY: &str = "x-shoal-class";
/// gRPC's header that says how long the client will wait.
pub(super) const TIMEOUT_HEADER: &str = "grpc-timeout";
/// The tenant of callers that name none.
const NOBODY: &str = "";
/// Bytes of a tenant's name.
const TENANT_BYTES_MAX: usize = 128;

/// The client's time-out, as the listener found it in `grpc-timeout`, and when the call arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientTimeout {
    pub(super) arrived: Instant,
    pub(super) left: Duration,
}

impl ClientTimeout {
    /// When the client stops waiting.
    pub(super) fn deadline(self) -> Instant {
        self.arrived + self.left
    }
}

/// What `work` comes to, unless the client's time is up first. For all that runs outside the core, which keeps the
/// deadlines of what it was given.
///
/// # Errors
/// `DeadlinePassed`, and what `work` fails with.
pub(super) async fn by_deadline<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    match deadline {
        None => work.await,
        Some(deadline) => timeout_at(deadline, work).await.unwrap_or(Err(CallError::DeadlinePassed)),
    }
}

struct Metadata<'a>(&'a MetadataMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// Reads who calls.
///
/// # Errors
/// `InvalidArgument` naming the metadata key.
pub(super) fn caller(
    metadata: &MetadataMap,
    timeout: Option<ClientTimeout>,
    tenant_key: &str,
) -> Result<Caller, CallError> {
    // Whoever set one wants it kept; a call that would run without it is none they asked for.
    if metadata.contains_key(TIMEOUT_HEADER) {
        let problem = "must be at most eight digits and one of H, M, S, m, u, n".to_owned();
        return Err(CallError::InvalidArgument { field: TIMEOUT_HEADER.to_owned(), problem });
    }
    let tenant = match metadata.get(tenant_key).map(|value| value.to_str()) {
        None => NOBODY,
        Some(Ok(name)) if name.len() <= TENANT_BYTES_MAX => name,
        Some(_) => {
            let problem = format!("must be at most {TENANT_BYTES_MAX} bytes of printable ASCII");
            return Err(CallError::InvalidArgument { field: tenant_key.to_owned(), problem });
        }
    };
    Ok(Caller {
        tenant: Arc::from(tenant),
        class: class(metadata)?,
        deadline: timeout.map(ClientTimeout::deadline),
        trace: trace(metadata),
    })
}

fn class(metadata: &MetadataMap) -> Result<Class, CallError> {
    match metadata.get(CLASS_KEY).map(|value| value.as_bytes()) {
        None | Some(b"standard") => Ok(Class::Standard),
        Some(b"interactive") => Ok(Class::Interactive),
        Some(b"bulk") => Ok(Class::Bulk),
        Some(_) => Err(CallError::InvalidArgument {
            field: CLASS_KEY.to_owned(),
            problem: "must be interactive, standard or bulk".to_owned(),
        }),
    }
}

/// Trace context that is not valid is no context: tracing must never break a call.
fn trace(metadata: &MetadataMap) -> Trace {
    if !metadata.contains_key("traceparent") {
        return Trace::default();
    }
    let context = TraceContextPropagator::new().extract(&Metadata(metadata));
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return Trace::default();
    }
    let flags = span.trace_flags().to_u8();
    Trace {
        parent: format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id()),
        state: span.trace_state().header(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(pairs: &[(&'static str, &'static str)]) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (key, value) in pairs {
            map.insert(*key, value.parse().expect("metadata"));
        }
        map
    }

    #[test]
    fn reads_tenant_class_and_deadline() {
        let arrived = Instant::now();
        let timeout = ClientTimeout { arrived, left: Duration::from_millis(5) };
        let map = metadata(&[("x-team", "search"), (CLASS_KEY, "bulk")]);
        let caller = caller(&map, Some(timeout), "x-team").expect("caller");
        assert_eq!(&*caller.tenant, "search");
        assert_eq!(caller.class, Class::Bulk);
        assert_eq!(caller.deadline, Some(arrived + Duration::from_millis(5)));
    }

    #[test]
    fn names_the_key_of_a_wrong_class() {
        let error = caller(&metadata(&[(CLASS_KEY, "urgent")]), None, "x-team").expect_err("error");
        assert!(matches!(error, CallError::InvalidArgument { field, .. } if field == CLASS_KEY));
    }

    #[test]
    fn a_timeout_that_the_listener_left_is_refused() {
        let error = caller(&metadata(&[(TIMEOUT_HEADER, "-1S")]), None, "x-team").expect_err("error");
        assert!(matches!(error, CallError::InvalidArgument { field, .. } if field == TIMEOUT_HEADER));
    }

    #[test]
    fn tenants_are_short_printable_names() {
        for name in [vec![b'a'; TENANT_BYTES_MAX + 1], vec![b'a'; 10_000], "größe".into(), vec![0x80]] {
            let mut map = MetadataMap::new().into_headers();
            map.insert("x-team", http::HeaderValue::from_bytes(&name).expect("a value"));
            let error = caller(&MetadataMap::from_headers(map), None, "x-team").expect_err("error");
            assert!(matches!(error, CallError::InvalidArgument { field, .. } if field == "x-team"));
        }
    }

    #[test]
    fn carries_valid_trace_context_and_drops_the_rest() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let good = caller(&metadata(&[("traceparent", parent), ("tracestate", "a=1")]), None, "t").expect("caller");
        assert_eq!((good.trace.parent.as_str(), good.trace.state.as_str()), (parent, "a=1"));
        let bad = caller(&metadata(&[("traceparent", "00-zero-one-01")]), None, "t").expect("caller");
        assert_eq!(bad.trace.parent, "");
    }
}
