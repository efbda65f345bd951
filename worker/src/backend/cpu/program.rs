//! A plan as this executor runs it: in which forms buffers are kept, what is done in which order, and what may be done
//! together. Pure: no weights, no memory, no threads.
//!
//! Buffers are kept in up to two forms: wide (`f32`), which residuals, norms and pooling read, and as operands of
//! products, which are bfloat16 where products are. Where products are `f32`, both are the same.
//!
//! Ops that are row-wise and follow each other make a group: a thread takes a block of rows through all of it while they
//! are near, and what lives only within a group never leaves that thread's cache.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use crate::plan::{Activation, BufferId, Heads, Mask, Norm, Op, Plan, Pooling, Rows, WeightId};

/// Names a slot of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotId(pub(super) usize);

/// What products compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operands {
    F32,
    Bf16,
}

/// How a product's operands are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Multiply {
    /// As they are kept.
    Operands,
    /// As bytes, quantised before each product.
    Int8,
}

/// What rows of a slot are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Wide,
    Operand,
    Bytes,
    /// Scale and minimum of a row of bytes.
    Range,
}

/// Memory for one buffer in one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) form: Form,
    pub(super) rows: Rows,
    pub(super) width: usize,
    /// Elements from one row to the next.
    pub(super) stride: usize,
    /// Bytes of an element.
    pub(super) element: usize,
    /// The tasks that write it and that read it last.
    pub(super) written: usize,
    pub(super) read: usize,
}

/// One call of a kernel, or one for each block of rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Task {
    Embed {
        words: WeightId,
        positions: Option<WeightId>,
        types: Option<WeightId>,
        norm: Option<Norm>,
        out: Forms,
    },
    /// From the wide form to the operand.
    Round {
        input: SlotId,
        output: SlotId,
    },
    Quantise {
        weight: WeightId,
        input: SlotId,
        bytes: SlotId,
        range: SlotId,
    },
    Gemm {
        weight: WeightId,
        bias: Option<WeightId>,
        input: SlotId,
        range: Option<SlotId>,
        activation: Activation,
        residual: Option<SlotId>,
        output: SlotId,
    },
    Gate {
        input: SlotId,
        activation: Activation,
        output: SlotId,
    },
    Rotate {
        qkv: SlotId,
        heads: Heads,
        norms: Option<[Norm; 2]>,
        base: f32,
        /// What queries are scaled with by their norm, where there is one, for the attention that follows.
        scale: f32,
        output: SlotId,
    },
    AddNorm {
        input: SlotId,
        residual: Option<SlotId>,
        norm: Norm,
        out: Forms,
    },
    Attend {
        qkv: SlotId,
        heads: Heads,
        mask: Mask,
        output: SlotId,
    },
    Pool {
        input: SlotId,
        pooling: Pooling,
        output: SlotId,
    },
    Pick {
        input: SlotId,
        output: SlotId,
    },
}

/// The slots of a buffer that an op writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) wide: Option<SlotId>,
    pub(super) operand: Option<SlotId>,
}

/// Tasks that are done together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) tasks: Range<usize>,
    pub(super) kind: GroupKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupKind {
    /// Each row by itself.
    RowWise(Rows),
    /// One task over whole sequences.
    Attend,
    /// One task that makes rows of some kind from tokens.
    Gather(Rows),
}

/// A plan in the order and the forms in which it is run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) slots: Vec<Slot>,
    pub(super) tasks: Vec<Task>,
    pub(super) groups: Vec<Group>,
    pub(super) output: SlotId,
    /// The width of heads and the base of each rotation.
    pub(super) rotations: Vec<(usize, f32)>,
}

impl Program {
    /// `multiply` says how the product with a weight is computed.
    pub(super) fn new(plan: &Plan, operands: Operands, multiply: impl Fn(WeightId) -> Multiply) -> Self {
        let forms = wanted(plan, operands, &multiply);
        let mut build = Build {
            plan,
            operands,
            forms,
            slots: Vec::new(),
            homes: vec![Forms::default(); plan.buffers.len()],
            tasks: Vec::new(),
        };
        for op in &plan.ops {
            build.op(op, &multiply);
        }
        let output = build.wide(plan.output);
        let Build { mut slots, tasks, .. } = build;
        slots[output.0].read = tasks.len();
        let groups = groups(&tasks, &slots);
        let mut heads = tasks
            .iter()
            .filter_map(|task| if let Task::Attend { heads, .. } = task { Some(heads.count) } else { None });
        let first = heads.next();
        assert!(heads.all(|heads| Some(heads) == first), "batches are cut by heads alike for all layers");
        Self { slots, tasks, groups, output, rotations: plan.rotations().collect() }
    }

    /// The group a task is in.
    pub(super) fn group_of(&self, task: usize) -> usize {
        self.groups.partition_point(|group| group.tasks.end <= task)
    }

