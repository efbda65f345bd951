//! `shoal load`: calls a running server at a stated pace and says how it went.
//!
//! Open loop (`--rate`): calls are sent when the schedule says, however slow the answers are, and latency counts from
//! the *intended* moment, so a server that stalls cannot hide it by slowing the client down (no coordinated omission).
//! Closed loop (`--concurrency`): each of so many callers waits for its answer before it asks again; it finds the
//! highest throughput but says little about latency under a given load.
//!
//! The number of calls on their way is bounded; what the schedule wants beyond that is counted as overflow and never
//! sent late.

mod clock;
mod distributions;
mod lengths;
mod mode;
mod modulated;
mod options;
mod process;
mod report;
mod schedule;
mod tally;
mod target;
mod texts;
mod trace;
mod words;

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address::ConnectError;
use clock::{Admission, Window};
pub use lengths::{Lengths, LengthsError};
pub use mode::Load;
pub use modulated::Modulation;
pub use options::{Api, Arrivals, LoadOptions, OptionsError};
pub use process::Process;
pub use report::{Calls, Objective, OutcomeReport, Percentiles, Rates, Report};
use schedule::Schedule;
use tally::{Finished, Tally};
use target::Target;
use texts::Texts;
pub use texts::TextsError;
pub use trace::{Trace, TraceError};

/// Runs the load and reports. `bar` shows how it goes; [`ProgressBar::hidden`] for silence.
///
/// Dropping the future ends all calls. It ends by itself within the asked duration, the warm-up and one time-out.
pub async fn run(options: &LoadOptions, bar: &ProgressBar) -> Result<Report, LoadError> {
    options.check()?;
    let load = Load::new(options)?;
    let count = load.count(options)?;
    let texts = Texts::new(options, &load)?;
    let target = Target::connect(options, texts, load.trace().and_then(Trace::models).cloned()).await?;
    let run = Run::new(options, count, target);
    let stop = run.stop.clone().drop_guard();
    let calls = async {
        match &load {
            Load::Open { rate, process, outstanding_max, seed } => {
                run.open(Schedule::new(process, *rate, *seed), *outstanding_max).await;
            }
            Load::Closed { concurrency } => run.closed(*concurrency).await,
        }
        run.calls.close();
        run.calls.wait().await;
    };
    run.watch(calls, bar).await;
    drop(stop);
    Ok(run.report(options, load.clone()))
}

/// The whole verb: a bar on a terminal, then the report as a table or JSON.
pub async fn command(options: &LoadOptions, out: &mut impl Write) -> Result<(), LoadError> {
    use std::io::IsTerminal as _;
    let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let report = run(options, &bar).await;
    bar.finish_and_clear();
    let report = report?;
    if options.json {
        writeln!(out, "{}", report.to_json())?;
    } else {
        write!(out, "{report}")?;
    }
    match report.first_error() {
        Some(reason) if report.calls.ok == 0 => Err(LoadError::NothingSucceeded { reason }),
        _ => Ok(()),
    }
}

/// One run, shared by its calls.
#[derive(Clone, Debug)]
struct Run {
    target: Arc<Target>,
    window: Arc<Window>,
    tally: Arc<Mutex<Tally>>,
    calls: TaskTracker,
    stop: CancellationToken,
    time_max: Duration,
}

impl Run {
    fn new(options: &LoadOptions, count: Option<NonZeroU64>, target: Target) -> Self {
        Self {
            target: Arc::new(target),
            window: Arc::new(Window::new(Instant::now(), options.warmup, options.duration(), count)),
            tally: Arc::new(Mutex::new(Tally::new(options.objective))),
            calls: TaskTracker::new(),
            stop: CancellationToken::new(),
            time_max: options.timeout,
        }
    }

    /// Sends by the clock until the window closes or the schedule ends. The clock has a thread of its own, since a runtime's timer ticks
    /// only once a millisecond.
    async fn open(&self, schedule: Schedule, outstanding_max: u32) {
        let slots = Arc::new(Semaphore::new(outstanding_max as usize));
        let (run, runtime) = (self.clone(), tokio::runtime::Handle::current());
        let send = move |number: u64, intended: Duration, admission: Admission| match slots.clone().try_acquire_owned()
        {
            Ok(slot) => {
                let call = run.clone();
                let call = async move {
                    call.call(number, intended, admission).await;
                    drop(slot);
                };
                run.calls.spawn_on(call, &runtime);
            }
            Err(_) => run.tally().overflow(admission),
        };
        let (window, stop) = (self.window.clone(), self.stop.clone());
        let clock = tokio::task::spawn_blocking(move || clock::run(schedule, &window, &stop, send));
        if let Err(error) = clock.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    /// Lets so many callers ask one after the other until the window closes.
    async fn closed(&self, concurrency: u32) {
        let callers = TaskTracker::new();
        for caller in 0..concurrency {
            let run = self.clone();
            callers.spawn(async move {
                // Callers take every n-th text, so that together they walk through all of them.
                let mut number = u64::from(caller);
                while !run.stop.is_cancelled() {
                    let intended = run.window.elapsed();
                    let admission = run.window.admit(intended);
                    if admission == Admission::Over {
                        break;
                    }
                    run.call(number, intended, admission).await;
                    number += u64::from(concurrency);
                }
            });
        }
        callers.close();
        callers.wait().await;
    }

    async fn call(&self, number: u64, intended: Duration, admission: Admission) {
        let sent = self.window.elapsed();
        let call = self.target.call(number, self.time_max);
        let Some(result) = self.stop.run_until_cancelled(call).await else { return };
        let done = self.window.elapsed();
        let finished = Finished { intended, sent, done, in_window: self.window.contains(done), admission, result };
        self.tally().record(finished);
    }

    /// Waits for `calls`, drawing what is known five times a second.
    async fn watch(&self, calls: impl Future<Output = ()>, bar: &ProgressBar) {
        const DRAW: Duration = Duration::from_millis(200);
        let (of, unit) = self.window.goal();
        bar.set_length(of);
        bar.set_style(style(unit));
        let mut ticks = tokio::time::interval(DRAW);
        tokio::pin!(calls);
        loop {
            tokio::select! {
                () = &mut calls => return,
                _ = ticks.tick() => {
                    bar.set_position(self.window.progress());
                    bar.set_message(self.tally().line());
                }
            }
        }
    }

    fn report(&self, options: &LoadOptions, load: Load) -> Report {
        let report = Report::new(options, load, self.target.model(), &self.window, &self.tally());
        Report { lengths: self.target.lengths(), ..report }
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        // Nothing panics while it holds the lock, and counts would still be true if something did.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn style(unit: &str) -> ProgressStyle {
    let template = format!("{{bar:24}} {{pos}}/{{len}} {unit}  {{wide_msg}}");
    // The default is never needed, as the template is sound for every unit.
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Why there is no report, or not one to be content with.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error(transparent)]
    Texts(#[from] TextsError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot learn what `{model}` takes: {:?}: {}", status.code(), status.message())]
    Metadata { model: String, status: Box<tonic::Status> },
    #[error("`{model}` takes {found}; one input of BYTES or FP32 is understood")]
    Inputs { model: String, found: String },
    #[error("no call succeeded: {reason}")]
    NothingSucceeded { reason: String },
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

#[cfg(test)]
mod tests;
