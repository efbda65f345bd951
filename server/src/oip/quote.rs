//! Quoting what a client wrote: bounded and escaped, so that no message grows past what a gRPC status may carry.

use std::fmt;

/// Characters shown of a text.
const CHARS_MAX: usize = 64;
/// Dimensions shown of a shape.
const DIMS_MAX: usize = 8;

/// A text of a client's, between backticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", Short(self.0))
    }
}

/// A text of a client's, to be put into a path or between backticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short<'a>(pub(crate) &'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(CHARS_MAX).map_or(self.0.len(), |(end, _)| end);
        write!(f, "{}{}", self.0[..end].escape_debug(), if end < self.0.len() { "…" } else { "" })
    }
}

/// A shape of a client's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'a>(pub(super) &'a [i64]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (at, dim) in self.0.iter().take(DIMS_MAX).enumerate() {
            write!(f, "{}{dim}", if at == 0 { "" } else { ", " })?;
        }
        f.write_str(if self.0.len() > DIMS_MAX { ", …]" } else { "]" })
    }
}
