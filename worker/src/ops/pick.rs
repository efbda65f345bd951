//! `y[m] = x[marks[m]]`: [T, H] in, [M, H] out. The rows of marked tokens, in order.

pub(crate) mod cpu;
#[cfg(test)]
pub(crate) mod reference;
