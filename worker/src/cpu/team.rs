//! The threads that compute. A job is a list of steps, a step a number of tiles: each thread claims the next tile of the
//! current step, and goes on to the next step when all tiles of this one are done.
//!
//! Tiles are dealt to lanes, and a thread begins with its own, which it shares with others only where there are more
//! threads than lanes: until that is empty, it does not look at what has been claimed of the rest. Then it takes from them.
//!
//! Nobody waits for a thread, only for tiles: one that wakes late, or that the system gives its processor to somebody
//! else, delays a job by the tile it holds and no more. The thread that asks for a job works on it, too.
//!
//! Threads that find no tile spin, since steps take microseconds; soon they give way, and between jobs they sleep.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Spins before a waiting thread gives way to others: some microseconds, more than most tiles that are waited for.
const SPINS: usize = 4_000;
/// How often a thread gives way between jobs before it sleeps. Waking a sleeper takes 50 µs and more, the next batch of a
/// busy server less.
const YIELDS: usize = 50;

/// Lanes at most: with more, looking whether others have tiles left takes longer than waiting for one's turn.
const LANES_MAX: usize = 8;

/// Lanes that a team of so many threads has.
fn lanes(threads: usize) -> usize {
    threads.min(LANES_MAX)
}

/// If all threads of a team are on time, a thread claims the tile of its own number in each step first, and after any tile
/// the one so many further on: threads that share a lane take its tiles in turn.
pub(crate) fn stride(threads: usize, tile: usize) -> usize {
    let lanes = lanes(threads);
    lanes * (threads - tile % lanes).div_ceil(lanes)
}

/// Threads that work together.
pub(crate) struct Team {
    shared: Arc<Shared>,
    others: Vec<JoinHandle<()>>,
    /// Kept from job to job, so that one allocates nothing.
    steps: Vec<Step>,
}

/// What a thread is told: the step, the tile in it, and which of the team's threads it is.
pub(crate) type Work<'a> = dyn Fn(usize, usize, usize) + Sync + 'a;

struct Shared {
    /// Rises by one when a job opens and by one when it closes; odd while one is open.
    phase: Line<AtomicUsize>,
    /// Threads other than the caller's that may be looking at the job.
    inside: Line<AtomicUsize>,
    /// The open job. Written only while none is open and nobody is inside.
    job: UnsafeCell<Option<Job>>,
    asleep: Vec<Line<AtomicBool>>,
    ends: AtomicBool,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: all but `job` is shared by its own type. `job` is read only by threads that are inside an open job, and written
// only by the one that opens jobs, before it opens one and after the last has closed and everybody has left.
unsafe impl Sync for Shared {}
// SAFETY: the pointers in `job` are only used as above.
unsafe impl Send for Shared {}

/// One job: borrowed from the caller of `run`, who does not return while anybody is inside.
#[derive(Clone, Copy)]
struct Job {
    work: *const Work<'static>,
    steps: *const [Step],
}

/// How far one step is.
struct Step {
    tiles: usize,
    /// How many tiles are claimed of each lane, or more where there is none left.
    claimed: Box<[Line<AtomicUsize>]>,
    /// Added to by each thread when it finds no more.
    done: Line<AtomicUsize>,
}

/// A value on cache lines of its own, so that threads that write another do not take it away.
#[repr(align(128))]
#[derive(Default)]
struct Line<T>(T);

impl Team {
    /// A team of `threads`, the caller of [`Team::run`] being one.
    pub(crate) fn new(threads: NonZeroUsize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            phase: Line::default(),
            inside: Line::default(),
            job: UnsafeCell::new(None),
            asleep: (0..threads.get()).map(|_| Line::default()).collect(),
            ends: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut team = Self { shared, others: Vec::new(), steps: Vec::new() };
        for index in 1..threads.get() {
            let shared = team.shared.clone();
            let thread = thread::Builder::new().name(format!("shoal-cpu-{index}"));
            team.others.push(thread.spawn(move || shared.serve(index))?);
        }
        Ok(team)
    }

    pub(crate) fn threads(&self) -> usize {
        self.others.len() + 1
    }

