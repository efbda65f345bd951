//! BERT encoders (Devlin et al. 2018): all-MiniLM, BGE, E5 and their like.
//!
//! Packed: T tokens of all sequences, one after the other with no padding. H is the hidden size, F the size between the
//! two halves of a feed-forward block, V the vocabulary, P the longest sequence.
//!
//! ```text
//! x    [T, H]   embed ids [T]: word + position + token type 0, layer norm
//! for each layer:
//!   qkv  [T, 3H]  x · Wqkv [H, 3H] + b
//!   ctx  [T, H]   attention within each sequence
//!   y    [T, H]   layer norm(ctx · Wo [H, H] + b + x)
//!   f    [T, F]   activation(y · Wup [H, F] + b)
//!   x    [T, H]   layer norm(f · Wdown [F, H] + b + y)
//! ```
//!
//! Weights are transposed once, when read: products with few rows run twice as fast on `[in, out]`. Query, key and value
//! are one product. A token's numbers depend on its own sequence alone.

use std::path::Path;

use candle_core::{Result, Tensor};
use serde::Deserialize;

use super::ReadError;
use super::weights::Weights;
use crate::ops::activate::{Activate, Activation};
use crate::ops::attend::Attend;
use crate::ops::embed::Embed;
use crate::ops::normalize::{AddNormalize, Norm};

#[cfg(test)]
mod tests;

/// Architectures of `config.json` that this file runs, by their common encoder.
const ARCHITECTURES: [&str; 3] = ["BertModel", "BertForMaskedLM", "BertForPreTraining"];
/// Prefixes of tensor names: a bare encoder's and one with a head beside it.
pub(crate) const PREFIXES: &[&str] = &["", "bert."];
/// A tensor every BERT has.
pub(crate) const PROBE: &str = "embeddings.word_embeddings.weight";
/// No size in a config is larger: the largest BERT has 1024 hidden, the largest vocabulary half a million.
const SIZE_MAX: usize = 1 << 20;

/// The part of `config.json` that matters.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct BertConfig {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: String,
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    pub(crate) max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "epsilon")]
    layer_norm_eps: f32,
    position_embedding_type: Option<String>,
}

fn two() -> usize {
    2
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn epsilon() -> f32 {
    1e-12
}

impl BertConfig {
    /// Refuses what would not run, naming the field.
    pub(crate) fn check(&self, path: &Path) -> std::result::Result<(), ReadError> {
        let field = |field: &'static str, found: String, wanted: String| {
            Err(ReadError::Field { path: path.to_owned(), field, found, wanted })
        };
        if self.model_type != "bert" {
            let (architectures, kind) = (self.architectures.join(", "), &self.model_type);
            let what = format!("architecture `{architectures}` (model_type `{kind}`) is not supported, only `bert`");
            return Err(ReadError::Unsupported { path: path.to_owned(), what });
        }
        if let Some(other) = self.architectures.iter().find(|name| !ARCHITECTURES.contains(&name.as_str())) {
            let what = format!("architecture `{other}` is not supported, only {}", ARCHITECTURES.join(", "));
            return Err(ReadError::Unsupported { path: path.to_owned(), what });
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| *size == 0 || *size > SIZE_MAX) {
            return field(name, size.to_string(), format!("from 1 to {SIZE_MAX}"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let wanted = format!("a multiple of num_attention_heads, {}", self.num_attention_heads);
            return field("hidden_size", self.hidden_size.to_string(), wanted);
        }
        if activation(&self.hidden_act).is_none() {
            return field("hidden_act", self.hidden_act.clone(), ACTIVATIONS.to_owned());
        }
        if !(0.0..1.0).contains(&self.layer_norm_eps) {
            return field("layer_norm_eps", self.layer_norm_eps.to_string(), "from 0 to 1".to_owned());
        }
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => Ok(()),
            Some(other) => field("position_embedding_type", other.to_owned(), "absolute".to_owned()),
        }
    }
}

const ACTIVATIONS: &str = "one of gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu";

fn activation(name: &str) -> Option<Activation> {
    match name {
        "gelu" => Some(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Activation::GeluTanh),
        "relu" => Some(Activation::Relu),
        _ => None,
    }
}

/// An encoder in memory.
#[derive(Debug)]
pub(crate) struct Bert {
    embed: Embed,
    layers: Vec<Layer>,
    heads: usize,
    parameters: u64,
}

#[derive(Debug)]
struct Layer {
    /// [H, 3H]
    qkv: Tensor,
    qkv_bias: Activate,
    /// [H, H]
    out: Tensor,
    out_norm: AddNormalize,
    /// [H, F]
    up: Tensor,
    up_activation: Activate,
    /// [F, H]
    down: Tensor,
    down_norm: AddNormalize,
}

impl Bert {
    /// Reads an encoder. `progress` is told the part that is done.
    pub(crate) fn read(
        config: &BertConfig,
        weights: &Weights<'_>,
        progress: &mut dyn FnMut(f32),
    ) -> std::result::Result<Self, ReadError> {
        let reader = Reader { config, weights };
        let embed = reader.embed()?;
        let count = config.num_hidden_layers;
        let mut layers = Vec::with_capacity(count);
        for index in 0..count {
            progress(index as f32 / count as f32);
            layers.push(reader.layer(index)?);
        }
        let parameters = embed.parameters() + layers.iter().map(Layer::parameters).sum::<u64>();
        Ok(Self { embed, layers, heads: config.num_attention_heads, parameters })
    }

    /// Numbers held in memory.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Ids `[T]` in, hidden states `[T, H]` out. `splits` are where sequences begin and, last, where they end; ids are below
    /// V and sequences at most P long.
    pub(crate) fn forward(&self, ids: &[u32], splits: &[usize]) -> Result<Tensor> {
        let mut x = self.embed.forward(ids, splits)?;
        for layer in &self.layers {
            let qkv = x.matmul(&layer.qkv)?;
            qkv.inplace_op1(&layer.qkv_bias)?;
            let attended = qkv.apply_op1_no_bwd(&Attend { heads: self.heads, splits })?;
            let y = attended.matmul(&layer.out)?;
            y.inplace_op2(&x, &layer.out_norm)?;
            let f = y.matmul(&layer.up)?;
            f.inplace_op1(&layer.up_activation)?;
            x = f.matmul(&layer.down)?;
            x.inplace_op2(&y, &layer.down_norm)?;
        }
        Ok(x)
    }
}

impl Layer {
    fn parameters(&self) -> u64 {
        let weights = [&self.qkv, &self.out, &self.up, &self.down].map(Tensor::elem_count);
        let biases = [&self.qkv_bias.bias, &self.out_norm.bias, &self.up_activation.bias, &self.down_norm.bias];
        let norms = [&self.out_norm.norm, &self.down_norm.norm].map(|norm| norm.gain.len() * 2);
        (weights.iter().sum::<usize>() + biases.map(Vec::len).iter().sum::<usize>() + norms.iter().sum::<usize>())
            as u64
    }
}

/// Names and shapes of a BERT's tensors.
struct Reader<'a> {
    config: &'a BertConfig,
    weights: &'a Weights<'a>,
}

