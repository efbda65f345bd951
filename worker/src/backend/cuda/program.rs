//! A plan as commands for the device: where each buffer lies, which kernel runs on what. Pure: it touches no device.
//!
//! Buffers lie at the same place for every batch, and those that live at different times may lie in the same: an output
//! also where an input lay, if its op reads each number before it writes there. What a batch gives to kernels comes first,
//! without gaps, so that it is one copy.

use std::collections::BTreeMap;
use std::ops::Range;

use super::shape::Shape;
use crate::cuda::driver::{ALIGNMENT, Product, Span};
use crate::cuda::element::Element;
use crate::cuda::queue::Command;
use crate::ops::activate::cuda::{Activate, split};
use crate::ops::attend::cuda::{Attend, tiles_max};
use crate::ops::embed::cuda::Embed;
use crate::ops::gate::cuda::Gate;
use crate::ops::gemm::cuda::{Int8Weight, MultiplyInt8, Quantise, RANGE_BYTES, stride};
use crate::ops::normalize::cuda::{AddNorm, Norm};
use crate::ops::pick::cuda::Pick;
use crate::ops::pool::cuda::Pool;
use crate::ops::rotate::angles::frequencies;
use crate::ops::rotate::cuda::Rotate;
use crate::ops::top::cuda::{self as top, Top};
use crate::plan::{self, Activation, BufferId, Op, Plan, Rows, WeightId};

/// A plan that has kernels, and its memory.
#[derive(Clone, Debug)]
pub(super) struct Program {
    plan: Plan,
    /// The largest batch there is room for.
    max: Shape,
    /// Where each buffer begins, in bytes.
    places: Vec<usize>,
    /// Weights that are kept as bytes.
    int8: BTreeMap<WeightId, Int8Weight>,
    /// Where the bytes begin that a product's input becomes, and behind them what makes them numbers again, by the buffer
    /// that the product writes.
    quantised: BTreeMap<BufferId, usize>,
    /// Where the best entries of the output's rows begin, for a plan that ends in logits of marks.
    best: Option<usize>,
    /// What all else than the output is made of.
    element: Element,
    /// What the output is made of.
    output: Element,
    /// What rotations turn by: the width of heads and the base of each that is not like another.
    rotations: Vec<(usize, f32)>,
    bytes: usize,
}

/// What there is no kernel for.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Unsupported {
    #[error("attention heads are {0} wide, and the GPU's kernels take 16, 32, 48, 64, 80, 96 and 128")]
    Head(usize),
    #[error("rows are {0} wide, and the GPU's kernels take multiples of 8, with a norm up to 2048")]
    Width(usize),
}

/// Where in the arena lies what a batch gives to kernels, for one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inputs {
    /// [T] u32
    pub(super) ids: Range<usize>,
    /// [T] u32
    pub(super) places: Range<usize>,
    /// [T] u32
    pub(super) types: Range<usize>,
    /// [N + 1] u32
    pub(super) splits: Range<usize>,
    /// [M] u32
    pub(super) marks: Range<usize>,
    /// [tiles, 3] u32
    pub(super) tiles: Range<usize>,
}

impl Inputs {
    pub(super) fn of(shape: &Shape) -> Self {
        let mut end: usize = 0;
        let mut place = |numbers: usize| {
            let start = end.next_multiple_of(ALIGNMENT);
            end = start + numbers * size_of::<u32>();
            start..end
        };
        Self {
            ids: place(shape.tokens),
            places: place(shape.tokens),
            types: place(shape.tokens),
            splits: place(shape.sequences + 1),
            marks: place(shape.marks),
            tiles: place(3 * tiles_max(shape.tokens, shape.sequences)),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.tiles.end
    }
}

impl Program {
    pub(super) fn new(plan: &Plan, element: Element, max: Shape) -> Result<Self, Unsupported> {
        check(plan, element)?;
        let output = match plan.ops.iter().find(|op| op.output() == plan.output) {
            // These write what is handed out unrounded.
            Some(Op::Pool { .. }) => Element::F32,
            Some(Op::Gemm { activation, residual: None, .. }) if split(*activation, false).1.is_none() => Element::F32,
            _ => element,
        };
        let mut rotations = Vec::new();
        for rotation in plan.rotations() {
            if !rotations.contains(&rotation) {
                rotations.push(rotation);
            }
        }
        let mut this = Self {
            plan: plan.clone(),
            max,
            places: Vec::new(),
            int8: BTreeMap::new(),
            quantised: BTreeMap::new(),
            best: None,
            element,
            output,
            rotations,
            bytes: 0,
        };
        this.place();
        Ok(this)
    }

