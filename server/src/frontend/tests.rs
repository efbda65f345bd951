//! The tasks in front of a real driver and a worker whose answers can be said from what it was given.

use shoal_scheduler::Class;

use super::testing::Bench;
use super::*;
use crate::access::Scope;
use crate::call::Trace;
use crate::explain::Asked;

fn caller() -> Caller {
    let (tenant, trace, explain) = ("".into(), Trace::default(), Asked::default());
    Caller { tenant, class: Class::Standard, deadline: None, trace, explain, scope: Scope::default() }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

async fn heads() -> Frontend {
    Bench::of_heads().await.work().frontend
}

fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>) -> (String, String) {
    match result {
        Err(CallError::InvalidArgument { field, problem }) => (field, problem),
        other => panic!("not an invalid argument: {other:?}"),
    }
}

fn names(classified: &Classified) -> Vec<Vec<(&str, f32)>> {
    let name = |&(label, score): &(usize, f32)| (classified.computed.card.labels[label].as_str(), score);
    classified.labels.iter().map(|labels| labels.iter().map(name).collect()).collect()
}

#[tokio::test]
async fn labels_come_by_falling_score_with_as_many_as_asked_for() {
    let frontend = heads().await;
    let texts = strings(&["a b", "c"]);
    let all = Classify { texts: texts.clone(), ..Classify::default() };
    let answer = frontend.classify(caller(), all).await.expect("an answer");
    let equal = [("second", 0.0), ("raw", 0.0)];
    assert_eq!(names(&answer), [[&[("tokens", 4.0)][..], &equal].concat(), [&[("tokens", 3.0)][..], &equal].concat()]);
    assert_eq!((answer.computed.tokens, answer.computed.truncated), (7, 0));
    let best = Classify { texts, raw: true, top_k: 2, ..Classify::default() };
    let answer = frontend.classify(caller(), best).await.expect("an answer");
    assert_eq!(names(&answer)[0], [("tokens", 4.0), ("raw", 1.0)]);
}

#[tokio::test]
async fn a_pair_is_classified_as_one_row_of_two_segments() {
    let frontend = heads().await;
    let pairs =
        Classify { texts: strings(&["a", "a b"]), text_pairs: strings(&["b c", "d"]), top_k: 2, ..Classify::default() };
    let answer = frontend.classify(caller(), pairs).await.expect("an answer");
    assert_eq!(names(&answer), [[("tokens", 6.0), ("second", 3.0)], [("tokens", 6.0), ("second", 2.0)]]);
}

#[tokio::test]
async fn pairs_that_do_not_fit_their_texts_are_named() {
    let frontend = heads().await;
    let call = |texts: &[&str], pairs: &[&str]| Classify {
        texts: strings(texts),
        text_pairs: strings(pairs),
        ..Classify::default()
    };
    let cases = [
        (call(&["a"], &["b", "c"]), "text_pairs", "has 2 entries for 1 texts"),
        (call(&["a", "b"], &["c", ""]), "text_pairs[1]", "is an empty text"),
        (call(&["a", ""], &["c", "d"]), "texts[1]", "is an empty text"),
        (call(&[], &[]), "texts", "must not be empty"),
        (
            call(&["a a a a a"], &["b b b b b"]),
            "texts[0]",
            "has 13 tokens with its pair, the model takes at most 12; shorten it or set `truncate`",
        ),
    ];
    for (call, field, problem) in cases {
        assert_eq!(refusal(frontend.classify(caller(), call).await), (field.into(), problem.into()));
    }
    let cut = Classify { truncate: true, ..call(&["a a a a a", "a"], &["b b b b b", "b"]) };
    let answer = frontend.classify(caller(), cut).await.expect("an answer");
    assert_eq!((answer.computed.truncated, names(&answer)[0][0]), (1, ("tokens", 12.0)));
}

#[tokio::test]
async fn a_model_of_another_task_is_refused_by_name() {
    let frontend = heads().await;
    let call = Classify { model: "r".into(), texts: strings(&["a"]), ..Classify::default() };
    let expected = ("model".into(), "`r` is a model to rerank, not to classify".into());
    assert_eq!(refusal(frontend.classify(caller(), call).await), expected);
    let call = Rerank { model: "f".into(), query: "a".into(), texts: strings(&["a"]), ..Rerank::default() };
    assert_eq!(refusal(frontend.rerank(caller(), call).await).0, "model");
    let call = FillMask { model: "c".into(), texts: strings(&["[MASK]"]), ..FillMask::default() };
    assert_eq!(refusal(frontend.fill_mask(caller(), call).await).0, "model");
}

#[tokio::test]
async fn texts_are_ranked_by_falling_score_and_equals_keep_their_order() {
    let frontend = heads().await;
    let texts = strings(&["a b", "d", "b a", "c d"]);
    let call = Rerank { query: "a".into(), texts, ..Rerank::default() };
    let answer = frontend.rerank(caller(), call.clone()).await.expect("an answer");
    assert_eq!(answer.ranking, [(3, 15.0), (0, 11.0), (2, 11.0), (1, 9.0)], "sums of ids, [SEP] included");
    let best = Rerank { top_n: 2, raw: true, ..call };
    let answer = frontend.rerank(caller(), best).await.expect("an answer");
    assert_eq!(answer.ranking, [(1, -9.0), (0, -11.0)]);
    assert_eq!(answer.computed.answer.rows.len(), 4);
}

