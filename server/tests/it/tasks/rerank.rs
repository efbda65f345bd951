//! Texts in the order of what they have to say to a query.

use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::v1 as wire;
use tonic::Code;

use super::{Scored, Tiny, assert_close, falling, scores, serve, texts, with};

const MODELS: [&str; 5] =
    ["bert-rerank", "distilbert-rerank", "modernbert-rerank", "roberta-rerank", "xlm-roberta-rerank"];

/// What a client gets that does not ask for logits: these two say in their files that theirs are to be left alone.
fn plain<'a>(model: &str, case: &'a Scored) -> &'a [f32] {
    if model == "bert-rerank" || model == "xlm-roberta-rerank" { &case.logits } else { &case.scores }
}

/// The texts of the first query, and that query.
fn of_first_query(tiny: &Tiny<Scored>) -> (&str, Vec<&Scored>) {
    let query = tiny.texts[0].text.as_str();
    let cases: Vec<&Scored> = tiny.texts.iter().filter(|case| case.text == query).collect();
    assert!(cases.len() > 1);
    (query, cases)
}

fn pair(case: &Scored) -> &str {
    case.text_pair.as_deref().expect("a pair")
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_ranked_by_the_scores_transformers_gives_them() {
    let shoal = serve(&MODELS);
    let mut client = shoal.inference().await;
    for model in MODELS {
        let tiny = Tiny::<Scored>::read(model);
        let (query, cases) = of_first_query(&tiny);
        let all = wire::RerankRequest {
            model: model.into(),
            query: query.into(),
            texts: cases.iter().map(|case| pair(case).to_owned()).collect(),
            ..Default::default()
        };
        // The other way round as well, or an order kept by chance would pass.
        let turned = wire::RerankRequest { texts: all.texts.iter().rev().cloned().collect(), ..all.clone() };
        let raw = wire::RerankRequest { raw_scores: true, return_text: true, ..all.clone() };
        let best = wire::RerankRequest { top_n: 1, ..all.clone() };
        let turned_cases: Vec<&Scored> = cases.iter().rev().copied().collect();
        for (request, cases) in [(all, &cases), (turned, &turned_cases), (raw, &cases), (best, &cases)] {
            let expected = |case: &&Scored| if request.raw_scores { case.logits[0] } else { plain(model, case)[0] };
            let expected: Vec<f32> = cases.iter().map(expected).collect();
            let count = if request.top_n == 0 { cases.len() } else { request.top_n as usize };
            let order = &falling(&expected)[..count];
            let answer = client.rerank(request.clone()).await.expect(model).into_inner();
            let found: Vec<usize> = answer.results.iter().map(|ranked| ranked.index as usize).collect();
            assert_eq!(found, order, "{model}");
            let numbers: Vec<f32> = answer.results.iter().map(|ranked| ranked.score).collect();
            assert_close(model, &numbers, &order.iter().map(|&index| expected[index]).collect::<Vec<_>>());
            for ranked in &answer.results {
                let text = if request.return_text { request.texts[ranked.index as usize].as_str() } else { "" };
                assert_eq!(ranked.text, text, "{model}");
            }
            let tokens: usize = cases.iter().map(|case| case.ids.len()).sum();
            assert_eq!(answer.usage.expect("usage").tokens as usize, tokens, "{model}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_with_one_query_for_all_and_one_for_each_have_the_same_scores() {
    let shoal = serve(&MODELS);
    let mut client = shoal.oip().await;
    for model in MODELS {
        let tiny = Tiny::<Scored>::read(model);
        let (query, some) = of_first_query(&tiny);
        let passages: Vec<&str> = some.iter().map(|case| pair(case)).collect();
        let request = texts(model, &[("query", &[query]), ("text", &passages)]);
        let answer = client.model_infer(request).await.expect(model).into_inner();
        let expected: Vec<f32> = some.iter().map(|case| plain(model, case)[0]).collect();
        assert_close(model, &scores(&answer, &[some.len() as i64]), &expected);
        let queries: Vec<&str> = tiny.texts.iter().map(|case| case.text.as_str()).collect();
        let passages: Vec<&str> = tiny.texts.iter().map(pair).collect();
        let request = texts(model, &[("text", &passages), ("query", &queries)]);
        let request = with(request, "raw", ParameterChoice::BoolParam(true));
        let answer = client.model_infer(request).await.expect(model).into_inner();
        let expected: Vec<f32> = tiny.texts.iter().map(|case| case.logits[0]).collect();
        assert_close(model, &scores(&answer, &[tiny.texts.len() as i64]), &expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_text_is_cut_where_the_call_allows_it_and_the_query_is_kept() {
    let model = "roberta-rerank";
    let shoal = serve(&[model]);
    let tiny = Tiny::<Scored>::read(model);
    let mut client = shoal.inference().await;
    let request = |query: &str, truncate| wire::RerankRequest {
        query: query.into(),
        texts: vec!["rain".into(), "The last boat was late on Sunday. ".repeat(20)],
        truncate,
        raw_scores: true,
        ..Default::default()
    };
    let status = client.rerank(request("storm", false)).await.expect_err("too long");
    assert_eq!(status.code(), Code::InvalidArgument);
    let limit = format!("at most {}", tiny.tokens_max);
    assert!(status.message().contains("`texts[1]`") && status.message().contains(&limit), "{}", status.message());
    let mut found = Vec::new();
    for query in ["storm", "How late was the last boat?"] {
        let answer = client.rerank(request(query, true)).await.expect("answer").into_inner();
        assert_eq!(answer.usage.expect("usage").truncated, 1);
        found.push(answer.results.iter().find(|ranked| ranked.index == 1).expect("the long one").score);
    }
    assert!((found[0] - found[1]).abs() > 1e-3, "{found:?}");
}
