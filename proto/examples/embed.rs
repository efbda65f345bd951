//! Embeds texts with Shoal, and says how alike the first two are and what the answer took.
//!
//!     cargo run -p shoal-proto --example embed -- 127.0.0.1:8001 "the cat sat" "a kitten rests"

use std::error::Error;
use std::time::{Duration, Instant};

use shoal_proto::v1::inference_client::InferenceClient;
use shoal_proto::v1::{EmbedRequest, EmbedResponse};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("the address of a server is missing")?;
    let request = EmbedRequest { texts: arguments.collect(), ..Default::default() };
    let client = InferenceClient::connect(format!("http://{address}")).await?;
    let answer = embed(client, request, Instant::now() + Duration::from_secs(20)).await?;
    let [a, b, ..] = answer.embeddings.as_slice() else { return Err("two texts are needed".into()) };
    // The vectors have length 1, so that this is their cosine.
    let similarity: f32 = a.values.iter().zip(&b.values).map(|(a, b)| a * b).sum();
    println!("{} dimensions, similarity {similarity:.4}", a.values.len());
    let usage = answer.usage.unwrap_or_default();
    let (queued, computed) = (usage.queue_time.unwrap_or_default(), usage.compute_time.unwrap_or_default());
    println!("{} tokens, queued {queued}, computed {computed}", usage.tokens);
    for batch in &usage.batches {
        let reason = batch.close_reason().as_str_name();
        println!("batch of {} rows, {} of them ours, {reason}", batch.rows, batch.own_rows);
    }
    Ok(())
}

/// Asks again when a full server says that it pays, for as long as `until` allows.
async fn embed(
    mut client: InferenceClient<Channel>,
    request: EmbedRequest,
    until: Instant,
) -> Result<EmbedResponse, Status> {
    loop {
        let mut call = Request::new(request.clone());
        call.set_timeout(until.saturating_duration_since(Instant::now()));
        let error = match client.embed(call).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(error) => error,
        };
        // Only RESOURCE_EXHAUSTED has it.
        match error.get_details_retry_info().and_then(|retry| retry.retry_delay) {
            Some(wait) if Instant::now() + wait < until => {
                eprintln!("the server is full, trying again in {wait:?}");
                tokio::time::sleep(wait).await;
            }
            _ => return Err(error),
        }
    }
}
