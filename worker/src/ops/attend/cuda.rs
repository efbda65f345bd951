//! The GPU's kernel: a block takes a tile of queries of one head of one sequence.

use std::f32::consts::LOG2_E;

use crate::cuda::driver::{Argument, Kernel, Launch, Span};
use crate::cuda::element::Element;
use crate::cuda::queue::Command;
use crate::plan::{Heads, Mask};

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Queries of a tile.
const QUERIES: usize = 64;
/// Threads of a block.
const THREADS: u32 = 128;
/// Further away than any token.
const ANYWHERE: i32 = 1 << 30;
/// Blocks of the kernels for f32 that share a tile.
const SHARES_F32: usize = 2;
/// Kernels for numbers that tensor cores take, by the width of the heads that they are for.
const KERNELS: [(usize, &str); 7] = [
    (16, "attend_16"),
    (32, "attend_32"),
    (48, "attend_48"),
    (64, "attend_64"),
    (80, "attend_80"),
    (96, "attend_96"),
    (128, "attend_128"),
];
/// Kernels for f32, by the width of the heads that they are for at most.
const KERNELS_F32: [(usize, &str); 4] =
    [(32, "attend_f32_32"), (64, "attend_f32_64"), (96, "attend_f32_96"), (128, "attend_f32_128")];

/// `output[t, h] = Σ_j softmax_j(scale · q[t, h] · k[j, h]) v[j, h]` over what the mask lets t see
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attend {
    pub(crate) heads: Heads,
    pub(crate) element: Element,
    pub(crate) mask: Mask,
    pub(crate) scale: f32,
    /// [T, Q]
    pub(crate) qkv: Span,
    pub(crate) tiles: usize,
    /// [tiles, 3] u32: of the batch, by [`tiles`]; what is beyond them begins where it ends.
    pub(crate) list: Span,
    /// [T, heads · D]
    pub(crate) output: Span,
}

impl Attend {
    /// The kernel for heads of a width, if there is one.
    pub(crate) fn kernel(element: Element, head: usize) -> Option<Kernel> {
        let (_, name) = KERNELS.into_iter().find(|(width, _)| *width == head)?;
        if element != Element::F32 {
            return Some(Kernel::of(element, name));
        }
        KERNELS_F32.iter().find(|(widest, _)| head <= *widest).map(|(_, name)| Kernel::plain(name))
    }

    /// # Panics
    /// If there is no kernel for its heads.
    pub(crate) fn command(&self) -> Command {
        let Heads { count, shared, width } = self.heads;
        let is_f32 = self.element == Element::F32;
        let blocks = if is_f32 { SHARES_F32 * self.tiles } else { self.tiles };
        let [before, after] = reach(self.mask);
        Command::Launch(Launch {
            kernel: Self::kernel(self.element, width).expect("plans are checked for kernels"),
            grid: [blocks as u32, count as u32, 1],
            block: THREADS,
            arguments: [
                Argument::Input(self.qkv),
                Argument::Input(self.list),
                Argument::Output(self.output),
                Argument::integer(count),
                Argument::integer(count / shared),
                Argument::Integer(before),
                Argument::Integer(after),
                // Powers are of 2 there.
                Argument::Real(self.scale * LOG2_E),
            ]
            .into_iter()
            .chain(is_f32.then(|| Argument::integer(width)))
            .collect(),
        })
    }
}

/// How far a token looks back, and how far ahead.
fn reach(mask: Mask) -> [i32; 2] {
    match mask {
        Mask::None => [ANYWHERE; 2],
        Mask::Causal => [ANYWHERE, 0],
        Mask::Window(reach) => [i32::try_from(reach).unwrap_or(ANYWHERE).min(ANYWHERE); 2],
    }
}

/// The attention tiles of a batch, the same for all layers: where a tile's sequence begins and ends, and its first query
/// in it.
pub(crate) fn tiles(splits: &[usize]) -> impl Iterator<Item = [u32; 3]> {
    splits.windows(2).flat_map(|pair| {
        let (begin, end) = (pair[0] as u32, pair[1] as u32);
        (0..end - begin).step_by(QUERIES).map(move |first| [begin, end, first])
    })
}

/// How many tiles so many sequences of so many tokens in all can have.
pub(crate) fn tiles_max(tokens: usize, sequences: usize) -> usize {
    tokens / QUERIES + sequences
}
