//! Tables in Markdown, whose columns line up for those who read them as text.

use std::fmt;

/// Rows of cells under a head.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_owned).into()] }
    }

    /// A row; cells that are missing at its end are empty.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &'_ [String], at: usize| row.get(at).cloned().unwrap_or_default();
        let width = |at| self.rows.iter().map(|row| cell(row, at).chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            for (at, width) in widths.iter().enumerate() {
                write!(f, "| {:<width$} ", cell(row, at))?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                widths.iter().try_for_each(|width| write!(f, "|{}", "-".repeat(width + 2)))?;
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_missing_cells_are_empty() {
        let mut table = Table::new(["a", "b µs"]);
        table.push(vec!["long".into(), "1".into()]);
        table.push(vec!["x".into()]);
        let expected = "| a    | b µs |\n|------|------|\n| long | 1    |\n| x    |      |\n";
        assert_eq!(table.to_string(), expected);
    }
}
