//! Vectors of `f32`, as wide as an instruction set has them. Loops are written once, over [`Simd`], and compiled for each
//! width.
//!
//! Every method is inlined into the caller's loop. What compiles that loop for the instructions is [`Simd::run`]: a closure
//! given to it, marked `#[inline(always)]` as all it calls must be, may use the type's methods; nothing else may.

use half::bf16;

/// One instruction set's vectors.
///
/// # Safety
/// Methods may be called only within [`Simd::run`] of the same type, on a processor that has its instructions. Pointers
/// must be good for [`Simd::LANES`] numbers, or for as many as the method says; they need not be aligned.
pub(crate) trait Simd: Copy + 'static {
    /// Numbers in a vector.
    const LANES: usize;
    /// A vector of `f32`.
    type F: Copy;

    /// Calls a closure compiled for these instructions.
    unsafe fn run<R>(work: impl FnOnce() -> R) -> R;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, x: Self::F);
    /// Reads `count` numbers, less than a vector's; the other lanes are 0 and their memory is not touched.
    unsafe fn load_first(from: *const f32, count: usize) -> Self::F;
    /// Writes the first `count` lanes, less than a vector's, and nothing else.
    unsafe fn store_first(to: *mut f32, count: usize, x: Self::F);
    /// Reads bfloat16 numbers.
    unsafe fn load_bf16(from: *const bf16) -> Self::F;
    /// Writes bfloat16 numbers, rounded to nearest even.
    unsafe fn store_bf16(to: *mut bf16, x: Self::F);
    /// Writes the first `count` lanes, less than a vector's, as bfloat16 numbers, and nothing else.
    unsafe fn store_first_bf16(to: *mut bf16, count: usize, x: Self::F);

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `b` where either is not a number.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `b` where either is not a number.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(x: Self::F) -> Self::F;
    /// To the nearest whole number, halves to even.
    unsafe fn round(x: Self::F) -> Self::F;
    /// `x · 2^n` for whole n up to 127; results below the smallest normal number may become 0.
    unsafe fn scale(x: Self::F, n: Self::F) -> Self::F;
    /// The bits of each lane shifted right, as an index for [`Simd::pick`].
    unsafe fn index(x: Self::F, shift: u32) -> Self::F;
    /// In each lane the number of a table that the lowest four bits of that lane of `index` name; the others are ignored.
    unsafe fn pick(table: &[f32; 16], index: Self::F) -> Self::F;
    /// The first `count` lanes of `x` and the others of `other`.
    unsafe fn first(count: usize, x: Self::F, other: Self::F) -> Self::F;
    /// The sum of all lanes, always in the same order.
    unsafe fn sum(x: Self::F) -> f32;
    /// The largest lane.
    unsafe fn largest(x: Self::F) -> f32;
}

/// What memory holds numbers as.
///
/// # Safety
/// As for the methods of [`Simd`] they call.
pub(crate) trait Number: Copy + Default + Send + Sync + 'static {
    /// Whether numbers are rounded to 8 bits of mantissa, so that they need not be computed to more than that.
    const NARROW: bool;

    /// Rounded to nearest even.
    fn rounded(x: f32) -> Self;

    fn number(self) -> f32;

    unsafe fn load<V: Simd>(from: *const Self) -> V::F;
    unsafe fn store<V: Simd>(to: *mut Self, x: V::F);
    /// Writes the first `count` lanes, less than a vector's, and nothing else.
    unsafe fn store_first<V: Simd>(to: *mut Self, count: usize, x: V::F);
}

impl Number for f32 {
    const NARROW: bool = false;

    fn rounded(x: f32) -> Self {
        x
    }

    fn number(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn load<V: Simd>(from: *const Self) -> V::F {
        // SAFETY: as the caller promises.
        unsafe { V::load(from) }
    }

    #[inline(always)]
    unsafe fn store<V: Simd>(to: *mut Self, x: V::F) {
        // SAFETY: as the caller promises.
        unsafe { V::store(to, x) }
    }

    #[inline(always)]
    unsafe fn store_first<V: Simd>(to: *mut Self, count: usize, x: V::F) {
        // SAFETY: as the caller promises.
        unsafe { V::store_first(to, count, x) }
    }
}

impl Number for bf16 {
    const NARROW: bool = true;

    fn rounded(x: f32) -> Self {
        Self::from_f32(x)
    }

    fn number(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    unsafe fn load<V: Simd>(from: *const Self) -> V::F {
        // SAFETY: as the caller promises.
        unsafe { V::load_bf16(from) }
    }

    #[inline(always)]
    unsafe fn store<V: Simd>(to: *mut Self, x: V::F) {
        // SAFETY: as the caller promises.
        unsafe { V::store_bf16(to, x) }
    }

    #[inline(always)]
    unsafe fn store_first<V: Simd>(to: *mut Self, count: usize, x: V::F) {
        // SAFETY: as the caller promises.
        unsafe { V::store_first_bf16(to, count, x) }
    }
}
