//! What a running server is asked for: its page of metrics, read twice.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use shoal_scheduler::BatchCost;

use crate::metrics::COST_PARTS;

/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// What was asked of one model between two looks, and what the server has learned of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Seen {
    /// Rows a second that were sent to workers.
    pub(super) rate: f64,
    /// Tokens of the mean row; none where nothing ran.
    pub(super) tokens: Option<f64>,
    /// What batches cost by now, if the page says it.
    pub(super) cost: Option<BatchCost>,
}

/// The counters of a page that matter here, by model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counted {
    rows: f64,
    tokens: f64,
    /// Seconds, in the order of [`COST_PARTS`].
    cost: [Option<f64>; COST_PARTS.len()],
}

/// Looks twice at the page at `url`, so long apart. Blocks.
///
/// # Errors
/// When there is no such page.
pub(super) fn watch(url: &str, over: Duration) -> Result<BTreeMap<String, Seen>, ScrapeError> {
    let config = ureq::Agent::config_builder().timeout_global(Some(ANSWER_TIME_MAX)).build();
    let agent = ureq::Agent::new_with_config(config);
    let look = || -> Result<_, ScrapeError> {
        let fail = |error: ureq::Error| ScrapeError::Page { url: url.to_owned(), reason: error.to_string() };
        let mut response = agent.get(url).call().map_err(fail)?;
        let page = response.body_mut().read_to_string().map_err(fail)?;
        Ok((Instant::now(), read(&page)))
    };
    let (since, first) = look()?;
    thread::sleep(over);
    let (until, second) = look()?;
    if second.is_empty() {
        return Err(ScrapeError::NoModels { url: url.to_owned() });
    }
    Ok(between(&first, &second, until - since))
}

fn between(
    first: &BTreeMap<String, Counted>,
    second: &BTreeMap<String, Counted>,
    apart: Duration,
) -> BTreeMap<String, Seen> {
    let seen = |(model, now): (&String, &Counted)| {
        let before = first.get(model).copied().unwrap_or_default();
        // A server that was started again counts from nothing.
        let is_anew = before.rows > now.rows || before.tokens > now.tokens;
        let before = if is_anew { Counted::default() } else { before };
        let (rows, tokens) = (now.rows - before.rows, now.tokens - before.tokens);
        let cost = match now.cost {
            [Some(base), Some(row), Some(token), squared] => Some(BatchCost {
                base_ns: (base * 1e9).round() as u64,
                row_ns: (row * 1e9).round() as u64,
                token_ps: (token * 1e12).round() as u64,
                // Older servers do not say it.
                token_squared_fs: (squared.unwrap_or(0.0) * 1e15).round() as u64,
            }),
            _ => None,
        };
        let tokens = (rows > 0.0).then(|| tokens / rows);
        (model.clone(), Seen { rate: rows / apart.as_secs_f64(), tokens, cost })
    };
    second.iter().map(seen).collect()
}

/// Reads lines such as `shoal_batch_rows_sum{model="m"} 12.0`.
fn read(page: &str) -> BTreeMap<String, Counted> {
    let mut models = BTreeMap::<String, Counted>::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
        let label = |key: &str| {
            let of = |part: &str| part.strip_prefix(key)?.strip_prefix("=\"")?.strip_suffix('"').map(str::to_owned);
            labels.split(',').find_map(of)
        };
        let (Some(model), Ok(value)) = (label("model"), value.trim().parse::<f64>()) else { continue };
        match (name, label("part").as_deref()) {
            ("shoal_batch_rows_sum", _) => models.entry(model).or_default().rows = value,
            ("shoal_batch_tokens_sum", _) => models.entry(model).or_default().tokens = value,
            ("shoal_batch_cost_seconds", Some(part)) => {
                if let Some(at) = COST_PARTS.iter().position(|known| *known == part) {
                    models.entry(model).or_default().cost[at] = Some(value);
                }
            }
            _ => {}
        }
    }
    models
}

/// Why a server's page says nothing.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScrapeError {
    #[error("--from: {url} cannot be read: {reason}")]
    Page { url: String, reason: String },
    #[error("--from: {url} counts no batches: it is the page of a server's metrics, http://HOST:8002/metrics")]
    NoModels { url: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    /// As the server writes it.
    fn page(rows: &[(f64, f64)]) -> BTreeMap<String, Counted> {
        let metrics = Metrics::new();
        let model = metrics.model(&"m".into());
        for (rows, tokens) in rows {
            model.batch_rows.observe(*rows);
            model.batch_tokens.observe(*tokens);
        }
        model.batch_cost([0.003, 0.000_2, 0.000_001_5, 0.000_000_000_82]);
        metrics.model(&"idle".into());
        read(&metrics.encode().expect("page"))
    }

    #[test]
    fn rates_are_what_is_between_two_pages() {
        let (first, second) = (page(&[(4.0, 100.0)]), page(&[(4.0, 100.0), (10.0, 600.0), (2.0, 120.0)]));
        let seen = between(&first, &second, Duration::from_secs(4));
        let cost = BatchCost { base_ns: 3_000_000, row_ns: 200_000, token_ps: 1_500_000, token_squared_fs: 820_000 };
        assert_eq!(seen["m"], Seen { rate: 3.0, tokens: Some(60.0), cost: Some(cost) });
        assert_eq!(seen["idle"], Seen { rate: 0.0, tokens: None, cost: None });
    }

    #[test]
    fn a_server_that_was_started_again_counts_from_nothing() {
        let (first, second) = (page(&[(400.0, 4_000.0)]), page(&[(10.0, 50.0)]));
        let seen = between(&first, &second, Duration::from_secs(5))["m"];
        assert_eq!((seen.rate, seen.tokens), (2.0, Some(5.0)));
        // It has run more rows since than the other had, of fewer tokens.
        let (first, second) = (page(&[(4.0, 4_000.0)]), page(&[(10.0, 50.0)]));
        let seen = between(&first, &second, Duration::from_secs(5))["m"];
        assert_eq!((seen.rate, seen.tokens), (2.0, Some(5.0)));
    }

    #[test]
    fn other_pages_are_of_no_models() {
        assert_eq!(read("<html>hello {model=\"m\"} 3</html>\n# shoal_batch_rows_sum{model=\"m\"} 1"), BTreeMap::new());
        let error = watch("http://127.0.0.1:1/metrics", Duration::ZERO).expect_err("nobody listens").to_string();
        assert!(error.starts_with("--from: http://127.0.0.1:1/metrics cannot be read: "), "{error}");
    }
}
