//! Local workers: child processes of the running executable, started, watched, started again, ended.
//!
//! A child talks over a Unix socket in a folder only this user may open, with a token of its own that it reads from its
//! standard input. The same pipe ties it to this process: when it closes, the child ends.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use shoal_scheduler::DownCause;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::driver::{Event, Handle, ToSupervisor};
use crate::link::Tokens;
use crate::metrics::Metrics;

/// The first pause before a child is started again; doubles with each useless life.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Lives in a row that loaded no model, after which a child is given up. One that loaded a model was brought down by
/// what it ran, and finding the culprit may take many lives.
const USELESS_LIVES_MAX: u32 = 8;
/// The same for children that cannot be started, or say by their exit code that they cannot work, before any was of
/// use: it would be the same again.
const STILLBORN_LIVES_MAX: u32 = 3;
/// Lives that ended with a broken device within [`BROKEN_TIME`], useful or not, after which a child is given up. An input
/// that breaks devices is found in fewer, halving after halving; a device that goes on without it is worn out, and every
/// life on it costs the time that models take to load, and whatever it runs one of its attempts.
const BROKEN_LIVES_MAX: usize = 8;
/// See there.
const BROKEN_TIME: Duration = Duration::from_secs(600);
/// The exit code of a worker whose device broke: EX_IOERR of sysexits.h.
pub const DEVICE_BROKE: u8 = 74;
/// Bytes of one line of a child's messages; longer ones are cut in several.
const LINE_BYTES_MAX: u64 = 16 << 10;
/// Lines of a child's last words that are kept.
const LAST_WORDS: usize = 12;

/// The local workers that there are to be.
#[derive(Clone, Debug)]
pub struct LocalWorkers {
    /// The running executable.
    pub program: PathBuf,
    /// Of each, its arguments after `worker`: the same in all its lives.
    pub arguments: Vec<Vec<String>>,
}

/// How local workers are started.
#[derive(Clone, Debug)]
pub struct ChildOptions {
    /// Which.
    pub workers: LocalWorkers,
    /// The socket they dial.
    pub socket: PathBuf,
    /// How long one may take to end by itself when asked to.
    pub stop_time_max: Duration,
}

/// What became of a child that is not started again.
#[derive(Clone, Debug)]
pub struct GivenUp {
    /// Its name.
    pub worker: Arc<str>,
    /// Why: how it ended and the last it said, in one line.
    pub reason: String,
}

/// The running local workers.
#[derive(Debug)]
pub struct Supervisor {
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    driver: Handle,
    stop_time_max: Duration,
}

/// What every child's task needs.
#[derive(Clone, Debug)]
struct Context {
    options: Arc<ChildOptions>,
    tokens: Tokens,
    driver: Handle,
    metrics: Metrics,
    given_up: mpsc::UnboundedSender<GivenUp>,
    stop: CancellationToken,
}

impl Supervisor {
    /// Starts the local workers on the calling runtime, whose thread must live as long as they do: the system ends a
    /// child when the thread that started it ends. `told` is what the driver knows of them.
    pub fn start(
        options: ChildOptions,
        tokens: Tokens,
        driver: Handle,
        metrics: Metrics,
        mut told: mpsc::UnboundedReceiver<ToSupervisor>,
        given_up: mpsc::UnboundedSender<GivenUp>,
    ) -> Self {
        let stop = CancellationToken::new();
        let (count, stop_time_max) = (options.workers.arguments.len(), options.stop_time_max);
        let context = Context {
            options: Arc::new(options),
            tokens,
            driver: driver.clone(),
            metrics,
            given_up,
            stop: stop.clone(),
        };
        let mut children = Vec::with_capacity(count);
        let mut tasks = Vec::with_capacity(count);
        for index in 0..count {
            let name: Arc<str> = format!("local-{index}").into();
            let (news, news_in) = mpsc::unbounded_channel();
            children.push((name.clone(), news));
            tasks.push(tokio::spawn(context.clone().keep_alive(index, name, news_in)));
        }
        tokio::spawn(async move {
            while let Some(news) = told.recv().await {
                let (ToSupervisor::Replace(name) | ToSupervisor::Useful(name)) = &news;
                if let Some((_, child)) = children.iter().find(|(known, _)| known == name) {
                    let _ = child.send(news);
                }
            }
        });
        Self { tasks, stop, driver, stop_time_max }
    }

