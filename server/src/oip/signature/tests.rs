use super::super::testing::{card, classifier, embedder, embedder_card, masker, reranker, signature};
use super::*;

fn refused(card: Card) -> SignatureError {
    Signature::new(Arc::new(card), 64).unwrap_err()
}

fn with_input(data_type: DataType, shape: &[i64]) -> Card {
    card(&[("x", data_type, shape)], &[("y", DataType::F32, &[-1])])
}

#[test]
fn a_vocabulary_makes_a_text_model() {
    assert_eq!(embedder().inputs(), Inputs::Text(&embedder_card()));
}

#[test]
fn without_a_vocabulary_the_inputs_are_taken_as_they_are() {
    let tensors = signature(Card { tokens_max: 99, ..with_input(DataType::Bytes, &[-1]) });
    let Inputs::Tensors { specs, tokens_max } = tensors.inputs() else { panic!("{tensors:?}") };
    assert_eq!((specs.len(), tokens_max), (1, Some(99)));
}

#[test]
fn only_versions_that_survive_a_client_are_served() {
    for version in ["", "0", "-1", "01", "v1", "1.0", " 1", "+1", "99999999999999999999"] {
        let card = Card { version: version.into(), ..embedder_card() };
        assert_eq!(refused(card), SignatureError::Version(version.into()));
    }
    signature(Card { version: "9223372036854775807".into(), ..embedder_card() });
}

#[test]
fn a_request_names_the_served_version_or_none() {
    let signature = signature(Card { version: "7".into(), ..embedder_card() });
    assert_eq!(signature.check_version(""), Ok(()));
    assert_eq!(signature.check_version("7"), Ok(()));
    for version in ["1", "07", "v7", "-1", "latest"] {
        let expected =
            CallError::UnknownVersion { model: "minilm".into(), version: version.into(), served: "7".into() };
        assert_eq!(signature.check_version(version), Err(expected));
    }
}

#[test]
fn a_long_version_is_quoted_in_part() {
    let error = embedder().check_version(&"1".repeat(1 << 20)).unwrap_err();
    assert!(error.to_string().len() < 200, "{error}");
}

#[test]
fn shapes_that_rows_of_bytes_cannot_carry_are_refused() {
    for (data_type, shape) in [
        (DataType::F32, &[-1, -1][..]),
        (DataType::F32, &[0]),
        (DataType::F32, &[-2]),
        (DataType::Bytes, &[2]),
        (DataType::Bytes, &[1, 1]),
    ] {
        assert!(matches!(refused(with_input(data_type, shape)), SignatureError::Shape { .. }), "{shape:?}");
    }
    for (data_type, shape) in [(DataType::F32, &[][..]), (DataType::F32, &[3, -1, 2]), (DataType::Bytes, &[])] {
        signature(with_input(data_type, shape));
    }
}

#[test]
fn a_card_must_say_what_goes_in_and_out() {
    assert_eq!(refused(card(&[], &[("y", DataType::F32, &[1])])), SignatureError::Empty("inputs"));
    assert_eq!(refused(card(&[("x", DataType::F32, &[1])], &[])), SignatureError::Empty("outputs"));
    let twice = card(&[("x", DataType::F32, &[1]), ("x", DataType::I8, &[1])], &[("y", DataType::F32, &[1])]);
    assert_eq!(refused(twice), SignatureError::Duplicate("x".into()));
}

#[test]
fn ids_are_one_column_of_i32_within_its_range() {
    let card = Card { vocabulary: u32::MAX, ..embedder_card() };
    assert_eq!(refused(card), SignatureError::Vocabulary(u32::MAX));
    assert_eq!(refused(Card { vocabulary: 5, ..with_input(DataType::I64, &[-1]) }), SignatureError::Ids);
}

#[test]
fn an_unusable_card_is_this_servers_fault() {
    let error = CallError::from(refused(Card { version: "x".into(), ..embedder_card() }));
    assert!(matches!(error, CallError::Internal { .. }), "{error}");
}

#[test]
fn a_second_column_of_ids_says_which_segment_each_is_of() {
    let ids = |name| (name, DataType::I32, &[-1][..]);
    let with = |name| Card { vocabulary: 5, ..card(&[ids("input_ids"), ids(name)], &[("y", DataType::F32, &[1])]) };
    signature(with("token_type_ids"));
    assert_eq!(refused(with("position_ids")), SignatureError::Ids);
}

#[test]
fn a_dimension_of_one_score_or_one_mask_is_not_shown() {
    let shapes = |signature: &Signature| signature.outputs().iter().map(|it| it.shape.clone()).collect::<Vec<_>>();
    assert_eq!(shapes(&classifier()), [[2]]);
    assert_eq!(shapes(&reranker()), [Vec::<i64>::new()]);
    assert_eq!(shapes(&masker()), [[-1], [-1]]);
    assert_eq!((reranker().shown_shape(&[1]), masker().shown_shape(&[1, 5])), (&[][..], &[5][..]));
    assert_eq!(classifier().shown_shape(&[1]), [1]);
}
