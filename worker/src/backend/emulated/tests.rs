//! Whole plans through the seam: the emulated GPU, the reference loops, candle and our own kernels on one batch.

use std::num::NonZeroUsize;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use safetensors::tensor::Dtype;
use tempfile::TempDir;

use super::*;
use crate::backend::candle::Candle;
use crate::backend::cpu::Cpu;
use crate::backend::emulated::reference::buffers;
use crate::cpu::isa::CpuIsa;
use crate::model::testing::{Stored, Tiny};
use crate::model::weights::Checkpoint;

const HIDDEN: usize = 128;
const LENGTHS: [usize; 6] = [1, 17, 63, 64, 65, 128];
/// ‖Δ‖ / ‖reference‖ that bfloat16 may come to in any buffer. Most come to half of it; a handful of logits, each a small
/// difference of large sums behind three more roundings, do not.
const APART_MAX: f64 = 1.5e-2;

/// One layer of a tiny checkpoint's architecture and head, of a size that the kernels take, with random weights.
fn write(name: &str, heads: usize) -> TempDir {
    let sizes = [
        ("hidden_size", HIDDEN),
        ("num_attention_heads", heads),
        ("num_hidden_layers", 1),
        ("intermediate_size", 2 * HIDDEN),
        ("max_position_embeddings", 160),
    ];
    let mut tiny = sizes.into_iter().fold(Tiny::read(name), |tiny, (field, size)| tiny.set(field, size));
    let plan = Model::read(tiny.write().path()).unwrap().plan;
    tiny.tensors.clear();
    let mut random = StdRng::seed_from_u64(7);
    for weight in &plan.weights {
        for tensor in &weight.tensors {
            // Gains near 1 and small weights keep tokens apart, so that a mix-up of any two shows.
            let is_gain = tensor.ends_with("orm.weight");
            let (centre, spread) =
                if is_gain { (1.0, 0.3) } else { (0.0, if tensor.contains("embed") { 1.0 } else { 0.2 }) };
            let count: usize = weight.shape.iter().product();
            let data = (0..count).flat_map(|_| (centre + spread * random.random_range(-1.0..1.0f32)).to_le_bytes());
            tiny.tensors.insert(
                tensor.clone(),
                Stored { dtype: Dtype::F32, shape: weight.shape.clone(), data: data.collect() },
            );
        }
    }
    tiny.write()
}

/// Sequences of all lengths, with marks in some of them.
struct Batch {
    ids: Vec<u32>,
    types: Vec<u32>,
    splits: Vec<usize>,
    marks: Vec<usize>,
}

impl Batch {
    fn of(lengths: &[usize]) -> Self {
        let mut random = StdRng::seed_from_u64(11);
        let tokens = lengths.iter().sum();
        let mut splits = vec![0];
        splits.extend(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        Self {
            ids: (0..tokens).map(|_| random.random_range(0..100)).collect(),
            types: (0..tokens).map(|_| random.random_range(0..2)).collect(),
            marks: (0..tokens).filter(|token| token % 41 == 3).collect(),
            splits,
        }
    }

    fn packed(&self, has_types: bool) -> Packed<'_> {
        let types = if has_types { &self.types[..] } else { &[] };
        Packed { ids: &self.ids, types, splits: &self.splits, marks: &self.marks }
    }

    /// One sequence of it alone.
    fn alone(&self, sequence: usize) -> Self {
        let range = self.splits[sequence]..self.splits[sequence + 1];
        let marks = self.marks.iter().filter(|mark| range.contains(mark)).map(|mark| mark - range.start).collect();
        let splits = vec![0, range.len()];
        Self { ids: self.ids[range.clone()].to_vec(), types: self.types[range].to_vec(), splits, marks }
    }
}

/// Reads the model and gives it, with its weights, to `check`.
fn with_model(folder: &TempDir, check: impl FnOnce(&Model, &Bound<'_>)) {
    let model = Model::read(folder.path()).unwrap();
    let checkpoint = Checkpoint::open(&model.weights).unwrap();
    check(&model, &checkpoint.bind(&model.plan, &model.names).unwrap());
}

fn compute() -> Compute {
    Compute::new(NonZeroUsize::new(2), CpuIsa::detect()).unwrap()
}

fn build<E: Executor>(model: &Model, weights: &Bound<'_>, precision: Precision) -> E {
    E::build(model, weights, precision, &compute(), &mut |_| {}).unwrap()
}

fn run(executor: &mut impl Executor, batch: &Packed<'_>) -> Vec<f32> {
    let mut output = Vec::new();
    executor.run(batch, &mut output).unwrap();
    output
}

/// ‖found - expected‖ / ‖expected‖
fn apart(found: &[f32], expected: impl IntoIterator<Item = f64>) -> f64 {
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(found.len(), expected.len());
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(&expected).map(|(found, expected)| f64::from(*found) - expected));
    off / norm(&mut expected.iter().copied())
}

