use half::bf16;

use super::*;
use crate::cuda::bench::Bench;
use crate::ops::emulation::Bf16s;
use crate::ops::pick::reference;

#[test]
fn follows_the_reference_for_any_width() {
    for (seed, width) in (0..).zip([8, 384, 512, 520, 1032]) {
        let (input, marks) = (Bf16s::wave(9 * width, 0.8).0, [0_u32, 3, 4, 8]);
        let mut bench = Bench::new(seed);
        let pick = Pick {
            marks: marks.len(),
            width,
            input: bench.put(&input),
            list: bench.put(&marks),
            output: bench.room::<bf16>(marks.len() * width),
        };
        bench.run(pick.command()).unwrap();
        let rows: Vec<Vec<bf16>> = input.chunks_exact(width).map(<[bf16]>::to_vec).collect();
        let expected = reference::pick(&rows, &marks.map(|mark| mark as usize)).concat();
        assert_eq!(bench.read::<bf16>(pick.output), expected, "width {width}");
    }
}
