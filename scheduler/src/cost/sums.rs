//! The sums that a least-squares fit is solved from.

use crate::cost::factor::{Factor, Matrix};
use crate::cost::{Terms, dot};

/// The share of what is known in the direction of a row that the row replaces: the last hundred rows of one size count,
/// four hundred of all sizes.
const FORGET: f64 = 0.01;
/// As how many rows the prior counts, for ever: rows are off by about 10 %, the parts of a prior by 30 % and more.
const RIDGE: f64 = 0.1;
/// Least share of an average row's time that a part of the prior is thought able to have.
const PART_MIN: f64 = 0.3;
/// A square of a part that is smaller is this: its inverse must not overflow.
const SQUARE_MIN: f64 = 1e-40;
/// Least share of a term's information that its ridge is: terms that rows never tell apart must not round to nothing.
const RIDGE_SHARE_MIN: f64 = 1e-9;
/// Stands in for the ridge of a term that no row had: small beside any that has, and no zero.
const RIDGE_MIN: f64 = 1e-60;

/// Rows and their targets. What is known is forgotten only where a new row says the same anew (directional forgetting;
/// Kulhavý, 1987): a night of equal batches wears out nothing that others said.
///
/// The information is summed, not its inverse, the covariance. So the ridge stays, where a recursion of the covariance
/// forgets it too, and it bounds the covariance from above. No row ever takes more than it brings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    /// Sum of `row·rowᵀ`; the lower half only.
    rows: Matrix,
    /// Sum of `row·target`.
    targets: Terms,
    /// Average of each term's square, lately.
    squares: Terms,
    /// Rows added, until enough to tell an average.
    count: f64,
    /// Terms that the last solution held at zero, as bits: where the next one begins to look.
    held: u8,
}

impl Sums {
    /// Adds a row, in whose direction the row takes the place of some of what is known. `said` is what was known of the
    /// target without holding terms at zero, and `leverage` how little that was.
    pub(super) fn add(&mut self, row: &Terms, target: f64, said: f64, leverage: f64) {
        let forget = if leverage > FORGET { FORGET / leverage } else { 1.0 };
        self.count = (self.count + 1.0).min(1.0 / FORGET);
        for i in 0..4 {
            for j in 0..=i {
                self.rows[i][j] += (1.0 - forget) * row[i] * row[j];
            }
            self.targets[i] += row[i] * (target - forget * said);
            self.squares[i] += (row[i] * row[i] - self.squares[i]) / self.count;
        }
    }

    /// As if all times, of rows and targets, had been `factor` times as long.
    pub(super) fn scale(&mut self, factor: f64) {
        let (once, twice) = (1.0 / factor, 1.0 / (factor * factor));
        self.rows = self.rows.map(|row| row.map(|sum| sum * twice));
        self.squares = self.squares.map(|sum| sum * twice);
        self.targets = self.targets.map(|sum| sum * once);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0.0
    }

    /// By what the rows say `prior` must be multiplied, the prior itself being a row that says 1.
    pub(super) fn level(&self, prior: &Terms) -> f64 {
        let square = dot(&self.times(prior), prior);
        let own = RIDGE * dot(&self.squares, &prior.map(|part| part * part));
        if square + own > 0.0 { (dot(&self.targets, prior).max(0.0) + own) / (square + own) } else { 1.0 }
    }

    /// How firmly each term is held to `prior`: as if [`RIDGE`] rows had said it of a batch that this term alone makes.
    /// So what the rows do not tell apart changes in proportion, and a small part of the prior is not blown up to
    /// explain what may as well be a change of a large one. Parts are taken for no smaller than [`PART_MIN`] of the
    /// time of an average row, so that they can grow.
    pub(super) fn ridge(&self, prior: &Terms) -> Terms {
        let mut ridge = [0.0; 4];
        for (i, weight) in ridge.iter_mut().enumerate() {
            let square = self.squares[i];
            let seen = if square > 0.0 { PART_MIN * PART_MIN / square } else { 0.0 };
            let part = (prior[i] * prior[i]).max(seen);
            let weakest = (RIDGE_SHARE_MIN * self.rows[i][i]).max(RIDGE_MIN);
            *weight = if part > 0.0 { (RIDGE / part.max(SQUARE_MIN)).max(weakest) } else { weakest };
        }
        ridge
    }

    /// The information of the rows and the ridge.
    pub(super) fn information(&self, ridge: &Terms) -> Matrix {
        let mut matrix = self.rows;
        for (i, row) in matrix.iter_mut().enumerate() {
            row[i] += ridge[i];
        }
        matrix
    }

    /// What the terms are drawn to: the targets, and `prior` as firmly as the ridge holds to it.
    pub(super) fn right(&self, ridge: &Terms, prior: &Terms) -> Terms {
        let mut right = self.targets;
        for (i, sum) in right.iter_mut().enumerate() {
            *sum += ridge[i] * prior[i];
        }
        right
    }

    /// The best terms of which none is negative. `free` are the best if they may be.
    ///
    /// Negative terms are held at zero and the others solved anew, until no term that is free is negative and none that
    /// is held would rather be positive. Changing the last offender only, as here, never returns to the same choice
    /// (Murty, 1974), so the loop ends.
    pub(super) fn project(&mut self, information: &Matrix, right: &Terms, free: &Terms) -> Terms {
        for _ in 0..16 {
            let solution = match self.held {
                0 => *free,
                held => solve_free(information, right, held),
            };
            let offends = |i: &usize| {
                if self.held & (1 << i) == 0 {
                    solution[*i] < 0.0
                } else {
                    right[*i] > across(information, *i, &solution)
                }
            };
            match (0..4).rev().find(offends) {
                Some(i) => self.held ^= 1 << i,
                None => return solution,
            }
        }
        // Only rounding can lead here, between two choices that are as good as each other.
        solve_free(information, right, self.held).map(|term| term.max(0.0))
    }

    fn times(&self, terms: &Terms) -> Terms {
        [0, 1, 2, 3].map(|i| across(&self.rows, i, terms))
    }
}

/// Row `i` of the symmetric matrix of which only the lower half is kept, times `terms`.
fn across(matrix: &Matrix, i: usize, terms: &Terms) -> f64 {
    let mut sum = 0.0;
    for (j, term) in terms.iter().enumerate() {
        sum += matrix[i.max(j)][i.min(j)] * term;
    }
    sum
}

/// Solves with the terms in `held` at zero.
fn solve_free(matrix: &Matrix, right: &Terms, held: u8) -> Terms {
    let (mut matrix, mut right) = (*matrix, *right);
    let is_held = |i: usize| held & (1 << i) != 0;
    for (i, row) in matrix.iter_mut().enumerate() {
        for (j, sum) in row.iter_mut().enumerate() {
            if is_held(i) || is_held(j) {
                *sum = if i == j { 1.0 } else { 0.0 };
            }
        }
        if is_held(i) {
            right[i] = 0.0;
        }
    }
    Factor::of(&matrix).solve(&right)
}
