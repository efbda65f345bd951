//! Whole models on the double: against the reference loops, candle and our own kernels, and what the backend does of
//! itself: capturing, paging, faults.

use std::num::NonZeroUsize;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use safetensors::tensor::Dtype;
use tempfile::TempDir;

use super::*;
use crate::backend::planned::testing::{Row as Asked, batch, ids, numbers, run};
use crate::batch::{Finished, ItemOptions, Tensor};
use crate::cpu::isa::CpuIsa;
use crate::cuda::double::{Call, Double};
use crate::cuda::queue::Command;
use crate::executor::{Event, Executor};
use crate::model::testing::{Stored, Tiny};
use crate::plan::{Op, Plan};

mod by_hand;
mod int8;
mod ops;
mod reference;

const HIDDEN: usize = 128;
/// Memory of the device, where it does not matter.
const AMPLE: u64 = 1 << 30;

/// One layer of each kind of a tiny checkpoint's architecture and head, of a size that the kernels take, with random weights.
fn write(name: &str, heads: usize) -> TempDir {
    random(name, heads, 7).write()
}

/// With other weights for each seed.
fn random(name: &str, heads: usize, seed: u64) -> Tiny {
    let sizes = [
        ("hidden_size", HIDDEN),
        ("num_attention_heads", heads),
        ("num_hidden_layers", 1),
        ("intermediate_size", 2 * HIDDEN),
        ("max_position_embeddings", 160),
    ];
    let mut tiny = sizes.into_iter().fold(Tiny::read(name), |tiny, (field, size)| tiny.set(field, size));
    if name.starts_with("modernbert") {
        tiny = tiny
            .set("num_hidden_layers", 2)
            .set("layer_types", serde_json::Value::Null)
            .set("global_attn_every_n_layers", 2);
    } else if name.starts_with("qwen3") {
        tiny = tiny.set("num_key_value_heads", heads.div_ceil(2)).set("head_dim", HIDDEN / heads);
    }
    let plan = Model::read(tiny.write().path()).unwrap().plan;
    tiny.tensors = weights_of(&plan, seed);
    tiny
}

/// Random tensors, by name.
fn weights_of(plan: &Plan, seed: u64) -> BTreeMap<String, Stored> {
    let mut tensors = BTreeMap::new();
    let mut random = StdRng::seed_from_u64(seed);
    for weight in &plan.weights {
        for crate::plan::Tensor { name, shape } in &weight.tensors {
            // Gains near 1 and small weights keep tokens apart, so that a mix-up of any two shows.
            let is_gain = name.contains("norm") && name.ends_with("weight") || name.ends_with("orm.weight");
            let (centre, spread) =
                if is_gain { (1.0, 0.3) } else { (0.0, if name.contains("embed") { 1.0 } else { 0.2 }) };
            let count: usize = shape.iter().product();
            let data = (0..count).flat_map(|_| (centre + spread * random.random_range(-1.0..1.0f32)).to_le_bytes());
            tensors.insert(name.clone(), Stored { dtype: Dtype::F32, shape: shape.clone(), data: data.collect() });
        }
    }
    tensors
}

/// A worker's part in it: the double, and the backend on it.
struct Bench {
    double: Arc<Double>,
    compute: Compute,
    cuda: Cuda,
}

impl Bench {
    fn new(seed: u64, memory: u64) -> Self {
        let double = Double::new(seed, memory);
        let gpu = Gpu::new(double.clone(), memory, 256, 64).unwrap();
        let compute = Compute::new(NonZeroUsize::new(1), CpuIsa::detect()).unwrap().with_gpu(gpu.clone(), false);
        Self { double, compute, cuda: Cuda::new(gpu) }
    }

    fn prepare(&self, name: &str, folder: &Path) -> Result<(Loaded, ModelCard), LoadError> {
        self.prepare_in(Precision::Auto, name, folder)
    }

