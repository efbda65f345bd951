use std::collections::HashMap;

use proptest::prelude::*;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::inference::{InferParameter, InferTensorContents};

use super::super::testing::{
    card, echo, embedder, f32s, framed, i32s, i64s, input, not_offered, output, parameter, parse, raw_request, refusal,
    several, signature, typed, typed_request,
};
use super::*;
use crate::card::Card;

fn texts_of(request: ModelInferRequest) -> Vec<String> {
    match parse(request, &embedder()).unwrap().payload {
        Payload::Texts(texts) => {
            let single = |text| if let Text::Single(text) = text { text } else { panic!("{text:?}") };
            texts.into_iter().map(single).collect()
        }
        Payload::Rows(rows) => panic!("{rows:?}"),
    }
}

fn rows_of(request: ModelInferRequest, signature: &Signature) -> Vec<Row> {
    match parse(request, signature).unwrap().payload {
        Payload::Rows(rows) => rows,
        Payload::Texts(texts) => panic!("{texts:?}"),
    }
}

fn text_request(pieces: &[&[u8]]) -> ModelInferRequest {
    raw_request(vec![input("text", "BYTES", &[i64::try_from(pieces.len()).unwrap()])], vec![framed(pieces)])
}

fn id_request(shape: [i64; 2], ids: &[i64]) -> ModelInferRequest {
    raw_request(vec![input("input_ids", "INT64", &shape)], vec![i64s(ids)])
}

fn masked_request(shape: [i64; 2], ids: &[i64], mask: &[i64]) -> ModelInferRequest {
    let inputs = vec![input("input_ids", "INT64", &shape), input("attention_mask", "INT64", &shape)];
    raw_request(inputs, vec![i64s(ids), i64s(mask)])
}

fn ids(rows: &[Row]) -> Vec<&[u8]> {
    rows.iter().map(|row| &row.columns[0][..]).collect()
}

#[test]
fn texts_come_raw_or_typed_in_one_dimension_or_two() {
    let raw = text_request(&[b"one", "zwölf".as_bytes(), b""]);
    assert_eq!(texts_of(raw.clone()), ["one", "zwölf", ""]);
    let column = ModelInferRequest { inputs: vec![input("text", "BYTES", &[3, 1])], ..raw };
    assert_eq!(texts_of(column), ["one", "zwölf", ""]);
    let contents = InferTensorContents { bytes_contents: vec!["a".into(), "b".into()], ..Default::default() };
    assert_eq!(texts_of(typed_request(vec![typed("text", "BYTES", &[2], contents)])), ["a", "b"]);
}

#[test]
fn texts_must_be_utf8() {
    let (field, problem) = refusal(parse(text_request(&[b"fine", b"no\xff"]), &embedder()));
    assert_eq!((field.as_str(), problem.as_str()), ("raw_input_contents[0]", "row 1 is not UTF-8 from byte 2 on"));
}

#[test]
fn shapes_of_texts_are_checked() {
    for shape in [&[][..], &[2], &[1, 2], &[1, 1, 1], &[0], &[-1], &[1, 0]] {
        let request = raw_request(vec![input("text", "BYTES", shape)], vec![framed(&[b"a"])]);
        let (field, _) = refusal(parse(request, &embedder()));
        assert!(field == "inputs[0].shape" || (shape == [2] && field == "raw_input_contents[0]"), "{shape:?}: {field}");
    }
}

#[test]
fn more_rows_than_a_call_may_have_are_refused() {
    let (field, problem) = refusal(parse(text_request(&[&b"a"[..]; 13]), &embedder()));
    assert_eq!((field.as_str(), problem.as_str()), ("inputs[0].shape", "has 13 rows, and one call takes 12"));
    assert_eq!(texts_of(text_request(&[&b"a"[..]; 12])).len(), 12);
    let (field, problem) = refusal(parse(id_request([17, 1], &[1; 17]), &embedder()));
    assert_eq!((field.as_str(), problem.as_str()), ("inputs[0].shape", "has 17 rows, and one call takes 16"));
    let floats = raw_request(vec![input("x", "FP32", &[17, 1])], vec![f32s(&[0.0; 17])]);
    assert_eq!(refusal(parse(floats, &echo())).0, "inputs[0].shape");
}

