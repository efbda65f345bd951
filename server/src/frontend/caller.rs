//! Who calls: tenant, class and trace context, read from a request's headers.

use std::str::FromStr as _;
use std::sync::Arc;

use http::HeaderMap;
use opentelemetry::trace::TraceState;
use shoal_scheduler::Class;
use tokio::time::{Instant, timeout_at};

use crate::access::Scope;
use crate::call::{CallError, Caller, Trace};
use crate::explain::{Asked, EXPLAIN_KEY};
use crate::traces;

/// How urgent a call is.
const CLASS_KEY: &str = "x-shoal-class";
/// The tenant of callers that name none.
const NOBODY: &str = "";
/// Bytes of a tenant's name.
pub(crate) const TENANT_BYTES_MAX: usize = 128;

/// What `work` comes to, unless the client's time is up first. For all that runs outside the core, which keeps the
/// deadlines of what it was given.
///
/// # Errors
/// `DeadlinePassed`, and what `work` fails with.
pub(crate) async fn by_deadline<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    match deadline {
        None => work.await,
        Some(deadline) => timeout_at(deadline, work).await.unwrap_or(Err(CallError::DeadlinePassed)),
    }
}

/// Reads who calls.
///
/// # Errors
/// `InvalidArgument` naming the header.
pub(super) fn caller(
    headers: &HeaderMap,
    deadline: Option<Instant>,
    tenant_key: &str,
    scope: Scope,
) -> Result<Caller, CallError> {
    let tenant = match headers.get(tenant_key).map(|value| value.to_str()) {
        None => None,
        Some(Ok(name)) if name.len() <= TENANT_BYTES_MAX => Some(name),
        Some(_) => {
            let problem = format!("must be at most {TENANT_BYTES_MAX} bytes of printable ASCII");
            return Err(CallError::InvalidArgument { field: tenant_key.to_owned(), problem });
        }
    };
    let tenant = match (scope.tenant(), tenant) {
        (None, tenant) => Arc::from(tenant.unwrap_or(NOBODY)),
        // Whoever names one means it: the call must not count on another.
        (Some(own), Some(named)) if **own != *named => {
            let problem = format!("must be left out, or `{own}`: this caller is no other tenant");
            return Err(CallError::InvalidArgument { field: tenant_key.to_owned(), problem });
        }
        (Some(own), _) => own.clone(),
    };
    let explain = explain(headers)?;
    Ok(Caller { tenant, class: class(headers)?, deadline, trace: trace(headers), explain, scope })
}

fn class(headers: &HeaderMap) -> Result<Class, CallError> {
    match headers.get(CLASS_KEY).map(|value| value.as_bytes()) {
        None | Some(b"standard") => Ok(Class::Standard),
        Some(b"interactive") => Ok(Class::Interactive),
        Some(b"bulk") => Ok(Class::Bulk),
        Some(_) => Err(CallError::InvalidArgument {
            field: CLASS_KEY.to_owned(),
            problem: "must be interactive, standard or bulk".to_owned(),
        }),
    }
}

fn explain(headers: &HeaderMap) -> Result<Asked, CallError> {
    match headers.get(EXPLAIN_KEY).map(|value| value.as_bytes()) {
        None | Some(b"false") => Ok(Asked::default()),
        Some(b"true") => Ok(Asked::yes()),
        Some(_) => Err(CallError::InvalidArgument {
            field: EXPLAIN_KEY.to_owned(),
            problem: "must be true or false".to_owned(),
        }),
    }
}

/// Bytes of `tracestate` that W3C's recommendation asks everybody to pass on.
const STATE_BYTES_MAX: usize = 512;

