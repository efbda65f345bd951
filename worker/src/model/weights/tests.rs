use std::fs;

use half::{bf16, f16};
use safetensors::tensor::{TensorView, serialize_to_file};
use tempfile::TempDir;

use super::*;
use crate::model::Model;
use crate::model::testing::{Stored, Tiny};
use crate::plan::{Tensor, Weight};

/// What is wrong with a checkpoint, once every weight of it was read.
fn problem(tiny: &Tiny) -> String {
    let folder = tiny.write();
    let model = Model::read(folder.path()).unwrap();
    let read = |checkpoint: &Checkpoint| {
        let bound = checkpoint.bind(&model.plan, &model.names)?;
        (0..model.plan.weights.len()).try_for_each(|index| bound.weight(WeightId(index)).read_all().map(drop))
    };
    let read = Checkpoint::open(&model.weights).and_then(|checkpoint| read(&checkpoint));
    let problem = read.unwrap_err().to_string();
    assert!(problem.contains("model.safetensors"), "{problem}");
    problem
}

fn changed(name: &str, tensor: &str, change: impl FnOnce(&mut Stored)) -> String {
    let mut tiny = Tiny::read(name);
    change(tiny.tensors.get_mut(tensor).unwrap());
    problem(&tiny)
}

#[test]
fn refuses_a_number_that_is_infinite_or_none_by_tensor_and_place() {
    let put = |at: usize, value: Vec<u8>| {
        move |stored: &mut Stored| stored.data[at * value.len()..][..value.len()].copy_from_slice(&value)
    };
    // The 24 columns of a table, then of a vector, in each type.
    let words = "bert.embeddings.word_embeddings.weight";
    let found = changed("bert-fill-untied", words, put(2 * 24 + 5, f32::NAN.to_le_bytes().into()));
    assert!(found.contains("tensor `bert.embeddings.word_embeddings.weight` has NaN at [2, 5]"), "{found}");
    let bias = "bert.encoder.layer.1.attention.self.value.bias";
    let found = changed("bert-fill-untied", bias, put(23, f32::NEG_INFINITY.to_le_bytes().into()));
    assert!(found.contains(&format!("tensor `{bias}` has -inf at [23]")), "{found}");
    let weight = "encoder.layer.0.output.dense.weight";
    for (value, says) in [(f16::NAN, "NaN"), (f16::INFINITY, "inf"), (f16::NEG_INFINITY, "-inf")] {
        let found = changed("roberta-embed", weight, put(37 + 1, value.to_le_bytes().into()));
        assert!(found.contains(&format!("tensor `{weight}` has {says} at [1, 1]")), "{found}");
    }
    let weight = "transformer.layer.2.ffn.lin2.weight";
    for (value, says) in [(bf16::NAN, "NaN"), (bf16::INFINITY, "inf"), (bf16::NEG_INFINITY, "-inf")] {
        let found = changed("distilbert-embed", weight, put(0, value.to_le_bytes().into()));
        assert!(found.contains(&format!("tensor `{weight}` has {says} at [0, 0]")), "{found}");
    }
}

#[test]
fn names_the_tensor_that_is_missing_misshapen_or_not_of_floating_point_numbers() {
    let name = "encoder.layer.1.intermediate.dense.weight";
    let mut tiny = Tiny::read("bert-embed");
    tiny.tensors.remove(name).unwrap();
    assert!(problem(&tiny).contains(&format!("tensor `{name}` is missing")), "{}", problem(&tiny));

    let found = changed("bert-embed", name, |stored| stored.shape.reverse());
    assert!(found.contains(&format!("tensor `{name}` has shape [32, 44], expected [44, 32]")), "{found}");

    let found = changed("bert-embed", name, |stored| stored.dtype = Dtype::I32);
    assert!(found.contains(&format!("tensor `{name}` is I32, which is none of F32, F16, BF16")), "{found}");
}

#[test]
fn names_tensors_that_nothing_would_read() {
    let mut tiny = Tiny::read("bert-classify");
    tiny.tensors.insert("bert.encoder.layer.2.output.dense.bias".to_owned(), Stored::f32(&[40], 0.0));
    let found = problem(&tiny);
    assert!(found.contains("`bert.encoder.layer.2.output.dense.bias`: tensors without a place"), "{found}");
    for index in 0..4 {
        tiny.tensors.insert(format!("adapter.{index}"), Stored::f32(&[1], 0.0));
    }
    let found = problem(&tiny);
    assert!(
        found.contains(
            "`adapter.0`, `adapter.1`, `adapter.2` and others: tensors without a place in this architecture (5 in all)"
        ),
        "{found}"
    );
}

