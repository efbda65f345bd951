//! Qwen3 (Yang et al. 2025) as an encoder: Qwen3-Embedding and its like, whose last token has seen the whole text.
//!
//! T tokens of all sequences, H the hidden size, Q the queries, keys and values of a token, F the size between the two
//! halves of a feed-forward block.
//!
//! ```text
//! x    [T, H]   word
//! for each layer:
//!   qkv  [T, Q]   norm(x) · Wqkvᵀ; then each head of queries and keys normalised and turned by positions
//!   ctx  [T, heads · D]  attention to what is before; several heads share keys and values
//!   y    [T, H]   x + ctx · Woᵀ
//!   f    [T, 2F]  norm(y) · Wgateᵀ and norm(y) · Wupᵀ
//!   x    [T, H]   y + (activation(first half of f) · second half) · Wdownᵀ
//! norm(x)
//! ```

use super::ReadError;
use super::architecture::{Architecture, Encoded, Head};
use super::config::Config;
use crate::plan::{Activation, BufferId, Builder, Heads, Mask, NormKind};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "qwen3",
    classes: &[("Qwen3Model", Head::Bare), ("Qwen3ForCausalLM", Head::Generate)],
    prefix: "model.",
    heads: &["lm_head."],
    beside_fill_mask: &[],
    aliases: &[],
    encode,
};

/// What layers are made of.
struct Settings {
    heads: Heads,
    /// H
    hidden: usize,
    /// F
    inner: usize,
    activation: Activation,
    attention_has_bias: bool,
    mask: Mask,
    /// By what positions turn.
    base: f32,
    epsilon: f32,
}

fn encode(config: &Config, plan: &mut Builder) -> Result<Encoded, ReadError> {
    let settings = Settings::read(config)?;
    let vocabulary = config.size("vocab_size")?;
    let words = plan.weight(&["embed_tokens.weight".to_owned()], &[vocabulary, settings.hidden], 0);
    let mut x = plan.embed(words, None, None, None);
    for index in 0..config.layers("num_hidden_layers")? {
        x = settings.layer(index, x, plan);
    }
    let norm = plan.gain("norm", settings.hidden, NormKind::Rms, settings.epsilon);
    Ok(Encoded {
        states: plan.add_norm("states", x, None, norm),
        hidden: settings.hidden,
        vocabulary,
        tokens_max: config.size("max_position_embeddings")?,
        types: 0,
        activation: settings.activation,
        epsilon: settings.epsilon,
    })
}

impl Settings {
    fn read(config: &Config) -> Result<Self, ReadError> {
        let layers = config.layers("num_hidden_layers")?;
        let has_window = config.flag_or("use_sliding_window", false)? && config.value("sliding_window").is_some();
        if has_window && config.index_or("max_window_layers", 28, usize::MAX)? < layers {
            return Err(config.wrong("use_sliding_window", "false, or max_window_layers as many as layers"));
        }
        let count = config.size("num_attention_heads")?;
        let shared = config.size_or("num_key_value_heads", count)?;
        if !count.is_multiple_of(shared) {
            return Err(config.wrong("num_key_value_heads", format!("a divisor of num_attention_heads, {count}")));
        }
        let width = config.size_or("head_dim", 128)?;
        if !width.is_multiple_of(2) {
            return Err(config.wrong("head_dim", "even"));
        }
        let base = config.positive_or("rope_theta", 10_000.0)?;
        // Older configs name what newer ones call parameters for what differs from the default alone.
        let base = config.rotary_base("rope_scaling", config.value("rope_scaling"), base)?;
        Ok(Self {
            heads: Heads { count, shared, width },
            hidden: config.size("hidden_size")?,
            inner: config.size("intermediate_size")?,
            activation: config.activation_or("hidden_act", "silu")?,
            attention_has_bias: config.flag_or("attention_bias", false)?,
            // Some were trained on to look both ways.
            mask: if config.flag_or("is_causal", true)? { Mask::Causal } else { Mask::None },
            base: config.rotary_base("rope_parameters", config.value("rope_parameters"), base)?,
            epsilon: config.epsilon_or("rms_norm_eps", 1e-6)?,
        })
    }

    fn layer(&self, index: usize, x: BufferId, plan: &mut Builder) -> BufferId {
        let Self { heads, hidden, inner, .. } = *self;
        let tensor = |name: &str| format!("layers.{index}.{name}");
        let buffer = |what: &str| format!("layer {index} {what}");
        let part = |name: &str, outputs: usize| (tensor(name), outputs);

        let norm = plan.gain(&tensor("input_layernorm"), hidden, NormKind::Rms, self.epsilon);
        let normed = plan.add_norm(&buffer("attention norm"), x, None, norm);
        let parts = [
            part("self_attn.q_proj", heads.queries()),
            part("self_attn.k_proj", heads.keys()),
            part("self_attn.v_proj", heads.keys()),
        ];
        let qkv = plan.linear(&parts, hidden, self.attention_has_bias);
        let qkv = plan.gemm(&buffer("qkv"), normed, qkv);
        let norms = ["self_attn.q_norm", "self_attn.k_norm"]
            .map(|name| plan.gain(&tensor(name), heads.width, NormKind::Rms, self.epsilon));
        let qkv = plan.rotate(&buffer("turned qkv"), qkv, heads, Some(norms), self.base);
        let context = plan.attend(&buffer("context"), qkv, heads, self.mask);
        let out = plan.linear(&[part("self_attn.o_proj", hidden)], heads.queries(), self.attention_has_bias);
        let y = plan.gemm_onto(&buffer("attention"), context, out, Some(x));

        let norm = plan.gain(&tensor("post_attention_layernorm"), hidden, NormKind::Rms, self.epsilon);
        let normed = plan.add_norm(&buffer("inner norm"), y, None, norm);
        let up = plan.linear(&[part("mlp.gate_proj", inner), part("mlp.up_proj", inner)], hidden, false);
        let up = plan.gemm(&buffer("up"), normed, up);
        let gated = plan.gate(&buffer("gated"), up, self.activation);
        let down = plan.linear(&[part("mlp.down_proj", hidden)], inner, false);
        plan.gemm_onto(&buffer("output"), gated, down, Some(y))
    }
}
