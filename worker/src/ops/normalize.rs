//! `x[t] = layer_norm(x[t] + residual[t]) · gain + shift`, in place: the end of every block of an encoder.

pub(crate) mod candle;