impl Reader<'_> {
    fn embed(&self) -> std::result::Result<Embed, ReadError> {
        let BertConfig { hidden_size: h, vocab_size, max_position_embeddings, type_vocab_size, .. } = *self.config;
        let words = self.weights.values(PROBE, &[vocab_size, h])?;
        let mut positions =
            self.weights.values("embeddings.position_embeddings.weight", &[max_position_embeddings, h])?;
        // Every token is of type 0, so its vector is part of every position's.
        let types = self.weights.values("embeddings.token_type_embeddings.weight", &[type_vocab_size, h])?;
        for row in positions.chunks_exact_mut(h) {
            row.iter_mut().zip(&types).for_each(|(x, kind)| *x += kind);
        }
        Ok(Embed { words, positions, norm: self.norm("embeddings.LayerNorm")? })
    }

    fn layer(&self, index: usize) -> std::result::Result<Layer, ReadError> {
        let BertConfig { hidden_size: h, intermediate_size: f, .. } = *self.config;
        let at = format!("encoder.layer.{index}");
        let parts = ["query", "key", "value"].map(|part| format!("{at}.attention.self.{part}"));
        let mut weights = Vec::with_capacity(parts.len());
        let mut bias = Vec::with_capacity(3 * h);
        for part in &parts {
            weights.push(self.weights.tensor(&format!("{part}.weight"), &[h, h])?);
            bias.extend(self.weights.values(&format!("{part}.bias"), &[h])?);
        }
        let activation = activation(&self.config.hidden_act).unwrap_or(Activation::Gelu);
        Ok(Layer {
            qkv: Tensor::cat(&weights, 0)?.t()?.contiguous()?,
            qkv_bias: Activate { bias, activation: Activation::Identity },
            out: self.matrix(&format!("{at}.attention.output.dense"), h, h)?,
            out_norm: self.add_normalize(&format!("{at}.attention.output"))?,
            up: self.matrix(&format!("{at}.intermediate.dense"), h, f)?,
            up_activation: Activate {
                bias: self.weights.values(&format!("{at}.intermediate.dense.bias"), &[f])?,
                activation,
            },
            down: self.matrix(&format!("{at}.output.dense"), f, h)?,
            down_norm: self.add_normalize(&format!("{at}.output"))?,
        })
    }

    /// A weight, stored [out, in], as [in, out].
    fn matrix(&self, name: &str, inputs: usize, outputs: usize) -> std::result::Result<Tensor, ReadError> {
        Ok(self.weights.tensor(&format!("{name}.weight"), &[outputs, inputs])?.t()?.contiguous()?)
    }

    fn add_normalize(&self, name: &str) -> std::result::Result<AddNormalize, ReadError> {
        let bias = self.weights.values(&format!("{name}.dense.bias"), &[self.config.hidden_size])?;
        Ok(AddNormalize { bias, norm: self.norm(&format!("{name}.LayerNorm"))? })
    }

    fn norm(&self, name: &str) -> std::result::Result<Norm, ReadError> {
        let shape = [self.config.hidden_size];
        Ok(Norm {
            gain: self.weights.values(&format!("{name}.weight"), &shape)?,
            shift: self.weights.values(&format!("{name}.bias"), &shape)?,
            epsilon: self.config.layer_norm_eps,
        })
    }
}
