//! One launcher for each op: which kernel, what grid. Matrices are row-major, widths multiples of 8.

use half::bf16;

use crate::launch::{Argument, Emulator, Fault, Launch};

/// Rows of a block, each a warp's, where a warp takes a row.
const NORM_ROWS: usize = 4;
/// Queries of an attention tile.
const QUERIES: usize = 64;

/// `output[t] = norm(words[id[t]] + positions[place[t]] + kinds[type[t]])`
#[derive(Debug)]
pub struct Embed<'a> {
    /// `[T]`
    pub ids: &'a [u32],
    /// `[T]`: places in their sequences
    pub places: &'a [u32],
    /// `[T]`; none is type 0 everywhere.
    pub types: Option<&'a [u32]>,
    /// `[V, H]`
    pub words: &'a [bf16],
    /// `[P, H]`
    pub positions: &'a [bf16],
    /// `[S, H]`
    pub kinds: Option<&'a [bf16]>,
    /// `[H]`
    pub gain: &'a [f32],
    /// `[H]`
    pub shift: &'a [f32],
    pub epsilon: f32,
    /// `[T, H]`
    pub output: &'a mut [bf16],
}

/// `output[r] = norm(input[r] + residual[r])`
#[derive(Debug)]
pub struct AddNorm<'a> {
    /// `[R, H]`
    pub input: &'a [bf16],
    /// `[R, H]`
    pub residual: Option<&'a [bf16]>,
    /// `[H]`
    pub gain: &'a [f32],
    /// `[H]`
    pub shift: &'a [f32],
    pub epsilon: f32,
    /// `[R, H]`
    pub output: &'a mut [bf16],
}

/// `output[t, h] = Σ_j softmax_j(scale · q[t, h] · k[j, h]) v[j, h]`
#[derive(Debug)]
pub struct Attend<'a> {
    /// `[T, 3 · heads · D]`
    pub qkv: &'a [bf16],
    /// Of the batch, by [`tiles`].
    pub tiles: &'a [[u32; 3]],
    pub heads: usize,
    /// D: 32 or 64
    pub head: usize,
    pub scale: f32,
    /// `[T, heads · D]`
    pub output: &'a mut [bf16],
}

/// `x[r] = activation(x[r] + bias)`, in place.
#[derive(Debug)]
pub struct Activate<'a> {
    /// `[R, L]`, L any
    pub matrix: &'a mut [bf16],
    /// `[L]`
    pub bias: Option<&'a [bf16]>,
    pub width: usize,
    pub activation: Activation,
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Identity,
    Gelu,
    GeluTanh,
    Silu,
    Relu,
    Tanh,
}

/// One row from the rows of each sequence.
#[derive(Debug)]
pub struct Pool<'a> {
    /// `[T, H]`
    pub input: &'a [bf16],
    /// `[N + 1]`
    pub splits: &'a [u32],
    pub width: usize,
    pub pooling: Pooling,
    /// `[N, H]`
    pub output: Pooled<'a>,
}

/// Which of a sequence's rows count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    Cls,
    Max,
}

/// What is written: another op's input, or what is handed out.
#[derive(Debug)]
pub enum Pooled<'a> {
    Bf16(&'a mut [bf16]),
    F32(&'a mut [f32]),
}

/// `output[m] = input[marks[m]]`
#[derive(Debug)]
pub struct Pick<'a> {
    /// `[T, H]`
    pub input: &'a [bf16],
    /// `[M]`
    pub marks: &'a [u32],
    pub width: usize,
    /// `[M, H]`
    pub output: &'a mut [bf16],
}

/// The attention tiles of a batch: where a tile's sequence begins and ends, and its first query in it. The same for all
/// layers.
pub fn tiles(splits: &[u32]) -> Vec<[u32; 3]> {
    let of = |pair: &[u32]| {
        let (begin, end) = (pair[0], pair[1]);
        (0..end - begin).step_by(QUERIES).map(move |first| [begin, end, first])
    };
    splits.windows(2).flat_map(of).collect()
}

impl Embed<'_> {
    /// # Errors
    /// As [`Emulator::launch`].
    pub fn run(self, emulator: &Emulator) -> Result<(), Fault> {
        let (rows, width) = (self.ids.len(), self.gain.len());
        let arguments = vec![
            Argument::input(self.ids),
            Argument::input(self.places),
            Argument::optional(self.types),
            Argument::input(self.words),
            Argument::input(self.positions),
            Argument::optional(self.kinds),
            Argument::input(self.gain),
            Argument::input(self.shift),
            Argument::output(self.output),
            Argument::integer(rows),
            Argument::integer(width),
            Argument::real(self.epsilon),
        ];
        let kernel = format!("embed_{}", width_class(width)?);
        launch(emulator, &kernel, [blocks(rows.div_ceil(NORM_ROWS)), 1, 1], 128, arguments)
    }
}

