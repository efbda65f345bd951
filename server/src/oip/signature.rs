//! What a model takes and gives, as the protocol shows it: a worker's card that is known to be one the protocol can show.

use std::sync::Arc;

use super::quote::Short;
use crate::call::{CallError, DataType};
use crate::card::{Card, TYPE_IDS, Task, TensorSpec};

/// A model as clients of the protocol see it. Cheap to make and to clone.
#[derive(Clone, Debug)]
pub struct Signature {
    card: Arc<Card>,
    batch_rows_max: u32,
    /// Where they are not those of the card.
    outputs: Option<Vec<TensorSpec>>,
}

/// An input of texts, one to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextInput {
    pub(super) name: &'static str,
    pub(super) is_optional: bool,
}

/// What a call gives to a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Inputs<'a> {
    /// Texts, BYTES `[n, 1]` or `[n]`: to a classifier `text` and, if wanted, `text_pair`; to a reranker `text` and
    /// `query`, which may be `[1, 1]` or `[1]` for all texts; to others `text`. Or `input_ids` INT64 `[n, length]` with,
    /// if wanted, `attention_mask` of that shape and, to models that tell segments apart, `token_type_ids`.
    Text(&'a Card),
    /// Each of these, with the same number of rows. Never empty, names are unique.
    Tensors {
        /// The inputs, in the order of a row's columns.
        specs: &'a [TensorSpec],
        /// Elements in a row of the first input at most, which count as tokens; `None` where they do not.
        tokens_max: Option<u32>,
    },
}

/// Why a card cannot be shown to clients: the worker and this server disagree on what a card may say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("version `{0}` is not a positive whole number in canonical form")]
    Version(String),
    #[error("a vocabulary of {0} is more than 32-bit ids can name")]
    Vocabulary(u32),
    #[error("a model with a vocabulary takes an input of I32 ids and at most `token_type_ids` of the same")]
    Ids,
    #[error("there are no {0}")]
    Empty(&'static str),
    #[error("tensor `{0}` appears twice")]
    Duplicate(String),
    #[error("tensor `{name}`: shape {shape:?}: {problem}")]
    Shape { name: String, shape: Vec<i64>, problem: &'static str },
}

impl From<SignatureError> for CallError {
    fn from(error: SignatureError) -> Self {
        Self::Internal { what: format!("the model's card is unusable: {error}") }
    }
}

impl Signature {
    /// The signature of a model by its card, with `batch_rows_max` rows in a batch at most.
    ///
    /// A model with a vocabulary takes texts or ids, the others take the card's inputs as they are. At most one dimension
    /// of a tensor varies (-1): a row travels as bytes alone, so that no more than one length can be told from it. An
    /// input of opaque bytes has one element to a row, whose length is what varies.
    ///
    /// # Errors
    /// When the card says anything else.
    pub fn new(card: Arc<Card>, batch_rows_max: u32) -> Result<Self, SignatureError> {
        if !is_canonical(&card.version) {
            return Err(SignatureError::Version(card.version.to_string()));
        }
        if i32::try_from(card.vocabulary).is_err() {
            return Err(SignatureError::Vocabulary(card.vocabulary));
        }
        check_specs(&card.inputs, "inputs")?;
        let outputs = shown_outputs(&card);
        check_specs(outputs.as_ref().unwrap_or(&card.outputs), "outputs")?;
        let are_ids = |input: &TensorSpec| input.data_type == DataType::I32 && input.shape == [-1];
        let takes_ids = match &card.inputs[..] {
            [ids] => are_ids(ids),
            [ids, types] => are_ids(ids) && are_ids(types) && *types.name == *TYPE_IDS,
            _ => false,
        };
        if card.vocabulary > 0 && !takes_ids {
            return Err(SignatureError::Ids);
        }
        Ok(Self { card, batch_rows_max: batch_rows_max.max(1), outputs })
    }

    /// The card it was made from.
    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// Rows in one batch at most; at least 1.
    pub fn batch_rows_max(&self) -> u32 {
        self.batch_rows_max
    }

    /// What a call gives.
    pub fn inputs(&self) -> Inputs<'_> {
        let &Card { tokens_max, vocabulary, ref inputs, .. } = &*self.card;
        if vocabulary > 0 {
            Inputs::Text(&self.card)
        } else {
            Inputs::Tensors { specs: inputs, tokens_max: (tokens_max > 0).then_some(tokens_max) }
        }
    }

    /// What an answer holds, in the order of its rows' tensors. Never empty, names are unique.
    pub fn outputs(&self) -> &[TensorSpec] {
        self.outputs.as_ref().unwrap_or(&self.card.outputs)
    }

    /// The shape of an output's row as clients see it: a worker's has a dimension of one score, or of one mask, in front.
    pub(super) fn shown_shape<'a>(&self, shape: &'a [i64]) -> &'a [i64] {
        match shape {
            [1, rest @ ..] if self.outputs.is_some() => rest,
            _ => shape,
        }
    }

    /// Whether a request for `requested` is one for this version: empty means whichever is served.
    ///
    /// # Errors
    /// [`CallError::UnknownVersion`] for any other text, canonical or not.
    pub fn check_version(&self, requested: &str) -> Result<(), CallError> {
        if requested.is_empty() || *requested == *self.card.version {
            return Ok(());
        }
        Err(CallError::UnknownVersion {
            model: self.card.name.to_string(),
            version: Short(requested).to_string(),
            served: self.card.version.to_string(),
        })
    }
}