    fn prepare_in(&self, precision: Precision, name: &str, folder: &Path) -> Result<(Loaded, ModelCard), LoadError> {
        let (name, source) = (name.into(), ModelSource::Folder(folder.to_owned()));
        Cuda::prepare(&PrepareRequest { name, source, precision }, &self.compute, &mut |_| {})
    }

    fn load(&mut self, name: &str, folder: &Path) -> ModelCard {
        self.load_in(Precision::Auto, name, folder)
    }

    fn load_in(&mut self, precision: Precision, name: &str, folder: &Path) -> ModelCard {
        let (loaded, card) = self.prepare_in(precision, name, folder).unwrap();
        self.cuda.install(&name.into(), loaded).unwrap();
        card
    }

    /// The embeddings of these rows.
    fn embed(&mut self, rows: &[Asked]) -> Vec<Vec<f32>> {
        run(&mut self.cuda, rows).into_iter().map(|outcome| numbers(&outcome.unwrap(), "embedding")).collect()
    }

    /// The candidates of all masks of each of these rows, by id and score.
    fn fill(&mut self, rows: &[Asked]) -> Vec<(Vec<i64>, Vec<f32>)> {
        let outcomes = run(&mut self.cuda, rows).into_iter().map(|outcome| outcome.unwrap());
        outcomes.map(|outputs| (ids(&outputs, "token_ids"), numbers(&outputs, "scores"))).collect()
    }

    fn embed_with(&mut self, model: &str, rows: &[Asked]) -> Result<Vec<Vec<f32>>, BatchError> {
        let batch = HostBatch { model: model.into(), ..batch(rows) };
        let live: Vec<u32> = (0..rows.len() as u32).collect();
        let mut ticket = self.cuda.launch(&batch, &live)?;
        let results = self.cuda.poll(&mut ticket).expect("the double is done when it is asked")?;
        let embedding = |outputs: &Vec<Tensor>| numbers(outputs, "embedding");
        Ok(results.iter().map(|result| embedding(result.outcome.as_ref().unwrap())).collect())
    }
}

/// Rows of these lengths, different for each seed.
fn rows(lengths: &[usize], seed: u64) -> Vec<Asked> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = |length: &usize| {
        let ids: Vec<i32> = (0..*length).map(|_| random.random_range(0..100)).collect();
        Asked { types: Some(ids.iter().map(|id| id % 2).collect()), ..Asked::of(&ids) }
    };
    lengths.iter().map(&mut row).collect()
}

#[test]
fn a_row_is_the_same_bits_alone_in_any_batch_captured_or_not_and_with_any_order_of_threads() {
    let folder = write("bert-embed", 2);
    let rows = rows(&[65, 1, 20, 33], 3);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    let together = bench.embed(&rows);
    // The second time it is captured, from the third on replayed.
    for time in 0..3 {
        assert_eq!(bench.embed(&rows), together, "{time}");
    }
    assert_eq!((bench.double.calls(Call::Capture), bench.double.calls(Call::Replay)), (1, 3));
    for (row, seed) in [(0, 1), (1, 2), (2, 5), (3, 6)] {
        let mut bench = Bench::new(seed, AMPLE);
        bench.load("tiny", folder.path());
        assert_eq!(bench.embed(&rows[row..=row]), together[row..=row], "row {row}");
    }
}

#[test]
fn what_was_captured_serves_other_batches_of_nearly_the_size() {
    let folder = write("bert-embed", 4);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    let batches = [&[20, 30, 7][..], &[10, 14, 36], &[61, 1, 1, 1], &[2, 2, 60]].map(|lengths| rows(lengths, 9));
    let found = batches.clone().map(|rows| bench.embed(&rows));
    assert_eq!((bench.double.calls(Call::Capture), bench.double.calls(Call::Replay)), (1, 3));
    for (rows, found) in batches.iter().zip(found) {
        for (row, found) in rows.iter().zip(found) {
            let mut alone = Bench::new(0, AMPLE);
            alone.load("tiny", folder.path());
            assert_eq!(alone.embed(std::slice::from_ref(row)), [found]);
        }
    }
}

