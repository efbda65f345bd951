//! What a model in a folder would compute, for people; nothing of it is loaded.

use std::path::Path;

use crate::card::Task;
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
    let task = match model.task {
        Task::Embed => "embed",
        Task::Classify => "classify",
        Task::Rerank => "rerank",
        Task::FillMask => "fill-mask",
        Task::Tensor => "tensor",
    };
    let (architecture, tokens_max, vocabulary) = (model.architecture, model.tokens_max, model.vocabulary);
    let table = model.plan.table(length.min(tokens_max));
    Ok(format!("{architecture} for {task}, {tokens_max} tokens at most of {vocabulary}\n\n{table}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{Tiny, fixtures};

    #[test]
    fn describes_every_task_and_no_length_beyond_the_models() {
        for (name, begins, output) in [
            ("bert-embed", "bert for embed, 96 tokens at most of 120\n", "pooled [N, 32]"),
            ("roberta-classify", "roberta for classify, 69 tokens at most of 290\n", "logits [N, 3]"),
            ("xlm-roberta-fill", "xlm-roberta for fill-mask, 78 tokens at most of 160\n", "logits [M, 160]"),
            ("distilbert-rerank", "distilbert for rerank, 100 tokens at most of 100\n", "logits [N, 1]"),
        ] {
            let text = describe_plan(&fixtures().join(name), 64).unwrap();
            assert!(text.starts_with(begins) && text.contains(output), "{text}");
            assert!(text.contains("sequences of 64 tokens"), "{text}");
        }
        let text = describe_plan(&fixtures().join("roberta-classify"), 1000).unwrap();
        assert!(text.contains("sequences of 69 tokens"), "{text}");
    }

    #[test]
    fn says_why_a_folder_is_no_model() {
        let folder = Tiny::read("bert-embed").set("hidden_act", "mish").write();
        let error = describe_plan(folder.path(), 128).unwrap_err().to_string();
        assert!(error.contains("`hidden_act` is mish"), "{error}");
    }
}
