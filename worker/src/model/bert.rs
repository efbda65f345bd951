//! BERT (Devlin et al. 2018): all-MiniLM, BGE, E5 and their like, and cross-encoders made of them.

use super::ReadError;
use super::architecture::{Architecture, Encoded, Head};
use super::config::Config;
use super::encoder::{Embeddings, Encoder, LayerNames};
use super::head::{self, Labeller, MaskFiller};
use crate::plan::{Activation, BufferId, Builder};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "bert",
    classes: &[
        ("BertModel", Head::Bare),
        ("BertForSequenceClassification", Head::Classify(classify)),
        ("BertForMaskedLM", Head::FillMask(fill_mask)),
        ("BertForPreTraining", Head::FillMask(fill_mask)),
    ],
    prefix: "bert.",
    heads: &["pooler.", "cls.", "classifier.", "qa_outputs."],
    beside_fill_mask: &["pooler.", "cls.seq_relationship.", "cls.predictions.decoder.", "cls.predictions.bias"],
    aliases: &[("cls.predictions.bias", "cls.predictions.decoder.bias")],
    encode,
};

const LAYER: LayerNames = LayerNames {
    layer: "encoder.layer",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    out: "attention.output.dense",
    out_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    down_norm: "output.LayerNorm",
};

fn encode(config: &Config, plan: &mut Builder) -> Result<Encoded, ReadError> {
    let encoder = read(config)?;
    // The only one of its relatives whose tokenizer tells the segments of a pair apart.
    let types = config.size_or("type_vocab_size", 2)?;
    let states = encoder.write(plan);
    Ok(encoder.encoded(states, if types > 1 { types } else { 0 }))
}

/// RoBERTa has the same settings.
pub(super) fn read(config: &Config) -> Result<Encoder, ReadError> {
    if config.value("position_embedding_type").is_some_and(|kind| kind != "absolute") {
        return Err(config.wrong("position_embedding_type", "absolute"));
    }
    let (hidden, heads) = config.multiple("hidden_size", "num_attention_heads")?;
    Ok(Encoder {
        embeddings: Embeddings {
            vocabulary: config.size("vocab_size")?,
            positions: config.size("max_position_embeddings")?,
            skip: 0,
            types: Some(config.size_or("type_vocab_size", 2)?),
        },
        hidden,
        heads,
        inner: config.size("intermediate_size")?,
        layers: config.layers("num_hidden_layers")?,
        activation: config.activation_or("hidden_act", "gelu")?,
        epsilon: config.epsilon_or("layer_norm_eps", 1e-12)?,
        names: &LAYER,
    })
}

fn classify(_: &Config, encoded: &Encoded, labels: usize, plan: &mut Builder) -> Result<BufferId, ReadError> {
    let labeller = Labeller { dense: "pooler.dense", activation: Activation::Tanh, scores: "classifier" };
    Ok(labeller.write(encoded, labels, plan))
}

fn fill_mask(config: &Config, encoded: &Encoded, plan: &mut Builder) -> Result<BufferId, ReadError> {
    let filler = MaskFiller {
        dense: "cls.predictions.transform.dense",
        activation: encoded.activation,
        norm: "cls.predictions.transform.LayerNorm",
        decoder: "cls.predictions.decoder",
        bias: head::bias_name(config, "cls.predictions")?,
        is_tied: head::is_tied(config)?,
    };
    Ok(filler.write(encoded, plan))
}
