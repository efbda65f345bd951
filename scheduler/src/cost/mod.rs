//! How long a batch of some size takes on a worker, learned from the batches that ran.
//!
//! A model's time is its [`Curve`], a sum of a base, rows, tokens and squared tokens, times the factor of the worker.
//! [`Shape`](shape::Shape) fits the curve slowly from all workers, [`Pace`](pace::Pace) follows one worker quickly and
//! knows how far its batches stray, and [`Costs`] holds both for one model, beside what [`Paging`](paging::Paging) adds where the
//! model's weights are not on the device.
//!
//! The only floats that the scheduler decides by are here. They are added, subtracted, multiplied, divided and compared, which IEEE 754
//! fixes to the last bit, and no more than that: no `exp`, `ln` or `powf`, which differ from one library to another, and
//! nothing else that needs one. Answers leave as whole nanoseconds, so that whatever is put in order is an integer.
//!
//! Not here: when to calibrate and with what, where curves are kept between runs, and what is done about a slow worker.

mod costs;
mod curve;
mod factor;
mod pace;
mod paging;
mod shape;
mod size;
mod sums;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use costs::Costs;
pub(crate) use curve::Curve;
pub use size::Size;

/// Something of each term of a curve: base, rows, tokens, squares.
type Terms = [f64; 4];

/// The sum of the products, always added in the same order.
fn dot(a: &Terms, b: &Terms) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
}
