//! The few calls of a GPU's driver that the engine makes, as a seam: one side is NVIDIA's driver and cublasLt, the other
//! an emulator with faults to order, so that all of the engine's own logic is tested where there is no GPU.

use std::fmt::{self, Debug};
use std::ops::Range;

use super::element::Element;

/// One GPU, through one context. All calls may come from any thread.
///
/// What is given to a stream is done in order; nothing else is. The `unsafe` calls only hand work over: until the stream
/// has done it, which [`Driver::is_done`] of a later event and [`Driver::synchronize`] tell,
///
/// - every span and every piece of pinned memory must stay allocated;
/// - whatever else reads or writes the same memory must be ordered by the same stream, or by an event;
/// - kernels must keep to the spans they are given, which the emulator checks.
pub(crate) trait Driver: Debug + Send + Sync {
    fn device(&self) -> &DeviceInfo;

    /// Free device memory, of all that the device has.
    fn memory(&self) -> Result<Memory, DriverError>;

    /// Bytes that the driver takes by itself for each stream that is given products.
    fn workspace(&self) -> u64;

    /// A new stream, which waits for no other.
    fn stream(&self) -> Result<Stream, DriverError>;

    fn event(&self) -> Result<Event, DriverError>;

    fn destroy_event(&self, event: Event);

    /// Device memory, usable at once by `stream` and what comes after it. Begins at a multiple of [`ALIGNMENT`].
    fn allocate(&self, stream: Stream, bytes: usize) -> Result<Span, DriverError>;

    /// Gives memory back once `stream` has done all it was given.
    ///
    /// # Safety
    /// It was allocated here and is given back once; all that uses it was given to this stream, or is done.
    unsafe fn release(&self, stream: Stream, span: Span);

    /// Memory of the host that the device copies from and to by itself.
    fn pin(&self, bytes: usize) -> Result<PinnedSpan, DriverError>;

    /// Gives it back once the device has done all it was given, and waits for that.
    ///
    /// # Safety
    /// It was allocated here and is given back once.
    unsafe fn unpin(&self, pinned: PinnedSpan);

    /// Copies from the host.
    ///
    /// # Safety
    /// See [`Driver`].
    unsafe fn copy_in(&self, stream: Stream, from: PinnedSpan, to: Span) -> Result<(), DriverError>;

    /// Copies to the host.
    ///
    /// # Safety
    /// See [`Driver`].
    unsafe fn copy_out(&self, stream: Stream, from: Span, to: PinnedSpan) -> Result<(), DriverError>;

    /// Copies within the device.
    ///
    /// # Safety
    /// See [`Driver`].
    unsafe fn copy(&self, stream: Stream, from: Span, to: Span) -> Result<(), DriverError>;

    /// Runs a kernel, which is compiled first if it never ran.
    ///
    /// # Safety
    /// See [`Driver`]; and the arguments are the kernel's.
    unsafe fn launch(&self, stream: Stream, launch: &Launch) -> Result<(), DriverError>;

    /// A matrix product.
    ///
    /// # Safety
    /// See [`Driver`].
    unsafe fn multiply(&self, stream: Stream, product: &Product) -> Result<(), DriverError>;

    /// What `stream` is given from now on is not done but noted down. No memory can be allocated by it meanwhile, and a
    /// product may be refused unless one like it, of whatever rows, was computed before.
    fn begin_capture(&self, stream: Stream) -> Result<(), DriverError>;

    /// What was noted down, to be done as often as wanted.
    fn end_capture(&self, stream: Stream) -> Result<Graph, DriverError>;

    /// Does all that was noted down.
    ///
    /// # Safety
    /// See [`Driver`], of all of it.
    unsafe fn replay(&self, stream: Stream, graph: Graph) -> Result<(), DriverError>;

    /// # Safety
    /// It was made here and is destroyed once, and no replay of it is unfinished.
    unsafe fn destroy_graph(&self, graph: Graph);

    /// Notes in `event` what `stream` has been given so far.
    fn record(&self, event: Event, stream: Stream) -> Result<(), DriverError>;

    /// Lets `stream` go on only when what was noted is done.
    fn wait(&self, stream: Stream, event: Event) -> Result<(), DriverError>;

    /// Whether what was noted is done.
    fn is_done(&self, event: Event) -> Result<bool, DriverError>;

    /// Waits until all that `stream` was given is done.
    fn synchronize(&self, stream: Stream) -> Result<(), DriverError>;
}

/// What every allocation begins at a multiple of, in bytes.
pub(crate) const ALIGNMENT: usize = 256;
/// What cublasLt may count on of a product's bias, which it asks nobody about.
const BIAS_ALIGNMENT: u64 = 16;

/// What a GPU is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceInfo {
    /// Such as `NVIDIA H200`.
    pub(crate) name: String,
    /// Compute capability, major and minor.
    pub(crate) capability: (u32, u32),
    pub(crate) multiprocessors: u32,
    /// Bytes.
    pub(crate) memory: u64,
    /// `GPU-…`, or `MIG-…` of a part of one.
    pub(crate) uuid: String,
    /// On the bus, such as `0000:3b:00.0`.
    pub(crate) address: String,
}

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// Names a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stream(pub(super) usize);

/// Names an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Event(pub(super) usize);

/// Names what was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Graph(pub(super) usize);

/// A piece of device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    pub(super) address: u64,
    pub(crate) bytes: usize,
}

