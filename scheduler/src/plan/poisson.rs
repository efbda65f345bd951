//! What is left of the fluid law for arrivals that are not evenly spaced: those of many independent users.
//!
//! Found with the simulator, under the learned policy, with what batches cost known and steady: the parts here keep 99 % on
//! time in every world it was asked about (`scheduler/sim/tests/plan.rs`). What takes away from the law is
//!
//! - **chance**, the more the fewer of the smallest batches fit into an objective: whoever comes just after a batch began
//!   has less of it left. With two of them one worker keeps hardly anything of the law, with ten four fifths.
//! - **company**, the more the farther apart objectives are and the fewer workers there are: a worker that is in a large
//!   batch of a model with a wide objective is not there for one with a narrow objective.
//!
//! Where that leaves little, enough idle workers still do: when a row finds none idle only once in a hundred times, nobody
//! waits.

use super::{Demand, Law, ROUNDING, growth, largest};

/// The part of the rows that may find all workers busy where nobody may wait.
const WAITING_MAX: f64 = 0.01;
/// Objectives no farther apart are alike.
const ALIKE: f64 = 1.25;
/// Parts of the fluid law by how far objectives are apart at most, on one worker and from two, four and eight on.
const COMPANY: [(f64, [f64; 4]); 2] = [(4.0, [0.5, 0.75, 0.85, 0.88]), (f64::INFINITY, [0.45, 0.55, 0.58, 0.75])];
/// The largest number of workers that is looked at.
pub const WORKERS_MAX: u64 = 1 << 16;

/// How many times as high all rates can be on so many workers with 99 % of Poisson arrivals on time: below 1, 0 and
/// infinite as [`growth`] is.
pub fn safe_growth(demands: &[Demand], workers: u64) -> f64 {
    let by_law = growth(demands, Law::Fluid, workers as f64);
    if by_law <= 0.0 || by_law.is_infinite() {
        return by_law;
    }
    (by_law * part(demands, workers)).max(growth_without_waiting(demands, workers))
}

/// The least number of workers that these rates are safe on; none when [`WORKERS_MAX`] are not enough.
pub fn safe_workers(demands: &[Demand]) -> Option<u64> {
    let is_enough = |workers: u64| safe_growth(demands, workers) * ROUNDING >= 1.0;
    if demands.iter().all(|demand| demand.rate <= 0.0) {
        return Some(0);
    }
    let mut above = 1;
    while !is_enough(above) {
        above *= 2;
        if above > WORKERS_MAX {
            return None;
        }
    }
    let mut below = above / 2;
    while above - below > 1 {
        let middle = below.midpoint(above);
        if is_enough(middle) { above = middle } else { below = middle }
    }
    Some(above)
}

/// The part of the fluid law's rates that Poisson arrivals reach on so many workers.
fn part(demands: &[Demand], workers: u64) -> f64 {
    let asked = || demands.iter().filter(|demand| demand.rate > 0.0);
    let tightness = asked().map(|demand| demand.objective / demand.time(1.0)).fold(f64::INFINITY, f64::min);
    let chance = 1.0 - (1.4 + 0.45 / workers as f64) / tightness;
    let least = asked().map(|demand| demand.objective).fold(f64::INFINITY, f64::min);
    let most = asked().map(|demand| demand.objective).fold(0.0, f64::max);
    let apart = most / least;
    let column = [2, 4, 8].iter().filter(|from| workers >= **from).count();
    let row = COMPANY.iter().find(|(limit, _)| apart <= *limit).filter(|_| apart > ALIKE);
    let company = row.map_or(1.0, |(_, parts)| parts[column]);
    chance.min(company).max(0.0)
}

/// How many times as high all rates can be with every row in a batch of its own and hardly any of them waiting.
fn growth_without_waiting(demands: &[Demand], workers: u64) -> f64 {
    let alone: f64 = demands.iter().map(|demand| demand.rate * demand.time(1.0)).sum();
    let servers = workers as f64;
    largest(servers / alone, WAITING_MAX, |factor| waiting(workers, alone * factor))
}

