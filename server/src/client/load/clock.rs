//! The window that is measured, and the thread that sends by the clock.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::schedule::Schedule;

/// Which calls count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// To be sent, not to be counted.
    Warmup,
    /// To be sent and counted.
    Measured,
    /// Not to be sent: the window is closed.
    Over,
}

/// Warm-up, then so long or so many calls. Moments are counted from the start.
#[derive(Debug)]
pub(super) struct Window {
    start: Instant,
    warmup: Duration,
    duration: Option<Duration>,
    count: Option<NonZeroU64>,
    admitted: AtomicU64,
}

impl Window {
    pub(super) fn new(start: Instant, warmup: Duration, duration: Option<Duration>, count: Option<NonZeroU64>) -> Self {
        Self { start, warmup, duration, count, admitted: AtomicU64::new(0) }
    }

    /// Since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn warmup(&self) -> Duration {
        self.warmup
    }

    /// How long is measured, where that is known beforehand.
    pub(super) fn duration(&self) -> Option<Duration> {
        self.duration
    }

    /// Whether the limit of calls was reached.
    pub(super) fn ended_by_count(&self) -> bool {
        self.count.is_some_and(|count| self.admitted.load(Ordering::Relaxed) >= count.get())
    }

    /// Decides on a call that is to be sent at `moment`. Each answer `Measured` counts towards the limit.
    pub(super) fn admit(&self, moment: Duration) -> Admission {
        if moment < self.warmup {
            return Admission::Warmup;
        }
        if !self.contains(moment) {
            return Admission::Over;
        }
        let before = self.admitted.fetch_add(1, Ordering::Relaxed);
        if self.count.is_some_and(|count| before >= count.get()) { Admission::Over } else { Admission::Measured }
    }

    /// Whether `moment` is in the measured time.
    pub(super) fn contains(&self, moment: Duration) -> bool {
        let ended = self.duration.is_some_and(|duration| moment >= self.warmup + duration);
        moment >= self.warmup && !ended
    }

    /// What the progress bar runs to, and in what.
    pub(super) fn goal(&self) -> (u64, &'static str) {
        match (self.count, self.duration) {
            (Some(count), _) => (count.get(), "calls"),
            (None, Some(duration)) => ((self.warmup + duration).as_secs(), "s"),
            (None, None) => (0, "s"),
        }
    }

    /// Where the progress bar is.
    pub(super) fn progress(&self) -> u64 {
        let (goal, _) = self.goal();
        let now = match self.count {
            Some(_) => self.admitted.load(Ordering::Relaxed),
            None => self.elapsed().as_secs(),
        };
        now.min(goal)
    }
}

/// Calls `send` at each moment of the schedule until it ends, the window closes or `stop` is called. Moments that have passed
/// are sent at once, still with the moment that was intended. Blocks.
pub(super) fn run(
    schedule: Schedule,
    window: &Window,
    stop: &CancellationToken,
    send: impl Fn(u64, Duration, Admission),
) {
    /// So soon does the thread notice `stop`.
    const NAP_MAX: Duration = Duration::from_millis(50);
    for (number, moment) in (0u64..).zip(schedule) {
        let admission = window.admit(moment);
        if admission == Admission::Over {
            return;
        }
        loop {
            if stop.is_cancelled() {
                return;
            }
            let wait = moment.saturating_sub(window.elapsed());
            if wait.is_zero() {
                break;
            }
            std::thread::sleep(wait.min(NAP_MAX));
        }
        send(number, moment, admission);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::num::NonZeroU64;
    use std::time::{Duration, Instant};

    use tokio_util::sync::CancellationToken;

    use super::{Admission, Window};
    use crate::client::load::process::Process;
    use crate::client::load::schedule::Schedule;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_window_opens_after_the_warmup_and_closes_after_its_time() {
        let window = Window::new(Instant::now(), ms(10), Some(ms(20)), None);
        let admissions = [0, 9, 10, 29, 30, 31].map(|moment| window.admit(ms(moment)));
        use Admission::{Measured, Over, Warmup};
        assert_eq!(admissions, [Warmup, Warmup, Measured, Measured, Over, Over]);
        assert_eq!([9, 10, 29, 30].map(|moment| window.contains(ms(moment))), [false, true, true, false]);
    }

    #[test]
    fn a_count_closes_the_window_too() {
        let window = Window::new(Instant::now(), ms(10), None, NonZeroU64::new(2));
        let admissions = [5, 10, 11, 12].map(|moment| window.admit(ms(moment)));
        use Admission::{Measured, Over, Warmup};
        assert_eq!(admissions, [Warmup, Measured, Measured, Over]);
    }

    #[test]
    fn the_clock_sends_every_call_no_earlier_than_intended() {
        let window = Window::new(Instant::now(), ms(2), Some(ms(8)), None);
        let sent = RefCell::new(Vec::new());
        let schedule = Schedule::new(&Process::Constant, 1000.0, 0);
        super::run(schedule, &window, &CancellationToken::new(), |number, intended, admission| {
            assert!(window.elapsed() >= intended);
            sent.borrow_mut().push((number, intended, admission));
        });
        let sent = sent.into_inner();
        let numbers: Vec<_> = sent.iter().map(|call| call.0).collect();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
        assert!(sent.iter().all(|&(number, intended, _)| intended == ms(number)));
        assert_eq!(sent.iter().filter(|call| call.2 == Admission::Warmup).count(), 2);
    }

    #[test]
    fn a_late_clock_catches_up_and_keeps_the_intended_moments() {
        // Started a second ago: everything is due at once.
        let start = Instant::now() - Duration::from_secs(1);
        let window = Window::new(start, ms(0), Some(ms(5)), None);
        let sent = RefCell::new(Vec::new());
        let schedule = Schedule::new(&Process::Constant, 1000.0, 0);
        super::run(schedule, &window, &CancellationToken::new(), |_, intended, _| sent.borrow_mut().push(intended));
        assert_eq!(sent.into_inner(), (0..5).map(ms).collect::<Vec<_>>());
    }

    #[test]
    fn the_clock_can_be_stopped() {
        let window = Window::new(Instant::now(), ms(0), Some(Duration::from_secs(3600)), None);
        let stop = CancellationToken::new();
        let schedule = Schedule::new(&Process::Constant, 1000.0, 0);
        super::run(schedule, &window, &stop, |number, _, _| {
            if number == 3 {
                stop.cancel();
            }
        });
    }
}
