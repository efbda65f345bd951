use std::hint::black_box;
use std::time::{Duration, Instant};

use super::*;
use crate::cpu::avx2::Avx2;
use crate::cpu::avx512::Avx512;
use crate::cpu::dot::{Bf16, F32};
use crate::cpu::isa::CpuIsa;
use crate::cpu::testing::{Value, has};
use crate::ops::attend::reference;

/// How far results may be from the reference, for values up to 1. In bfloat16 weights are rounded, and so is the result.
fn error<E: Number>() -> f64 {
    if E::NARROW { 6e-3 } else { 6e-6 }
}

/// One sequence in the middle of a batch: heads side by side in rows that go on after them, rows of others around it. All
/// that is not the sequence's is not a number, so that whoever touches it is seen.
struct Case<E> {
    head: usize,
    heads: usize,
    keys: usize,
    mask: Mask,
    stride: usize,
    qkv: Vec<E>,
    out: Vec<E>,
}

impl<E: Value> Case<E> {
    fn new(head: usize, heads: usize, keys: usize, spread: f32) -> Self {
        let (wide, stride) = (3 * heads * head, (3 * heads * head).next_multiple_of(32));
        let mut state = (head * 31 + keys) as u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut qkv = vec![E::from_f32(f32::NAN); (keys + 2) * stride];
        for row in qkv.chunks_exact_mut(stride).skip(1).take(keys) {
            for (column, x) in row[..wide].iter_mut().enumerate() {
                *x = E::from_f32(if column < heads * head { spread * next() } else { next() });
            }
        }
        let out = vec![E::from_f32(7.0); (keys + 2) * stride];
        Self { head, heads, keys, mask: Mask::None, stride, qkv, out }
    }

    /// The numbers of one head in one row of the sequence: of queries (0), keys (1) or values (2).
    fn part(&self, row: usize, part: usize, head: usize) -> Vec<f64> {
        let at = (row + 1) * self.stride + (part * self.heads + head) * self.head;
        self.qkv[at..at + self.head].iter().map(|x| x.value()).collect()
    }

    fn attend<D: Attends<Element = E>>(
        &mut self,
        scratch: &mut Scratch<D>,
        head: usize,
        queries: Range<usize>,
        pad: usize,
    ) {
        let (stride, width) = (self.stride, self.heads * self.head);
        let input = Rows::new(self.qkv.as_mut_ptr(), stride);
        let out = Rows::new(self.out.as_mut_ptr(), stride);
        // SAFETY: `on_all` looked whether the processor has the instructions; the sequence is rows 1 to `keys`, and its
        // heads lie within rows.
        unsafe {
            let part = |part: usize| Rows::new(input.at(1, part * width + head * self.head), stride);
            let out = Rows::new(out.at(1, head * self.head), stride);
            let head = Head { width: self.head, keys: self.keys, mask: self.mask };
            pack(scratch, part(1), part(2), head);
            attend(scratch, part(0), head, queries, out, pad);
        }
    }
}

/// Runs a test of all kinds of dot products that this processor has.
macro_rules! on_all {
    ($test:ident) => {
        if has(CpuIsa::Avx2) {
            $test::<F32<Avx2>>();
        }
        if has(CpuIsa::Avx512) {
            $test::<F32<Avx512>>();
        }
        if has(CpuIsa::Avx512Narrow) {
            $test::<Bf16>();
        }
    };
}

fn follows<D: Attends<Element: Value>>() {
    let mut scratch = Scratch::<D>::new();
    let heads = [5, 8, 16, 20, 32, 40, 64, 80, 96, 128];
    let lengths = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 65, 127, 128, 129];
    let mut sizes: Vec<(usize, usize)> = heads.iter().flat_map(|head| lengths.map(|keys| (*head, keys))).collect();
    sizes.extend(
        [511, 512, 513, 1023, 1025, 1100].into_iter().flat_map(|keys| [5, 32, 64, 80].map(|head| (head, keys))),
    );
    for (head, keys) in sizes {
        let mut case = Case::<D::Element>::new(head, 3, keys, 3.0);
        // The last head first: its padding is not to be seen, the others' neighbours are.
        for index in (0..3).rev() {
            let pad = if index == 2 { 3 } else { 0 };
            case.attend::<D>(&mut scratch, index, 0..keys, pad);
            let (k, v): (Vec<_>, Vec<_>) =
                (0..keys).map(|row| (case.part(row, 1, index), case.part(row, 2, index))).unzip();
            // All rows of what is short, some of what is long.
            for query in (0..keys).step_by(1 + keys / 40) {
                let q = case.part(query, 0, index);
                let expected = reference::attend(&q, k.iter().map(Vec::as_slice), v.iter().map(Vec::as_slice));
                let at = (query + 1) * case.stride + index * head;
                for (found, expected) in case.out[at..at + head].iter().zip(expected) {
                    let distance = (found.value() - expected).abs();
                    assert!(
                        distance <= error::<D::Element>(),
                        "head of {head}, {keys} keys, query {query}: {found:?}, not {expected}"
                    );
                }
            }
        }
        for (index, row) in case.out.chunks_exact(case.stride).enumerate() {
            let written = if (1..=keys).contains(&index) { 3 * head } else { 0 };
            let pad = if written > 0 { 3 } else { 0 };
            assert!(row[written..written + pad].iter().all(|x| x.value() == 0.0), "padding of row {index}");
            assert!(row[written + pad..].iter().all(|x| x.value() == 7.0), "head of {head}: beyond row {index}");
        }
    }
}