    /// Dismisses every child, and returns when all have ended; those that take too long are killed.
    pub async fn stop(self) {
        self.driver.tell(Event::Dismiss { grace: self.stop_time_max / 2 }).await;
        self.stop.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// When a child's device broke, in the last [`BROKEN_TIME`].
#[derive(Debug, Default)]
struct Breaks(VecDeque<Instant>);

impl Breaks {
    /// Says how many there are with one more.
    fn count(&mut self, now: Instant) -> usize {
        self.0.retain(|at| now.duration_since(*at) < BROKEN_TIME);
        self.0.push_back(now);
        self.0.len()
    }
}

/// How one life of a child ended.
enum Ended {
    /// The server is stopping.
    Stopped,
    /// By itself, or killed for hanging or from outside.
    Exited { status: ExitStatus, replaced: bool, useful: bool, last_words: String },
    /// It could not be started.
    NotStarted(std::io::Error),
}

impl Context {
    async fn keep_alive(self, index: usize, name: Arc<str>, mut news: mpsc::UnboundedReceiver<ToSupervisor>) {
        let (mut useless_lives, mut ever_useful, mut breaks) = (0, false, Breaks::default());
        loop {
            // News of an earlier life is not about the next one.
            while news.try_recv().is_ok() {}
            useless_lives += 1;
            let ended = self.live(index, &name, &mut news).await;
            let (mut lives_max, mut broken_lives) = (USELESS_LIVES_MAX, 0);
            let reason = match ended {
                Ended::Stopped => return,
                Ended::NotStarted(problem) => {
                    if !ever_useful && matches!(problem.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) {
                        lives_max = STILLBORN_LIVES_MAX;
                    }
                    format!("it could not be started: {problem}")
                }
                Ended::Exited { status, replaced, useful, last_words } => {
                    if useful {
                        (useless_lives, ever_useful) = (1, true);
                    }
                    if !ever_useful && status.code().is_some_and(|code| code != 0) {
                        lives_max = STILLBORN_LIVES_MAX;
                    }
                    // What it ran was judged when it was given up; the end of its process adds nothing to that.
                    let cause = if replaced { DownCause::Lost } else { cause_of(status) };
                    if cause == DownCause::DeviceBroke {
                        broken_lives = breaks.count(Instant::now());
                    }
                    self.driver.tell(Event::ProcessEnded { worker: name.clone(), cause }).await;
                    format!("{status}{last_words}")
                }
            };
            let is_worn_out = broken_lives >= BROKEN_LIVES_MAX;
            if is_worn_out || useless_lives >= lives_max {
                let lives = match is_worn_out {
                    true => format!("its device broke in {broken_lives} lives within {BROKEN_TIME:?}"),
                    false => format!("{useless_lives} lives in a row loaded no model"),
                };
                error!(worker = %name, %reason, "worker given up: {lives}");
                let _ = self.given_up.send(GivenUp { worker: name, reason: in_one_line(&reason) });
                return;
            }
            let pause = backoff(useless_lives);
            warn!(worker = %name, %reason, "worker ended, starting it again in {pause:?}");
            self.metrics.worker_restarted(&name);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Starts a child and stays with it to its end.
    async fn live(&self, index: usize, name: &Arc<str>, news: &mut mpsc::UnboundedReceiver<ToSupervisor>) -> Ended {
        // Held apart from the child: waiting for a child closes its standard input.
        let (mut child, stdin) = match self.spawn(index, name).await {
            Ok(started) => started,
            Err(problem) => return Ended::NotStarted(problem),
        };
        let words = child.stderr.take().map(|stderr| tokio::spawn(pass_on(stderr)));
        let (mut replaced, mut useful) = (false, false);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                Some(news) = news.recv() => match news {
                    ToSupervisor::Useful(_) => useful = true,
                    ToSupervisor::Replace(_) => {
                        replaced = true;
                        let _ = child.start_kill();
                    }
                },
                () = self.stop.cancelled() => {
                    self.end(name, &mut child, stdin).await;
                    return Ended::Stopped;
                }
            }
        };
        let last_words = match words {
            Some(words) => words.await.unwrap_or_default(),
            None => String::new(),
        };
        match status {
            Ok(status) => Ended::Exited { status, replaced, useful, last_words },
            Err(problem) => Ended::NotStarted(problem),
        }
    }

    async fn spawn(&self, index: usize, name: &Arc<str>) -> std::io::Result<(Child, Option<ChildStdin>)> {
        // A token is for one life.
        let token = format!("{:032x}", rand::rng().random::<u128>());
        self.tokens.admit_child(name, &token);
        let mut child = Command::new(&self.options.workers.program)
            .arg("worker")
            .arg("--child-of")
            .arg(std::process::id().to_string())
            .arg("--connect")
            .arg(format!("unix:{}", self.options.socket.display()))
            .arg("--name")
            .arg(&**name)
            .args(&self.options.workers.arguments[index])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Of its own, so that a terminal's interrupt goes to the server alone, which still needs its workers then.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take();
        if let Some(stdin) = &mut stdin {
            stdin.write_all(format!("{token}\n").as_bytes()).await?;
        }
        info!(worker = %name, pid = child.id(), "worker started");
        Ok((child, stdin))
    }

    /// A child that was dismissed over its link ends by itself. One that has no link is told by the end of its standard
    /// input, and one that does not listen to that either is killed.
    async fn end(&self, name: &Arc<str>, child: &mut Child, stdin: Option<ChildStdin>) {
        let patience = self.options.stop_time_max / 2;
        if timeout(patience, child.wait()).await.is_ok() {
            return;
        }
        drop(stdin);
        if timeout(patience, child.wait()).await.is_err() {
            warn!(worker = %name, "worker did not end in time, killing it");
            let _ = child.kill().await;
        }
    }
}

/// Passes a child's messages on line by line, and returns the last of them.
async fn pass_on(stderr: ChildStderr) -> String {
    let mut stderr = BufReader::new(stderr);
    let mut last: VecDeque<String> = VecDeque::with_capacity(LAST_WORDS);
    let mut bytes = Vec::new();
    // Whatever a child writes, its pipe stays open: one that cannot write its messages would fail for that.
    while let Ok(1..) = (&mut stderr).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).await {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        bytes.clear();
        // Nobody may be listening; macros that print would panic then, and the pipe close.
        let _ = writeln!(std::io::stderr(), "{line}");
        if last.len() == LAST_WORDS {
            last.pop_front();
        }
        last.push_back(line);
    }
    last.iter().map(|line| format!("\n    {line}")).collect()
}

/// The first line and the last.
fn in_one_line(reason: &str) -> String {
    let mut lines = reason.lines().map(str::trim);
    let first = lines.next().unwrap_or_default().to_owned();
    lines.next_back().map_or(first.clone(), |last| format!("{first}: {last}"))
}

/// A signal that a fault of the process itself raises is a crash; others were sent from outside.
fn cause_of(status: ExitStatus) -> DownCause {
    const SIGILL: i32 = 4;
    const SIGTRAP: i32 = 5;
    const SIGABRT: i32 = 6;
    const SIGBUS: i32 = 7;
    const SIGFPE: i32 = 8;
    const SIGSEGV: i32 = 11;
    const SIGSYS: i32 = 31;
    match status.signal() {
        Some(SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV | SIGSYS) => DownCause::Crashed,
        Some(_) => DownCause::Lost,
        None if status.success() => DownCause::Lost,
        None if status.code() == Some(i32::from(DEVICE_BROKE)) => DownCause::DeviceBroke,
        None => DownCause::Crashed,
    }
}

fn backoff(useless_lives: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << useless_lives.saturating_sub(1).min(10)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_from_outside_is_no_crash() {
        assert_eq!(cause_of(ExitStatus::from_raw(9)), DownCause::Lost);
        assert_eq!(cause_of(ExitStatus::from_raw(15)), DownCause::Lost);
    }

    #[test]
    fn an_abort_and_an_exit_code_are_crashes() {
        assert_eq!(cause_of(ExitStatus::from_raw(6)), DownCause::Crashed);
        assert_eq!(cause_of(ExitStatus::from_raw(11)), DownCause::Crashed);
        assert_eq!(cause_of(ExitStatus::from_raw(1 << 8)), DownCause::Crashed);
    }

    #[test]
    fn a_worker_says_by_its_exit_code_that_its_device_broke() {
        assert_eq!(cause_of(ExitStatus::from_raw(i32::from(DEVICE_BROKE) << 8)), DownCause::DeviceBroke);
    }

    #[test]
    fn breaks_are_forgotten_after_a_while() {
        let (mut breaks, start) = (Breaks::default(), Instant::now());
        assert_eq!(breaks.count(start), 1);
        assert_eq!(breaks.count(start + BROKEN_TIME / 2), 2);
        assert_eq!(breaks.count(start + BROKEN_TIME), 2);
        assert_eq!(breaks.count(start + BROKEN_TIME * 3), 1);
    }

    #[test]
    fn last_words_are_cut_to_the_last() {
        assert_eq!(in_one_line("exit status: 1"), "exit status: 1");
        assert_eq!(in_one_line("exit status: 1\n    a note\n    shoal: no device"), "exit status: 1: shoal: no device");
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses: Vec<_> = (1..=9).map(backoff).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }
}
