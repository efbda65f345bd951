use half::bf16;

use super::*;
use crate::cuda::bench::Bench;
use crate::ops::embed::reference;
use crate::ops::emulation::{Bf16s, close};

#[test]
fn follows_the_reference_for_every_width_class_with_and_without_types() {
    for (seed, width) in [8, 256, 264, 384, 768, 1000, 1024, 2048].into_iter().enumerate() {
        for has_types in [false, true] {
            let tokens = 7;
            let [words, positions, kinds] = [11, 5, 2].map(|count| Bf16s::wave(count * width, count as f32));
            let ids: Vec<u32> = (0..tokens).map(|row| row * 5 % 11).collect();
            let places: Vec<u32> = (0..tokens).map(|row| row % 5).collect();
            let types: Vec<u32> = (0..tokens).map(|row| row % 2).collect();
            let gain: Vec<f32> = Bf16s::wave(width, 0.3).wide().iter().map(|x| 1.0 + *x as f32 / 4.0).collect();
            let shift: Vec<f32> = Bf16s::wave(width, 0.7).wide().iter().map(|x| *x as f32).collect();
            let mut bench = Bench::new(seed as u64);
            let embed = Embed {
                tokens: tokens as usize,
                width,
                ids: bench.put(&ids),
                places: bench.put(&places),
                types: has_types.then(|| bench.put(&types)),
                words: bench.put(&words.0),
                positions: bench.put(&positions.0),
                kinds: Some(bench.put(&kinds.0)),
                gain: bench.put(&gain),
                shift: bench.put(&shift),
                epsilon: 1e-5,
                output: bench.room::<bf16>(tokens as usize * width),
            };
            bench.run(embed.command()).unwrap();
            for (row, found) in bench.read::<bf16>(embed.output).chunks_exact(width).enumerate() {
                let kind = if has_types { types[row] } else { 0 };
                let rows = [words.row(ids[row], width), positions.row(places[row], width), kinds.row(kind, width)];
                let expected = reference::embed(
                    crate::plan::NormKind::Layer,
                    &[&rows[0], &rows[1], &rows[2]],
                    &gain,
                    &shift,
                    1e-5,
                );
                close(&format!("width {width}, types {has_types}, row {row}"), found, &expected, 0.0);
            }
        }
    }
}

#[test]
fn an_id_beyond_the_table_is_told() {
    let mut bench = Bench::new(0);
    let table = bench.put(&[bf16::ONE; 3 * 8]);
    let embed = Embed {
        tokens: 1,
        width: 8,
        ids: bench.put(&[3_u32]),
        places: bench.put(&[0_u32]),
        types: None,
        words: table,
        positions: table,
        kinds: None,
        gain: bench.put(&[1.0_f32; 8]),
        shift: bench.put(&[0.0_f32; 8]),
        epsilon: 1e-5,
        output: bench.room::<bf16>(8),
    };
    let fault = bench.run(embed.command()).unwrap_err();
    assert!(fault.contains("embed_256") && fault.contains("outside every buffer"), "{fault}");
}
