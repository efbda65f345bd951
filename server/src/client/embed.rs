//! `shoal embed`: asks a running server once.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use shoal_proto::v1::inference_client::InferenceClient;
use shoal_proto::v1::{EmbedRequest, EmbedResponse, Usage};
use tonic::Status;

use super::address::{Address, ConnectError};
use super::deadline;
use super::vector::{cosine, norm};

/// Most bytes of an answer: 2,048 texts with 4,096 dimensions.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Most texts in one call.
const TEXTS_MAX: usize = 2048;
/// So many values of each vector are shown.
const VALUES_SHOWN: usize = 6;
/// Cosines are shown for so many texts at most.
const COSINES_MAX: usize = 10;

/// Turn texts into vectors with a running server.
#[derive(Clone, Debug, clap::Args)]
pub struct EmbedArgs {
    /// Texts; `-` reads more of them from standard input, one a line.
    #[arg(required = true)]
    pub texts: Vec<String>,
    /// Which model; may be left out when the server has only one embedding model.
    #[arg(long, default_value = "")]
    pub model: String,
    /// Where the server listens.
    #[arg(long, value_name = "HOST:PORT", default_value = Address::DEFAULT, env = "SHOAL_ADDR")]
    pub addr: Address,
    /// Print every value and the usage as JSON.
    #[arg(long)]
    pub json: bool,
    /// Cut texts that are too long for the model instead of failing; what was cut has no part in the vector.
    #[arg(long)]
    pub truncate: bool,
    /// Whether to scale vectors to length 1; unset, as the model was trained.
    #[arg(long, value_name = "true|false")]
    pub normalize: Option<bool>,
    /// Keep only the first so many dimensions: smaller vectors for less exact comparisons. 0 keeps all.
    #[arg(long, default_value_t = 0)]
    pub dimensions: u32,
    /// Give up after this long.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// Asks once and writes the answer to `out`; `input` is what `-` reads.
pub async fn run(args: &EmbedArgs, input: impl BufRead, out: &mut impl Write) -> Result<(), EmbedError> {
    let texts = texts(&args.texts, input)?;
    let channel = args.addr.connect().await?;
    let mut client = InferenceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let request = EmbedRequest {
        model: args.model.clone(),
        texts: texts.clone(),
        truncate: args.truncate,
        normalize: args.normalize,
        dimensions: args.dimensions,
    };
    let request = deadline::request(request, args.timeout);
    let answer = deadline::answer(client.embed(request), args.timeout).await?;
    if answer.embeddings.len() != texts.len() {
        return Err(EmbedError::Count { sent: texts.len(), got: answer.embeddings.len() });
    }
    if args.json {
        write_json(&texts, &answer, out)?
    } else {
        write_text(&texts, &answer, out)?
    }
    Ok(())
}

fn texts(arguments: &[String], input: impl BufRead) -> Result<Vec<String>, EmbedError> {
    let mut texts = Vec::new();
    let mut input = Some(input);
    for argument in arguments {
        match (argument.as_str(), &mut input) {
            ("-", Some(_)) => {
                // One line beyond the limit is enough to know that it is passed.
                for line in input.take().into_iter().flat_map(BufRead::lines).take(TEXTS_MAX + 1) {
                    texts.push(line.map_err(EmbedError::Read)?);
                }
            }
            ("-", None) => {}
            _ => texts.push(argument.clone()),
        }
    }
    match texts.len() {
        0 => Err(EmbedError::NoTexts),
        n if n > TEXTS_MAX => Err(EmbedError::TooMany),
        _ => Ok(texts),
    }
}

fn write_text(texts: &[String], answer: &EmbedResponse, out: &mut impl Write) -> io::Result<()> {
    for (i, (text, embedding)) in texts.iter().zip(&answer.embeddings).enumerate() {
        let values = &embedding.values;
        let first: Vec<_> = values.iter().take(VALUES_SHOWN).map(|value| format!("{value:+.4}")).collect();
        let more = if values.len() > VALUES_SHOWN { " …" } else { "" };
        writeln!(out, "{:>3}  {}", i + 1, shortened(text))?;
        writeln!(out, "     {} dims, length {:.4}, [{}{more}]", values.len(), norm(values), first.join(" "))?;
    }
    if (2..=COSINES_MAX).contains(&texts.len()) {
        write_cosines(answer, out)?;
    }
    answer.usage.as_ref().map_or(Ok(()), |usage| write_usage(usage, out))
}

fn write_cosines(answer: &EmbedResponse, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\ncosine")?;
    for (i, a) in answer.embeddings.iter().enumerate() {
        write!(out, "{:>3} ", i + 1)?;
        for b in &answer.embeddings {
            write!(out, " {:>7.4}", cosine(&a.values, &b.values))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_usage(usage: &Usage, out: &mut impl Write) -> io::Result<()> {
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
    )
}

fn write_json(texts: &[String], answer: &EmbedResponse, out: &mut impl Write) -> io::Result<()> {
    let embeddings: Vec<_> = texts
        .iter()
        .zip(&answer.embeddings)
        .map(|(text, embedding)| serde_json::json!({ "text": text, "values": embedding.values }))
        .collect();
    let usage = answer.usage.as_ref().map(|usage| {
        serde_json::json!({
            "model": usage.model,
            "model_version": usage.model_version,
            "dtype": usage.dtype,
            "tokens": usage.tokens,
            "truncated": usage.truncated,
            "queue_us": usage.queue_time.as_ref().map(micros),
            "compute_us": usage.compute_time.as_ref().map(micros),
            "batch_rows": usage.batches.iter().map(|batch| batch.rows).collect::<Vec<_>>(),
        })
    });
    serde_json::to_writer(&mut *out, &serde_json::json!({ "embeddings": embeddings, "usage": usage }))?;
    writeln!(out)
}

/// Enough of a text to know it by, on one line.
fn shortened(text: &str) -> String {
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

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
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
    #[error("the server answered {:?}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
    #[error("the server answered {got} vectors to {sent} texts")]
    Count { sent: usize, got: usize },
}

impl From<Status> for EmbedError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

#[cfg(test)]
mod tests;
