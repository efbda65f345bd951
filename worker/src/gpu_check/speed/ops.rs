//! Every op that an encoder of a size may have, by itself.

use super::{OpSpeed, Room};
use crate::cuda::driver::{Epilogue, Product, Span};
use crate::cuda::element::Element;
use crate::cuda::memory::DeviceMemory;
use crate::cuda::queue::Command;
use crate::gpu_check::{CheckError, Encoder, GpuCheck};
use crate::ops::activate::cuda::Activate;
use crate::ops::attend::cuda::{Attend, tiles};
use crate::ops::gate::cuda::Gate;
use crate::ops::gemm::cuda::{Int8Weight, MultiplyInt8, Quantise, RANGE_BYTES, stride};
use crate::ops::normalize::cuda::{AddNorm, Norm};
use crate::ops::pool::cuda::Pool;
use crate::ops::rotate::cuda::Rotate;
use crate::plan::{Activation, Heads, Mask, NormKind, Pooling};

/// How far tokens look in ModernBERT's local layers.
const REACH: usize = 64;

/// A batch, the memory that its ops are timed on, and what they came to.
struct Batch<'a> {
    room: Room<'a>,
    encoder: Encoder,
    count: usize,
    length: usize,
    input: DeviceMemory,
    residual: DeviceMemory,
    output: DeviceMemory,
    weight: DeviceMemory,
    /// Tiles of attention.
    list: DeviceMemory,
    tiles: usize,
    /// Where sequences begin and end.
    bounds: DeviceMemory,
    places: DeviceMemory,
    found: Vec<OpSpeed>,
}

impl GpuCheck {
    /// The ops of an encoder over `count` sequences of `length` tokens.
    ///
    /// # Errors
    /// When one does not run.
    pub fn op_speeds(&self, encoder: &Encoder, count: usize, length: usize) -> Result<Vec<OpSpeed>, CheckError> {
        let mut batch = Batch::new(self, *encoder, count, length)?;
        let Encoder { hidden, heads, inner, .. } = *encoder;
        for (outputs, inputs) in [(3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner)] {
            batch.product(outputs, inputs, false)?;
            batch.product_of_bytes(outputs, inputs)?;
        }
        batch.product(hidden, inner, true)?;
        let own = Heads { count: heads, shared: heads, width: hidden / heads };
        for mask in [Mask::None, Mask::Causal, Mask::Window(REACH)] {
            batch.attention(own, mask)?;
        }
        batch.rotation(own, false)?;
        // Half as many keys as queries, as Qwen3 has, in rows that are no wider.
        if hidden >= 256 {
            let shared = Heads { count: hidden / 256 * 2, shared: hidden / 256, width: 128 };
            batch.attention(shared, Mask::Causal)?;
            batch.rotation(shared, true)?;
        }
        batch.rows()?;
        Ok(batch.found)
    }
}

impl<'a> Batch<'a> {
    fn new(check: &'a GpuCheck, encoder: Encoder, count: usize, length: usize) -> Result<Self, CheckError> {
        let room = Room::new(check)?;
        let (tokens, widest) = (count * length, (3 * encoder.hidden).max(2 * encoder.inner));
        let splits: Vec<usize> = (0..=count).map(|index| index * length).collect();
        let list: Vec<u32> = tiles(&splits).flatten().collect();
        let places: Vec<u32> = (0..tokens).map(|token| (token % length) as u32).collect();
        Ok(Self {
            encoder,
            count,
            length,
            input: room.random(tokens * widest)?,
            residual: room.random(tokens * widest)?,
            output: room.empty(2 * tokens * widest)?,
            weight: room.random(widest * widest)?,
            tiles: list.len() / 3,
            list: room.put(&list)?,
            bounds: room.put(&splits.iter().map(|split| *split as u32).collect::<Vec<_>>())?,
            places: room.put(&places)?,
            found: Vec::new(),
            room,
        })
    }

    fn tokens(&self) -> usize {
        self.count * self.length
    }

    /// Times a command that reads and writes so many numbers.
    fn time(
        &mut self,
        op: &'static str,
        case: String,
        command: &Command,
        flop: usize,
        numbers: usize,
    ) -> Result<(), CheckError> {
        let Self { input, residual, output, weight, list, bounds, places, .. } = &*self;
        let seconds = self.room.time(command, &[input, residual, output, weight, list, bounds, places])?;
        self.found.push(OpSpeed { op, case, seconds, flop: flop as f64, bytes: 2.0 * numbers as f64 });
        Ok(())
    }

    fn product(&mut self, outputs: usize, inputs: usize, has_residual: bool) -> Result<(), CheckError> {
        let rows = self.tokens();
        let product = Product {
            rows,
            outputs,
            inputs,
            of: Element::Bf16,
            input: part(&self.input, rows * inputs),
            weight: part(&self.weight, outputs * inputs),
            bias: (!has_residual).then(|| part(&self.residual, outputs)),
            residual: has_residual.then(|| part(&self.residual, rows * outputs)),
            epilogue: Epilogue::Identity,
            output: part(&self.output, rows * outputs),
            into: Element::Bf16,
        };
        let onto = if has_residual { " + residual" } else { "" };
        let case = format!("[{rows}, {inputs}] x [{outputs}, {inputs}]{onto}");
        let added = if has_residual { rows * outputs } else { 0 };
        let numbers = rows * (outputs + inputs) + outputs * inputs + added;
        self.time("gemm", case, &Command::Multiply(product), 2 * rows * outputs * inputs, numbers)
    }

