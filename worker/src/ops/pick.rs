//! `y[m] = x[marks[m]]`: [T, H] in, [M, H] out. The rows of marked tokens, in order.

pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod reference;
