//! The quick half of what is learned: how fast one worker is now, and how far its batches stray.

use crate::cost::window::Window;

/// How much of a surprise the factor follows at once.
const GAIN: f64 = 0.2;
/// How many times too slow or too fast a batch may count.
const RATIO_MAX: f64 = 3.0;
/// Bounds of the factor, so that nothing a clock can do makes it zero or infinite.
const FACTOR_MAX: f64 = 1e6;
/// Share of the batches that may take longer than the high estimate.
const MISSES: f64 = 0.025;
/// How much one batch moves the level.
const LEVEL_STEP: f64 = 0.005;
/// The level stays within these, whatever happened lately.
const LEVEL_MIN: f64 = 0.95;
const LEVEL_MAX: f64 = 0.995;
/// Ratios before which their spread is not known.
const SAMPLES_MIN: usize = 8;
/// What to multiply by until then.
const HIGH_UNKNOWN: f64 = 1.5;
/// How many times too slow or too fast a batch must be to speak for a sudden change …
const CHANGE_MIN: f64 = 1.5;
/// … and how many in a row make it one.
const CHANGE_RUN: usize = 8;
/// A batch of which more than this share is news to the shape tells nothing of the worker.
const NEWS_MAX: f64 = 0.5;

/// How fast one worker runs one model, compared with the model's curve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Its batches take so many times what the curve says. An average over about the last five batches.
    factor: f64,
    /// Nearly all batches take less than so many times what is expected of them. At least 1.
    high: f64,
    /// The quantile to read from the window so that [`MISSES`] of the batches exceed it: adaptive conformal inference
    /// (Gibbs and Candès, 2021), which keeps that promise in the long run whatever the ratios do.
    level: f64,
    /// Times taken by times expected.
    window: Window,
    /// Batches seen, as far as it matters.
    seen: usize,
    run: Run,
}

/// Batches in a row that were all too slow, or all too fast, by the factor before the first of them.
#[derive(Clone, Copy, Debug)]
struct Run {
    before: f64,
    is_slow: bool,
    /// Times taken by times on the curve.
    ratios: [f64; CHANGE_RUN],
    len: usize,
}

impl Pace {
    /// The model's own pace: what is thought of a worker not heard of yet.
    pub(super) const MODEL: Self = Self {
        factor: 1.0,
        high: HIGH_UNKNOWN,
        level: 1.0 - MISSES,
        window: Window::EMPTY,
        seen: 0,
        run: Run { before: 1.0, is_slow: false, ratios: [0.0; CHANGE_RUN], len: 0 },
    };

    /// Learns that a batch took `ratio` times what the curve says, of which `news` is to be laid to the curve.
    pub(super) fn observe(&mut self, ratio: f64, news: f64) {
        let relative = ratio / self.factor;
        let before = self.factor;
        let followed = GAIN * (1.0 - news) * (relative.clamp(1.0 / RATIO_MAX, RATIO_MAX) - 1.0);
        self.set_factor(self.factor * (1.0 + followed));
        if news > NEWS_MAX {
            return;
        }
        if self.window.len() >= SAMPLES_MIN {
            let missed = if relative > self.high { 1.0 } else { 0.0 };
            self.level = (self.level + LEVEL_STEP * (missed - MISSES)).clamp(LEVEL_MIN, LEVEL_MAX);
        }
        // One that stalled says nothing of how far the others stray, and eight in a row are a change.
        if relative <= RATIO_MAX {
            self.window.push(relative);
        }
        self.seen = (self.seen + 1).min(SAMPLES_MIN);
        if let Some(median) = self.run.observe(ratio, before) {
            self.set_factor(median);
            self.window = Window::EMPTY; // told of the old pace
        }
        self.high = match self.window.len() {
            SAMPLES_MIN.. => self.window.quantile(self.level).max(1.0),
            _ => HIGH_UNKNOWN,
        };
    }

    /// Adapts to a curve that is now `factor` times as high.
    pub(super) fn rebase(&mut self, factor: f64) {
        self.set_factor(self.factor / factor);
        self.run.before /= factor;
        self.run.ratios = self.run.ratios.map(|ratio| ratio / factor);
    }

    pub(super) fn factor(&self) -> f64 {
        self.factor
    }

    pub(super) const fn high(&self) -> f64 {
        self.high
    }

    /// Hardly any batch takes less than so many times what is expected of it. At most 1.
    pub(super) fn low(&self) -> f64 {
        match self.window.len() {
            SAMPLES_MIN.. => self.window.least().min(1.0),
            _ => 1.0 / HIGH_UNKNOWN,
        }
    }

    /// Whether it seems to be changing: the last two batches at least were far off, in the same direction.
    pub(super) fn is_changing(&self) -> bool {
        self.run.len > 1
    }

    /// Whether enough is known of it to be compared with others.
    pub(super) fn is_settled(&self) -> bool {
        self.seen >= SAMPLES_MIN
    }

    fn set_factor(&mut self, factor: f64) {
        self.factor = factor.clamp(1.0 / FACTOR_MAX, FACTOR_MAX);
    }
}

impl Run {
    /// Gives the median of the run when it is long enough, and forgets the run.
    fn observe(&mut self, ratio: f64, factor: f64) -> Option<f64> {
        if self.len == 0 {
            self.before = factor;
            self.is_slow = ratio > factor;
        }
        let is_off = if self.is_slow { ratio > self.before * CHANGE_MIN } else { ratio * CHANGE_MIN < self.before };
        if !is_off {
            self.len = 0;
            return None;
        }
        self.ratios[self.len] = ratio;
        self.len += 1;
        if self.len < CHANGE_RUN {
            return None;
        }
        self.len = 0;
        self.ratios.sort_unstable_by(f64::total_cmp);
        Some((self.ratios[CHANGE_RUN / 2 - 1] + self.ratios[CHANGE_RUN / 2]) / 2.0)
    }
}