#[test]
fn nothing_is_allocated_once_all_sizes_were_seen() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    let batches = [rows(&[17, 40], 1), rows(&[5], 2), rows(&[64, 64], 3)];
    for _ in 0..3 {
        batches.iter().for_each(|rows| drop(bench.embed(rows)));
    }
    let calls =
        |bench: &Bench| [Call::Allocate, Call::Pin, Call::Capture, Call::Launch].map(|call| bench.double.calls(call));
    let before = calls(&bench);
    for _ in 0..3 {
        batches.iter().for_each(|rows| drop(bench.embed(rows)));
    }
    assert_eq!(calls(&bench), before);
}

#[test]
fn two_batches_are_in_flight_and_keep_their_results_apart() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    let asked = [rows(&[9, 30], 1), rows(&[64], 2)];
    let expected = asked.clone().map(|rows| bench.embed(&rows));
    let mut tickets = asked.clone().map(|rows| {
        let live: Vec<u32> = (0..rows.len() as u32).collect();
        bench.cuda.launch(&batch(&rows), &live).unwrap()
    });
    assert_eq!(bench.cuda.depth(), 2);
    for (ticket, expected) in tickets.iter_mut().zip(expected) {
        let results = bench.cuda.poll(ticket).unwrap().unwrap();
        let found: Vec<_> =
            results.iter().map(|result| numbers(result.outcome.as_ref().unwrap(), "embedding")).collect();
        assert_eq!(found, expected);
    }
}

/// Rows with one mask and more, asked for so many candidates each.
fn masked(counts: [u32; 3], raw: bool) -> Vec<Asked> {
    let texts: [&[i32]; 3] = [&[9, 4, 30, 17], &[4], &[4, 55, 4, 4, 2, 81]];
    let row = |(text, top_k)| Asked::of(text).with(ItemOptions { top_k, raw, ..ItemOptions::default() });
    texts.into_iter().zip(counts).map(row).collect()
}

#[test]
fn the_best_candidates_are_the_same_whether_all_logits_are_copied_or_only_theirs() {
    let folder = write("bert-fill", 2);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    let targets = ItemOptions { targets: [7].into(), ..ItemOptions::default() };
    for whole in [ItemOptions { top_k: 33, ..ItemOptions::default() }, targets] {
        for (counts, raw) in [([5, 5, 5], false), ([0, 32, 1], false), ([0, 32, 1], true)] {
            let mut rows = masked(counts, raw);
            // The third time what was captured is replayed.
            let few = [(); 3].map(|()| bench.fill(&rows));
            rows.push(Asked::of(&[4, 3]).with(whole.clone()));
            let all = bench.fill(&rows);
            for few in few {
                for (few, all) in few.iter().zip(&all) {
                    assert_eq!(few.0, all.0, "{counts:?}");
                    let is_near = few.1.iter().zip(&all.1).all(|(few, all)| (few - all).abs() <= 1e-6);
                    assert!(is_near, "{counts:?}: {few:?}, not {all:?}");
                }
            }
        }
    }
}

#[test]
fn only_the_best_candidates_are_copied_unless_a_row_asks_for_more() {
    let folder = write("bert-fill", 2);
    let mut bench = Bench::new(0, AMPLE);
    let vocabulary = u64::from(bench.load("tiny", folder.path()).vocabulary);
    let copied = |bench: &mut Bench, rows: &[Asked]| {
        let before = bench.double.copied_out();
        bench.fill(rows);
        bench.double.copied_out() - before
    };
    // Five masks: the largest logit, a sum, and ids and logits.
    assert_eq!(copied(&mut bench, &masked([0, 3, 0], false)), 5 * (2 + 2 * 5) * 4);
    assert_eq!(copied(&mut bench, &masked([32, 3, 0], false)), 5 * (2 + 2 * 32) * 4);
    assert_eq!(copied(&mut bench, &masked([33, 3, 0], false)), 5 * vocabulary * 4);
}

