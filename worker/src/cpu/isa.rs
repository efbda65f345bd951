//! Which instructions the CPU engine runs on: what the processor has, or less when asked for.

use std::fmt;
use std::str::FromStr;

/// An instruction set the engine has kernels for, from the one every processor has to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuIsa {
    /// No kernels of our own: models run on candle.
    Portable,
    /// AVX2 and FMA: `f32`.
    Avx2,
    /// AVX-512 F, BW, DQ, VL: `f32`.
    Avx512,
    /// AVX-512 with BF16 and VNNI: `f32`, `bf16` and `int8`.
    Avx512Narrow,
}

impl CpuIsa {
    /// All there are, the slowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Narrow];

    /// The best this processor has, as the system lets programs use it.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            let avx512 = avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            if avx512 && has!("avx512bf16") && has!("avx512vnni") {
                return Self::Avx512Narrow;
            }
            if avx512 {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// What `--cpu-isa` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Narrow => "avx512-bf16",
        }
    }
}

impl fmt::Display for CpuIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CpuIsa {
    type Err = UnknownIsa;

    fn from_str(text: &str) -> Result<Self, UnknownIsa> {
        Self::ALL.into_iter().find(|isa| isa.name() == text).ok_or_else(|| UnknownIsa(text.to_owned()))
    }
}

/// Text that names no instruction set.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is none of portable, avx2, avx512, avx512-bf16")]
pub struct UnknownIsa(String);
