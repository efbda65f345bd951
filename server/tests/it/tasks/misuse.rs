//! What a model is not for, and what it cannot be asked, is refused by field.

use shoal_proto::inference as oip;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::v1 as wire;
use tonic::{Code, Status};

use super::{numbers, serve, texts, with};

const MODELS: [&str; 5] = ["bert-embed", "bert-classify", "bert-rerank", "bert-fill", "roberta-fill"];

fn some(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, field: &str, told: &str) {
    let status = answer.expect_err(field);
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
    let message = status.message();
    assert!(message.starts_with(&format!("`{field}`")) && message.contains(told), "`{field}` … {told}: {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_another_task_is_refused_by_the_model() {
    let shoal = serve(&MODELS);
    let mut client = shoal.inference().await;
    let one = || some(&["The boats are late."]);
    for model in ["bert-embed", "bert-rerank", "bert-fill"] {
        let request = wire::ClassifyRequest { model: model.into(), texts: one(), ..Default::default() };
        assert_refused(client.classify(request).await, "model", model);
    }
    for model in ["bert-embed", "bert-classify", "bert-fill"] {
        let query = "storm".into();
        let request = wire::RerankRequest { model: model.into(), query, texts: one(), ..Default::default() };
        assert_refused(client.rerank(request).await, "model", model);
    }
    for model in ["bert-embed", "bert-classify", "bert-rerank"] {
        let texts = some(&["the [MASK] is late"]);
        let request = wire::FillMaskRequest { model: model.into(), texts, ..Default::default() };
        assert_refused(client.fill_mask(request).await, "model", model);
    }
    for model in ["bert-classify", "bert-rerank", "bert-fill"] {
        let request = wire::EmbedRequest { model: model.into(), texts: one(), ..Default::default() };
        assert_refused(client.embed(request).await, "model", model);
    }
    // Without a name it is the only one for that task, and of two it has to be said which.
    let request = wire::ClassifyRequest { texts: one(), ..Default::default() };
    let answer = client.classify(request).await.expect("the only classifier").into_inner();
    assert_eq!(answer.usage.expect("usage").model, "bert-classify");
    let request = wire::FillMaskRequest { texts: some(&["the [MASK] is late"]), ..Default::default() };
    assert_refused(client.fill_mask(request).await, "model", "2 models can fill-mask");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_field_of_a_typed_call_is_named() {
    let shoal = serve(&MODELS);
    let mut client = shoal.inference().await;
    let fill = |texts: &[&str], targets: &[&str]| wire::FillMaskRequest {
        model: "bert-fill".into(),
        texts: some(texts),
        targets: some(targets),
        ..Default::default()
    };
    let cases = [
        (fill(&["the [MASK] is late", "no mask"], &[]), "texts[1]", "has no mask (`[MASK]`)"),
        // Spelt as another model's tokenizer does.
        (fill(&["the <mask> is late"], &[]), "texts[0]", "has no mask (`[MASK]`)"),
        (fill(&["the [MASK] is late"], &["boat", "boat cat"]), "targets[1]", "is 2 tokens (boat, cat), not one"),
        (fill(&["the [MASK] is late"], &["ß"]), "targets[0]", "is not in the model's vocabulary"),
        (wire::FillMaskRequest { top_k: 1001, ..fill(&["[MASK]"], &[]) }, "top_k", "the most is 1000"),
        (fill(&[], &[]), "texts", ""),
    ];
    for (request, field, told) in cases {
        assert_refused(client.fill_mask(request).await, field, told);
    }
    let classify = |texts: &[&str], pairs: &[&str]| wire::ClassifyRequest {
        texts: some(texts),
        text_pairs: some(pairs),
        ..Default::default()
    };
    let cases = [
        (classify(&["a", "b"], &["c"]), "text_pairs", "has 1 entries for 2 texts"),
        (classify(&["a", "b"], &["c", ""]), "text_pairs[1]", "is an empty text"),
        (classify(&["a", ""], &[]), "texts[1]", ""),
    ];
    for (request, field, told) in cases {
        assert_refused(client.classify(request).await, field, told);
    }
    let request = wire::RerankRequest { query: String::new(), texts: some(&["a"]), ..Default::default() };
    assert_refused(client.rerank(request).await, "query", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_tensor_or_parameter_is_named() {
    let shoal = serve(&MODELS);
    let mut client = shoal.oip().await;
    let truth = ParameterChoice::BoolParam(true);
    let three = ParameterChoice::Int64Param(3);
    let one: (&str, &[&str]) = ("text", &["fish"]);
    let cases: [(oip::ModelInferRequest, &str, &str); 10] = [
        (texts("bert-fill", &[("text", &["the [MASK]", "[MASK] [MASK]"])]), "inputs[0][1]", "has 2 masks (`[MASK]`)"),
        (texts("bert-fill", &[("text", &["the [MASK]", "no mask"])]), "inputs[0][1]", "has no mask (`[MASK]`)"),
        (numbers("bert-fill", &[("input_ids", &[2, 4, 4, 3])]), "inputs[0][0]", "has 2 masks"),
        (with(texts("bert-embed", &[one]), "raw", truth.clone()), "parameters.raw", "models that return scores"),
        (with(texts("bert-classify", &[one]), "top_k", three), "parameters.top_k", "models that fill masks"),
        (with(texts("bert-rerank", &[one]), "normalize", truth), "parameters.normalize", "embedding models"),
        (texts("bert-embed", &[one, ("text_pair", &["cat"])]), "inputs[1].name", ""),
        (texts("bert-classify", &[one, ("text_pair", &["cat", "log"])]), "inputs[1].shape", "2 rows"),
        (texts("bert-rerank", &[one]), "inputs", "`query` is missing"),
        (texts("bert-rerank", &[("text", &["a", "b", "c"]), ("query", &["d", "e"])]), "inputs[1].shape", "2 rows"),
    ];
    for (request, field, told) in cases {
        assert_refused(client.model_infer(request).await, field, told);
    }
}
