use super::*;

fn model(curve: SyntheticCurve) -> Model {
    Model { noise: Noise::new(curve.seed, curve.noise), curve }
}

fn texts(texts: &[&'static str]) -> Vec<Bytes> {
    texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
}

#[test]
fn hashes_as_the_reference_of_fnv1a_does() {
    assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
}

#[test]
fn takes_the_larger_of_floor_and_curve() {
    let curve = SyntheticCurve {
        floor: Duration::from_millis(5),
        base: Duration::from_millis(1),
        per_row: Duration::from_millis(1),
        per_token: Duration::from_micros(100),
        nanos_per_token_squared: 1000.0,
        ..SyntheticCurve::default()
    };
    assert_eq!(curve_seconds(&curve, &[1]), 5e-3);
    let long = curve_seconds(&curve, &[10, 20]);
    assert!((long - (1e-3 + 2e-3 + 3e-3 + 500e-6)).abs() < 1e-9, "{long}");
}

#[test]
fn noise_is_replayed_by_its_seed_and_centred_on_one() {
    let draw = |seed| {
        let mut noise = Noise::new(seed, 0.2);
        (0..2000).map(|_| noise.factor()).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    let logs: Vec<f64> = draw(7).iter().map(|factor| factor.ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let deviation = (logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / logs.len() as f64).sqrt();
    assert!(mean.abs() < 0.02, "{mean}");
    assert!((deviation - 0.2).abs() < 0.02, "{deviation}");
}

#[test]
fn fails_one_item_and_answers_its_mates() {
    let model = model(SyntheticCurve { faults: true, ..SyntheticCurve::default() });
    let (outcomes, _) = model.answer(&texts(&["a", "!fail not today", "b"])).unwrap();
    assert!(outcomes[0].is_ok());
    assert_eq!(outcomes[1], Err(ItemError::Input("not today".to_owned())));
    assert!(outcomes[2].is_ok());
}

#[test]
fn breaks_every_batch_that_holds_the_breaker() {
    let model = model(SyntheticCurve { faults: true, ..SyntheticCurve::default() });
    assert!(matches!(model.answer(&texts(&["a", "!break"])), Err(BatchError::Item(_))));
    assert!(matches!(model.answer(&texts(&["!oom"])), Err(BatchError::OutOfMemory(_))));
    assert!(model.answer(&texts(&["a"])).is_ok());
}

#[test]
fn is_out_of_memory_above_its_rows() {
    let model = model(SyntheticCurve { memory_rows: 2, ..SyntheticCurve::default() });
    assert!(model.answer(&texts(&["a", "b"])).is_ok());
    assert!(matches!(model.answer(&texts(&["a", "b", "c"])), Err(BatchError::OutOfMemory(_))));
}

#[test]
fn commands_are_plain_text_unless_faults_are_on() {
    let (outcomes, asleep) = model(SyntheticCurve::default()).answer(&texts(&["!break", "!exit 3"])).unwrap();
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(asleep, Duration::ZERO);
}

#[test]
fn a_command_that_is_none_fails_its_item_with_the_list() {
    let model = model(SyntheticCurve { faults: true, ..SyntheticCurve::default() });
    let (outcomes, _) = model.answer(&texts(&["!explode", "!sleep soon", "!exit now"])).unwrap();
    let details: Vec<String> = outcomes.into_iter().map(|outcome| outcome.unwrap_err().to_string()).collect();
    assert!(details[0].contains("!hang"), "{details:?}");
    assert!(details[1].contains("`!sleep soon`"), "{details:?}");
    assert!(details[2].contains("`!exit now`"), "{details:?}");
}

#[test]
fn sleeps_as_long_as_told() {
    let model = model(SyntheticCurve { faults: true, ..SyntheticCurve::default() });
    let (outcomes, asleep) = model.answer(&texts(&["!sleep 20ms", "!sleep 5ms"])).unwrap();
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(asleep, Duration::from_millis(25));
}

#[test]
fn refuses_a_curve_that_is_not_a_time() {
    let request = |noise| PrepareRequest {
        name: "s".into(),
        source: ModelSource::Synthetic(SyntheticCurve { noise, ..SyntheticCurve::default() }),
        precision: Precision::Auto,
    };
    let compute = Compute::new(std::num::NonZeroUsize::new(1), crate::CpuIsa::detect()).unwrap();
    for bad in [f64::NAN, -1.0, f64::INFINITY] {
        let error = Synthetic::prepare(&request(bad), &compute, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("synthetic.noise"), "{error}");
    }
    assert!(Synthetic::prepare(&request(0.0), &compute, &mut |_| {}).is_ok());
}
