//! What every call that asks a running server once has: where, which model, how to show the answer.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use serde_json::Value;
use shoal_proto::v1::Usage;
use shoal_proto::v1::inference_client::InferenceClient;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::address::{Address, ConnectError};
use super::credentials::{Credentials, Line};
use super::deadline;

/// Metadata key by which explanations are asked for, and by which a refusal has one.
const EXPLAIN_KEY: &str = "x-shoal-explain";

/// Most bytes of an answer: 2,048 texts with 4,096 dimensions.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Most texts in one call.
const TEXTS_MAX: usize = 2048;

/// Where and how to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct AskArgs {
    /// Which model; may be left out when the server has only one for this.
    #[arg(long, default_value = "")]
    pub model: String,
    /// Where the server listens.
    #[arg(long, value_name = "[https://]HOST:PORT", default_value = Address::DEFAULT, env = "SHOAL_ADDR")]
    pub addr: Address,
    #[command(flatten, next_help_heading = "A server with TLS, or that asks who calls")]
    pub credentials: Credentials,
    /// Print every value and the usage as JSON.
    #[arg(long)]
    pub json: bool,
    /// Cut texts that are too long for the model instead of failing; what was cut has no part in the answer.
    #[arg(long)]
    pub truncate: bool,
    /// Have the server say why the answer took as long as it did, or why there is none.
    #[arg(long)]
    pub explain: bool,
    /// Give up after this long.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

impl AskArgs {
    pub(super) async fn connect(&self) -> Result<InferenceClient<Line>, ConnectError> {
        let channel = self.credentials.connect(&self.addr).await?;
        Ok(InferenceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// A request with what these say of every call.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = deadline::request(message, self.timeout);
        if self.explain {
            request.metadata_mut().insert(EXPLAIN_KEY, MetadataValue::from_static("true"));
        }
        request
    }
}

/// Texts as they were typed; `-` reads more from `input`, one a line.
pub(super) fn texts(arguments: &[String], input: impl BufRead) -> Result<Vec<String>, AskError> {
    let mut texts = Vec::new();
    let mut input = Some(input);
    for argument in arguments {
        match (argument.as_str(), &mut input) {
            ("-", Some(_)) => {
                // One line beyond the limit is enough to know that it is passed.
                for line in input.take().into_iter().flat_map(BufRead::lines).take(TEXTS_MAX + 1) {
                    texts.push(line.map_err(AskError::Read)?);
                }
            }
            ("-", None) => {}
            _ => texts.push(argument.clone()),
        }
    }
    match texts.len() {
        0 => Err(AskError::NoTexts),
        n if n > TEXTS_MAX => Err(AskError::TooMany),
        _ => Ok(texts),
    }
}

pub(super) fn check_count(sent: usize, got: usize) -> Result<(), AskError> {
    if sent == got { Ok(()) } else { Err(AskError::Count { sent, got }) }
}

/// Results and the usage on one line.
pub(super) fn write_json(name: &str, results: Value, usage: Option<&Usage>, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &serde_json::json!({ name: results, "usage": usage.map(usage_json) }))?;
    writeln!(out)
}

pub(super) fn write_usage(usage: &Usage, out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<_> = usage.batches.iter().map(|batch| batch.rows.to_string()).collect();
    let cut = if usage.truncated > 0 { format!(", {} cut", usage.truncated) } else { String::new() };
    writeln!(
        out,
        "\n{} {} ({}): {} tokens{cut}, queued {}, computed {}, batch rows {}",
        usage.model,
        usage.model_version,
        usage.dtype,
        usage.tokens,
        milliseconds(usage.queue_time.as_ref()),
        milliseconds(usage.compute_time.as_ref()),
        if rows.is_empty() { "not told".to_owned() } else { rows.join(" + ") },
    )?;
    usage.explanation.as_ref().map_or(Ok(()), |explanation| writeln!(out, "{}", explanation.text))
}

pub(super) fn usage_json(usage: &Usage) -> Value {
    serde_json::json!({
        "model": usage.model,
        "model_version": usage.model_version,
        "dtype": usage.dtype,
        "tokens": usage.tokens,
        "truncated": usage.truncated,
        "queue_us": usage.queue_time.as_ref().map(micros),
        "compute_us": usage.compute_time.as_ref().map(micros),
        "batch_rows": usage.batches.iter().map(|batch| batch.rows).collect::<Vec<_>>(),
        "explanation": usage.explanation.as_ref().map(|explanation| &explanation.text),
    })
}

/// Enough of a text to know it by, on one line.
pub(super) fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 70;
    let line = text.replace(|c: char| c.is_control(), " ");
    if line.chars().count() <= CHARACTERS_MAX {
        return format!("\"{line}\"");
    }
    let start: String = line.chars().take(CHARACTERS_MAX - 1).collect();
    format!("\"{start}…\"")
}

fn milliseconds(duration: Option<&prost_types::Duration>) -> String {
    duration.map_or_else(|| "for a time not told".to_owned(), |d| format!("{:.2} ms", micros(d) as f64 / 1e3))
}

/// Whole microseconds; 0 for a negative duration, which a server does not send.
pub(super) fn micros(duration: &prost_types::Duration) -> u64 {
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    let nanos = u64::try_from(duration.nanos).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(nanos / 1_000)
}

/// What a refusal says beside its message, on a line of its own.
fn explanation(status: &Status) -> String {
    let text = status.metadata().get(EXPLAIN_KEY).and_then(|value| value.to_str().ok());
    text.map(|text| format!("\n{text}")).unwrap_or_default()
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no texts: standard input was empty")]
    NoTexts,
    #[error("more than {TEXTS_MAX} texts; send them in several calls")]
    TooMany,
    #[error("cannot read standard input: {0}")]
    Read(#[source] io::Error),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the server answered {:?}: {}{}", .0.code(), .0.message(), explanation(.0))]
    Refused(Box<Status>),
    #[error("the server answered {got} results to {sent} texts")]
    Count { sent: usize, got: usize },
}

impl From<Status> for AskError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn long_texts_are_shortened_on_one_line() {
        assert_eq!(super::shortened("a\nb"), "\"a b\"");
        assert_eq!(super::shortened(&"é".repeat(100)).chars().count(), 72);
    }
}
