use proptest::prelude::*;

use super::super::testing::{f32s, framed, i64s, refusal, typed as typed_input};
use super::*;

fn raw(shape: &[i64], raw: Vec<u8>) -> Input {
    let tensor = InferInputTensor { name: "x".into(), shape: shape.to_vec(), ..Default::default() };
    Input { at: 2, tensor, raw: Some(raw.into()) }
}

fn typed(shape: &[i64], contents: InferTensorContents) -> Input {
    Input { at: 2, tensor: typed_input("x", "", shape, contents), raw: None }
}

fn shape(shape: &[i64], row: &[i64]) -> Result<(usize, usize), CallError> {
    raw(shape, Vec::new()).check_shape(row, 1000)
}

#[test]
fn a_shape_is_rows_and_a_row() {
    assert_eq!(shape(&[3], &[]), Ok((3, 1)));
    assert_eq!(shape(&[3, 4], &[4]), Ok((3, 4)));
    assert_eq!(shape(&[3, 2, 5], &[2, -1]), Ok((3, 10)));
    assert_eq!(shape(&[1, 1000], &[-1]), Ok((1, 1000)));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for (given, row) in [
        (&[][..], &[][..]),
        (&[3, 1], &[]),
        (&[3], &[-1]),
        (&[3, 5], &[4]),
        (&[3, 2, 5], &[-1]),
        (&[0, 4], &[4]),
        (&[3, 0], &[-1]),
        (&[-1, 4], &[4]),
        (&[i64::MIN], &[]),
        (&[3, -4], &[-1]),
    ] {
        assert_eq!(refusal(shape(given, row)).0, "inputs[2].shape", "{given:?}");
    }
}

#[test]
fn too_many_elements_are_refused_before_anything_is_kept() {
    // Products that wrap around 64 bits to 0, to 2 and to what would fit are among them.
    let wrapping = [&[1 << 32, 1 << 32][..], &[1 << 62, 4], &[(1 << 62) + 1, 4], &[i64::MAX, 2]];
    let large = [&[1, 1001][..], &[1 << 31, 1 << 31], &[i64::MAX, i64::MAX]];
    for given in large.into_iter().chain(wrapping) {
        assert!(refusal(shape(given, &[-1])).1.contains("more than 1000 elements"), "{given:?}");
    }
}

#[test]
fn a_long_shape_is_shown_in_part() {
    let (_, problem) = refusal(shape(&[1; 100_000], &[-1]));
    assert!(problem.len() < 100, "{problem}");
}

#[test]
fn raw_contents_are_not_copied() {
    let contents = Bytes::from(f32s(&[1.0, 2.0]));
    let input = Input { raw: Some(contents.clone()), ..raw(&[2], Vec::new()) };
    assert_eq!(input.into_values(DataType::F32, 2).unwrap().values.as_ptr(), contents.as_ptr());
}

#[test]
fn raw_contents_of_the_wrong_size_are_refused() {
    for bytes in [0, 7, 9] {
        let (field, problem) = refusal(raw(&[2], vec![0; bytes]).into_values(DataType::F32, 2));
        assert_eq!(field, "raw_input_contents[2]");
        assert!(problem.contains("takes 8"), "{problem}");
    }
    assert_eq!(refusal(raw(&[2], vec![0; 8]).into_values(DataType::F32, usize::MAX)).0, "raw_input_contents[2]");
}

#[test]
fn raw_truth_values_are_zero_or_one() {
    assert!(raw(&[2], vec![0, 1]).into_values(DataType::Bool, 2).is_ok());
    assert_eq!(refusal(raw(&[2], vec![0, 2]).into_values(DataType::Bool, 2)).0, "raw_input_contents[2]");
}

#[test]
fn each_type_has_its_own_list() {
    let all = InferTensorContents::default();
    let cases = [
        (DataType::Bool, InferTensorContents { bool_contents: vec![true, false], ..all.clone() }, vec![1, 0]),
        (DataType::I8, InferTensorContents { int_contents: vec![-1, 127], ..all.clone() }, vec![255, 127]),
        (
            DataType::I32,
            InferTensorContents { int_contents: vec![-2, 1], ..all.clone() },
            vec![254, 255, 255, 255, 1, 0, 0, 0],
        ),
        (DataType::I64, InferTensorContents { int64_contents: vec![-2, 1], ..all.clone() }, i64s(&[-2, 1])),
        (DataType::U8, InferTensorContents { uint_contents: vec![0, 255], ..all.clone() }, vec![0, 255]),
        (DataType::U32, InferTensorContents { uint_contents: vec![1, 2], ..all.clone() }, vec![1, 0, 0, 0, 2, 0, 0, 0]),
        (DataType::F32, InferTensorContents { fp32_contents: vec![1.5, -2.0], ..all }, f32s(&[1.5, -2.0])),
    ];
    for (data_type, contents, expected) in cases {
        let elements = typed(&[2], contents).into_values(data_type, 2).unwrap();
        assert_eq!(elements.values, expected, "{data_type:?}");
        assert!(elements.path.starts_with("inputs[2].contents."), "{}", elements.path);
    }
}