    /// The same with room for batches of another shape.
    pub(super) fn of_shape(&self, max: Shape) -> Self {
        let mut this = Self { max, ..self.clone() };
        this.place();
        this
    }

    /// The same with products of bytes, by their weights, each with whether it has factors. Nothing but products over tokens
    /// reads these weights.
    pub(super) fn with_int8(mut self, products: impl IntoIterator<Item = (WeightId, bool)>) -> Self {
        let weight = |(id, has_factors): (WeightId, bool)| {
            let (outputs, inputs) = self.plan[id].size();
            (id, Int8Weight { outputs, inputs, has_factors })
        };
        self.int8 = products.into_iter().map(weight).collect();
        self.place();
        self
    }

    /// Where the bytes lie that the input of a product becomes.
    #[cfg(test)]
    pub(super) fn quantised_place(&self, op: &Op) -> Option<Range<usize>> {
        let Op::Gemm { weight, output, .. } = op else { return None };
        let row = stride(self.int8.get(weight)?.inputs) + RANGE_BYTES;
        let start = self.quantised[output];
        Some(start..start + self.max.tokens * row)
    }

    /// How a weight is kept as bytes, if it is.
    pub(super) fn int8(&self, id: WeightId) -> Option<&Int8Weight> {
        self.int8.get(&id)
    }

    pub(super) fn max(&self) -> &Shape {
        &self.max
    }

    /// Bytes of the arena that it needs.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that are copied back of the largest batch: of logits of marks the best, as nearly everybody asks for them.
    pub(super) fn results(&self) -> usize {
        if self.best.is_some() { self.best_bytes() } else { self.size(self.plan.output, &self.max) }
    }

    /// Bytes of the best entries of all rows of the largest batch.
    fn best_bytes(&self) -> usize {
        self.max.marks * top::bytes(top::COUNT_MAX)
    }

    /// What the output is made of.
    pub(super) fn output_element(&self) -> Element {
        self.output
    }

    /// Numbers in f32 that kernels read besides the plan's weights, behind which they come: frequencies of rotations.
    pub(super) fn tables(&self) -> impl Iterator<Item = Vec<f32>> {
        self.rotations.iter().map(|(width, base)| frequencies(*width, *base).collect())
    }

    /// What a weight is kept as that is not of bytes: norms' vectors, and the bias of a product that is of bytes or handed
    /// out unrounded, are small and stay as they are.
    pub(super) fn element_of(&self, id: WeightId) -> Element {
        let is_wide = |op: &Op| match op {
            Op::Gemm { weight, bias, output, .. } => {
                let is_wide = self.element_at(*output) == Element::F32 || self.int8.contains_key(weight);
                *bias == Some(id) && is_wide
            }
            _ => op.norms().any(|norm| norm.gain == id || norm.shift == Some(id)),
        };
        if self.plan.ops.iter().any(is_wide) { Element::F32 } else { self.element }
    }

    /// What a buffer is made of.
    fn element_at(&self, buffer: BufferId) -> Element {
        if buffer == self.plan.output { self.output } else { self.element }
    }

    /// Where the output lies.
    pub(super) fn output(&self, shape: &Shape) -> Range<usize> {
        self.range(self.plan.output, shape)
    }

    /// Where a buffer lies.
    pub(super) fn range(&self, buffer: BufferId, shape: &Shape) -> Range<usize> {
        let start = self.places[buffer.0];
        start..start + self.size(buffer, shape)
    }