/// Runs a model everywhere and compares every buffer of the emulated run, and every output.
fn agrees(name: &str, heads: usize, has_types: bool) {
    with_model(&write(name, heads), |model, weights| {
        let (plan, batch) = (&model.plan, Batch::of(&LENGTHS));
        let packed = batch.packed(has_types);
        let expected = buffers(plan, weights, &packed);
        let (mut seen, mut output) = (0, Vec::new());
        let emulated = build::<Emulated>(model, weights, Precision::Bf16);
        let mut watch = |id: BufferId, found: &[f32]| {
            let apart = apart(found, expected[id.0].iter().flatten().copied());
            assert!(apart < APART_MAX, "{name}, {heads} heads, `{}`: {apart}", plan[id].name);
            seen += 1;
        };
        emulated.walk(&packed, &mut output, &mut watch).unwrap();
        assert_eq!(seen, plan.ops.len());

        let exact = || expected[plan.output.0].iter().flatten().copied();
        let candle = run(&mut build::<Candle>(model, weights, Precision::F32), &packed);
        assert!(apart(&candle, exact()) < 1e-5, "{name}: candle is {}", apart(&candle, exact()));
        if CpuIsa::detect() > CpuIsa::Portable {
            let cpu = run(&mut build::<Cpu>(model, weights, Precision::F32), &packed);
            assert!(apart(&cpu, exact()) < 1e-5, "{name}: cpu is {}", apart(&cpu, exact()));
            let narrow = run(&mut build::<Cpu>(model, weights, Precision::Auto), &packed);
            let between = apart(&output, narrow.iter().copied().map(f64::from));
            assert!(between < APART_MAX, "{name}: cpu and emulated are {between} apart");
        }
    });
}

#[test]
fn an_embedding_model_agrees_with_heads_of_64() {
    agrees("bert-embed", 2, true);
}

#[test]
fn an_embedding_model_agrees_with_heads_of_32() {
    agrees("roberta-embed", 4, false);
}

#[test]
fn a_classifier_agrees_and_so_do_its_rows_of_few_labels() {
    agrees("bert-classify", 4, true);
}

#[test]
fn a_masked_language_model_agrees_and_multiplies_with_its_table_of_words() {
    agrees("bert-fill", 2, false);
}

#[test]
fn a_sequence_is_the_same_bits_alone_in_a_batch_and_with_any_order_of_threads() {
    with_model(&write("bert-embed", 2), |model, weights| {
        let batch = Batch::of(&[65, 1, 20]);
        let mut emulated = build::<Emulated>(model, weights, Precision::Bf16);
        let together = run(&mut emulated, &batch.packed(true));
        for (sequence, seed) in [(0, 1), (1, 2), (2, 5)] {
            emulated = emulated.with_seed(seed);
            let alone = run(&mut emulated, &batch.alone(sequence).packed(true));
            assert_eq!(alone, together[sequence * HIDDEN..][..HIDDEN], "sequence {sequence}");
        }
    });
}

#[test]
fn a_batch_without_marks_launches_nothing_over_them() {
    with_model(&write("bert-fill", 2), |model, weights| {
        let mut batch = Batch::of(&[5, 3]);
        batch.marks.clear();
        assert!(run(&mut build::<Emulated>(model, weights, Precision::Bf16), &batch.packed(false)).is_empty());
    });
}

#[test]
fn memory_is_shared_by_buffers_that_live_at_different_times() {
    with_model(&write("bert-embed", 2), |model, _| {
        let batch = Batch::of(&LENGTHS);
        let arena = Arena::new(&model.plan, &batch.packed(false));
        let all: usize =
            model.plan.buffers.iter().map(|buffer| batch.packed(false).rows(buffer.rows) * buffer.width).sum();
        // At most the residual, and what goes into and comes out of an op that is 3 · H wide.
        let tokens = batch.ids.len();
        assert!(arena.bytes() <= 2 * tokens * 5 * HIDDEN + 1024, "{} of {}", arena.bytes(), 2 * all);
    });
}
