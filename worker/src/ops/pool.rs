//! `y[n] = pool(x[first of n..end of n])`: [T, H] in, [N, H] out. One vector for each sequence.

pub(crate) mod candle;
