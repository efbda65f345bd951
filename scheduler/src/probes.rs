//! What is run of a model that nobody knows yet, to find out what its batches cost: which sizes, how often, for how
//! long.
//!
//! Sizes grow, so that each is foreseen from those before it: one that may take longer than it should is not run. What
//! was found is kept apart until the end: a curve that has only seen the smallest batch says that larger ones take for
//! ever.

use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use crate::cost::{Costs, Size};
use crate::{BatchId, Budget, ProbeRow, WorkerId};

/// Time of a worker that the probes of a model take in all.
const TIME_MAX: Duration = Duration::from_secs(2);
/// How often each size is run. The slowest time teaches nothing: what is touched for the first time takes several
/// times as long, so does whatever something else on the machine got in the way of, and the curve believes the first
/// batch of a new size.
const RUNS: usize = 3;
/// Batches of real requests that teach more than probes could.
const ENOUGH: u64 = 32;

/// Rows, and tokens of each, of models with tokens: few and many, short and long, so that every part of a curve can be
/// told from the others. The last is as much as a batch may hold. The second is only four times the first, because one
/// size says little of others.
const SHAPES: [(u32, u32); 7] = [(1, 16), (1, 64), (8, 16), (8, 64), (1, 512), (32, 64), (u32::MAX, 128)];
/// Rows of models without.
const ROWS: [u32; 5] = [1, 4, 16, 64, u32::MAX];

/// A batch of rows that are all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) rows: u32,
    /// Of each row.
    pub(crate) tokens: u32,
}

/// A model's probes under way.
#[derive(Debug)]
pub(crate) struct Calibration {
    row: ProbeRow,
    /// Who runs them all, as long as it is there.
    pub(crate) worker: Option<WorkerId>,
    /// The one that runs.
    pub(crate) batch: Option<BatchId>,
    /// The place of the size under way in the list.
    step: usize,
    /// Who took how long for it.
    times: Vec<(Duration, WorkerId)>,
    /// How long the last probe took; at first, what the smallest batch is said to take.
    last: Duration,
    /// What the last credit allowed.
    budget: Budget,
    /// Sizes begun, the one under way last.
    seen: Vec<Shape>,
    spent: Duration,
    /// What was found.
    samples: Vec<Sample>,
    /// What it says, to foresee the next.
    costs: Costs,
}

/// A probe that counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// How many of its size were faster.
    run: usize,
    step: usize,
    pub(crate) worker: WorkerId,
    pub(crate) size: Size,
    pub(crate) taken: Duration,
}

impl Shape {
    pub(crate) fn size(self) -> Size {
        let (rows, tokens) = (u64::from(self.rows), u64::from(self.tokens));
        Size { rows, tokens: rows * tokens, squares: rows * tokens * tokens }
    }

    /// Of all rows. It was cut to a budget that says it as a `u32`.
    pub(crate) fn tokens_in_all(self) -> u32 {
        self.rows.saturating_mul(self.tokens)
    }
}

impl Calibration {
    pub(crate) fn new(row: ProbeRow) -> Self {
        Self {
            row,
            worker: None,
            batch: None,
            step: 0,
            times: Vec::new(),
            last: row.time,
            budget: Budget { rows: 0, tokens: 0, bytes: 0 },
            seen: Vec::new(),
            spent: Duration::ZERO,
            samples: Vec::new(),
            costs: Costs::new(None),
        }
    }

    /// Whether so many batches of real requests make the rest needless.
    pub(crate) fn is_needless(samples: u64) -> bool {
        samples >= ENOUGH
    }

    /// What to run next under a budget, as far as it is thought to take no longer than `time_max`, and its place in
    /// the list.
    pub(crate) fn next(&self, worker: WorkerId, budget: Budget, time_max: Duration) -> Option<(usize, Shape)> {
        let time_max = time_max.min(TIME_MAX.saturating_sub(self.spent));
        (self.step..self.len()).find_map(|step| {
            let shape = self.shape(step, budget)?;
            let is_begun = self.is_begun(step);
            // A credit that cuts the one under way to another size ends it.
            let is_new = if is_begun { self.seen.last() == Some(&shape) } else { !self.seen.contains(&shape) };
            let fits = self.spent < TIME_MAX && self.expected(worker, shape, is_begun) <= time_max;
            (is_new && fits).then_some((step, shape))
        })
    }

    /// Whether nothing is left to run under the budget that was there last.
    pub(crate) fn is_done(&self, time_max: Duration) -> bool {
        self.worker.is_none_or(|worker| self.next(worker, self.budget, time_max).is_none())
    }

