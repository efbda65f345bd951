//! The best entries of rows of logits, and what makes them probabilities: [M, V] in. For whoever wants few of many.

pub(crate) mod cuda;
#[cfg(any(test, feature = "gpu-check"))]
pub(crate) mod reference;

/// What is kept of a row of logits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Best {
    pub(crate) largest: f32,
    /// `Σ e^(logit - largest)` over the whole row.
    pub(crate) sum: f32,
    /// Ids and logits: higher logits first, as [`f32::total_cmp`] has it, of equal ones the lower id.
    pub(crate) entries: Vec<(u32, f32)>,
}
