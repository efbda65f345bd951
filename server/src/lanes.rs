//! The threads that serve. A task stays on the lane it was spawned on, with everything it wakes: a call that finds its
//! connection, the driver and the worker link on one lane crosses no thread inside this process. Handing a waking task
//! to another thread costs more than all that is done for a small call, which is why no scheduler moves tasks here.
//!
//! The first lane carries the driver and the worker link besides its share of the connections.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A lane carries tens of thousands of small calls per second, so that most of a machine is left to compute.
const PROCESSORS_PER_LANE: usize = 4;
const LANES_MAX: usize = 8;

/// Handles on the lanes. They end, with all that runs on them, when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Lanes {
    lanes: Arc<[Handle]>,
    next: Arc<AtomicUsize>,
    _stop: Arc<DropGuard>,
}

impl Lanes {
    /// As many as suit a machine of so many processors.
    pub fn suitable(processors: usize) -> NonZeroUsize {
        NonZeroUsize::new((processors / PROCESSORS_PER_LANE).min(LANES_MAX)).unwrap_or(NonZeroUsize::MIN)
    }

    /// Starts `count` lanes.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        // Held already here: should a later thread be refused, the ones before it end.
        let guard = stop.clone().drop_guard();
        let lane = |index| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, stopped) = (runtime.handle().clone(), stop.clone());
            let run = move || runtime.block_on(stopped.cancelled());
            thread::Builder::new().name(format!("lane-{index}")).spawn(run)?;
            Ok(handle)
        };
        let lanes = (0..count.get()).map(lane).collect::<io::Result<_>>()?;
        Ok(Self { lanes, next: Arc::default(), _stop: Arc::new(guard) })
    }

    /// The one lane that is the runtime this is called in.
    #[cfg(test)]
    pub(crate) fn here() -> Self {
        let stop = CancellationToken::new();
        Self { lanes: [Handle::current()].into(), next: Arc::default(), _stop: Arc::new(stop.drop_guard()) }
    }

    /// Where the driver is.
    pub fn first(&self) -> &Handle {
        &self.lanes[0]
    }

    /// How loaded they are. Does not keep them from ending.
    pub fn load(&self) -> Load {
        Load(self.lanes.clone())
    }

    /// Each in turn, the first one first.
    pub fn next(&self) -> &Handle {
        &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len()]
    }
}

/// A look at lanes from elsewhere.
#[derive(Clone, Debug)]
pub struct Load(Arc<[Handle]>);

impl Load {
    /// Tasks alive on all of them.
    pub fn tasks(&self) -> usize {
        self.0.iter().map(|lane| lane.metrics().num_alive_tasks()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_most_processors_to_computing() {
        let counts = [1, 2, 4, 8, 16, 64].map(|processors| Lanes::suitable(processors).get());
        assert_eq!(counts, [1, 1, 1, 2, 4, 8]);
    }

    #[test]
    fn a_task_stays_on_its_lane_and_ends_with_it() {
        let lanes = Lanes::start(NonZeroUsize::new(2).expect("two")).expect("threads");
        let (names, heard) = std::sync::mpsc::channel();
        for lane in [lanes.next(), lanes.next(), lanes.next()] {
            let names = names.clone();
            lane.spawn(async move {
                tokio::task::yield_now().await;
                let _ = names.send(thread::current().name().map(str::to_owned));
                std::future::pending::<()>().await;
            });
        }
        let mut ran_on: Vec<_> = (0..3).map(|_| heard.recv().expect("a name").expect("named")).collect();
        ran_on.sort_unstable();
        assert_eq!(ran_on, ["lane-0", "lane-0", "lane-1"]);
        drop((lanes, names));
        // The last sender goes when the lanes have dropped their tasks.
        assert!(heard.recv().is_err());
    }
}
