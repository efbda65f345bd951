use super::*;

/// 4 ms a batch and half a millisecond a row, within 50 ms, 64 rows at most.
const MODEL: Demand = Demand { base: 0.004, row: 0.000_5, objective: 0.05, batch_rows_max: 64, rate: 0.0 };

fn is_near(found: f64, expected: f64) -> bool {
    (found / expected - 1.0).abs() < 1e-9
}

/// Models of all kinds: brief, slow, with tight and wide objectives, rarely and often asked, bounded and not.
fn kinds() -> Vec<Demand> {
    let mut kinds = Vec::new();
    for base in [0.000_2, 0.004, 0.03] {
        for row in [0.0, 0.000_01, 0.000_5, 0.01] {
            for objective in [0.045, 0.2, 1.0] {
                for batch_rows_max in [1, 8, 1_000_000] {
                    for rate in [0.1, 30.0, 900.0] {
                        kinds.push(Demand { base, row, objective, batch_rows_max, rate });
                    }
                }
            }
        }
    }
    kinds
}

#[test]
fn follows_the_closed_forms() {
    // U = Σ (β + αλD) / (D - β)
    let demands = [MODEL.at_rate(400.0), Demand { objective: 0.1, ..MODEL }.at_rate(700.0)];
    let expected = (0.004 + 0.000_5 * 400.0 * 0.05) / 0.046 + (0.004 + 0.000_5 * 700.0 * 0.1) / 0.096;
    assert!(is_near(load(&demands, Law::Fluid), expected));
    // Λ = (W (D - β) - M β) / (α D) for M equal models.
    for (workers, models) in [(1.0, 1), (2.5, 4), (8.0, 16)] {
        let total = (workers * 0.046 - models as f64 * 0.004) / (0.000_5 * 0.05);
        let demands = vec![MODEL.at_rate(100.0); models];
        let found = 100.0 * models as f64 * growth(&demands, Law::Fluid, workers);
        assert!(is_near(found, total), "{workers} {models}: {found} for {total}");
    }
    // Λ = W b / l(b)
    let demands = [MODEL.at_rate(500.0)];
    assert!(is_near(500.0 * growth(&demands, Law::Full, 3.0), 3.0 * 64.0 / 0.036));
}

#[test]
fn full_batches_are_the_largest_that_meet_the_objective() {
    for demand in kinds() {
        let sizes = 1..=demand.batch_rows_max.min(10_000);
        let brute = sizes.filter(|rows| demand.time(*rows as f64) <= demand.objective * ROUNDING).max().unwrap_or(0);
        let found = demand.full_batch_rows().min(10_000);
        assert_eq!(found, brute, "{demand:?}");
        assert_eq!(found > 0, demand.can_be_kept(), "{demand:?}");
    }
}

/// An even stream whose batches have n rows: the first of them waits for the others, then for the batch. The fewest
/// batches that keep it on time are those of the largest n; where not even two rows can wait, each goes by itself.
#[test]
fn asks_for_as_few_batches_as_an_even_stream_can_do_with() {
    for demand in kinds().into_iter().filter(Demand::can_be_kept) {
        let Demand { rate, objective, .. } = demand;
        let most = demand.full_batch_rows() as f64;
        let is_on_time = |rows: f64| rows / rate + demand.time(rows) <= objective;
        let steps = (0..200_000_u32).map(|step| 1.0 + f64::from(step) / 100.0);
        let largest = steps.take_while(|rows| *rows <= most && is_on_time(*rows)).last().unwrap_or(1.0);
        let found = demand.batches();
        assert!((-1e-9..=0.011).contains(&(found.rows - largest)), "{largest} {found:?} {demand:?}");
        assert!(is_near(found.rows / found.every, rate), "{found:?} {demand:?}");
        let expected = demand.time(found.rows) / found.every;
        assert!(is_near(demand.load(Law::Fluid), expected), "{demand:?}");
    }
}

