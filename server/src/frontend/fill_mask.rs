//! What could stand where a text has a mask, by a masked language model.

use std::sync::Arc;

use crate::call::{CallError, Caller, Row, RowOptions, Tensor};
use crate::card::{Card, Task};
use crate::tokenize::{Text, Tokenizer};

use super::scores::{fault, scores, token_ids};
use super::{Computed, Frontend, card_for, elsewhere, tokenizer};

/// Candidates of a mask unless a call says otherwise.
const TOP_K: usize = 5;
/// Targets of a call at most.
const TARGETS_MAX: usize = 1024;
/// Candidates of all masks of one text at most: an id and a score of each fit a frame of the link.
const TEXT_CANDIDATES_MAX: usize = 1 << 16;
/// Candidates of all masks of a call at most.
const CALL_CANDIDATES_MAX: usize = 1 << 20;
/// More tokens than this are found or named on a thread where others need not wait for it.
const INLINE_TOKENS_MAX: usize = 256;

/// One call to fill masks.
#[derive(Clone, Debug, Default)]
pub(crate) struct FillMask {
    /// The model's name; empty for the only one there is.
    pub(crate) model: String,
    /// Each with at least one mask, spelt as the model's tokenizer does.
    pub(crate) texts: Vec<String>,
    /// Shorten texts over the model's limit instead of refusing them, but never by all of their masks.
    pub(crate) truncate: bool,
    /// Logits, not probabilities.
    pub(crate) raw: bool,
    /// Candidates of a mask; 0 means 5, or all targets.
    pub(crate) top_k: u32,
    /// The only tokens to score, each by its text.
    pub(crate) targets: Vec<String>,
}

/// What became of a call to fill masks.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) computed: Computed,
    /// The masks of each text, in the order of the text.
    pub(crate) texts: Vec<Vec<FilledMask>>,
}

/// One mask.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FilledMask {
    /// Its position among the text's tokens.
    pub(crate) position: usize,
    /// The best first.
    pub(crate) candidates: Vec<Candidate>,
}

/// What could stand for a mask.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) token_id: u32,
    /// As text.
    pub(crate) token: String,
    pub(crate) score: f32,
}

impl Frontend {
    /// Fills masks.
    pub(crate) async fn fill_mask(&self, caller: Caller, request: FillMask) -> Result<Filled, CallError> {
        let model = self.asked(&request.model, Task::FillMask, &caller).await?;
        let card = card_for(&model, Task::FillMask)?.clone();
        self.check_texts("texts", request.texts.len())?;
        if request.top_k > RowOptions::TOP_K_MAX {
            return Err(invalid("top_k", format!("is {}, the most is {}", request.top_k, RowOptions::TOP_K_MAX)));
        }
        let tokenizer = tokenizer(&model)?.clone();
        let targets = targets(&tokenizer, request.targets).await?;
        let options = RowOptions { raw: request.raw, top_k: request.top_k, targets, ..RowOptions::default() };
        let texts = request.texts.into_iter().map(Text::Single).collect();
        let rows = self.text_rows(&model, caller.deadline, texts, request.truncate, &options).await;
        let found = rows.and_then(|rows| {
            let masks = masks(&card, &rows)?;
            check_candidates(masks.iter().map(Vec::len), candidates_each(&card, &options))?;
            Ok((rows, masks))
        });
        let (rows, masks) = found.map_err(|error| error.within("texts"))?;
        let computed = self.compute(model, caller, rows, "texts").await?;
        let answers = std::iter::zip(&computed.answer.rows, masks);
        let mut texts = answers.map(|(tensors, masks)| filled(tensors, masks)).collect::<Result<Vec<_>, _>>()?;
        let count: usize = texts.iter().flatten().map(|mask| mask.candidates.len()).sum();
        let texts = elsewhere(count <= INLINE_TOKENS_MAX, move || {
            for candidate in texts.iter_mut().flatten().flat_map(|mask| &mut mask.candidates) {
                candidate.token = tokenizer.vocabulary().text(candidate.token_id);
            }
            texts
        });
        Ok(Filled { texts: texts.await?, computed })
    }
}

/// Refuses rows unless each has exactly one mask, and so an answer of the same shape as the others.
///
/// # Errors
/// `InvalidArgument` with the field `[i]` of the row.
pub(crate) fn check_lone_masks(card: &Card, rows: &[Row]) -> Result<(), CallError> {
    let masks = masks(card, rows)?;
    if let Some(row) = masks.iter().position(|masks| masks.len() > 1) {
        let problem = format!("has {} masks (`{}`), and a row takes one", masks[row].len(), card.mask_token);
        return Err(invalid(format!("[{row}]"), problem));
    }
    let each = rows.first().map_or(0, |row| candidates_each(card, &row.options));
    check_candidates(masks.iter().map(Vec::len), each)
}

/// Where the masks of each row are; at least one in each.
fn masks(card: &Card, rows: &[Row]) -> Result<Vec<Vec<usize>>, CallError> {
    let mask = card.mask_token_id.to_le_bytes();
    let of_row = |(index, row): (usize, &Row)| {
        // The ids are the first column of every model that has any.
        let ids = row.columns.first().map_or(&[][..], |ids| ids.as_chunks::<4>().0);
        let found: Vec<usize> = ids.iter().enumerate().filter(|(_, id)| **id == mask).map(|(at, _)| at).collect();
        if found.is_empty() {
            let left =
                if row.truncated { format!(" in the {} tokens it was cut to", row.tokens) } else { String::new() };
            return Err(invalid(format!("[{index}]"), format!("has no mask (`{}`){left}", card.mask_token)));
        }
        Ok(found)
    };
    rows.iter().enumerate().map(of_row).collect()
}