    /// A probe is on its way. Returns how long it should take.
    pub(crate) fn begin(&mut self, (step, shape): (usize, Shape), worker: WorkerId, budget: Budget) -> Duration {
        let expected = self.expected(worker, shape, self.is_begun(step));
        if !self.is_begun(step) {
            self.settle();
            self.step = step;
            self.seen.push(shape);
        }
        (self.worker, self.budget) = (Some(worker), budget);
        expected
    }

    /// A probe ended well.
    pub(crate) fn learn(&mut self, worker: WorkerId, taken: Duration) {
        (self.batch, self.last) = (None, taken);
        self.spent = self.spent.saturating_add(taken);
        self.times.push((taken, worker));
        if self.times.len() == RUNS {
            self.settle();
            self.step += 1;
        }
    }

    /// Time that its probes took.
    pub(crate) fn spent(&self) -> Duration {
        self.spent
    }

    /// What was found, in the order in which it teaches most.
    pub(crate) fn into_samples(mut self) -> Vec<Sample> {
        self.settle();
        self.samples
    }

    /// All but the slowest of the size under way count.
    fn settle(&mut self) {
        self.times.sort_unstable();
        self.times.pop();
        let Some(size) = self.seen.last().filter(|_| !self.times.is_empty()).map(|shape| shape.size()) else { return };
        for (run, (taken, worker)) in self.times.drain(..).enumerate() {
            self.samples.push(Sample { run, step: self.step, worker, size, taken });
        }
        // One after the other, from the largest down, as often as there are runs: a curve that has seen all sizes once
        // takes from the second run how fast the worker is. Told size by size, it takes the one for the other.
        self.samples.sort_unstable_by_key(|sample| (sample.run, Reverse(sample.step)));
        self.costs = Costs::new(None);
        self.samples.iter().for_each(|sample| self.costs.observe(sample.worker, sample.size, sample.taken));
    }

    /// Whether a place in the list is the one under way.
    fn is_begun(&self, step: usize) -> bool {
        step == self.step && !self.times.is_empty()
    }

    fn len(&self) -> usize {
        if self.row.tokens_max > 0 { SHAPES.len() } else { ROWS.len() }
    }

    /// As much of a size as a budget allows; `None` when that is nothing.
    fn shape(&self, step: usize, budget: Budget) -> Option<Shape> {
        let (rows, tokens) = if self.row.tokens_max > 0 { *SHAPES.get(step)? } else { (*ROWS.get(step)?, 0) };
        let tokens = tokens.min(self.row.tokens_max).min(budget.tokens);
        if tokens == 0 && self.row.tokens_max > 0 {
            return None;
        }
        let bytes = u64::from(self.row.row_bytes) + u64::from(self.row.token_bytes) * u64::from(tokens);
        let by_tokens = budget.tokens.checked_div(tokens).unwrap_or(u32::MAX);
        let by_bytes = u32::try_from(budget.bytes.checked_div(bytes).unwrap_or(u64::MAX)).unwrap_or(u32::MAX);
        let rows = rows.min(budget.rows).min(by_tokens).min(by_bytes);
        (rows > 0).then_some(Shape { rows, tokens })
    }

