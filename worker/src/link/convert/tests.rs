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
    let options = wire::ItemOptions { normalize: Some(true), dimensions: 2, raw: true, top_k: 4 };
    let item = host_item(wire::Item { options: Some(options), ..wire::Item::default() }, Instant::now());
    let expected = ItemOptions { normalize: Some(true), dimensions: 2, raw: true, top_k: 4, targets: Arc::default() };
    assert_eq!(item.options, expected);
}

fn model_card(task: Task) -> ModelCard {
    ModelCard {
        weights_sha256: String::new(),
        architecture: "bert",
        task,
        dims: 0,
        labels: vec!["no".to_owned(), "yes".to_owned()],
        tokens_max: 8,
        vocabulary: 0,
        bytes: 0,
        parameters: 0,
        dtype: "f32",
        backend: "candle",
        instructions: "",
        tokenizer_sha256: String::new(),
        inputs: vec![TensorSpec::new("input_ids", DataType::I32, &[-1])],
        outputs: Vec::new(),
        normalizes: false,
        mask_token: "[MASK]".to_owned(),
        mask_token_id: 103,
        smallest_batch: Duration::ZERO,
    }
}

/// A batch of two rows of one and two elements, with these columns.
fn batch(task: Task, columns: &[(&str, wire::DataType)]) -> Result<HostBatch, BatchError> {
    let column = |(name, data_type): &(&str, wire::DataType)| wire::Column {
        name: (*name).to_owned(),
        data_type: (*data_type).into(),
        row_splits: vec![0, 1, 3],
        size: 12,
        ..wire::Column::default()
    };
    let run = wire::Run {
        columns: columns.iter().map(column).collect(),
        items: vec![wire::Item::default(); 2],
        ..wire::Run::default()
    };
    let data = [7_u32, 8, 9].iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
    let payload = vec![Bytes::from(data); columns.len()];
    let now = Instant::now();
    host_batch(ServerId(1), run, payload, (&"m".into(), &model_card(task)), Budget::default(), (now, now))
}

#[test]
fn targets_come_as_a_column_of_models_that_fill_masks() {
    let ids = ("input_ids", wire::DataType::I32);
    let targets = |batch: HostBatch| batch.items.iter().map(|item| item.options.targets.to_vec()).collect::<Vec<_>>();
    let given = batch(Task::FillMask, &[ids, ("targets", wire::DataType::U32)]).unwrap();
    assert_eq!(given.columns.len(), 1);
    assert_eq!(targets(given), [vec![7], vec![8, 9]]);
    assert_eq!(targets(batch(Task::FillMask, &[ids]).unwrap()), vec![Vec::<u32>::new(); 2]);
    let wrong = batch(Task::FillMask, &[ids, ("targets", wire::DataType::I64)]).unwrap_err();
    assert!(wrong.to_string().contains("`targets`"), "{wrong}");
    let surplus = batch(Task::Classify, &[ids, ("targets", wire::DataType::U32)]).unwrap_err();
    assert_eq!(surplus, bad("model `m` has no column `targets`"));
}

#[test]
fn a_card_says_task_labels_and_mask() {
    let tasks = [Task::Embed, Task::Classify, Task::Rerank, Task::FillMask, Task::Tensor];
    let said = tasks.map(|task| {
        let made = model_card(task);
        let card = card("m", &made);
        assert_eq!((&card.labels, &*card.mask_token, card.mask_token_id), (&made.labels, "[MASK]", 103));
        card.task()
    });
    use wire::Task as Wire;
    assert_eq!(said, [Wire::Embed, Wire::Classify, Wire::Rerank, Wire::FillMask, Wire::Tensor]);
}

#[test]
fn what_is_not_known_of_a_gpu_is_not_told() {
    let health =
        Health { memory_used: Some(1), power_watts: Some(2.5), temperature_celsius: Some(3), ..Health::default() };
    let told = wire::Gpu {
        uuid: "GPU-0".to_owned(),
        name: "NVIDIA H200".to_owned(),
        memory_used_bytes: Some(1),
        power_watts: Some(2.5),
        temperature_celsius: Some(3.0),
        ..wire::Gpu::default()
    };
    assert_eq!(gpu_health("NVIDIA H200", "GPU-0", &health), told);
    assert_eq!((told.memory_bytes, told.utilization_ratio), (None, None));
    let health = Health { memory: Some(4), utilization: Some(0.5), ..health };
    let told = wire::Gpu { memory_bytes: Some(4), utilization_ratio: Some(0.5), ..told };
    assert_eq!(gpu_health("NVIDIA H200", "GPU-0", &health), told);
}

#[test]
fn what_a_server_wants_starts_as_far_from_now_as_it_says() {
    let now = Timestamp::from_millis(3_600_000);
    let start = |start_micros| want(wire::Want { start_micros, ..wire::Want::default() }, now).start;
    assert_eq!(start(0), now);
    assert_eq!(start(1_500), now + Duration::from_micros(1_500));
    assert_eq!(start(-1_500), Timestamp::from_micros(3_600_000_000 - 1_500));
    assert_eq!(start(i64::MIN), Timestamp::ZERO, "longer ago than anything is");
    assert!(start(i64::MAX) < Timestamp::MAX, "and later than anyone waits");
}

#[test]
fn what_a_server_wants_is_of_the_classes_it_says() {
    let classes = vec![wire::Class::Bulk.into(), wire::Class::Interactive.into(), 99];
    let message = wire::Want { class: wire::Class::Bulk.into(), classes, is_apart: true, ..wire::Want::default() };
    let wanted = want(message, Timestamp::ZERO);
    assert_eq!((wanted.class, wanted.classes, wanted.is_apart), (Class::Bulk, [true, false, true], true));
    assert_eq!(want(wire::Want::default(), Timestamp::ZERO).class, Class::Standard);
}
