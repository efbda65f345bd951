//! What the silicon can do at most, right now: multiply-adds on registers, on all threads at once.

use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;

use serde::Serialize;

/// 10⁹ operations a second.
#[derive(Serialize)]
pub(crate) struct Peaks {
    f32: Option<f64>,
    bf16: Option<f64>,
    int8: Option<f64>,
}

/// Sums that each loop keeps going: more than the latency of an instruction times how many start in a cycle.
const SUMS: usize = 24;
const STEPS: usize = 1 << 20;
/// The best counts: whatever else the machine does only takes away.
const ROUNDS: usize = 5;

#[cfg(target_arch = "x86_64")]
pub(crate) fn measure(threads: NonZeroUsize) -> Peaks {
    use std::arch::is_x86_feature_detected as has;
    let rate = |is_there: bool, lanes: usize, work: unsafe fn()| is_there.then(|| rate(threads.get(), lanes, work));
    let wide = has!("avx512f");
    Peaks {
        f32: if wide { rate(true, 16, x86::f32_16) } else { rate(has!("avx2") && has!("fma"), 8, x86::f32_8) },
        bf16: rate(wide && has!("avx512bf16"), 32, x86::bf16),
        int8: rate(wide && has!("avx512vnni"), 64, x86::int8),
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn measure(_: NonZeroUsize) -> Peaks {
    Peaks { f32: None, bf16: None, int8: None }
}

/// `work` does [`STEPS`] times [`SUMS`] instructions of `lanes` multiply-adds each.
#[cfg(target_arch = "x86_64")]
fn rate(threads: usize, lanes: usize, work: unsafe fn()) -> f64 {
    let operations = (2 * lanes * SUMS * STEPS * threads) as f64;
    let seconds = || {
        let started = Instant::now();
        thread::scope(|scope| {
            for _ in 0..threads {
                // SAFETY: the caller asked whether the processor has the instructions.
                scope.spawn(|| unsafe { work() });
            }
        });
        started.elapsed().as_secs_f64()
    };
    operations / (0..ROUNDS).map(|_| seconds()).fold(f64::INFINITY, f64::min) / 1e9
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512bh, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm512_dpbf16_ps, _mm512_dpbusd_epi32,
        _mm512_fmadd_ps, _mm512_set1_epi8, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    };
    use std::hint::black_box;

    use super::{STEPS, SUMS};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_8() {
        let (mut sums, x) = ([_mm256_setzero_ps(); SUMS / 2], black_box(_mm256_set1_ps(1e-9)));
        for _ in 0..2 * STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(x, x, *sum));
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_16() {
        let (mut sums, x) = ([_mm512_setzero_ps(); SUMS], black_box(_mm512_set1_ps(1e-9)));
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(x, x, *sum));
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16() {
        // SAFETY: both are 512 bits that mean nothing by themselves.
        let x: __m512bh = unsafe { std::mem::transmute(black_box(_mm512_setzero_si512())) };
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, x, x));
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn int8() {
        let (mut sums, x) = ([_mm512_setzero_si512(); SUMS], black_box(_mm512_set1_epi8(1)));
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, x, x));
        }
        black_box(sums);
    }
}
