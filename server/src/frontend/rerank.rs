//! Ranking of texts by what they have to say to a query, by a cross-encoder.

use std::sync::Arc;

use crate::call::{CallError, Caller, RowOptions};
use crate::card::Task;
use crate::tokenize::Text;

use super::scores::{falling, scores};
use super::{Computed, Frontend, card_for};

/// One call to rank.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rerank {
    /// The model's name; empty for the only one there is.
    pub(crate) model: String,
    pub(crate) query: String,
    pub(crate) texts: Vec<String>,
    /// Shorten query and text where they are over the model's limit together, instead of refusing them.
    pub(crate) truncate: bool,
    /// Logits, not probabilities.
    pub(crate) raw: bool,
    /// So many of the texts; 0 for all.
    pub(crate) top_n: u32,
}

/// What became of a call to rank.
#[derive(Debug)]
pub(crate) struct Ranked {
    pub(crate) computed: Computed,
    /// Positions of texts with their scores: the highest first, equals in the order of the call.
    pub(crate) ranking: Vec<(usize, f32)>,
}

impl Frontend {
    /// Ranks.
    pub(crate) async fn rerank(&self, caller: Caller, request: Rerank) -> Result<Ranked, CallError> {
        let model = self.asked(&request.model, Task::Rerank, &caller).await?;
        card_for(&model, Task::Rerank)?;
        self.check_texts("texts", request.texts.len())?;
        if request.query.is_empty() {
            return Err(CallError::InvalidArgument { field: "query".into(), problem: "is an empty text".into() });
        }
        let query: Arc<str> = request.query.into();
        let texts = request.texts.into_iter().map(|text| Text::Pair(query.clone(), text)).collect();
        let options = RowOptions { raw: request.raw, ..RowOptions::default() };
        let rows = self.text_rows(&model, caller.deadline, texts, request.truncate, &options).await;
        let rows = rows.map_err(|error| error.within("texts"))?;
        let computed = self.compute(model, caller, rows, "texts").await?;
        let scores = computed.answer.rows.iter().map(|tensors| Ok(scores(tensors, 1)?[0]));
        let scores = scores.collect::<Result<Vec<f32>, CallError>>()?;
        let kept = if request.top_n == 0 { scores.len() } else { request.top_n as usize };
        let ranking = falling(&scores).into_iter().take(kept).map(|index| (index, scores[index])).collect();
        Ok(Ranked { computed, ranking })
    }
}
