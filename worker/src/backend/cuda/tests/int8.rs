//! Whole models whose products are of bytes.

use super::by_hand::with_plan;
use super::*;
use crate::backend::candle::Candle;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::calibrate::choose_all;
use crate::backend::planned::Executor;
use crate::backend::planned::testing::open;
use crate::cuda::element::Element;
use crate::model::weights::{Bound, Checkpoint};
use crate::plan::{Builder, Heads, Mask, Pooling, WeightId};

/// One of each architecture, and for rows of tokens, of sequences and of marks.
const MODELS: [(&str, usize); 6] = [
    ("bert-embed", 2),
    ("bert-classify", 4),
    ("bert-fill", 2),
    ("modernbert-embed", 2),
    ("modernbert-fill", 4),
    ("qwen3-embed", 4),
];

/// What a model answers, as numbers: of masks the scores of all words, which are in one order.
fn answers<B: Backend>(backend: &mut B, card: &ModelCard, rows: &[Asked]) -> Vec<Vec<f32>> {
    let is_fill = !card.mask_token.is_empty();
    let targets = if is_fill { (0..card.vocabulary).collect() } else { [].into() };
    let options = ItemOptions { raw: true, targets, ..ItemOptions::default() };
    let row = |row: &Asked| {
        let types = row.types.clone().filter(|_| card.inputs.len() > 1);
        let mut asked = Asked { types, ..row.clone() }.with(options.clone());
        if is_fill {
            let middle = asked.ids.len() / 2;
            asked.ids[middle] = card.mask_token_id.cast_signed();
        }
        asked
    };
    let outcomes = run(backend, &rows.iter().map(row).collect::<Vec<_>>());
    let output = if card.outputs.iter().any(|spec| spec.name == "embedding") { "embedding" } else { "scores" };
    let numbers_of = |outputs: Vec<Tensor>| {
        let scores = numbers(&outputs, output);
        if !is_fill {
            return scores;
        }
        // They come by falling score.
        let mut by_id: Vec<_> = ids(&outputs, "token_ids").into_iter().zip(scores).collect();
        by_id.sort_unstable_by_key(|(id, _)| *id);
        by_id.into_iter().map(|(_, score)| score).collect()
    };
    outcomes.into_iter().map(|outcome| numbers_of(outcome.unwrap())).collect()
}

/// ‖found - expected‖ / ‖expected‖
fn apart(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        off += f64::from(found - expected).powi(2);
        all += f64::from(*expected).powi(2);
    }
    (off / all).sqrt()
}

/// What the model in a folder answers on an executor of the processor.
fn on_processor<E: Executor>(folder: &Path, precision: Precision, rows: &[Asked]) -> Vec<Vec<f32>> {
    let compute = Compute::new(NonZeroUsize::new(2), CpuIsa::detect()).unwrap();
    let (mut planned, card) = open::<E>(folder, precision, &compute).unwrap();
    answers(&mut planned, &card, rows)
}

