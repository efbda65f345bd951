//! Classification of texts and pairs of texts.

use crate::call::{CallError, Caller, RowOptions};
use crate::card::Task;
use crate::tokenize::Text;

use super::scores::{falling, scores};
use super::{Computed, Frontend, card_for};

/// One call to classify.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classify {
    /// The model's name; empty for the only one there is.
    pub(crate) model: String,
    pub(crate) texts: Vec<String>,
    /// The second segment of each text; none, or as many as texts.
    pub(crate) text_pairs: Vec<String>,
    /// Shorten texts over the model's limit instead of refusing them.
    pub(crate) truncate: bool,
    /// Logits, not probabilities.
    pub(crate) raw: bool,
    /// So many labels of each text; 0 for all.
    pub(crate) top_k: u32,
}

/// What became of a call to classify.
#[derive(Debug)]
pub(crate) struct Classified {
    pub(crate) computed: Computed,
    /// Of each text: labels, by their position in the card, with their scores, the highest first.
    pub(crate) labels: Vec<Vec<(usize, f32)>>,
}

impl Frontend {
    /// Classifies.
    pub(crate) async fn classify(&self, caller: Caller, request: Classify) -> Result<Classified, CallError> {
        let model = self.asked(&request.model, Task::Classify, &caller).await?;
        card_for(&model, Task::Classify)?;
        self.check_texts("texts", request.texts.len())?;
        let texts = paired(request.texts, request.text_pairs)?;
        let options = RowOptions { raw: request.raw, ..RowOptions::default() };
        let rows = self.text_rows(&model, caller.deadline, texts, request.truncate, &options).await;
        let rows = rows.map_err(|error| error.within("texts"))?;
        let computed = self.compute(model, caller, rows, "texts").await?;
        let count = computed.card.labels.len();
        let kept = if request.top_k == 0 { count } else { request.top_k as usize };
        let labels = computed.answer.rows.iter().map(|tensors| {
            let scores = scores(tensors, count)?;
            Ok(falling(&scores).into_iter().take(kept).map(|label| (label, scores[label])).collect())
        });
        let labels = labels.collect::<Result<_, CallError>>()?;
        Ok(Classified { computed, labels })
    }
}

/// Each text with its pair, if there are pairs.
fn paired(texts: Vec<String>, pairs: Vec<String>) -> Result<Vec<Text>, CallError> {
    if pairs.is_empty() {
        return Ok(texts.into_iter().map(Text::Single).collect());
    }
    if pairs.len() != texts.len() {
        let problem = format!("has {} entries for {} texts", pairs.len(), texts.len());
        return Err(CallError::InvalidArgument { field: "text_pairs".into(), problem });
    }
    if let Some(empty) = pairs.iter().position(String::is_empty) {
        let problem = "is an empty text".to_owned();
        return Err(CallError::InvalidArgument { field: format!("text_pairs[{empty}]"), problem });
    }
    Ok(texts.into_iter().zip(pairs).map(|(text, pair)| Text::Pair(text.into(), pair)).collect())
}