    /// Whether a slot lives within one row-wise group only.
    pub(super) fn is_local(&self, slot: &Slot) -> bool {
        let group = self.group_of(slot.written);
        group == self.group_of(slot.read)
            && matches!(self.groups.get(group), Some(Group { kind: GroupKind::RowWise(_), .. }))
    }
}

/// Which forms of each buffer are read: wide, and as an operand.
fn wanted(plan: &Plan, operands: Operands, multiply: &impl Fn(WeightId) -> Multiply) -> Vec<[bool; 2]> {
    const WIDE: usize = 0;
    const OPERAND: usize = 1;
    let mut forms = vec![[false; 2]; plan.buffers.len()];
    let mut bytes = vec![false; plan.buffers.len()];
    forms[plan.output.0][WIDE] = true;
    // What a row is picked from must be kept as what is picked is read.
    for op in plan.ops.iter().rev() {
        match *op {
            Op::Gemm { input, weight, .. } if multiply(weight) == Multiply::Int8 => bytes[input.0] = true,
            Op::Gemm { input, .. } | Op::Attend { qkv: input, .. } => forms[input.0][OPERAND] = true,
            Op::Gate { input, .. }
            | Op::Rotate { qkv: input, .. }
            | Op::AddNorm { input, .. }
            | Op::Pool { input, .. } => forms[input.0][WIDE] = true,
            Op::Pick { input, output } => {
                let [wide, operand] = forms[output.0];
                forms[input.0][WIDE] |= wide;
                forms[input.0][OPERAND] |= operand;
                bytes[input.0] |= bytes[output.0];
            }
            Op::Embed { .. } => {}
        }
        if let Op::Gemm { residual: Some(residual), .. } | Op::AddNorm { residual: Some(residual), .. } = op {
            forms[residual.0][WIDE] = true;
        }
        // Pooling writes numbers, whoever reads them.
        if let Op::Pool { output, .. } = op {
            forms[output.0][WIDE] = true;
        }
    }
    // Bytes are made from whichever form there is: the wide one is more exact, the other takes half the memory.
    for ([wide, operand], bytes) in forms.iter_mut().zip(bytes) {
        *operand |= bytes && !*wide;
        if operands == Operands::F32 {
            (*wide, *operand) = (*wide | *operand, false);
        }
    }
    forms
}

/// A program half made.
struct Build<'a> {
    plan: &'a Plan,
    operands: Operands,
    forms: Vec<[bool; 2]>,
    slots: Vec<Slot>,
    homes: Vec<Forms>,
    tasks: Vec<Task>,
}

