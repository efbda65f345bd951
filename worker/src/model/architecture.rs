//! The architectures there are, and what each file of one says.

use super::config::Config;
use super::{ReadError, bert, distilbert, modernbert, qwen3, roberta};
use crate::plan::{Activation, BufferId, Builder};

/// Every architecture of this build.
const ARCHITECTURES: [&Architecture; 6] = [
    &bert::ARCHITECTURE,
    &roberta::ARCHITECTURE,
    &roberta::XLM,
    &distilbert::ARCHITECTURE,
    &modernbert::ARCHITECTURE,
    &qwen3::ARCHITECTURE,
];

/// One architecture: its classes in transformers, and how their settings become plans.
#[derive(Debug)]
pub(super) struct Architecture {
    /// `model_type` in `config.json`.
    pub(super) name: &'static str,
    /// Classes of `architectures` in `config.json`.
    pub(super) classes: &'static [(&'static str, Head)],
    /// What names of the encoder's tensors begin with beside a head.
    pub(super) prefix: &'static str,
    /// Tensors of heads, which an encoder may carry while it is used without.
    pub(super) heads: &'static [&'static str],
    /// Tensors that may stand beside a masked-LM head: the other task it was trained on, and what is tied or has two
    /// names.
    pub(super) beside_fill_mask: &'static [&'static str],
    /// Two names of the same tensor, of which a file may have either.
    pub(super) aliases: &'static [(&'static str, &'static str)],
    /// Writes the encoder.
    pub(super) encode: fn(&Config, &mut Builder) -> Result<Encoded, ReadError>,
}

/// What stands on an encoder, and what writes it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Head {
    Bare,
    /// For so many labels.
    Classify(fn(&Config, &Encoded, usize, &mut Builder) -> Result<BufferId, ReadError>),
    FillMask(fn(&Config, &Encoded, &mut Builder) -> Result<BufferId, ReadError>),
    /// It continues texts; without it, it is an encoder whose tokens see what is before them.
    Generate,
}

/// An encoder in a plan, as heads see it.
#[derive(Debug)]
pub(super) struct Encoded {
    /// [T, H]
    pub(super) states: BufferId,
    /// H
    pub(super) hidden: usize,
    pub(super) vocabulary: usize,
    pub(super) tokens_max: usize,
    /// Kinds of tokens that pairs of texts are told apart by; 0 if there are none.
    pub(super) types: usize,
    pub(super) activation: Activation,
    pub(super) epsilon: f32,
}

/// The architecture and head that a config names.
pub(super) fn find(config: &Config) -> Result<(&'static Architecture, Head), ReadError> {
    let kind = config.text("model_type").unwrap_or("not set");
    let architectures = config.value("architectures").and_then(|names| names.as_array()).map_or(&[][..], Vec::as_slice);
    let family = ARCHITECTURES.into_iter().find(|family| family.name == kind);
    let head_of = |family: &Architecture| match architectures {
        [] => Some(Head::Bare),
        [name] => family.classes.iter().find(|(class, _)| name == class).map(|(_, head)| *head),
        _ => None,
    };
    if let Some((family, head)) = family.and_then(|family| Some((family, head_of(family)?))) {
        return Ok((family, head));
    }
    let named: Vec<&str> = architectures.iter().map(|name| name.as_str().unwrap_or("?")).collect();
    let known: Vec<&str> = ARCHITECTURES.iter().flat_map(|family| family.classes).map(|(class, _)| *class).collect();
    let (named, known) = (named.join(", "), known.join(", "));
    let what = format!("architecture `{named}` (model_type `{kind}`) is not supported, only {known}");
    Err(ReadError::Unsupported { path: config.path().to_owned(), what })
}
