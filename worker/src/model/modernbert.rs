//! ModernBERT (Warner et al. 2024): long inputs, of which most layers look no further than a window.
//!
//! T tokens of all sequences, H the hidden size, F the size between the two halves of a feed-forward block. Norms stand
//! before blocks, and what blocks make is added to what came in.
//!
//! ```text
//! x    [T, H]   word, layer norm
//! for each layer:
//!   qkv  [T, 3H]  norm(x) · Wqkvᵀ, in the first layer x · Wqkvᵀ; then turned by positions
//!   ctx  [T, H]   attention within each sequence, or within a window of it
//!   y    [T, H]   x + ctx · Woᵀ
//!   f    [T, 2F]  norm(y) · Wiᵀ
//!   x    [T, H]   y + (activation(first half of f) · second half) · Woᵀ
//! norm(x)
//! ```

use serde_json::Value;

use super::ReadError;
use super::architecture::{Architecture, Encoded, Head};
use super::config::Config;
use super::head::is_tied;
use crate::plan::{Activation, BufferId, Builder, Dense, Heads, Mask, Norm, NormKind, Pooling};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "modernbert",
    classes: &[
        ("ModernBertModel", Head::Bare),
        ("ModernBertForSequenceClassification", Head::Classify(classify)),
        ("ModernBertForMaskedLM", Head::FillMask(fill_mask)),
    ],
    prefix: "model.",
    heads: &["head.", "classifier.", "decoder."],
    beside_fill_mask: &["decoder.weight"],
    aliases: &[],
    encode,
};

/// Layers of one kind, and what transformers assumes for them.
struct Kind {
    /// In `layer_types` and `rope_parameters`
    name: &'static str,
    /// In older configs
    theta: &'static str,
    theta_default: f32,
}

const FULL: Kind = Kind { name: "full_attention", theta: "global_rope_theta", theta_default: 160_000.0 };
const SLIDING: Kind = Kind { name: "sliding_attention", theta: "local_rope_theta", theta_default: 10_000.0 };

/// What layers are made of.
struct Settings {
    heads: Heads,
    /// H
    hidden: usize,
    /// F
    inner: usize,
    activation: Activation,
    attention_has_bias: bool,
    inner_has_bias: bool,
    norm_has_bias: bool,
    epsilon: f32,
}

fn encode(config: &Config, plan: &mut Builder) -> Result<Encoded, ReadError> {
    let settings = Settings::read(config)?;
    let vocabulary = config.size("vocab_size")?;
    let layers = config.layers("num_hidden_layers")?;
    let kinds = kinds(config, layers)?;
    // To either side, and the token itself.
    let window = Mask::Window(config.size_or("local_attention", 128)? / 2);

    let words = plan.weight(&[WORDS.to_owned()], &[vocabulary, settings.hidden], 0);
    let norm = settings.norm("embeddings.norm", plan);
    let mut x = plan.embed(words, None, None, Some(norm));
    for (index, kind) in kinds.into_iter().enumerate() {
        let mask = if kind.name == FULL.name { Mask::None } else { window };
        x = settings.layer(index, x, (mask, theta(config, kind)?), plan);
    }
    let norm = settings.norm("final_norm", plan);
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

const WORDS: &str = "embeddings.tok_embeddings.weight";

impl Settings {
    fn read(config: &Config) -> Result<Self, ReadError> {
        let (hidden, count) = config.multiple("hidden_size", "num_attention_heads")?;
        let width = hidden / count;
        if !width.is_multiple_of(2) {
            return Err(config.wrong("hidden_size", "an even multiple of num_attention_heads"));
        }
        Ok(Self {
            heads: Heads { count, shared: count, width },
            hidden,
            inner: config.size("intermediate_size")?,
            activation: config.activation_or("hidden_activation", "gelu")?,
            attention_has_bias: config.flag_or("attention_bias", false)?,
            inner_has_bias: config.flag_or("mlp_bias", false)?,
            norm_has_bias: config.flag_or("norm_bias", false)?,
            epsilon: config.epsilon_or("norm_eps", 1e-5)?,
        })
    }

    fn norm(&self, name: &str, plan: &mut Builder) -> Norm {
        if self.norm_has_bias {
            plan.norm(name, self.hidden, self.epsilon)
        } else {
            plan.gain(name, self.hidden, NormKind::Layer, self.epsilon)
        }
    }

    fn layer(&self, index: usize, x: BufferId, (mask, base): (Mask, f32), plan: &mut Builder) -> BufferId {
        let tensor = |name: &str| format!("layers.{index}.{name}");
        let buffer = |what: &str| format!("layer {index} {what}");
        let linear = |name: &str, (outputs, inputs): (usize, usize), has_bias: bool, plan: &mut Builder| {
            plan.linear(&[(tensor(name), outputs)], inputs, has_bias)
        };

        // The embeddings have been normalised already.
        let normed = if index == 0 {
            x
        } else {
            let norm = self.norm(&tensor("attn_norm"), plan);
            plan.add_norm(&buffer("attention norm"), x, None, norm)
        };
        let qkv = linear("attn.Wqkv", (self.heads.row(), self.hidden), self.attention_has_bias, plan);
        let qkv = plan.gemm(&buffer("qkv"), normed, qkv);
        let qkv = plan.rotate(&buffer("turned qkv"), qkv, self.heads, None, base);
        let context = plan.attend(&buffer("context"), qkv, self.heads, mask);
        let out = linear("attn.Wo", (self.hidden, self.hidden), self.attention_has_bias, plan);
        let y = plan.gemm_onto(&buffer("attention"), context, out, Some(x));

        let norm = self.norm(&tensor("mlp_norm"), plan);
        let normed = plan.add_norm(&buffer("inner norm"), y, None, norm);
        let up = linear("mlp.Wi", (2 * self.inner, self.hidden), self.inner_has_bias, plan);
        let up = plan.gemm(&buffer("up"), normed, up);
        let gated = plan.gate(&buffer("gated"), up, self.activation);
        let down = linear("mlp.Wo", (self.hidden, self.inner), self.inner_has_bias, plan);
        plan.gemm_onto(&buffer("output"), gated, down, Some(y))
    }
}

/// The kind of each layer: as the config lists them, or one of so many looks at everything.
fn kinds(config: &Config, layers: usize) -> Result<Vec<&'static Kind>, ReadError> {
    let Some(listed) = config.value("layer_types") else {
        let every = config.size_or("global_attn_every_n_layers", 3)?;
        return Ok((0..layers).map(|index| if index % every == 0 { &FULL } else { &SLIDING }).collect());
    };
    let kind = |name: &Value| [&FULL, &SLIDING].into_iter().find(|kind| name == kind.name);
    let kinds = listed.as_array().and_then(|names| names.iter().map(kind).collect::<Option<Vec<_>>>());
    let wanted = || format!("{layers} times {} or {}", FULL.name, SLIDING.name);
    kinds.filter(|kinds| kinds.len() == layers).ok_or_else(|| config.wrong("layer_types", wanted()))
}

