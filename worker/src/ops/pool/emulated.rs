//! The GPU's kernel, on the emulator.

use half::bf16;
use shoal_emulator::{Emulator, Pool, Pooled, Pooling as Kernel};

use crate::ops::emulation::{Bf16s, close};
use crate::ops::pool::reference;
use crate::plan::Pooling;

const ALL: [(Pooling, Kernel); 3] =
    [(Pooling::Mean, Kernel::Mean), (Pooling::Cls, Kernel::Cls), (Pooling::Max, Kernel::Max)];

#[test]
fn follows_the_reference_for_every_pooling_into_either_type() {
    let splits = [0, 1, 4, 9, 80];
    for (seed, (pooling, kernel)) in (0..).zip(ALL) {
        for width in [8, 128, 256, 264, 768] {
            let input = Bf16s::wave(80 * width, 1.1);
            let mut exact = vec![f32::NAN; 4 * width];
            let mut rounded = vec![bf16::NAN; 4 * width];
            for output in [Pooled::F32(&mut exact), Pooled::Bf16(&mut rounded)] {
                Pool { input: &input.0, splits: &splits, width, pooling: kernel, output }
                    .run(&Emulator::new(seed))
                    .unwrap();
            }
            for (sequence, pair) in splits.windows(2).enumerate() {
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
