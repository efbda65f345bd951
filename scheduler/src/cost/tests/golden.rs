//! The same sequence gives the same nanoseconds, to the last, on every machine and with every compiler.

use core::time::Duration;

use super::{W, even, gpu, mixed};
use crate::cost::Costs;
use crate::cost::tests::noise::Noise;

#[test]
fn repeats_itself_to_the_bit() {
    let mut noise = Noise::new(42);
    let mut costs = Costs::new(Some(gpu().times(3.0)));
    let mut said = Vec::new();
    for batch in 0..600 {
        let size = mixed(&mut noise);
        let worker = W[batch % 3];
        let slow = if worker == W[2] && batch > 300 { 2 } else { 1 };
        // Whole numbers, so that nothing but the code under test rounds.
        let nanos = (2_000_000 + 40_000 * size.rows + 1_500 * size.tokens + 4 * size.squares) * slow;
        costs.observe(worker, size, Duration::from_nanos(nanos / 1_000 * (900 + noise.below(200))));
        if batch % 100 == 99 {
            let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap();
            said.push(nanos(costs.expected(W[0], even(8, 100))));
            said.push(nanos(costs.high(W[2], even(64, 30))));
        }
    }
    #[rustfmt::skip]
    let golden = [
        3_963_375, 8_856_855,
        3_875_059, 8_514_318,
        3_861_250, 8_437_993,
        3_852_238, 17_812_576,
        3_734_853, 17_245_470,
        3_925_292, 16_932_369,
    ];
    assert_eq!(said, golden);
}
