use super::*;

#[test]
fn a_deadline_counts_from_the_first_byte_and_may_have_passed() {
    let begun = Instant::now();
    let item = |remaining_micros| host_item(wire::Item { remaining_micros, ..wire::Item::default() }, begun);
    assert_eq!(item(None).deadline, None);
    assert_eq!(item(Some(1500)).deadline, Some(begun + Duration::from_micros(1500)));
    assert_eq!(item(Some(-7)).deadline, Some(begun));
    assert_eq!(item(Some(i64::MAX)).deadline, None, "further off than anyone waits");
}

#[test]
fn a_source_keeps_every_field_of_a_curve() {
    let time = |nanos| Some(prost_types::Duration { seconds: 0, nanos });
    let synthetic = wire::SyntheticSource {
        floor: time(1),
        base: time(2),
        per_row: time(3),
        per_token: time(4),
        nanos_per_token_squared: 5.0,
        noise: 0.6,
        seed: 7,
        faults: true,
        memory_rows: 8,
    };
    let wrapped = wire::ModelSource { source: Some(wire::model_source::Source::Synthetic(synthetic)) };
    let expected = SyntheticCurve {
        floor: Duration::from_nanos(1),
        base: Duration::from_nanos(2),
        per_row: Duration::from_nanos(3),
        per_token: Duration::from_nanos(4),
        nanos_per_token_squared: 5.0,
        noise: 0.6,
        seed: 7,
        faults: true,
        memory_rows: 8,
    };
    assert_eq!(source(wrapped), Ok(Some(ModelSource::Synthetic(expected))));
    let negative = wire::SyntheticSource { base: time(-1), ..wire::SyntheticSource::default() };
    let wrapped = wire::ModelSource { source: Some(wire::model_source::Source::Synthetic(negative)) };
    assert!(source(wrapped).unwrap_err().contains("`source.synthetic.base`"));
}

#[test]
fn rows_must_have_the_shape_of_their_input() {
    let splits = [0, 6, 6, 12];
    let check = |shape: &[i64]| check_shape(&TensorSpec::new("x", DataType::F32, shape), &splits);
    assert_eq!(check(&[-1]), Ok(()));
    assert_eq!(check(&[-1, 3]), Ok(()));
    assert_eq!(check(&[4, -1]), Err(bad("row 0 of column `x` has 6 elements, which is no [4, -1]")));
    assert_eq!(check(&[2, 3]), Err(bad("row 1 of column `x` has 0 elements, which is no [2, 3]")));
}

#[test]
fn every_data_type_goes_there_and_back() {
    for number in 1..=10 {
        let given = wire::DataType::try_from(number).unwrap();
        assert_eq!(wire_data_type(data_type(given).unwrap()), given);
    }
    assert_eq!(data_type(wire::DataType::Unspecified), None);
}

#[test]
fn a_time_from_the_wire_is_bounded() {
    let time = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    assert_eq!(time_or(None, Duration::from_secs(9)), Duration::from_secs(9));
    assert_eq!(time_or(time(-1), Duration::from_secs(9)), Duration::from_secs(9));
    assert_eq!(time_or(time(2), Duration::from_secs(9)), Duration::from_secs(2));
    assert_eq!(time_or(time(i64::MAX), Duration::from_secs(9)), Duration::from_secs(3600));
}

#[test]
fn an_item_keeps_every_option() {
    let options = wire::ItemOptions { normalize: Some(true), dimensions: 2, raw: true, top_k: 4, targets: vec![5, 6] };
    let item = host_item(wire::Item { options: Some(options), ..wire::Item::default() }, Instant::now());
    let expected =
        ItemOptions { normalize: Some(true), dimensions: 2, raw: true, top_k: 4, targets: Arc::from([5, 6]) };
    assert_eq!(item.options, expected);
}

#[test]
fn a_card_says_task_labels_and_mask() {
    let tasks = [Task::Embed, Task::Classify, Task::Rerank, Task::FillMask, Task::Tensor];
    let said = tasks.map(|task| {
        let made = ModelCard {
            weights_sha256: String::new(),
            architecture: "bert",
            task,
            dims: 0,
            labels: vec!["no".to_owned(), "yes".to_owned()],
            tokens_max: 0,
            vocabulary: 0,
            bytes: 0,
            parameters: 0,
            dtype: "f32",
            backend: "candle",
            tokenizer_sha256: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            normalizes: false,
            mask_token: "[MASK]".to_owned(),
            mask_token_id: 103,
            smallest_batch: Duration::ZERO,
        };
        let card = card("m", &made);
        assert_eq!((&card.labels, &*card.mask_token, card.mask_token_id), (&made.labels, "[MASK]", 103));
        card.task()
    });
    use wire::Task as Wire;
    assert_eq!(said, [Wire::Embed, Wire::Classify, Wire::Rerank, Wire::FillMask, Wire::Tensor]);
}
