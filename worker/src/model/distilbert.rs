//! DistilBERT (Sanh et al. 2019): BERT with half the layers and no segments.

use super::ReadError;
use super::architecture::{Architecture, Encoded, Head};
use super::config::Config;
use super::encoder::{Embeddings, Encoder, LayerNames};
use super::head::{self, Labeller, MaskFiller};
use crate::plan::{Activation, BufferId, Builder};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "distilbert",
    classes: &[
        ("DistilBertModel", Head::Bare),
        ("DistilBertForSequenceClassification", Head::Classify(classify)),
        ("DistilBertForMaskedLM", Head::FillMask(fill_mask)),
    ],
    prefix: "distilbert.",
    heads: &[
        "pre_classifier.",
        "classifier.",
        "qa_outputs.",
        "vocab_transform.",
        "vocab_layer_norm.",
        "vocab_projector.",
    ],
    beside_fill_mask: &["vocab_projector."],
    aliases: &[],
    encode,
};

const LAYER: LayerNames = LayerNames {
    layer: "transformer.layer",
    qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    out: "attention.out_lin",
    out_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    down_norm: "output_layer_norm",
};

/// In its code, not in its settings.
const EPSILON: f32 = 1e-12;

fn encode(config: &Config, plan: &mut Builder) -> Result<Encoded, ReadError> {
    let (hidden, heads) = config.multiple("dim", "n_heads")?;
    let encoder = Encoder {
        embeddings: Embeddings {
            vocabulary: config.size("vocab_size")?,
            positions: config.size("max_position_embeddings")?,
            skip: 0,
            types: None,
        },
        hidden,
        heads,
        inner: config.size("hidden_dim")?,
        layers: config.layers("n_layers")?,
        activation: config.activation_or("activation", "gelu")?,
        epsilon: EPSILON,
        names: &LAYER,
    };
    let states = encoder.write(plan);
    Ok(encoder.encoded(states, 0))
}

fn classify(_: &Config, encoded: &Encoded, labels: usize, plan: &mut Builder) -> Result<BufferId, ReadError> {
    let labeller = Labeller { dense: "pre_classifier", activation: Activation::Relu, scores: "classifier" };
    Ok(labeller.write(encoded, labels, plan))
}

fn fill_mask(config: &Config, encoded: &Encoded, plan: &mut Builder) -> Result<BufferId, ReadError> {
    let filler = MaskFiller {
        dense: "vocab_transform",
        activation: encoded.activation,
        norm: "vocab_layer_norm",
        decoder: "vocab_projector",
        bias: "vocab_projector.bias".to_owned(),
        is_tied: head::is_tied(config)?,
    };
    Ok(filler.write(encoded, plan))
}
