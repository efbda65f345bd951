//! Watches how the GPU is, in a thread of its own: to read it may take long, which nobody who serves may feel.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cuda::health::{Health, Meter};
use crate::cuda::lock;

/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(2);
/// What was read longer ago says nothing of now.
const AGE_MAX: Duration = Duration::from_secs(10);

/// The thread, which ends soon after this is dropped.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) name: String,
    pub(crate) uuid: String,
    last: Arc<Mutex<Option<Reading>>>,
    _until: mpsc::Sender<()>,
}

#[derive(Clone, Debug)]
struct Reading {
    at: Instant,
    health: Health,
}

impl Monitor {
    pub(crate) fn start(meter: Meter) -> io::Result<Self> {
        Self::every(INTERVAL, meter)
    }

    fn every(interval: Duration, meter: Meter) -> io::Result<Self> {
        let Meter { name, uuid, mut read } = meter;
        let last = Arc::<Mutex<Option<Reading>>>::default();
        let (until, dropped) = mpsc::channel::<()>();
        let written = last.clone();
        std::thread::Builder::new().name("shoal-health".to_owned()).spawn(move || {
            loop {
                let health = read();
                *lock(&written) = health.map(|health| Reading { at: Instant::now(), health });
                // Nothing is ever sent.
                if dropped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        })?;
        Ok(Self { name, uuid, last, _until: until })
    }

    /// What was read last, if that is not long ago. Never waits for a reading.
    pub(crate) fn health(&self) -> Option<Health> {
        fresh(lock(&self.last).clone()?, Instant::now())
    }
}

fn fresh(reading: Reading, now: Instant) -> Option<Health> {
    (now.saturating_duration_since(reading.at) <= AGE_MAX).then_some(reading.health)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::driver::DeviceInfo;

    fn warm(celsius: u32) -> Health {
        Health { temperature_celsius: Some(celsius), ..Health::default() }
    }

    #[test]
    fn a_reading_that_hangs_is_waited_for_by_nobody() {
        let (give, given) = mpsc::channel();
        let (began, begins) = mpsc::channel();
        let meter = Meter::new(&DeviceInfo::default(), move || {
            began.send(()).unwrap();
            given.recv().ok()
        });
        let monitor = Monitor::every(Duration::ZERO, meter).unwrap();
        begins.recv().unwrap();
        assert_eq!(monitor.health(), None);
        give.send(warm(40)).unwrap();
        // The next one begins when the last is there to be seen.
        begins.recv().unwrap();
        assert_eq!(monitor.health(), Some(warm(40)));
        // Its thread ends with it, and what it reads by goes.
        drop(monitor);
        give.send(warm(41)).unwrap();
        assert!(begins.recv().is_err());
    }

    #[test]
    fn what_was_read_long_ago_is_not_told() {
        let at = Instant::now();
        let read = |age| fresh(Reading { at, health: warm(40) }, at + age);
        assert_eq!(read(AGE_MAX), Some(warm(40)));
        assert_eq!(read(AGE_MAX + Duration::from_nanos(1)), None);
    }
}
