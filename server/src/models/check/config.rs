//! `config.json` and the pooling beside it.

use serde_json::Value;

use super::{Folder, Problem};

const FILE: &str = "config.json";
const POOLING: &str = "1_Pooling/config.json";

/// The shape of a BERT encoder, as far as `config.json` states it soundly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub hidden: u64,
    pub layers: u64,
    pub intermediate: u64,
    pub vocabulary: u64,
    pub positions: u64,
    pub types: u64,
}

impl Config {
    /// Reads it, noting problems; `None` unless every size is known.
    pub(super) fn check(folder: &mut Folder) -> Option<Self> {
        let json = folder.json(FILE)?;
        if !json.is_object() {
            folder.problems.push(Problem::new(FILE, "", "a JSON object", kind(&json)));
            return None;
        }
        word(folder, &json, "model_type", &["bert"], None, "only encoders of the BERT family are run yet")?;
        word(folder, &json, "hidden_act", &["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"], None, "");
        word(folder, &json, "position_embedding_type", &["absolute"], Some("absolute"), "");
        let config = Self {
            hidden: size(folder, &json, "hidden_size")?,
            layers: size(folder, &json, "num_hidden_layers")?,
            intermediate: size(folder, &json, "intermediate_size")?,
            vocabulary: size(folder, &json, "vocab_size")?,
            positions: size(folder, &json, "max_position_embeddings")?,
            types: size(folder, &json, "type_vocab_size")?,
        };
        let heads = size(folder, &json, "num_attention_heads")?;
        if !config.hidden.is_multiple_of(heads) {
            let found = heads.to_string();
            let expected = format!("a divisor of hidden_size {}", config.hidden);
            folder.problems.push(Problem::new(FILE, "num_attention_heads", expected, found));
        }
        if !json.get("layer_norm_eps").is_none_or(|eps| eps.as_f64().is_some_and(|eps| eps > 0.0 && eps < 1.0)) {
            let found = json["layer_norm_eps"].to_string();
            folder.problems.push(Problem::new(FILE, "layer_norm_eps", "a number between 0 and 1", found));
        }
        folder.facts.push(format!("bert, {} layers, {} dimensions, {heads} heads", config.layers, config.hidden));
        config.check_pooling(folder);
        Some(config)
    }

    fn check_pooling(&self, folder: &mut Folder) {
        let Some(json) = folder.json(POOLING) else { return };
        if let Some(dims) = json.get("word_embedding_dimension")
            && dims.as_u64() != Some(self.hidden)
        {
            let expected = format!("hidden_size {}", self.hidden);
            folder.problems.push(Problem::new(POOLING, "word_embedding_dimension", expected, dims.to_string()));
        }
        let modes = json.as_object().into_iter().flatten();
        let on: Vec<&str> = modes
            .filter(|(key, value)| key.starts_with("pooling_mode_") && value.as_bool() == Some(true))
            .map(|(key, _)| key.as_str())
            .collect();
        match on[..] {
            ["pooling_mode_mean_tokens"] => folder.facts.push("mean pooling".to_owned()),
            ["pooling_mode_cls_token"] => folder.facts.push("CLS pooling".to_owned()),
            _ => {
                let found = if on.is_empty() { "none".to_owned() } else { on.join(", ") };
                let expected = "pooling_mode_mean_tokens or pooling_mode_cls_token alone";
                folder.problems.push(Problem::new(POOLING, "pooling_mode_*", expected, found));
            }
        }
    }
}

/// A size that must be there and positive.
fn size(folder: &mut Folder, json: &Value, key: &str) -> Option<u64> {
    /// Far more than any model has; keeps products of two sizes from overflowing.
    const MAX: u64 = 1 << 31;
    let found = json.get(key);
    match found.and_then(Value::as_u64) {
        Some(size) if (1..=MAX).contains(&size) => Some(size),
        _ => {
            let found = found.map_or("none".to_owned(), Value::to_string);
            folder.problems.push(Problem::new(FILE, key, "a positive whole number", found));
            None
        }
    }
}

/// A word that must be one of some; where it is missing it is `default`.
fn word(folder: &mut Folder, json: &Value, key: &str, known: &[&str], default: Option<&str>, hint: &str) -> Option<()> {
    let found = json.get(key).filter(|value| !value.is_null());
    let word = match found {
        Some(value) => value.as_str(),
        None => default,
    };
    if word.is_some_and(|word| known.contains(&word)) {
        return Some(());
    }
    let found = found.map_or("none".to_owned(), Value::to_string);
    folder.problems.push(Problem::new(FILE, key, known.join(" or "), found).hint(hint));
    None
}

fn kind(json: &Value) -> &'static str {
    match json {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