#[test]
fn elements_in_the_wrong_list_are_refused() {
    let contents = InferTensorContents { int_contents: vec![1, 2], ..Default::default() };
    let (field, problem) = refusal(typed(&[2], contents.clone()).into_values(DataType::I64, 2));
    assert_eq!(
        (field.as_str(), problem.as_str()),
        ("inputs[2].contents.int_contents", "INT64 elements belong in int64_contents")
    );
    assert_eq!(refusal(typed(&[2], contents).into_pieces(2)).0, "inputs[2].contents.int_contents");
}

#[test]
fn half_floats_only_come_raw() {
    for data_type in [DataType::F16, DataType::Bf16] {
        assert_eq!(
            refusal(typed(&[1], InferTensorContents::default()).into_values(data_type, 1)).0,
            "inputs[2].contents"
        );
        assert!(raw(&[1], vec![0, 60]).into_values(data_type, 1).is_ok());
    }
}

#[test]
fn typed_elements_must_be_as_many_as_the_shape_says() {
    let contents = InferTensorContents { fp32_contents: vec![0.0; 3], ..Default::default() };
    let (field, problem) = refusal(typed(&[2, 2], contents).into_values(DataType::F32, 4));
    assert_eq!(
        (field.as_str(), problem.as_str()),
        ("inputs[2].contents.fp32_contents", "has 3 elements, and the shape [2, 2] takes 4")
    );
}

#[test]
fn an_input_without_contents_is_an_input_without_elements() {
    let none = Input { at: 2, tensor: InferInputTensor { shape: vec![1], ..Default::default() }, raw: None };
    assert_eq!(refusal(none.into_values(DataType::F32, 1)).0, "inputs[2].contents.fp32_contents");
}

#[test]
fn small_integers_must_be_small() {
    let ints = |value| typed(&[1], InferTensorContents { int_contents: vec![value], ..Default::default() });
    let uints = |value| typed(&[1], InferTensorContents { uint_contents: vec![value], ..Default::default() });
    assert!(refusal(ints(128).into_values(DataType::I8, 1)).1.contains("128"));
    assert!(refusal(uints(256).into_values(DataType::U8, 1)).1.contains("256"));
}

#[test]
fn framed_bytes_are_read_to_the_last() {
    let pieces = raw(&[3], framed(&[b"a", b"", "ü".as_bytes()])).into_pieces(3).unwrap();
    assert_eq!(pieces.values, [&b"a"[..], b"", "ü".as_bytes()]);
}

#[test]
fn framing_that_does_not_add_up_is_refused() {
    let good = framed(&[b"one", b"two"]);
    for (bytes, count) in [
        (good.clone(), 1),
        (good.clone(), 3),
        (good[..good.len() - 1].to_vec(), 2),
        (good[..2].to_vec(), 1),
        (Vec::new(), 1),
        (vec![255, 255, 255, 255, 0], 1),
        (good, usize::MAX),
    ] {
        assert_eq!(refusal(raw(&[1], bytes).into_pieces(count)).0, "raw_input_contents[2]");
    }
}

proptest! {
    #[test]
    fn framing_round_trips(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20)) {
        let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let read = raw(&[1], framed(&slices)).into_pieces(pieces.len()).unwrap();
        prop_assert_eq!(read.values, slices);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..64), count in 0..9_usize) {
        if let Ok(read) = raw(&[1], bytes.clone()).into_pieces(count) {
            let slices: Vec<&[u8]> = read.values.iter().map(|piece| &piece[..]).collect();
            prop_assert_eq!(framed(&slices), bytes);
        }
    }

    #[test]
    fn typed_and_raw_floats_are_the_same(values in prop::collection::vec(any::<f32>(), 1..50)) {
        let rows = i64::try_from(values.len()).unwrap();
        let contents = InferTensorContents { fp32_contents: values.clone(), ..Default::default() };
        let from_typed = typed(&[rows], contents).into_values(DataType::F32, values.len()).unwrap();
        let from_raw = raw(&[rows], f32s(&values)).into_values(DataType::F32, values.len()).unwrap();
        prop_assert_eq!(from_typed.values, from_raw.values);
    }
}
