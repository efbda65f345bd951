use shoal_proto::inference::ModelInferRequest;

use super::super::Signature;
use super::super::testing::{classifier, framed, i32s, i64s, input, masker, parse, raw_request, refusal, reranker};
use super::*;

/// A request with these inputs of texts, `[n]` each.
fn request(inputs: &[(&str, &[&str])]) -> ModelInferRequest {
    let tensors = inputs.iter().map(|(name, texts)| input(name, "BYTES", &[texts.len() as i64])).collect();
    let raw = inputs.iter().map(|(_, texts)| framed(&texts.iter().map(|text| text.as_bytes()).collect::<Vec<_>>()));
    raw_request(tensors, raw.collect())
}

fn texts(request: ModelInferRequest, signature: &Signature) -> Vec<Text> {
    match parse(request, signature).unwrap().payload {
        Payload::Texts(texts) => texts,
        Payload::Rows(rows) => panic!("{rows:?}"),
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<Text> {
    pairs.iter().map(|(first, second)| Text::Pair((*first).into(), (*second).to_owned())).collect()
}

#[test]
fn a_classifier_takes_texts_with_or_without_their_pairs() {
    let singles = [Text::Single("a".into()), Text::Single("b".into())];
    assert_eq!(texts(request(&[("text", &["a", "b"])]), &classifier()), singles);
    let given = request(&[("text_pair", &["c", "d"]), ("text", &["a", "b"])]);
    assert_eq!(parse(given.clone(), &classifier()).unwrap().rows_field, "inputs[1]");
    assert_eq!(texts(given, &classifier()), pairs(&[("a", "c"), ("b", "d")]));
}

#[test]
fn a_reranker_takes_one_query_for_all_texts_or_one_for_each() {
    let expected = pairs(&[("q", "a"), ("q", "b")]);
    assert_eq!(texts(request(&[("query", &["q"]), ("text", &["a", "b"])]), &reranker()), expected);
    let expected = pairs(&[("p", "a"), ("q", "b")]);
    assert_eq!(texts(request(&[("query", &["p", "q"]), ("text", &["a", "b"])]), &reranker()), expected);
}

#[test]
fn inputs_that_do_not_go_together_are_named() {
    let cases = [
        (request(&[("text", &["a", "b"]), ("text_pair", &["c"])]), classifier(), "inputs[1].shape"),
        (request(&[("text", &["a", "b"]), ("text_pair", &["c", ""])]), classifier(), "raw_input_contents[1]"),
        (request(&[("text_pair", &["c"])]), classifier(), "inputs"),
        (request(&[("text", &["a"]), ("query", &["q"])]), classifier(), "inputs[1].name"),
        (request(&[("text", &["a"])]), reranker(), "inputs"),
        (request(&[("query", &["q"])]), reranker(), "inputs"),
        (request(&[("query", &[""]), ("text", &["a"])]), reranker(), "raw_input_contents[0]"),
        (request(&[("query", &["p", "q"]), ("text", &["a", "b", "c"])]), reranker(), "inputs[0].shape"),
        (request(&[("text", &["a"]), ("text_pair", &["b"])]), masker(), "inputs[1].name"),
        (request(&[("query", &["q"]), ("text", &["a"; 13])]), reranker(), "inputs[1].shape"),
        (request(&[]), reranker(), "inputs"),
    ];
    for (request, signature, field) in cases {
        assert_eq!(refusal(parse(request.clone(), &signature)).0, field, "{request:?}");
    }
}

fn rows(inputs: &[(&str, &[i64])], shape: [i64; 2], signature: &Signature) -> Result<Vec<Row>, CallError> {
    let tensors = inputs.iter().map(|(name, _)| input(name, "INT64", &shape)).collect();
    let request = raw_request(tensors, inputs.iter().map(|(_, values)| i64s(values)).collect());
    match parse(request, signature)?.payload {
        Payload::Rows(rows) => Ok(rows),
        Payload::Texts(texts) => panic!("{texts:?}"),
    }
}

#[test]
fn ids_come_with_their_segments_and_without_them_are_of_the_first() {
    let ids = ("input_ids", &[7, 8, 9, 7, 0, 0][..]);
    let mask = ("attention_mask", &[1, 1, 1, 1, 0, 0][..]);
    let given = rows(&[ids, ("token_type_ids", &[0, 1, 1, 0, -7, 9]), mask], [2, 3], &classifier()).unwrap();
    assert_eq!(given[0].columns, [i32s(&[7, 8, 9]), i32s(&[0, 1, 1])]);
    assert_eq!(given[1].columns, [i32s(&[7]), i32s(&[0])], "what the mask leaves out is not read");
    assert_eq!(given.iter().map(|row| row.tokens).collect::<Vec<_>>(), [3, 1]);
    let without = rows(&[ids, mask], [2, 3], &reranker()).unwrap();
    assert_eq!(without[0].columns, [i32s(&[7, 8, 9]), i32s(&[0, 0, 0])]);
    assert_eq!(rows(&[ids], [2, 3], &masker()).unwrap()[0].columns, [i32s(&[7, 8, 9])]);
}

#[test]
fn segments_that_are_none_are_named() {
    let ids = ("input_ids", &[7, 8][..]);
    for wrong in [-1, 1 << 31, i64::MIN] {
        let (field, problem) = refusal(rows(&[ids, ("token_type_ids", &[0, wrong])], [1, 2], &classifier()));
        assert_eq!(
            (field, problem),
            ("raw_input_contents[1]".into(), format!("row 0, position 1: {wrong} is no segment"))
        );
    }
    assert_eq!(refusal(rows(&[ids, ("token_type_ids", &[0, 0])], [1, 2], &masker())).0, "inputs[1].name");
    assert_eq!(refusal(rows(&[("token_type_ids", &[0, 0])], [1, 2], &classifier())).0, "inputs");
    let tensors = vec![input("input_ids", "INT64", &[1, 2]), input("token_type_ids", "INT64", &[2, 1])];
    let other = raw_request(tensors, vec![i64s(&[7, 8]), i64s(&[0, 0])]);
    assert_eq!(refusal(parse(other, &classifier())).0, "inputs[1].shape");
}