#[test]
fn rows_that_the_model_does_not_take_fail_alone() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    let mut asked = rows(&[9, 30, 4], 1);
    asked[1].ids[3] = 5_000;
    let outcomes = run(&mut bench.cuda, &asked);
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    assert!(outcomes[1].as_ref().unwrap_err().to_string().contains("5000"), "{outcomes:?}");
}

#[test]
fn the_card_says_what_it_computes_in_and_how_long_its_smallest_batch_takes() {
    let folder = write("bert-embed", 2);
    let card = Bench::new(0, AMPLE).load("tiny", folder.path());
    assert_eq!((card.backend, card.dtype, card.instructions), ("cuda", "bf16", ""));
    assert!(card.smallest_batch > Duration::ZERO && card.bytes > 2 * HIDDEN as u64 * 100);
}

#[test]
fn a_model_computes_in_what_it_is_asked_for_and_rows_are_the_same_bits_alone() {
    for name in ["bert-embed", "qwen3-embed"] {
        let folder = write(name, 2);
        let rows = rows(&[65, 1, 20, 33], 3);
        let mut bytes = Vec::new();
        let mut embed = |precision| {
            let mut bench = Bench::new(0, AMPLE);
            let card = bench.load_in(precision, "tiny", folder.path());
            bytes.push(card.bytes);
            // As it is, captured, and replayed.
            let all = [(); 3].map(|()| bench.embed(&rows));
            assert!(all[1] == all[0] && all[2] == all[0], "{name} in {}", card.dtype);
            for (row, together) in rows.iter().zip(&all[0]) {
                assert_eq!(&bench.embed(std::slice::from_ref(row))[0], together, "{name} in {}", card.dtype);
            }
            (card.dtype, all[0].concat())
        };
        let (dtype, exact) = embed(Precision::F32);
        assert_eq!(dtype, "f32");
        let off = [(Precision::F16, "f16"), (Precision::Bf16, "bf16")].map(|(precision, expected)| {
            let (dtype, found) = embed(precision);
            assert_eq!(dtype, expected);
            let apart = found.iter().zip(&exact).map(|(found, exact)| (found - exact).powi(2)).sum::<f32>().sqrt();
            apart / exact.iter().map(|x| x * x).sum::<f32>().sqrt()
        });
        // Three bits are eight times as near; and both are rounded.
        assert!(0.0 < off[0] && off[0] < off[1] / 4.0 && off[1] < 2e-2, "{name}: {off:?}");
        assert!(bytes[1] == bytes[2] && bytes[0] > bytes[1] * 3 / 2, "{name}: {bytes:?}");
    }
}

#[test]
fn a_model_without_kernels_is_refused_by_what_is_missing() {
    let folder = write("bert-embed", 16);
    let error = Bench::new(0, AMPLE).prepare("tiny", folder.path()).unwrap_err().to_string();
    assert_eq!(error, "attention heads are 8 wide, and the GPU's kernels take 16, 32, 48, 64, 80, 96 and 128");
}

#[test]
fn a_model_that_runs_nowhere_is_refused_by_what_is_missing_on_both() {
    let folder = write("bert-embed", 16);
    let bench = Bench::new(0, AMPLE);
    let compute = bench.compute.clone().with_gpu(bench.cuda.gpu.clone(), true);
    let source = ModelSource::Folder(folder.path().to_owned());
    let request = PrepareRequest { name: "tiny".into(), source, precision: Precision::F16 };
    let error = crate::backend::Stack::prepare(&request, &compute, &mut |_| {}).unwrap_err().to_string();
    assert!(error.starts_with("not on the GPU: attention heads are 8 wide"), "{error}");
    assert!(error.contains("; nor on the processor: "), "{error}");
}

#[test]
fn a_weight_that_f16_cannot_hold_is_refused_by_its_tensor() {
    let mut tiny = random("bert-embed", 2, 7);
    let name = "encoder.layer.0.output.dense.weight";
    let tensor = tiny.tensors.iter_mut().find(|(tensor, _)| tensor.ends_with(name)).unwrap().1;
    tensor.data[..4].copy_from_slice(&70_000_f32.to_le_bytes());
    let folder = tiny.write();
    let bench = Bench::new(0, AMPLE);
    let error = bench.prepare_in(Precision::F16, "tiny", folder.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("{name}` has 70000, which is too large for f16")), "{error}");
    assert!(bench.prepare_in(Precision::Bf16, "tiny", folder.path()).is_ok());
}

