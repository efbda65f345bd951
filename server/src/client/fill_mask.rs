//! `shoal fill-mask`: asks a running server once.

use std::io::{BufRead, Write};

use shoal_proto::v1::{Candidate, FillMaskRequest, FilledMask};

use super::ask::{AskArgs, AskError, check_count, shortened, texts, write_json, write_usage};
use super::deadline;

/// Say what could stand where texts have a mask, with a running server.
#[derive(Clone, Debug, clap::Args)]
pub struct FillMaskArgs {
    /// Texts with a mask, spelt as the model has it, such as `[MASK]`; `-` reads more from standard input, one a line.
    #[arg(required = true)]
    pub texts: Vec<String>,
    /// Score only these tokens; give it once for each.
    #[arg(long = "target", value_name = "TOKEN")]
    pub targets: Vec<String>,
    /// Show logits, not probabilities.
    #[arg(long)]
    pub raw_scores: bool,
    /// Candidates of each mask; 0 for five, or all targets.
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Asks once and writes the answer to `out`; `input` is what `-` reads.
pub async fn run(args: &FillMaskArgs, input: impl BufRead, out: &mut impl Write) -> Result<(), AskError> {
    let texts = texts(&args.texts, input)?;
    let mut client = args.ask.connect().await?;
    let request = FillMaskRequest {
        model: args.ask.model.clone(),
        texts: texts.clone(),
        truncate: args.ask.truncate,
        raw_scores: args.raw_scores,
        top_k: args.top_k,
        targets: args.targets.clone(),
    };
    let request = args.ask.request(request);
    let answer = deadline::answer(client.fill_mask(request), args.ask.timeout).await?;
    check_count(texts.len(), answer.results.len())?;
    if args.ask.json {
        let results = answer.results.iter().map(|text| text.masks.iter().map(mask_json).collect::<Vec<_>>());
        return Ok(write_json("results", results.collect(), answer.usage.as_ref(), out)?);
    }
    for (i, (text, result)) in texts.iter().zip(&answer.results).enumerate() {
        writeln!(out, "{:>3}  {}", i + 1, shortened(text))?;
        for mask in &result.masks {
            writeln!(out, "     token {}", mask.token_index)?;
            for candidate in &mask.candidates {
                writeln!(out, "     {:>8.4}  {}", candidate.score, shortened(&candidate.token))?;
            }
        }
    }
    Ok(answer.usage.as_ref().map_or(Ok(()), |usage| write_usage(usage, out))?)
}

fn mask_json(mask: &FilledMask) -> serde_json::Value {
    let candidate =
        |it: &Candidate| serde_json::json!({ "token_id": it.token_id, "token": it.token, "score": it.score });
    let candidates: Vec<_> = mask.candidates.iter().map(candidate).collect();
    serde_json::json!({ "token_index": mask.token_index, "candidates": candidates })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::client::testing::TestServer;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: FillMaskArgs,
    }

    #[tokio::test]
    async fn shows_the_candidates_of_each_mask() {
        let server = TestServer::start().await;
        let address = server.address().to_string();
        let args = Cli::parse_from(["shoal", "--addr", &address, "--target", "a", "--target", "b", "[MASK]"]).args;
        let mut out = Vec::new();
        run(&args, &b""[..], &mut out).await.unwrap();
        let out = String::from_utf8(out).unwrap();
        let expected = "  1  \"[MASK]\"\n     token 1\n       0.5000  \"a\"\n       0.5000  \"b\"\n";
        assert!(out.starts_with(expected), "{out}");
        let args = FillMaskArgs { ask: AskArgs { json: true, ..args.ask }, ..args };
        let mut out = Vec::new();
        run(&args, &b""[..], &mut out).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let expected = serde_json::json!({ "token_id": 8, "token": "b", "score": 0.5 });
        assert_eq!(json["results"][0][0]["candidates"][1], expected);
    }
}
