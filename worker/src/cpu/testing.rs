//! What tests of kernels share.

use half::bf16;

use super::isa::CpuIsa;
use super::simd::Number;

/// Whether this processor has the instructions; says so where a test is skipped without.
pub(crate) fn has(isa: CpuIsa) -> bool {
    let has = CpuIsa::detect() >= isa;
    if !has {
        eprintln!("skipped: this processor has no {isa}");
    }
    has
}

/// Calls a test function for every type of vectors that this processor has, with further types after it.
macro_rules! on_all_vectors {
    ($test:ident $(, $more:ty)*) => {
        if $crate::cpu::testing::has($crate::cpu::isa::CpuIsa::Avx2) {
            $test::<$crate::cpu::avx2::Avx2 $(, $more)*>();
        }
        if $crate::cpu::testing::has($crate::cpu::isa::CpuIsa::Avx512) {
            $test::<$crate::cpu::avx512::Avx512 $(, $more)*>();
        }
        if $crate::cpu::testing::has($crate::cpu::isa::CpuIsa::Avx512Narrow) {
            $test::<$crate::cpu::avx512::Avx512Narrow $(, $more)*>();
        }
    };
}
pub(crate) use on_all_vectors;

/// What tests need of elements.
pub(crate) trait Value: Number + PartialEq + std::fmt::Debug {
    fn from_f32(x: f32) -> Self;
    fn value(self) -> f64;
}

impl Value for f32 {
    fn from_f32(x: f32) -> Self {
        x
    }

    fn value(self) -> f64 {
        f64::from(self)
    }
}

impl Value for bf16 {
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }

    fn value(self) -> f64 {
        self.to_f64()
    }
}
