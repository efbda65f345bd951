//! Virtual time: what is going to happen, in order of time and, at the same time, in order of planning.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use shoal_scheduler::Timestamp;

/// What is going to happen. Time stands still until the next thing does.
#[derive(Debug)]
pub struct Agenda<E> {
    now: Timestamp,
    planned: u64,
    heap: BinaryHeap<Planned<E>>,
}

#[derive(Debug)]
struct Planned<E> {
    at: Timestamp,
    number: u64,
    event: E,
}

impl<E> Agenda<E> {
    /// Nothing planned.
    pub fn new(now: Timestamp) -> Self {
        Self { now, planned: 0, heap: BinaryHeap::new() }
    }

    /// Plans something for a time from now.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now + delay, event);
    }

    /// Plans something for a point in time; what is past happens next.
    pub fn at(&mut self, at: Timestamp, event: E) {
        self.planned += 1;
        self.heap.push(Planned { at: at.max(self.now), number: self.planned, event });
    }

    /// Lets time pass with nothing happening.
    pub fn advance(&mut self, to: Timestamp) {
        self.now = self.now.max(to);
    }

    /// The next thing to happen; time moves to it.
    pub fn pop(&mut self) -> Option<E> {
        let next = self.heap.pop()?;
        self.advance(next.at);
        Some(next.event)
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.heap.peek().map(|planned| planned.at)
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.now
    }
}

impl<E> Ord for Planned<E> {
    /// The heap gives the greatest first: the earliest must be it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl<E> Eq for Planned<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_by_time_and_then_by_order_of_planning() {
        let mut agenda = Agenda::new(Timestamp::ZERO);
        agenda.after(Duration::from_millis(2), "c");
        agenda.after(Duration::from_millis(1), "a");
        agenda.after(Duration::from_millis(1), "b");
        assert_eq!(std::iter::from_fn(|| agenda.pop()).collect::<String>(), "abc");
        assert_eq!(agenda.now(), Timestamp::from_millis(2));
    }
}
