//! Memory that vectors and rows of matrices lie in.

#[cfg(test)]
mod tests;

use std::collections::TryReserveError;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

/// Columns come in multiples of this: whoever writes a row fills it up with zeros, so that vectors and words of depth can be
/// read whole.
pub(crate) const PADDING: usize = 16;
/// Bytes of a cache line, which come together, and of the widest vector.
pub(crate) const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Plain values that begin on a cache line.
///
/// Zero bytes must be a value of `T`, and `T` must be no larger than a line and divide it.
pub(crate) struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    kind: PhantomData<T>,
}

/// Types of which any bytes are a value.
///
/// # Safety
/// Implementors have no padding, no invalid bit pattern and no destructor.
pub(crate) unsafe trait Plain: Copy + 'static {}

// SAFETY: numbers and vectors are plain.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}
#[cfg(target_arch = "x86_64")]
mod vectors {
    use std::arch::x86_64::{__m256, __m512, __m512i};

    // SAFETY: vectors are plain.
    unsafe impl super::Plain for __m256 {}
    // SAFETY: as above.
    unsafe impl super::Plain for __m512 {}
    // SAFETY: as above.
    unsafe impl super::Plain for __m512i {}
}

impl<T: Plain> Aligned<T> {
    /// `len` values of zero bytes.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { lines: vec![Line([0; LINE]); Self::lines(len)], len, kind: PhantomData }
    }

    /// The same, or an error where the system refuses the address space.
    pub(crate) fn try_zeroed(len: usize) -> Result<Self, TryReserveError> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(Self::lines(len))?;
        lines.resize(Self::lines(len), Line([0; LINE]));
        Ok(Self { lines, len, kind: PhantomData })
    }

    /// Lines that hold `len` values.
    fn lines(len: usize) -> usize {
        const { assert!(size_of::<T>() > 0 && LINE.is_multiple_of(size_of::<T>())) };
        (len * size_of::<T>()).div_ceil(LINE)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() * LINE
    }
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold `len` values of a plain type, begin at a line and so are aligned.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T> std::fmt::Debug for Aligned<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} values]", self.len)
    }
}

/// Asks for bytes, into the cache that the hint names. No access: they need not be there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch<const HINT: i32>(first: *const u8, bytes: usize) {
    for line in lines_of(first, bytes) {
        // SAFETY: a prefetch of any address is no access.
        unsafe { std::arch::x86_64::_mm_prefetch::<HINT>(line.cast()) };
    }
}

/// Where the lines begin that bytes lie in.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn lines_of(first: *const u8, bytes: usize) -> impl Iterator<Item = *const u8> {
    let before = first.addr() % LINE;
    let line = first.wrapping_sub(before);
    (0..before + bytes).step_by(LINE).map(move |offset| line.wrapping_add(offset))
}

/// Rows of a matrix in memory that several threads write, each its own rows or columns.
///
/// A view is a pointer with a stride: whoever uses it answers for which rows and columns it touches and for how long.
#[derive(Debug)]
pub(crate) struct Rows<T> {
    first: *mut T,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
}

impl<T> Clone for Rows<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rows<T> {}

// SAFETY: a view is only a pointer; what is done with it is unsafe and answers for itself.
unsafe impl<T: Send> Send for Rows<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Rows<T> {}

impl<T> Rows<T> {
    pub(crate) fn new(first: *mut T, stride: usize) -> Self {
        Self { first, stride }
    }

    /// Element `column` of row `row`.
    ///
    /// # Safety
    /// It must lie within the memory the view was made of, or just past its end.
    #[inline(always)]
    pub(crate) unsafe fn at(self, row: usize, column: usize) -> *mut T {
        // SAFETY: as the caller promises.
        self.first.wrapping_add(row * self.stride + column)
    }

    /// Asks for these columns of these rows, into the second cache. No access: they need not be there.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn ask(self, rows: Range<usize>, columns: Range<usize>) {
        for row in rows {
            let first = self.first.wrapping_add(row * self.stride + columns.start);
            prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(first.cast(), columns.len() * size_of::<T>());
        }
    }

    /// The same rows from `row` on.
    ///
    /// # Safety
    /// As for `at`.
    #[inline(always)]
    pub(crate) unsafe fn starting_at(self, row: usize) -> Self {
        // SAFETY: as the caller promises.
        Self { first: unsafe { self.at(row, 0) }, stride: self.stride }
    }
}
