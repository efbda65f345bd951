//! A plan as a table for people: what each op reads, writes and costs, and what all of them need.

use std::fmt;

use super::{Op, Plan, Rows, Sizes, WeightId};

/// Bytes of a number in the memory that is shown: sizes are those of `f32`.
const NUMBER_BYTES: u64 = 4;

/// A plan as it runs on sequences of one length, with one mark each.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    plan: &'a Plan,
    length: u64,
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
}

impl Table<'_> {
    /// Cells of one op's line.
    fn line(&self, index: usize, op: &Op) -> [String; 8] {
        let (plan, sizes) = (self.plan, Sizes::uniform(1, self.length));
        let output = &plan[op.output()];
        let reads = match op {
            Op::Embed { .. } => "ids".to_owned(),
            _ => op.inputs().map(|input| plan[input].name.as_str()).collect::<Vec<_>>().join(" + "),
        };
        let weights: Vec<String> = op.weights().map(|weight| self.weight(weight)).collect();
        let numbers: u64 = op.weights().map(|weight| plan.weight_values(weight)).sum();
        let cost = plan.op_cost(op, &sizes);
        let bytes = output.width as u64 * sizes.rows(output.rows) * NUMBER_BYTES;
        [
            index.to_string(),
            op.name().to_owned(),
            reads,
            format!("{} [{}, {}]", output.name, output.rows.letter(), output.width),
            weights.join(" "),
            if weights.is_empty() { "-".to_owned() } else { short((numbers * NUMBER_BYTES) as f64) },
            if cost.flop == 0 { "-".to_owned() } else { short(cost.flop as f64 / self.length as f64) },
            short(bytes as f64 / self.length as f64),
        ]
    }

    /// Rows and columns of a matrix, or the length of a vector.
    fn weight(&self, id: WeightId) -> String {
        match self.plan[id].size() {
            (_, columns) if self.plan[id].shape.len() == 1 => columns.to_string(),
            (rows, columns) => format!("{rows}x{columns}"),
        }
    }
}

/// Columns that hold numbers stand to the right.
const COLUMNS: [(&str, bool); 8] = [
    ("#", true),
    ("op", false),
    ("reads", false),
    ("writes", false),
    ("weights", false),
    ("B", true),
    ("FLOP/token", true),
    ("B/token", true),
];

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![COLUMNS.map(|(title, _)| title.to_owned())];
        lines.extend(self.plan.ops.iter().enumerate().map(|(index, op)| self.line(index, op)));
        let width = |column: usize| lines.iter().map(|line| line[column].trim_end().chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        for line in &lines {
            let cells = line.iter().zip(&widths).zip(COLUMNS).map(|((cell, &width), (_, is_number))| {
                let cell = cell.trim_end();
                if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        let sizes = Sizes::uniform(1, self.length);
        let cost = self.plan.cost(&sizes);
        let written: u64 = self.plan.buffers.iter().map(|buffer| buffer.width as u64 * sizes.rows(buffer.rows)).sum();
        let (peak, at) = self.plan.peak(&sizes);
        let per_token = |values: u64| short((values * NUMBER_BYTES) as f64 / self.length as f64);
        let parameters = self.plan.parameters();
        writeln!(f)?;
        writeln!(f, "T tokens, N sequences, M marked tokens; sequences of {} tokens, numbers of f32", self.length)?;
        let bytes = short((parameters * NUMBER_BYTES) as f64);
        writeln!(f, "weights  {} numbers, {bytes}B", short(parameters as f64).trim_end())?;
        writeln!(f, "compute  {}FLOP per token", short(cost.flop as f64 / self.length as f64))?;
        write!(f, "buffers  {}B per token in all, {}B at once, at op {at}", per_token(written), per_token(peak))
    }
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