#[tokio::test]
async fn a_query_is_one_text_and_counts_with_each_of_the_others() {
    let frontend = heads().await;
    let call = |query: &str, texts: &[&str]| Rerank { query: query.into(), texts: strings(texts), ..Rerank::default() };
    assert_eq!(refusal(frontend.rerank(caller(), call("", &["a"])).await).0, "query");
    assert_eq!(refusal(frontend.rerank(caller(), call("a", &["a", ""])).await).0, "texts[1]");
    let long = "a a a a a a a a";
    assert_eq!(refusal(frontend.rerank(caller(), call(long, &["a", "a a"])).await).0, "texts[1]");
    let cut = Rerank { truncate: true, ..call(long, &["a", "a a"]) };
    assert_eq!(frontend.rerank(caller(), cut).await.expect("an answer").computed.truncated, 1);
}

fn fill(texts: &[&str]) -> FillMask {
    FillMask { texts: strings(texts), ..FillMask::default() }
}

/// Where each text's masks are, and their candidates.
fn found(filled: &Filled) -> Vec<Vec<(usize, Vec<&str>)>> {
    fn mask(mask: &FilledMask) -> (usize, Vec<&str>) {
        (mask.position, mask.candidates.iter().map(|candidate| candidate.token.as_str()).collect())
    }
    filled.texts.iter().map(|masks| masks.iter().map(mask).collect()).collect()
}

#[tokio::test]
async fn every_mask_gets_its_candidates_and_says_where_it_is() {
    let frontend = heads().await;
    let call = FillMask { top_k: 2, ..fill(&["a [MASK] b [MASK]", "[MASK]"]) };
    let answer = frontend.fill_mask(caller(), call).await.expect("an answer");
    let best = || vec!["[UNK]", "[CLS]"];
    assert_eq!(found(&answer), [vec![(2, best()), (4, best())], vec![(1, best())]]);
    let first = Candidate { token_id: 0, token: "[UNK]".into(), score: 0.0 };
    assert_eq!(answer.texts[0][0].candidates[0], first);
    let answer = frontend.fill_mask(caller(), fill(&["[MASK]"])).await.expect("an answer");
    assert_eq!(answer.texts[0][0].candidates.len(), 5);
    let all = FillMask { top_k: 1000, ..fill(&["[MASK]"]) };
    assert_eq!(frontend.fill_mask(caller(), all).await.expect("an answer").texts[0][0].candidates.len(), 8);
}

#[tokio::test]
async fn only_targets_are_scored_each_once() {
    let frontend = heads().await;
    let call = FillMask { targets: strings(&["d", "a", " d", "b"]), ..fill(&["[MASK]"]) };
    let answer = frontend.fill_mask(caller(), call.clone()).await.expect("an answer");
    assert_eq!(found(&answer), [[(1, vec!["a", "b", "d"])]]);
    let answer = frontend.fill_mask(caller(), FillMask { top_k: 1, ..call }).await.expect("an answer");
    assert_eq!(found(&answer), [[(1, vec!["a"])]]);
}

#[tokio::test]
async fn targets_that_are_no_token_are_named() {
    let frontend = heads().await;
    let call = |targets: Vec<String>| FillMask { targets, ..fill(&["[MASK]"]) };
    let cases = [
        (strings(&["a", "x"]), "targets[1]", "is not in the model's vocabulary"),
        (strings(&["a b"]), "targets[0]", "is 2 tokens (a, b), not one"),
        (strings(&["a", "b", ""]), "targets[2]", "is not in the model's vocabulary"),
        (vec!["a".into(); 1025], "targets", "has 1025 entries, and one call takes 1024"),
    ];
    for (targets, field, problem) in cases {
        let refused = refusal(frontend.fill_mask(caller(), call(targets)).await);
        assert_eq!(refused, (field.into(), problem.into()));
    }
    frontend.fill_mask(caller(), call(vec!["a".into(); 1024])).await.expect("an answer");
}

#[tokio::test]
async fn a_text_without_a_mask_or_whose_masks_are_cut_off_is_named() {
    let frontend = heads().await;
    let long = "a a a a a a a a a a a [MASK]";
    let cases = [
        (fill(&["[MASK]", "a"]), "texts[1]", "has no mask (`[MASK]`)"),
        (
            FillMask { truncate: true, ..fill(&[long]) },
            "texts[0]",
            "has no mask (`[MASK]`) in the 12 tokens it was cut to",
        ),
        (FillMask { top_k: 1001, ..fill(&["[MASK]"]) }, "top_k", "is 1001, the most is 1000"),
    ];
    for (call, field, problem) in cases {
        assert_eq!(refusal(frontend.fill_mask(caller(), call).await), (field.into(), problem.into()));
    }
    assert_eq!(refusal(frontend.fill_mask(caller(), fill(&[long])).await).0, "texts[0]", "too long");
    let kept = FillMask { truncate: true, ..fill(&["[MASK] a a a a a a a a a a [MASK]"]) };
    assert_eq!(frontend.fill_mask(caller(), kept).await.expect("an answer").texts[0].len(), 1);
}
