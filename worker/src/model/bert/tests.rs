use super::*;
use crate::model::folder::Folder;
use crate::model::testing::{HEADS, HIDDEN, LAYERS, POSITIONS, TinyBert, VOCABULARY};
use crate::model::weights::WeightsFile;
use crate::ops::activate::reference::activate;

fn read(tiny: &TinyBert) -> std::result::Result<Bert, ReadError> {
    let written = tiny.write();
    let folder = Folder::read(written.path())?;
    let file = WeightsFile::open(&folder.weights)?;
    Bert::read(&folder.config, &file.tensors(PROBE, PREFIXES)?, &mut |_| {})
}

fn forward(bert: &Bert, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
    let mut splits = vec![0];
    sequences.iter().for_each(|ids| splits.push(splits[splits.len() - 1] + ids.len()));
    bert.forward(&sequences.concat(), &splits).unwrap().to_vec2().unwrap()
}

/// The specification: BERT in double precision, one sequence, every loop spelt out.
fn reference(tiny: &TinyBert, ids: &[u32], activation: Activation) -> Vec<Vec<f64>> {
    let get = |name: &str| -> Vec<f64> { tiny.tensors[name].1.iter().map(|x| f64::from(*x)).collect() };
    let dense = |x: &[f64], name: &str| -> Vec<f64> {
        let (weight, bias) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        let rows = weight.chunks_exact(x.len());
        rows.zip(bias).map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias).collect()
    };
    let norm = |x: &[f64], name: &str| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let scaled = x.iter().map(|x| (x - mean) / (variance + 1e-12).sqrt());
        scaled
            .zip(get(&format!("{name}.weight")))
            .zip(get(&format!("{name}.bias")))
            .map(|((x, g), b)| x * g + b)
            .collect()
    };
    let add = |left: &[f64], right: &[f64]| -> Vec<f64> { left.iter().zip(right).map(|(l, r)| l + r).collect() };
    let row = |name: &str, at: usize| get(name)[at * HIDDEN..(at + 1) * HIDDEN].to_vec();

    let embed = |(place, id): (usize, &u32)| {
        let word = row("embeddings.word_embeddings.weight", *id as usize);
        let position = row("embeddings.position_embeddings.weight", place);
        let kind = row("embeddings.token_type_embeddings.weight", 0);
        norm(&add(&add(&word, &position), &kind), "embeddings.LayerNorm")
    };
    let mut x: Vec<Vec<f64>> = ids.iter().enumerate().map(embed).collect();
    let head = HIDDEN / HEADS;
    for layer in 0..LAYERS {
        let at = format!("encoder.layer.{layer}");
        let part = |name: &str| -> Vec<Vec<f64>> {
            x.iter().map(|x| dense(x, &format!("{at}.attention.self.{name}"))).collect()
        };
        let (query, key, value) = (part("query"), part("key"), part("value"));
        let attend = |query: &Vec<f64>| -> Vec<f64> {
            let mut out = vec![0.0; HIDDEN];
            for h in 0..HEADS {
                let of = |x: &Vec<f64>| x[h * head..(h + 1) * head].to_vec();
                let dot = |k: &Vec<f64>| of(query).iter().zip(of(k)).map(|(q, k)| q * k).sum::<f64>();
                let weights: Vec<f64> = key.iter().map(|k| (dot(k) / (head as f64).sqrt()).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for (weight, value) in weights.iter().zip(&value) {
                    for (dim, v) in of(value).iter().enumerate() {
                        out[h * head + dim] += weight / sum * v;
                    }
                }
            }
            out
        };
        let context: Vec<Vec<f64>> = query.iter().map(attend).collect();
        let close = |x: &[f64], before: &[f64], name: &str| {
            norm(&add(&dense(x, &format!("{name}.dense")), before), &format!("{name}.LayerNorm"))
        };
        x = x
            .iter()
            .zip(&context)
            .map(|(x, context)| {
                let y = close(context, x, &format!("{at}.attention.output"));
                let f: Vec<f64> = dense(&y, &format!("{at}.intermediate.dense"));
                let f: Vec<f64> = f.into_iter().map(|x| activate(x, activation)).collect();
                close(&f, &y, &format!("{at}.output"))
            })
            .collect();
    }
    x
}

fn assert_close(found: &[Vec<f32>], expected: &[Vec<f64>]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 2e-5, "{found}, not {expected}");
        }
    }
}

#[test]
fn follows_the_reference_for_every_activation() {
    let ids = [2, 17, 49, 0, 3, 3, 21];
    for (name, activation) in
        [("gelu", Activation::Gelu), ("gelu_new", Activation::GeluTanh), ("relu", Activation::Relu)]
    {
        let mut tiny = TinyBert::new();
        tiny.config["hidden_act"] = name.into();
        assert_close(&forward(&read(&tiny).unwrap(), &[&ids]), &reference(&tiny, &ids, activation));
    }
}

#[test]
fn each_sequence_of_a_batch_follows_the_reference() {
    let tiny = TinyBert::new();
    let bert = read(&tiny).unwrap();
    let sequences: [&[u32]; 4] = [&[1], &[5, 6, 7, 8, 9, 10, 11], &[1, 2], &[40; POSITIONS]];
    let expected: Vec<Vec<f64>> = sequences.iter().flat_map(|ids| reference(&tiny, ids, Activation::Gelu)).collect();
    assert_close(&forward(&bert, &sequences), &expected);
}

#[test]
fn reads_names_with_and_without_prefix_alike() {
    let plain = forward(&read(&TinyBert::new()).unwrap(), &[&[1, 2, 3]]);
    assert_eq!(plain, forward(&read(&TinyBert::new().prefixed()).unwrap(), &[&[1, 2, 3]]));
}

#[test]
fn counts_its_parameters() {
    let tiny = TinyBert::new();
    // Token types are added to positions when read, and not held.
    let stored: usize = tiny.tensors.values().map(|(_, values)| values.len()).sum();
    assert_eq!(read(&tiny).unwrap().parameters(), (stored - 2 * HIDDEN) as u64);
}

#[test]
fn names_the_tensor_that_is_missing_or_misshapen() {
    let name = "encoder.layer.1.intermediate.dense.weight";
    let mut tiny = TinyBert::new();
    tiny.tensors.remove(name);
    let error = read(&tiny).unwrap_err().to_string();
    assert!(
        error.contains("model.safetensors: tensor `encoder.layer.1.intermediate.dense.weight` is missing"),
        "{error}"
    );

    let mut tiny = TinyBert::new();
    tiny.tensors.get_mut(name).unwrap().0.reverse();
    let error = read(&tiny).unwrap_err().to_string();
    assert!(error.contains(&format!("tensor `{name}` has shape [24, 40], expected [40, 24]")), "{error}");

    let mut tiny = TinyBert::new();
    tiny.tensors.remove(PROBE);
    let error = read(&tiny).unwrap_err().to_string();
    assert!(error.contains(&format!("tensor `{PROBE}` is missing")), "{error}");
}

#[test]
fn refuses_ids_and_lengths_beyond_its_tables() {
    let bert = read(&TinyBert::new()).unwrap();
    assert!(bert.forward(&[VOCABULARY as u32], &[0, 1]).is_err());
    assert!(bert.forward(&[0; POSITIONS + 1], &[0, POSITIONS + 1]).is_err());
    assert!(bert.forward(&[0; 3], &[0, 2]).is_err());
}