#[test]
fn a_model_that_cannot_fit_is_refused_with_the_arithmetic() {
    let folder = write("bert-embed", 2);
    let error = Bench::new(0, 300_000).prepare("tiny", folder.path()).unwrap_err().to_string();
    assert!(error.contains("its weights take ") && error.ends_with("may take 300000 of the GPU"), "{error}");
}

/// Memory for the arena and so many models, and half another.
fn memory_for(models: u64, folder: &Path) -> u64 {
    let mut bench = Bench::new(0, AMPLE);
    let bytes = bench.load("tiny", folder).bytes;
    drop(bench.embed(&rows(&[3], 0)));
    // What else there is: the arena and results.
    bench.double.used() - bytes + models * bytes + bytes / 2
}

#[test]
fn more_models_than_fit_take_turns_and_answer_as_if_they_were_alone() {
    let folders = ["bert-embed", "roberta-embed", "xlm-roberta-embed"].map(|name| write(name, 2));
    let largest = folders.iter().max_by_key(|folder| memory_for(2, folder.path())).unwrap();
    let mut bench = Bench::new(0, memory_for(2, largest.path()));
    let names = ["a", "b", "c"];
    for (name, folder) in names.iter().zip(&folders) {
        bench.load(name, folder.path());
    }
    let asked = |nth: usize| {
        let mut rows = rows(&[9, 21], 4);
        rows.iter_mut().filter(|_| nth > 0).for_each(|row| row.types = None);
        rows
    };
    let alone: Vec<_> = folders
        .iter()
        .enumerate()
        .map(|(nth, folder)| {
            let mut bench = Bench::new(0, AMPLE);
            bench.load("tiny", folder.path());
            bench.embed(&asked(nth))
        })
        .collect();
    for nth in [0, 1, 2, 0, 2, 2, 1, 0, 0, 0, 1, 2] {
        assert_eq!(bench.embed_with(names[nth], &asked(nth)).unwrap(), alone[nth], "{}", names[nth]);
    }
}

#[test]
fn the_model_that_was_not_needed_for_longest_makes_room() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, memory_for(2, folder.path()));
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        bench.load(name, random("bert-embed", 2, seed).write().path());
    }
    let asked = rows(&[9], 4);
    let resident =
        |bench: &Bench| -> Vec<bool> { bench.cuda.models.values().map(|loaded| loaded.resident.is_some()).collect() };
    for name in ["a", "b", "a", "c"] {
        bench.embed_with(name, &asked).unwrap();
    }
    assert_eq!(resident(&bench), [true, false, true]);
    let copies = bench.double.calls(Call::CopyIn);
    bench.embed_with("a", &asked).unwrap();
    assert_eq!(bench.double.calls(Call::CopyIn), copies + 1, "its weights were there: only the batch was copied");
}

#[test]
fn a_batch_says_what_came_onto_the_device_for_it_and_what_is_not_there_since() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, memory_for(2, folder.path()));
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        bench.load(name, random("bert-embed", 2, seed).write().path());
    }
    let asked = rows(&[9], 4);
    let launch = |bench: &mut Bench, model: &str| {
        let ticket = bench.cuda.launch(&HostBatch { model: model.into(), ..batch(&asked) }, &[0]).unwrap();
        (ticket, Instant::now())
    };
    let absent = |page_in: PageIn| page_in.absent.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let began = Instant::now();
    for (model, gone) in [("a", None), ("b", None), ("c", Some("a")), ("b", None), ("a", Some("c")), ("b", None)] {
        let (mut ticket, launched) = launch(&mut bench, model);
        bench.cuda.poll(&mut ticket).unwrap().unwrap();
        let page_in = bench.cuda.page_in(&ticket, began);
        assert_eq!(page_in.clone().map(absent), gone.map(|name| vec![name.to_owned()]), "{model}");
        if let Some(page_in) = page_in {
            assert!(page_in.taken > Duration::ZERO && page_in.taken <= began.elapsed());
            // Of what came while the device was at another batch nobody was late.
            assert_eq!(bench.cuda.page_in(&ticket, Instant::now()).unwrap().taken, Duration::ZERO);
            assert!(bench.cuda.page_in(&ticket, launched).unwrap().taken < page_in.taken);
        }
    }
}