    /// What makes the best so many entries of each row of the output; nothing for a plan or a count that has no kernel, or
    /// if there are no rows.
    pub(super) fn top(&self, shape: &Shape, count: usize, arena: Span) -> Option<Top> {
        let (rows, start) = (shape.marks, self.best?);
        (rows > 0 && count <= top::COUNT_MAX).then(|| Top {
            rows,
            vocabulary: self.plan[self.plan.output].width,
            count,
            logits: arena.part(self.output(shape)),
            output: arena.part(start..start + rows * top::bytes(count)),
        })
    }

    /// What computes a batch of this shape, once its inputs lie in the arena. `weights` are the plan's, and then the
    /// [`tables`](Self::tables).
    pub(super) fn commands(&self, shape: &Shape, arena: Span, weights: &[Span]) -> Vec<Command> {
        self.commands_by_op(shape, arena, weights).flat_map(|(_, commands)| commands).collect()
    }

    /// The same, for each op that has something to do.
    pub(super) fn commands_by_op<'a>(
        &'a self,
        shape: &'a Shape,
        arena: Span,
        weights: &'a [Span],
    ) -> impl Iterator<Item = (&'a Op, Vec<Command>)> {
        let at = At { program: self, shape, inputs: Inputs::of(shape), arena, weights };
        // Nothing to do is no launch: a grid of no blocks is an error.
        let has_rows = |op: &&Op| shape.rows(self.plan[op.output()].rows) > 0;
        self.plan.ops.iter().filter(has_rows).map(move |op| (op, at.commands(op)))
    }

    /// Finds a place for each buffer: that of the input which it may be written over, if nobody needs it after, or the
    /// lowest at which nothing lies that is needed while it is.
    fn place(&mut self) {
        let lives = self.plan.lives();
        let first = Inputs::of(&self.max).bytes().next_multiple_of(ALIGNMENT);
        // Empty before they are written.
        let mut taken = vec![first..first; lives.len()];
        let mut quantised_end = first;
        for (index, op) in self.plan.ops.iter().enumerate() {
            let output = op.output();
            let life = &lives[output.0];
            let overlaps = |other: &usize| lives[*other].start() <= life.end() && life.start() <= lives[*other].end();
            let others = || (0..lives.len()).filter(overlaps).map(|other| taken[other].clone()).collect();
            let is_free = |input: &BufferId| *lives[input.0].end() == index;
            let is_as_large = |input: &BufferId| self.size(*input, &self.max) == self.size(output, &self.max);
            let below = overwritten(op).filter(is_free).filter(is_as_large);
            taken[output.0] = match below {
                Some(input) => taken[input.0].clone(),
                None => lowest(first, self.size(output, &self.max), others()),
            };
            if let Op::Gemm { weight, .. } = op
                && let Some(weight) = self.int8.get(weight)
            {
                // There while the op is done.
                let is_there = |other: &usize| lives[*other].contains(&index);
                let others = (0..lives.len()).filter(is_there).map(|other| taken[other].clone()).collect();
                let place = lowest(first, self.max.tokens * (stride(weight.inputs) + RANGE_BYTES), others);
                self.quantised.insert(output, place.start);
                quantised_end = quantised_end.max(place.end);
            }
        }
        // They are made when all is done that needs anything but the output.
        let has_best = self.plan[self.plan.output].rows == Rows::Marks && self.output == Element::F32;
        let best = has_best.then(|| {
            let output = taken[self.plan.output.0].clone();
            lowest(first, self.best_bytes(), vec![output])
        });
        self.best = best.as_ref().map(|place| place.start);
        taken.extend(best);
        self.bytes = taken.iter().map(|place| place.end).max().unwrap_or(first).max(quantised_end);
        self.places = taken.into_iter().take(lives.len()).map(|place| place.start).collect();
    }

    fn size(&self, buffer: BufferId, shape: &Shape) -> usize {
        shape.rows(self.plan[buffer].rows) * self.plan[buffer].width * self.element_at(buffer).bytes()
    }
}

