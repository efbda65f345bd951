use std::sync::atomic::AtomicBool;

use super::*;

fn times() -> CallTimes {
    let ns = Duration::from_nanos;
    CallTimes { total: ns(100), queue: ns(40), compute_input: ns(10), compute_infer: ns(30), compute_output: ns(20) }
}

fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

fn pair(duration: Option<StatisticDuration>) -> (u64, u64) {
    let duration = duration.unwrap();
    (duration.count, duration.ns)
}

#[test]
fn a_new_model_has_done_nothing() {
    let snapshot = Statistics::new(64).snapshot("m", "1");
    assert_eq!((snapshot.name.as_str(), snapshot.version.as_str()), ("m", "1"));
    assert_eq!((snapshot.last_inference, snapshot.inference_count, snapshot.execution_count), (0, 0, 0));
    assert!(snapshot.batch_stats.is_empty());
    assert_eq!(pair(snapshot.inference_stats.unwrap().success), (0, 0));
}

#[test]
fn calls_rows_and_batches_are_counted_apart() {
    let statistics = Statistics::new(64);
    statistics.record_success(3, &times(), at(5000));
    statistics.record_success(2, &times(), at(4000));
    statistics.record_failure(Duration::from_nanos(7));
    statistics.record_batch(5, &BatchTimes { compute_infer: Duration::from_nanos(9), ..Default::default() });
    let snapshot = statistics.snapshot("m", "1");
    assert_eq!((snapshot.last_inference, snapshot.inference_count, snapshot.execution_count), (5000, 5, 1));
    let stats = snapshot.inference_stats.unwrap();
    assert_eq!([pair(stats.success), pair(stats.queue)], [(2, 200), (2, 80)]);
    assert_eq!([stats.compute_input, stats.compute_infer, stats.compute_output].map(pair), [(2, 20), (2, 60), (2, 40)]);
    assert_eq!(pair(stats.fail), (1, 7));
    let [size] = &snapshot.batch_stats[..] else { panic!("{snapshot:?}") };
    assert_eq!((size.batch_size, pair(size.compute_infer)), (5, (1, 9)));
    assert_eq!([size.compute_input, size.compute_output].map(pair), [(1, 0), (1, 0)]);
}

#[test]
fn batch_sizes_are_bounded() {
    let statistics = Statistics::new(4);
    for rows in [0, 1, 4, 9, u32::MAX] {
        statistics.record_batch(rows, &BatchTimes::default());
    }
    let sizes: Vec<_> = statistics
        .snapshot("m", "1")
        .batch_stats
        .iter()
        .map(|size| (size.batch_size, pair(size.compute_infer).0))
        .collect();
    assert_eq!(sizes, [(1, 1), (4, 3)]);
    assert_eq!(Statistics::new(u32::MAX).batches.len(), 512);
    assert_eq!(Statistics::new(0).batches.len(), 1);
}

#[test]
fn counts_that_clients_compare_never_differ_while_calls_end() {
    let statistics = Statistics::new(8);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20_000 {
                statistics.record_success(1, &times(), at(1));
                statistics.record_batch(1, &BatchTimes::default());
            }
            done.store(true, Relaxed);
        });
        let mut last = 0;
        loop {
            let over = done.load(Relaxed);
            let stats = statistics.snapshot("m", "1").inference_stats.unwrap();
            let counts =
                [stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output].map(|it| pair(it).0);
            assert_eq!(counts, [pair(stats.success).0; 4]);
            assert!(counts[0] >= last);
            last = counts[0];
            if over {
                break;
            }
        }
        assert_eq!(last, 20_000);
    });
}