#[test]
fn ids_become_rows_of_i32() {
    let rows = rows_of(id_request([2, 3], &[1, 2, 3, 999, 0, 7]), &embedder());
    assert_eq!(ids(&rows), [i32s(&[1, 2, 3]), i32s(&[999, 0, 7])]);
    assert_eq!(rows.iter().map(|row| row.tokens).collect::<Vec<_>>(), [3, 3]);
    assert!(rows.iter().all(|row| row.columns.len() == 1 && !row.truncated));
}

#[test]
fn masked_ids_are_left_out_whatever_they_are_called() {
    let rows = rows_of(masked_request([2, 3], &[1, 2, 3, 4, 5, 6], &[1, 0, 0, 1, 1, 1]), &embedder());
    assert_eq!(ids(&rows), [i32s(&[1]), i32s(&[4, 5, 6])]);
    assert_eq!(rows.iter().map(|row| row.tokens).collect::<Vec<_>>(), [1, 3]);
    // What is masked is no id at all, and may be anything.
    rows_of(masked_request([1, 2], &[1, -7], &[1, 0]), &embedder());
}

#[test]
fn a_mask_before_its_ids_is_as_good() {
    let inputs = vec![input("attention_mask", "INT64", &[1, 2]), input("input_ids", "INT64", &[1, 2])];
    let request = raw_request(inputs, vec![i64s(&[1, 0]), i64s(&[5, 6])]);
    let parsed = parse(request, &embedder()).unwrap();
    assert_eq!(parsed.rows_field, "inputs[1]");
    let Payload::Rows(rows) = parsed.payload else { panic!() };
    assert_eq!(ids(&rows), [i32s(&[5])]);
}

#[test]
fn masks_are_ones_then_zeros() {
    for mask in [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 2, 0], [1, -1, 0]] {
        let (field, problem) = refusal(parse(masked_request([1, 3], &[1, 2, 3], &mask), &embedder()));
        assert_eq!(field, "raw_input_contents[1]", "{mask:?}");
        assert!(problem.starts_with("row 0"), "{problem}");
    }
}

#[test]
fn a_mask_has_the_shape_of_its_ids() {
    let inputs = vec![input("input_ids", "INT64", &[1, 2]), input("attention_mask", "INT64", &[2, 1])];
    let request = raw_request(inputs, vec![i64s(&[1, 2]), i64s(&[1, 1])]);
    assert_eq!(refusal(parse(request, &embedder())).0, "inputs[1].shape");
}

#[test]
fn ids_outside_the_vocabulary_are_refused_by_place() {
    for id in [1000, -1, i64::MIN, i64::MAX, -1_420_042_007_188_224_409, 1 << 32] {
        let (field, problem) = refusal(parse(id_request([2, 2], &[1, 2, 3, id]), &embedder()));
        assert_eq!(field, "raw_input_contents[0]");
        assert_eq!(problem, format!("row 1, position 1: {id} is not in [0, 1000)"));
    }
}

#[test]
fn typed_ids_are_refused_under_their_own_name() {
    let contents = InferTensorContents { int64_contents: vec![1000], ..Default::default() };
    let request = typed_request(vec![typed("input_ids", "INT64", &[1, 1], contents)]);
    assert_eq!(refusal(parse(request, &embedder())).0, "inputs[0].contents.int64_contents");
}

#[test]
fn rows_of_more_tokens_than_the_model_takes_are_refused_even_with_truncate() {
    let mut request = id_request([1, 9], &[1; 9]);
    request.parameters.insert("truncate".into(), parameter(ParameterChoice::BoolParam(true)));
    let (field, problem) = refusal(parse(request, &embedder()));
    assert_eq!((field.as_str(), problem.as_str()), ("inputs[0].shape", "row 0 has 9 tokens, and the model takes 8"));
    // Padding does not count.
    let mask = [1, 1, 1, 1, 1, 1, 1, 1, 0];
    assert_eq!(rows_of(masked_request([1, 9], &[1; 9], &mask), &embedder())[0].tokens, 8);
}

