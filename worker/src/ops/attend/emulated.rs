//! The GPU's kernel, on the emulator.

use half::bf16;
use shoal_emulator::{Attend, Emulator, tiles};

use crate::ops::attend::reference;
use crate::ops::emulation::{Bf16s, close};

/// Runs a batch of these lengths and holds each head of each token to the reference.
fn follows(lengths: &[u32], heads: usize, head: usize, seed: u64) {
    let mut splits = vec![0];
    lengths.iter().for_each(|length| splits.push(splits[splits.len() - 1] + length));
    let (tokens, width, scale) = (splits[splits.len() - 1], heads * head, 1.5 / (head as f32).sqrt());
    let qkv = Bf16s::wave(tokens as usize * 3 * width, seed as f32);
    let mut output = vec![bf16::NAN; tokens as usize * width];
    Attend { qkv: &qkv.0, tiles: &tiles(&splits), heads, head, scale, output: &mut output }
        .run(&Emulator::new(seed))
        .unwrap();
    let rows: Vec<Vec<f64>> = (0..tokens).map(|token| qkv.row(token, 3 * width)).collect();
    let to_base_2 = f64::from(scale) * std::f64::consts::LOG2_E;
    for pair in splits.windows(2) {
        for token in pair[0]..pair[1] {
            for at in (0..width).step_by(head) {
                let q: Vec<f64> = rows[token as usize][at..at + head].iter().map(|x| x * to_base_2).collect();
                let keys = || rows[pair[0] as usize..pair[1] as usize].iter();
                let part = |offset: usize| keys().map(move |row| &row[offset + at..][..head]);
                let expected = reference::attend(&q, part(width), part(2 * width));
                let found = &output[token as usize * width + at..][..head];
                // Weights are rounded to bfloat16 as well, so values of up to 1 are summed up that much off.
                close(&format!("{lengths:?}, D {head}, token {token}, at {at}"), found, &expected, 1.0 / 256.0);
            }
        }
    }
}

#[test]
fn follows_the_reference_at_every_edge_of_a_tile() {
    for (seed, head) in [32, 64, 32, 64].into_iter().enumerate() {
        follows(&[1, 17, 63, 64, 65, 128, 2], 2, head, seed as u64);
    }
}

#[test]
fn follows_the_reference_over_many_tiles() {
    follows(&[257], 1, 64, 1);
    follows(&[130, 1, 191], 3, 32, 2);
}

#[test]
fn a_list_with_tiles_to_spare_is_the_same_attention() {
    let (splits, heads) = ([0, 3, 70], 2);
    let qkv = Bf16s::wave(70 * 3 * heads * 32, 2.0).0;
    let run = |tiles: &[[u32; 3]]| {
        let mut output = vec![bf16::NAN; 70 * heads * 32];
        Attend { qkv: &qkv, tiles, heads, head: 32, scale: 0.2, output: &mut output }.run(&Emulator::new(3)).unwrap();
        output
    };
    let exact = tiles(&splits);
    // As a graph captured for more sequences has.
    let padded = [&exact[..], &[[0; 3]; 5]].concat();
    assert_eq!(run(&padded), run(&exact));
}
