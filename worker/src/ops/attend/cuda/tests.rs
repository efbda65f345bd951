use half::bf16;

use super::*;
use crate::cuda::bench::Bench;
use crate::ops::attend::reference;
use crate::ops::emulation::{Bf16s, close};

/// Sequences of these lengths, one after the other.
fn splits(lengths: &[usize]) -> Vec<usize> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    [0].into_iter().chain(ends).collect()
}

/// Attention of a batch of these lengths, with so many tiles more than it has.
fn attend(
    splits: &[usize],
    qkv: &Bf16s,
    (heads, head): (usize, usize),
    scale: f32,
    spare: usize,
    seed: u64,
) -> Vec<bf16> {
    let mut list: Vec<u32> = tiles(splits).flatten().collect();
    list.extend(vec![0; 3 * spare]);
    let mut bench = Bench::new(seed);
    let attend = Attend {
        heads,
        head,
        scale,
        qkv: bench.put(&qkv.0),
        tiles: list.len() / 3,
        list: bench.put(&list),
        output: bench.room::<bf16>(qkv.0.len() / 3),
    };
    bench.run(attend.command()).unwrap_or_else(|fault| panic!("{fault}"));
    bench.read(attend.output)
}

/// Runs a batch of these lengths and holds each head of each token to the reference.
fn follows(lengths: &[usize], heads: usize, head: usize, seed: u64) {
    let splits = splits(lengths);
    let (tokens, width, scale) = (splits[splits.len() - 1], heads * head, 1.5 / (head as f32).sqrt());
    let qkv = Bf16s::wave(tokens * 3 * width, seed as f32);
    let output = attend(&splits, &qkv, (heads, head), scale, 0, seed);
    let rows: Vec<Vec<f64>> = (0..tokens).map(|token| qkv.row(token as u32, 3 * width)).collect();
    let to_base_2 = f64::from(scale) * std::f64::consts::LOG2_E;
    for pair in splits.windows(2) {
        for token in pair[0]..pair[1] {
            for at in (0..width).step_by(head) {
                let q: Vec<f64> = rows[token][at..at + head].iter().map(|x| x * to_base_2).collect();
                let keys = || rows[pair[0]..pair[1]].iter();
                let part = |offset: usize| keys().map(move |row| &row[offset + at..][..head]);
                let expected = reference::attend(&q, part(width), part(2 * width));
                let found = &output[token * width + at..][..head];
                // Weights are rounded to bfloat16 as well, so values of up to 1 are summed up that much off.
                close(&format!("{lengths:?}, D {head}, token {token}, at {at}"), found, &expected, 1.0 / 256.0);
            }
        }
    }
}

#[test]
fn follows_the_reference_at_every_edge_of_a_tile() {
    for (seed, (head, _)) in (0..).zip(KERNELS) {
        // Queries come 64 at a time; keys 64 or 32.
        follows(&[1, 17, 31, 32, 33, 63, 64, 65, 128, 2], 2, head, seed);
    }
}

#[test]
fn follows_the_reference_over_many_tiles() {
    follows(&[257], 1, 64, 1);
    follows(&[130, 1, 191], 3, 32, 2);
    follows(&[161], 2, 128, 3);
}

#[test]
fn a_row_is_the_same_bits_in_any_batch_and_with_any_order_of_threads() {
    for (head, _) in KERNELS {
        let (row, scale) = (3 * head, 0.2);
        let qkv = Bf16s::wave(103 * row, 4.0);
        let together = attend(&[0, 5, 103], &qkv, (1, head), scale, 0, 0);
        for seed in 1..3 {
            let alone = attend(&[0, 98], &Bf16s(qkv.0[5 * row..].to_vec()), (1, head), scale, 0, seed);
            assert_eq!(alone, together[5 * head..], "D {head}");
        }
    }
}

#[test]
fn other_widths_have_no_kernel() {
    assert!([0, 8, 24, 40, 112, 144, 256].into_iter().all(|head| Attend::kernel(head).is_none()));
}

#[test]
fn a_list_with_tiles_to_spare_is_the_same_attention() {
    let qkv = Bf16s::wave(70 * 3 * 2 * 32, 2.0);
    // As a graph captured for more sequences has.
    let run = |spare| attend(&[0, 3, 70], &qkv, (2, 32), 0.2, spare, 3);
    assert_eq!(run(5), run(0));
}

#[test]
fn no_batch_has_more_tiles_than_there_is_room_for() {
    for lengths in [&[1_usize; 70][..], &[64, 64, 64], &[65, 65, 63], &[512], &[1]] {
        let splits = splits(lengths);
        assert!(tiles(&splits).count() <= tiles_max(splits[splits.len() - 1], lengths.len()), "{lengths:?}");
    }
}
