//! Failpoints as builds with debug assertions have them.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Cut, Point};
use crate::driver::{Event, FromWorker};

/// What the process was started with.
static PLAN: LazyLock<Plan> = LazyLock::new(|| match std::env::var("SHOAL_FAILPOINTS") {
    Err(_) => Plan::default(),
    // A test that asks for what is not there must not pass.
    Ok(text) => text.parse().unwrap_or_else(|problem| panic!("SHOAL_FAILPOINTS: {problem}")),
});

/// What is to happen where.
#[derive(Debug, Default)]
struct Plan {
    steps: Vec<Step>,
    /// Credits wait until so many calls have come.
    hold: u64,
    drops_probes: bool,
}

#[derive(Debug)]
struct Step {
    point: Point,
    action: Action,
    /// How often it still acts.
    left: AtomicU32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Delay(Duration),
    /// Until there is such a file.
    Until(PathBuf),
    Drop,
}

/// How often a file that is waited for is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Comes by a point. What is planned for it happens here.
///
/// # Errors
/// The connection is to be cut.
pub(crate) async fn reach(point: Point) -> Result<(), Cut> {
    match PLAN.due(point) {
        None => Ok(()),
        Some(Action::Drop) => Err(Cut),
        Some(Action::Delay(time)) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        Some(Action::Until(file)) => {
            while !file.exists() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        }
    }
}

/// Whether models are not calibrated, so that all batches are of calls.
pub(crate) fn are_probes_dropped() -> bool {
    PLAN.drops_probes
}

/// Where events pass on their way to the driver.
#[derive(Debug)]
pub(crate) struct Gate {
    hold: u64,
    calls: u64,
    credits: Vec<Event>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(PLAN.hold)
    }
}

impl Gate {
    fn new(hold: u64) -> Self {
        Self { hold, calls: 0, credits: Vec::new() }
    }

    /// Applies an event, or keeps it until those it waits for have come.
    pub(crate) fn pass(&mut self, event: Event, mut apply: impl FnMut(Event)) {
        let is_credit = matches!(&event, Event::Worker { said: FromWorker::Credit { .. }, .. });
        if is_credit && self.calls < self.hold {
            self.credits.push(event);
            return;
        }
        self.calls += u64::from(matches!(&event, Event::Submit { .. }));
        apply(event);
        if self.calls >= self.hold {
            self.credits.drain(..).for_each(apply);
        }
    }
}

impl Plan {
    fn due(&self, point: Point) -> Option<Action> {
        let spend = |step: &&Step| {
            let spent = step.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            spent.is_ok()
        };
        self.steps.iter().filter(|step| step.point == point).find(spend).map(|step| step.action.clone())
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut plan = Self::default();
        for entry in text.split(';').filter(|entry| !entry.is_empty()) {
            let problem = || format!("`{entry}` is not POINT=[COUNT*]ACTION");
            let (name, action) = entry.split_once('=').ok_or_else(problem)?;
            let (left, action) = match action.split_once('*') {
                Some((count, action)) => (count.parse().map_err(|_| problem())?, action),
                None => (u32::MAX, action),
            };
            let (verb, argument) = match action.split_once('(') {
                Some((verb, rest)) => (verb, rest.strip_suffix(')').ok_or_else(problem)?),
                None => (action, ""),
            };
            let action = match (name, verb) {
                ("dispatch", "hold") => {
                    plan.hold = argument.parse().map_err(|_| problem())?;
                    continue;
                }
                ("probe", "drop") => {
                    plan.drops_probes = true;
                    continue;
                }
                (_, "delay") => Action::Delay(humantime::parse_duration(argument).map_err(|_| problem())?),
                (_, "until") if !argument.is_empty() => Action::Until(argument.into()),
                (_, "drop") => Action::Drop,
                _ => return Err(format!("`{entry}`: no such action there")),
            };
            let point = match name {
                "link-run" => Point::LinkRun,
                "results" => Point::Results,
                "batch-end" => Point::BatchEnd,
                "batch-ended" => Point::BatchEnded,
                _ => return Err(format!("`{name}` is no failpoint")),
            };
            plan.steps.push(Step { point, action, left: left.into() });
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use shoal_scheduler::{Budget, Epoch, Slot};
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn acts_as_often_as_it_is_told() {
        let plan: Plan = "link-run=2*drop;batch-end=delay(5ms);results=1*until(/a/b)".parse().expect("a plan");
        let dues: Vec<_> = (0..3).map(|_| plan.due(Point::LinkRun)).collect();
        assert_eq!(dues, [Some(Action::Drop), Some(Action::Drop), None]);
        assert_eq!(plan.due(Point::BatchEnd), Some(Action::Delay(Duration::from_millis(5))));
        let results: Vec<_> = (0..2).map(|_| plan.due(Point::Results)).collect();
        assert_eq!(results, [Some(Action::Until("/a/b".into())), None]);
        assert_eq!(plan.due(Point::BatchEnded), None);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for wrong in [
            "link-run",
            "nowhere=drop",
            "results=explode",
            "dispatch=drop",
            "results=x*drop",
            "results=delay(x)",
            "results=until",
            "dispatch=until(/a/b)",
            "probe=delay(1s)",
        ] {
            assert!(wrong.parse::<Plan>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn credits_wait_for_the_calls() {
        let measure = || Event::Measure { done: oneshot::channel().0 };
        let budget = Budget { rows: 1, tokens: 1, bytes: 1 };
        let credit = Event::Worker { epoch: Epoch(1), said: FromWorker::Credit { slot: Slot(0), budget } };
        let mut gate = Gate::new(1);
        let mut passed = Vec::new();
        gate.pass(credit, |event| passed.push(event));
        gate.pass(measure(), |event| passed.push(event));
        assert!(matches!(passed.as_slice(), [Event::Measure { .. }]), "{passed:?}");
        gate.calls = 1;
        gate.pass(measure(), |event| passed.push(event));
        assert!(matches!(passed.as_slice(), [_, _, Event::Worker { .. }]), "{passed:?}");
    }
}
