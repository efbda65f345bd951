//! Every buffer of a plan, op by op, against the reference loops, and every output against the other executors.

use super::by_hand::{forked, with_plan};
use super::reference::buffers;
use super::*;
use crate::backend::candle::Candle;
use crate::backend::cpu::Cpu;
use crate::backend::planned::Executor;
use crate::cuda::element::Element;
use crate::cuda::memory::PinnedMemory;
use crate::cuda::queue::Queue;
use crate::model::weights::{Bound, Checkpoint};
use crate::plan::{Activation, Packed, Plan, Rows};

const LENGTHS: [usize; 6] = [1, 17, 63, 64, 65, 128];

/// ‖Δ‖ / ‖reference‖ that a kind of number may come to in any buffer. Most come to half of it; a handful of logits, each a
/// small difference of large sums behind three more roundings, do not.
fn apart_max(element: Element) -> f64 {
    match element {
        Element::Bf16 => 2e-2,
        Element::F16 => 2.5e-3,
        Element::F32 => 1e-5,
    }
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

    /// One of its sequences by itself.
    fn alone(&self, nth: usize) -> Self {
        let tokens = self.splits[nth]..self.splits[nth + 1];
        let (ids, types) = (self.ids[tokens.clone()].to_vec(), self.types[tokens.clone()].to_vec());
        Self { ids, types, splits: vec![0, tokens.len()], marks: Vec::new() }
    }

    fn packed(&self, has_types: bool) -> Packed<'_> {
        let types = if has_types { &self.types[..] } else { &[] };
        Packed { ids: &self.ids, types, splits: &self.splits, marks: &self.marks }
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

fn run<E: Executor>(model: &Model, weights: &Bound<'_>, precision: Precision, batch: &Packed<'_>) -> Vec<f32> {
    let mut output = Vec::new();
    let mut executor = E::build(model, weights, precision, &compute(), &mut |_| {}).unwrap();
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

/// Runs a batch op by op in a shape that has room for more, and gives every buffer to `watch` once it is written.
fn walk(
    plan: &Plan,
    element: Element,
    weights: &Bound<'_>,
    batch: &Packed<'_>,
    shape: &Shape,
    watch: &mut dyn FnMut(crate::plan::BufferId, &[f32]),
) -> Vec<f32> {
    let bench = Bench::new(3, AMPLE);
    let gpu = bench.compute.gpu.clone().unwrap();
    let queue = Queue::new(gpu.driver()).unwrap();
    let program = Program::new(plan, element, *shape).unwrap();
    let held = Weights::read(plan, &program, weights, &BTreeMap::new(), &gpu, &mut |_| {}).unwrap();
    let resident = held.page_in(&gpu, &queue).unwrap().unwrap();
    let arena = DeviceMemory::new(gpu.driver(), queue.stream(), queue.stream(), program.bytes()).unwrap();
    let (exact, inputs) = (Shape::of(batch), Inputs::of(shape));
    let fill = |to: &mut [u8]| {
        staging::write(batch, shape, to);
        Ok::<_, DriverError>(())
    };
    let staged = PinnedMemory::filled(gpu.driver(), inputs.bytes(), fill).unwrap();
    queue.copy_in(&staged, arena.part(arena.span().part(0..inputs.bytes()))).unwrap();
    let spans = held.spans(&resident);
    let mut output = Vec::new();
    for (op, commands) in program.commands_by_op(shape, arena.span(), &spans) {
        queue.run(&commands, &resident.memory().chain([&arena]).collect::<Vec<_>>()).unwrap();
        let range = program.range(op.output(), &exact);
        let mut slot = Slots::new(&queue, &queue, &gpu.ledger).take(0, range.len()).unwrap();
        slot.copy_out(arena.part(arena.span().part(range))).unwrap();
        assert!(slot.is_done().unwrap());
        let element = if op.output() == plan.output { program.output_element() } else { element };
        output = element.read(slot.results());
        watch(op.output(), &output);
    }
    output
}

/// Compares every buffer of the GPU's run with the reference loops. Gives their output and the GPU's.
fn follows(
    what: &str,
    plan: &Plan,
    element: Element,
    weights: &Bound<'_>,
    packed: &Packed<'_>,
) -> (Vec<f64>, Vec<f32>) {
    let expected = buffers(plan, weights, packed);
    let mut seen = 0;
    let mut watch = |id: crate::plan::BufferId, found: &[f32]| {
        let apart = apart(found, expected[id.0].iter().flatten().copied());
        assert!(apart < apart_max(element), "{what}, {element}, `{}`: {apart}", plan[id].name);
        seen += 1;
    };
    let output = walk(plan, element, weights, packed, &Shape::of(packed).bucket(), &mut watch);
    assert_eq!(seen, plan.ops.len());
    // Without room to spare it is the same.
    assert_eq!(walk(plan, element, weights, packed, &Shape::of(packed), &mut |_, _| {}), output, "{what}");
    (expected[plan.output.0].iter().flatten().copied().collect(), output)
}

/// Compares an executor's output, in f32, with the reference loops'.
fn is_exact<E: Executor>(what: &str, model: &Model, weights: &Bound<'_>, packed: &Packed<'_>, exact: &[f64]) {
    let apart = apart(&run::<E>(model, weights, Precision::F32, packed), exact.iter().copied());
    assert!(apart < 1e-5, "{what}: {} is {apart}", std::any::type_name::<E>());
}

/// Runs a model everywhere and compares every buffer of the GPU's run, and every output.
fn agrees(name: &str, heads: usize, has_types: bool) {
    with_model(&write(name, heads), |model, weights| {
        let batch = Batch::of(&LENGTHS);
        let has_marks = model.plan.buffers.iter().any(|buffer| buffer.rows == Rows::Marks);
        let packed = Packed { marks: if has_marks { &batch.marks } else { &[] }, ..batch.packed(has_types) };
        let what = format!("{name}, {heads} heads");
        let follows = |element| follows(&what, &model.plan, element, weights, &packed);
        follows(Element::F16);
        follows(Element::F32);
        let (exact, output) = follows(Element::Bf16);
        is_exact::<Candle>(name, model, weights, &packed, &exact);
        if CpuIsa::detect() > CpuIsa::Portable {
            is_exact::<Cpu>(name, model, weights, &packed, &exact);
            let narrow = run::<Cpu>(model, weights, Precision::Auto, &packed);
            let between = apart(&output, narrow.iter().copied().map(f64::from));
            assert!(between < apart_max(Element::Bf16), "{name}: cpu and gpu are {between} apart");
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
fn an_embedding_model_agrees_with_the_narrowest_and_the_widest_heads() {
    agrees("bert-embed", 8, true);
    agrees("bert-embed", 1, true);
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
fn modernbert_agrees_in_layers_that_look_far_and_near() {
    agrees("modernbert-embed", 2, false);
    agrees("modernbert-fill", 8, false);
    agrees("modernbert-classify", 4, false);
}

#[test]
fn qwen3_agrees_with_heads_that_share_keys_and_with_heads_that_do_not() {
    agrees("qwen3-embed", 4, false);
    agrees("qwen3-embed-causal", 1, false);
}

#[test]
fn a_row_is_the_same_bits_alone_whatever_it_sees() {
    for name in ["modernbert-embed", "qwen3-embed"] {
        with_model(&write(name, 4), |model, weights| {
            let batch = Batch::of(&[65, 1, 130, 40]);
            let run = |batch: &Batch| {
                let packed = Packed { marks: &[], ..batch.packed(false) };
                walk(&model.plan, Element::Bf16, weights, &packed, &Shape::of(&packed), &mut |_, _| {})
            };
            let together = run(&batch);
            let rows = together.chunks_exact(together.len() / (batch.splits.len() - 1));
            for (nth, row) in rows.enumerate() {
                assert_eq!(run(&batch.alone(nth)), row, "{name}, row {nth}");
            }
        });
    }
}

#[test]
fn an_output_lies_where_the_input_lay_that_it_may_be_written_over() {
    for name in ["modernbert-embed", "qwen3-embed"] {
        with_model(&write(name, 4), |model, _| {
            let (plan, shape) = (&model.plan, Shape { tokens: 512, sequences: 8, marks: 0 });
            let program = Program::new(plan, Element::Bf16, shape).unwrap();
            let range = |id| program.range(id, &shape);
            let lives = plan.lives();
            let (mut over, mut apart) = (0, 0);
            for (index, op) in plan.ops.iter().enumerate() {
                let inputs = op.inputs().filter(|input| range(*input) == range(op.output()));
                let shared: Vec<_> = inputs.collect();
                assert!(
                    shared.iter().all(|input| *lives[input.0].end() == index),
                    "{op:?} is written over what is needed"
                );
                match op {
                    Op::Rotate { .. } => assert_eq!(shared.len(), 1, "{op:?}"),
                    Op::Gemm { residual: Some(residual), activation: Activation::Identity, .. } => {
                        assert_eq!(shared, [*residual]);
                    }
                    Op::AddNorm { .. } if shared.is_empty() => apart += 1,
                    Op::AddNorm { .. } => over += 1,
                    _ => assert!(shared.is_empty(), "{op:?}"),
                }
            }
            // Only the last norm's input is not needed for the sum that goes on.
            assert!(over == 1 && apart > 1, "{name}: {over}, {apart}");
        });
    }
}

#[test]
fn what_is_needed_after_is_not_written_over() {
    with_plan(forked(), |model, weights| {
        let batch = Batch::of(&LENGTHS);
        let (exact, _) = follows("forked", &model.plan, Element::Bf16, weights, &batch.packed(false));
        is_exact::<Candle>("forked", model, weights, &batch.packed(false), &exact);
        if CpuIsa::detect() > CpuIsa::Portable {
            is_exact::<Cpu>("forked", model, weights, &batch.packed(false), &exact);
        }
    });
}

#[test]
fn a_batch_without_marks_launches_nothing_over_them() {
    with_model(&write("bert-fill", 2), |model, weights| {
        let mut batch = Batch::of(&[5, 3]);
        batch.marks.clear();
        let packed = batch.packed(false);
        let mut rows = Vec::new();
        walk(&model.plan, Element::Bf16, weights, &packed, &Shape::of(&packed), &mut |id, _| {
            rows.push(model.plan[id].rows)
        });
        assert!(!rows.is_empty() && !rows.contains(&Rows::Marks), "{rows:?}");
    });
}

#[test]
fn memory_is_shared_by_buffers_that_live_at_different_times() {
    with_model(&write("bert-embed", 2), |model, _| {
        let shape = Shape { tokens: 512, sequences: 8, marks: 0 };
        let program = Program::new(&model.plan, Element::Bf16, shape).unwrap();
        let all: usize = model.plan.buffers.iter().map(|buffer| 2 * shape.rows(buffer.rows) * buffer.width).sum();
        // At most the residual, and what goes into and comes out of an op that is 3 · H wide.
        let most = Inputs::of(&shape).bytes() + 2 * 512 * 5 * HIDDEN + 1024;
        assert!(program.bytes() <= most && most < all, "{} of {all}", program.bytes());
    });
}

#[test]
fn a_command_is_what_its_op_says() {
    with_model(&write("bert-embed", 2), |model, _| {
        let shape = Shape { tokens: 64, sequences: 2, marks: 0 };
        let program = Program::new(&model.plan, Element::Bf16, shape).unwrap();
        let bench = Bench::new(0, AMPLE);
        let driver = bench.cuda.gpu.driver();
        let queue = Queue::new(driver).unwrap();
        let room = |bytes| DeviceMemory::new(driver, queue.stream(), queue.stream(), bytes).unwrap();
        let (arena, weight) = (room(program.bytes()), room(1));
        let weights = vec![weight.span(); model.plan.weights.len()];
        let commands = program.commands(&shape, arena.span(), &weights);
        let products = commands.iter().filter(|command| matches!(command, Command::Multiply(_))).count();
        assert_eq!(products, 4, "{commands:?}");
        let kernels: Vec<_> = commands
            .iter()
            .filter_map(
                |command| if let Command::Launch(launch) = command { Some(launch.kernel.to_string()) } else { None },
            )
            .collect();
        let expected = ["embed_256", "attend_64", "add_norm_256", "activate_gelu", "add_norm_256", "pool_f32"];
        assert_eq!(kernels, expected.map(|name| format!("{name}.bf16")));
    });
}