/// Trace context that is not valid is no context: tracing must never break a call.
fn trace(headers: &HeaderMap) -> Trace {
    let Some(parent) = traces::parent(headers) else { return Trace::default() };
    let state = headers.get("tracestate").and_then(|value| value.to_str().ok());
    // Means nothing without a parent. What is longer than anybody has to pass on goes no further: it would be in every span.
    let state = state.filter(|state| state.len() <= STATE_BYTES_MAX && TraceState::from_str(state).is_ok());
    let state = state.unwrap_or_default();
    Trace { parent: Some(parent), state: state.to_owned(), span: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(map: &HeaderMap, deadline: Option<Instant>, tenant_key: &str) -> Result<Caller, CallError> {
        super::caller(map, deadline, tenant_key, Scope::default())
    }

    #[test]
    fn an_identity_with_a_tenant_calls_as_no_other() {
        let own = |rights: &[crate::access::Right]| crate::access::Identity {
            name: "n".into(),
            tenant: Some("search".into()),
            rights: rights.iter().copied().collect(),
            models: None,
        };
        let named = |pairs: &[(&'static str, &'static str)]| {
            super::caller(&headers(pairs), None, "x-team", Scope::of(own(&[]))).map(|caller| caller.tenant.to_string())
        };
        assert_eq!(named(&[]).as_deref(), Ok("search"));
        assert_eq!(named(&[("x-team", "search")]).as_deref(), Ok("search"));
        for other in ["ads", "", "search "] {
            let error = named(&[("x-team", other)]).expect_err("another's");
            assert!(matches!(&error, CallError::InvalidArgument { field, .. } if field == "x-team"), "{error}");
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (key, value) in pairs {
            map.insert(*key, value.parse().expect("header"));
        }
        map
    }

    #[test]
    fn reads_tenant_class_and_deadline() {
        let deadline = Some(Instant::now());
        let map = headers(&[("x-team", "search"), (CLASS_KEY, "bulk")]);
        let caller = caller(&map, deadline, "x-team").expect("caller");
        assert_eq!(&*caller.tenant, "search");
        assert_eq!(caller.class, Class::Bulk);
        assert_eq!(caller.deadline, deadline);
    }

    #[test]
    fn names_the_header_of_a_wrong_class() {
        let error = caller(&headers(&[(CLASS_KEY, "urgent")]), None, "x-team").expect_err("error");
        assert!(matches!(error, CallError::InvalidArgument { field, .. } if field == CLASS_KEY));
    }

    #[test]
    fn explanations_are_for_those_who_say_true() {
        let asked =
            |value| caller(&headers(&[(EXPLAIN_KEY, value)]), None, "t").map(|caller| caller.explain.is_asked());
        assert_eq!((asked("true"), asked("false")), (Ok(true), Ok(false)));
        assert!(!caller(&headers(&[]), None, "t").expect("caller").explain.is_asked());
        for wrong in ["", "1", "yes", "True", "true, true"] {
            let error = asked(wrong).expect_err(wrong);
            assert!(matches!(error, CallError::InvalidArgument { field, .. } if field == EXPLAIN_KEY), "{wrong}");
        }
    }

    #[test]
    fn tenants_are_short_printable_names() {
        for name in [vec![b'a'; TENANT_BYTES_MAX + 1], vec![b'a'; 10_000], "größe".into(), vec![0x80]] {
            let mut map = HeaderMap::new();
            map.insert("x-team", http::HeaderValue::from_bytes(&name).expect("a value"));
            let error = caller(&map, None, "x-team").expect_err("error");
            assert!(matches!(error, CallError::InvalidArgument { field, .. } if field == "x-team"));
        }
    }

    #[test]
    fn carries_valid_trace_context_and_drops_the_rest() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let good = caller(&headers(&[("traceparent", parent), ("tracestate", "a=1")]), None, "t").expect("caller");
        assert_eq!((&*good.trace.header(), &*good.trace.state), (parent, "a=1"));
        let bad = caller(&headers(&[("traceparent", "00-zero-one-01")]), None, "t").expect("caller");
        assert_eq!(bad.trace.header(), "");
        let long: &'static str = format!("a={},b={}", "x".repeat(250), "y".repeat(260)).leak();
        let long = caller(&headers(&[("traceparent", parent), ("tracestate", long)]), None, "t").expect("caller");
        assert_eq!(long.trace.state, "");
        let bad = caller(&headers(&[("traceparent", parent), ("tracestate", "a")]), None, "t").expect("caller");
        assert_eq!((&*bad.trace.header(), &*bad.trace.state), (parent, ""));
    }
}