/// The lowest place of so many bytes, from `first` on, that none of the others is in.
fn lowest(first: usize, size: usize, mut others: Vec<Range<usize>>) -> Range<usize> {
    others.sort_unstable_by_key(|place| place.start);
    let after = |start: usize, place: &Range<usize>| {
        if start + size <= place.start { start } else { start.max(place.end.next_multiple_of(ALIGNMENT)) }
    };
    let start = others.iter().fold(first, after);
    start..start + size
}

/// The input that an op's output may be written over: one of its size, of which each number is read before anything is
/// written in its place.
fn overwritten(op: &Op) -> Option<BufferId> {
    match *op {
        Op::Rotate { qkv, .. } => Some(qkv),
        Op::AddNorm { input, .. } => Some(input),
        // With an activation the product is written before the residual is read.
        Op::Gemm { input, residual, activation: Activation::Identity, .. } => residual.filter(|other| *other != input),
        _ => None,
    }
}

/// Whether there are kernels for all ops.
fn check(plan: &Plan, element: Element) -> Result<(), Unsupported> {
    for op in &plan.ops {
        let mut width = plan[op.output()].width;
        let has_kernel = match op {
            Op::Embed { .. } => Embed::kernel(width).is_some(),
            Op::AddNorm { .. } => AddNorm::kernel(width).is_some(),
            Op::Attend { heads, .. } if Attend::kernel(element, heads.width).is_none() => {
                return Err(Unsupported::Head(heads.width));
            }
            Op::Rotate { heads, .. } if !Rotate::takes(heads.width) => return Err(Unsupported::Head(heads.width)),
            Op::Gate { .. } => Gate::takes(width),
            Op::Pool { .. } | Op::Pick { .. } => width.is_multiple_of(8),
            // cublasLt reads rows of whole 16 bytes, and so much at a time.
            Op::Gemm { input, .. } => {
                width = plan[*input].width;
                width.is_multiple_of(8)
            }
            Op::Attend { .. } | Op::Rotate { .. } => true,
        };
        if !has_kernel {
            return Err(Unsupported::Width(width));
        }
    }
    Ok(())
}

/// Everything an op's commands are made from.
struct At<'a> {
    program: &'a Program,
    shape: &'a Shape,
    inputs: Inputs,
    arena: Span,
    /// By their ids; then the tables.
    weights: &'a [Span],
}

