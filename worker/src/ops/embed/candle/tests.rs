use super::*;
use crate::plan::NormKind;

fn embed() -> Embed {
    let table = |rows: usize, scale: f32| (0..rows * 3).map(|index| (index as f32 * scale).sin()).collect::<Vec<f32>>();
    let norm = Norm { kind: NormKind::Layer, gain: vec![1.0, 2.0, 3.0], shift: vec![0.1, 0.2, 0.3], epsilon: 1e-12 };
    let words = Tensor::from_vec(table(7, 0.7), (7, 3), &Device::Cpu).unwrap();
    Embed { words, positions: Some(table(4, 1.3)), types: Some(table(2, 2.9)), norm: Some(norm) }
}

fn run(embed: &Embed, ids: &[u32], types: &[u32], splits: &[usize]) -> Result<Vec<Vec<f32>>> {
    embed.forward(&Packed { ids, types, splits, marks: &[] })?.to_vec2()
}

#[test]
fn adds_word_position_and_type_of_each_token_before_it_normalises() {
    let embed = embed();
    let norm = embed.norm.as_ref().unwrap();
    let (ids, types, splits) = ([6, 0, 3, 3], [0, 1, 1, 0], [0, 3, 4]);
    let found = run(&embed, &ids, &types, &splits).unwrap();
    let at = |scale: f32, row: usize, column: usize| f64::from(((row * 3 + column) as f32 * scale).sin());
    for (token, place) in [0, 1, 2, 0].into_iter().enumerate() {
        let sum = |column| {
            at(0.7, ids[token] as usize, column) + at(1.3, place, column) + at(2.9, types[token] as usize, column)
        };
        let sums = [sum(0), sum(1), sum(2)];
        let mean = sums.iter().sum::<f64>() / 3.0;
        let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 3.0;
        for column in 0..3 {
            let expected =
                (sums[column] - mean) / variance.sqrt() * f64::from(norm.gain[column]) + f64::from(norm.shift[column]);
            assert!((f64::from(found[token][column]) - expected).abs() < 1e-5, "{token}, {column}");
        }
    }
}

#[test]
fn tokens_without_types_are_of_type_0() {
    assert_eq!(run(&embed(), &[1, 2], &[], &[0, 2]).unwrap(), run(&embed(), &[1, 2], &[0, 0], &[0, 2]).unwrap());
}

#[test]
fn refuses_what_is_beyond_its_tables() {
    for (ids, types, splits) in [
        (&[7][..], &[][..], &[0, 1][..]),
        (&[0; 5], &[], &[0, 5]),
        (&[0; 3], &[], &[0, 2]),
        (&[0; 2], &[0, 2], &[0, 2]),
        (&[0; 2], &[0], &[0, 2]),
    ] {
        assert!(run(&embed(), ids, types, splits).is_err(), "{ids:?} {types:?} {splits:?}");
    }
}

#[test]
fn words_alone_are_handed_on_as_they_are() {
    let embed = Embed { positions: None, types: None, norm: None, ..embed() };
    let found = run(&embed, &[6, 0, 3], &[], &[0, 1, 3]).unwrap();
    assert_eq!(found, [6, 0, 3].map(|id| (0..3).map(|at| ((id * 3 + at) as f32 * 0.7).sin()).collect::<Vec<_>>()));
}
