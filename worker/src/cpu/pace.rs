//! Which of two kinds of dot product this processor does more of in a second: instructions that are there are not
//! always quick. Intel's processors with AMX, for one, do `vdpbf16ps` at half the rate of `f32`, and AMD's at twice.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::avx512::Avx512;
use super::dot::{Bf16, Dot, F32};

/// Sums that are kept going: more than the latency of an instruction times how many start in a cycle.
const SUMS: usize = 24;
/// Instructions for each sum in one look: some 50 µs.
const STEPS: usize = 1 << 12;
/// Looks at each kind, in turn. The best counts: whatever else the machine does only takes away.
const LOOKS: usize = 5;

/// Whether products of bfloat16 are quicker than those of `f32`. Measured once, in half a millisecond.
///
/// # Safety
/// The processor has AVX-512 with BF16.
pub(crate) unsafe fn bf16_is_quicker() -> bool {
    static IS_QUICKER: OnceLock<bool> = OnceLock::new();
    *IS_QUICKER.get_or_init(|| {
        let (mut narrow, mut wide) = (Duration::MAX, Duration::MAX);
        for _ in 0..LOOKS {
            // SAFETY: the caller's promise.
            unsafe {
                narrow = narrow.min(look::<Bf16>());
                wide = wide.min(look::<F32<Avx512>>());
            }
        }
        // A step is of twice as many numbers.
        narrow < wide * Bf16::DEPTH as u32
    })
}

/// # Safety
/// The processor has the instructions.
unsafe fn look<D: Dot>() -> Duration {
    let word = black_box(0_u32);
    let started = Instant::now();
    // SAFETY: the caller's promise; the word is there.
    unsafe {
        D::run(
            #[inline(always)]
            || {
                let words = D::broadcast(&raw const word);
                let mut sums = [D::zero(); SUMS];
                for _ in 0..STEPS {
                    sums.iter_mut().for_each(
                        #[inline(always)]
                        |sum| *sum = D::dot(*sum, words, words),
                    );
                }
                black_box(sums);
            },
        );
    }
    started.elapsed()
}
