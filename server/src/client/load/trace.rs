//! A trace of calls, to be made again: CSV with a header, one call a line.
//!
//! Plain CSV: fields between commas, spaces around them left out. Quotes are refused rather than guessed at.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::lengths::Lengths;

/// Largest trace.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// The column of lengths, which a trace may have.
const TOKENS: &str = "tokens";
/// The column of models, which a trace may have.
const MODEL: &str = "model";

/// When calls came, and perhaps how long their texts were and what for. At least two, not all at one moment. Cheap to
/// clone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trace {
    #[serde(rename = "trace")]
    file: String,
    #[serde(rename = "trace_column")]
    column: String,
    #[serde(rename = "trace_calls")]
    calls: usize,
    /// From the first call to the last, in the trace's own time.
    #[serde(rename = "trace_s")]
    span_s: f64,
    /// Seconds since the first call, never falling.
    #[serde(skip)]
    moments: Arc<[f64]>,
    #[serde(skip)]
    tokens: Option<Arc<[u32]>>,
    #[serde(skip)]
    models: Option<Arc<Models>>,
}

/// Which model each call of a trace is for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Models {
    /// In the order in which they are named first.
    names: Vec<String>,
    /// By call, the place of its model.
    of_calls: Vec<u32>,
}

impl Trace {
    /// The trace of a file, with its times in `column`.
    pub(super) fn read(file: &Path, column: &str) -> Result<Self, TraceError> {
        let fail = |reason: String| TraceError::Unreadable { file: file.to_owned(), reason };
        let size = std::fs::metadata(file).map_err(|error| fail(error.to_string()))?.len();
        if size > FILE_BYTES_MAX {
            return Err(fail(format!("it has {size} bytes, {FILE_BYTES_MAX} are allowed")));
        }
        let text = std::fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
        Self::parse(&file.display().to_string(), column, &text)
    }

    /// The trace of a text; `file` only names it.
    pub(super) fn parse(file: &str, column: &str, text: &str) -> Result<Self, TraceError> {
        let fail = |line: usize, column: &str, problem: String| TraceError::Wrong {
            file: file.to_owned(),
            line,
            column: column.to_owned(),
            problem,
        };
        let mut lines = (1..).zip(text.trim_start_matches('\u{feff}').lines());
        let (_, header) = lines.next().ok_or_else(|| fail(1, column, "the file is empty".to_owned()))?;
        let header = Header::parse(header, column).map_err(|wrong| fail(1, &wrong.column, wrong.problem))?;
        let (mut seconds, mut tokens, mut models, mut last_line) = (Vec::new(), Vec::new(), Models::default(), 1);
        for (line, text) in lines {
            let row = header.row(text, seconds.last().copied());
            let row = row.map_err(|wrong| fail(line, &wrong.column, wrong.problem))?;
            seconds.push(row.seconds);
            tokens.extend(row.tokens);
            row.model.into_iter().for_each(|model| models.push(model));
            last_line = line;
        }
        let (Some(first), Some(last)) = (seconds.first().copied(), seconds.last().copied()) else {
            return Err(fail(2, column, "there is no call".to_owned()));
        };
        let span_s = last - first;
        // The sum of gaps that a mean rate is taken of.
        if span_s <= 0.0 || !span_s.is_finite() {
            return Err(fail(last_line, column, "the first and the last call must be at two moments".to_owned()));
        }
        Ok(Self {
            file: file.to_owned(),
            column: column.to_owned(),
            calls: seconds.len(),
            span_s,
            moments: seconds.into_iter().map(|second| second - first).collect(),
            tokens: header.tokens.map(|_| tokens.into()),
            models: header.model.map(|_| Arc::new(models)),
        })
    }

    /// Calls a second in the mean, in the trace's own time.
    pub(super) fn rate(&self) -> f64 {
        (self.calls - 1) as f64 / self.span_s
    }

    /// Seconds from the first call to this one, in the trace's own time; `None` past the end.
    pub(super) fn moment(&self, number: u64) -> Option<f64> {
        self.moments.get(usize::try_from(number).ok()?).copied()
    }

    /// How long the texts of the calls are, where the trace says.
    pub(super) fn tokens(&self) -> Option<&Arc<[u32]>> {
        self.tokens.as_ref()
    }

    /// What the calls are for, where the trace says.
    pub(super) fn models(&self) -> Option<&Arc<Models>> {
        self.models.as_ref()
    }
}

