//! `shoal classify`: asks a running server once.

use std::io::{BufRead, Write};

use shoal_proto::v1::ClassifyRequest;

use super::ask::{AskArgs, AskError, check_count, shortened, texts, write_json, write_usage};
use super::deadline;

/// Score texts by a classifier's labels with a running server.
#[derive(Clone, Debug, clap::Args)]
pub struct ClassifyArgs {
    /// Texts; `-` reads more of them from standard input, one a line.
    #[arg(required = true)]
    pub texts: Vec<String>,
    /// The second of each pair, once for each text.
    #[arg(long = "pair", value_name = "TEXT")]
    pub pairs: Vec<String>,
    /// Show logits, not probabilities.
    #[arg(long)]
    pub raw_scores: bool,
    /// Show only so many labels of each text, the best; 0 for all.
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Asks once and writes the answer to `out`; `input` is what `-` reads.
pub async fn run(args: &ClassifyArgs, input: impl BufRead, out: &mut impl Write) -> Result<(), AskError> {
    let texts = texts(&args.texts, input)?;
    let mut client = args.ask.connect().await?;
    let request = ClassifyRequest {
        model: args.ask.model.clone(),
        texts: texts.clone(),
        text_pairs: args.pairs.clone(),
        truncate: args.ask.truncate,
        raw_scores: args.raw_scores,
        top_k: args.top_k,
    };
    let request = args.ask.request(request);
    let answer = deadline::answer(client.classify(request), args.ask.timeout).await?;
    check_count(texts.len(), answer.results.len())?;
    if args.ask.json {
        let score = |it: &shoal_proto::v1::LabelScore| serde_json::json!({ "label": it.label, "score": it.score });
        let results = answer.results.iter().map(|result| result.scores.iter().map(score).collect::<Vec<_>>());
        return Ok(write_json("results", results.collect(), answer.usage.as_ref(), out)?);
    }
    for (i, (text, result)) in texts.iter().zip(&answer.results).enumerate() {
        writeln!(out, "{:>3}  {}", i + 1, shortened(text))?;
        for score in &result.scores {
            writeln!(out, "     {:>8.4}  {}", score.score, score.label)?;
        }
    }
    Ok(answer.usage.as_ref().map_or(Ok(()), |usage| write_usage(usage, out))?)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::client::testing::TestServer;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: ClassifyArgs,
    }

    #[tokio::test]
    async fn shows_the_labels_of_each_text() {
        let server = TestServer::start().await;
        let address = server.address().to_string();
        let args = Cli::parse_from(["shoal", "--addr", &address, "--top-k", "1", "one", "two"]).args;
        let mut out = Vec::new();
        run(&args, &b""[..], &mut out).await.unwrap();
        let out = String::from_utf8(out).unwrap();
        let expected = "  1  \"one\"\n       0.7500  good\n  2  \"two\"\n       0.7500  good\n";
        assert!(out.starts_with(expected) && out.contains("9 tokens"), "{out}");
        let args = ClassifyArgs { ask: AskArgs { json: true, ..args.ask }, ..args };
        let mut out = Vec::new();
        run(&args, &b""[..], &mut out).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["results"][1][0], serde_json::json!({ "label": "good", "score": 0.75 }));
    }
}
