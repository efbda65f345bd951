//! A launch as a driver takes it: a kernel's name, a grid, and arguments of any type.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::ptr;
use std::sync::LazyLock;

/// Bytes of a message, with the zero at its end.
const FAULT_BYTES: usize = 768;

/// Runs kernels, one launch at a time, on the calling thread.
#[derive(Clone, Debug)]
pub struct Emulator {
    seed: u64,
    mistake: CString,
}

/// Why a launch failed, with the kernel, block, thread and line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(String);

/// A kernel to run.
#[derive(Debug)]
pub struct Launch<'a> {
    pub kernel: &'a str,
    pub grid: [u32; 3],
    /// Threads of a block: a multiple of 32.
    pub block: u32,
    pub arguments: Vec<Argument>,
}

/// What a kernel is given. A buffer is exactly as long as what it was made of; beyond it a kernel may touch nothing.
#[derive(Debug)]
#[repr(C)]
pub struct Argument {
    kind: u32,
    bits: u32,
    pointer: *mut u8,
    bytes: usize,
}

/// `shoal_emulator_launch` of launch.cpp.
type Entry = unsafe extern "C" fn(
    kernel: *const c_char,
    grid: *const c_uint,
    block: c_uint,
    arguments: *const Argument,
    count: usize,
    seed: u64,
    mistake: *const c_char,
    fault: *mut c_char,
    fault_bytes: usize,
) -> c_int;

unsafe extern "C" {
    fn shoal_emulator_launch(
        kernel: *const c_char,
        grid: *const c_uint,
        block: c_uint,
        arguments: *const Argument,
        count: usize,
        seed: u64,
        mistake: *const c_char,
        fault: *mut c_char,
        fault_bytes: usize,
    ) -> c_int;
}

/// Names a library to launch in instead of what is built in: the same, compiled with sanitizers.
const LIBRARY: &str = "SHOAL_EMULATOR_LIBRARY";

static ENTRY: LazyLock<Entry> = LazyLock::new(|| {
    let Some(library) = std::env::var_os(LIBRARY) else { return shoal_emulator_launch };
    // SAFETY: it is built from the same source, and its constructors are a sanitizer's own.
    let library = unsafe { libloading::Library::new(library) }.expect("the library can be loaded");
    // SAFETY: by this name the source has a function of this type. The library is never unloaded.
    let entry = unsafe { library.get::<Entry>("shoal_emulator_launch") };
    let entry = *entry.expect("the library is the emulator");
    std::mem::forget(library);
    entry
});

impl Emulator {
    /// Threads run in turn, at random, or each as far as it can, by `seed % 3`.
    pub fn new(seed: u64) -> Self {
        Self { seed, mistake: CString::default() }
    }

    /// Makes the mistake that a kernel has under this name, `PLANTED` in its source.
    ///
    /// # Panics
    /// If there is a zero in the name.
    #[must_use]
    pub fn with_mistake(mut self, name: &str) -> Self {
        self.mistake = CString::new(name).expect("names have no zeros");
        self
    }

    /// Runs every block of a launch.
    ///
    /// # Safety
    /// The arguments' memory must be alive and, where it is an output, borrowed by nobody else; and the kernel must hold
    /// its end: in memory it was given, it writes only values of the type that the memory is of.
    ///
    /// # Errors
    /// When the kernel does what a GPU would not forgive, or there is no such kernel with such arguments.
    ///
    /// # Panics
    /// If there is a zero in the kernel's name.
    pub unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), Fault> {
        let Launch { kernel, grid, block, ref arguments } = *launch;
        let kernel = CString::new(kernel).expect("kernels have no zeros in their names");
        let mut fault = [0 as c_char; FAULT_BYTES];
        // SAFETY: strings end in a zero, `grid` has three numbers, `arguments` are laid out as the other side has them and
        // as many as is said, and there is room for `FAULT_BYTES`. What the arguments point to is the caller's promise;
        // that the kernel stays within it is checked at each access.
        let failed = unsafe {
            ENTRY(
                kernel.as_ptr(),
                grid.as_ptr(),
                block,
                arguments.as_ptr(),
                arguments.len(),
                self.seed,
                self.mistake.as_ptr(),
                fault.as_mut_ptr(),
                FAULT_BYTES,
            )
        };
        if failed == 0 {
            return Ok(());
        }
        // SAFETY: a failed launch leaves a message that ends in a zero.
        Err(Fault(unsafe { CStr::from_ptr(fault.as_ptr()) }.to_string_lossy().into_owned()))
    }
}

impl Argument {
    const NONE: u32 = 0;
    const INPUT: u32 = 1;
    const OUTPUT: u32 = 2;
    const INTEGER: u32 = 3;
    const REAL: u32 = 4;

    pub fn input<T>(values: &[T]) -> Self {
        Self::buffer(Self::INPUT, values.as_ptr().cast_mut().cast(), size_of_val(values))
    }

    /// Also what is read before it is written.
    pub fn output<T>(values: &mut [T]) -> Self {
        Self::buffer(Self::OUTPUT, values.as_mut_ptr().cast(), size_of_val(values))
    }

    /// Memory that is there, if it is given to a launch, and not to be written.
    pub fn input_at(pointer: *const u8, bytes: usize) -> Self {
        Self::buffer(Self::INPUT, pointer.cast_mut(), bytes)
    }

    /// Memory that is there, and nobody else's, if it is given to a launch.
    pub fn output_at(pointer: *mut u8, bytes: usize) -> Self {
        Self::buffer(Self::OUTPUT, pointer, bytes)
    }

    pub fn nothing() -> Self {
        Self::buffer(Self::NONE, ptr::null_mut(), 0)
    }

    /// A null pointer where there is nothing.
    pub fn optional<T>(values: Option<&[T]>) -> Self {
        values.map_or_else(Self::nothing, Self::input)
    }

    /// # Panics
    /// If it is more than a kernel's `int` holds.
    pub fn integer(value: usize) -> Self {
        let bits = i32::try_from(value).expect("sizes of a batch are ints").cast_unsigned();
        Self { kind: Self::INTEGER, bits, pointer: ptr::null_mut(), bytes: 0 }
    }

    pub fn real(value: f32) -> Self {
        Self { kind: Self::REAL, bits: value.to_bits(), pointer: ptr::null_mut(), bytes: 0 }
    }

    fn buffer(kind: u32, pointer: *mut u8, bytes: usize) -> Self {
        Self { kind, bits: 0, pointer, bytes }
    }
}