impl Build<'_> {
    fn op(&mut self, op: &Op, multiply: &impl Fn(WeightId) -> Multiply) {
        match *op {
            Op::Embed { words, positions, types, norm, output } => {
                let out = self.both(output);
                self.tasks.push(Task::Embed { words, positions, types, norm, out });
            }
            Op::Gemm { input, weight, bias, activation, residual, output } => {
                let (input, range) = match multiply(weight) {
                    Multiply::Operands => (self.operand(input), None),
                    Multiply::Int8 => {
                        let (bytes, range) = self.quantise(weight, input);
                        (bytes, Some(range))
                    }
                };
                let residual = residual.map(|residual| self.wide(residual));
                self.one(output, |output| Task::Gemm { weight, bias, input, range, activation, residual, output });
            }
            Op::Gate { input, activation, output } => {
                let input = self.wide(input);
                self.one(output, |output| Task::Gate { input, activation, output });
            }
            Op::Rotate { qkv, heads, norms, base, output } => {
                let scale = self.plan.attention_over(output).map_or(1.0, |(_, scale)| scale * LOG2_E);
                let qkv = self.wide(qkv);
                self.one(output, |output| Task::Rotate { qkv, heads, norms, base, scale, output });
            }
            Op::Attend { qkv, heads, mask, output, .. } => {
                let qkv = self.operand(qkv);
                self.one(output, |output| Task::Attend { qkv, heads, mask, output });
            }
            Op::AddNorm { input, residual, norm, output } => {
                let (input, residual) = (self.wide(input), residual.map(|residual| self.wide(residual)));
                let out = self.both(output);
                self.tasks.push(Task::AddNorm { input, residual, norm, out });
            }
            Op::Pool { input, pooling, output } => {
                let input = self.wide(input);
                self.one(output, |output| Task::Pool { input, pooling, output });
            }
            Op::Pick { input, output } => {
                let Forms { wide, operand } = self.homes[input.0];
                for form in [Form::Wide, Form::Operand] {
                    let home = if form == Form::Wide { wide } else { operand };
                    if let Some(input) = home.filter(|_| self.wants(output, form)) {
                        let (input, output) = (self.read(input), self.slot_of(output, form));
                        self.tasks.push(Task::Pick { input, output });
                    }
                }
            }
        }
    }

    fn wants(&self, buffer: BufferId, form: Form) -> bool {
        let [wide, operand] = self.forms[buffer.0];
        if form == Form::Wide { wide } else { operand }
    }

    /// The forms of a buffer that the next task writes together.
    fn both(&mut self, buffer: BufferId) -> Forms {
        for form in [Form::Wide, Form::Operand] {
            if self.wants(buffer, form) {
                self.slot_of(buffer, form);
            }
        }
        self.homes[buffer.0]
    }

    /// A task that writes one form of a buffer, and one more for the other where both are wanted.
    fn one(&mut self, buffer: BufferId, task: impl FnOnce(SlotId) -> Task) {
        if !self.wants(buffer, Form::Wide) {
            let output = self.slot_of(buffer, Form::Operand);
            return self.tasks.push(task(output));
        }
        let input = self.slot_of(buffer, Form::Wide);
        self.tasks.push(task(input));
        if self.wants(buffer, Form::Operand) {
            let (input, output) = (self.read(input), self.slot_of(buffer, Form::Operand));
            self.tasks.push(Task::Round { input, output });
        }
    }

    /// The slot for one form of a buffer, written by the next task.
    fn slot_of(&mut self, buffer: BufferId, form: Form) -> SlotId {
        let slot = self.slot(form, self.plan[buffer].rows, self.plan[buffer].width);
        let home = &mut self.homes[buffer.0];
        *(if form == Form::Wide { &mut home.wide } else { &mut home.operand }) = Some(slot);
        slot
    }

    fn slot(&mut self, form: Form, rows: Rows, width: usize) -> SlotId {
        let element = match (form, self.operands) {
            (Form::Range, _) => 8,
            (Form::Bytes, _) => 1,
            (Form::Operand, Operands::Bf16) => 2,
            (Form::Wide, _) | (Form::Operand, Operands::F32) => 4,
        };
        let task = self.tasks.len();
        self.slots.push(Slot {
            form,
            rows,
            width,
            stride: stride(form, width, element),
            element,
            written: task,
            read: task,
        });
        SlotId(self.slots.len() - 1)
    }

    /// Notes that the next task reads a slot.
    fn read(&mut self, slot: SlotId) -> SlotId {
        self.slots[slot.0].read = self.tasks.len();
        slot
    }

    fn wide(&mut self, buffer: BufferId) -> SlotId {
        let home = self.homes[buffer.0];
        self.read_any([home.wide, home.operand])
    }

    fn operand(&mut self, buffer: BufferId) -> SlotId {
        let home = self.homes[buffer.0];
        self.read_any([home.operand, home.wide])
    }

    fn read_any(&mut self, homes: [Option<SlotId>; 2]) -> SlotId {
        let [first, second] = homes;
        // Plans are checked: what is read was written before, in the forms that are wanted.
        self.read(first.or(second).expect("a checked plan writes a buffer before it is read"))
    }

    fn quantise(&mut self, weight: WeightId, buffer: BufferId) -> (SlotId, SlotId) {
        let input = self.wide(buffer);
        let (rows, width) = (self.plan[buffer].rows, self.plan[buffer].width);
        let (bytes, range) = (self.slot(Form::Bytes, rows, width), self.slot(Form::Range, rows, 1));
        self.tasks.push(Task::Quantise { weight, input, bytes, range });
        (self.read(bytes), self.read(range))
    }
}

/// Rows begin on a cache line, and not all on the same few lines of the cache.
fn stride(form: Form, width: usize, element: usize) -> usize {
    if form == Form::Range {
        return 1;
    }
    let line = 64 / element;
    let stride = width.next_multiple_of(line.max(32));
    if (stride * element).is_multiple_of(2048) { stride + line } else { stride }
}

/// Groups tasks that follow each other and are row-wise over the same rows.
fn groups(tasks: &[Task], slots: &[Slot]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let kind = match task {
            Task::Embed { .. } => GroupKind::RowWise(Rows::Tokens),
            Task::Round { input, .. }
            | Task::Quantise { input, .. }
            | Task::Gemm { input, .. }
            | Task::Gate { input, .. }
            | Task::Rotate { qkv: input, .. }
            | Task::AddNorm { input, .. } => GroupKind::RowWise(slots[input.0].rows),
            Task::Attend { .. } => GroupKind::Attend,
            Task::Pool { .. } => GroupKind::Gather(Rows::Sequences),
            Task::Pick { .. } => GroupKind::Gather(Rows::Marks),
        };
        match groups.last_mut() {
            Some(last) if last.kind == kind && matches!(kind, GroupKind::RowWise(_)) => last.tasks.end = index + 1,
            _ => groups.push(Group { tasks: index..index + 1, kind }),
        }
    }
    groups
}
