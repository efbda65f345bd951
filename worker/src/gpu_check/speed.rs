//! How fast single ops are, beside the fastest that this device was seen to copy and to multiply in the same run.

use std::time::Instant;

use half::bf16;

use super::{CheckError, Encoder, GpuCheck};
use crate::cuda::driver::{Element, Epilogue, Product};
use crate::cuda::memory::DeviceMemory;
use crate::cuda::queue::{Command, Queue};
use crate::ops::activate::cuda::Activate;
use crate::ops::attend::cuda::{Attend, tiles};
use crate::ops::normalize::cuda::AddNorm;
use crate::ops::pool::cuda::Pool;
use crate::plan::{Activation, Pooling};

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
            input: input.span(),
            weight: weight.span(),
            bias: None,
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
                self.queue.copy(from.span(), to.span())?;
            }
            self.queue.synchronize()?;
            best = best.min(Self::seconds(started.elapsed(), TIMES));
        }
        Ok(Ceilings { flop, bytes: 2.0 * bytes as f64 / best })
    }

    /// The ops of an encoder over `count` sequences of `length` tokens.
    ///
    /// # Errors
    /// When one does not run.
    pub fn op_speeds(&self, encoder: &Encoder, count: usize, length: usize) -> Result<Vec<OpSpeed>, CheckError> {
        let room = Room::new(self)?;
        let Encoder { hidden, heads, inner, .. } = *encoder;
        let tokens = count * length;
        let widest = (3 * hidden).max(inner);
        let (input, residual) = (room.random(tokens * widest)?, room.random(tokens * widest)?);
        let output = room.empty(2 * tokens * widest)?;
        let weight = room.random(widest * widest)?;
        let splits: Vec<usize> = (0..=count).map(|index| index * length).collect();
        let list: Vec<u32> = tiles(&splits).flatten().collect();
        let (list, tile_count) = (room.put(&list)?, list.len() / 3);
        let bounds = room.put(&splits.iter().map(|split| *split as u32).collect::<Vec<_>>())?;
        let memory = [&input, &residual, &output, &weight, &list, &bounds];
        let part = |memory: &DeviceMemory, numbers: usize| memory.span().part(0..2 * numbers);
        let vector = |at: usize| weight.span().part(4 * at * hidden..4 * (at + 1) * hidden);

        let mut found = Vec::new();
        let mut time = |op, case: String, command: Command, flop: f64, numbers: usize| -> Result<(), CheckError> {
            let seconds = room.time(&command, &memory)?;
            found.push(OpSpeed { op, case, seconds, flop, bytes: 2.0 * numbers as f64 });
            Ok(())
        };
        let products = [(3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner)];
        for (outputs, inputs) in products {
            let product = Product {
                rows: tokens,
                outputs,
                inputs,
                input: part(&input, tokens * inputs),
                weight: part(&weight, outputs * inputs),
                bias: Some(part(&residual, outputs)),
                epilogue: Epilogue::Identity,
                output: part(&output, tokens * outputs),
                into: Element::Bf16,
            };
            let (flop, numbers) =
                (2.0 * (tokens * outputs * inputs) as f64, tokens * (outputs + inputs) + outputs * inputs);
            time(
                "gemm",
                format!("[{tokens}, {inputs}] x [{outputs}, {inputs}]"),
                Command::Multiply(product),
                flop,
                numbers,
            )?;
        }
        let attend = Attend {
            heads,
            head: hidden / heads,
            scale: 0.1,
            qkv: part(&input, 3 * tokens * hidden),
            tiles: tile_count,
            list: list.span(),
            output: part(&output, tokens * hidden),
        };
        let flop = 4.0 * (count * length * length * hidden) as f64;
        let case = format!("{count} x {length}, {heads} heads of {}", hidden / heads);
        time("attend", case, attend.command(), flop, 4 * tokens * hidden)?;
        let add_norm = AddNorm {
            rows: tokens,
            width: hidden,
            input: part(&input, tokens * hidden),
            residual: Some(part(&residual, tokens * hidden)),
            gain: vector(0),
            shift: vector(1),
            epsilon: 1e-12,
            output: part(&output, tokens * hidden),
        };
        time("add-norm", format!("{tokens} x {hidden}"), add_norm.command(), 0.0, 3 * tokens * hidden)?;
        let activate = Activate {
            rows: tokens,
            width: inner,
            matrix: part(&output, tokens * inner),
            bias: None,
            activation: Activation::Gelu,
        };
        time("activate", format!("{tokens} x {inner}"), activate.command(), 0.0, 2 * tokens * inner)?;
        let pool = Pool {
            sequences: count,
            width: hidden,
            pooling: Pooling::Mean,
            input: part(&input, tokens * hidden),
            splits: bounds.span(),
            output: output.span().part(0..4 * count * hidden),
            into: Element::F32,
        };
        time("pool", format!("{count} x {length} x {hidden}"), pool.command(), 0.0, (tokens + 2 * count) * hidden)?;
        Ok(found)
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
        self.queue.copy_in(&host, memory.span())?;
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
        let captured = self.queue.capture(&commands, memory)?;
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
