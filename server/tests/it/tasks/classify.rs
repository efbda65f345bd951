//! Labels of texts and of pairs.

use shoal_proto::inference::ModelConfigRequest;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::v1 as wire;
use tonic::Code;

use super::{Scored, Tiny, assert_close, falling, numbers, scores, serve, texts, with};

/// Labels that exclude each other, and labels that do not.
const MODELS: [&str; 9] = [
    "bert-classify",
    "bert-classify-multi",
    "distilbert-classify",
    "distilbert-classify-multi",
    "modernbert-classify",
    "roberta-classify",
    "roberta-classify-multi",
    "xlm-roberta-classify",
    "xlm-roberta-classify-multi",
];

fn request(model: &str, cases: &[&Scored]) -> wire::ClassifyRequest {
    wire::ClassifyRequest {
        model: model.into(),
        texts: cases.iter().map(|case| case.text.clone()).collect(),
        text_pairs: cases.iter().filter_map(|case| case.text_pair.clone()).collect(),
        ..Default::default()
    }
}

/// The cases without a pair, and those with one: a call has either.
fn calls(tiny: &Tiny<Scored>) -> [Vec<&Scored>; 2] {
    let (single, pairs): (Vec<&Scored>, Vec<&Scored>) = tiny.texts.iter().partition(|case| case.text_pair.is_none());
    assert!(!single.is_empty() && !pairs.is_empty());
    [single, pairs]
}

/// Each of the labels that are wanted, by falling score, with transformers' number.
fn check(what: &str, labels: &[String], found: &wire::Classification, expected: &[f32], count: usize) {
    let order = &falling(expected)[..count];
    let names: Vec<&str> = found.scores.iter().map(|score| score.label.as_str()).collect();
    assert_eq!(names, order.iter().map(|&label| labels[label].as_str()).collect::<Vec<_>>(), "{what}");
    let numbers: Vec<f32> = found.scores.iter().map(|score| score.score).collect();
    assert_close(what, &numbers, &order.iter().map(|&label| expected[label]).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_and_pairs_have_the_labels_transformers_gives_them() {
    let shoal = serve(&MODELS);
    let mut client = shoal.inference().await;
    for model in MODELS {
        let tiny = Tiny::<Scored>::read(model);
        let count = tiny.labels.len();
        for cases in calls(&tiny) {
            let all = request(model, &cases);
            let best = wire::ClassifyRequest { top_k: 2, ..all.clone() };
            let raw = wire::ClassifyRequest { raw_scores: true, ..all.clone() };
            for (request, kept, is_raw) in [(all, count, false), (best, 2, false), (raw, count, true)] {
                let answer = client.classify(request).await.expect(model).into_inner();
                assert_eq!(answer.results.len(), cases.len(), "{model}");
                for (case, found) in cases.iter().zip(&answer.results) {
                    let expected = if is_raw { &case.logits } else { &case.scores };
                    check(&format!("{model}: {}", case.text), &tiny.labels, found, expected, kept);
                }
                let usage = answer.usage.expect("usage");
                let tokens: usize = cases.iter().map(|case| case.ids.len()).sum();
                assert_eq!((usage.tokens as usize, usage.truncated, &*usage.dtype), (tokens, 0, "f32"), "{model}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_of_texts_pairs_and_ids_have_the_same_scores() {
    let shoal = serve(&MODELS);
    let mut client = shoal.oip().await;
    for model in MODELS {
        let tiny = Tiny::<Scored>::read(model);
        let labels = tiny.labels.len() as i64;
        let config = ModelConfigRequest { name: model.into(), version: String::new() };
        let config = client.model_config(config).await.expect(model).into_inner().config.expect("a configuration");
        let told: Vec<String> = serde_json::from_str(&config.parameters["labels"].string_value).expect("labels");
        assert_eq!(told, tiny.labels, "{model}");
        for cases in calls(&tiny) {
            let first: Vec<&str> = cases.iter().map(|case| case.text.as_str()).collect();
            let second: Vec<&str> = cases.iter().filter_map(|case| case.text_pair.as_deref()).collect();
            let mut inputs = vec![("text", &first[..])];
            inputs.extend((!second.is_empty()).then_some(("text_pair", &second[..])));
            let request = texts(model, &inputs);
            let shape = [cases.len() as i64, labels];
            let answer = client.model_infer(request.clone()).await.expect(model).into_inner();
            let expected: Vec<f32> = cases.iter().flat_map(|case| case.scores.clone()).collect();
            assert_close(model, &scores(&answer, &shape), &expected);
            let raw = with(request, "raw", ParameterChoice::BoolParam(true));
            let answer = client.model_infer(raw).await.expect(model).into_inner();
            let expected: Vec<f32> = cases.iter().flat_map(|case| case.logits.clone()).collect();
            assert_close(model, &scores(&answer, &shape), &expected);
        }
        for case in &tiny.texts {
            let mut inputs = vec![("input_ids", &case.ids[..])];
            inputs.extend((!case.token_type_ids.is_empty()).then_some(("token_type_ids", &case.token_type_ids[..])));
            let answer = client.model_infer(numbers(model, &inputs)).await.expect(model).into_inner();
            assert_close(model, &scores(&answer, &[1, labels]), &case.scores);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_text_is_cut_where_the_call_allows_it_and_scored_by_what_is_left() {
    let model = "bert-classify";
    let shoal = serve(&[model]);
    let tiny = Tiny::<Scored>::read(model);
    let mut client = shoal.inference().await;
    let long = "The storm was bad; nobody was going out. ".repeat(20);
    let cut = wire::ClassifyRequest {
        model: model.into(),
        texts: vec![long.clone()],
        truncate: true,
        raw_scores: true,
        ..Default::default()
    };
    let whole = wire::ClassifyRequest { truncate: false, ..cut.clone() };
    let status = client.classify(whole).await.expect_err("too long");
    assert_eq!(status.code(), Code::InvalidArgument);
    let limit = format!("at most {}", tiny.tokens_max);
    assert!(status.message().contains("`texts[0]`") && status.message().contains(&limit), "{}", status.message());
    let answer = client.classify(cut.clone()).await.expect("answer").into_inner();
    let usage = answer.usage.expect("usage");
    assert_eq!((usage.tokens as usize, usage.truncated), (tiny.tokens_max, 1));
    let request = wire::TokenizeRequest { model: model.into(), texts: vec![long.clone()], truncate: true };
    let ids = client.tokenize(request).await.expect("tokens").into_inner().texts.remove(0).ids;
    assert_eq!(ids.len(), tiny.tokens_max);
    let types = vec![0; ids.len()];
    let by_ids = with(
        numbers(model, &[("input_ids", &ids), ("token_type_ids", &types)]),
        "raw",
        ParameterChoice::BoolParam(true),
    );
    let by_ids = shoal.oip().await.model_infer(by_ids).await.expect("answer").into_inner();
    check("cut", &tiny.labels, &answer.results[0], &scores(&by_ids, &[1, 3]), 3);
    // Of a pair the longer one is cut: what is short is there whole, and so it makes a difference.
    let mut found = Vec::new();
    for pair in ["fish", "The boats are late."] {
        let request = wire::ClassifyRequest { text_pairs: vec![pair.into()], ..cut.clone() };
        let answer = client.classify(request).await.expect("answer").into_inner();
        let usage = answer.usage.expect("usage");
        assert_eq!((usage.tokens as usize, usage.truncated), (tiny.tokens_max, 1));
        found.push(answer.results[0].scores[0].score);
    }
    assert!((found[0] - found[1]).abs() > 1e-3, "{found:?}");
}
