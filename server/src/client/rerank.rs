//! `shoal rerank`: asks a running server once.

use std::io::{BufRead, Write};

use shoal_proto::v1::{RankedText, RerankRequest};

use super::ask::{AskArgs, AskError, shortened, texts, write_json, write_usage};
use super::deadline;

/// Put texts in the order of what they have to say to a query, with a running server.
#[derive(Clone, Debug, clap::Args)]
pub struct RerankArgs {
    /// What the texts are ranked by.
    pub query: String,
    /// Texts; `-` reads more of them from standard input, one a line.
    #[arg(required = true)]
    pub texts: Vec<String>,
    /// Show logits, not scores from 0 to 1.
    #[arg(long)]
    pub raw_scores: bool,
    /// Show only so many texts, the best; 0 for all.
    #[arg(long, default_value_t = 0)]
    pub top_n: u32,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Asks once and writes the answer to `out`; `input` is what `-` reads.
pub async fn run(args: &RerankArgs, input: impl BufRead, out: &mut impl Write) -> Result<(), AskError> {
    let mut client = args.ask.connect().await?;
    let request = RerankRequest {
        model: args.ask.model.clone(),
        query: args.query.clone(),
        texts: texts(&args.texts, input)?,
        truncate: args.ask.truncate,
        raw_scores: args.raw_scores,
        top_n: args.top_n,
        return_text: true,
    };
    let request = args.ask.request(request);
    let answer = deadline::answer(client.rerank(request), args.ask.timeout).await?;
    if args.ask.json {
        let ranked = |it: &RankedText| serde_json::json!({ "index": it.index, "score": it.score, "text": it.text });
        return Ok(write_json("results", answer.results.iter().map(ranked).collect(), answer.usage.as_ref(), out)?);
    }
    for ranked in &answer.results {
        writeln!(out, "{:>8.4}  {:>3}  {}", ranked.score, u64::from(ranked.index) + 1, shortened(&ranked.text))?;
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
        args: RerankArgs,
    }

    #[tokio::test]
    async fn shows_the_texts_in_the_order_of_the_answer() {
        let server = TestServer::start().await;
        let address = server.address().to_string();
        let args = Cli::parse_from(["shoal", "--addr", &address, "query", "one", "-"]).args;
        let mut out = Vec::new();
        run(&args, &b"two\n"[..], &mut out).await.unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("  1.0000    2  \"two\"\n  0.0000    1  \"one\"\n"), "{out}");
        let args = RerankArgs { ask: AskArgs { json: true, ..args.ask }, ..args };
        let mut out = Vec::new();
        run(&args, &b"two\n"[..], &mut out).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["results"][0], serde_json::json!({ "index": 1, "score": 1.0, "text": "two" }));
    }
}