#[test]
fn ids_must_be_int64() {
    let request = raw_request(vec![input("input_ids", "INT32", &[1, 1])], vec![i32s(&[1])]);
    let (field, problem) = refusal(parse(request, &embedder()));
    assert_eq!((field.as_str(), problem.as_str()), ("inputs[0].datatype", "is `INT32`, and `input_ids` is INT64"));
}

#[test]
fn texts_and_ids_exclude_each_other() {
    let inputs = vec![input("text", "BYTES", &[1]), input("input_ids", "INT64", &[1, 1])];
    let both = raw_request(inputs, vec![framed(&[b"a"]), i64s(&[1])]);
    assert_eq!(refusal(parse(both, &embedder())).0, "inputs[1].name");
    let inputs = vec![input("attention_mask", "INT64", &[1, 1]), input("text", "BYTES", &[1])];
    let mask = raw_request(inputs, vec![i64s(&[1]), framed(&[b"a"])]);
    assert_eq!(refusal(parse(mask, &embedder())).0, "inputs[0].name");
    let mask = raw_request(vec![input("attention_mask", "INT64", &[1, 1])], vec![i64s(&[1])]);
    assert_eq!(refusal(parse(mask, &embedder())).0, "inputs");
    assert_eq!(refusal(parse(typed_request(Vec::new()), &embedder())).0, "inputs");
}

#[test]
fn options_reach_every_row_of_ids() {
    let mut request = id_request([2, 1], &[1, 2]);
    request.parameters.insert("normalize".into(), parameter(ParameterChoice::BoolParam(false)));
    request.parameters.insert("dimensions".into(), parameter(ParameterChoice::Int64Param(2)));
    let expected = RowOptions { normalize: Some(false), dimensions: 2, ..RowOptions::default() };
    assert!(rows_of(request, &embedder()).iter().all(|row| row.options == expected));
}

#[test]
fn tensors_are_cut_into_rows_without_a_copy() {
    let values = f32s(&[1.0, 2.0, 3.0, 4.0]);
    let request = raw_request(vec![input("x", "FP32", &[2, 2])], vec![values.clone()]);
    let start = request.raw_input_contents[0].as_ptr();
    let rows = rows_of(request, &echo());
    assert_eq!(ids(&rows), [&values[..8], &values[8..]]);
    assert_eq!(rows[0].columns[0].as_ptr(), start);
    assert!(rows.iter().all(|row| row.tokens == 0));
}

#[test]
fn a_model_of_several_inputs_takes_them_in_any_order() {
    let inputs = vec![
        input("blob", "BYTES", &[2, 1]),
        input("delta", "INT8", &[2, 2]),
        input("half", "FP16", &[2, 1]),
        input("flag", "BOOL", &[2]),
        input("pixels", "UINT8", &[2, 2, 1]),
    ];
    let raw = vec![framed(&[b"abc", b""]), vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![0, 1], vec![9, 10, 11, 12]];
    let parsed = parse(raw_request(inputs, raw), &several()).unwrap();
    assert_eq!(parsed.rows_field, "inputs[4]");
    let Payload::Rows(rows) = parsed.payload else { panic!() };
    let columns: Vec<Vec<&[u8]>> =
        rows.iter().map(|row| row.columns.iter().map(|column| &column[..]).collect()).collect();
    assert_eq!(columns[0], [&[9, 10][..], &[0], &[5, 6], &[1, 2], b"abc"]);
    assert_eq!(columns[1], [&[11, 12][..], &[1], &[7, 8], &[3, 4], b""]);
}