    /// Rows as bytes, and their product. The floor is that of bfloat16, which a product of bytes may be under.
    fn product_of_bytes(&mut self, outputs: usize, inputs: usize) -> Result<(), CheckError> {
        let rows = self.tokens();
        let quantise = Quantise {
            rows,
            width: inputs,
            input: part(&self.input, rows * inputs),
            factors: None,
            bytes: self.output.span().part(0..rows * stride(inputs)),
            ranges: self.residual.span().part(0..rows * RANGE_BYTES),
        };
        // Half as many bytes are written as are read.
        let numbers = rows * inputs * 3 / 2;
        self.time("quantise", format!("{rows} x {inputs}"), &quantise.command(), 0, numbers)?;
        let weight = Int8Weight { outputs, inputs, has_factors: false };
        let memory = self.weight.span();
        let multiply = MultiplyInt8 {
            rows,
            outputs,
            inputs,
            left: self.input.span().part(0..rows * stride(inputs)),
            ranges: self.residual.span().part(0..rows * RANGE_BYTES),
            right: memory.part(weight.matrix()),
            columns: memory.part(weight.columns()),
            bias: Some(memory.part(0..outputs * size_of::<f32>())),
            activation: Activation::Identity,
            residual: None,
            output: part(&self.output, rows * outputs),
        };
        let case = format!("[{rows}, {inputs}] x [{outputs}, {inputs}]");
        let numbers = rows * outputs + (rows + outputs) * inputs / 2;
        self.time("gemm of bytes", case, &multiply.command(), 2 * rows * outputs * inputs, numbers)
    }

    fn attention(&mut self, heads: Heads, mask: Mask) -> Result<(), CheckError> {
        let (tokens, length) = (self.tokens(), self.length);
        let attend = Attend {
            heads,
            element: Element::Bf16,
            mask,
            scale: 0.1,
            qkv: part(&self.input, tokens * heads.row()),
            tiles: self.tiles,
            list: self.list.span(),
            output: part(&self.output, tokens * heads.queries()),
        };
        let pairs: usize = (0..length).map(|place| mask.seen(place, length).len()).sum();
        let Heads { count, shared, width } = heads;
        let case = format!("{} x {length}, {mask:?}, {count} and {shared} heads of {width}", self.count);
        let flop = 4 * self.count * pairs * heads.queries();
        self.time("attend", case, &attend.command(), flop, tokens * (heads.row() + heads.queries()))
    }

    /// In place.
    fn rotation(&mut self, heads: Heads, has_norms: bool) -> Result<(), CheckError> {
        let tokens = self.tokens();
        let qkv = part(&self.output, tokens * heads.row());
        let gain = self.weight.span().part(0..4 * heads.width);
        let norm = Norm { kind: NormKind::Rms, gain, shift: None, epsilon: 1e-6 };
        let rotate = Rotate {
            tokens,
            heads,
            element: Element::Bf16,
            norms: has_norms.then_some([norm; 2]),
            // Any numbers are as quick as others.
            frequencies: self.weight.span().part(0..2 * heads.width),
            qkv,
            places: self.places.span(),
            output: qkv,
        };
        let Heads { count, shared, width } = heads;
        let case = format!("{tokens}, {count} and {shared} heads of {width}, norms {has_norms}");
        self.time("rotate", case, &rotate.command(), 0, 2 * tokens * (count + shared) * width)
    }

    /// What knows nothing of a token but its row.
    fn rows(&mut self) -> Result<(), CheckError> {
        let (rows, Encoder { hidden, inner, .. }) = (self.tokens(), self.encoder);
        let vector = |at: usize| self.weight.span().part(4 * at * hidden..4 * (at + 1) * hidden);
        let add_norm = AddNorm {
            rows,
            width: hidden,
            element: Element::Bf16,
            input: part(&self.input, rows * hidden),
            residual: Some(part(&self.residual, rows * hidden)),
            norm: Norm { kind: NormKind::Layer, gain: vector(0), shift: Some(vector(1)), epsilon: 1e-12 },
            output: part(&self.output, rows * hidden),
        };
        self.time("add-norm", format!("{rows} x {hidden}"), &add_norm.command(), 0, 3 * rows * hidden)?;
        let activate = Activate {
            rows,
            width: inner,
            element: Element::Bf16,
            matrix: part(&self.output, rows * inner),
            bias: None,
            residual: None,
            activation: Activation::Gelu,
        };
        self.time("activate", format!("{rows} x {inner}"), &activate.command(), 0, 2 * rows * inner)?;
        let gate = Gate {
            rows,
            width: inner,
            element: Element::Bf16,
            activation: Activation::Gelu,
            input: part(&self.input, 2 * rows * inner),
            output: part(&self.output, rows * inner),
        };
        self.time("gate", format!("{rows} x {inner}"), &gate.command(), 0, 3 * rows * inner)?;
        let (count, length) = (self.count, self.length);
        let pool = Pool {
            sequences: count,
            width: hidden,
            element: Element::Bf16,
            pooling: Pooling::Mean,
            input: part(&self.input, rows * hidden),
            splits: self.bounds.span(),
            output: self.output.span().part(0..4 * count * hidden),
            into: Element::F32,
        };
        self.time("pool", format!("{count} x {length} x {hidden}"), &pool.command(), 0, (rows + 2 * count) * hidden)
    }
}

/// The first so many numbers.
fn part(memory: &DeviceMemory, numbers: usize) -> Span {
    memory.span().part(0..2 * numbers)
}
