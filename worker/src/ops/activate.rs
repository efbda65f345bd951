//! `x[t, f] = activation(x[t, f] + bias[f])`, in place. What follows a matrix product.

pub(crate) mod candle;
#[cfg(test)]
pub(crate) mod reference;