#[test]
fn inputs_must_agree_on_rows_and_be_complete() {
    let signature =
        signature(card(&[("a", DataType::U8, &[1]), ("b", DataType::U8, &[1])], &[("y", DataType::U8, &[1])]));
    let uneven =
        raw_request(vec![input("a", "UINT8", &[2, 1]), input("b", "UINT8", &[3, 1])], vec![vec![0; 2], vec![0; 3]]);
    assert_eq!(refusal(parse(uneven, &signature)), ("inputs[1].shape".into(), "has 3 rows, and `a` has 2".into()));
    let missing = raw_request(vec![input("a", "UINT8", &[2, 1])], vec![vec![0; 2]]);
    assert_eq!(refusal(parse(missing, &signature)), ("inputs".into(), "`b` is missing".into()));
    let twice = raw_request(vec![input("a", "UINT8", &[1, 1]), input("a", "UINT8", &[1, 1])], vec![vec![0], vec![0]]);
    assert_eq!(refusal(parse(twice, &signature)), ("inputs[1].name".into(), "`a` is given twice".into()));
    let unknown = raw_request(vec![input("c", "UINT8", &[1, 1])], vec![vec![0]]);
    let (field, problem) = refusal(parse(unknown, &signature));
    assert_eq!((field.as_str(), problem.as_str()), ("inputs[0].name", "the model has no input `c`; it has a, b"));
}

#[test]
fn elements_count_as_tokens_where_the_card_says_so() {
    let card = card(&[("text", DataType::Bytes, &[-1])], &[("hash", DataType::I64, &[1])]);
    let synthetic = signature(Card { tokens_max: 5, ..card });
    let tokens: Vec<u32> = rows_of(text_request(&[b"", b"hello"]), &synthetic).iter().map(|row| row.tokens).collect();
    assert_eq!(tokens, [0, 5]);
    let (field, problem) = refusal(parse(text_request(&[b"", b"hello!"]), &synthetic));
    assert_eq!((field.as_str(), problem.as_str()), ("inputs[0].shape", "row 1 has 6 elements, and the model takes 5"));
}

#[test]
fn raw_and_typed_contents_do_not_mix() {
    let contents = InferTensorContents { fp32_contents: vec![1.0], ..Default::default() };
    let mixed = raw_request(vec![typed("x", "FP32", &[1, 1], contents)], vec![f32s(&[1.0])]);
    assert_eq!(refusal(parse(mixed, &echo())).0, "inputs[0].contents");
    // A message that is there but empty says nothing.
    let empty = raw_request(vec![typed("x", "FP32", &[1, 1], InferTensorContents::default())], vec![f32s(&[1.0])]);
    assert_eq!(rows_of(empty, &echo()).len(), 1);
}

#[test]
fn raw_contents_are_one_to_an_input() {
    let (field, problem) = refusal(parse(raw_request(vec![input("x", "FP32", &[1, 1])], vec![vec![0; 4]; 2]), &echo()));
    assert_eq!((field.as_str(), problem.as_str()), ("raw_input_contents", "has 2 entries for 1 inputs"));
}

#[test]
fn outputs_are_all_or_those_asked_for_in_that_order() {
    let wanted = |outputs: Vec<&str>| {
        let outputs: Vec<_> = outputs.into_iter().map(output).collect();
        wanted_outputs(&outputs, several().outputs())
    };
    assert_eq!(wanted(vec![]), Ok(vec![0, 1]));
    assert_eq!(wanted(vec!["score", "label"]), Ok(vec![1, 0]));
    assert_eq!(wanted(vec!["score"]), Ok(vec![1]));
    let (field, problem) = refusal(wanted(vec!["score", "shade"]));
    assert_eq!(
        (field.as_str(), problem.as_str()),
        ("outputs[1].name", "the model has no output `shade`; it has label, score")
    );
    assert_eq!(refusal(wanted(vec!["score", "score"])).0, "outputs[1].name");
}

