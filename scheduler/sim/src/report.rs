//! Every contender in every scenario, as Markdown tables and charts.

mod chart;
mod palette;
mod sweep;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, thread};

pub use chart::{Chart, Line, Stroke};

use crate::contender::contenders;
use crate::scenario::{Family, catalog};

/// Scenarios whose goodput is drawn against the load.
const SWEPT: [&str; 4] = ["poisson-1w-1m", "poisson-4w-1m", "poisson-4w-16m", "mmpp"];

/// What to report, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where `report.md` and the charts go.
    pub out: PathBuf,
    /// A fraction of the time, for a first look.
    pub quick: bool,
    /// What every scenario draws from.
    pub seed: u64,
    /// Only the tables of these scenarios; everything if there are none.
    pub only: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { out: PathBuf::from("target/sim-report"), quick: false, seed: 1, only: Vec::new() }
    }
}

/// Runs everything. Tables go to `page` as soon as they are made, and with the charts to the directory.
pub fn report(options: &Options, page: &mut impl Write) -> io::Result<()> {
    fs::create_dir_all(&options.out)?;
    let mut text = String::from("# Policies in simulated worlds\n\n");
    text += table::LEGEND;
    page.write_all(text.as_bytes())?;
    let contenders = contenders();
    let (table_time, sweep_time) = if options.quick { (3, 2) } else { (12, 6) };
    let families = catalog(Duration::from_secs(table_time), options.seed);
    let is_wanted = |family: &&Family| options.only.is_empty() || options.only.iter().any(|name| name == family.name());
    for family in families.iter().filter(is_wanted) {
        let section = table::section(family, &contenders);
        page.write_all(section.as_bytes())?;
        text += &section;
    }
    if !options.only.is_empty() {
        return fs::write(options.out.join("report.md"), text);
    }
    let mut families = catalog(Duration::from_secs(sweep_time), options.seed);
    families.retain(|family| SWEPT.contains(&family.name()));
    let limits = table::limits(&families, &contenders) + "\n## Goodput against load\n";
    page.write_all(limits.as_bytes())?;
    text += &limits;
    for family in &families {
        let file = draw(family, &options.out, options.quick)?;
        let line = format!("\n![{}]({file})\n", family.about);
        page.write_all(line.as_bytes())?;
        text += &line;
    }
    fs::write(options.out.join("report.md"), text)
}

/// Draws one scenario's chart and returns the name of its file.
fn draw(family: &Family, out: &Path, quick: bool) -> io::Result<String> {
    let chart = sweep::chart(family, &contenders(), quick);
    let file = format!("{}.svg", family.name());
    fs::write(out.join(&file), chart.to_svg())?;
    Ok(file)
}

/// Does all jobs on all processors. Results are in the order of the jobs, whoever did them.
fn each<T: Sync, R: Send>(jobs: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < jobs.len()) {
            done.push((at, work(&jobs[at])));
        }
        done
    };
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
    let mut done: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().flat_map(join).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once_and_in_order() {
        let jobs: Vec<_> = (0..100).collect();
        assert_eq!(each(&jobs, |job| job * 2), (0..200).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn every_swept_scenario_exists() {
        let families = catalog(Duration::from_secs(1), 1);
        assert!(SWEPT.iter().all(|name| families.iter().any(|family| family.name() == *name)));
    }
}
