use super::*;
use crate::cuda::bench::Bench;
use crate::ops::attend::reference;
use crate::ops::emulation::{Numbers, Shapes, close, read, room};

/// Sequences of these lengths, one after the other.
fn splits(lengths: &[usize]) -> Vec<usize> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    [0].into_iter().chain(ends).collect()
}

/// So many heads of queries, keys and values each.
fn heads(count: usize, width: usize) -> Heads {
    Heads { count, shared: count, width }
}

/// Attention of a batch of these lengths, with so many tiles more than it has.
fn attend(splits: &[usize], qkv: &Numbers, heads: Heads, mask: Mask, spare: usize, seed: u64) -> Vec<f32> {
    let mut list: Vec<u32> = tiles(splits).flatten().collect();
    list.extend(vec![0; 3 * spare]);
    let (mut bench, element) = (Bench::new(seed), qkv.element);
    let attend = Attend {
        heads,
        element,
        mask,
        scale: scale(heads),
        qkv: qkv.put(&mut bench),
        tiles: list.len() / 3,
        list: bench.put(&list),
        output: room(&mut bench, element, splits[splits.len() - 1] * heads.queries()),
    };
    bench.run(attend.command()).unwrap_or_else(|fault| panic!("{fault}"));
    read(&bench, element, attend.output)
}

/// Sharp enough that single keys matter.
fn scale(heads: Heads) -> f32 {
    1.5 / (heads.width as f32).sqrt()
}

/// Runs a batch of these lengths and holds each head of each token to the reference.
fn follows(lengths: &[usize], heads: Heads, mask: Mask, seed: u64) {
    Element::ALL.into_iter().for_each(|element| follows_in(element, lengths, heads, mask, seed));
}

fn follows_in(element: Element, lengths: &[usize], heads: Heads, mask: Mask, seed: u64) {
    let splits = splits(lengths);
    let (tokens, width) = (splits[splits.len() - 1], heads.width);
    let qkv = Numbers::wave(element, tokens * heads.row(), seed as f32);
    let output = attend(&splits, &qkv, heads, mask, 0, seed);
    let rows: Vec<Vec<f64>> = (0..tokens).map(|token| qkv.row(token as u32, heads.row())).collect();
    let to_base_2 = f64::from(scale(heads)) * std::f64::consts::LOG2_E;
    for pair in splits.windows(2) {
        let sequence = &rows[pair[0]..pair[1]];
        for (place, row) in sequence.iter().enumerate() {
            for head in 0..heads.count {
                let [queries, keys, values] = heads.columns(head);
                let q: Vec<f64> = row[queries..][..width].iter().map(|x| x * to_base_2).collect();
                let seen = || sequence[mask.seen(place, sequence.len())].iter();
                let part = |at: usize| seen().map(move |row| &row[at..][..width]);
                let expected = reference::attend(&q, part(keys), part(values));
                let found = &output[(pair[0] + place) * heads.queries() + queries..][..width];
                let what = format!("{lengths:?}, {heads:?}, {mask:?}, place {place}, head {head}");
                // Weights are rounded as well, so values of up to 1 are summed up that much off.
                close(&what, element, found, &expected, 1.0);
            }
        }
    }
}

#[test]
fn follows_the_reference_at_every_edge_of_a_tile() {
    for (seed, (width, _)) in (0..).zip(KERNELS) {
        // Queries come 64 at a time; keys 64 or 32.
        follows(&[1, 17, 31, 32, 33, 63, 64, 65, 128, 2], heads(2, width), Mask::None, seed);
    }
}

#[test]
fn follows_the_reference_at_any_lengths_with_every_schedule() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        for (head, _) in KERNELS {
            let lengths = [shapes.up_to(80), shapes.up_to(20)];
            let shared = shapes.up_to(2);
            let heads = Heads { count: shared * shapes.up_to(2), shared, width: head };
            let mask = [Mask::None, Mask::Causal, Mask::Window(shapes.up_to(70))][shapes.up_to(3) - 1];
            follows(&lengths, heads, mask, seed);
        }
    }
}

