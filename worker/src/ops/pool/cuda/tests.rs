use super::*;
use crate::cuda::bench::Bench;
use crate::ops::emulation::{Numbers, Shapes, close, read};
use crate::ops::pool::reference;

/// Runs both kernels of each kind and holds every sequence that is not empty to the reference.
fn follows(splits: &[u32], width: usize, pooling: Pooling, seed: u64) {
    Element::ALL.into_iter().for_each(|element| follows_in(element, splits, width, pooling, seed));
}

fn follows_in(element: Element, splits: &[u32], width: usize, pooling: Pooling, seed: u64) {
    let sequences = splits.len() - 1;
    let input = Numbers::wave(element, splits[sequences] as usize * width, 1.1);
    let mut bench = Bench::new(seed);
    let [exact, rounded] = [Element::F32, element].map(|into| {
        let pool = Pool {
            sequences,
            width,
            element,
            pooling,
            input: input.put(&mut bench),
            splits: bench.put(splits),
            output: bench.room::<u8>(sequences * width * into.bytes()),
            into,
        };
        bench.run(pool.command()).unwrap_or_else(|fault| panic!("{fault}"));
        pool.output
    });
    let (exact, rounded) = (bench.read::<f32>(exact), read(&bench, element, rounded));
    for (sequence, pair) in splits.windows(2).enumerate().filter(|(_, pair)| pair[0] < pair[1]) {
        let rows: Vec<Vec<f64>> = (pair[0]..pair[1]).map(|row| input.row(row, width)).collect();
        let expected = reference::pool(&rows, pooling);
        let what = format!("{pooling:?}, width {width}, sequence {sequence}");
        close(&what, element, &rounded[sequence * width..][..width], &expected, 0.0);
        for (found, expected) in exact[sequence * width..][..width].iter().zip(&expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{what}: {found}, not {expected}");
        }
    }
}

#[test]
fn follows_the_reference_for_every_pooling_into_either_type() {
    // The last one is empty, as in a graph captured for more sequences: what it gives is nobody's.
    let splits = [0, 1, 4, 9, 80, 80];
    for (seed, pooling) in (0..).zip(Pooling::ALL) {
        for width in [8, 128, 256, 264, 768] {
            follows(&splits, width, pooling, seed);
        }
    }
}

#[test]
fn follows_the_reference_at_any_shape_with_every_schedule() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        for pooling in Pooling::ALL {
            let first = shapes.up_to(30) as u32;
            follows(&[0, first, first + shapes.up_to(9) as u32], 8 * shapes.up_to(80), pooling, seed);
        }
    }
}
