//! What was found, as tables for people and as JSON.

use serde::Serialize;

/// One thing that was examined.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    what: String,
    case: String,
    values: Vec<(String, f64)>,
    /// None where there is nothing to be right about.
    is_right: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    device: String,
    seed: u64,
    parts: Vec<(String, Vec<Row>)>,
}

impl Row {
    pub(crate) fn new(what: &str, case: &str) -> Self {
        Self { what: what.to_owned(), case: case.to_owned(), values: Vec::new(), is_right: None }
    }

    pub(crate) fn value(mut self, name: &str, value: f64) -> Self {
        self.values.push((name.to_owned(), value));
        self
    }

    pub(crate) fn right(mut self, is_right: bool) -> Self {
        self.is_right = Some(is_right);
        self
    }
}

impl Report {
    pub(crate) fn new(device: &str, seed: u64) -> Self {
        Self { device: device.to_owned(), seed, parts: Vec::new() }
    }

    /// Adds a part, and prints it.
    pub(crate) fn add(&mut self, part: &str, rows: Vec<Row>) {
        println!("\n{part}");
        let widest = |text: fn(&Row) -> &str| rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
        let (what, case) = (widest(|row| &row.what), widest(|row| &row.case));
        for row in &rows {
            let values: Vec<_> = row.values.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
            let verdict = if row.is_right == Some(false) { "  WRONG" } else { "" };
            println!("  {:what$}  {:case$}  {}{verdict}", row.what, row.case, values.join("  "));
        }
        self.parts.push((part.to_owned(), rows));
    }

    pub(crate) fn is_right(&self) -> bool {
        self.rows().all(|row| row.is_right != Some(false))
    }

    /// What is not right, in one line.
    pub(crate) fn wrong(&self) -> String {
        let wrong: Vec<_> = self.rows().filter(|row| row.is_right == Some(false)).collect();
        let first = wrong.first().map_or(String::new(), |row| format!("{} ({})", row.what, row.case));
        format!("{} of {} are wrong, the first {first}", wrong.len(), self.rows().count())
    }

    pub(crate) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.parts.iter().flat_map(|(_, rows)| rows)
    }
}

/// Four digits that say something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e4 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_that_is_wrong_makes_it_all_wrong_and_is_named() {
        let mut report = Report::new("a device", 7);
        report.add("Ops", vec![Row::new("gemm", "3 x 4").value("apart", 0.001).right(true), Row::new("copy", "1 GB")]);
        assert!(report.is_right());
        report.add("More", vec![Row::new("attend", "64").value("apart", f64::NAN).right(false)]);
        assert!(!report.is_right());
        assert_eq!(report.wrong(), "1 of 3 are wrong, the first attend (64)");
        assert!(report.json().unwrap().contains("\"device\": \"a device\""));
    }

    #[test]
    fn numbers_of_any_size_are_short() {
        let found = [0.0, 123_456.7, 42.42, 0.12345, 0.000_123].map(number);
        assert_eq!(found, ["0", "123457", "42.4", "0.1235", "1.23e-4"]);
    }
}
