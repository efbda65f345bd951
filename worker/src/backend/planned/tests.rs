use super::testing::{Row, batch, ids, numbers, open, run};
use super::*;
use crate::batch::ItemOptions;
use crate::model::testing::{Tiny, fixtures};

/// Puts out numbers that tell which row is which, and counts its batches.
#[derive(Debug)]
struct Counting {
    rows: Rows,
    width: usize,
    batches: usize,
}

impl Executor for Counting {
    fn build(
        model: &Model,
        _: &Bound<'_>,
        _: Precision,
        _: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        progress(0.5);
        let output = &model.plan[model.plan.output];
        Ok(Self { rows: output.rows, width: output.width, batches: 0 })
    }

    fn name(&self) -> &'static str {
        "counting"
    }

    fn dtype(&self) -> &'static str {
        "f32"
    }

    fn bytes(&self) -> u64 {
        1
    }

    /// Row r is r, r + 0.25, r + 0.5 and so on.
    fn run(&mut self, batch: &Packed<'_>, output: &mut Vec<f32>) -> Result<(), BatchError> {
        assert!(batch.rows(Rows::Sequences) > 0, "an empty batch");
        assert!(batch.types.is_empty() || batch.types.len() == batch.ids.len());
        self.batches += 1;
        output.clear();
        for row in 0..batch.rows(self.rows) {
            output.extend((0..self.width).map(|column| row as f32 + column as f32 / 4.0));
        }
        Ok(())
    }
}

fn counting(name: &str) -> (Planned<Counting>, ModelCard) {
    let compute = Compute::new(Some(std::num::NonZeroUsize::MIN), crate::CpuIsa::detect()).unwrap();
    open(&fixtures().join(name), Precision::Auto, &compute).unwrap()
}

fn batches(planned: &Planned<Counting>) -> usize {
    planned.models["tiny"].executor.batches
}