#[tokio::test]
async fn the_executor_tells_what_came_onto_the_device_apart_from_what_was_computed() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, memory_for(1, folder.path()));
    for (name, seed) in [("a", 1), ("b", 2)] {
        bench.load(name, random("bert-embed", 2, seed).write().path());
    }
    let Bench { compute, cuda, double: _double } = bench;
    let executor = Executor::start(|| cuda, compute).unwrap();
    let asked = rows(&[9], 4);
    for (model, gone) in [("b", Some("a")), ("b", None), ("a", Some("b")), ("a", None), ("b", Some("a"))] {
        let began = Instant::now();
        executor.queue(HostBatch { model: model.into(), ..batch(&asked) }).unwrap();
        let names = |absent: &[Arc<str>]| absent.iter().map(ToString::to_string).collect::<Vec<_>>();
        // Whatever changed is told at once, and nothing where nothing did.
        if let Some(gone) = gone {
            let event = executor.event().await.unwrap();
            let Event::Weights { absent } = event else { panic!("{event:?}") };
            assert_eq!(names(&absent), [gone], "{model}");
        }
        let event = executor.event().await.unwrap();
        let Event::Finished(Finished { page_in, compute, outcome, .. }) = event else { panic!("{event:?}") };
        assert!(outcome.is_ok(), "{outcome:?}");
        let absent = page_in.as_ref().map(|page_in| names(&page_in.absent));
        assert_eq!(absent, gone.map(|name| vec![name.to_owned()]), "{model}");
        let taken = page_in.map_or(Duration::ZERO, |page_in| page_in.taken);
        assert_eq!(taken > Duration::ZERO, gone.is_some(), "{model}");
        assert!(compute > Duration::ZERO && taken + compute <= began.elapsed());
    }
}

#[test]
fn models_of_one_backbone_have_it_on_the_device_once_and_answers_of_their_own() {
    let tiny = random("bert-classify", 4, 7);
    let mut other = tiny.clone();
    let head = other.tensors.get_mut("classifier.weight").unwrap();
    head.data.chunks_exact_mut(4).for_each(|number| number[3] ^= 0x80); // every sign
    let (first, second) = (tiny.write(), other.write());
    let scores = |bench: &mut Bench, model: &str| -> Vec<f32> {
        let asked = [rows(&[9], 4).remove(0).with(ItemOptions { raw: true, ..ItemOptions::default() })];
        let batch = HostBatch { model: model.into(), ..batch(&asked) };
        let mut ticket = bench.cuda.launch(&batch, &[0]).unwrap();
        let results = bench.cuda.poll(&mut ticket).unwrap().unwrap();
        numbers(results[0].outcome.as_ref().unwrap(), "scores")
    };
    let mut bench = Bench::new(0, AMPLE);
    let card = bench.load("first", first.path());
    let one = bench.cuda.gpu.ledger.used();
    bench.load("second", second.path());
    let more = bench.cuda.gpu.ledger.used() - one;
    assert!(more > 0 && more < card.bytes / 4, "{more} bytes more for a head of {}", card.bytes);
    let [here, there] = ["first", "second"].map(|model| scores(&mut bench, model));
    assert_ne!(here, there);
    // Each as if it were alone, also when the other one is gone.
    for (folder, expected) in [(&first, &here), (&second, &there)] {
        let mut alone = Bench::new(0, AMPLE);
        alone.load("alone", folder.path());
        assert_eq!(scores(&mut alone, "alone"), *expected);
    }
    bench.cuda.evict("first");
    assert_eq!(scores(&mut bench, "second"), there);
}

