//! A symmetric positive matrix of four rows, taken apart to solve with.

use crate::cost::Terms;

pub(super) type Matrix = [Terms; 4];

/// The matrix as L·D·Lᵀ: without the square roots of Cholesky, and like it indifferent to the scales of the terms.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Factor {
    /// L, whose diagonal of ones is not kept.
    lower: Matrix,
    /// One over D.
    inverse: Terms,
}

impl Factor {
    /// Reads the lower half of `matrix`, whose diagonal is positive and clearly outweighs what makes it singular.
    pub(super) fn of(matrix: &Matrix) -> Self {
        let mut this = Self::default();
        for (i, row) in matrix.iter().enumerate() {
            let mut scaled = [0.0; 4];
            let mut pivot = row[i];
            for j in 0..i {
                let mut sum = row[j];
                for (above, lower) in scaled[..j].iter().zip(&this.lower[j]) {
                    sum -= above * lower;
                }
                scaled[j] = sum;
                this.lower[i][j] = sum * this.inverse[j];
                pivot -= sum * this.lower[i][j];
            }
            this.inverse[i] = 1.0 / pivot;
        }
        this
    }

    /// As if the matrix had been `factor` times as large.
    pub(super) fn scale(&mut self, factor: f64) {
        self.inverse = self.inverse.map(|inverse| inverse / factor);
    }

    /// The vector that the matrix turns into `right`.
    pub(super) fn solve(&self, right: &Terms) -> Terms {
        let mut x = self.forward(right);
        for i in (0..4).rev() {
            x[i] *= self.inverse[i];
            for k in i + 1..4 {
                x[i] -= self.lower[k][i] * x[k];
            }
        }
        x
    }

    /// `rowᵀ·M⁻¹·row`: how little the matrix knows in the direction of `row`.
    pub(super) fn leverage(&self, row: &Terms) -> f64 {
        let x = self.forward(row);
        x[0] * x[0] * self.inverse[0]
            + x[1] * x[1] * self.inverse[1]
            + x[2] * x[2] * self.inverse[2]
            + x[3] * x[3] * self.inverse[3]
    }

    fn forward(&self, right: &Terms) -> Terms {
        let mut x = *right;
        for i in 1..4 {
            for k in 0..i {
                x[i] -= self.lower[i][k] * x[k];
            }
        }
        x
    }
}