fn length(values: &[f32]) -> f32 {
    values.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn the_card_says_what_was_read() {
    let (_, card) = counting("bert-embed");
    assert_eq!((card.architecture, card.task, card.dtype, card.backend), ("bert", Task::Embed, "f32", "counting"));
    assert_eq!((card.dims, card.tokens_max, card.vocabulary, card.bytes), (32, 96, 120, 1));
    let hash = |file: &str| hash_file(&fixtures().join("bert-embed").join(file)).unwrap();
    assert_eq!(card.weights_sha256, hash("model.safetensors"));
    assert_eq!(card.tokenizer_sha256, hash("tokenizer.json"));
    assert!(card.smallest_batch < Duration::MAX);
    // All but what no answer depends on.
    let tiny = Tiny::read("bert-embed");
    let count = |name: &str| tiny.tensors[name].shape.iter().product::<usize>();
    let unread = |name: &&String| name.contains("pooler") || name.contains("position_ids");
    let expected: usize = tiny.tensors.keys().filter(|name| !unread(name)).map(|name| count(name)).sum();
    assert_eq!(card.parameters, expected as u64);
}

#[test]
fn cards_name_inputs_and_outputs_by_task() {
    let specs = |name: &str| {
        let (_, card) = counting(name);
        let text = |specs: &[TensorSpec]| {
            specs.iter().map(|spec| format!("{} {} {:?}", spec.name, spec.data_type.name(), spec.shape)).collect()
        };
        (text(&card.inputs), text(&card.outputs))
    };
    let (ids, types) = ("input_ids I32 [-1]".to_owned(), "token_type_ids I32 [-1]".to_owned());
    assert_eq!(specs("bert-embed"), (vec![ids.clone()], vec!["embedding F32 [32]".to_owned()]));
    assert_eq!(specs("bert-classify"), (vec![ids.clone(), types.clone()], vec!["scores F32 [3]".to_owned()]));
    assert_eq!(specs("bert-rerank"), (vec![ids.clone(), types], vec!["scores F32 [1]".to_owned()]));
    assert_eq!(specs("roberta-classify").0, std::slice::from_ref(&ids));
    let fill: Vec<String> = vec!["token_ids I64 [-1, -1]".to_owned(), "scores F32 [-1, -1]".to_owned()];
    assert_eq!(specs("bert-fill"), (vec![ids], fill));
}

#[test]
fn normalises_as_the_model_says_unless_asked_otherwise() {
    let options = [None, Some(true), Some(false)].map(|normalize| ItemOptions { normalize, ..ItemOptions::default() });
    let rows = options.map(|options| Row::of(&[1, 2]).with(options));
    for (name, lengths) in [("bert-embed", [true, true, false]), ("xlm-roberta-embed", [false, true, false])] {
        let (mut planned, card) = counting(name);
        assert_eq!(card.normalizes, lengths[0]);
        for (outcome, is_normal) in run(&mut planned, &rows).into_iter().zip(lengths) {
            let length = length(&numbers(&outcome.unwrap(), "embedding"));
            assert_eq!((length - 1.0).abs() < 1e-6, is_normal, "{name}: {length}");
        }
    }
}

#[test]
fn cuts_to_fewer_dimensions_before_normalising() {
    let (mut planned, _) = counting("bert-embed");
    let cut = |dimensions, normalize| {
        Row::of(&[1]).with(ItemOptions { dimensions, normalize: Some(normalize), ..ItemOptions::default() })
    };
    let results = run(&mut planned, &[cut(4, false), cut(4, true), cut(33, true)]);
    let [plain, normal] = [0, 1].map(|row| numbers(results[row].as_ref().unwrap(), "embedding"));
    assert_eq!(plain, [0.0, 0.25, 0.5, 0.75]);
    assert_eq!((normal.len(), (length(&normal) - 1.0).abs() < 1e-6), (4, true));
    assert_eq!(results[2], Err(ItemError::Input("dimensions is 33, and the model has 32".to_owned())));
}

#[test]
fn bad_rows_fail_alone_and_their_mates_are_answered() {
    let (mut planned, _) = counting("bert-embed");
    let bad = [vec![], vec![-1], vec![3, 120], vec![1; 97]];
    let mut rows: Vec<Row> = bad.iter().map(|ids| Row::of(ids)).collect();
    rows.insert(0, Row::of(&[1, 2]));
    rows.push(Row::of(&[5; 96]).with(ItemOptions { normalize: Some(false), ..ItemOptions::default() }));
    let results = run(&mut planned, &rows);
    let says = |index: usize| results[index].clone().unwrap_err().to_string();
    assert_eq!(says(1), "input_ids is empty");
    assert_eq!(says(2), "input_ids holds -1, and ids are from 0 to 119");
    assert_eq!(says(3), "input_ids holds 120, and ids are from 0 to 119");
    assert_eq!(says(4), "input_ids has 97 tokens, and the model takes 96 at most");
    assert!(results[0].is_ok());
    // The second sequence that was computed.
    assert_eq!(numbers(results[5].as_ref().unwrap(), "embedding")[..2], [1.0, 1.25]);
}

#[test]
fn a_batch_without_a_good_row_does_not_run() {
    let (mut planned, _) = counting("bert-embed");
    let before = batches(&planned);
    assert_eq!(before, SMALLEST_RUNS);
    assert!(run(&mut planned, &[Row::of(&[]), Row::of(&[-1])]).iter().all(Result::is_err));
    assert_eq!(batches(&planned), before);
    assert!(run(&mut planned, &[Row::of(&[1])])[0].is_ok());
    assert_eq!(batches(&planned), before + 1);
}

#[test]
fn computes_only_the_rows_that_are_wanted() {
    let (mut planned, _) = counting("bert-embed");
    let mut ticket = planned.launch(&batch(&vec![Row::of(&[1, 2]); 4]), &[1, 3]).unwrap();
    let results = planned.poll(&mut ticket).unwrap().unwrap();
    assert_eq!(results.iter().map(|result| result.index).collect::<Vec<_>>(), [1, 3]);
    let gone = planned.launch(&HostBatch { model: "other".into(), ..batch(&[Row::of(&[1])]) }, &[0]);
    assert_eq!(gone.unwrap_err().to_string(), "model `other` is not in memory");
    planned.evict("tiny");
    assert!(planned.launch(&batch(&[Row::of(&[1])]), &[0]).is_err());
}

#[test]
fn token_types_are_as_many_as_ids_and_within_their_table() {
    let (mut planned, _) = counting("bert-classify");
    let row = |types: &[i32]| Row { types: Some(types.to_vec()), ..Row::of(&[1, 2, 3]) };
    let results = run(&mut planned, &[row(&[0, 1, 1]), row(&[0, 1]), row(&[0, 1, 2]), row(&[0, -1, 0]), row(&[1; 3])]);
    let says = |index: usize| results[index].clone().unwrap_err().to_string();
    assert_eq!(says(1), "token_type_ids has 2 entries, and input_ids 3");
    assert_eq!(says(2), "token_type_ids holds 2, and types are from 0 to 1");
    assert_eq!(says(3), "token_type_ids holds -1, and types are from 0 to 1");
    assert!(results[0].is_ok() && results[4].is_ok());
}

#[test]
fn scores_of_labels_are_probabilities_unless_asked_raw() {
    let raw = ItemOptions { raw: true, ..ItemOptions::default() };
    let close = |found: &[f32], expected: &[f64]| {
        assert_eq!(found.len(), expected.len());
        let near = |(found, expected): (&f32, &f64)| (f64::from(*found) - expected).abs() < 1e-6;
        assert!(found.iter().zip(expected).all(near), "{found:?}, not {expected:?}");
    };
    // Logits are 0, 0.25, 0.5.
    for (name, expected) in [
        ("roberta-classify", [0.0, 0.25, 0.5].map(|x: f64| x.exp() / (1.0 + 0.25f64.exp() + 0.5f64.exp())).to_vec()),
        ("xlm-roberta-classify-multi", [0.0, 0.25, 0.5].map(|x: f64| 1.0 / (1.0 + (-x).exp())).to_vec()),
        ("distilbert-rerank", vec![0.5]),
        ("xlm-roberta-rerank", vec![0.0]),
    ] {
        let (mut planned, card) = counting(name);
        let results = run(&mut planned, &[Row::of(&[1]), Row::of(&[1]).with(raw.clone())]);
        close(&numbers(results[0].as_ref().unwrap(), "scores"), &expected);
        let logits: Vec<f64> = (0..card.labels.len()).map(|label| 1.0 + label as f64 / 4.0).collect();
        close(&numbers(results[1].as_ref().unwrap(), "scores"), &logits);
    }
}

#[test]
fn each_row_gets_the_candidates_of_its_own_masks() {
    let (mut planned, card) = counting("bert-fill");
    assert_eq!((&*card.mask_token, card.mask_token_id), ("[MASK]", 4));
    let raw = |top_k, targets: &[u32]| ItemOptions { raw: true, top_k, targets: targets.into(), ..Default::default() };
    let rows = [
        Row::of(&[4, 7, 4]).with(raw(2, &[])),
        Row::of(&[1, 2]),
        Row::of(&[4]).with(raw(0, &[9, 11, 9])),
        Row::of(&[9, 4]).with(raw(1, &[9, 11])),
        Row::of(&[4]).with(raw(0, &[])),
        Row::of(&[4]).with(raw(1000, &[])),
        Row::of(&[4]).with(raw(0, &[160])),
    ];
    let results = run(&mut planned, &rows);
    let row = |index: usize| {
        let outputs = results[index].as_ref().unwrap();
        assert_eq!(outputs.iter().map(|output| &*output.name).collect::<Vec<_>>(), ["token_ids", "scores"]);
        assert_eq!(outputs[0].shape, outputs[1].shape);
        (outputs[0].shape.clone(), ids(outputs, "token_ids"), numbers(outputs, "scores"))
    };
    // Logits rise with the token by a quarter, and with the mask by 1: two in the first row, then one each.
    assert_eq!(row(0), (vec![2, 2], vec![159, 158, 159, 158], vec![39.75, 39.5, 40.75, 40.5]));
    assert_eq!(results[1].clone().unwrap_err().to_string(), "input_ids holds no 4, which is the mask token `[MASK]`");
    assert_eq!(row(2), (vec![1, 3], vec![11, 9, 9], vec![4.75, 4.25, 4.25]));
    assert_eq!(row(3), (vec![1, 1], vec![11], vec![5.75]));
    assert_eq!(row(4).1, [159, 158, 157, 156, 155]);
    assert_eq!(row(5).0, [1, 160]);
    assert!(row(5).1.into_iter().eq((0..160).rev()));
    assert_eq!(results[6].clone().unwrap_err().to_string(), "targets holds 160, and ids are from 0 to 159");
}

#[test]
fn scores_of_targets_are_parts_of_the_whole_vocabulary() {
    let (mut planned, _) = counting("bert-fill");
    let all = ItemOptions { top_k: 160, ..ItemOptions::default() };
    let some = ItemOptions { targets: [3, 100].into(), ..ItemOptions::default() };
    let results = run(&mut planned, &[Row::of(&[4]).with(all), Row::of(&[4]).with(some)]);
    let [all, some] = [0, 1].map(|row| numbers(results[row].as_ref().unwrap(), "scores"));
    assert!((all.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{}", all.iter().sum::<f32>());
    assert!((some[0] / all[159 - 100] - 1.0).abs() < 1e-5, "{some:?}");
}

#[test]
fn a_failed_load_says_what_is_wrong() {
    let compute = Compute::new(Some(std::num::NonZeroUsize::MIN), crate::CpuIsa::detect()).unwrap();
    let mut tiny = Tiny::read("bert-embed");
    tiny.tensors.remove("embeddings.LayerNorm.weight").unwrap();
    let error = open::<Counting>(tiny.write().path(), Precision::Auto, &compute).unwrap_err();
    assert!(error.to_string().contains("tensor `embeddings.LayerNorm.weight` is missing"), "{error}");
}