impl AddNorm<'_> {
    /// # Errors
    /// As [`Emulator::launch`].
    pub fn run(self, emulator: &Emulator) -> Result<(), Fault> {
        let width = self.gain.len();
        let rows = self.output.len() / width;
        let arguments = vec![
            Argument::input(self.input),
            Argument::optional(self.residual),
            Argument::input(self.gain),
            Argument::input(self.shift),
            Argument::output(self.output),
            Argument::integer(rows),
            Argument::integer(width),
            Argument::real(self.epsilon),
        ];
        let kernel = format!("add_norm_{}", width_class(width)?);
        launch(emulator, &kernel, [blocks(rows.div_ceil(NORM_ROWS)), 1, 1], 128, arguments)
    }
}

impl Attend<'_> {
    /// # Errors
    /// As [`Emulator::launch`].
    pub fn run(self, emulator: &Emulator) -> Result<(), Fault> {
        let arguments = vec![
            Argument::input(self.qkv),
            Argument::input(self.tiles),
            Argument::output(self.output),
            Argument::integer(self.heads),
            // Powers are of 2 there.
            Argument::real(self.scale * std::f32::consts::LOG2_E),
        ];
        let grid = [blocks(self.tiles.len()), blocks(self.heads), 1];
        launch(emulator, &format!("attend_{}", self.head), grid, 128, arguments)
    }
}

impl Activate<'_> {
    /// # Errors
    /// As [`Emulator::launch`].
    pub fn run(self, emulator: &Emulator) -> Result<(), Fault> {
        let rows = self.matrix.len() / self.width;
        let arguments =
            vec![Argument::output(self.matrix), Argument::optional(self.bias), Argument::integer(self.width)];
        launch(emulator, &format!("activate_{}", self.activation.name()), [blocks(rows), 1, 1], 128, arguments)
    }
}

impl Pool<'_> {
    /// # Errors
    /// As [`Emulator::launch`].
    pub fn run(self, emulator: &Emulator) -> Result<(), Fault> {
        let (kernel, output) = match self.output {
            Pooled::Bf16(output) => ("pool_bf16", Argument::output(output)),
            Pooled::F32(output) => ("pool_f32", Argument::output(output)),
        };
        let arguments = vec![
            Argument::input(self.input),
            Argument::input(self.splits),
            output,
            Argument::integer(self.width),
            Argument::integer(self.pooling as usize),
        ];
        let grid = [blocks(self.splits.len() - 1), blocks(self.width.div_ceil(256)), 1];
        launch(emulator, kernel, grid, 128, arguments)
    }
}

impl Pick<'_> {
    /// # Errors
    /// As [`Emulator::launch`].
    pub fn run(self, emulator: &Emulator) -> Result<(), Fault> {
        let arguments = vec![
            Argument::input(self.input),
            Argument::input(self.marks),
            Argument::output(self.output),
            Argument::integer(self.width),
        ];
        launch(emulator, "pick", [blocks(self.marks.len()), 1, 1], 64, arguments)
    }
}

impl Activation {
    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Silu => "silu",
            Self::Relu => "relu",
            Self::Tanh => "tanh",
        }
    }
}

/// The narrowest kernel that holds such a row in a warp's registers.
fn width_class(width: usize) -> Result<usize, Fault> {
    let classes = [256, 512, 768, 1024, 2048];
    let fits = |class: &usize| width <= *class && width.is_multiple_of(8);
    classes.into_iter().find(fits).ok_or_else(|| Fault::new(format!("there is no kernel for rows of {width}")))
}

fn blocks(count: usize) -> u32 {
    u32::try_from(count).expect("a grid is within 32 bits")
}

fn launch(
    emulator: &Emulator,
    kernel: &str,
    grid: [u32; 3],
    block: u32,
    arguments: Vec<Argument>,
) -> Result<(), Fault> {
    // SAFETY: the arguments were made of slices that the launchers borrow until this returns, outputs of those borrowed
    // for writing; any bits are values of bf16, f32 and u32.
    unsafe { emulator.launch(&Launch { kernel, grid, block, arguments }) }
}
