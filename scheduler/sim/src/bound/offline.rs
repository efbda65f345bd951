//! The best that anybody could have done who knew every arrival in advance: one worker, one model, equal requests.

use std::time::Duration;

use shoal_scheduler::Timestamp;

/// The most requests that can be answered within `objective` of their arrival.
///
/// By exchanging requests a best schedule can be made one whose batches hold neighbours in order of arrival. So with
/// `F[j][k]` the least time at which `k` of the first `j` requests can have been answered in time, all later ones still
/// to come, `F[j][k + b]` is the start of the last batch, `max(F[i][k] for i ≤ j - b, arrival of j)`, plus its time
/// `nanos(b)`, if the oldest of the batch is then still in time. Costs n² · `batch_max` steps: for some hundred requests.
///
/// `arrivals` ascend; `nanos` gives the time of a batch by its size and must not fall as that grows.
pub fn offline(arrivals: &[Timestamp], objective: Duration, batch_max: usize, nanos: impl Fn(usize) -> u64) -> usize {
    let times: Vec<Duration> = (0..=batch_max).map(|size| Duration::from_nanos(nanos(size))).collect();
    let n = arrivals.len();
    // `best[j][k]`: the least finish with k answers among the first j, whichever is the last of them.
    let mut best = vec![vec![Timestamp::MAX; n + 1]; n + 1];
    best[0][0] = Timestamp::ZERO;
    for j in 1..=n {
        let (before, rest) = best.split_at_mut(j);
        let here = &mut rest[0];
        here.copy_from_slice(&before[j - 1]);
        for size in 1..=batch_max.min(j) {
            let until = arrivals[j - size] + objective;
            for k in 0..=j - size {
                let idle = before[j - size][k];
                let finish = idle.max(arrivals[j - 1]) + times[size];
                if finish <= until && finish < here[k + size] {
                    here[k + size] = finish;
                }
            }
        }
    }
    best[n].iter().rposition(|finish| *finish != Timestamp::MAX).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const OBJECTIVE: Duration = Duration::from_millis(10);

    fn nanos(size: usize) -> u64 {
        2_000_000 + 1_500_000 * size as u64
    }

    /// Tries every order of batches of any requests, neighbours or not.
    fn brute_force(arrivals: &[Timestamp], left: u32, free: Timestamp, batch_max: u32) -> usize {
        let mut most = 0;
        let mut batch = left;
        while batch > 0 {
            let members = (0..arrivals.len()).filter(|at| batch & (1 << at) != 0);
            let first = members.clone().next().expect("one of them");
            let last = members.clone().next_back().expect("one of them");
            let size = members.count();
            let finish = free.max(arrivals[last]) + Duration::from_nanos(nanos(size));
            if batch.count_ones() <= batch_max && finish <= arrivals[first] + OBJECTIVE {
                most = most.max(size + brute_force(arrivals, left & !batch, finish, batch_max));
            }
            batch = (batch - 1) & left;
        }
        most
    }

    #[test]
    fn is_as_good_as_trying_everything() {
        let mut rng = Rng::new(9);
        let (mut some_lost, mut some_kept) = (0, 0);
        for _ in 0..150 {
            let mut at = Timestamp::ZERO;
            let gap = Duration::from_micros(*rng.pick(&[500, 2_000, 4_000]));
            let arrivals: Vec<_> = (0..rng.between(1, 7))
                .map(|_| {
                    at = at + rng.exponential(gap);
                    at
                })
                .collect();
            let batch_max = rng.between(1, 4);
            let all = (1 << arrivals.len()) - 1;
            let truth = brute_force(&arrivals, all, Timestamp::ZERO, batch_max as u32);
            assert_eq!(offline(&arrivals, OBJECTIVE, batch_max as usize, nanos), truth, "{arrivals:?} {batch_max}");
            some_lost += usize::from(truth < arrivals.len());
            some_kept += usize::from(truth == arrivals.len());
        }
        assert!(some_lost > 20 && some_kept > 20, "{some_lost} {some_kept}");
    }

    #[test]
    fn nobody_is_answered_in_less_than_a_batch_takes() {
        let arrivals = [Timestamp::from_millis(1), Timestamp::from_millis(2)];
        assert_eq!(offline(&arrivals, Duration::from_millis(3), 4, nanos), 0);
        assert_eq!(offline(&[], OBJECTIVE, 4, nanos), 0);
    }
}