/// Candidates that each mask gets.
fn candidates_each(card: &Card, options: &RowOptions) -> usize {
    let (asked, targets) = (options.top_k as usize, options.targets.len());
    let most = if targets > 0 { targets } else { card.vocabulary as usize };
    match asked {
        0 if targets > 0 => targets,
        0 => TOP_K.min(most),
        _ => asked.min(most),
    }
}

/// Refuses rows that ask for more than an answer holds.
fn check_candidates(masks: impl Iterator<Item = usize>, each: usize) -> Result<(), CallError> {
    let mut sum = 0;
    for (index, masks) in masks.enumerate() {
        let count = masks * each;
        if count > TEXT_CANDIDATES_MAX {
            let problem = format!("{masks} masks with {each} candidates each are over {TEXT_CANDIDATES_MAX}");
            return Err(invalid(format!("[{index}]"), problem));
        }
        sum += count;
    }
    if sum > CALL_CANDIDATES_MAX {
        let problem = format!("{each} candidates for each mask are {sum}, and one call takes {CALL_CANDIDATES_MAX}");
        return Err(invalid("", problem));
    }
    Ok(())
}

/// The ids of the tokens to score, each once.
async fn targets(tokenizer: &Arc<Tokenizer>, texts: Vec<String>) -> Result<Arc<[u32]>, CallError> {
    if texts.len() > TARGETS_MAX {
        let problem = format!("has {} entries, and one call takes {TARGETS_MAX}", texts.len());
        return Err(invalid("targets", problem));
    }
    let (is_brief, tokenizer) = (texts.len() <= INLINE_TOKENS_MAX, tokenizer.clone());
    let found = elsewhere(is_brief, move || {
        let mut ids = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let id = tokenizer.vocabulary().id(text);
            let id = id.map_err(|problem| invalid(format!("targets[{index}]"), problem))?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids.into())
    });
    found.await?
}

/// One text's masks, with candidates that have no text yet.
fn filled(tensors: &[Tensor], masks: Vec<usize>) -> Result<Vec<FilledMask>, CallError> {
    let count = tensors.iter().find(|tensor| *tensor.name == *"scores").map_or(0, |tensor| tensor.data.len() / 4);
    if count == 0 || !count.is_multiple_of(masks.len()) {
        return Err(fault(&format!("{count} candidates for {} masks", masks.len())));
    }
    let (ids, scores) = (token_ids(tensors, count)?, scores(tensors, count)?);
    let mut candidates =
        std::iter::zip(ids, scores).map(|(token_id, score)| Candidate { token_id, token: String::new(), score });
    let each = count / masks.len();
    let of_mask = |position| FilledMask { position, candidates: candidates.by_ref().take(each).collect() };
    Ok(masks.into_iter().map(of_mask).collect())
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> CallError {
    CallError::InvalidArgument { field: field.into(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows with so many masks each, which ask for a thousand candidates.
    fn check(rows: &[usize]) -> Result<(), CallError> {
        let card = Card { vocabulary: 30_000, mask_token: "[MASK]".into(), mask_token_id: 3, ..Card::testing("f") };
        let options = RowOptions { top_k: 1000, ..RowOptions::default() };
        let row = |masks: &usize| Row {
            columns: vec![[3, 0, 0, 0].repeat(*masks).into()],
            tokens: *masks as u32,
            truncated: false,
            options: options.clone(),
        };
        check_lone_masks(&card, &rows.iter().map(row).collect::<Vec<_>>())
    }

    #[test]
    fn a_row_of_a_tensor_has_one_mask() {
        assert_eq!(check(&[1, 1]), Ok(()));
        assert_eq!(check(&[1, 2]), Err(invalid("[1]", "has 2 masks (`[MASK]`), and a row takes one")));
        assert_eq!(check(&[0]), Err(invalid("[0]", "has no mask (`[MASK]`)")));
    }

    #[test]
    fn candidates_of_a_call_are_bounded() {
        assert_eq!(check(&[1; 1048]), Ok(()));
        let problem = "1000 candidates for each mask are 1049000, and one call takes 1048576";
        assert_eq!(check(&[1; 1049]), Err(invalid("", problem)));
    }

    /// The id and the score of each candidate, with room for what else a message says.
    #[test]
    fn candidates_of_a_text_fit_a_frame_of_the_link() {
        const FRAME_BYTES: usize = 1 << 20;
        const { assert!(TEXT_CANDIDATES_MAX * (size_of::<i64>() + size_of::<f32>()) < FRAME_BYTES * 4 / 5) };
        assert_eq!(check_candidates([65].into_iter(), 1000), Ok(()));
        let problem = "66 masks with 1000 candidates each are over 65536";
        assert_eq!(check_candidates([1, 66].into_iter(), 1000), Err(invalid("[1]", problem)));
    }

    #[test]
    fn candidates_are_as_many_as_asked_for_and_as_there_are() {
        let card = Card { vocabulary: 8, ..Card::testing("f") };
        let each = |top_k, targets: &[u32]| {
            candidates_each(&card, &RowOptions { top_k, targets: targets.into(), ..RowOptions::default() })
        };
        assert_eq!([each(0, &[]), each(7, &[]), each(1000, &[])], [5, 7, 8]);
        assert_eq!([each(0, &[1, 2]), each(1, &[1, 2]), each(9, &[1, 2])], [2, 1, 2]);
    }
}
