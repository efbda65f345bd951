//! The GPU's kernel, on the emulator.

use half::bf16;
use shoal_emulator::{Emulator, Pick};

use crate::ops::emulation::Bf16s;
use crate::ops::pick::reference;

#[test]
fn follows_the_reference_for_any_width() {
    for (seed, width) in (0..).zip([8, 384, 512, 520, 1032]) {
        let (input, marks) = (Bf16s::wave(9 * width, 0.8).0, [0, 3, 4, 8]);
        let mut output = vec![bf16::NAN; marks.len() * width];
        Pick { input: &input, marks: &marks, width, output: &mut output }.run(&Emulator::new(seed)).unwrap();
        let rows: Vec<Vec<bf16>> = input.chunks_exact(width).map(<[bf16]>::to_vec).collect();
        assert_eq!(output, reference::pick(&rows, &marks.map(|mark| mark as usize)).concat(), "width {width}");
    }
}
