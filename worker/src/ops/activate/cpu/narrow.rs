//! Activations for results that are rounded to bfloat16: a rectifier less a bump, `f(x) = max(x, 0) - g(|x|)`. The bump is
//! even and falls to 0, so that 16 polynomials of low degree, picked by a permutation, cover it: two or three fused
//! multiply-adds, where GELU by one polynomial takes more than ten.
//!
//! A piece's polynomial goes through the bump at the Chebyshev nodes of its interval, which is within a few percent of the
//! smallest largest error; the first has no constant term, so that small results are as exact as large ones.

use crate::cpu::simd::Simd;

/// A bump in 16 pieces. The piece is read from the bits of `u + offset`, from `shift` on: the highest of the mantissa, and
/// of the exponent where `shift` leaves some.
#[repr(C, align(64))]
struct Bump<const TERMS: usize> {
    /// The lowest power first; of each, one for each piece.
    coefficients: [[f32; 16]; TERMS],
    /// From here on the bump is what it is here, nearly 0.
    limit: f32,
    offset: f32,
    shift: u32,
}

/// `u (1 - Φ(u))`, in 16 pieces of 1/4. The last one falls to 0.
#[rustfmt::skip]
const GELU: Bump<3> = Bump {
    limit: 3.999,
    offset: 4.0,
    shift: 19,
    coefficients: [
        [
            0.0, 0.003_360_997, 0.024_223_814, 0.078_345_28, 0.167_836_98, 0.275_027_28, 0.369_661_57, 0.423_881_2,
            0.424_886_05, 0.378_357_26, 0.302_707_9, 0.219_374_05, 0.144_891_28, 0.087_626_31, 0.048_703_823, 0.026_852_393,
        ],
        [
            0.499_871_05, 0.474_302_08, 0.392_127_3, 0.248_259_14, 0.069_007_45, -0.103_210_01, -0.230_222_57, -0.292_892_57,
            -0.294_354_23, -0.253_203_78, -0.192_712_99, -0.132_040_14, -0.082_290_41, -0.046_965_893, -0.024_663_71, -0.012_465_252,
        ],
        [
            -0.395_330_9, -0.345_158_7, -0.263_839_8, -0.168_011_03, -0.078_134_544, -0.008_904_803, 0.033_735_264, 0.051_850_107,
            0.052_329_95, 0.043_229_446, 0.031_134_529, 0.020_089_136, 0.011_780_554, 0.006_332_332_3, 0.003_137_283_3, 0.001_438_082_1,
        ],
    ],
};

/// The same with Φ by the hyperbolic tangent.
#[rustfmt::skip]
const GELU_TANH: Bump<3> = Bump {
    limit: 3.999,
    offset: 4.0,
    shift: 19,
    coefficients: [
        [
            0.0, 0.003_373_311_1, 0.024_262_626, 0.078_263_49, 0.167_246_13, 0.273_716_57, 0.368_289_3, 0.423_984_92,
            0.427_751_3, 0.383_671_82, 0.308_406_4, 0.222_939_21, 0.144_963_83, 0.084_623_41, 0.044_196_915, 0.021_616_384,
        ],
        [
            0.499_870_42, 0.474_204_93, 0.391_917_47, 0.248_357_34, 0.070_116_33, -0.100_941_52, -0.227_853_42, -0.292_195_3,
            -0.296_417_74, -0.257_456_36, -0.197_287_35, -0.135_071_29, -0.082_993_02, -0.045_770_8, -0.022_603_719, -0.010_238_932,
        ],
        [
            -0.395_313_47, -0.344_945_25, -0.263_506_4, -0.167_874_4, -0.078_500_18, -0.009_737_804, 0.032_862_5, 0.051_450_94,
            0.052_621_014, 0.044_009_75, 0.031_982_12, 0.020_657_608, 0.011_960_857, 0.006_219_858_3, 0.002_900_458_9, 0.001_208_750_5,
        ],
    ],
};

/// `u / (1 + e^u)`. It falls slowly: of pieces 1/4, 1/2, 1 and 2 wide there are four each.
#[rustfmt::skip]
const SILU: Bump<4> = Bump {
    limit: 14.99,
    offset: 1.0,
    shift: 21,
    coefficients: [
        [
            -0.002_737_897_2, 0.046_451_095, 0.174_777_02, 0.352_448_46, 0.580_183_57, 0.691_964_15, 0.604_963_84, 0.444_640_4,
            0.236_211_88, 0.078_702_22, 0.022_162_385, 0.005_567_238_7, 0.0, -0.000_317_327_4, -0.002_008_853_2, -0.004_888_176_5,
        ],
        [
            0.520_327_75, 0.424_180_24, 0.232_096_29, 0.018_043_132, -0.205_538_2, -0.293_784_14, -0.242_508_28, -0.162_161_74,
            -0.074_396_66, -0.020_727_038, -0.004_993_390_3, -0.001_094_077_7, 0.500_010_1, 0.503_641_3, 0.513_748_2, 0.525_439_1,
        ],
        [
            -0.297_839_97, -0.234_950_59, -0.138_864_05, -0.052_759_875, 0.020_571_346, 0.043_806_985, 0.033_721_864, 0.020_284_548,
            0.007_945_348_5, 0.001_838_748_8, 0.000_377_674_24, 7.203_305e-5, -0.250_725_12, -0.265_470_74, -0.285_812_85, -0.301_706_73,
        ],
        [
            0.049_193_155, 0.035_425_09, 0.019_362_014, 0.007_797_802, -0.000_237_789_6, -0.002_278_035, -0.001_616_051_9, -0.000_866_107_47,
            -0.000_286_846, -5.485_42e-5, -9.579_471e-6, -1.587_839_3e-6, 0.007_756_878_6, 0.029_073_674, 0.042_863_67, 0.050_097_13,
        ],
    ],
};

#[inline(always)]
unsafe fn apply<V: Simd, const TERMS: usize>(bump: &Bump<TERMS>, x: V::F) -> V::F {
    // SAFETY: as the caller promises.
    unsafe {
        let u = V::min(V::abs(x), V::splat(bump.limit));
        let piece = V::index(V::add(u, V::splat(bump.offset)), bump.shift);
        let mut sum = V::pick(&bump.coefficients[TERMS - 1], piece);
        for coefficients in bump.coefficients[..TERMS - 1].iter().rev() {
            sum = V::fma(sum, u, V::pick(coefficients, piece));
        }
        V::sub(V::max(V::splat(0.0), x), sum)
    }
}

#[inline(always)]
pub(super) unsafe fn gelu<V: Simd>(x: V::F) -> V::F {
    // SAFETY: as the caller promises.
    unsafe { apply::<V, _>(&GELU, x) }
}

#[inline(always)]
pub(super) unsafe fn gelu_tanh<V: Simd>(x: V::F) -> V::F {
    // SAFETY: as the caller promises.
    unsafe { apply::<V, _>(&GELU_TANH, x) }
}

#[inline(always)]
pub(super) unsafe fn silu<V: Simd>(x: V::F) -> V::F {
    // SAFETY: as the caller promises.
    unsafe { apply::<V, _>(&SILU, x) }
}