/// A piece of pinned memory of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PinnedSpan {
    pub(super) pointer: *mut u8,
    pub(crate) bytes: usize,
}

// SAFETY: it is a number; what may be done with it is said where it is used.
unsafe impl Send for PinnedSpan {}
// SAFETY: as above.
unsafe impl Sync for PinnedSpan {}

/// A kernel, where it runs, and on what.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launch {
    pub(crate) kernel: Kernel,
    pub(crate) grid: [u32; 3],
    /// Threads of a block: a multiple of 32.
    pub(crate) block: u32,
    pub(crate) arguments: Vec<Argument>,
}

/// A kernel, by its name in C, and what it is compiled for if it is written for any kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) element: Option<Element>,
}

/// What a kernel is given. Beyond a span it may touch nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Argument {
    /// A null pointer.
    Nothing,
    Input(Span),
    /// Also what is read before it is written.
    Output(Span),
    Integer(i32),
    Real(f32),
}

/// `output = activation(input · weightᵀ + bias + residual)`, with sums in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Product {
    /// Rows of the input and the output.
    pub(crate) rows: usize,
    /// Columns of the output, rows of the weight.
    pub(crate) outputs: usize,
    /// Columns of the input and the weight.
    pub(crate) inputs: usize,
    /// What input and weight are.
    pub(crate) of: Element,
    /// `[rows, inputs]`
    pub(crate) input: Span,
    /// `[outputs, inputs]`
    pub(crate) weight: Span,
    /// `[outputs]`, of what the output is.
    pub(crate) bias: Option<Span>,
    /// `[rows, outputs]`, of what the output is: the output itself, or apart from it.
    pub(crate) residual: Option<Span>,
    pub(crate) epilogue: Epilogue,
    /// `[rows, outputs]`
    pub(crate) output: Span,
    /// What the output is: what the input is, or f32.
    pub(crate) into: Element,
}

/// What is done to a product's sums before they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Epilogue {
    Identity,
    Relu,
    GeluTanh,
}

/// What went wrong on the device.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum DriverError {
    #[error("no room for {bytes} bytes of device memory")]
    OutOfMemory { bytes: usize },
    /// One call was refused; others go on.
    #[error("{0}")]
    Failed(String),
    /// Nothing can be done with this context any more.
    #[error("{0}")]
    Broken(String),
}

impl Span {
    /// A part of it.
    ///
    /// # Panics
    /// If it is not within.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.bytes, "{range:?} of {} bytes", self.bytes);
        Self { address: self.address + range.start as u64, bytes: range.end - range.start }
    }

    /// Whether any byte is in both.
    fn overlaps(self, other: Self) -> bool {
        self.address < other.address + other.bytes as u64 && other.address < self.address + self.bytes as u64
    }

    /// Whether another piece lies within it.
    pub(super) fn holds(self, other: Self) -> bool {
        self.address <= other.address && other.address + other.bytes as u64 <= self.address + self.bytes as u64
    }
}

impl Product {
    /// Whether the operands are long enough, and where a product can use them.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { rows, outputs, inputs, of, input, weight, bias, residual, output, into, .. } = *self;
        if into != of && into != Element::F32 {
            return Err(format!("a product of {of} cannot be written as {into}"));
        }
        let operands = [
            ("input", Some(input), rows * inputs * of.bytes()),
            ("weight", Some(weight), outputs * inputs * of.bytes()),
            ("bias", bias, outputs * into.bytes()),
            ("residual", residual, rows * outputs * into.bytes()),
            ("output", Some(output), rows * outputs * into.bytes()),
        ];
        for (name, span, bytes) in operands {
            if let Some(span) = span.filter(|span| span.bytes < bytes) {
                return Err(format!("a product's {name} has {} bytes of {bytes}", span.bytes));
            }
        }
        if bias.is_some_and(|bias| !bias.address.is_multiple_of(BIAS_ALIGNMENT)) {
            return Err(format!("a product's bias must begin at a multiple of {BIAS_ALIGNMENT} bytes"));
        }
        if residual.is_some_and(|residual| residual.address != output.address && residual.overlaps(output)) {
            return Err("a product's residual must be its output or apart from it".to_owned());
        }
        Ok(())
    }
}

impl PinnedSpan {
    /// A part of it.
    ///
    /// # Panics
    /// If it is not within.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.bytes, "{range:?} of {} bytes", self.bytes);
        Self { pointer: self.pointer.wrapping_add(range.start), bytes: range.end - range.start }
    }
}

impl Argument {
    pub(crate) fn optional(span: Option<Span>) -> Self {
        span.map_or(Self::Nothing, Self::Input)
    }

    /// The memory it names.
    pub(super) fn span(&self) -> Option<Span> {
        match *self {
            Self::Input(span) | Self::Output(span) => Some(span),
            Self::Nothing | Self::Integer(_) | Self::Real(_) => None,
        }
    }

    /// # Panics
    /// If it is more than a kernel's `int` holds.
    pub(crate) fn integer(value: usize) -> Self {
        Self::Integer(i32::try_from(value).expect("sizes of a batch are ints"))
    }
}

impl Kernel {
    pub(crate) fn of(element: Element, name: &'static str) -> Self {
        Self { name, element: Some(element) }
    }

    /// One that is written for what it is written for.
    pub(crate) fn plain(name: &'static str) -> Self {
        Self { name, element: None }
    }
}

/// As the emulator has it.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.element.map_or(Ok(()), |element| write!(f, ".{element}"))
    }
}