#[test]
fn classification_and_shared_memory_are_not_offered() {
    let with_parameter = |name: &str, value| {
        let mut request = raw_request(vec![input("x", "FP32", &[1, 1])], vec![f32s(&[1.0])]);
        request.outputs = vec![InferRequestedOutputTensor {
            parameters: HashMap::from([(name.to_owned(), parameter(ParameterChoice::Int64Param(value)))]),
            ..output("y")
        }];
        parse(request, &echo())
    };
    assert!(with_parameter("classification", 0).is_ok());
    assert!(not_offered(with_parameter("classification", 3)).contains("classification"));
    assert!(not_offered(with_parameter("shared_memory_byte_size", 3)).contains("shared memory"));
    assert_eq!(refusal(with_parameter("binary", 1)).0, "outputs[0].parameters");

    let mut shared = input("x", "FP32", &[1, 1]);
    shared.parameters.insert("shared_memory_region".into(), InferParameter::default());
    assert!(not_offered(parse(typed_request(vec![shared]), &echo())).contains("shared memory"));
    let mut odd = input("x", "FP32", &[1, 1]);
    odd.parameters.insert("content_type".into(), InferParameter::default());
    assert_eq!(refusal(parse(typed_request(vec![odd]), &echo())).0, "inputs[0].parameters");
}

#[test]
fn ids_of_requests_are_kept_and_bounded() {
    let named = |id: String| ModelInferRequest { id, ..text_request(&[b"a"]) };
    assert_eq!(parse(named("req-1".into()), &embedder()).unwrap().reply.id, "req-1");
    assert_eq!(refusal(parse(named("x".repeat(1025)), &embedder())).0, "id");
}

#[test]
fn the_version_is_looked_at_first() {
    let request = ModelInferRequest { model_version: "2".into(), ..Default::default() };
    assert!(matches!(parse(request, &embedder()), Err(CallError::UnknownVersion { .. })));
}

#[test]
fn perf_analyzers_request_is_understood() {
    // As perf_analyzer 2.60.0 sends it: no id, the column form, one parameter, outputs by name.
    let mut request = raw_request(vec![input("text", "BYTES", &[2, 1])], vec![framed(&[b"TvGZd4dz", b"Jp1vuXZX"])]);
    request.parameters.insert("triton_enable_empty_final_response".into(), parameter(ParameterChoice::BoolParam(true)));
    request.outputs = vec![output("embedding")];
    let parsed = parse(request, &embedder()).unwrap();
    assert_eq!((parsed.payload.rows(), parsed.reply.id.as_str(), parsed.rows_field.as_str()), (2, "", "inputs[0]"));
}

