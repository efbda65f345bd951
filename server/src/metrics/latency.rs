//! How long things took, with the trace of one that is shown in each bucket.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::TraceId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::histogram::exponential_buckets;

/// What a family of them is made of.
pub(super) type Histogram = HistogramWithExemplars<Exemplar>;

/// What an exemplar is labelled with.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Exemplar {
    trace_id: String,
}

/// Latencies of one model.
#[derive(Clone, Debug)]
pub struct Latency(pub(super) Histogram);

/// 100 µs to about 100 s.
pub(super) fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 21))
}

impl Latency {
    /// One more took so long; `shown` is the trace that shows it, if one does.
    pub fn observe(&self, taken: Duration, shown: Option<TraceId>) {
        let exemplar = shown.map(|trace| Exemplar { trace_id: trace.to_string() });
        let at = exemplar.is_some().then(SystemTime::now);
        self.0.observe(taken.as_secs_f64(), exemplar, at);
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;

    use super::*;

    #[test]
    fn a_bucket_names_the_trace_of_one_that_fell_into_it() {
        let metrics = Metrics::new();
        let model = metrics.model(&"m".into());
        model.call_duration.observe(Duration::from_micros(150), None);
        model.call_duration.observe(Duration::from_millis(30), Some(TraceId::from(0xabc_u128)));
        let page = metrics.encode().expect("page");
        let with: Vec<_> = page.lines().filter(|line| line.contains(" # {")).collect();
        let [line] = with[..] else { panic!("one: {page}") };
        assert!(line.starts_with("shoal_call_duration_seconds_bucket{le=\"0.0512\",model=\"m\"} 2 # "), "{line}");
        assert!(line.contains("# {trace_id=\"00000000000000000000000000000abc\"} 0.03 "), "{line}");
    }
}