impl At<'_> {
    fn commands(&self, op: &Op) -> Vec<Command> {
        let plan = &self.program.plan;
        let (rows, width) = (self.shape.rows(plan[op.output()].rows), plan[op.output()].width);
        let output = self.buffer(op.output());
        let (element, into) = (self.program.element, self.program.element_at(op.output()));
        match *op {
            Op::Embed { words, positions, types, norm, .. } => {
                let embed = Embed {
                    tokens: rows,
                    width,
                    element,
                    ids: self.input(&self.inputs.ids),
                    places: self.input(&self.inputs.places),
                    types: types.map(|_| self.input(&self.inputs.types)),
                    words: self.weight(words),
                    positions: positions.map(|positions| self.weight(positions)),
                    kinds: types.map(|types| self.weight(types)),
                    norm: norm.map(|norm| self.norm(&norm)),
                    output,
                };
                vec![embed.command()]
            }
            Op::Gemm { input, weight, bias, activation, residual, output: to } => {
                let residual = residual.map(|residual| self.buffer(residual));
                if let Some(int8) = self.program.int8.get(&weight) {
                    let [left, ranges] = self.quantised(to, int8.inputs);
                    let matrix = self.weight(weight);
                    let quantise = Quantise {
                        rows,
                        width: int8.inputs,
                        input: self.buffer(input),
                        factors: int8.factors().map(|factors| matrix.part(factors)),
                        bytes: left,
                        ranges,
                    };
                    let multiply = MultiplyInt8 {
                        rows,
                        outputs: width,
                        inputs: int8.inputs,
                        left,
                        ranges,
                        right: matrix.part(int8.matrix()),
                        columns: matrix.part(int8.columns()),
                        bias: bias.map(|bias| self.weight(bias)),
                        activation,
                        residual,
                        output,
                    };
                    return vec![quantise.command(), multiply.command()];
                }
                let (epilogue, after) = split(activation, residual.is_some());
                let product = Product {
                    rows,
                    outputs: width,
                    inputs: plan[input].width,
                    of: element,
                    input: self.buffer(input),
                    weight: self.weight(weight),
                    bias: bias.map(|bias| self.weight(bias)),
                    residual: residual.filter(|_| after.is_none()),
                    epilogue,
                    output,
                    into,
                };
                let activate =
                    |activation| Activate { rows, width, element, matrix: output, bias: None, residual, activation };
                let after = after.map(activate);
                [Command::Multiply(product)].into_iter().chain(after.map(|after| after.command())).collect()
            }
            Op::Gate { input, activation, .. } => {
                vec![Gate { rows, width, element, activation, input: self.buffer(input), output }.command()]
            }
            Op::Rotate { qkv, heads, norms, base, .. } => {
                let rotate = Rotate {
                    tokens: rows,
                    heads,
                    element,
                    norms: norms.map(|norms| norms.map(|norm| self.norm(&norm))),
                    frequencies: self.frequencies(heads.width, base),
                    qkv: self.buffer(qkv),
                    places: self.input(&self.inputs.places),
                    output,
                };
                vec![rotate.command()]
            }
            Op::Attend { qkv, heads, mask, scale, .. } => {
                let attend = Attend {
                    heads,
                    element,
                    mask,
                    scale,
                    qkv: self.buffer(qkv),
                    tiles: tiles_max(self.shape.tokens, self.shape.sequences),
                    list: self.input(&self.inputs.tiles),
                    output,
                };
                vec![attend.command()]
            }
            Op::AddNorm { input, residual, norm, .. } => {
                let (input, residual) = (self.buffer(input), residual.map(|residual| self.buffer(residual)));
                vec![AddNorm { rows, width, element, input, residual, norm: self.norm(&norm), output }.command()]
            }
            Op::Pool { input, pooling, .. } => {
                let (input, splits) = (self.buffer(input), self.input(&self.inputs.splits));
                vec![Pool { sequences: rows, width, element, pooling, input, splits, output, into }.command()]
            }
            Op::Pick { input, .. } => {
                let (input, list) = (self.buffer(input), self.input(&self.inputs.marks));
                vec![Pick { marks: rows, width, element, input, list, output }.command()]
            }
        }
    }

    fn buffer(&self, buffer: BufferId) -> Span {
        self.arena.part(self.program.range(buffer, self.shape))
    }

    /// Where the bytes of a product's input lie, and what makes them numbers again.
    fn quantised(&self, output: BufferId, inputs: usize) -> [Span; 2] {
        let Program { quantised, max, .. } = self.program;
        let (tokens, start) = (self.shape.tokens, quantised[&output]);
        let ranges = start + max.tokens * stride(inputs);
        let parts = [start..start + tokens * stride(inputs), ranges..ranges + tokens * RANGE_BYTES];
        parts.map(|part| self.arena.part(part))
    }

    fn input(&self, range: &Range<usize>) -> Span {
        self.arena.part(range.clone())
    }

    fn weight(&self, weight: WeightId) -> Span {
        self.weights[weight.0]
    }

    fn frequencies(&self, width: usize, base: f32) -> Span {
        let Program { plan, rotations, .. } = self.program;
        let table = rotations.iter().position(|rotation| *rotation == (width, base));
        self.weights[plan.weights.len() + table.expect("all rotations of the plan are there")]
    }

    fn norm(&self, norm: &plan::Norm) -> Norm {
        let plan::Norm { kind, gain, shift, epsilon } = *norm;
        Norm { kind, gain: self.weight(gain), shift: shift.map(|shift| self.weight(shift)), epsilon }
    }
}
