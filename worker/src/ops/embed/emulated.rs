//! The GPU's kernel, on the emulator.

use half::bf16;
use shoal_emulator::{Embed, Emulator};

use crate::ops::embed::reference;
use crate::ops::emulation::{Bf16s, close};

#[test]
fn follows_the_reference_for_every_width_class_with_and_without_types() {
    for (seed, width) in [8, 256, 264, 384, 768, 1000, 1024, 2048].into_iter().enumerate() {
        for has_types in [false, true] {
            let rows = 7;
            let [words, positions, kinds] = [11, 5, 2].map(|count| Bf16s::wave(count * width, count as f32));
            let ids: Vec<u32> = (0..rows).map(|row| row * 5 % 11).collect();
            let places: Vec<u32> = (0..rows).map(|row| row % 5).collect();
            let types: Vec<u32> = (0..rows).map(|row| row % 2).collect();
            let gain: Vec<f32> = Bf16s::wave(width, 0.3).wide().iter().map(|x| 1.0 + *x as f32 / 4.0).collect();
            let shift: Vec<f32> = Bf16s::wave(width, 0.7).wide().iter().map(|x| *x as f32).collect();
            let mut output = vec![bf16::NAN; rows as usize * width];
            let embed = Embed {
                ids: &ids,
                places: &places,
                types: has_types.then_some(&types),
                words: &words.0,
                positions: &positions.0,
                kinds: Some(&kinds.0),
                gain: &gain,
                shift: &shift,
                epsilon: 1e-5,
                output: &mut output,
            };
            embed.run(&Emulator::new(seed as u64)).unwrap();
            for (row, found) in output.chunks_exact(width).enumerate() {
                let kind = if has_types { types[row] } else { 0 };
                let rows = [words.row(ids[row], width), positions.row(places[row], width), kinds.row(kind, width)];
                let expected = reference::embed(&[&rows[0], &rows[1], &rows[2]], &gain, &shift, 1e-5);
                close(&format!("width {width}, types {has_types}, row {row}"), found, &expected, 0.0);
            }
        }
    }
}

#[test]
fn an_id_beyond_the_table_is_told() {
    let table = vec![bf16::ONE; 3 * 8];
    let (gain, shift, mut output) = ([1.0; 8], [0.0; 8], vec![bf16::NAN; 8]);
    let embed = Embed {
        ids: &[3],
        places: &[0],
        types: None,
        words: &table,
        positions: &table,
        kinds: None,
        gain: &gain,
        shift: &shift,
        epsilon: 1e-5,
        output: &mut output,
    };
    let fault = embed.run(&Emulator::new(0)).unwrap_err().to_string();
    assert!(fault.contains("embed_256") && fault.contains("outside every buffer"), "{fault}");
}