#[test]
fn the_ledger_has_every_byte_that_the_device_gave() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, AMPLE);
    let is_even = |bench: &Bench| {
        // Once streams have come to what was given back.
        bench.cuda.gpu.compute.synchronize().unwrap();
        bench.cuda.gpu.loading.synchronize().unwrap();
        assert_eq!(bench.cuda.gpu.ledger.used(), bench.double.used());
    };
    bench.load("tiny", folder.path());
    is_even(&bench);
    // Results of one size, and of another.
    bench.embed(&rows(&[9], 4));
    is_even(&bench);
    bench.embed(&rows(&[3; 60], 4));
    is_even(&bench);
    bench.cuda.evict("tiny");
    assert_eq!(bench.cuda.models.len(), 0);
    is_even(&bench);
    // Of two streams that multiply.
    let double = Double::new(0, AMPLE);
    double.set_workspace(1_000);
    let gpu = Gpu::new(double.clone(), AMPLE, 256, 64).unwrap();
    assert_eq!(gpu.ledger.used(), 2_000);
    let error = Gpu::new(double, 1_999, 256, 64).unwrap_err();
    assert_eq!(error, DriverError::OutOfMemory { bytes: 2_000 });
}

#[test]
fn another_model_makes_room_for_results() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    bench.load("other", random("bert-embed", 2, 8).write().path());
    let asked = rows(&[9], 4);
    let expected = bench.embed_with("tiny", &asked).unwrap();
    bench.cuda.slots = Slots::new(&bench.cuda.gpu.compute, &bench.cuda.gpu.copies, &bench.cuda.gpu.ledger);
    let ledger = bench.cuda.gpu.ledger.clone();
    let _all = ledger.reserve(ledger.total() - ledger.used()).unwrap();
    assert_eq!(bench.embed_with("tiny", &asked).unwrap(), expected);
    assert!(bench.cuda.models["other"].resident.is_none());
}

#[test]
fn nobody_waits_for_the_device_to_be_rid_of_what_was_captured() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    let asked = rows(&[9], 4);
    let expected = bench.embed_with("tiny", &asked).unwrap();
    bench.embed_with("tiny", &asked).unwrap();
    let mut ticket = bench.cuda.launch(&batch(&asked), &[0]).unwrap();
    let waits = bench.double.calls(Call::Synchronize);
    bench.cuda.models.get_mut("tiny").unwrap().shapes.clear();
    assert_eq!((bench.double.calls(Call::Synchronize), bench.double.graphs()), (waits, 1), "it is being replayed");
    let results = bench.cuda.poll(&mut ticket).unwrap().unwrap();
    assert_eq!(numbers(results[0].outcome.as_ref().unwrap(), "embedding"), expected[0]);
    // The next one that is captured finds that nobody replays it any more.
    for _ in 0..2 {
        assert_eq!(bench.embed_with("tiny", &asked).unwrap(), expected);
    }
    assert_eq!((bench.double.calls(Call::Synchronize), bench.double.graphs()), (waits, 1));
}

#[test]
fn the_arena_is_the_largest_models_and_no_larger() {
    let mut bench = Bench::new(0, AMPLE);
    bench.load("small", write("bert-embed", 2).path());
    let arena = |bench: &Bench| bench.cuda.arena.as_ref().map(|arena| arena.memory.span().bytes);
    let small = arena(&bench);
    let asked = rows(&[9], 4);
    let expected = bench.embed_with("small", &asked).unwrap();
    bench.load("large", random("bert-fill", 2, 8).write().path());
    assert!(arena(&bench) > small, "logits of a vocabulary");
    assert_eq!(bench.embed_with("small", &asked).unwrap(), expected);
    bench.cuda.evict("large");
    assert_eq!(bench.embed_with("small", &asked).unwrap(), expected);
    assert_eq!(arena(&bench), small);
}