/// Requests that are nearly right, and wrong in every way at once.
fn any_request() -> impl Strategy<Value = ModelInferRequest> {
    let name = prop_oneof![
        Just("text".to_owned()),
        Just("input_ids".into()),
        Just("attention_mask".into()),
        Just("x".into()),
        Just("pixels".into()),
        Just("blob".into()),
        any::<String>(),
    ];
    let datatype = prop_oneof![
        Just("BYTES".to_owned()),
        Just("INT64".into()),
        Just("FP32".into()),
        Just("UINT8".into()),
        Just("BOOL".into()),
        any::<String>(),
    ];
    let dim = prop_oneof![4 => 1..4_i64, 1 => any::<i64>(), 1 => Just(0), 1 => Just(-1)];
    let contents = (
        prop::collection::vec(any::<bool>(), 0..3),
        prop::collection::vec(any::<i32>(), 0..3),
        prop::collection::vec(-2..1002_i64, 0..7),
        prop::collection::vec(any::<f32>(), 0..5),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
    );
    let contents = contents.prop_map(|(bools, ints, int64s, floats, pieces)| InferTensorContents {
        bool_contents: bools,
        int_contents: ints,
        int64_contents: int64s,
        fp32_contents: floats,
        bytes_contents: pieces.into_iter().map(Bytes::from).collect(),
        ..Default::default()
    });
    let tensor = (name, datatype, prop::collection::vec(dim, 0..4), prop::option::of(contents));
    let tensor = tensor.prop_map(|(name, datatype, shape, contents)| InferInputTensor {
        name,
        datatype,
        shape,
        contents,
        parameters: HashMap::new(),
    });
    let raw = prop::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..40);
    let parameter_name = prop_oneof![
        Just("truncate".to_owned()),
        Just("priority".into()),
        Just("timeout".into()),
        Just("dimensions".into()),
        Just("sequence_id".into()),
        any::<String>(),
    ];
    let parameter_value = prop_oneof![
        any::<bool>().prop_map(ParameterChoice::BoolParam),
        any::<i64>().prop_map(ParameterChoice::Int64Param),
        any::<u64>().prop_map(ParameterChoice::Uint64Param),
        any::<String>().prop_map(ParameterChoice::StringParam),
        any::<f64>().prop_map(ParameterChoice::DoubleParam),
    ];
    let parameters = prop::collection::hash_map(parameter_name, parameter_value.prop_map(parameter), 0..2);
    let outputs =
        prop::collection::vec(prop_oneof![Just("embedding".to_owned()), Just("y".into()), any::<String>()], 0..2);
    (prop::collection::vec(tensor, 0..4), prop::collection::vec(raw, 0..4), parameters, outputs).prop_map(
        |(inputs, raw, parameters, outputs)| ModelInferRequest {
            parameters,
            outputs: outputs.iter().map(|name| output(name)).collect(),
            ..raw_request(inputs, raw)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_request_panics_and_every_refusal_is_short(request in any_request()) {
        for signature in [embedder(), echo(), several()] {
            match parse(request.clone(), &signature) {
                Ok(parsed) => prop_assert!((1..=16).contains(&parsed.payload.rows())),
                Err(error) => prop_assert!(error.to_string().len() < 1500, "{}", error),
            }
        }
    }

    #[test]
    fn a_good_request_is_refused_as_soon_as_one_byte_or_dimension_is_off(
        which in 0..3_usize, rows in 1..5_usize, length in 1..8_usize, cut in any::<bool>(), dim in 0..2_usize
    ) {
        let shape = [rows as i64, length as i64];
        let (signature, good) = match which {
            0 => (embedder(), id_request(shape, &vec![1; rows * length])),
            1 => (embedder(), text_request(&vec![&b"text"[..length.min(4)]; rows])),
            _ => (echo(), raw_request(vec![input("x", "FP32", &shape)], vec![vec![7; rows * length * 4]])),
        };
        prop_assert_eq!(parse(good.clone(), &signature).unwrap().payload.rows(), rows);

        let mut off = good.clone();
        let mut raw = off.raw_input_contents[0].to_vec();
        if cut { raw.pop(); } else { raw.push(0); }
        off.raw_input_contents[0] = raw.into();
        prop_assert_eq!(refusal(parse(off, &signature)).0, "raw_input_contents[0]");

        let mut off = good;
        let shape = &mut off.inputs[0].shape;
        let dim = dim.min(shape.len() - 1);
        shape[dim] += 1;
        prop_assert_eq!(refusal(parse(off, &signature)).0.replace("inputs[0].shape", "raw_input_contents[0]"), "raw_input_contents[0]");
    }

    #[test]
    fn raw_tensors_come_through_bit_by_bit(rows in 1..5_usize, length in 1..9_usize, seed in any::<u64>()) {
        let bytes: Vec<u8> = (0..rows * length * 4).map(|at| (seed.rotate_left(at as u32 % 64) ^ at as u64) as u8).collect();
        let request = raw_request(vec![input("x", "FP32", &[rows as i64, length as i64])], vec![bytes.clone()]);
        prop_assert_eq!(ids(&rows_of(request, &echo())).concat(), bytes);
    }

    #[test]
    fn ids_come_through_without_what_is_masked(
        (length, rows) in (1..8_usize).prop_flat_map(|length| {
            let row = (prop::collection::vec(0..1000_i64, length), 1..=length);
            (Just(length), prop::collection::vec(row, 1..6))
        })
    ) {
        let shape = [rows.len() as i64, length as i64];
        let all: Vec<i64> = rows.iter().flat_map(|(ids, _)| ids.clone()).collect();
        let mask: Vec<i64> = rows.iter().flat_map(|(ids, kept)| (0..ids.len()).map(move |at| i64::from(at < *kept))).collect();
        let read = rows_of(masked_request(shape, &all, &mask), &embedder());
        let expected: Vec<Vec<u8>> =
            rows.iter().map(|(ids, kept)| i32s(&ids[..*kept].iter().map(|id| *id as i32).collect::<Vec<_>>())).collect();
        prop_assert_eq!(ids(&read), expected);
    }
}
