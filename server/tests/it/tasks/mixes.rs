//! The promise that an answer does not depend on what else is in its batch, for the tasks that score.

use shoal_proto::v1 as wire;
use tokio::task::JoinSet;

use super::{Scored, Tiny, assert_close, serve_as};

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

/// Scores of one text, each with what it belongs to.
type Scores = Vec<(String, f32)>;

fn of_labels(result: &wire::Classification) -> Scores {
    result.scores.iter().map(|score| (score.label.clone(), score.score)).collect()
}

fn of_rank(ranks: &[wire::RankedText], index: usize) -> Scores {
    let ranked = ranks.iter().find(|ranked| ranked.index as usize == index).expect("a rank");
    vec![(String::new(), ranked.score)]
}

fn of_masks(result: &wire::FilledText) -> Scores {
    let candidates = result.masks.iter().flat_map(|mask| &mask.candidates);
    candidates.map(|candidate| (candidate.token.clone(), candidate.score)).collect()
}

/// The same bits. candle adds in another order for another shape, and only comes near.
fn assert_same(what: &str, found: &Scores, expected: &Scores, is_candle: bool) {
    let (names, numbers): (Vec<&String>, Vec<f32>) = found.iter().map(|(name, score)| (name, *score)).unzip();
    let (of, wanted): (Vec<&String>, Vec<f32>) = expected.iter().map(|(name, score)| (name, *score)).unzip();
    assert_eq!(names, of, "{what}");
    if is_candle {
        return assert_close(what, &numbers, &wanted);
    }
    let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&numbers), bits(&wanted), "{what}: {numbers:?} and alone {wanted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_are_the_same_bits_alone_and_in_any_mix() {
    let shoal = serve_as(&["bert-classify", "bert-rerank", "bert-fill"], "auto");
    let mut client = shoal.inference().await;
    let listed = client.list_models(wire::ListModelsRequest {}).await.expect("list").into_inner().models;
    assert_eq!(listed.len(), 3);
    let is_candle = listed[0].backend == "candle";
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
        alone.push([of_labels(&labels.results[0]), of_rank(&rank.results, 0), of_masks(&masks.results[0])]);
    }
    assert!((0..3).all(|task| alone.iter().any(|scores| scores[task] != alone[0][task])), "all texts score alike");
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
                let what = format!("{:?} in calls of {texts_each}", texts[at]);
                let found = [of_labels(&labels[index]), of_rank(&ranks, index), of_masks(&masks[index])];
                for (found, expected) in found.iter().zip(&alone[at]) {
                    assert_same(&what, found, expected, is_candle);
                }
            }
        }
    }
}
