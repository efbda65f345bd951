//! `x[t] = layer_norm(words[id[t]] + positions[place of t in its sequence] + types[type[t]])`: `[T]` ids in, `[T, H]` out.

pub(crate) mod candle;