#[test]
fn an_evicted_model_gives_its_memory_back() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    drop(bench.embed(&rows(&[9], 4)));
    // By the driver, once streams have come to what was given back, and by the ledger.
    let used = |bench: &Bench| {
        bench.cuda.gpu.compute.synchronize().unwrap();
        bench.cuda.gpu.loading.synchronize().unwrap();
        (bench.double.used(), bench.cuda.gpu.ledger.used())
    };
    let one = used(&bench);
    let card = bench.load("other", random("bert-embed", 2, 8).write().path());
    assert_eq!(used(&bench), (one.0 + card.bytes, one.1 + card.bytes));
    bench.cuda.evict("other");
    assert_eq!(used(&bench), one);
    let error = bench.embed_with("other", &rows(&[9], 4)).unwrap_err();
    assert_eq!(error, BatchError::Device("model `other` is not in memory".to_owned()));
}

#[test]
fn a_batch_that_finds_no_memory_says_so_and_the_next_one_runs() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    let asked = rows(&[9, 8], 4);
    bench.double.fail(Call::Allocate, 0, DriverError::OutOfMemory { bytes: 77 });
    let error = bench.embed_with("tiny", &asked).unwrap_err();
    assert_eq!(error, BatchError::OutOfMemory("no room for 77 bytes of device memory".to_owned()));
    assert_eq!(bench.embed_with("tiny", &asked).unwrap().len(), 2);
}

#[test]
fn a_call_that_is_refused_fails_one_batch_at_most_whichever_it_is() {
    let folder = write("bert-embed", 2);
    let asked = rows(&[9, 8], 4);
    let mut expected = Bench::new(0, AMPLE);
    expected.load("tiny", folder.path());
    let expected = expected.embed_with("tiny", &asked).unwrap();
    for call in
        [Call::Pin, Call::CopyIn, Call::Launch, Call::Multiply, Call::Capture, Call::Replay, Call::Copy, Call::CopyOut]
    {
        let mut after = 0;
        // One as it is, one captured, and some replayed, until there are no more calls to refuse.
        loop {
            let mut bench = Bench::new(0, AMPLE);
            bench.load("tiny", folder.path());
            let refused = DriverError::Failed(format!("{call:?} was refused"));
            bench.double.fail(call, after, refused);
            let answers: Vec<_> = (0..4).map(|_| bench.embed_with("tiny", &asked)).collect();
            let failed = answers.iter().filter_map(|answer| answer.as_ref().err());
            assert!(failed.clone().count() <= 1, "{call:?} after {after}: {answers:?}");
            failed.for_each(|error| assert_eq!(*error, BatchError::Device(format!("{call:?} was refused"))));
            assert!(answers.iter().flatten().all(|found| *found == expected), "{call:?} after {after}");
            if bench.double.is_armed() {
                break;
            }
            after += 1;
        }
        assert!(after > 0, "{call:?} was never made");
    }
}

#[test]
fn a_device_that_broke_says_so_for_good() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    let broken = "illegal address in attend_64";
    bench.double.fail(Call::IsDone, 0, DriverError::Broken(broken.to_owned()));
    for _ in 0..2 {
        assert_eq!(bench.embed_with("tiny", &rows(&[9], 4)).unwrap_err(), BatchError::Broken(broken.to_owned()));
    }
}

#[test]
fn a_batch_that_never_ends_breaks_the_device() {
    let folder = write("bert-embed", 2);
    let mut bench = Bench::new(0, AMPLE);
    bench.load("tiny", folder.path());
    bench.double.hang();
    let asked = rows(&[9], 4);
    let mut ticket = bench.cuda.launch(&batch(&asked), &[0]).unwrap();
    assert!(bench.cuda.poll(&mut ticket).is_none());
    ticket.launched -= HUNG_AFTER;
    let Some(Err(BatchError::Broken(why))) = bench.cuda.poll(&mut ticket) else { panic!("it is still waited for") };
    assert_eq!(why, "a batch of `tiny` has not ended in 20s: the device hangs");
    // What is on the device stays there; whatever else is dropped must not wait for it.
    drop(ticket);
    std::mem::forget(bench);
}
