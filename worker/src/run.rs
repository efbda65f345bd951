//! Puts the parts together and keeps them for as long as the worker lives.

use std::future::Future;
use std::io;

use tokio::sync::{oneshot, watch};

use crate::backend::{Compute, Stack};
use crate::device::Opened;
use crate::executor::Executor;
use crate::link::{Link, Stop};
use crate::monitor::Monitor;
use crate::{CpuIsa, Options};

/// How a worker's life ended in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything it had taken is answered.
    Drained,
    /// The time to drain ended before the batches did.
    GraceEnded,
    /// The server will never have it.
    Refused {
        /// Why.
        reason: Refusal,
        /// The server's words.
        detail: String,
    },
    /// The process that started it is gone.
    ParentGone,
}

/// Why a server will never have a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// They have no version of the protocol in common.
    Protocol,
    /// The token is wrong.
    Auth,
}

/// Why a worker could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no GPU, and one was asked for.
    #[error("--device cuda: {0}")]
    NoCuda(String),
    /// The GPU that was named is not there.
    #[error("--gpu: {0}")]
    NoGpu(String),
    /// The device is of no use any more.
    #[error("the device broke: {0}")]
    Broken(String),
    /// The processor lacks the instructions asked for.
    #[error("--cpu-isa {asked}: this processor has only {has}")]
    Instructions {
        /// What was asked for.
        asked: CpuIsa,
        /// The best there is.
        has: CpuIsa,
    },
    /// The system gives no threads.
    #[error("cannot start the compute threads")]
    Threads(#[source] io::Error),
    /// The system gives no thread.
    #[error("cannot start a thread")]
    Thread(#[from] io::Error),
    /// The kernel will not tell of the parent's death.
    #[error("cannot ask the kernel to end this worker with its parent")]
    ParentDeath(#[source] io::Error),
    /// The thread that owns the device is gone, so nothing can be computed any more.
    #[error("the executor ended; its panic is in the log")]
    ExecutorEnded,
    /// The device is stuck: no batch can be run until the process is replaced.
    #[error("a batch of a connection that ended {0:?} ago still runs: the device is stuck")]
    Stuck(std::time::Duration),
}

/// Runs a worker until it is told to stop, by `shutdown` or by its server, and has drained.
///
/// Needs a tokio runtime with time and I/O. When it returns, the process should end: a batch that hangs keeps its thread.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<Exit, RunError> {
    if let Some(parent) = options.parent
        && !bind_to_parent(parent).map_err(RunError::ParentDeath)?
    {
        return Ok(Exit::ParentGone);
    }
    let stdin_ends = options.exit_on_stdin_end.then(watch_stdin).transpose()?;
    let has = CpuIsa::detect();
    if let Some(asked) = options.cpu_isa.filter(|asked| *asked > has) {
        return Err(RunError::Instructions { asked, has });
    }
    let compute = Compute::new(options.threads, options.cpu_isa.unwrap_or(has)).map_err(RunError::Threads)?;
    let Opened { device, compute, meter } = Opened::new(&options, compute)?;
    let monitor = meter.map(Monitor::start).transpose()?;
    let stack = Stack::new(&compute);
    let executor = Executor::start(move || stack, compute)?;
    let (stop, stopped) = watch::channel(Stop::Not);
    // Boxed, or everyone who runs a worker would carry its whole state in a future of their own.
    let mut link = Box::pin(Link::new(options, executor, device, monitor, stopped).run());
    let stdin_ended = async {
        match stdin_ends {
            Some(ends) => ends.await.unwrap_or(()),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        exit = &mut link => return exit,
        () = shutdown => stop.send_replace(Stop::Drain),
        () = stdin_ended => stop.send_replace(Stop::ParentGone),
    };
    link.await
}

/// Asks the kernel to kill this process when its parent dies. False if the parent is dead already.
#[cfg(target_os = "linux")]
fn bind_to_parent(parent: u32) -> io::Result<bool> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    if !is_parent(parent) {
        return Ok(false);
    }
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Again after asking: a parent that died in between left no signal, but another parent.
    Ok(is_parent(parent))
}

/// Other systems have no such signal; there the end of standard input tells.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "asking the kernel can fail where there is a way to ask it")]
fn bind_to_parent(parent: u32) -> io::Result<bool> {
    Ok(is_parent(parent))
}

/// Whether this process is still the child of `parent`.
fn is_parent(parent: u32) -> bool {
    rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get().cast_unsigned() == parent)
}

/// Resolves when standard input ends. Its thread ends with it, or with the process.
fn watch_stdin() -> io::Result<oneshot::Receiver<()>> {
    let (ended, ends) = oneshot::channel();
    std::thread::Builder::new().name("shoal-stdin".to_owned()).spawn(move || {
        // What it says does not matter, nor why it ended; a receiver that is gone does not wait for it.
        let _: io::Result<u64> = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _: Result<(), ()> = ended.send(());
    })?;
    Ok(ends)
}