    /// Does `work(step, tile, thread)` for every tile of every step, `tiles` saying how many each step has. A step begins
    /// when all tiles of the one before are done; its tiles are done in any order and by any thread, `thread` being below
    /// [`Team::threads`] and never in two places at once.
    ///
    /// # Panics
    /// If the work does, after everybody has stopped working.
    pub(crate) fn run(&mut self, tiles: &[usize], work: &Work<'_>) {
        if self.steps.len() < tiles.len() {
            let lanes = lanes(self.threads());
            self.steps.resize_with(tiles.len(), || Step::new(lanes));
        }
        for (step, &tiles) in self.steps.iter_mut().zip(tiles) {
            step.start(tiles);
        }
        let steps = &self.steps[..tiles.len()];
        // SAFETY: the lifetime is only forgotten: nobody looks at the job after this function has returned.
        let forgotten = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        // SAFETY: no job is open and nobody is inside, which the last call waited for; `&mut self` keeps others out.
        unsafe { *self.shared.job.get() = Some(Job { work: forgotten, steps }) };
        self.shared.open();
        for (asleep, thread) in self.shared.asleep[1..].iter().zip(&self.others) {
            if asleep.0.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
        self.shared.work(steps, work, 0);
        self.shared.close();
        if self.shared.panicked.swap(false, Ordering::Relaxed) {
            let payload = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
            resume_unwind(payload.unwrap_or_else(|| Box::new("a compute thread panicked")));
        }
    }
}

impl Step {
    fn new(lanes: usize) -> Self {
        Self { tiles: 0, claimed: (0..lanes).map(|_| Line::default()).collect(), done: Line::default() }
    }

    fn start(&mut self, tiles: usize) {
        self.tiles = tiles;
        self.claimed.iter_mut().for_each(|claimed| *claimed.0.get_mut() = 0);
        *self.done.0.get_mut() = 0;
    }