#[test]
fn follows_the_reference_over_many_tiles() {
    follows(&[257], heads(1, 64), Mask::None, 1);
    follows(&[130, 1, 191], heads(3, 32), Mask::None, 2);
    follows(&[161], heads(2, 128), Mask::None, 3);
}

#[test]
fn a_token_sees_itself_and_those_before_it_under_a_causal_mask() {
    for (seed, (width, _)) in (0..).zip(KERNELS) {
        follows(&[1, 16, 33, 64, 65, 130], heads(1, width), Mask::Causal, seed);
    }
}

#[test]
fn a_token_sees_those_in_its_window() {
    // Itself alone; less than a warp's queries; up to the edge of a tile; more than a tile and than all there are.
    for (seed, reach) in (0..).zip([0, 5, 31, 32, 63, 64, 100, usize::MAX]) {
        follows(&[1, 40, 129, 200], heads(1, 32), Mask::Window(reach), seed);
    }
    for (seed, (width, _)) in (0..).zip(KERNELS) {
        // Rows at the end of a tile see none of the first keys that those at its beginning see.
        follows(&[193, 70], heads(1, width), Mask::Window(9), seed);
    }
}

#[test]
fn heads_of_queries_share_those_of_keys_and_values() {
    for (seed, (count, shared, width)) in (0..).zip([(4, 1, 16), (4, 2, 64), (6, 2, 32), (2, 1, 128)]) {
        let heads = Heads { count, shared, width };
        for mask in [Mask::None, Mask::Causal, Mask::Window(20)] {
            follows(&[5, 66, 33], heads, mask, seed);
        }
    }
}

#[test]
fn a_row_is_the_same_bits_in_any_batch_and_with_any_order_of_threads() {
    for (width, _) in KERNELS {
        let (heads, row) = (heads(1, width), 3 * width);
        for element in Element::ALL {
            let qkv = Numbers::wave(element, 103 * row, 4.0);
            let last = Numbers::new(element, qkv.values[5 * row..].iter().copied());
            for mask in [Mask::None, Mask::Causal, Mask::Window(12)] {
                let together = attend(&[0, 5, 103], &qkv, heads, mask, 0, 0);
                for seed in 1..3 {
                    let alone = attend(&[0, 98], &last, heads, mask, 0, seed);
                    assert_eq!(alone, together[5 * width..], "D {width}, {element}, {mask:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_masked_has_no_weight_at_all() {
    let heads = heads(1, 64);
    for element in Element::ALL {
        let mut qkv = Numbers::wave(element, 140 * heads.row(), 1.0);
        let before = attend(&[0, 140], &qkv, heads, Mask::Causal, 0, 0);
        // Keys and values of the last token, which others would take for the only ones.
        qkv.values[139 * heads.row()..].fill(1e4);
        let after = attend(&[0, 140], &qkv, heads, Mask::Causal, 0, 1);
        assert_eq!(after[..139 * 64], before[..139 * 64], "{element}");
    }
}

#[test]
fn other_widths_have_no_kernel() {
    assert!(
        [0, 8, 24, 40, 112, 144, 256]
            .into_iter()
            .all(|head| { Element::ALL.into_iter().all(|element| Attend::kernel(element, head).is_none()) })
    );
}

#[test]
fn a_list_with_tiles_to_spare_is_the_same_attention() {
    for element in Element::ALL {
        let qkv = Numbers::wave(element, 70 * 3 * 2 * 32, 2.0);
        // As a graph captured for more sequences has.
        let run = |spare| attend(&[0, 3, 70], &qkv, heads(2, 32), Mask::None, spare, 3);
        assert_eq!(run(5), run(0), "{element}");
    }
}

#[test]
fn no_batch_has_more_tiles_than_there_is_room_for() {
    for lengths in [&[1_usize; 70][..], &[64, 64, 64], &[65, 65, 63], &[512], &[1]] {
        let splits = splits(lengths);
        assert!(tiles(&splits).count() <= tiles_max(splits[splits.len() - 1], lengths.len()), "{lengths:?}");
    }
}
