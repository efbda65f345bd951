//! `tokenizer.json`, and the length limit beside it.

use serde_json::Value;
use tokenizers::Tokenizer;

use super::config::Config;
use super::{Folder, Problem};

const FILE: &str = "tokenizer.json";
const SENTENCES: &str = "sentence_bert_config.json";

/// Loads the tokenizer and holds it against the sizes of `config.json`, where those are known.
pub(super) fn check(folder: &mut Folder, config: Option<&Config>) {
    if folder.has(FILE) {
        check_tokenizer(folder, config);
    }
    let Some(json) = folder.json(SENTENCES) else { return };
    let Some(length) = json.get("max_seq_length").filter(|length| !length.is_null()) else { return };
    let max = config.map_or(u64::MAX, |config| config.positions);
    match length.as_u64() {
        Some(length) if (1..=max).contains(&length) => folder.facts.push(format!("{length} tokens at most")),
        _ => {
            let expected = match config {
                Some(config) => format!("1 to max_position_embeddings {}", config.positions),
                None => "a positive whole number".to_owned(),
            };
            folder.problems.push(Problem::new(SENTENCES, "max_seq_length", expected, Value::to_string(length)));
        }
    }
}

fn check_tokenizer(folder: &mut Folder, config: Option<&Config>) {
    let tokenizer = match Tokenizer::from_file(folder.path.join(FILE)) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            folder.problems.push(Problem::new(FILE, "", "a tokenizer that loads", error.to_string()));
            return;
        }
    };
    let with_added = true;
    let highest = tokenizer.get_vocab(with_added).into_values().max();
    folder.facts.push(format!("{} words in the vocabulary", tokenizer.get_vocab_size(with_added)));
    match (highest, config) {
        (None, _) => folder.problems.push(Problem::new(FILE, "vocabulary", "words", "none")),
        (Some(highest), Some(config)) if u64::from(highest) >= config.vocabulary => {
            let expected = format!("ids below vocab_size {} of config.json", config.vocabulary);
            let problem = Problem::new(FILE, "vocabulary", expected, format!("id {highest}"));
            folder.problems.push(problem.hint("the tokenizer is of another model"));
        }
        _ => {}
    }
    if let Err(error) = tokenizer.encode("a", with_added) {
        folder.problems.push(Problem::new(FILE, "", "a tokenizer that cuts text", error.to_string()));
    }
}