    /// A tile of a lane that nobody has claimed.
    fn claim(&self, lane: usize) -> Option<usize> {
        let claimed = &self.claimed[lane].0;
        let tile = |claimed: usize| Some(lane + claimed * self.claimed.len()).filter(|tile| *tile < self.tiles);
        // A look first: others come by to find that nothing is left.
        tile(claimed.load(Ordering::Relaxed))?;
        tile(claimed.fetch_add(1, Ordering::Relaxed))
    }
}

impl Shared {
    fn open(&self) {
        self.phase.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns when everybody has left.
    fn close(&self) {
        self.phase.0.fetch_add(1, Ordering::SeqCst);
        wait_until(|| self.inside.0.load(Ordering::SeqCst) == 0);
        // SAFETY: the job is closed and nobody is inside.
        unsafe { *self.job.get() = None };
    }

    fn is_open(phase: usize) -> bool {
        phase % 2 == 1
    }

    /// The life of one of the other threads.
    fn serve(&self, thread: usize) {
        let mut seen = 0;
        while !self.ends.load(Ordering::SeqCst) {
            let phase = self.wait_for_job(seen, thread);
            // Inside first, then a look whether the job is still open: the caller closes first, and then looks whether
            // anybody is inside. One of the two sees the other.
            self.inside.0.fetch_add(1, Ordering::SeqCst);
            if Self::is_open(phase) && self.phase.0.load(Ordering::SeqCst) == phase {
                // SAFETY: the job is open and cannot be closed while this thread is inside; what it points to lives on.
                if let Some(Job { work, steps }) = unsafe { *self.job.get() } {
                    // SAFETY: as above.
                    self.work(unsafe { &*steps }, unsafe { &*work }, thread);
                }
            }
            self.inside.0.fetch_sub(1, Ordering::SeqCst);
            seen = phase;
        }
    }

    /// Waits for another phase than `seen`, with a job open or the end near.
    fn wait_for_job(&self, seen: usize, thread: usize) -> usize {
        let mut patience = SPINS + YIELDS;
        loop {
            let phase = self.phase.0.load(Ordering::SeqCst);
            if (phase != seen && Self::is_open(phase)) || self.ends.load(Ordering::SeqCst) {
                return phase;
            }
            patience = patience.saturating_sub(1);
            match patience {
                0 => {
                    // Asleep first, then another look: whoever opens a job does so first, and then looks who is asleep.
                    self.asleep[thread].0.store(true, Ordering::SeqCst);
                    if self.phase.0.load(Ordering::SeqCst) == phase && !self.ends.load(Ordering::SeqCst) {
                        thread::park();
                    }
                    self.asleep[thread].0.store(false, Ordering::SeqCst);
                }
                1..YIELDS => thread::yield_now(),
                _ => spin_loop(),
            }
        }
    }

    /// Works on a job until its last step has no tile left; the caller's thread, which is 0, until all are done.
    fn work(&self, steps: &[Step], work: &Work<'_>, thread: usize) {
        for (index, step) in steps.iter().enumerate() {
            let lanes = step.claimed.len();
            let mut done = 0;
            for lane in (0..lanes).map(|lane| (thread + lane) % lanes) {
                while let Some(tile) = step.claim(lane) {
                    // After a panic the rest is only counted, so that nobody waits for it.
                    if !self.panicked.load(Ordering::Relaxed) {
                        let outcome = catch_unwind(AssertUnwindSafe(|| work(index, tile, thread)));
                        outcome.unwrap_or_else(|payload| self.note(payload));
                    }
                    done += 1;
                }
            }
            if done > 0 {
                step.done.0.fetch_add(done, Ordering::Release);
            }
            if thread == 0 || index + 1 < steps.len() {
                wait_until(|| step.done.0.load(Ordering::Acquire) >= step.tiles);
            }
        }
    }

    fn note(&self, payload: Box<dyn Any + Send>) {
        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
        self.panicked.store(true, Ordering::Relaxed);
    }
}

fn wait_until(ready: impl Fn() -> bool) {
    let mut spins = 0;
    while !ready() {
        spins += 1;
        if spins < SPINS { spin_loop() } else { thread::yield_now() }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        for thread in self.others.drain(..) {
            thread.thread().unpark();
            // It caught its panics; there is nothing to learn.
            let _: thread::Result<()> = thread.join();
        }
    }
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Team({} threads)", self.threads())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn team(threads: usize) -> Team {
        Team::new(NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    #[test]
    fn every_tile_of_every_step_is_done_once_and_steps_do_not_overlap() {
        for threads in [1, 2, 3, LANES_MAX, LANES_MAX + 2, 2 * LANES_MAX] {
            let mut team = team(threads);
            for round in 0..50 {
                let tiles = [1, 7, 0, 40, round];
                let done: Vec<Mutex<Vec<usize>>> = tiles.iter().map(|_| Mutex::default()).collect();
                team.run(&tiles, &|step, tile, thread| {
                    assert!(thread < threads);
                    for (before, tiles) in done[..step].iter().zip(tiles) {
                        assert_eq!(before.lock().unwrap().len(), tiles, "step {step} began early");
                    }
                    done[step].lock().unwrap().push(tile);
                });
                for (done, tiles) in done.iter().zip(tiles) {
                    let mut done = done.lock().unwrap().clone();
                    done.sort_unstable();
                    assert!(done.into_iter().eq(0..tiles));
                }
            }
        }
    }

    #[test]
    fn threads_share_the_work_and_none_is_in_two_places() {
        let mut team = team(3);
        let busy = [const { AtomicBool::new(false) }; 3];
        let barrier = std::sync::Barrier::new(3);
        let met = Mutex::new(BTreeSet::new());
        // Three tiles that can only end together need three threads.
        team.run(&[3], &|_, _, thread| {
            assert!(!busy[thread].swap(true, Ordering::SeqCst));
            barrier.wait();
            met.lock().unwrap().insert(thread);
            busy[thread].store(false, Ordering::SeqCst);
        });
        assert_eq!(met.into_inner().unwrap(), BTreeSet::from([0, 1, 2]));
    }

    #[test]
    fn tiles_of_a_thread_that_is_late_are_done_by_others() {
        for threads in [2, 3, LANES_MAX + 2] {
            let mut team = team(threads);
            let others = AtomicUsize::new(0);
            // The first tile ends when all others are done, of which some are dealt to the thread that holds it.
            team.run(&[40], &|_, tile, _| match tile {
                0 => wait_until(|| others.load(Ordering::SeqCst) >= 39),
                _ => {
                    others.fetch_add(1, Ordering::SeqCst);
                }
            });
            assert_eq!(others.into_inner(), 39);
        }
    }

    #[test]
    fn threads_that_are_on_time_stride_through_a_step() {
        for threads in [2, 10, 2 * LANES_MAX] {
            let lanes = lanes(threads);
            let mut step = Step::new(lanes);
            step.start(100);
            let mut expected: Vec<usize> = (0..threads).collect();
            // As long as no lane is empty.
            for _ in 0..3 {
                for (thread, expected) in expected.iter_mut().enumerate() {
                    assert_eq!(step.claim(thread % lanes), Some(*expected), "thread {thread} of {threads}");
                    *expected += stride(threads, *expected);
                }
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let mut team = team(2);
        let failed = catch_unwind(AssertUnwindSafe(|| {
            team.run(&[20, 20], &|step, tile, _| assert!((step, tile) != (0, 13), "thirteen"));
        }));
        let payload = failed.unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"thirteen"));
        let count = AtomicUsize::new(0);
        team.run(&[10], &|_, _, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }

    #[test]
    fn wakes_threads_that_fell_asleep() {
        let mut team = team(2);
        wait_until(|| team.shared.asleep[1].0.load(Ordering::SeqCst));
        let barrier = std::sync::Barrier::new(2);
        team.run(&[2], &|_, _, _| {
            barrier.wait();
        });
    }
}
