//! Batches for models that are plans, and what transformers made of the tiny checkpoints.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{Executor, Planned};
use crate::backend::{Backend, Compute, LoadError, PrepareRequest};
use crate::batch::{Column, DataType, HostBatch, Item, ItemError, ItemOptions, Tensor};
use crate::card::{ModelCard, Task};
use crate::model::testing::{fixtures, names};
use crate::source::{ModelSource, Precision};

/// One row of a batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) ids: Vec<i32>,
    pub(crate) types: Option<Vec<i32>>,
    pub(crate) options: ItemOptions,
}

impl Row {
    pub(crate) fn of(ids: &[i32]) -> Self {
        Self { ids: ids.to_vec(), ..Self::default() }
    }

    pub(crate) fn with(mut self, options: ItemOptions) -> Self {
        self.options = options;
        self
    }
}

/// The model in a folder, installed as `tiny`.
pub(crate) fn open<E: Executor>(
    folder: &Path,
    precision: Precision,
    compute: &Compute,
) -> Result<(Planned<E>, ModelCard), LoadError> {
    let request = PrepareRequest { name: "tiny".into(), source: ModelSource::Folder(folder.to_owned()), precision };
    let (loaded, card) = Planned::<E>::prepare(&request, compute, &mut |_| {})?;
    let mut planned = Planned::default();
    planned.install(&request.name, loaded)?;
    Ok((planned, card))
}

/// A batch as the link brings it: token types are a column if any row has them.
pub(crate) fn batch(rows: &[Row]) -> HostBatch {
    let mut columns = vec![column(rows.iter().map(|row| &row.ids[..]))];
    if rows.iter().any(|row| row.types.is_some()) {
        columns.push(column(rows.iter().map(|row| row.types.as_deref().unwrap_or_default())));
    }
    let item = |row: &Row| Item { options: row.options.clone(), ..Item::default() };
    HostBatch::unsent("tiny".into(), columns, rows.iter().map(item).collect())
}

fn column<'a>(rows: impl Iterator<Item = &'a [i32]>) -> Column {
    Column::of_integers(rows.map(|row| row.iter().map(|number| number.to_le_bytes())))
}

/// The outcomes of all rows, in their order.
pub(crate) fn run<B: Backend>(backend: &mut B, rows: &[Row]) -> Vec<Result<Vec<Tensor>, ItemError>> {
    let live: Vec<u32> = (0..rows.len() as u32).collect();
    let mut ticket = backend.launch(&batch(rows), &live).unwrap();
    let mut results = backend.poll(&mut ticket).unwrap().unwrap();
    results.sort_by_key(|result| result.index);
    assert_eq!(results.iter().map(|result| result.index).collect::<Vec<_>>(), live);
    results.into_iter().map(|result| result.outcome).collect()
}

/// The numbers of an output, by its name; its shape must hold as many.
pub(crate) fn numbers(outputs: &[Tensor], name: &str) -> Vec<f32> {
    let tensor = named(outputs, name, DataType::F32);
    tensor.data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

pub(crate) fn ids(outputs: &[Tensor], name: &str) -> Vec<i64> {
    let tensor = named(outputs, name, DataType::I64);
    tensor.data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

fn named<'a>(outputs: &'a [Tensor], name: &str, data_type: DataType) -> &'a Tensor {
    let tensor = outputs.iter().find(|tensor| &*tensor.name == name).unwrap_or_else(|| panic!("{name}: {outputs:?}"));
    assert_eq!(tensor.data_type, data_type, "{name}");
    assert_eq!(tensor.data.len() as i64, tensor.shape.iter().product::<i64>() * data_type.size() as i64, "{name}");
    tensor
}

/// Runs every case of every tiny checkpoint in one batch and holds the outputs to those of transformers: no number may
/// be further off than `tolerance` of the largest of its kind in its case.
pub(crate) fn follows_transformers<E: Executor>(precision: Precision, tolerance: f64, compute: &Compute) {
    for name in names() {
        let folder = fixtures().join(&name);
        let expected: Value = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let (mut planned, card) =
            open::<E>(&folder, precision, compute).unwrap_or_else(|error| panic!("{name}: {error}"));
        check_card(&name, &card, &expected);
        let cases: Vec<&Value> =
            ["cases", "texts"].iter().flat_map(|kind| expected[kind].as_array().unwrap()).collect();
        assert!(cases.len() > 15, "{name}");
        let check =
            Check { name: &name, tolerance, task: card.task, cases: &cases, takes_types: card.inputs.len() > 1 };
        check.all(&mut planned, &expected);
    }
}

fn check_card(name: &str, card: &ModelCard, expected: &Value) {
    let task = match expected["task"].as_str().unwrap() {
        "embed" => Task::Embed,
        "classify" => Task::Classify,
        "rerank" => Task::Rerank,
        "fill" => Task::FillMask,
        other => panic!("{name}: {other}"),
    };
    assert_eq!(card.task, task, "{name}");
    assert_eq!(u64::from(card.tokens_max), expected["tokens_max"].as_u64().unwrap(), "{name}");
    let labels = expected["labels"].as_array().cloned().unwrap_or_default();
    assert_eq!(card.labels, labels.iter().map(|label| label.as_str().unwrap()).collect::<Vec<_>>(), "{name}");
    assert_eq!(u64::from(card.mask_token_id), expected["mask_token_id"].as_u64().unwrap_or(0), "{name}");
}