#[test]
fn refuses_two_tensors_that_would_be_the_same_weight() {
    let mut tiny = Tiny::read("bert-embed");
    tiny.tensors.insert("embeddings.LayerNorm.gamma".to_owned(), Stored::f32(&[32], 1.0));
    let found = problem(&tiny);
    assert!(found.contains("`embeddings.LayerNorm.gamma`"), "{found}");
}

#[test]
fn an_encoder_may_carry_a_head_it_is_used_without() {
    let folder = Tiny::read("bert-embed-masked-lm").write();
    let model = Model::read(folder.path()).unwrap();
    assert!(Checkpoint::open(&model.weights).unwrap().bind(&model.plan, &model.names).is_ok());
}

#[test]
fn a_decoders_bias_may_have_either_of_its_names() {
    for (name, own, decoder) in [
        ("bert-fill", "cls.predictions.bias", "cls.predictions.decoder.bias"),
        ("roberta-fill", "lm_head.decoder.bias", "lm_head.bias"),
    ] {
        let mut tiny = Tiny::read(name);
        let bias = tiny.tensors.remove(own).unwrap();
        tiny.tensors.insert(decoder.to_owned(), bias);
        let folder = tiny.write();
        let model = Model::read(folder.path()).unwrap();
        Checkpoint::open(&model.weights).unwrap().bind(&model.plan, &model.names).unwrap();
        tiny.tensors.remove(decoder).unwrap();
        assert!(problem(&tiny).contains(&format!("tensor `{own}` is missing")), "{}", problem(&tiny));
    }
}

#[test]
fn refuses_a_file_that_is_cut_or_no_safetensors() {
    let folder = Tiny::read("bert-embed").write();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(error.to_string().contains("model.safetensors"), "{length} bytes: {error}");
        assert!(matches!(error, ReadError::Safetensors { .. } | ReadError::Io { .. }), "{length} bytes: {error}");
    }
    fs::write(&path, "not at all").unwrap();
    assert!(matches!(Checkpoint::open(&path), Err(ReadError::Safetensors { .. })));
}

/// A plan's weight over tensors of whole numbers that count up, and the file.
fn counting(tensors: &[(&str, Dtype, &[usize])], weight: Weight) -> (TempDir, Plan) {
    let folder = TempDir::new().unwrap();
    let mut next = 0;
    let stored: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, dtype, shape)| {
            let numbers = (0..shape.iter().product::<usize>()).map(|_| {
                next += 1;
                next as f32
            });
            let data = match dtype {
                Dtype::F16 => numbers.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
                Dtype::BF16 => numbers.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
                _ => numbers.flat_map(f32::to_le_bytes).collect(),
            };
            ((*name).to_owned(), *dtype, shape.to_vec(), data)
        })
        .collect();
    let views = stored
        .iter()
        .map(|(name, dtype, shape, data)| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    (folder, Plan { weights: vec![weight], ..Plan::default() })
}

fn weight_of(tensors: &[(&str, &[usize])], skip: usize) -> Weight {
    let tensor = |(name, shape): &(&str, &[usize])| Tensor { name: (*name).to_owned(), shape: shape.to_vec() };
    Weight { tensors: tensors.iter().map(tensor).collect(), skip }
}

fn read_all(folder: &TempDir, plan: &Plan) -> (usize, usize, Vec<f32>) {
    let checkpoint = Checkpoint::open(&folder.path().join("model.safetensors")).unwrap();
    let bound = checkpoint.bind(plan, &Names::default()).unwrap();
    let source = bound.weight(WeightId(0));
    (source.rows(), source.columns(), source.read_all().unwrap())
}

