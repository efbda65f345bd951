//! What `shoal demo` shows once a server runs: that it finds sentences by meaning, and what batching buys.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::ProgressBar;
use shoal_proto::v1::inference_client::InferenceClient;
use shoal_proto::v1::{EmbedRequest, ListModelsRequest, Model};
use tokio::task::JoinSet;
use tonic::Status;

use super::address::{Address, ConnectError};
use super::credentials::{Credentials, Line};
use super::deadline;
use super::load::{self, LoadError, LoadOptions, Report};
use super::sentences;
use super::vector::cosine;

/// Calls on their way at once, both for the sentences and for the measuring.
const CALLERS: u32 = 64;
/// Sentences shown for each query.
const NEAREST: usize = 3;
/// No call may take longer; batches of one of a slow machine are far below it.
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// What was shown.
#[derive(Clone, Debug, PartialEq)]
pub struct DemoReport {
    /// One for each query.
    pub queries: Vec<Query>,
    /// As the server batches.
    pub batched: Report,
    /// In batches of one.
    pub single: Report,
}

/// A query and the sentences nearest to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub text: String,
    /// Nearest first.
    pub nearest: Vec<Neighbour>,
}

/// A sentence, and how near it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbour {
    pub text: String,
    pub cosine: f64,
}

/// Runs the demo against the server at `address`. `batched` and `single` name the same weights, once as they are
/// usually served and once with batches of one row. Writes to `out` as it goes; takes about ten seconds.
pub async fn run(
    address: impl Into<Address>,
    batched: &str,
    single: &str,
    out: &mut impl Write,
) -> Result<DemoReport, DemoError> {
    const MEASURED: Duration = Duration::from_secs(4);
    const WARMUP: Duration = Duration::from_secs(1);
    show(&address.into(), batched, single, WARMUP, MEASURED, out).await
}

async fn show(
    address: &Address,
    batched: &str,
    single: &str,
    warmup: Duration,
    measured: Duration,
    out: &mut impl Write,
) -> Result<DemoReport, DemoError> {
    let texts = sentences::all();
    if let Some(model) = listed(address, batched).await? {
        let Model { architecture, dtype, backend, .. } = model;
        writeln!(out, "{architecture}, computed in {dtype} by the {backend} backend")?;
    }
    writeln!(out, "{} sentences, one call each, {CALLERS} calls at a time\n", texts.len())?;
    let queries = queries(address, batched, &texts).await?;
    for query in &queries {
        writeln!(out, "{query}")?;
    }
    let seconds = (warmup + measured).as_secs_f64();
    writeln!(out, "measuring twice for {seconds:.0} s, {CALLERS} callers with one sentence at a time\n")?;
    out.flush()?;
    let batched = measure(address, batched, warmup, measured).await?;
    let single = measure(address, single, warmup, measured).await?;
    let report = DemoReport { queries, batched, single };
    write!(out, "{}", Comparison(&report))?;
    Ok(report)
}

/// What the server says of a model, if it has it.
async fn listed(address: &Address, model: &str) -> Result<Option<Model>, DemoError> {
    let mut client = InferenceClient::new(Credentials::default().connect(address).await?);
    let request = deadline::request(ListModelsRequest {}, CALL_TIME_MAX);
    let answer = deadline::answer(client.list_models(request), CALL_TIME_MAX).await?;
    Ok(answer.models.into_iter().find(|listed| listed.name == model))
}

/// Embeds every sentence in a call of its own, then finds the nearest to each query.
async fn queries(address: &Address, model: &str, texts: &[&'static str]) -> Result<Vec<Query>, DemoError> {
    let channel = Credentials::default().connect(address).await?;
    let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); texts.len()];
    let mut waiting = texts.iter().enumerate();
    let mut calls = JoinSet::new();
    loop {
        while calls.len() < CALLERS as usize
            && let Some((i, text)) = waiting.next()
        {
            let call = embed(channel.clone(), model.to_owned(), text);
            calls.spawn(async move { (i, call.await) });
        }
        match calls.join_next().await {
            None => break,
            Some(Ok((i, vector))) => vectors[i] = vector?,
            Some(Err(error)) => return Err(DemoError::Call(Box::new(Status::internal(error.to_string())))),
        }
    }
    let mut queries = Vec::new();
    for text in sentences::QUERIES {
        let vector = embed(channel.clone(), model.to_owned(), text).await?;
        queries.push(Query { text: text.to_owned(), nearest: nearest(&vector, texts, &vectors) });
    }
    Ok(queries)
}

async fn embed(channel: Line, model: String, text: &str) -> Result<Vec<f32>, DemoError> {
    let request = EmbedRequest { model, texts: vec![text.to_owned()], ..EmbedRequest::default() };
    let mut client = InferenceClient::new(channel);
    let answer = deadline::answer(client.embed(deadline::request(request, CALL_TIME_MAX)), CALL_TIME_MAX).await?;
    match answer.embeddings.into_iter().next() {
        Some(embedding) => Ok(embedding.values),
        None => Err(DemoError::NoVector),
    }
}

