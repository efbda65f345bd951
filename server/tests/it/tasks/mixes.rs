//! The promise that an answer does not depend on what else is in its batch, for the tasks that score.

use shoal_proto::v1 as wire;
use tokio::task::JoinSet;

use super::{Scored, Tiny, serve_as};

const TEXTS: usize = 60;

/// Texts of many lengths, no two alike.
fn sentences() -> Vec<String> {
    const WORDS: [&str; 11] =
        ["the", "storm", "was", "late", "boat", "and", "nobody", "going", "home", "from", "harbour"];
    let sentence = |at: usize| {
        let length = 1 + at * 7 % 23;
        let words: Vec<&str> = (0..length).map(|word| WORDS[(at * 5 + word * (at + 3)) % WORDS.len()]).collect();
        format!("{at} {}", words.join(" "))
    };
    (0..TEXTS).map(sentence).collect()
}

/// One call's scores, with what they belong to, as bits.
#[derive(Debug, PartialEq)]
struct Bits(Vec<(String, u32)>);

fn of_labels(result: &wire::Classification) -> Bits {
    Bits(result.scores.iter().map(|score| (score.label.clone(), score.score.to_bits())).collect())
}

fn of_masks(result: &wire::FilledText) -> Bits {
    let candidates = result.masks.iter().flat_map(|mask| &mask.candidates);
    Bits(candidates.map(|candidate| (candidate.token.clone(), candidate.score.to_bits())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_are_the_same_bits_alone_and_in_any_mix() {
    let shoal = serve_as(&["bert-classify", "bert-rerank", "bert-fill"], "auto");
    let mut client = shoal.inference().await;
    let listed = client.list_models(wire::ListModelsRequest {}).await.expect("list").into_inner().models;
    assert_eq!(listed.len(), 3);
    if listed.iter().any(|model| model.backend == "candle") {
        // It adds in another order for another shape, and has no part in the promise.
        return;
    }
    let query = Tiny::<Scored>::read("bert-rerank").texts[0].text.clone();
    let classify = |texts| wire::ClassifyRequest { texts, raw_scores: true, ..Default::default() };
    let rerank = |texts| wire::RerankRequest { query: query.clone(), texts, raw_scores: true, ..Default::default() };
    let fill = |texts| wire::FillMaskRequest { texts, raw_scores: true, ..Default::default() };
    let texts = sentences();
    let masked: Vec<String> = texts.iter().map(|text| format!("{text} [MASK]")).collect();
    let mut alone = Vec::new();
    for (text, masked) in texts.iter().zip(&masked) {
        let labels = client.classify(classify(vec![text.clone()])).await.expect("answer").into_inner();
        let rank = client.rerank(rerank(vec![text.clone()])).await.expect("answer").into_inner();
        let masks = client.fill_mask(fill(vec![masked.clone()])).await.expect("answer").into_inner();
        let score = rank.results[0].score.to_bits();
        alone.push((of_labels(&labels.results[0]), score, of_masks(&masks.results[0])));
    }
    assert!(alone.iter().any(|(labels, ..)| *labels != alone[0].0));
    // All in one call, and all at once in calls of a few, in another order.
    for (stride, texts_each) in [(1, TEXTS), (7, 1), (11, 4), (13, 9)] {
        let order: Vec<usize> = (0..TEXTS).map(|at| at * stride % TEXTS).collect();
        let mut calls = JoinSet::new();
        for chosen in order.chunks(texts_each).map(<[usize]>::to_vec) {
            let mut client = client.clone();
            let of = |texts: &[String]| chosen.iter().map(|&at| texts[at].clone()).collect::<Vec<_>>();
            let (classify, rerank, fill) = (classify(of(&texts)), rerank(of(&texts)), fill(of(&masked)));
            calls.spawn(async move {
                let mut others = (client.clone(), client.clone());
                let answers =
                    tokio::join!(client.classify(classify), others.0.rerank(rerank), others.1.fill_mask(fill));
                (chosen, answers)
            });
        }
        while let Some(call) = calls.join_next().await {
            let (chosen, (labels, ranks, masks)) = call.expect("the call");
            let labels = labels.expect("labels").into_inner().results;
            let ranks = ranks.expect("ranks").into_inner().results;
            let masks = masks.expect("masks").into_inner().results;
            assert_eq!([labels.len(), ranks.len(), masks.len()], [chosen.len(); 3]);
            for (index, &at) in chosen.iter().enumerate() {
                let (of_alone, in_calls) = (&alone[at], format!("{:?} in calls of {texts_each}", texts[at]));
                assert_eq!(of_labels(&labels[index]), of_alone.0, "{in_calls}");
                let ranked = ranks.iter().find(|ranked| ranked.index as usize == index).expect("a rank");
                assert_eq!(ranked.score.to_bits(), of_alone.1, "{in_calls}");
                assert_eq!(of_masks(&masks[index]), of_alone.2, "{in_calls}");
            }
        }
    }
}
