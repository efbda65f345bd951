//! Tokens that could stand for masks.

use serde::Deserialize;
use serde_json::Value;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::v1 as wire;
use tonic::Code;

use super::{Tiny, assert_close, folder, numbers, output, scores, serve, texts, with};

const MODELS: [&str; 8] = [
    "bert-fill",
    "bert-fill-untied",
    "bert-pretraining",
    "distilbert-fill",
    "modernbert-fill",
    "modernbert-fill-untied",
    "roberta-fill",
    "xlm-roberta-fill",
];

/// A text with masks: a row to each.
#[derive(Deserialize)]
struct Masked {
    text: String,
    ids: Vec<u32>,
    /// Of the fixture's targets.
    logits: Vec<Vec<f32>>,
    scores: Vec<Vec<f32>>,
    top: Top,
}

/// The five best.
#[derive(Deserialize)]
struct Top {
    token_ids: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
    scores: Vec<Vec<f32>>,
}

fn request(model: &str, cases: &[Masked]) -> wire::FillMaskRequest {
    wire::FillMaskRequest {
        model: model.into(),
        texts: cases.iter().map(|case| case.text.clone()).collect(),
        ..Default::default()
    }
}

/// The entries of a model's vocabulary, by id.
fn entries(model: &str) -> Vec<(u32, String)> {
    let json = std::fs::read(folder(model).join("tokenizer.json")).expect("tokenizer.json");
    let json: Value = serde_json::from_slice(&json).expect("json");
    match &json["model"]["vocab"] {
        Value::Object(entries) => {
            entries.iter().map(|(entry, id)| (id.as_u64().expect("an id") as u32, entry.clone())).collect()
        }
        Value::Array(entries) => {
            (0..).zip(entries.iter().map(|entry| entry[0].as_str().expect("an entry").to_owned())).collect()
        }
        other => panic!("{model}: a vocabulary {other}"),
    }
}

fn ids(mask: &wire::FilledMask) -> Vec<u32> {
    mask.candidates.iter().map(|candidate| candidate.token_id).collect()
}

