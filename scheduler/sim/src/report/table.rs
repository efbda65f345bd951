//! One scenario's table.

use std::fmt::Write;
use std::time::Duration;

use super::each;
use crate::bound;
use crate::contender::{Contender, Variant};
use crate::limit::load_limit;
use crate::play::play;
use crate::scenario::{Family, Scenario, Traffic};
use crate::score::Score;

/// How to read the tables.
pub(super) const LEGEND: &str = "\
Load is relative to the hard bound's capacity: full batches on every worker, one after the other.
*On time* is the share of requests answered within their objective, *of bound* their number over that of a perfect server
that has the same arrivals (where models differ, over what the hard bound allows at that rate), *p50* and *p99* are of all answers, *batch* is in requests, *shed* was refused or failed,
*fair* is the least part of its max-min fair share that a tenant got and Jain's index over those parts, *device* is the
device time of all batches per answer. Of a policy that is tuned there are two rows: as it comes, and with the setting
that did best in this very scenario.
";

const HEAD: &str = "\
| policy | on time | of bound | p50 ms | p99 ms | batch | late | shed | fair | device ms |
|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|
";

/// A heading, what the bounds are, and a row for every contender.
pub(super) fn section(family: &Family, contenders: &[Contender]) -> String {
    let scenario = family.shown();
    let mut text = format!("\n## {}\n\n{} {}\n\n", scenario.name, family.about, bounds(family, &scenario));
    text += HEAD;
    let bound = most_on_time(&scenario);
    let jobs: Vec<&Variant> = contenders.iter().flat_map(|contender| &contender.variants).collect();
    let mut scores = each(&jobs, |variant| Score::of(&play(&scenario, |model| variant.configure(model)))).into_iter();
    for contender in contenders {
        let scores: Vec<_> = scores.by_ref().take(contender.variants.len()).collect();
        text += &row(contender.name, &scores[0], bound);
        if let Some(at) = best(&scores).filter(|_| scores.len() > 1) {
            let name = format!("{}: {}", full_name(contender), contender.variants[at].label);
            text += &row(&name, &scores[at], bound);
        }
    }
    text
}

/// The load each contender takes in some scenarios with 99 % on time, set as is best for each.
pub(super) fn limits(families: &[Family], contenders: &[Contender]) -> String {
    let names = families.iter().map(Family::name).collect::<Vec<_>>();
    let mut text =
        String::from("\n## Load at which 99 % are still on time\n\nRelative to the hard bound's capacity.\n\n");
    text += &format!("| policy | {} |\n|:--|{}\n", names.join(" | "), "--:|".repeat(names.len()));
    for contender in contenders {
        let jobs: Vec<_> = families
            .iter()
            .flat_map(|family| contender.variants.iter().map(move |variant| (family, variant)))
            .collect();
        let limits = each(&jobs, |(family, variant)| load_limit(family, 0.99, variant));
        let best =
            limits.chunks(contender.variants.len()).map(|of_family| of_family.iter().copied().fold(0.0, f64::max));
        let cells = best.map(|limit| format!("{limit:.2}")).collect::<Vec<_>>().join(" | ");
        text += &format!("| {} | {cells} |\n", full_name(contender));
    }
    let laws = families.iter().map(Family::shown).map(|shown| bound::fluid(&shown) / bound::capacity(&shown));
    let cells = laws.map(|law| format!("{law:.2}")).collect::<Vec<_>>().join(" | ");
    text + &format!("| *fluid law* | {cells} |\n")
}

/// A contender's name when all its settings compete.
pub(super) fn full_name(contender: &Contender) -> String {
    match contender.variants.len() {
        1 => contender.name.into(),
        variants => format!("{}, best of {variants}", contender.name),
    }
}

/// The place of the score with most on time; of equal ones the quickest, then the first.
pub(super) fn best(scores: &[Score]) -> Option<usize> {
    let order = |at: &usize| (u64::MAX - scores[*at].total.on_time, scores[*at].total.p50, *at);
    (0..scores.len()).min_by_key(order)
}

fn bounds(family: &Family, scenario: &Scenario) -> String {
    format!(
        "Load {:.0} %: {:.0} requests/s for {:.0} s; capacity {:.0}/s, fluid law {:.0}/s.",
        family.load * 100.0,
        scenario.rate(),
        scenario.duration.as_secs_f64(),
        bound::capacity(scenario),
        bound::fluid(scenario),
    )
}

/// The most requests of the scenario that anybody could answer in time; `None` where who is refused asks again.
fn most_on_time(scenario: &Scenario) -> Option<f64> {
    if scenario.traffic.iter().any(|stream| stream.retries > 0) {
        return None;
    }
    let by_average = || {
        // Bursts bring more or fewer than the mean: the bound is that of what came.
        let seconds = scenario.duration.as_secs_f64();
        let offered = Traffic::new(scenario).filter(|ask| !ask.is_poison).count() as f64 / seconds;
        if offered > 0.0 { bound::hard(&scenario.clone().at_rate(offered)) * seconds } else { 0.0 }
    };
    Some(bound::perfect(scenario).map_or_else(by_average, |requests| requests as f64))
}

fn row(name: &str, score: &Score, bound: Option<f64>) -> String {
    let total = &score.total;
    let share = |bound: f64| if bound > 0.0 { total.on_time as f64 / bound } else { 1.0 };
    let of_bound = bound.map_or("–".to_owned(), |bound| format!("{:.3}", share(bound)));
    let mut row = String::new();
    // Writing into a string cannot fail.
    let _ = writeln!(
        row,
        "| {name} | {} | {of_bound} | {} | {} | {:.1} | {} | {} | {:.2} / {:.2} | {:.3} |",
        percent(total.on_time_share()),
        millis(total.p50),
        millis(total.p99),
        score.batch_mean,
        percent(total.late_share()),
        percent(total.shed_share()),
        score.fairness.max_min,
        score.fairness.jain,
        score.device_seconds * 1e3,
    );
    row
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis < 1_000.0 { format!("{millis:.1}") } else { format!("{millis:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::contenders;
    use crate::scenario::catalog;

    #[test]
    fn a_section_has_a_row_for_each_contender_and_one_more_for_each_that_is_tuned() {
        let families = catalog(Duration::from_millis(200), 1);
        let contenders = contenders();
        let text = section(&families[0], &contenders);
        let tuned = contenders.iter().filter(|contender| contender.variants.len() > 1).count();
        let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| policy"));
        assert_eq!(rows.clone().count(), contenders.len() + tuned, "{text}");
        assert!(rows.clone().all(|row| row.matches('|').count() == 11), "{text}");
    }
}
