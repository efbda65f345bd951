//! Embedding, as every wire offers it.

use bytes::{Bytes, BytesMut};

use crate::call::{CallError, Caller, DataType, Row, RowOptions, Tensor};
use crate::card::{Card, Task};
use crate::ids::IdRules;
use crate::tokenize::Text;

use super::{Computed, Frontend, card_for};

/// One call to embed.
#[derive(Clone, Debug)]
pub(crate) struct Embed {
    /// The model's name; empty for the only one there is.
    pub(crate) model: String,
    pub(crate) input: EmbedInput,
    /// Shorten texts over the model's limit instead of refusing them.
    pub(crate) truncate: bool,
    pub(crate) options: RowOptions,
}

/// What to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EmbedInput {
    Texts(Vec<String>),
    /// Texts that the caller has tokenised, special tokens included.
    Ids(Vec<Vec<u32>>),
}

impl EmbedInput {
    fn count(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Ids(rows) => rows.len(),
        }
    }
}

impl Frontend {
    /// Embeds; [`embedding`] finds the vector in a row. `field` is what the wire calls the inputs.
    pub(crate) async fn embed(&self, caller: Caller, request: Embed, field: &str) -> Result<Computed, CallError> {
        let model = self.asked(&request.model, Task::Embed, &caller).await?;
        let card = card_for(&model, Task::Embed)?.clone();
        self.check_texts(field, request.input.count())?;
        if request.options.dimensions > card.dims {
            let problem = format!("is {}, `{}` has {}", request.options.dimensions, model.name, card.dims);
            return Err(CallError::InvalidArgument { field: "dimensions".into(), problem });
        }
        let rows = match request.input {
            EmbedInput::Texts(texts) => {
                let texts = texts.into_iter().map(Text::Single).collect();
                self.text_rows(&model, caller.deadline, texts, request.truncate, &request.options).await
            }
            EmbedInput::Ids(ids) => id_rows(&card, ids, request.options),
        };
        let rows = rows.map_err(|error| error.within(field))?;
        self.compute(model, caller, rows, field).await
    }
}

/// The vector of one row, as little-endian `f32`.
pub(crate) fn embedding(tensors: &[Tensor]) -> Result<&Bytes, CallError> {
    let vector = tensors.iter().find(|tensor| tensor.data_type == DataType::F32).map(|tensor| &tensor.data);
    vector.ok_or_else(|| CallError::Internal { what: "the worker returned no embedding".into() })
}

fn id_rows(card: &Card, ids: Vec<Vec<u32>>, options: RowOptions) -> Result<Vec<Row>, CallError> {
    if card.vocabulary == 0 {
        let problem = format!("`{}` takes no tokens", card.name);
        return Err(CallError::InvalidArgument { field: "model".into(), problem });
    }
    let rules = IdRules { tokens_max: card.tokens_max, vocabulary: card.vocabulary };
    let row = |(index, ids): (usize, Vec<u32>)| {
        let invalid = |problem| CallError::InvalidArgument { field: format!("[{index}]"), problem };
        let tokens = rules.tokens(ids.len()).map_err(invalid)?;
        let mut column = BytesMut::with_capacity(4 * ids.len());
        for (position, id) in ids.into_iter().enumerate() {
            rules.put(&mut column, position, id.into()).map_err(invalid)?;
        }
        Ok(Row { columns: vec![column.freeze()], tokens, truncated: false, options: options.clone() })
    };
    ids.into_iter().enumerate().map(row).collect()
}