/// By what positions turn layers of a kind.
fn theta(config: &Config, kind: &Kind) -> Result<f32, ReadError> {
    // Older configs that leave the windows' out on purpose mean that of the others.
    let named = if config.is_null(kind.theta) { &FULL } else { kind };
    let default = config.positive_or(named.theta, named.theta_default)?;
    let default = config.rotary_base("rope_scaling", config.value("rope_scaling"), default)?;
    let all = config.value("rope_parameters");
    // One for all kinds of layers is none of this architecture's.
    if all.is_some_and(|all| !all.is_object() || all.get("rope_type").is_some() || all.get("rope_theta").is_some()) {
        return Err(config.wrong("rope_parameters", format!("one object each for {} and {}", FULL.name, SLIDING.name)));
    }
    config.rotary_base("rope_parameters", all.and_then(|all| all.get(kind.name)), default)
}

/// Scores labels by the first token or by the mean of all.
fn classify(config: &Config, encoded: &Encoded, labels: usize, plan: &mut Builder) -> Result<BufferId, ReadError> {
    let pooling = match config.text("classifier_pooling") {
        Some("mean") => Pooling::Mean,
        Some("cls") => Pooling::Cls,
        _ if config.value("classifier_pooling").is_none() => Pooling::Cls,
        _ => return Err(config.wrong("classifier_pooling", "one of cls, mean")),
    };
    let pooled = plan.pool(encoded.states, pooling);
    let states = head(config, encoded, pooled, plan)?;
    let scores = plan.dense("classifier", (labels, encoded.hidden), Activation::Identity);
    Ok(plan.gemm("logits", states, scores))
}

/// Scores all tokens for each mask.
fn fill_mask(config: &Config, encoded: &Encoded, plan: &mut Builder) -> Result<BufferId, ReadError> {
    let picked = plan.pick(encoded.states);
    let states = head(config, encoded, picked, plan)?;
    let (hidden, vocabulary) = (encoded.hidden, encoded.vocabulary);
    let weight = if is_tied(config)? { WORDS } else { "decoder.weight" };
    let has_bias = config.flag_or("decoder_bias", true)?;
    let decoder = Dense {
        weight: plan.weight(&[weight.to_owned()], &[vocabulary, hidden], 0),
        bias: has_bias.then(|| plan.weight(&["decoder.bias".to_owned()], &[vocabulary], 0)),
        activation: Activation::Identity,
    };
    Ok(plan.gemm("logits", states, decoder))
}

/// What both heads begin with: a dense layer with an activation, and a norm.
fn head(config: &Config, encoded: &Encoded, input: BufferId, plan: &mut Builder) -> Result<BufferId, ReadError> {
    let has_bias = config.flag_or("classifier_bias", false)?;
    let activation = config.activation_or("classifier_activation", "gelu")?;
    let dense = plan.linear(&[("head.dense".to_owned(), encoded.hidden)], encoded.hidden, has_bias);
    let dense = plan.gemm("head", input, Dense { activation, ..dense });
    let norm = Settings::read(config)?.norm("head.norm", plan);
    Ok(plan.add_norm("head norm", dense, None, norm))
}
