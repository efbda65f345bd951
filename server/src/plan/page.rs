//! The answer for people: a table, and what it comes to in sentences.

use std::fmt;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use shoal_scheduler::plan::WORKERS_MAX;

use super::answer::{Answer, ModelAnswer};
use super::known::{Known, Origin};

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(device) = &self.device {
            writeln!(f, "on {device}\n")?;
        }
        let mut table = Table::new();
        let head = [
            "MODEL",
            "OBJECTIVE",
            "ROWS/S",
            "TOKENS",
            "ONE ROW",
            "FULL BATCH",
            "NEEDS",
            "BATCHES AT MOST",
            "BREAKS AT",
            "COST",
        ];
        table.load_style(NOTHING).set_header(head);
        for column in 1..=8 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.models.iter().for_each(|model| {
            table.add_row(row(model));
        });
        writeln!(f, "{}\n", table.trim_fmt())?;
        for model in self.impossible() {
            let (name, slo, one) = (&model.name, slo(model), micros(model.one_row_us));
            let tokens =
                if model.tokens > 0.0 { format!(" of {} tokens", number(model.tokens)) } else { String::new() };
            write!(f, "{name}'s objective of {slo} cannot be kept: one row{tokens} takes {one} by itself. ")?;
            writeln!(f, "It is left out below.")?;
        }
        self.write_needed(f)?;
        self.write_growth(f)?;
        for model in self.models.iter().filter(|model| model.rate > 0.0 && is_unlearned(model)) {
            let name = &model.name;
            writeln!(
                f,
                "\nWhat a row of {name} takes was not found out: these numbers are too good. Serve larger batches of it"
            )?;
            writeln!(f, "under `shoal load`, or say it with --cost {name}=BATCH,ROW,TOKEN.")?;
        }
        Ok(())
    }
}

impl Answer {
    fn write_needed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fluid, full) = (number(self.needed.fluid), number(self.needed.full));
        let needed =
            format!("{fluid} workers are needed for evenly spaced arrivals ({full} if every batch were full),");
        match self.needed.safe {
            Some(0) => writeln!(f, "Nobody asks for anything: no workers are needed."),
            Some(safe) => {
                writeln!(f, "{needed}")?;
                writeln!(f, "and {safe} for 99 % of Poisson arrivals on time.")
            }
            None => {
                writeln!(f, "{needed}")?;
                writeln!(f, "and more than {WORKERS_MAX} for 99 % of Poisson arrivals on time.")
            }
        }
    }

    fn write_growth(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.first.as_ref().and_then(|first| self.models.iter().find(|model| model.name == *first))
        else {
            return Ok(());
        };
        let workers = if self.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", self.workers) };
        let (fluid, safe) = (number(self.growth.fluid), number(self.growth.safe));
        writeln!(
            f,
            "With {workers} the first objective ({}'s {}) breaks at {fluid} of these rates;",
            first.name,
            slo(first)
        )?;
        writeln!(f, "up to {safe} of them 99 % of Poisson arrivals are on time.")
    }
}

fn row(model: &ModelAnswer) -> [String; 10] {
    let dash = || "–".to_owned();
    let full = match model.full_batch_rows {
        0 => dash(),
        rows => format!("{rows} in {}", micros(model.full_batch_us)),
    };
    let is_asked = model.rate > 0.0 && model.can_be_kept;
    let batches = format!("{} every {}", number(model.batch_rows), micros(model.batch_every_us));
    [
        model.name.clone(),
        slo(model),
        number(model.rate),
        if model.tokens > 0.0 { number(model.tokens) } else { dash() },
        micros(model.one_row_us),
        full,
        if model.can_be_kept { number(model.needs) } else { dash() },
        if is_asked { batches } else { dash() },
        if model.can_be_kept { number(model.alone_breaks_at) } else { dash() },
        source(&model.known),
    ]
}

fn slo(model: &ModelAnswer) -> String {
    humantime::format_duration(Duration::from_micros(model.slo_us)).to_string()
}

/// Whether it was learned from batches that were too much alike, or too noisy, to tell what a row takes.
fn is_unlearned(model: &ModelAnswer) -> bool {
    model.row_us <= 0.0 && matches!(model.known.from, Origin::Learned | Origin::Server)
}

/// Where the cost is from.
fn source(known: &Known) -> String {
    match known {
        Known { from: Origin::Learned, batches: Some(batches), dtype: Some(dtype), .. } => {
            format!("learned, {batches} batches in {dtype}")
        }
        Known { from: Origin::Server, .. } => "--from".to_owned(),
        Known { from: Origin::Flag, .. } => "--cost".to_owned(),
        _ => "stated by its source".to_owned(),
    }
}

/// To three digits, without an exponent: `0.0123`, `1.23`, `12.3`, `1230`.
fn number(number: f64) -> String {
    if number.is_infinite() {
        return "∞".to_owned();
    }
    let whole_digits = if number >= 1.0 { number.log10().floor() as i32 + 1 } else { 1 };
    let decimals = (3 - whole_digits).max(0) as usize;
    // What is less than a hundredth still shows that it is something.
    let decimals = if number > 0.0 && number < 0.01 { 4 } else { decimals };
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `850µs`, `3.2ms`, `41ms`, `1.5s`.
fn micros(micros: f64) -> String {
    match micros {
        micros if micros.is_infinite() => "∞".to_owned(),
        micros if micros < 1e3 => format!("{}µs", number(micros)),
        micros if micros < 1e6 => format!("{}ms", number(micros / 1e3)),
        micros => format!("{}s", number(micros / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.001_24, "0.0012"),
            (0.5, "0.5"),
            (0.126, "0.13"),
            (2.0, "2"),
            (2.768, "2.77"),
            (27.68, "27.7"),
            (276.8, "277"),
            (27_680.0, "27680"),
            (100.0, "100"),
            (f64::INFINITY, "∞"),
        ] {
            assert_eq!(number(value), text);
        }
        for (value, text) in [(850.0, "850µs"), (3_200.0, "3.2ms"), (41_040.0, "41ms"), (1_500_000.0, "1.5s")] {
            assert_eq!(micros(value), text);
        }
    }
}