#[test]
fn stacks_tensors_and_leaves_out_the_rows_at_the_top_of_each() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let weight = weight_of(&[("a", &[3, 2]), ("b", &[3, 2])], 1);
        let (folder, plan) = counting(&[("a", dtype, &[3, 2]), ("b", dtype, &[3, 2])], weight);
        let expected = [3.0, 4.0, 5.0, 6.0, 9.0, 10.0, 11.0, 12.0];
        assert_eq!(read_all(&folder, &plan), (4, 2, expected.to_vec()), "{dtype:?}");

        let weight = weight_of(&[("a", &[3]), ("b", &[2])], 0);
        let (folder, plan) = counting(&[("a", dtype, &[3]), ("b", dtype, &[2])], weight);
        assert_eq!(read_all(&folder, &plan), (1, 5, vec![1.0, 2.0, 3.0, 4.0, 5.0]), "{dtype:?}");
    }
}

#[test]
fn stacks_tensors_of_different_heights() {
    let shapes: [(&str, &[usize]); 3] = [("a", &[3, 2]), ("b", &[1, 2]), ("c", &[2, 2])];
    let stored = shapes.map(|(name, shape)| (name, Dtype::F32, shape));
    let (folder, plan) = counting(&stored, weight_of(&shapes, 0));
    let expected: Vec<f32> = (1..=12).map(|number| number as f32).collect();
    assert_eq!(read_all(&folder, &plan), (6, 2, expected));
    // And again, after their pages were given back in the middle of a tensor.
    let checkpoint = Checkpoint::open(&folder.path().join("model.safetensors")).unwrap();
    let bound = checkpoint.bind(&plan, &Names::default()).unwrap();
    bound.weight(WeightId(0)).release(1..5);
    let mut row = [0.0; 2];
    bound.weight(WeightId(0)).read_row(3, &mut row).unwrap();
    assert_eq!(row, [7.0, 8.0]);
}

#[test]
fn converts_every_number_of_sixteen_bits_exactly() {
    for bits in 0..=u16::MAX {
        let mut found = [0.0];
        let expected = f16::from_bits(bits).to_f32();
        assert_eq!(read_f16(&bits.to_le_bytes(), &mut found), expected.is_finite(), "{bits:#x}");
        assert!(found[0].to_bits() == expected.to_bits() || (found[0].is_nan() || found[0].is_infinite()), "{bits:#x}");
        assert_eq!(found[0].is_finite(), expected.is_finite(), "{bits:#x}");
        let expected = bf16::from_bits(bits).to_f32();
        assert_eq!(read_bf16(&bits.to_le_bytes(), &mut found), expected.is_finite(), "{bits:#x}");
        assert!(found[0].to_bits() == expected.to_bits() || expected.is_nan(), "{bits:#x}");
    }
}

#[test]
fn rows_read_the_same_after_their_pages_were_given_back() {
    let weight = weight_of(&[("a", &[4096, 16])], 3);
    let (folder, plan) = counting(&[("a", Dtype::F32, &[4096, 16])], weight);
    let checkpoint = Checkpoint::open(&folder.path().join("model.safetensors")).unwrap();
    let bound = checkpoint.bind(&plan, &Names::default()).unwrap();
    let before = bound.weight(WeightId(0)).read_all().unwrap();
    bound.weight(WeightId(0)).release(10..2000);
    bound.weight(WeightId(0)).done();
    assert_eq!(bound.weight(WeightId(0)).read_all().unwrap(), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_weight_that_is_done_with_is_no_longer_in_memory() {
    let weight = weight_of(&[("a", &[4096, 256])], 0);
    let (folder, plan) = counting(&[("a", Dtype::F32, &[4096, 256])], weight);
    let path = folder.path().join("model.safetensors");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let bound = checkpoint.bind(&plan, &Names::default()).unwrap();
    let resident = || {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let from = maps.find(path.to_str().unwrap()).unwrap();
        let line = maps[from..].lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap()
    };
    let mut row = vec![0.0; 256];
    let source = bound.weight(WeightId(0));
    (0..4096).for_each(|index| source.read_row(index, &mut row).unwrap());
    assert!(resident() >= 4096, "{} KiB", resident());
    source.release(0..2048);
    assert!(resident() < 2200, "{} KiB", resident());
    source.done();
    assert!(resident() < 64, "{} KiB", resident());
}

#[test]
fn hashes_the_file_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, "{}").unwrap();
    let file = File::open(&path).unwrap();
    let expected = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    // Wherever the file was read to before.
    assert_eq!((sha256(&file).unwrap(), sha256(&file).unwrap()), (expected.to_owned(), expected.to_owned()));
}