/// The cases of one checkpoint.
struct Check<'a> {
    name: &'a str,
    tolerance: f64,
    task: Task,
    cases: &'a [&'a Value],
    takes_types: bool,
}

impl Check<'_> {
    fn all<E: Executor>(&self, planned: &mut Planned<E>, expected: &Value) {
        let raw = ItemOptions { raw: true, ..ItemOptions::default() };
        match self.task {
            Task::Embed => {
                let found = self.run(planned, &ItemOptions::default());
                self.compare(&found, "embedding", |case| vec![flat(&case["embedding"])]);
            }
            Task::Classify | Task::Rerank => {
                let found = self.run(planned, &raw);
                self.compare(&found, "scores", |case| vec![flat(&case["logits"])]);
                let found = self.run(planned, &ItemOptions::default());
                // What sentence-transformers was told to leave alone stays so.
                let is_plain = self.name == "bert-rerank" || self.name == "xlm-roberta-rerank";
                let kind = if is_plain { "logits" } else { "scores" };
                self.compare(&found, "scores", |case| vec![flat(&case[kind])]);
            }
            Task::FillMask => {
                for (kind, raw) in [("logits", true), ("scores", false)] {
                    let options = ItemOptions { raw, ..ItemOptions::default() };
                    let found = self.run(planned, &options);
                    self.compare(&found, "scores", |case| vec![flat(&case["top"][kind])]);
                    for (outputs, case) in found.iter().zip(self.cases) {
                        let top = flat(&case["top"]["token_ids"]);
                        let ids: Vec<f64> = ids(outputs, "token_ids").iter().map(|id| *id as f64).collect();
                        // Ranks are a hundredth apart at least.
                        assert!(ids == top || self.tolerance > 1e-3, "{}: {ids:?}, not {top:?}", self.name);
                    }
                    self.targets(planned, kind, options, &flat(&expected["targets"]));
                }
            }
            Task::Tensor => panic!("{} has no task", self.name),
        }
    }

    /// Targets come back by falling score, and are held to the largest score of the case.
    fn targets<E: Executor>(&self, planned: &mut Planned<E>, kind: &str, options: ItemOptions, targets: &[f64]) {
        let targets: Arc<[u32]> = targets.iter().map(|id| *id as u32).collect();
        let mut found = self.run(planned, &ItemOptions { targets: targets.clone(), ..options });
        for outputs in &mut found {
            let (ids, scores) = (ids(outputs, "token_ids"), numbers(outputs, "scores"));
            assert!(scores.chunks(targets.len()).all(|row| row.is_sorted_by(|a, b| a >= b)), "{}", self.name);
            let mut in_order = Vec::new();
            for (ids, scores) in ids.chunks(targets.len()).zip(scores.chunks(targets.len())) {
                let score = |target: &u32| scores[ids.iter().position(|id| *id == i64::from(*target)).unwrap()];
                in_order.extend(targets.iter().flat_map(|target| score(target).to_le_bytes()));
            }
            outputs.iter_mut().find(|tensor| &*tensor.name == "scores").unwrap().data = in_order.into();
        }
        self.compare(&found, "scores", |case| vec![flat(&case[kind]), flat(&case["top"][kind])]);
    }

    fn run<E: Executor>(&self, planned: &mut Planned<E>, options: &ItemOptions) -> Vec<Vec<Tensor>> {
        let whole = |value: &Value| flat(value).iter().map(|number| *number as i32).collect::<Vec<_>>();
        let row = |case: &&Value| {
            let ids = case.get("input_ids").or_else(|| case.get("ids")).unwrap();
            let types = self.takes_types.then(|| whole(&case["token_type_ids"]));
            Row { ids: whole(ids), types, options: options.clone() }
        };
        let rows: Vec<Row> = self.cases.iter().map(row).collect();
        run(planned, &rows).into_iter().map(|outcome| outcome.unwrap()).collect()
    }

    /// `expected` says what an output should be, and then what else its size is judged by.
    fn compare(&self, found: &[Vec<Tensor>], output: &str, expected: impl Fn(&Value) -> Vec<Vec<f64>>) {
        for (outputs, case) in found.iter().zip(self.cases) {
            let (found, expected) = (numbers(outputs, output), expected(case));
            assert_eq!(found.len(), expected[0].len(), "{} {output}", self.name);
            let largest = expected.iter().flatten().fold(0.0, |largest: f64, x| largest.max(x.abs()));
            let pairs = found.iter().zip(&expected[0]);
            let worst =
                pairs.fold(0.0, |worst: f64, (found, expected)| worst.max((f64::from(*found) - expected).abs()));
            let (name, part) = (self.name, worst / largest);
            assert!(part <= self.tolerance, "{name}: {output} is {part:.1e} of {largest} off for {case}");
        }
    }
}

/// All numbers of a JSON value, in their order.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        Value::Number(number) => vec![number.as_f64().unwrap()],
        other => panic!("no number: {other}"),
    }
}
