//! What a server answers to each text alone: near to sentence-transformers, and what it answers in any company.

use shoal_proto::v1 as wire;

use super::{Fixtures, cosine, embed};
use crate::process::Shoal;

/// The answers of one server, each to a call of one text with nothing else on its way.
pub(super) struct Alone {
    names: Vec<String>,
    vectors: Vec<Vec<f32>>,
    /// What it computes in.
    pub(super) dtype: String,
    /// candle adds in another order for another shape, and has no part in the promise.
    is_candle: bool,
}

impl Alone {
    /// Asks for each text in turn.
    pub(super) async fn of(shoal: &Shoal, fixtures: &Fixtures) -> Self {
        let mut client = shoal.inference().await;
        let listed = client.list_models(wire::ListModelsRequest {}).await.expect("list").into_inner().models;
        let model = listed.into_iter().find(|model| model.name == "minilm").expect("minilm is served");
        let is_candle = model.backend == "candle";
        // What the variable asks for computes, or less were tested than it seems.
        if let Some(isa) = std::env::var("SHOAL_CPU_ISA").ok().filter(|isa| isa != "auto") {
            let instructions = match &*isa {
                "portable" => "",
                "avx512-bf16" if model.dtype == "f32" => "avx512",
                isa => isa,
            };
            assert_eq!((&*model.instructions, is_candle), (instructions, isa == "portable"), "{isa}");
            assert!(model.dtype == "f32" || isa == "avx512-bf16", "{} with {isa}", model.dtype);
        }
        let mut vectors = Vec::new();
        for (fixture, expected) in fixtures.texts.iter().zip(&fixtures.vectors) {
            let answer = client.embed(embed(std::slice::from_ref(&fixture.text))).await;
            let answer = answer.unwrap_or_else(|status| panic!("{}: {status:?}", fixture.name)).into_inner();
            let usage = answer.usage.expect("usage");
            assert_eq!(usage.dtype, model.dtype, "{}", fixture.name);
            assert_eq!(usage.tokens as usize, fixture.ids.len(), "{}", fixture.name);
            assert_eq!(usage.truncated == 1, fixture.truncated, "{}", fixture.name);
            let [found] = &answer.embeddings[..] else { panic!("{} vectors", answer.embeddings.len()) };
            assert_near(&fixture.name, &found.values, expected, &model.dtype);
            vectors.push(found.values.clone());
        }
        let names = fixtures.texts.iter().map(|fixture| fixture.name.clone()).collect();
        Self { names, vectors, dtype: model.dtype, is_candle }
    }

    /// That the text at `index` is answered as it is alone, to the bit.
    pub(super) fn check(&self, index: usize, found: &[f32]) {
        let (name, expected) = (&self.names[index], &self.vectors[index]);
        if self.is_candle {
            return assert_near(name, found, expected, &self.dtype);
        }
        let bits = |vector: &[f32]| vector.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert!(bits(found) == bits(expected), "{name}: other bits than alone, cosine {}", cosine(found, expected));
    }
}

/// As near to a vector in float32 as the type of numbers that was computed in allows.
pub(super) fn assert_near(name: &str, found: &[f32], expected: &[f32], dtype: &str) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let least = if dtype == "f32" { 0.99999 } else { 0.9995 };
    let cosine = cosine(found, expected);
    assert!(cosine >= least, "{name}: cosine {cosine} in {dtype}");
}
