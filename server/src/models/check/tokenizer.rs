//! `tokenizer.json`.

use tokenizers::Tokenizer;

use super::Folder;

pub(super) const FILE: &str = "tokenizer.json";

/// Loads the tokenizer and holds it against the size of the model's vocabulary, where that is known.
pub(super) fn check(folder: &mut Folder, vocabulary: Option<usize>) {
    if !folder.has(FILE) {
        return;
    }
    let tokenizer = match Tokenizer::from_file(folder.path.join(FILE)) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            folder.problems.push(format!("{FILE}: expected a tokenizer that loads, found {error}"));
            return;
        }
    };
    let with_added = true;
    let highest = tokenizer.get_vocab(with_added).into_values().max();
    folder.facts.push(format!("tokenizer of {} words", tokenizer.get_vocab_size(with_added)));
    match (highest, vocabulary) {
        (None, _) => folder.problems.push(format!("{FILE}: vocabulary: expected words, found none")),
        (Some(highest), Some(vocabulary)) if highest as usize >= vocabulary => folder.problems.push(format!(
            "{FILE}: vocabulary: expected ids below vocab_size {vocabulary} of config.json, found id {highest}; the \
             tokenizer is of another model"
        )),
        _ => {}
    }
    if let Err(error) = tokenizer.encode("a", with_added) {
        folder.problems.push(format!("{FILE}: expected a tokenizer that cuts text, found {error}"));
    }
}
