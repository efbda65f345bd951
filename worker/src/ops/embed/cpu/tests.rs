use super::*;
use crate::cpu::avx2::Avx2;
use crate::cpu::isa::CpuIsa;
use crate::cpu::testing::{Value, has, on_all_vectors};
use crate::ops::embed::reference;
use crate::plan::NormKind;

const SPLITS: [usize; 6] = [0, 1, 8, 8, 20, 24];
const STRIDE: usize = 416;

fn wave(step: f32, len: usize) -> Vec<f32> {
    (0..len).map(|index| (index as f32 * step).sin()).collect()
}

fn table<W: Value>(step: f32, rows: usize, width: usize) -> Vec<W> {
    let stride = width.next_multiple_of(PADDING);
    let mut table: Vec<W> = wave(step, rows * stride).into_iter().map(W::from_f32).collect();
    table.chunks_exact_mut(stride).for_each(|row| row[width..].fill(W::from_f32(0.0)));
    table
}

fn row<W: Value>(table: &[W], row: usize, width: usize) -> Vec<f64> {
    let stride = width.next_multiple_of(PADDING);
    table[row * stride..][..width].iter().map(|x| x.value()).collect()
}

fn follows<V: Simd, W: Value>() {
    let ids: Vec<u32> = (0..24).map(|index| index * 37 % 50).collect();
    let kinds: Vec<u32> = (0..24).map(|index| index / 3 % 2).collect();
    for width in [1, 7, 16, 37, 384, 400] {
        let (words, positions, types) = (table::<W>(0.7, 50, width), table::<W>(1.3, 12, width), table(0.9, 2, width));
        let (gain, shift) = (wave(0.11, width), wave(0.13, width));
        let norm = Norm { kind: NormKind::Layer, gain: &gain, shift: &shift, epsilon: 1e-5 };
        for (with_table, given) in [(false, &[][..]), (true, &[][..]), (true, &kinds[..])] {
            let types = with_table.then_some(&types[..]);
            let tables = Tables { width, words: &words, positions: Some(&positions), types, norm: Some(norm) };
            let mut wide = vec![7.0f32; 24 * STRIDE];
            let mut narrow = vec![bf16::ONE; 24 * STRIDE];
            // Cut within sequences and between them.
            for rows in [0..3, 3..8, 8..9, 9..24] {
                let wide = Some(Rows::new(wide.as_mut_ptr(), STRIDE));
                let narrow = Some(Rows::new(narrow.as_mut_ptr(), STRIDE));
                // SAFETY: `on_all_vectors` looked whether the processor has the instructions; results have rows for all tokens.
                unsafe { embed::<V, W>(&tables, &ids, given, &SPLITS, rows, wide, narrow) };
            }
            for token in 0..24 {
                let first = SPLITS.iter().rev().find(|split| **split <= token).unwrap();
                let word = row(&words, ids[token] as usize, width);
                let position = row(&positions, token - first, width);
                let kind = types.map(|types| row(types, given.get(token).map_or(0, |kind| *kind as usize), width));
                let kind = kind.unwrap_or_else(|| vec![0.0; width]);
                let expected = reference::embed(NormKind::Layer, &[&word, &position, &kind], &gain, &shift, 1e-5);
                let what = format!("{width} columns, token {token}, types {with_table} {}", given.len());
                for (column, expected) in expected.iter().enumerate() {
                    let (found, rounded) = (wide[token * STRIDE + column], narrow[token * STRIDE + column]);
                    assert!((f64::from(found) - expected).abs() < 2e-5, "{what}: {found}, not {expected}");
                    assert_eq!(bf16::from_f32(found), rounded, "{what}");
                }
                let padding = token * STRIDE + width..token * STRIDE + width.next_multiple_of(16);
                assert!(wide[padding.clone()].iter().all(|x| *x == 0.0), "{what}");
                assert!(narrow[padding.clone()].iter().all(|x| *x == bf16::ZERO), "{what}");
                assert!(wide[padding.end..(token + 1) * STRIDE].iter().all(|x| *x == 7.0), "{what}");
            }
        }
    }
}

#[test]
fn follows_the_reference_for_any_width_with_and_without_types() {
    on_all_vectors!(follows, f32);
    on_all_vectors!(follows, bf16);
}

#[test]
fn a_place_beyond_the_table_is_not_read() {
    if !has(CpuIsa::Avx2) {
        return;
    }
    let (words, positions) = (table::<f32>(0.7, 50, 16), table(1.3, 2, 16));
    let norm = Norm { kind: NormKind::Layer, gain: &[1.0; 16], shift: &[0.0; 16], epsilon: 1e-5 };
    let tables = Tables { width: 16, words: &words, positions: Some(&positions), types: None, norm: Some(norm) };
    let embed = |tokens: usize| {
        let mut wide = vec![0.0; 3 * 16];
        let view = Some(Rows::new(wide.as_mut_ptr(), 16));
        // SAFETY: the processor has the instructions, and results have rows for three tokens.
        unsafe { embed::<Avx2, f32>(&tables, &[1, 2, 3], &[], &[0, tokens], 0..tokens, view, None) };
    };
    embed(2);
    assert!(std::panic::catch_unwind(|| embed(3)).is_err());
}

/// Whatever there is of positions, types and a norm.
fn any_parts<V: Simd, W: Value>() {
    let (width, ids) = (37, [3, 49, 0]);
    let (words, positions, types) = (table::<W>(0.7, 50, width), table::<W>(1.3, 3, width), table(0.9, 1, width));
    let (gain, shift) = (wave(0.11, width), wave(0.13, width));
    for parts in 0..8 {
        let norm = (parts & 1 != 0).then_some(Norm { kind: NormKind::Rms, gain: &gain, shift: &shift, epsilon: 1e-5 });
        let (positions, types) = ((parts & 2 != 0).then_some(&positions[..]), (parts & 4 != 0).then_some(&types[..]));
        let tables = Tables { width, words: &words, positions, types, norm };
        let mut wide = vec![7.0f32; 3 * STRIDE];
        let view = Some(Rows::new(wide.as_mut_ptr(), STRIDE));
        // SAFETY: as above.
        unsafe { embed::<V, W>(&tables, &ids, &[], &[0, 3], 0..3, view, None) };
        for (token, found) in wide.chunks_exact(STRIDE).enumerate() {
            let mut rows = vec![row(&words, ids[token] as usize, width)];
            rows.extend(positions.map(|positions| row(positions, token, width)));
            rows.extend(types.map(|types| row(types, 0, width)));
            let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
            let expected = match norm {
                Some(_) => reference::embed(NormKind::Rms, &rows, &gain, &shift, 1e-5),
                None => (0..width).map(|column| rows.iter().map(|row| row[column]).sum()).collect(),
            };
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 2e-5, "parts {parts}: {found}, not {expected}");
            }
            assert!(
                found[width..48].iter().all(|x| *x == 0.0) && found[48..].iter().all(|x| *x == 7.0),
                "parts {parts}"
            );
        }
    }
}

#[test]
fn does_without_positions_types_and_norm() {
    on_all_vectors!(any_parts, f32);
    on_all_vectors!(any_parts, bf16);
}