#[test]
fn follows_the_reference_for_all_head_sizes_and_lengths() {
    on_all!(follows);
}

fn ranges_agree<D: Attends<Element: Value>>() {
    let mut scratch = Scratch::<D>::new();
    for (head, keys) in [(32, 50), (40, 33), (64, 700), (5, 20)] {
        let mut whole = Case::<D::Element>::new(head, 2, keys, 3.0);
        let mut parts = Case::<D::Element>::new(head, 2, keys, 3.0);
        for index in [0, 1] {
            whole.attend::<D>(&mut scratch, index, 0..keys, 0);
            let mut start = 0;
            for len in [1, 2, 3, 13, 8, 5, keys] {
                let end = (start + len).min(keys);
                parts.attend::<D>(&mut scratch, index, start..end, 0);
                start = end;
            }
        }
        assert!(whole.out == parts.out, "head of {head}, {keys} keys");
    }
}

#[test]
fn a_row_is_the_same_bits_with_whatever_queries_it_is_computed() {
    on_all!(ranges_agree);
}

fn masks_hide<D: Attends<Element: Value>>() {
    let mut scratch = Scratch::<D>::new();
    for (head, keys) in [(5, 9), (32, 50), (64, 130), (16, 1300)] {
        for mask in [Mask::Causal, Mask::Window(0), Mask::Window(7), Mask::Window(64), Mask::Window(600)] {
            let mut whole = Case::<D::Element> { mask, ..Case::new(head, 2, keys, 3.0) };
            whole.attend::<D>(&mut scratch, 1, 0..keys, 0);
            for query in (0..keys).step_by(1 + keys / 60) {
                let seen = mask.seen(query, keys);
                let (k, v): (Vec<_>, Vec<_>) = seen.map(|row| (whole.part(row, 1, 1), whole.part(row, 2, 1))).unzip();
                let q = whole.part(query, 0, 1);
                let expected = reference::attend(&q, k.iter().map(Vec::as_slice), v.iter().map(Vec::as_slice));
                let at = (query + 1) * whole.stride + head;
                for (found, expected) in whole.out[at..at + head].iter().zip(expected) {
                    let distance = (found.value() - expected).abs();
                    let what = format!("{mask:?}, head of {head}, {keys} keys, query {query}");
                    assert!(distance <= error::<D::Element>(), "{what}: {found:?}, not {expected}");
                }
            }
            // Whatever its neighbours in a tile look at: blocks before its own first key, and behind its own last one.
            for (first, step) in [(0, 1), (3, 8), (1, 5)] {
                let mut parts = Case::<D::Element> { mask, ..Case::new(head, 2, keys, 3.0) };
                parts.attend::<D>(&mut scratch, 1, 0..first, 0);
                for start in (first..keys).step_by(step) {
                    parts.attend::<D>(&mut scratch, 1, start..(start + step).min(keys), 0);
                }
                assert!(whole.out == parts.out, "{mask:?}, head of {head}, {keys} keys, by {step} from {first}");
            }
        }
    }
}

#[test]
fn what_a_mask_hides_has_no_effect_on_any_bit() {
    on_all!(masks_hide);
}

fn survives<D: Attends<Element: Value>>() {
    let mut scratch = Scratch::<D>::new();
    // Scores in the tens of thousands: weights are 1 and 0.
    let mut case = Case::<D::Element>::new(32, 1, 600, 1e4);
    case.attend::<D>(&mut scratch, 0, 0..600, 0);
    let rows = case.out.chunks_exact(case.stride).skip(1).take(600);
    assert!(rows.flat_map(|row| &row[..32]).all(|x| x.value().abs() <= 1.01), "{:?}", &case.out[case.stride..][..32]);
}

#[test]
fn survives_scores_far_apart() {
    on_all!(survives);
}

fn nan_spreads<D: Attends<Element: Value>>() {
    let mut scratch = Scratch::<D>::new();
    let mut case = Case::<D::Element>::new(32, 1, 40, 1.0);
    // A key that is none, in the middle: every query sees it.
    let at = 20 * case.stride + 32;
    case.qkv[at] = D::Element::from_f32(f32::NAN);
    case.attend::<D>(&mut scratch, 0, 0..40, 0);
    let rows = case.out.chunks_exact(case.stride).skip(1).take(40);
    assert!(rows.flat_map(|row| &row[..32]).all(|x| x.value().is_nan()));
}

#[test]
fn what_is_not_a_number_is_not_lost() {
    on_all!(nan_spreads);
}

/// Multiply-adds of one head in a second, in GFLOP/s, at several lengths.
fn rates<D: Attends<Element: Value>>() {
    let mut scratch = Scratch::<D>::new();
    for head in [32, 64] {
        for keys in [16, 64, 128, 256, 512] {
            let heads = 384 / head;
            let mut case = Case::<D::Element>::new(head, heads, keys, 1.0);
            let mut best = Duration::MAX;
            let rounds = 1 + (1 << 17) / (keys * keys);
            for _ in 0..40 {
                let start = Instant::now();
                for round in 0..rounds {
                    case.attend::<D>(&mut scratch, round % heads, 0..black_box(keys), 0);
                }
                best = best.min(start.elapsed());
            }
            let flop = (4 * head * keys * keys * rounds) as f64;
            eprint!("{head}x{keys}: {:.0}  ", flop / best.as_secs_f64() / 1e9);
        }
    }
    eprintln!("GFLOP/s by {}", std::any::type_name::<D>());
}

#[test]
#[ignore = "a measurement, for a release build on a quiet processor"]
fn prints_its_rate() {
    on_all!(rates);
}
