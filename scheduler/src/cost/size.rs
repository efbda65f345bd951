//! What decides how long a batch takes.

use crate::Cost;
use crate::cost::Terms;

/// The size of a batch, of a request, or of all that waits in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub rows: u64,
    /// 0 for models that have none.
    pub tokens: u64,
    /// Sum over the rows of the squared token count: what attention costs.
    pub squares: u64,
}

impl Size {
    /// Makes it larger by `other`. Saturates.
    pub const fn add(&mut self, other: Self) {
        self.rows = self.rows.saturating_add(other.rows);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.squares = self.squares.saturating_add(other.squares);
    }

    /// Takes back what was added. Saturates at nothing.
    pub const fn remove(&mut self, other: Self) {
        self.rows = self.rows.saturating_sub(other.rows);
        self.tokens = self.tokens.saturating_sub(other.tokens);
        self.squares = self.squares.saturating_sub(other.squares);
    }

    /// How much there is of what each term of a curve is the price of. The first is the batch itself.
    pub(super) const fn terms(&self) -> Terms {
        [1.0, self.rows as f64, self.tokens as f64, self.squares as f64]
    }
}

impl From<Cost> for Size {
    fn from(cost: Cost) -> Self {
        Self { rows: cost.rows.into(), tokens: cost.tokens.into(), squares: cost.tokens_squared }
    }
}
