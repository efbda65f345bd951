use super::super::testing::{classifier, echo, embedder, masker, not_offered, parameter, refusal, reranker};
use super::*;

fn parse_all(parameters: &[(&str, ParameterChoice)]) -> Result<Options, CallError> {
    let parameters = parameters.iter().map(|(name, value)| ((*name).into(), parameter(value.clone()))).collect();
    Options::parse(&parameters, embedder().inputs())
}

fn parse(name: &str, value: ParameterChoice) -> Result<Options, CallError> {
    parse_all(&[(name, value)])
}

use ParameterChoice::{BoolParam, DoubleParam, Int64Param, StringParam, Uint64Param};

#[test]
fn nothing_asked_is_nothing_special() {
    assert_eq!(parse_all(&[]), Ok(Options::default()));
}

#[test]
fn every_known_parameter_is_understood() {
    let options = parse_all(&[
        ("truncate", BoolParam(true)),
        ("normalize", BoolParam(false)),
        ("dimensions", Int64Param(2)),
        ("priority", Uint64Param(3)),
        ("timeout", Int64Param(1500)),
        ("triton_enable_empty_final_response", BoolParam(true)),
    ]);
    let expected = Options {
        truncate: true,
        row: RowOptions { normalize: Some(false), dimensions: 2, ..RowOptions::default() },
        class: Some(Class::Bulk),
        empty_final_response: true,
    };
    assert_eq!(options, Ok(expected));
}

#[test]
fn priorities_are_classes() {
    let class = |value| parse("priority", value).map(|options| options.class);
    assert_eq!(class(Uint64Param(0)), Ok(None));
    assert_eq!(class(Int64Param(1)), Ok(Some(Class::Interactive)));
    assert_eq!(class(Uint64Param(2)), Ok(Some(Class::Standard)));
    assert_eq!(class(Uint64Param(3)), Ok(Some(Class::Bulk)));
    for value in [Int64Param(-1), Uint64Param(4), Uint64Param(u64::MAX), StringParam("1".into())] {
        assert_eq!(refusal(class(value)).0, "parameters.priority");
    }
}

#[test]
fn a_timeout_of_zero_is_none_and_one_that_is_no_time_is_wrong() {
    let nothing_asked = || timeout(&HashMap::new());
    let timeout = |value| timeout(&[("timeout".to_owned(), parameter(value))].into());
    assert_eq!(nothing_asked(), Ok(None));
    assert_eq!(timeout(Int64Param(0)), Ok(None));
    assert_eq!(timeout(Uint64Param(1500)), Ok(Some(Duration::from_micros(1500))));
    for value in [Int64Param(-1), Int64Param(i64::MAX), DoubleParam(1.0), StringParam("1".into())] {
        assert_eq!(refusal(timeout(value)).0, "parameters.timeout");
    }
}

#[test]
fn dimensions_stay_within_the_models() {
    assert_eq!(parse("dimensions", Uint64Param(4)).unwrap().row.dimensions, 4);
    for value in [Int64Param(5), Int64Param(-1), Uint64Param(u64::MAX)] {
        let (field, problem) = refusal(parse("dimensions", value));
        assert_eq!(field, "parameters.dimensions");
        assert!(problem.contains("from 0 to 4"), "{problem}");
    }
}

#[test]
fn options_of_texts_and_embeddings_are_refused_elsewhere() {
    for (name, value) in [("truncate", BoolParam(true)), ("normalize", BoolParam(true)), ("dimensions", Int64Param(1))]
    {
        let parameters = HashMap::from([(name.to_owned(), parameter(value))]);
        assert_eq!(refusal(Options::parse(&parameters, echo().inputs())).0, format!("parameters.{name}"));
    }
}

#[test]
fn a_value_of_the_wrong_type_is_named() {
    for name in ["truncate", "normalize", "triton_enable_empty_final_response"] {
        let (field, problem) = refusal(parse(name, StringParam("true".into())));
        assert_eq!((field, problem), (format!("parameters.{name}"), "must be a bool_param".into()));
    }
    let empty = HashMap::from([("truncate".to_owned(), InferParameter::default())]);
    assert_eq!(refusal(Options::parse(&empty, embedder().inputs())).0, "parameters.truncate");
}

#[test]
fn unknown_parameters_are_refused_with_the_known_ones() {
    let (field, problem) = refusal(parse("trunacte", BoolParam(true)));
    assert_eq!(field, "parameters.trunacte");
    assert!(problem.contains("truncate"), "{problem}");
    assert_eq!(refusal(parse("triton_anything", BoolParam(true))).0, "parameters.triton_anything");
}

#[test]
fn of_several_mistakes_the_first_by_name_is_told() {
    let refused = parse_all(&[("b", BoolParam(true)), ("a", BoolParam(true)), ("c", BoolParam(true))]);
    assert_eq!(refusal(refused).0, "parameters.a");
}

#[test]
fn a_long_name_is_quoted_in_part() {
    let (field, _) = refusal(parse(&"é\n".repeat(100_000), BoolParam(true)));
    assert!(field.len() < 300, "{field}");
    assert!(!field.contains('\n'), "{field}");
}

#[test]
fn sequences_are_not_offered_but_may_be_denied() {
    for value in [Int64Param(0), Uint64Param(0), StringParam(String::new())] {
        assert_eq!(parse("sequence_id", value), Ok(Options::default()));
    }
    assert_eq!(parse("sequence_start", BoolParam(false)), Ok(Options::default()));
    for (name, value) in
        [("sequence_id", Int64Param(7)), ("sequence_id", StringParam("a".into())), ("sequence_end", BoolParam(true))]
    {
        assert!(not_offered(parse(name, value)).contains(name));
    }
}

#[test]
fn scores_may_be_logits_and_masks_have_as_many_candidates_as_asked_for() {
    let parse = |signature: &super::super::Signature, name: &str, value| {
        let parameters = [(name.to_owned(), parameter(value))].into();
        Options::parse(&parameters, signature.inputs()).map(|options| options.row)
    };
    let raw = RowOptions { raw: true, ..RowOptions::default() };
    for signature in [classifier(), reranker(), masker()] {
        assert_eq!(parse(&signature, "raw", BoolParam(true)), Ok(raw.clone()));
    }
    let top_k = |value| parse(&masker(), "top_k", value);
    assert_eq!(top_k(Int64Param(1000)), Ok(RowOptions { top_k: 1000, ..RowOptions::default() }));
    for value in [Int64Param(1001), Int64Param(-1), Uint64Param(u64::MAX), BoolParam(true)] {
        assert_eq!(refusal(top_k(value)).0, "parameters.top_k");
    }
    for signature in [embedder(), echo()] {
        assert_eq!(refusal(parse(&signature, "raw", BoolParam(true))).0, "parameters.raw");
    }
    for signature in [embedder(), echo(), classifier(), reranker()] {
        assert_eq!(refusal(parse(&signature, "top_k", Int64Param(1))).0, "parameters.top_k");
    }
}
