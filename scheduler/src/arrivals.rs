//! When the waiting requests of a queue arrived: only ever asked for the oldest.
//!
//! A list in order of arrival, from which nothing is taken but at its front. A request that leaves from the middle stays
//! in the list as a trace of itself, until it is the oldest or until most of the list is such traces. That is cheaper
//! than an ordered set by far, and as exact.

use alloc::collections::VecDeque;
use core::cmp::Ordering;

use crate::{RequestId, Timestamp};

/// Traces that are always put up with.
const TRACES_MIN: usize = 64;

/// The waiting requests by arrival, and traces of some that left. The first is never a trace.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    by_age: VecDeque<Arrival>,
    /// So many of them are traces.
    traces: usize,
}

#[derive(Debug)]
struct Arrival {
    at: Timestamp,
    id: RequestId,
    is_trace: bool,
}

impl Arrivals {
    /// A request begins to wait. Nearly always the latest to arrive; one that comes back goes to its old place.
    pub(crate) fn push(&mut self, at: Timestamp, id: RequestId) {
        let arrival = Arrival { at, id, is_trace: false };
        if self.by_age.back().is_none_or(|last| (last.at, last.id) < (at, id)) {
            self.by_age.push_back(arrival);
            return;
        }
        match self.find(at, id) {
            Ok(old) => {
                self.traces -= usize::from(self.by_age[old].is_trace);
                self.by_age[old] = arrival;
            }
            Err(place) => self.by_age.insert(place, arrival),
        }
    }

    /// A request no longer waits.
    pub(crate) fn remove(&mut self, at: Timestamp, id: RequestId) {
        let is_first = self.by_age.front().is_some_and(|first| first.id == id && first.at == at);
        let place = if is_first { Ok(0) } else { self.find(at, id) };
        let Some(arrival) = place.ok().and_then(|place| self.by_age.get_mut(place)) else { return };
        self.traces += usize::from(!core::mem::replace(&mut arrival.is_trace, true));
        while self.by_age.pop_front_if(|first| first.is_trace).is_some() {
            self.traces -= 1;
        }
        if self.traces > TRACES_MIN && self.traces > self.by_age.len() / 2 {
            self.by_age.retain(|arrival| !arrival.is_trace);
            self.traces = 0;
        }
    }

    /// When the oldest waiting request arrived.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.by_age.front().map(|first| first.at)
    }

    /// Entries kept, traces included.
    pub(crate) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Where an arrival is, or would be. Looked for first where it is if they come evenly: near by, that reads less of a
    /// long list than halving it does.
    fn find(&self, at: Timestamp, id: RequestId) -> Result<usize, usize> {
        let key = |place: usize| (self.by_age[place].at, self.by_age[place].id);
        let len = self.by_age.len();
        let (mut low, mut high, mut step) = (self.guess(at), len, 8);
        while low > 0 && key(low) > (at, id) {
            (low, high, step) = (low.saturating_sub(step), low, step * 2);
        }
        let mut reach = low + step;
        while reach < high && key(reach) < (at, id) {
            (low, reach, step) = (reach, reach + step * 2, step * 2);
        }
        high = high.min(reach.saturating_add(1));
        while low < high {
            let middle = low.midpoint(high);
            match key(middle).cmp(&(at, id)) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    fn guess(&self, at: Timestamp) -> usize {
        let (Some(first), Some(last)) = (self.by_age.front(), self.by_age.back()) else { return 0 };
        let (span, age) = (last.at.since(first.at).as_nanos(), at.since(first.at).as_nanos());
        let last = self.by_age.len() - 1;
        (last as u128 * age).checked_div(span).map_or(0, |guess| usize::try_from(guess).unwrap_or(last).min(last))
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    #[test]
    fn always_knows_the_oldest_and_forgets_those_that_left() {
        let mut waiting = BTreeMap::new();
        let mut arrivals = Arrivals::default();
        let mut random = 1u64;
        for step in 0..20_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = (random >> 33) as usize;
            if waiting.len() < 10 || pick.is_multiple_of(2) && waiting.len() < 300 {
                // One in eight comes back from a worker with the arrival it had.
                let arrived =
                    Timestamp::from_millis(if pick.is_multiple_of(8) { step.saturating_sub(50) } else { step });
                waiting.insert(RequestId(step), arrived);
                arrivals.push(arrived, RequestId(step));
            } else {
                let left = *waiting.keys().nth(pick % waiting.len()).expect("one of them");
                let arrived = waiting.remove(&left).expect("it was waiting");
                arrivals.remove(arrived, left);
            }
            assert_eq!(arrivals.oldest(), waiting.values().min().copied());
            assert!(arrivals.len() <= 2 * waiting.len() + TRACES_MIN + 2, "{} of {}", arrivals.len(), waiting.len());
        }
    }

    #[test]
    fn finds_each_arrival_however_uneven_they_are() {
        for ats in [vec![5; 300], (0..300).map(|i| i * i).collect(), (0..300).map(|i| 1 << (i / 6)).collect()] {
            let mut arrivals = Arrivals::default();
            let all: Vec<_> =
                ats.iter().zip(0..).map(|(at, id)| (Timestamp::from_nanos(*at), RequestId(2 * id))).collect();
            all.iter().for_each(|(at, id)| arrivals.push(*at, *id));
            for (place, (at, id)) in all.iter().enumerate() {
                assert_eq!(arrivals.find(*at, *id), Ok(place));
                assert_eq!(arrivals.find(*at, RequestId(id.0 + 1)), Err(place + 1));
            }
            assert_eq!(arrivals.find(Timestamp::MAX, RequestId(0)), Err(300));
            assert_eq!(Arrivals::default().find(Timestamp::ZERO, RequestId(0)), Err(0));
        }
    }

    #[test]
    fn a_request_may_leave_come_back_and_leave_again() {
        let mut arrivals = Arrivals::default();
        let at = Timestamp::from_millis;
        arrivals.push(at(1), RequestId(1));
        arrivals.push(at(2), RequestId(2));
        arrivals.remove(at(2), RequestId(2));
        arrivals.push(at(2), RequestId(2));
        arrivals.remove(at(1), RequestId(1));
        assert_eq!(arrivals.oldest(), Some(at(2)));
        arrivals.remove(at(2), RequestId(2));
        assert_eq!((arrivals.oldest(), arrivals.len()), (None, 0));
    }
}