#[test]
fn nothing_needs_less_than_full_batches_or_less_than_at_a_lower_rate() {
    for demand in kinds() {
        assert!(demand.load(Law::Fluid) * ROUNDING >= demand.load(Law::Full), "{demand:?}");
        for law in [Law::Full, Law::Fluid] {
            let more = demand.at_rate(demand.rate * 1.1).load(law);
            assert!(more >= demand.load(law), "{demand:?}");
        }
    }
}

#[test]
fn grows_until_the_workers_are_used_up_and_no_further() {
    let kinds: Vec<Demand> = kinds().into_iter().filter(Demand::can_be_kept).collect();
    for (law, workers) in [(Law::Full, 0.5), (Law::Full, 3.0), (Law::Fluid, 0.5), (Law::Fluid, 7.0)] {
        for demands in kinds.chunks(5).chain(kinds.chunks(1)) {
            let at = |factor: f64| {
                let demands: Vec<_> = demands.iter().map(|demand| demand.at_rate(demand.rate * factor)).collect();
                load(&demands, law)
            };
            let factor = growth(demands, law, workers);
            assert!(at(factor * 0.999_999) <= workers && at(factor * 1.000_001) > workers, "{factor} {demands:?}");
        }
    }
}

#[test]
fn a_model_alone_takes_what_the_others_leave() {
    let demands = [MODEL.at_rate(400.0), Demand { objective: 0.2, batch_rows_max: 8, ..MODEL }.at_rate(30.0)];
    for law in [Law::Full, Law::Fluid] {
        for (place, other) in [(0, 1), (1, 0)] {
            let rate = rate_alone(&demands, place, law, 2.0);
            let used = demands[other].load(law) + demands[place].at_rate(rate).load(law);
            assert!(is_near(used, 2.0), "{used} at {rate}");
        }
        // It is asked for nothing yet, and the other needs all there is.
        let demands = [MODEL.at_rate(0.0), MODEL.at_rate(1e6)];
        assert_eq!(rate_alone(&demands, 0, law, 2.0), 0.0);
    }
    let alone = [MODEL.at_rate(1.0)];
    assert!(is_near(rate_alone(&alone, 0, Law::Fluid, 1.0), growth(&alone, Law::Fluid, 1.0)));
}

#[test]
fn an_objective_below_the_smallest_batch_can_never_be_kept() {
    let impossible = Demand { objective: 0.004_4, ..MODEL }.at_rate(0.001);
    for law in [Law::Full, Law::Fluid] {
        assert_eq!(impossible.load(law), f64::INFINITY);
        assert_eq!(growth(&[MODEL.at_rate(1.0), impossible], law, 1e6), 0.0);
        assert_eq!(rate_alone(&[impossible], 0, law, 1e6), 0.0);
        let unasked = impossible.at_rate(0.0);
        assert_eq!((unasked.load(law), growth(&[unasked], law, 1.0)), (0.0, f64::INFINITY));
    }
    assert_eq!(impossible.full_batch_rows(), 0);
    // To the bit it can.
    let just = Demand { objective: MODEL.time(1.0), ..MODEL }.at_rate(10.0);
    assert!(is_near(just.load(Law::Fluid), 0.045) && is_near(just.load(Law::Full), 0.045));
}

#[test]
fn what_takes_no_time_can_be_asked_for_ever() {
    let free = Demand { base: 0.0, row: 0.0, ..MODEL }.at_rate(1e9);
    for law in [Law::Full, Law::Fluid] {
        assert_eq!((load(&[free], law), growth(&[free], law, 1.0)), (0.0, f64::INFINITY));
    }
}

#[test]
fn workers_are_whole_and_rounding_adds_none() {
    let cases =
        [(0.0, 0), (0.2, 1), (1.0, 1), (2.7, 3), (3.000_000_000_000_1, 3), (3.000_1, 4), (f64::INFINITY, u64::MAX)];
    for (workers, expected) in cases {
        assert_eq!(whole(workers), expected, "{workers}");
    }
}
