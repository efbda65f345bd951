//! Workers as they are: how fast, how steady, and when they are away.

use std::time::Duration;

use shoal_scheduler::Budget;

/// One worker. It runs one batch at a time; what is sent to it before that has ended waits with it.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// How many times as long as the curve says a batch takes. 1 is the device the curve was measured on.
    pub slowness: f64,
    /// Batches it takes in at once; more than one hides `link`.
    pub slots: u32,
    /// What one batch may hold.
    pub budget: Budget,
    /// Standard deviation of the logarithm of a factor of mean 1 on every batch's time.
    pub sigma: f64,
    /// How long a message takes from the core to it, and back again.
    pub link: Duration,
    /// How much longer for each request in it.
    pub link_row: Duration,
    /// What of its models' weights is on its device; `None` where there is room for all.
    pub weights: Option<Weights>,
    /// From when on its slowness is multiplied by what, in order of time.
    pub changes: Vec<Change>,
    /// When it is away.
    pub absences: Vec<Absence>,
    /// When it does nothing and says nothing, without being away, in order of time.
    pub hangs: Vec<Hang>,
}

/// A device that has not room for the weights of all models: those that were not needed for longest make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// So many models' are there at once.
    pub models_max: usize,
    /// How long a batch waits for those that are not.
    pub page_in: Duration,
    /// What the worker says of them.
    pub told: Told,
    /// How often on average somebody else, whom the worker serves as well, brings in those of some model; never if zero.
    pub strangers_every: Duration,
}

/// When a worker says which weights are not on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Not at all.
    Never,
    /// At the end of each batch that waited for some.
    WithPageIns,
    /// After a load, and whenever it changes.
    AtOnce,
}

/// A worker stops, and goes on where it was.
#[derive(Clone, Copy, Debug)]
pub struct Hang {
    /// From the start of the scenario.
    pub from: Duration,
    /// From the start of the scenario.
    pub until: Duration,
}

/// A lasting change of speed.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// From the start of the scenario.
    pub at: Duration,
    /// What `slowness` is multiplied by from then on. Not by what it was before.
    pub factor: f64,
}

/// A worker is killed, and comes back or does not.
#[derive(Clone, Copy, Debug)]
pub struct Absence {
    /// From the start of the scenario.
    pub from: Duration,
    /// From the start of the scenario.
    pub until: Option<Duration>,
}

impl Default for WorkerSpec {
    /// One slot, 64 rows, steady, next door.
    fn default() -> Self {
        Self {
            slowness: 1.0,
            slots: 1,
            budget: Budget { rows: 64, tokens: 16_384, bytes: 1 << 30 },
            sigma: 0.0,
            link: Duration::ZERO,
            link_row: Duration::ZERO,
            weights: None,
            changes: Vec::new(),
            absences: Vec::new(),
            hangs: Vec::new(),
        }
    }
}

impl WorkerSpec {
    /// How long a message about so many requests takes, one way.
    pub fn link_of(&self, rows: usize) -> Duration {
        // Far more than a batch ever holds.
        self.link + self.link_row * u32::try_from(rows).unwrap_or(u32::MAX)
    }

    /// How many times as long as the curve says a batch takes that begins at this time.
    pub fn slowness_at(&self, time: Duration) -> f64 {
        let change = self.changes.iter().rev().find(|change| change.at <= time);
        change.map_or(self.slowness, |change| self.slowness * change.factor)
    }

    /// How many devices of slowness 1 it is worth at this time.
    pub fn speed_at(&self, time: Duration) -> f64 {
        let holds = |absence: &Absence| absence.from <= time && absence.until.is_none_or(|until| time < until);
        let hangs = |hang: &Hang| hang.from <= time && time < hang.until;
        if self.absences.iter().any(holds) || self.hangs.iter().any(hangs) { 0.0 } else { 1.0 / self.slowness_at(time) }
    }

    /// When that changes, in no order.
    pub fn cuts(&self) -> impl Iterator<Item = Duration> {
        let absences = self.absences.iter().flat_map(|absence| [Some(absence.from), absence.until]).flatten();
        let hangs = self.hangs.iter().flat_map(|hang| [hang.from, hang.until]);
        self.changes.iter().map(|change| change.at).chain(absences).chain(hangs)
    }

    /// When it is through with something that takes so long and that it comes to at this time.
    pub fn end_of(&self, mut begins: Duration, time: Duration) -> Duration {
        let mut left = time;
        for hang in &self.hangs {
            let before = hang.from.saturating_sub(begins);
            if hang.until <= begins || before > left {
                continue;
            }
            left -= before;
            begins = hang.until;
        }
        begins + left
    }

    /// Seconds of a device of slowness 1 that it is worth from the start to `duration`.
    pub fn device_seconds(&self, duration: Duration) -> f64 {
        let mut cuts: Vec<_> = self.cuts().filter(|cut| *cut <= duration).chain([Duration::ZERO, duration]).collect();
        cuts.sort_unstable();
        cuts.windows(2).map(|span| (span[1] - span[0]).as_secs_f64() * self.speed_at(span[0])).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_after_a_hang_where_it_was() {
        let millis = Duration::from_millis;
        let hangs =
            [(10, 30), (40, 41)].map(|(from, until)| Hang { from: millis(from), until: millis(until) }).to_vec();
        let worker = WorkerSpec { hangs, ..WorkerSpec::default() };
        for (begins, time, end) in [(0, 9, 9), (5, 9, 34), (5, 16, 42), (12, 3, 33), (30, 5, 35), (50, 5, 55)] {
            assert_eq!(worker.end_of(millis(begins), millis(time)), millis(end), "{time} ms from {begins}");
        }
    }

    #[test]
    fn a_link_takes_longer_for_more_requests() {
        let micros = Duration::from_micros;
        let worker = WorkerSpec { link: micros(300), link_row: micros(20), ..WorkerSpec::default() };
        assert_eq!((worker.link_of(0), worker.link_of(64)), (micros(300), micros(1_580)));
        assert_eq!(WorkerSpec::default().link_of(64), Duration::ZERO);
    }

    #[test]
    fn is_worth_what_its_speed_and_presence_allow() {
        let secs = Duration::from_secs;
        let mut worker = WorkerSpec { slowness: 2.0, ..WorkerSpec::default() };
        assert_eq!(worker.device_seconds(secs(10)), 5.0);
        worker.changes = vec![Change { at: secs(4), factor: 0.5 }, Change { at: secs(6), factor: 1.0 }];
        assert_eq!(worker.device_seconds(secs(10)), 2.0 + 2.0 + 2.0);
        worker.absences = vec![Absence { from: secs(5), until: Some(secs(8)) }];
        assert_eq!(worker.device_seconds(secs(10)), 2.0 + 1.0 + 1.0);
    }
}
