//! What a pull tells while it runs, and how it is shown: a bar on a terminal, a log line every 10 % elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Something happened in a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A mirror is tried.
    Trying { mirror: String },
    /// It was given up; the next is tried.
    Skipped { mirror: String, reason: String },
    /// Another process pulls the same model; this one waits for it.
    Waiting { model: String },
    /// So much is there. The total grows while sizes are still unknown.
    Bytes { done: u64, total: u64 },
    /// Everything is there and verified.
    Done { folder: String },
}

/// Who is told. A plain function, since there is nothing else to say to it.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// Shows progress to a person.
#[derive(Debug)]
pub struct Renderer {
    bar: ProgressBar,
    lines: Option<Lines>,
}

impl Renderer {
    /// A bar if standard error is a terminal, else log lines.
    pub fn new() -> Self {
        if std::io::stderr().is_terminal() {
            Self { bar: bar(), lines: None }
        } else {
            Self { bar: ProgressBar::hidden(), lines: Some(Lines::default()) }
        }
    }

    /// Shows one event.
    pub fn show(&mut self, event: Progress) {
        match &mut self.lines {
            Some(lines) => {
                if let Some(line) = lines.line(&event) {
                    tracing::info!(target: "shoal::models", "{line}");
                }
            }
            None => self.draw(event),
        }
    }

    fn draw(&self, event: Progress) {
        match event {
            Progress::Trying { mirror } => {
                self.bar.set_message(mirror);
                self.bar.enable_steady_tick(Duration::from_millis(100));
            }
            Progress::Skipped { mirror, reason } => self.bar.println(format!("skipped {mirror}: {reason}")),
            Progress::Waiting { model } => self.bar.set_message(format!("another process pulls {model}, waiting")),
            Progress::Bytes { done, total } => {
                self.bar.set_length(total);
                self.bar.set_position(done);
            }
            Progress::Done { folder } => {
                self.bar.finish_and_clear();
                self.bar.println(format!("pulled into {folder}"));
            }
        }
    }
}

impl Default for Renderer {
    fn default() -> Self {
        Self::new()
    }
}

fn bar() -> ProgressBar {
    const TEMPLATE: &str =
        "{spinner} {wide_msg}\n  {wide_bar} {bytes:>10} of {total_bytes:<10} {binary_bytes_per_sec:>12}";
    // The fallback is never needed, as the template is a constant that a test reads.
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// Turns events into few lines.
#[derive(Debug, Default)]
struct Lines {
    /// Tenths of the whole that a line was written for.
    tenths: u64,
}

impl Lines {
    fn line(&mut self, event: &Progress) -> Option<String> {
        match event {
            Progress::Trying { mirror } => {
                self.tenths = 0;
                Some(format!("pulling from {mirror}"))
            }
            Progress::Skipped { mirror, reason } => Some(format!("skipped {mirror}: {reason}")),
            Progress::Waiting { model } => Some(format!("another process pulls {model}, waiting")),
            Progress::Bytes { done, total } => {
                let tenths = (done * 10).checked_div(*total)?;
                let risen = tenths > self.tenths;
                self.tenths = self.tenths.max(tenths);
                risen.then(|| format!("{} % of {}", tenths * 10, megabytes(*total)))
            }
            Progress::Done { folder } => Some(format!("pulled into {folder}")),
        }
    }
}

/// As people write sizes: `91.6 MB`.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::{Lines, Progress, Renderer, bar};

    #[test]
    fn writes_one_line_for_each_tenth() {
        let mut lines = Lines::default();
        let written: Vec<_> = (0..=1000)
            .filter_map(|done| lines.line(&Progress::Bytes { done: done * 1000, total: 1_000_000 }))
            .collect();
        assert_eq!(written.len(), 10);
        assert_eq!((&*written[0], &*written[9]), ("10 % of 1.0 MB", "100 % of 1.0 MB"));
    }

    #[test]
    fn is_silent_while_the_size_is_unknown() {
        assert_eq!(Lines::default().line(&Progress::Bytes { done: 5, total: 0 }), None);
    }

    #[test]
    fn the_next_mirror_begins_its_own_count() {
        let mut lines = Lines::default();
        assert!(lines.line(&Progress::Bytes { done: 9, total: 10 }).is_some());
        lines.line(&Progress::Trying { mirror: "b".into() });
        assert_eq!(lines.line(&Progress::Bytes { done: 2, total: 10 }).unwrap(), "20 % of 0.0 MB");
    }

    #[test]
    fn every_event_can_be_drawn() {
        let renderer = Renderer { bar: bar(), lines: None };
        let text = || "x".to_owned();
        renderer.draw(Progress::Trying { mirror: text() });
        renderer.draw(Progress::Bytes { done: 3, total: 7 });
        assert_eq!((renderer.bar.position(), renderer.bar.length()), (3, Some(7)));
        renderer.draw(Progress::Waiting { model: text() });
        renderer.draw(Progress::Skipped { mirror: text(), reason: text() });
        renderer.draw(Progress::Done { folder: text() });
        assert!(renderer.bar.is_finished());
    }
}
