//! `shoal embed`: asks a running server once.

use std::io::{self, BufRead, Write};

use shoal_proto::v1::{EmbedRequest, EmbedResponse};

use super::ask::{self, AskArgs, AskError, check_count, shortened, texts, write_usage};
use super::deadline;
use super::vector::{cosine, norm};

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
    #[command(flatten)]
    pub ask: AskArgs,
    /// Whether to scale vectors to length 1; unset, as the model was trained.
    #[arg(long, value_name = "true|false")]
    pub normalize: Option<bool>,
    /// Keep only the first so many dimensions: smaller vectors for less exact comparisons. 0 keeps all.
    #[arg(long, default_value_t = 0)]
    pub dimensions: u32,
}

/// Asks once and writes the answer to `out`; `input` is what `-` reads.
pub async fn run(args: &EmbedArgs, input: impl BufRead, out: &mut impl Write) -> Result<(), AskError> {
    let texts = texts(&args.texts, input)?;
    let mut client = args.ask.connect().await?;
    let request = EmbedRequest {
        model: args.ask.model.clone(),
        texts: texts.clone(),
        truncate: args.ask.truncate,
        normalize: args.normalize,
        dimensions: args.dimensions,
    };
    let request = args.ask.request(request);
    let answer = deadline::answer(client.embed(request), args.ask.timeout).await?;
    check_count(texts.len(), answer.embeddings.len())?;
    if args.ask.json {
        write_json(&texts, &answer, out)?
    } else {
        write_text(&texts, &answer, out)?
    }
    Ok(())
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

fn write_json(texts: &[String], answer: &EmbedResponse, out: &mut impl Write) -> io::Result<()> {
    let embeddings: Vec<_> = texts
        .iter()
        .zip(&answer.embeddings)
        .map(|(text, embedding)| serde_json::json!({ "text": text, "values": embedding.values }))
        .collect();
    ask::write_json("embeddings", embeddings.into(), answer.usage.as_ref(), out)
}

#[cfg(test)]
mod tests;
