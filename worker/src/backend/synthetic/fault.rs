//! The commands a synthetic model obeys.

use std::time::Duration;

use crate::batch::BatchError;

/// Longest `!sleep`.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// A command in an input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its own item fails.
    Fail(String),
    /// Its batch takes longer.
    Sleep(Duration),
    /// Its whole batch is struck.
    Strike(Strike),
}

/// What takes a whole batch along, or the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    Break,
    OutOfMemory,
    Hang,
    Exit(i32),
    Abort,
    Panic,
}

impl Fault {
    /// The command in a text, or none if it does not begin with `!`. The error is for whoever wrote the text.
    pub(super) fn parse(text: &[u8]) -> Result<Option<Self>, String> {
        let Some(command) = text.strip_prefix(b"!") else { return Ok(None) };
        let command = String::from_utf8_lossy(command);
        let (verb, rest) = command.split_once(' ').unwrap_or((&command, ""));
        let fault = match verb {
            "fail" => Self::Fail(if rest.is_empty() { "told to fail".to_owned() } else { rest.to_owned() }),
            "break" => Self::Strike(Strike::Break),
            "oom" => Self::Strike(Strike::OutOfMemory),
            "hang" => Self::Strike(Strike::Hang),
            "abort" => Self::Strike(Strike::Abort),
            "panic" => Self::Strike(Strike::Panic),
            "exit" => match rest.trim().parse() {
                Ok(code) => Self::Strike(Strike::Exit(code)),
                Err(_) => return Err(format!("`!exit {rest}`: not an exit code")),
            },
            "sleep" => match humantime::parse_duration(rest.trim()) {
                Ok(longer) if longer <= SLEEP_MAX => Self::Sleep(longer),
                Ok(_) => return Err(format!("`!sleep {rest}`: more than an hour")),
                Err(error) => return Err(format!("`!sleep {rest}`: {error}")),
            },
            _ => {
                return Err(format!(
                    "`!{verb}` is no command; there are !fail !break !oom !hang !exit !abort !panic !sleep"
                ));
            }
        };
        Ok(Some(fault))
    }
}

impl Strike {
    /// Does what it says, or returns how the batch fails.
    pub(super) fn strike(self) -> BatchError {
        match self {
            Self::Break => BatchError::Item("told to break the batch".to_owned()),
            Self::OutOfMemory => BatchError::OutOfMemory("told to run out".to_owned()),
            Self::Hang => loop {
                std::thread::park();
            },
            Self::Exit(code) => std::process::exit(code),
            Self::Abort => std::process::abort(),
            Self::Panic => panic!("told to panic"),
        }
    }
}
