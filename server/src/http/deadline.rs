//! When an HTTP client stops waiting, where it says so.

use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::Instant;

use crate::call::CallError;

/// How long the client waits, written as durations are in the configuration: `250ms`, `2s`.
const TIMEOUT_KEY: &str = "x-shoal-timeout";
/// What OpenAI's Python client sends of its own: its time-out in seconds.
const STAINLESS_KEY: &str = "x-stainless-read-timeout";

/// The deadline of a call that arrived then.
///
/// # Errors
/// `InvalidArgument` naming the header. What a client library made up by itself never breaks a call.
pub(super) fn deadline(headers: &HeaderMap, arrived: Instant) -> Result<Option<Instant>, CallError> {
    if let Some(value) = headers.get(TIMEOUT_KEY) {
        let left = value.to_str().ok().and_then(|text| humantime::parse_duration(text).ok());
        let problem = || CallError::InvalidArgument {
            field: TIMEOUT_KEY.to_owned(),
            problem: "must be a duration such as 250ms or 2s".to_owned(),
        };
        return left.map(|left| arrived.checked_add(left)).ok_or_else(problem);
    }
    let seconds = headers.get(STAINLESS_KEY).and_then(|value| value.to_str().ok()?.parse().ok());
    let left = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Ok(left.and_then(|left| arrived.checked_add(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(pairs: &[(&'static str, &'static str)]) -> Result<Option<Duration>, CallError> {
        let headers = pairs
            .iter()
            .map(|&(key, value)| (http::HeaderName::from_static(key), value.parse().expect("value")))
            .collect();
        let arrived = Instant::now();
        Ok(deadline(&headers, arrived)?.map(|deadline| deadline - arrived))
    }

    #[test]
    fn reads_either_header_and_prefers_its_own() {
        assert_eq!(left(&[]), Ok(None));
        assert_eq!(left(&[(TIMEOUT_KEY, "250ms")]), Ok(Some(Duration::from_millis(250))));
        assert_eq!(left(&[(STAINLESS_KEY, "600")]), Ok(Some(Duration::from_secs(600))));
        assert_eq!(left(&[(STAINLESS_KEY, "0.5")]), Ok(Some(Duration::from_millis(500))));
        assert_eq!(left(&[(STAINLESS_KEY, "1"), (TIMEOUT_KEY, "3s")]), Ok(Some(Duration::from_secs(3))));
    }

    #[test]
    fn a_wrong_timeout_is_an_error_only_where_a_person_wrote_it() {
        for wrong in ["soon", "", "5", "-1s"] {
            let error = left(&[(TIMEOUT_KEY, wrong)]).expect_err(wrong);
            assert!(matches!(error, CallError::InvalidArgument { field, .. } if field == TIMEOUT_KEY));
        }
        for wrong in ["NaN", "inf", "-1", "1e300", "never"] {
            assert_eq!(left(&[(STAINLESS_KEY, wrong)]), Ok(None), "{wrong}");
        }
    }
}