/// The inputs of texts that models of a task take.
pub(super) fn text_inputs(task: Task) -> &'static [TextInput] {
    const TEXT: TextInput = TextInput { name: "text", is_optional: false };
    const PAIR: TextInput = TextInput { name: "text_pair", is_optional: true };
    const QUERY: TextInput = TextInput { name: "query", is_optional: false };
    match task {
        Task::Classify => &[TEXT, PAIR],
        Task::Rerank => &[TEXT, QUERY],
        _ => &[TEXT],
    }
}

/// The outputs of models whose rows are one score, or one mask's candidates: for clients that is no dimension.
fn shown_outputs(card: &Card) -> Option<Vec<TensorSpec>> {
    let shape: &[i64] = match card.task {
        Task::Rerank => &[],
        Task::FillMask => &[-1],
        _ => return None,
    };
    Some(card.outputs.iter().map(|output| TensorSpec { shape: shape.to_vec(), ..output.clone() }).collect())
}

/// One row of a tensor as clients see it. An element of opaque bytes is one element, whatever its length.
pub(super) fn row_dims(spec: &TensorSpec) -> &[i64] {
    if spec.data_type == DataType::Bytes { &[1] } else { &spec.shape }
}

fn check_specs(specs: &[TensorSpec], what: &'static str) -> Result<(), SignatureError> {
    if specs.is_empty() {
        return Err(SignatureError::Empty(what));
    }
    for (at, spec) in specs.iter().enumerate() {
        if specs[..at].iter().any(|other| other.name == spec.name) {
            return Err(SignatureError::Duplicate(spec.name.to_string()));
        }
        let problem = if spec.shape.iter().any(|dim| *dim < -1 || *dim == 0) {
            "dimensions are positive, or -1"
        } else if spec.shape.iter().filter(|dim| **dim == -1).count() > 1 {
            "only one dimension can vary"
        } else if spec.data_type == DataType::Bytes && !matches!(spec.shape[..], [] | [1 | -1]) {
            "a row holds one element of bytes"
        } else {
            continue;
        };
        return Err(SignatureError::Shape { name: spec.name.to_string(), shape: spec.shape.clone(), problem });
    }
    Ok(())
}

/// Clients turn versions into integers and back, so only texts that survive it may be served.
fn is_canonical(version: &str) -> bool {
    version.parse::<i64>().is_ok_and(|number| number > 0 && number.to_string() == version)
}

#[cfg(test)]
mod tests;