    /// How long a size should take: what it took a moment ago, or what the others say. At first it is what was said
    /// beforehand.
    fn expected(&self, worker: WorkerId, shape: Shape, is_begun: bool) -> Duration {
        let by_others = self.costs.expected(worker, shape.size());
        if is_begun || !self.costs.is_known() { by_others.max(self.last) } else { by_others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: WorkerId = WorkerId(1);
    const AMPLE: Budget = Budget { rows: 1_024, tokens: 2_048, bytes: 1 << 30 };
    const TEXT: ProbeRow = ProbeRow { tokens_max: 512, row_bytes: 0, token_bytes: 4, time: Duration::ZERO };
    const NO_MATTER: Duration = Duration::from_secs(60);

    /// Runs probes on a device to the end, and gives each with what it took.
    fn run(row: ProbeRow, budget: Budget, time_max: Duration, device: impl Fn(Size) -> u64) -> Vec<(Shape, u64)> {
        let mut calibration = Calibration::new(row);
        let mut run = Vec::new();
        while let Some(next) = calibration.next(WORKER, budget, time_max) {
            calibration.begin(next, WORKER, budget);
            let micros = device(next.1.size());
            calibration.learn(WORKER, Duration::from_micros(micros));
            run.push((next.1, micros));
            assert!(run.len() <= 100, "it ends");
        }
        assert!(calibration.is_done(time_max));
        run
    }

    fn shapes(run: &[(Shape, u64)]) -> Vec<(u32, u32)> {
        let mut shapes: Vec<_> = run.iter().map(|(shape, _)| (shape.rows, shape.tokens)).collect();
        shapes.dedup();
        shapes
    }

    fn encoder(size: Size) -> u64 {
        2_000 + 30 * size.rows + 3 * size.tokens + size.squares / 1_000
    }

    #[test]
    fn every_size_is_run_three_times_from_the_smallest_to_a_full_batch() {
        let run = run(TEXT, AMPLE, NO_MATTER, encoder);
        assert_eq!(shapes(&run), [(1, 16), (1, 64), (8, 16), (8, 64), (1, 512), (32, 64), (16, 128)]);
        assert_eq!(run.len(), 21);
        let rows = |size: Size| 4_000 + 500 * size.rows;
        let raw = ProbeRow { tokens_max: 0, row_bytes: 16, token_bytes: 0, time: Duration::ZERO };
        let of_rows = self::run(raw, Budget { rows: 100, ..AMPLE }, NO_MATTER, rows);
        assert_eq!(shapes(&of_rows), [(1, 0), (4, 0), (16, 0), (64, 0), (100, 0)]);
    }

    #[test]
    fn sizes_are_cut_to_the_budget_and_not_repeated() {
        let budget = Budget { rows: 4, tokens: 100, bytes: 300 };
        let run = run(ProbeRow { tokens_max: 64, ..TEXT }, budget, NO_MATTER, encoder);
        // 300 bytes are 75 tokens: four rows of sixteen, or one of 64.
        assert_eq!(shapes(&run), [(1, 16), (1, 64), (4, 16)]);
        let nothing = Budget { tokens: 0, ..budget };
        assert_eq!(self::run(TEXT, nothing, NO_MATTER, encoder), []);
    }

    #[test]
    fn what_should_take_too_long_is_not_run() {
        let time_max = Duration::from_millis(25);
        let run = run(TEXT, Budget { tokens: 1 << 20, ..AMPLE }, time_max, |size| encoder(size) * 4);
        assert!(run.iter().all(|(_, micros)| *micros <= 25_000), "{run:?}");
        assert_eq!(shapes(&run), [(1, 16), (1, 64), (8, 16), (8, 64), (1, 512)]);
    }

    #[test]
    fn what_is_slow_from_the_beginning_is_not_run_at_all() {
        let slow = ProbeRow { time: Duration::from_millis(30), ..TEXT };
        assert_eq!(run(slow, AMPLE, Duration::from_millis(25), encoder), []);
    }

    #[test]
    fn a_first_probe_that_took_too_long_is_the_last() {
        let run = run(TEXT, AMPLE, Duration::from_millis(25), |_| 30_000);
        assert_eq!(shapes(&run), [(1, 16)]);
        assert_eq!(run.len(), 1);
    }

    #[test]
    fn all_together_take_two_seconds() {
        for micros in [50_000, 300_000, 900_000, 1_900_000, 5_000_000] {
            let run = run(TEXT, AMPLE, NO_MATTER, |_| micros);
            let before_the_last: u64 = run.iter().rev().skip(1).map(|(_, micros)| micros).sum();
            assert!(before_the_last + micros <= 2_000_000 || run.len() == 1, "{micros}: {run:?}");
        }
    }

    #[test]
    fn a_curve_is_found_from_them_although_one_run_of_each_size_is_slow() {
        let mut calibration = Calibration::new(TEXT);
        let mut runs = 0;
        while let Some(next) = calibration.next(WORKER, AMPLE, NO_MATTER) {
            calibration.begin(next, WORKER, AMPLE);
            // Of the first size the first one, of the next the second, of the third the last.
            let times = if runs % 4 == 0 { 5 } else { 1 };
            calibration.learn(WORKER, Duration::from_micros(encoder(next.1.size()) * times));
            runs += 1;
        }
        for (rows, tokens) in [(1, 8), (1, 256), (16, 16), (16, 100), (64, 32)] {
            let size = Shape { rows, tokens }.size();
            let found = calibration.costs.expected(WORKER, size).as_micros() as u64;
            assert!(found.abs_diff(encoder(size)) * 12 <= encoder(size), "{found} of {} for {size:?}", encoder(size));
        }
    }
}
