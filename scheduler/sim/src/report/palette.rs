//! Colours that read on white and that most colour-blind people can tell apart: Okabe and Ito's, darkened where needed.

const COLOURS: [&str; 10] =
    ["#0072b2", "#d55e00", "#009e73", "#b3568f", "#c98a00", "#3d9bd1", "#7a5195", "#8b4513", "#4d4d4d", "#a0a000"];

/// Of the hard bound.
pub(super) const HARD: &str = "#111111";
/// Of the perfect server.
pub(super) const PERFECT: &str = "#8a8a8a";
/// Of the fluid law.
pub(super) const FLUID: &str = "#777777";

/// The colour of the line with this number.
pub(super) fn colour(at: usize) -> &'static str {
    COLOURS[at % COLOURS.len()]
}
