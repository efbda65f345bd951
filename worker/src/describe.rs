//! What a model in a folder would compute, for people; nothing of it is loaded.

use std::path::Path;

use crate::inspect;
use crate::model::{Model, ReadError};

/// Why a folder is no model that can run: the file and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DescribeError(#[from] ReadError);

/// The ops a model's settings come to, with shapes, weights, FLOP and memory for inputs of `length` tokens, or of as many
/// as it takes.
///
/// # Errors
/// Settings that are missing or wrong, and architectures that are not known.
pub fn describe_plan(folder: &Path, length: usize) -> Result<String, DescribeError> {
    let model = Model::read(folder)?;
    let facts = [inspect::network(&model), inspect::task(&model), inspect::inputs(&model)].join("\n");
    let table = model.plan.table(length.min(model.tokens_max));
    Ok(format!("{facts}\n\n{table}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{Tiny, fixtures};

    #[test]
    fn describes_every_task_and_no_length_beyond_the_models() {
        for (name, task, output) in [
            ("bert-embed", "embed: mean pooling, normalised", "pooled [N, 32]"),
            ("roberta-classify", "classify: 3 labels (negative, neutral, positive)", "logits [N, 3]"),
            ("xlm-roberta-fill", "fill-mask: the mask is <mask>", "logits [M, 160]"),
            ("distilbert-rerank", "rerank: one score for a pair of texts", "logits [N, 1]"),
            ("modernbert-embed", "embed: CLS pooling, normalised", "attend ±8"),
            ("qwen3-embed", "embed: last-token pooling, normalised", "attend causal"),
        ] {
            let text = describe_plan(&fixtures().join(name), 64).unwrap();
            assert!(text.contains(task) && text.contains(output), "{text}");
            assert!(text.contains("N sequences of 64 tokens"), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 104), "{text}");
        }
        let text = describe_plan(&fixtures().join("roberta-classify"), 1000).unwrap();
        assert!(text.contains("N sequences of 69 tokens"), "{text}");
    }

    #[test]
    fn says_why_a_folder_is_no_model() {
        let folder = Tiny::read("bert-embed").set("hidden_act", "mish").write();
        let error = describe_plan(folder.path(), 128).unwrap_err().to_string();
        assert!(error.contains("`hidden_act` is mish"), "{error}");
    }
}