/// The part of Poisson arrivals that finds all of so many servers busy (Erlang C), with so many of them busy in the mean.
fn waiting(servers: u64, busy: f64) -> f64 {
    let count = servers as f64;
    if busy >= count {
        return 1.0;
    }
    // The part that finds so many servers busy if nobody waits (Erlang B), of one server more each time.
    let lost = (1..=servers).fold(1.0, |lost, servers| busy * lost / (servers as f64 + busy * lost));
    count * lost / (count - busy * (1.0 - lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 ms a batch and half a millisecond a row, within 50 ms.
    const MODEL: Demand = Demand { base: 0.004, row: 0.000_5, objective: 0.05, batch_rows_max: 64, rate: 100.0 };

    fn within(objective: f64) -> Demand {
        Demand { objective, ..MODEL }
    }

    #[test]
    fn waiting_is_erlangs() {
        // From tables of Erlang C.
        for (servers, busy, expected) in [(1, 0.3, 0.3), (2, 1.0, 1.0 / 3.0), (5, 4.0, 0.554_1), (10, 5.0, 0.036_1)] {
            let found = waiting(servers, busy);
            assert!((found - expected).abs() < 1e-4, "{found} for {servers} and {busy}");
        }
        assert_eq!((waiting(3, 0.0), waiting(3, 3.0)), (0.0, 1.0));
    }

    #[test]
    fn less_is_left_of_the_law_the_tighter_and_the_farther_apart_objectives_are_and_the_fewer_workers() {
        let of = |demands: &[Demand], workers| part(demands, workers);
        assert!(of(&[within(0.01)], 1) < of(&[within(0.02)], 1) && of(&[within(0.02)], 1) < of(&[within(0.2)], 1));
        let apart = [within(0.05), within(1.0)];
        assert!(of(&apart, 1) < of(&apart, 4) && of(&apart, 4) < of(&[within(0.05), within(0.2)], 4));
        assert!(of(&[MODEL, within(0.06)], 4) > 0.85);
        // Who is not asked for is no company.
        assert_eq!(of(&[MODEL, within(1.0).at_rate(0.0)], 1), of(&[MODEL], 1));
        assert_eq!(of(&[within(0.005)], 1), 0.0);
    }

    #[test]
    fn enough_idle_workers_keep_any_objective_that_can_be_kept() {
        let tight = [within(0.004_5).at_rate(1_000.0)];
        let workers = safe_workers(&tight).expect("a number");
        // 4.5 of them are busy in the mean.
        assert!((9..=14).contains(&workers), "{workers}");
        assert!(waiting(workers, 4.5) <= 0.01 && waiting(workers - 1, 4.5) > 0.01);
    }

    #[test]
    fn so_many_workers_are_safe_and_one_less_is_not() {
        let kinds = [vec![MODEL], vec![MODEL, within(0.2), within(1.0)], vec![within(0.009); 7], vec![within(0.3); 40]];
        for demands in kinds {
            for factor in [0.01, 1.0, 30.0, 400.0] {
                let demands: Vec<_> = demands.iter().map(|demand| demand.at_rate(100.0 * factor)).collect();
                let workers = safe_workers(&demands).expect("a number");
                assert!(safe_growth(&demands, workers) >= 0.999_999, "{workers} {demands:?}");
                assert!(workers == 1 || safe_growth(&demands, workers - 1) < 1.0, "{workers} {demands:?}");
                let needed = super::super::load(&demands, Law::Fluid);
                assert!(workers as f64 >= needed, "{workers} {needed}");
            }
        }
    }

    #[test]
    fn nobody_and_the_impossible_need_no_and_any_number_of_workers() {
        assert_eq!(safe_workers(&[MODEL.at_rate(0.0)]), Some(0));
        assert_eq!(safe_growth(&[MODEL.at_rate(0.0)], 1), f64::INFINITY);
        assert_eq!((safe_workers(&[within(0.004)]), safe_growth(&[within(0.004)], 8)), (None, 0.0));
    }
}