impl Models {
    fn push(&mut self, name: &str) {
        let known = self.names.iter().position(|known| known == name);
        let place = known.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        // A file has fewer bytes than that.
        self.of_calls.push(place as u32);
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The place among the names of a call's model; past the end of the trace it begins again.
    pub(super) fn of_call(&self, number: u64) -> usize {
        self.of_calls[(number % self.of_calls.len() as u64) as usize] as usize
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} calls in {:.1} s of its time", self.file, self.calls, self.span_s)
    }
}

/// Where a line has what.
#[derive(Debug)]
struct Header<'a> {
    columns: Vec<&'a str>,
    seconds: usize,
    tokens: Option<usize>,
    model: Option<usize>,
}

/// What a line says.
struct Row<'a> {
    seconds: f64,
    tokens: Option<u32>,
    model: Option<&'a str>,
}

/// A field that cannot be.
struct Wrong {
    column: String,
    problem: String,
}

impl<'a> Header<'a> {
    fn parse(line: &'a str, seconds: &str) -> Result<Self, Wrong> {
        let columns: Vec<_> = line.split(',').map(str::trim).collect();
        let wrong = |column: &str, problem: String| Wrong { column: column.to_owned(), problem };
        if let Some(column) = columns.iter().find(|column| column.contains('"')) {
            return Err(wrong(column, QUOTES.to_owned()));
        }
        let at = |name: &str| {
            let mut found = (0..).zip(&columns).filter(|(_, column)| **column == name).map(|(at, _)| at);
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(wrong(name, "there are several columns of this name".to_owned())),
                (found, None) => Ok(found),
            }
        };
        let missing = || wrong(seconds, format!("there is no such column, only {}", columns.join(", ")));
        let (seconds, tokens, model) = (at(seconds)?.ok_or_else(missing)?, at(TOKENS)?, at(MODEL)?);
        Ok(Self { columns, seconds, tokens, model })
    }

    /// A line that comes after one of `before`.
    fn row<'b>(&self, line: &'b str, before: Option<f64>) -> Result<Row<'b>, Wrong> {
        let fields: Vec<_> = line.split(',').map(str::trim).collect();
        let wrong = |at: usize, problem: String| {
            let column = self.columns.get(at).map_or_else(|| format!("{}", at + 1), |column| (*column).to_owned());
            Wrong { column, problem }
        };
        if let Some(at) = fields.iter().position(|field| field.contains('"')) {
            return Err(wrong(at, QUOTES.to_owned()));
        }
        if fields.len() != self.columns.len() {
            // The first column that is missing or has no name.
            let at = fields.len().min(self.columns.len());
            return Err(wrong(at, format!("{} fields, where the header has {}", fields.len(), self.columns.len())));
        }
        let seconds = seconds(fields[self.seconds], before).map_err(|problem| wrong(self.seconds, problem))?;
        let length = |at: usize| tokens(fields[at]).map_err(|problem| wrong(at, problem));
        let name = |at: usize| match fields[at] {
            "" => Err(wrong(at, "empty, where a model's name is needed".to_owned())),
            name => Ok(name),
        };
        Ok(Row { seconds, tokens: self.tokens.map(length).transpose()?, model: self.model.map(name).transpose()? })
    }
}

const QUOTES: &str = "quotes are not understood";

fn seconds(field: &str, before: Option<f64>) -> Result<f64, String> {
    match field.parse::<f64>() {
        Err(_) if field.is_empty() => Err("empty, where a number of seconds is needed".to_owned()),
        Err(_) => Err(format!("`{field}` is no number of seconds")),
        Ok(seconds) if !seconds.is_finite() => Err(format!("`{field}` is not finite")),
        Ok(seconds) if seconds < 0.0 => Err(format!("`{field}` is negative")),
        Ok(seconds) => match before {
            Some(before) if seconds < before => Err(format!("`{field}` is before {before}, the line above")),
            _ => Ok(seconds),
        },
    }
}

fn tokens(field: &str) -> Result<u32, String> {
    let most = Lengths::MAX;
    let length = field.parse().ok().filter(|tokens| (1..=most).contains(tokens));
    length.ok_or_else(|| format!("`{field}` is no number of tokens from 1 to {most}"))
}

/// A trace that cannot be replayed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TraceError {
    #[error("cannot read the trace {}: {reason}", file.display())]
    Unreadable { file: PathBuf, reason: String },
    #[error("{file}, line {line}, column {column}: {problem}")]
    Wrong { file: String, line: usize, column: String, problem: String },
}

#[cfg(test)]
mod tests;
