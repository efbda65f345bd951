//! The slow half of what is learned: how a model's time follows from the batch's size.

use crate::cost::factor::Factor;
use crate::cost::sums::Sums;
use crate::cost::{Curve, Size, Terms, dot};

/// How many times too slow or too fast a batch of a well-known size may count: a stall is no property of a size.
const SURPRISE_MAX: f64 = 3.0;
/// How many times too short or too long a prediction may be and still decide the weight of a batch.
const WEIGHT_MAX: f64 = 1.5;
/// How much one batch moves the average of the batches lately.
const USUAL_GAIN: f64 = 0.1;
/// The leverage of what sets a batch apart from the usual, below which it says nothing of the shape. In traffic of all
/// sizes it is about 0.0075 on average …
const CONTRAST_MIN: f64 = 0.001;
/// … unless the shape has seen less than twenty like it.
const PACE_ONLY: f64 = 0.05;
/// A size is well known if the shape would take less than this share of a surprise on itself.
pub(super) const NEWS_MIN: f64 = 0.25;

/// A curve, fitted to the relative errors of all the batches so far, the newest counting most.
///
/// Prior knowledge is trusted for its shape, as a tenth of a batch, and hardly for its level. Where there is none, the
/// first batch takes its place: half of it is said to be base, the other half to grow with tokens, or with rows if it
/// had no tokens. As long as all batches are of that size nothing better is known, and the answer for twice or half the
/// size is right within a third.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    prior: Curve,
    curve: Curve,
    /// The parts it would have if they could be negative.
    free: Terms,
    sums: Sums,
    /// Of the information in `sums`.
    factor: Factor,
    /// Average of the batches lately, each as a share of its time.
    usual: Terms,
}

impl Shape {
    pub(super) fn new(prior: Option<Curve>) -> Self {
        let prior = prior.unwrap_or_default();
        Self {
            prior,
            curve: prior,
            free: prior.parts(),
            sums: Sums::default(),
            factor: Factor::default(),
            usual: [0.0; 4],
        }
    }

    /// Learns from a batch that took `nanos` on a worker of the model's pace. `news` is what [`news`](Self::news) said.
    pub(super) fn learn(&mut self, size: Size, nanos: f64, news: f64) {
        if !self.curve.is_known() {
            self.prior = first_guess(size, nanos);
            self.curve = self.prior;
        }
        let predicted = self.time(size);
        let mut nanos = nanos.max(1.0);
        if news < NEWS_MIN {
            nanos = nanos.clamp(predicted / SURPRISE_MAX, predicted * SURPRISE_MAX);
        }
        if self.is_nothing_new(size, news) {
            return;
        }
        let scale = weight(predicted, nanos);
        let row = size.terms().map(|term| term * scale);
        let leverage = if self.sums.is_empty() { f64::MAX } else { self.factor.leverage(&row) };
        self.sums.add(&row, nanos * scale, dot(&row, &self.free), leverage);
        self.fit();
    }

    /// Makes the curve `factor` times as high, and with it all that was learned.
    pub(super) fn scale(&mut self, factor: f64) {
        self.sums.scale(factor);
        self.factor.scale(1.0 / (factor * factor));
        self.usual = self.usual.map(|term| term / factor);
        self.prior = self.prior.times(factor);
        self.curve = self.curve.times(factor);
        self.free = self.free.map(|part| part * factor);
    }

    pub(super) fn curve(&self) -> Curve {
        self.curve
    }

    /// How long a batch takes in nanoseconds, at least 1, so that it may be divided by.
    pub(super) fn time(&self, size: Size) -> f64 {
        self.curve.time(size).max(1.0)
    }

    /// The share, from 0 to 1, of the surprise in a batch of this size that took `nanos` at the worker's pace, which is
    /// to be laid to the shape and not to the pace: near 1 for sizes unlike any before.
    pub(super) fn news(&self, size: Size, nanos: f64) -> f64 {
        if self.sums.is_empty() {
            return 1.0;
        }
        let scale = weight(self.time(size), nanos.max(1.0));
        let leverage = self.factor.leverage(&size.terms().map(|term| term * scale));
        leverage / (1.0 + leverage)
    }

    /// Whether what it says of this size is more than a guess from sizes unlike it. A prior that nothing was learned
    /// since is taken at its word.
    pub(super) fn knows(&self, size: Size) -> bool {
        self.sums.is_empty() || self.news(size, self.time(size)) < NEWS_MIN
    }

    /// Whether a batch can only tell what all the batches lately told: how fast the workers are.
    fn is_nothing_new(&mut self, size: Size, news: f64) -> bool {
        let scale = 1.0 / self.time(size);
        let mut contrast = size.terms();
        for (term, usual) in contrast.iter_mut().zip(&mut self.usual) {
            *term = *term * scale - *usual;
            *usual += USUAL_GAIN * *term;
        }
        news < PACE_ONLY && self.factor.leverage(&contrast) < CONTRAST_MIN
    }

    fn fit(&mut self) {
        let prior = self.prior.parts();
        let level = self.sums.level(&prior);
        let prior = prior.map(|part| part * level);
        let ridge = self.sums.ridge(&prior);
        let information = self.sums.information(&ridge);
        self.factor = Factor::of(&information);
        let right = self.sums.right(&ridge, &prior);
        self.free = self.factor.solve(&right);
        self.curve = Curve::from_parts(self.sums.project(&information, &right, &self.free));
    }
}

/// Errors count relative to the prediction, but a prediction far off must not decide how much.
fn weight(predicted: f64, nanos: f64) -> f64 {
    1.0 / predicted.clamp(nanos / WEIGHT_MAX, nanos * WEIGHT_MAX)
}

/// What to think after one batch.
fn first_guess(size: Size, nanos: f64) -> Curve {
    let half = nanos.max(1.0) / 2.0;
    match size {
        Size { tokens: 1.., .. } => Curve::new(half, 0.0, half / size.tokens as f64, 0.0),
        Size { rows: 1.., .. } => Curve::new(half, half / size.rows as f64, 0.0, 0.0),
        _ => Curve::new(half * 2.0, 0.0, 0.0, 0.0),
    }
}
