//! Goodput of every contender against the load, from nearly idle to three times what can be answered.

use super::each;
use super::palette::{FLUID, HARD, PERFECT, colour};
use super::table::full_name;
use super::{Chart, Line, Stroke};
use crate::bound;
use crate::contender::{Contender, Variant};
use crate::limit::score_at;
use crate::scenario::{Family, Traffic};

/// In percent of the capacity.
const LOADS: [u32; 16] = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 140, 170, 200, 250, 300];
/// Where the chart ends, in percent of the capacity.
const X_MAX: f64 = 300.0;
/// Every so many of them in a quick report, counted from the last.
const QUICK_STEP: usize = 2;

/// The chart of one scenario: per contender the best of its settings at each load.
pub(super) fn chart(family: &Family, contenders: &[Contender], quick: bool) -> Chart {
    let mut loads: Vec<u32> = LOADS.iter().rev().step_by(if quick { QUICK_STEP } else { 1 }).copied().collect();
    loads.reverse();
    let capacity = bound::capacity(&family.shown());
    let mut lines: Vec<_> = (0..).zip(contenders).map(|(at, contender)| line(family, contender, at, &loads)).collect();
    let fluid = bound::fluid(&family.shown()) / capacity * 100.0;
    let bound = |name: &str, colour, stroke, points| Line { name: name.into(), colour, stroke, points };
    lines.push(bound("hard bound", HARD, Stroke::Dashed, vec![(0.0, 0.0), (100.0, 100.0), (X_MAX, 100.0)]));
    lines.extend(perfect(family, &loads).map(|points| bound("perfect server", PERFECT, Stroke::Dashed, points)));
    lines.push(bound("fluid law", FLUID, Stroke::Dotted, vec![(fluid, fluid), (X_MAX, fluid)]));
    Chart {
        title: format!("{}: {}", family.name(), family.about.trim_end_matches('.')),
        x: "offered load, % of the hard bound's capacity".into(),
        y: "answered on time, % of the capacity".into(),
        x_max: X_MAX,
        y_max: 110.0,
        lines,
    }
}

/// What a perfect server answers of the arrivals at each load, where that is less than the hard bound says.
fn perfect(family: &Family, loads: &[u32]) -> Option<Vec<(f64, f64)>> {
    let mut points = vec![(0.0, 0.0)];
    for load in loads {
        let scenario = family.at(f64::from(*load) / 100.0);
        let percent = 100.0 / scenario.duration.as_secs_f64() / bound::capacity(&scenario);
        let offered = Traffic::new(&scenario).filter(|ask| !ask.is_poison).count() as f64 * percent;
        points.push((offered, bound::perfect(&scenario)? as f64 * percent));
    }
    points.retain(|(offered, _)| *offered <= X_MAX * 1.02);
    points.iter().any(|(offered, answered)| *answered < 0.95 * offered.min(100.0)).then_some(points)
}

fn line(family: &Family, contender: &Contender, at: usize, loads: &[u32]) -> Line {
    let jobs: Vec<(u32, &Variant)> =
        loads.iter().flat_map(|load| contender.variants.iter().map(|variant| (*load, variant))).collect();
    let capacity = bound::capacity(&family.shown());
    // Bursts bring more or fewer than the mean: what came is what counts.
    let measured = |(load, variant): &(u32, &Variant)| {
        let score = score_at(family, f64::from(*load) / 100.0, variant);
        (score.offered / capacity * 100.0, score.goodput / capacity * 100.0)
    };
    let found = each(&jobs, measured);
    let best = found.chunks(contender.variants.len()).filter_map(|of_load| {
        let order = |one: &&(f64, f64), other: &&(f64, f64)| one.1.total_cmp(&other.1);
        of_load.iter().max_by(order).copied()
    });
    let points = best.filter(|(offered, _)| *offered <= X_MAX * 1.02);
    Line { name: full_name(contender), colour: colour(at), stroke: Stroke::Marked, points: points.collect() }
}