fn with_model(folder: &TempDir, check: impl FnOnce(&Model, &Bound<'_>)) {
    let model = Model::read(folder.path()).unwrap();
    let checkpoint = Checkpoint::open(&model.weights).unwrap();
    check(&model, &checkpoint.bind(&model.plan, &model.names).unwrap());
}

/// Products of bytes among a model's commands, and others.
fn products(bench: &Bench, model: &str) -> [usize; 2] {
    let loaded = &bench.cuda.models[model];
    let (arena, resident) = (bench.cuda.arena.as_ref().unwrap(), loaded.resident.as_ref().unwrap());
    let shape = Shape { tokens: 16, sequences: 1, marks: usize::from(loaded.program.max().marks > 0) };
    let commands = loaded.program.commands(&shape, arena.memory.span(), &loaded.weights.spans(resident));
    let of_bytes = |command: &Command| matches!(command, Command::Launch(launch) if launch.kernel.name.starts_with("multiply_int8"));
    let of_others = |command: &Command| matches!(command, Command::Multiply(_));
    [
        commands.iter().filter(|command| of_bytes(command)).count(),
        commands.iter().filter(|command| of_others(command)).count(),
    ]
}

#[test]
fn models_of_bytes_answer_as_the_processor_does_as_far_as_bytes_reach() {
    for (name, heads) in MODELS {
        let folder = write(name, heads);
        let rows = rows(&[65, 3, 20, 90], 3);
        let exact = on_processor::<Candle>(folder.path(), Precision::F32, &rows);
        let mut off = [0.0; 2];
        for (precision, off) in [Precision::Int8, Precision::Int8Mixed].into_iter().zip(&mut off) {
            let mut bench = Bench::new(1, AMPLE);
            let card = bench.load_in(precision, "tiny", folder.path());
            assert_eq!(card.dtype, precision.name());
            let [of_bytes, others] = products(&bench, "tiny");
            assert!(precision == Precision::Int8Mixed || of_bytes >= 4 && others <= 2, "{name}: {of_bytes}, {others}");
            *off = apart(&answers(&mut bench.cuda, &card, &rows), &exact);
        }
        eprintln!("{name}: {off:?}");
        // What the CPU's int8 loses on the same weights.
        if CpuIsa::detect() >= CpuIsa::Avx512Narrow {
            let of_cpu = apart(&on_processor::<Cpu>(folder.path(), Precision::Int8, &rows), &exact);
            eprintln!("{name}: cpu {of_cpu}");
            assert!(off[0] < 1.25 * of_cpu + 1e-2, "{name}: {off:?}, and the CPU's is {of_cpu}");
        }
        assert!(off[0] < 0.1 && off[1] <= off[0] + 1e-2, "{name}: {off:?}");
    }
}

#[test]
fn a_row_of_bytes_is_the_same_bits_alone_in_any_batch_captured_or_not_and_with_any_order_of_threads() {
    for (name, heads) in [("bert-embed", 2), ("qwen3-embed", 4)] {
        let folder = write(name, heads);
        // Together they take larger tiles than alone.
        let rows = rows(&[65, 1, 20, 33, 90], 3);
        let mut bench = Bench::new(0, AMPLE);
        let card = bench.load_in(Precision::Int8, "tiny", folder.path());
        let together = answers(&mut bench.cuda, &card, &rows);
        for time in 0..2 {
            assert_eq!(answers(&mut bench.cuda, &card, &rows), together, "{name}, {time}");
        }
        assert_eq!((bench.double.calls(Call::Capture), bench.double.calls(Call::Replay)), (1, 2));
        for (row, seed) in [(0, 1), (1, 2), (3, 5)] {
            let mut bench = Bench::new(seed, AMPLE);
            bench.load_in(Precision::Int8, "tiny", folder.path());
            assert_eq!(answers(&mut bench.cuda, &card, &rows[row..=row]), together[row..=row], "{name}, row {row}");
        }
    }
}

#[test]
fn what_a_product_loses_decides_whether_it_is_of_bytes() {
    with_model(&write("bert-embed", 2), |model, weights| {
        let bench = Bench::new(0, AMPLE);
        let choose = |loss_max| choose_all(model, weights, &bench.compute, loss_max, &mut |_| {}).unwrap();
        let all = choose(f32::INFINITY);
        let mut losses: Vec<f32> = all.values().map(|choice| choice.loss).collect();
        losses.sort_unstable_by(f32::total_cmp);
        assert!(losses.len() == 4 && losses[0] > 1e-6 && losses[3] < 1e-2, "{losses:?}");
        let some = choose(losses[1]);
        assert_eq!(some.len(), 2);
        assert!(some.iter().all(|(id, choice)| all[id] == *choice), "{some:?} of {all:?}");
        // A command is what its product is chosen to be.
        let shape = Shape { tokens: 64, sequences: 2, marks: 0 };
        let of = |choices: &BTreeMap<WeightId, _>| {
            Program::new(&model.plan, Element::Bf16, shape).unwrap().with_int8(choices.keys().map(|id| (*id, false)))
        };
        for (choices, count) in [(&all, 4), (&some, 2)] {
            let program = of(choices);
            let driver = bench.cuda.gpu.driver();
            let queue = crate::cuda::queue::Queue::new(driver).unwrap();
            let room = |bytes| DeviceMemory::new(driver, queue.stream(), queue.stream(), bytes).unwrap();
            let (arena, weight) = (room(program.bytes()), room(1 << 20));
            let spans = vec![weight.span(); model.plan.weights.len()];
            let commands = program.commands(&shape, arena.span(), &spans);
            let launched = |kernel: &str| {
                let is_one = |command: &&Command| matches!(command, Command::Launch(launch) if launch.kernel.name.starts_with(kernel));
                commands.iter().filter(is_one).count()
            };
            let others = commands.iter().filter(|command| matches!(command, Command::Multiply(_))).count();
            assert_eq!((launched("quantise"), launched("multiply_int8"), others), (count, count, 4 - count));
        }
    });
}

#[test]
fn bytes_lie_where_nothing_else_is_needed() {
    for (name, heads) in MODELS {
        with_model(&write(name, heads), |model, _| {
            let (plan, shape) = (&model.plan, Shape { tokens: 512, sequences: 8, marks: 16 });
            let products = crate::backend::planned::calibrate::products(plan);
            let bytes = |id: &WeightId| (*id, true);
            let program = Program::new(plan, Element::Bf16, shape).unwrap().with_int8(products.iter().map(bytes));
            let lives = plan.lives();
            for (index, op) in plan.ops.iter().enumerate() {
                let Some(place) = program.quantised_place(op) else { continue };
                assert!(place.start >= Inputs::of(&shape).bytes() && place.end <= program.bytes());
                let needed = (0..lives.len()).filter(|buffer| lives[*buffer].contains(&index));
                for buffer in needed.map(crate::plan::BufferId) {
                    let other = program.range(buffer, &shape);
                    let is_apart = other.end <= place.start || place.end <= other.start;
                    assert!(is_apart, "{name}, {op:?}: {place:?} and `{}` at {other:?}", plan[buffer].name);
                }
            }
        });
    }
}

#[test]
fn a_model_of_bytes_takes_about_half_the_memory() {
    let folder = write("bert-embed", 2);
    let [narrow, bytes] = [Precision::Bf16, Precision::Int8]
        .map(|precision| Bench::new(0, AMPLE).load_in(precision, "tiny", folder.path()));
    let products: u64 = 128 * (3 * 128 + 128 + 2 * 256);
    // Two bytes become one, and columns and rows have a few numbers more.
    let less = narrow.bytes - bytes.bytes;
    assert!((products * 8 / 10..products).contains(&less), "{} became {}", narrow.bytes, bytes.bytes);
}

#[test]
fn models_of_bytes_take_turns_and_answer_as_if_they_were_alone() {
    let folders = [1, 2, 3].map(|seed| random("bert-embed", 2, seed).write());
    let asked = rows(&[9, 21], 4);
    let alone = folders.each_ref().map(|folder| {
        let mut bench = Bench::new(0, AMPLE);
        bench.load_in(Precision::Int8, "tiny", folder.path());
        bench.embed(&asked)
    });
    let memory = {
        let mut bench = Bench::new(0, AMPLE);
        let bytes = bench.load_in(Precision::Int8, "tiny", folders[0].path()).bytes;
        drop(bench.embed(&asked));
        bench.double.used() + bytes + bytes / 2
    };
    let mut bench = Bench::new(0, memory);
    let names = ["a", "b", "c"];
    for (name, folder) in names.iter().zip(&folders) {
        // The third finds no room on the device, and is chosen for all the same.
        bench.load_in(Precision::Int8, name, folder.path());
    }
    for nth in [0, 1, 2, 0, 2, 1, 1, 0, 2] {
        assert_eq!(bench.embed_with(names[nth], &asked).unwrap(), alone[nth], "{}", names[nth]);
    }
}

#[test]
fn models_of_one_backbone_have_its_bytes_once() {
    let tiny = random("bert-classify", 4, 7);
    let mut other = tiny.clone();
    let head = other.tensors.get_mut("classifier.weight").unwrap();
    head.data.chunks_exact_mut(4).for_each(|number| number[3] ^= 0x80); // every sign
    let mut bench = Bench::new(0, AMPLE);
    let card = bench.load_in(Precision::Int8, "first", tiny.write().path());
    let one = bench.cuda.gpu.ledger.used();
    bench.load_in(Precision::Int8, "second", other.write().path());
    let more = bench.cuda.gpu.ledger.used() - one;
    assert!(more > 0 && more < card.bytes / 4, "{more} bytes more for a head of {}", card.bytes);
    // In other numbers it is another.
    let bytes = bench.load_in(Precision::Bf16, "third", tiny.write().path()).bytes;
    assert!(bench.cuda.gpu.ledger.used() - one - more >= bytes);
}

#[test]
fn loading_tells_how_far_it_is() {
    let folder = write("bert-embed", 2);
    let bench = Bench::new(0, AMPLE);
    let mut told = Vec::new();
    let source = ModelSource::Folder(folder.path().to_owned());
    let request = PrepareRequest { name: "tiny".into(), source, precision: Precision::Int8 };
    Cuda::prepare(&request, &bench.compute, &mut |part| told.push(part)).unwrap();
    assert!(told.is_sorted() && told[0] >= 0.0 && told[told.len() - 1] <= 1.0, "{told:?}");
    assert!(told.iter().filter(|part| **part > 0.0 && **part < 0.8).count() > 4, "{told:?}");
}

#[test]
fn a_plan_without_products_of_tokens_is_refused_with_what_to_do() {
    let mut plan = Builder::default();
    let words = plan.weight(&["embed.words".to_owned()], &[100, 96], 0);
    let x = plan.embed(words, None, None, None);
    let heads = Heads { count: 1, shared: 1, width: 32 };
    let attended = plan.attend("attended", x, heads, Mask::None);
    let output = plan.pool(attended, Pooling::Mean);
    with_plan(plan.finish(output), |model, weights| {
        let bench = Bench::new(0, AMPLE);
        let refused = choose_all(model, weights, &bench.compute, f32::INFINITY, &mut |_| {});
        assert_eq!(refused.unwrap_err().to_string(), "none of its products can be of bytes: use bf16");
    });
}
