//! Vectors of every architecture and pooling; how else they can be asked for is told with real weights.

use serde::Deserialize;
use shoal_proto::v1 as wire;

use super::{Tiny, assert_close, output, serve, texts};

const MODELS: [&str; 10] = [
    "bert-embed",
    "bert-embed-masked-lm",
    "distilbert-embed",
    "distilbert-embed-normalized",
    "modernbert-embed",
    "modernbert-embed-mean",
    "qwen3-embed",
    "qwen3-embed-causal",
    "roberta-embed",
    "xlm-roberta-embed",
];

#[derive(Deserialize)]
struct Embedded {
    text: String,
    embedding: Vec<f32>,
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_those_of_transformers_by_call_and_by_tensor() {
    let shoal = serve(&MODELS);
    let (mut client, mut by_tensor) = (shoal.inference().await, shoal.oip().await);
    for model in MODELS {
        let tiny = Tiny::<Embedded>::read(model);
        let all: Vec<&str> = tiny.texts.iter().map(|case| case.text.as_str()).collect();
        let request = wire::EmbedRequest {
            model: model.into(),
            texts: all.iter().map(|text| (*text).into()).collect(),
            ..Default::default()
        };
        let answer = client.embed(request).await.expect(model).into_inner();
        assert_eq!(answer.embeddings.len(), all.len(), "{model}");
        for (case, found) in tiny.texts.iter().zip(&answer.embeddings) {
            assert_close(&format!("{model}: {}", case.text), &found.values, &case.embedding);
        }
        let answer = by_tensor.model_infer(texts(model, &[("text", &all)])).await.expect(model).into_inner();
        let shape = [all.len() as i64, tiny.texts[0].embedding.len() as i64];
        let found: Vec<f32> =
            output(&answer, "embedding", "FP32", &shape).into_iter().map(f32::from_le_bytes).collect();
        let expected: Vec<f32> = tiny.texts.iter().flat_map(|case| case.embedding.clone()).collect();
        assert_close(model, &found, &expected);
    }
}