fn nearest(query: &[f32], texts: &[&str], vectors: &[Vec<f32>]) -> Vec<Neighbour> {
    let neighbour =
        |(text, vector): (&&str, &Vec<f32>)| Neighbour { text: (*text).to_owned(), cosine: cosine(query, vector) };
    let mut neighbours: Vec<_> = texts.iter().zip(vectors).map(neighbour).collect();
    neighbours.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
    neighbours.truncate(NEAREST);
    neighbours
}

async fn measure(address: &Address, model: &str, warmup: Duration, measured: Duration) -> Result<Report, DemoError> {
    let options = LoadOptions {
        model: model.to_owned(),
        concurrency: CALLERS,
        duration: Some(measured),
        warmup,
        timeout: CALL_TIME_MAX,
        connections: 2,
        ..LoadOptions::new(address.clone())
    };
    let report = load::run(&options, &ProgressBar::hidden()).await?;
    match report.first_error() {
        Some(reason) if report.calls.ok == 0 => Err(LoadError::NothingSucceeded { reason }.into()),
        _ => Ok(report),
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.nearest.iter().try_for_each(|near| writeln!(f, "  {:.2}  {}", near.cosine, near.text))
    }
}

/// The table.
struct Comparison<'a>(&'a DemoReport);

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DemoReport { batched, single, .. } = self.0;
        writeln!(f, "                   requests/s   p50 ms   p99 ms   batch   tokens/s")?;
        for (name, report) in [("batched", batched), ("batches of one", single)] {
            let ms = |us: u64| us as f64 / 1e3;
            let (rates, latency) = (&report.rates, &report.latency_us);
            let batch = report.batch_rows_mean.map_or_else(|| "?".to_owned(), |rows| format!("{rows:.1}"));
            write!(f, "{name:<16} {:>12.0} {:>8.1} {:>8.1}", rates.ok, ms(latency.p50), ms(latency.p99))?;
            writeln!(f, " {batch:>7} {:>10.0}", rates.tokens)?;
        }
        if single.rates.ok > 0.0 {
            writeln!(f, "\nbatching answers {:.1} times as many requests", batched.rates.ok / single.rates.ok)?;
        }
        for report in [batched, single].into_iter().filter(|report| report.calls.failed > 0) {
            let reason = report.first_error().unwrap_or_default();
            writeln!(f, "{} calls of {} failed, first: {reason}", report.calls.failed, report.model)?;
        }
        Ok(())
    }
}

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the server answered {:?}: {}", .0.code(), .0.message())]
    Call(Box<Status>),
    #[error("the server answered without a vector")]
    NoVector,
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

impl From<Status> for DemoError {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::{CALLERS, DemoError, show};
    use crate::client::sentences;
    use crate::client::testing::TestServer;

    const SHORT: Duration = Duration::from_millis(150);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn finds_sentences_and_compares_batching() {
        let server = TestServer::start().await;
        let mut out = Vec::new();
        let report = show(&server.address(), "m", "m-b1", Duration::ZERO, SHORT, &mut out).await.unwrap();
        let texts: Vec<_> = report.queries.iter().map(|query| query.text.as_str()).collect();
        assert_eq!(texts, sentences::QUERIES);
        // The test server compares words of five letters and more.
        for query in &report.queries {
            let words = |text: &str| {
                let words = text.to_lowercase();
                let words = words.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 4);
                words.map(str::to_owned).collect::<HashSet<_>>()
            };
            assert_eq!(query.nearest.len(), 3);
            assert!(!words(&query.text).is_disjoint(&words(&query.nearest[0].text)), "{query}");
            assert!(query.nearest[0].cosine >= query.nearest[1].cosine);
        }
        assert_eq!((report.batched.batch_rows_mean, report.single.batch_rows_mean), (Some(8.0), Some(1.0)));
        assert!(report.batched.calls.ok > 0 && report.single.calls.ok > 0);
        assert!(server.seen.most.load(Ordering::Relaxed) <= CALLERS as usize);
        let out = String::from_utf8(out).unwrap();
        let engine = "bert, computed in bf16 by the cpu backend";
        for text in [engine, "requests/s", "batches of one", "times as many requests"] {
            assert!(out.contains(text), "{out}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_model_that_is_not_served_ends_the_demo_with_the_servers_words() {
        let server = TestServer::start().await;
        let error = show(&server.address(), "missing", "m-b1", SHORT, SHORT, &mut Vec::new()).await.unwrap_err();
        assert!(matches!(&error, DemoError::Call(_)), "{error}");
        assert!(error.to_string().contains("`missing` is not served here"), "{error}");
    }
}
