//! A plan as a table for people: what each op reads, writes and costs, and what all of them need. Layers that are alike
//! are shown once.

use std::fmt;
use std::ops::Range;

use super::{Activation, BufferId, Mask, Op, Plan, Rows, Sizes, WeightId};

/// Bytes of a number in the memory that is shown: sizes are those of `f32`.
const NUMBER_BYTES: u64 = 4;

/// A plan as it runs on sequences of one length, with one mark each.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    plan: &'a Plan,
    length: u64,
}

/// One line: what is in its columns.
type Cells = [String; COLUMNS.len()];

/// Columns that hold numbers stand to the right.
const COLUMNS: [(&str, bool); 7] = [
    ("op", false),
    ("reads", false),
    ("writes", false),
    ("weights", true),
    ("bytes", true),
    ("FLOP/token", true),
    ("B/token", true),
];
/// The column whose cells differ among layers that are alike.
const READS: usize = 1;

/// Ops of one layer, or of none.
#[derive(Debug)]
struct Section<'a> {
    layer: Option<&'a str>,
    ops: Range<usize>,
}

impl Plan {
    /// The plan for people; `length` is at least 1.
    pub(crate) fn table(&self, length: usize) -> Table<'_> {
        Table { plan: self, length: length.max(1) as u64 }
    }

    /// Numbers in buffers at once, at most, with the op at which that is so: what memory a batch needs when a buffer's
    /// memory is used again as soon as nobody reads it any more.
    pub(crate) fn peak(&self, sizes: &Sizes) -> (u64, usize) {
        let lives = self.lives();
        let live = |op: usize| {
            let alive = self.buffers.iter().zip(&lives).filter(|(_, live)| live.contains(&op));
            alive.map(|(buffer, _)| buffer.width as u64 * sizes.rows(buffer.rows)).sum::<u64>()
        };
        // The first of equals.
        (0..self.ops.len()).rev().map(|op| (live(op), op)).max_by_key(|(values, _)| *values).unwrap_or_default()
    }

    /// The ops by layer, in order.
    fn sections(&self) -> Vec<Section<'_>> {
        let mut sections: Vec<Section<'_>> = Vec::new();
        for (index, op) in self.ops.iter().enumerate() {
            let layer = split(&self[op.output()].name).0;
            match sections.last_mut() {
                Some(section) if section.layer == layer => section.ops.end += 1,
                _ => sections.push(Section { layer, ops: index..index + 1 }),
            }
        }
        sections
    }
}

/// A buffer's layer, such as `3` of `layer 3 qkv`, and what it is called there.
fn split(name: &str) -> (Option<&str>, &str) {
    let in_layer = name.strip_prefix("layer ").and_then(|rest| rest.split_once(' '));
    in_layer.map_or((None, name), |(layer, name)| (Some(layer), name))
}