fn numbers_of(mask: &wire::FilledMask) -> Vec<f32> {
    mask.candidates.iter().map(|candidate| candidate.score).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn masks_are_filled_with_the_tokens_transformers_fills_them_with() {
    let shoal = serve(&MODELS);
    let mut client = shoal.inference().await;
    for model in MODELS {
        let tiny = Tiny::<Masked>::read(model);
        let five = request(model, &tiny.texts);
        let two = wire::FillMaskRequest { top_k: 2, ..five.clone() };
        let raw = wire::FillMaskRequest { raw_scores: true, ..five.clone() };
        for (request, count) in [(five, 5), (two, 2), (raw, 5)] {
            let answer = client.fill_mask(request.clone()).await.expect(model).into_inner();
            assert_eq!(answer.results.len(), tiny.texts.len(), "{model}");
            for (case, found) in tiny.texts.iter().zip(&answer.results) {
                let masked = (0..).zip(&case.ids).filter(|(_, id)| **id == tiny.mask_token_id);
                let positions: Vec<u32> = masked.map(|(position, _)| position).collect();
                assert_eq!(found.masks.iter().map(|mask| mask.token_index).collect::<Vec<_>>(), positions, "{model}");
                for (row, mask) in found.masks.iter().enumerate() {
                    assert_eq!(ids(mask), case.top.token_ids[row][..count], "{model}: {}", case.text);
                    let expected = if request.raw_scores { &case.top.logits } else { &case.top.scores };
                    assert_close(&format!("{model}: {}", case.text), &numbers_of(mask), &expected[row][..count]);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_are_the_only_candidates_and_named_by_their_entries() {
    let shoal = serve(&MODELS);
    let mut client = shoal.inference().await;
    for model in MODELS {
        let tiny = Tiny::<Masked>::read(model);
        let entries = entries(model);
        // The last rows of some models' vocabularies have no entry.
        let entry = |id: &u32| entries.iter().find(|(of, _)| of == id).map(|(_, entry)| entry.clone());
        let known: Vec<(usize, String)> =
            (0..).zip(&tiny.targets).filter_map(|(at, id)| Some((at, entry(id)?))).collect();
        assert!(known.len() >= 3, "{model}: {known:?}");
        let targets: Vec<String> = known.iter().map(|(_, entry)| entry.clone()).collect();
        for raw_scores in [false, true] {
            let request = wire::FillMaskRequest { targets: targets.clone(), raw_scores, ..request(model, &tiny.texts) };
            let answer = client.fill_mask(request).await.expect(model).into_inner();
            for (case, found) in tiny.texts.iter().zip(&answer.results) {
                for (row, mask) in found.masks.iter().enumerate() {
                    let what = format!("{model}: {}", case.text);
                    let found = numbers_of(mask);
                    assert!(found.is_sorted_by(|a, b| a >= b), "{what}: {found:?}");
                    assert_eq!(found.len(), known.len(), "{what}");
                    let expected = if raw_scores { &case.logits } else { &case.scores };
                    let of = |id: u32| tiny.targets.iter().position(|target| *target == id).expect("a target");
                    let expected: Vec<f32> = ids(mask).into_iter().map(|id| expected[row][of(id)]).collect();
                    assert_close(&what, &found, &expected);
                }
            }
        }
        let best = wire::FillMaskRequest { targets, top_k: 1, ..request(model, &tiny.texts) };
        let answer = client.fill_mask(best).await.expect(model).into_inner();
        assert!(answer.results.iter().flat_map(|text| &text.masks).all(|mask| mask.candidates.len() == 1), "{model}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_may_be_text_that_is_one_token_and_comes_back_as_text() {
    let shoal = serve(&["bert-fill", "roberta-fill"]);
    let mut client = shoal.inference().await;
    // "Ġ" is how this vocabulary spells a space.
    for (model, text, target, token) in
        [("bert-fill", "the [MASK] is late", "boat", "boat"), ("roberta-fill", "The<mask>", "Ġthe", " the")]
    {
        let request = wire::FillMaskRequest {
            model: model.into(),
            texts: vec![text.into()],
            targets: vec![target.into()],
            ..Default::default()
        };
        let answer = client.fill_mask(request).await.expect(model).into_inner();
        let candidates = &answer.results[0].masks[0].candidates;
        assert_eq!(candidates.iter().map(|it| it.token.as_str()).collect::<Vec<_>>(), [token], "{model}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_of_texts_and_ids_are_filled_alike() {
    let shoal = serve(&MODELS);
    let mut client = shoal.oip().await;
    for model in MODELS {
        let tiny = Tiny::<Masked>::read(model);
        let lone: Vec<&Masked> = tiny.texts.iter().filter(|case| case.logits.len() == 1).collect();
        assert!(lone.len() > 1, "{model}");
        let rows = lone.len() as i64;
        let all: Vec<&str> = lone.iter().map(|case| case.text.as_str()).collect();
        let five = texts(model, &[("text", &all)]);
        let raw = with(five.clone(), "raw", ParameterChoice::BoolParam(true));
        let two = with(five.clone(), "top_k", ParameterChoice::Int64Param(2));
        for (request, count, is_raw) in [(five, 5, false), (raw, 5, true), (two, 2, false)] {
            let answer = client.model_infer(request).await.expect(model).into_inner();
            check(model, &answer, &lone, &[rows, count as i64], is_raw);
        }
        for case in lone {
            let answer = client.model_infer(numbers(model, &[("input_ids", &case.ids)])).await.expect(model);
            check(model, answer.get_ref(), &[case], &[1, 5], false);
        }
    }
}

fn check(
    model: &str,
    answer: &shoal_proto::inference::ModelInferResponse,
    cases: &[&Masked],
    shape: &[i64; 2],
    is_raw: bool,
) {
    let count = shape[1] as usize;
    let best = |case: &&Masked| case.top.token_ids[0][..count].to_vec();
    let found: Vec<i64> = output(answer, "token_ids", "INT64", shape).into_iter().map(i64::from_le_bytes).collect();
    let expected: Vec<i64> = cases.iter().flat_map(best).map(i64::from).collect();
    assert_eq!(found, expected, "{model}");
    let best = |case: &&Masked| {
        if is_raw { case.top.logits[0][..count].to_vec() } else { case.top.scores[0][..count].to_vec() }
    };
    assert_close(model, &scores(answer, shape), &cases.iter().flat_map(best).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_text_may_be_cut_but_not_by_all_of_its_masks() {
    let model = "distilbert-fill";
    let shoal = serve(&[model]);
    let tokens_max = Tiny::<Masked>::read(model).tokens_max;
    let mut client = shoal.inference().await;
    let long = "the cat sat on the mat ".repeat(20);
    let request = |text: String, truncate| wire::FillMaskRequest { texts: vec![text], truncate, ..Default::default() };
    let first = client.fill_mask(request(format!("[MASK] {long}"), true)).await.expect("answer").into_inner();
    let usage = first.usage.expect("usage");
    assert_eq!((usage.tokens as usize, usage.truncated), (tokens_max, 1));
    assert_eq!(first.results[0].masks[0].token_index, 1);
    // What is cut off has no part in it, masks among it.
    let both = client.fill_mask(request(format!("[MASK] {long} [MASK]"), true)).await.expect("answer").into_inner();
    assert_eq!(both.results, first.results);
    for (text, truncate, told) in [
        (format!("[MASK] {long}"), false, format!("at most {tokens_max}")),
        (format!("{long} [MASK]"), true, format!("no mask (`[MASK]`) in the {tokens_max} tokens it was cut to")),
    ] {
        let status = client.fill_mask(request(text, truncate)).await.expect_err(&told);
        assert_eq!(status.code(), Code::InvalidArgument, "{told}");
        assert!(status.message().contains("`texts[0]`") && status.message().contains(&told), "{}", status.message());
    }
}
