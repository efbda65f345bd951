//! How fast single ops are, beside the fastest that this device was seen to copy and to multiply in the same run.

use std::time::Instant;

use half::bf16;

use super::{CheckError, GpuCheck};
use crate::cuda::driver::{Epilogue, Product};
use crate::cuda::element::Element;
use crate::cuda::memory::DeviceMemory;
use crate::cuda::queue::{Command, Queue};

mod ops;

/// Side of the square product that the ceiling is measured with.
const SIDE: usize = 8_192;
/// Bytes of the copy.
const COPY_BYTES: usize = 2 << 30;
/// Times a command is in what is replayed, so that launching takes no part.
const TIMES: u32 = 20;
/// Replays, of which the quickest counts.
const REPLAYS: u32 = 10;

/// The most a device was seen to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Floating-point operations a second, in products of bfloat16.
    pub flop: f64,
    /// Bytes a second, read and written.
    pub bytes: f64,
}

/// What one op came to.
#[derive(Clone, Debug)]
pub struct OpSpeed {
    /// Such as `attend`.
    pub op: &'static str,
    /// Its shape, for people.
    pub case: String,
    /// Of one run.
    pub seconds: f64,
    /// Floating-point operations of products in it.
    pub flop: f64,
    /// Bytes that must be read and written.
    pub bytes: f64,
}

impl OpSpeed {
    /// What it cannot be quicker than, by the ceilings.
    #[must_use]
    pub fn floor(&self, ceilings: &Ceilings) -> f64 {
        (self.flop / ceilings.flop).max(self.bytes / ceilings.bytes)
    }
}

impl Ceilings {
    /// The least that a plan's ops can take one after the other, each input read once and each output written once.
    pub(super) fn floor(&self, plan: &crate::plan::Plan, sizes: &crate::plan::Sizes) -> f64 {
        let of = |op| {
            let cost = plan.op_cost(op, sizes);
            let bytes = 2.0 * (cost.weights + cost.values) as f64;
            (cost.flop as f64 / self.flop).max(bytes / self.bytes)
        };
        plan.ops.iter().map(of).sum()
    }
}

impl GpuCheck {
    /// What this device does at best.
    ///
    /// # Errors
    /// When it does not run.
    pub fn ceilings(&self) -> Result<Ceilings, CheckError> {
        let (side, bytes) = if self.is_emulated { (64, 1 << 20) } else { (SIDE, COPY_BYTES) };
        let room = Room::new(self)?;
        let (input, weight) = (room.random(side * side)?, room.random(side * side)?);
        let output = room.empty(2 * side * side)?;
        let product = Product {
            rows: side,
            outputs: side,
            inputs: side,
            of: Element::Bf16,
            input: input.span(),
            weight: weight.span(),
            bias: None,
            residual: None,
            epilogue: Epilogue::Identity,
            output: output.span(),
            into: Element::Bf16,
        };
        let seconds = room.time(&Command::Multiply(product), &[&input, &weight, &output])?;
        let flop = 2.0 * (side as f64).powi(3) / seconds;
        let (from, to) = (room.empty(bytes)?, room.empty(bytes)?);
        let mut best = f64::INFINITY;
        for _ in 0..REPLAYS {
            let started = Instant::now();
            for _ in 0..TIMES {
                self.queue.copy(from.whole(), to.whole())?;
            }
            self.queue.synchronize()?;
            best = best.min(Self::seconds(started.elapsed(), TIMES));
        }
        Ok(Ceilings { flop, bytes: 2.0 * bytes as f64 / best })
    }
}

/// Memory with numbers in it, and a queue to time commands on.
struct Room<'a> {
    check: &'a GpuCheck,
    queue: &'a Queue,
}

impl<'a> Room<'a> {
    fn new(check: &'a GpuCheck) -> Result<Self, CheckError> {
        check.queue.synchronize()?;
        Ok(Self { check, queue: &check.queue })
    }

    fn empty(&self, bytes: usize) -> Result<DeviceMemory, CheckError> {
        let stream = self.queue.stream();
        Ok(DeviceMemory::new(self.queue.driver(), stream, stream, bytes)?)
    }

    /// So many numbers from -1 to 1, as random as speed needs: zeros are quicker than any data.
    fn random(&self, count: usize) -> Result<DeviceMemory, CheckError> {
        let mut state = self.check.seed | 1;
        let mut number = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bf16::from_f32((state >> 40) as f32 / (1 << 23) as f32 - 1.0).to_bits()
        };
        // Repeated, since drawing is slow and what is read only once is not seen twice by any cache.
        let drawn: Vec<u16> = (0..count.min(1 << 20)).map(|_| number()).collect();
        let bytes: Vec<u8> = drawn.iter().flat_map(|bits| bits.to_le_bytes()).cycle().take(2 * count).collect();
        self.copy(&bytes)
    }

    fn put(&self, numbers: &[u32]) -> Result<DeviceMemory, CheckError> {
        self.copy(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>())
    }

    fn copy(&self, bytes: &[u8]) -> Result<DeviceMemory, CheckError> {
        let memory = self.empty(bytes.len())?;
        let fill = |to: &mut [u8]| {
            to.copy_from_slice(bytes);
            Ok::<_, CheckError>(())
        };
        let host = crate::cuda::memory::PinnedMemory::filled(self.queue.driver(), bytes.len(), fill)?;
        self.queue.copy_in(&host, memory.whole())?;
        self.queue.synchronize()?;
        Ok(memory)
    }

    /// Seconds of one run of a command among many.
    fn time(&self, command: &Command, memory: &[&DeviceMemory]) -> Result<f64, CheckError> {
        // Once by itself: kernels are compiled and algorithms chosen then, which no capture allows.
        self.queue.run(std::slice::from_ref(command), memory)?;
        self.queue.synchronize()?;
        let times = if self.check.is_emulated { 1 } else { TIMES };
        let commands = vec![command.clone(); times as usize];
        let captured = self.queue.capture(&commands, memory, None)?;
        let mut best = f64::INFINITY;
        for _ in 0..if self.check.is_emulated { 1 } else { REPLAYS } {
            let started = Instant::now();
            self.queue.replay(&captured, memory)?;
            self.queue.synchronize()?;
            best = best.min(GpuCheck::seconds(started.elapsed(), times));
        }
        Ok(best)
    }
}