impl Table<'_> {
    /// The lines of a section: one for each op and, of an embedding, each table.
    fn lines(&self, section: &Section<'_>) -> Vec<Cells> {
        section.ops.clone().flat_map(|op| self.op(&self.plan.ops[op], section.layer)).collect()
    }

    fn op(&self, op: &Op, layer: Option<&str>) -> Vec<Cells> {
        let (plan, sizes) = (self.plan, self.sizes());
        let output = &plan[op.output()];
        let mut matrices = op.weights().filter(|id| !plan[*id].is_vector());
        let first = matrices.next();
        let vectors: u64 = op.weights().filter(|id| plan[*id].is_vector()).map(|id| plan.weight_values(id)).sum();
        let learnt = vectors + first.map_or(0, |id| plan.weight_values(id));
        let reads = match op {
            Op::Embed { .. } => "words".to_owned(),
            _ => op.inputs().map(|id| self.name(id, layer)).collect::<Vec<_>>().join(" + "),
        };
        let flop = plan.op_cost(op, &sizes).flop;
        let mut lines = vec![[
            title(op),
            reads,
            format!("{} [{}, {}]", self.name(op.output(), layer), output.rows.letter(), output.width),
            first.map(|id| self.matrix(id)).unwrap_or_default(),
            if learnt == 0 { String::new() } else { short((learnt * NUMBER_BYTES) as f64) },
            if flop == 0 { String::new() } else { self.per_token(flop) },
            self.per_token(output.width as u64 * sizes.rows(output.rows) * NUMBER_BYTES),
        ]];
        // Only an embedding has more than one.
        let tables: &[&str] = match op {
            Op::Embed { positions: None, .. } => &["types"],
            _ => &["positions", "types"],
        };
        for (id, name) in matrices.zip(tables) {
            let bytes = short((plan.weight_values(id) * NUMBER_BYTES) as f64);
            let empty = String::new;
            lines.push([empty(), (*name).to_owned(), empty(), self.matrix(id), bytes, empty(), empty()]);
        }
        lines
    }

    /// A buffer's name as it is called in a layer.
    fn name(&self, id: BufferId, layer: Option<&str>) -> &str {
        let name = &self.plan[id].name;
        match split(name) {
            (of, short) if of == layer => short,
            _ => name,
        }
    }

    fn matrix(&self, id: WeightId) -> String {
        let (rows, columns) = self.plan[id].size();
        format!("{rows}x{columns}")
    }

    fn sizes(&self) -> Sizes {
        Sizes::uniform(1, self.length)
    }

    fn per_token(&self, value: u64) -> String {
        short(value as f64 / self.length as f64)
    }

    /// What all ops need.
    fn totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plan, sizes) = (self.plan, self.sizes());
        let (parameters, flop) = (plan.parameters(), plan.cost(&sizes).flop);
        let values = |rows: Rows, width: usize| width as u64 * sizes.rows(rows) * NUMBER_BYTES;
        let written: u64 = plan.buffers.iter().map(|buffer| values(buffer.rows, buffer.width)).sum();
        let (peak, at) = plan.peak(&sizes);
        let (peak, at) = (peak * NUMBER_BYTES, &plan[plan.ops[at].output()].name);
        let bytes = short((parameters * NUMBER_BYTES) as f64);
        writeln!(f, "weights  {} numbers, {bytes}B", short(parameters as f64).trim_end())?;
        writeln!(f, "compute  {}FLOP per token, {}FLOP per sequence", self.per_token(flop), short(flop as f64))?;
        writeln!(f, "buffers  {}B per token, {}B per sequence", self.per_token(written), short(written as f64))?;
        let (per_token, peak) = (self.per_token(peak), short(peak as f64));
        writeln!(f, "arena    {per_token}B per token, {peak}B per sequence, at `{at}`")?;
        writeln!(f)?;
        writeln!(f, "T tokens, N sequences of {} tokens, M marked tokens, one in each sequence.", self.length)?;
        writeln!(f, "Bytes are those of f32, of weights with biases and norms; executors may compute in less.")?;
        write!(f, "Buffers share the arena: it is as large as those that are needed at the same time.")
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown: Vec<(Section<'_>, Vec<Cells>, Option<&str>)> = Vec::new();
        for section in self.plan.sections() {
            let lines = self.lines(&section);
            match shown.last_mut() {
                Some((before, of, last)) if before.layer.is_some() && alike(of, &lines) => *last = section.layer,
                _ => shown.push((section, lines, None)),
            }
        }
        let titles = COLUMNS.map(|(title, _)| title.to_owned());
        let all = || shown.iter().flat_map(|(_, lines, _)| lines).chain([&titles]);
        let widths: Vec<usize> = (0..COLUMNS.len())
            .map(|column| all().map(|line| line[column].trim_end().chars().count()).max().unwrap_or(0))
            .collect();
        write_line(f, &titles, &widths)?;
        for (section, lines, last) in &shown {
            match (section.layer, last) {
                (Some(layer), None) => writeln!(f, "layer {layer}")?,
                (Some(layer), Some(last)) => writeln!(f, "layers {layer} to {last}, each on the one before")?,
                (None, _) if section.ops.start > 0 => writeln!(f, "head")?,
                (None, _) => {}
            }
            lines.iter().try_for_each(|line| write_line(f, line, &widths))?;
        }
        writeln!(f)?;
        self.totals(f)
    }
}

/// Whether two layers differ in nothing but what they begin with.
fn alike(one: &[Cells], other: &[Cells]) -> bool {
    let same = |(one, other): (&Cells, &Cells)| (0..COLUMNS.len()).all(|at| at == READS || one[at] == other[at]);
    one.len() == other.len() && one.iter().zip(other).all(same)
}

fn write_line(f: &mut fmt::Formatter<'_>, line: &Cells, widths: &[usize]) -> fmt::Result {
    let cells = line.iter().zip(widths).zip(COLUMNS).map(|((cell, &width), (_, is_number))| {
        let cell = cell.trim_end();
        if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    });
    writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
}

/// What an op is called, with what it does to each number, or which tokens look at which.
fn title(op: &Op) -> String {
    let activation = match op {
        Op::Gemm { activation, .. } | Op::Gate { activation, .. } => match activation {
            Activation::Identity => "",
            Activation::Gelu => " gelu",
            Activation::GeluTanh => " gelu~",
            Activation::Silu => " silu",
            Activation::Relu => " relu",
            Activation::Tanh => " tanh",
        },
        Op::Attend { mask: Mask::Causal, .. } => " causal",
        Op::Attend { mask: Mask::Window(reach), .. } => return format!("attend ±{reach}"),
        _ => "",
    };
    format!("{}{activation}", op.name())
}

impl Rows {
    fn letter(self) -> char {
        match self {
            Self::Tokens => 'T',
            Self::Sequences => 'N',
            Self::Marks => 'M',
        }
    }
}

/// Three digits and a power of a thousand, such as `1.18 M`; none below a thousand, such as `12 `.
fn short(value: f64) -> String {
    const POWERS: [&str; 5] = ["", "k", "M", "G", "T"];
    let (mut value, mut power) = (value, 0);
    // What would be rounded up to four digits goes on, too.
    while value >= 999.5 && power + 1 < POWERS.len() {
        value /= 1000.0;
        power += 1;
    }
    let digits = match value {
        _ if power == 0 && value.fract() == 0.0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", POWERS[power])
}
