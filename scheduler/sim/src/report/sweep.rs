//! Goodput of every contender against the load, from nearly idle to three times what can be answered.

use super::each;
use super::palette::{BOUND, FLUID, colour};
use super::table::full_name;
use super::{Chart, Line, Stroke};
use crate::bound;
use crate::contender::{Contender, Variant};
use crate::limit::score_at;
use crate::scenario::Family;

/// In percent of the capacity.
const LOADS: [u32; 16] = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 140, 170, 200, 250, 300];
/// Every so many of them in a quick report, counted from the last.
const QUICK_STEP: usize = 2;

/// The chart of one scenario: per contender the best of its settings at each load.
pub(super) fn chart(family: &Family, contenders: &[Contender], quick: bool) -> Chart {
    let mut loads: Vec<u32> = LOADS.iter().rev().step_by(if quick { QUICK_STEP } else { 1 }).copied().collect();
    loads.reverse();
    let capacity = bound::capacity(&family.shown());
    let mut lines: Vec<_> = (0..).zip(contenders).map(|(at, contender)| line(family, contender, at, &loads)).collect();
    let fluid = bound::fluid(&family.shown()) / capacity * 100.0;
    let up_to = |top: f64| vec![(0.0, 0.0), (top, top), (f64::from(LOADS[LOADS.len() - 1]), top)];
    let bound = Line { name: "hard bound".into(), colour: BOUND, stroke: Stroke::Dashed, points: up_to(100.0) };
    let law = Line { name: "fluid law".into(), colour: FLUID, stroke: Stroke::Dotted, points: up_to(fluid) };
    lines.extend([bound, law]);
    Chart {
        title: format!("{}: {}", family.name(), family.about.trim_end_matches('.')),
        x: "offered load, % of the hard bound's capacity".into(),
        y: "answered on time, % of the capacity".into(),
        x_max: 300.0,
        y_max: 110.0,
        lines,
    }
}

fn line(family: &Family, contender: &Contender, at: usize, loads: &[u32]) -> Line {
    let jobs: Vec<(u32, &Variant)> =
        loads.iter().flat_map(|load| contender.variants.iter().map(|variant| (*load, variant))).collect();
    let capacity = bound::capacity(&family.shown());
    let goodput = |(load, variant): &(u32, &Variant)| score_at(family, f64::from(*load) / 100.0, variant).goodput;
    let found = each(&jobs, goodput);
    let best = found.chunks(contender.variants.len()).map(|of_load| of_load.iter().copied().fold(0.0, f64::max));
    let points = loads.iter().zip(best).map(|(load, goodput)| (f64::from(*load), goodput / capacity * 100.0));
    Line { name: full_name(contender), colour: colour(at), stroke: Stroke::Marked, points: points.collect() }
}
