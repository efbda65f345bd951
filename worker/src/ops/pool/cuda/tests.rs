use half::bf16;

use super::*;
use crate::cuda::bench::Bench;
use crate::ops::emulation::{Bf16s, close};
use crate::ops::pool::reference;

#[test]
fn follows_the_reference_for_every_pooling_into_either_type() {
    // The last one is empty, as in a graph captured for more sequences: what it gives is nobody's.
    let splits = [0, 1, 4, 9, 80, 80];
    for (seed, pooling) in (0..).zip(Pooling::ALL) {
        for width in [8, 128, 256, 264, 768] {
            let input = Bf16s::wave(80 * width, 1.1);
            let mut bench = Bench::new(seed);
            let [exact, rounded] = [Element::F32, Element::Bf16].map(|into| {
                let pool = Pool {
                    sequences: 5,
                    width,
                    pooling,
                    input: bench.put(&input.0),
                    splits: bench.put(&splits),
                    output: bench.room::<u8>(5 * width * into.bytes()),
                    into,
                };
                bench.run(pool.command()).unwrap();
                pool.output
            });
            let (exact, rounded) = (bench.read::<f32>(exact), bench.read::<bf16>(rounded));
            for (sequence, pair) in splits.windows(2).enumerate().take(4) {
                let rows: Vec<Vec<f64>> = (pair[0]..pair[1]).map(|row| input.row(row, width)).collect();
                let expected = reference::pool(&rows, pooling);
                let what = format!("{pooling:?}, width {width}, sequence {sequence}");
                close(&what, &rounded[sequence * width..][..width], &expected, 0.0);
                for (found, expected) in exact[sequence * width..][..width].iter().zip(&expected) {
                    assert!((f64::from(*found) - expected).abs() < 1e-6, "{what}: {found}, not {expected}");
                }
            }
        }
    }
}
