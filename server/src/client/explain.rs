//! `shoal explain`: how a running server's queues and workers stand, and why.

mod json;
mod page;

use std::io::Write;
use std::time::Duration;

use shoal_proto::v1::admin_client::AdminClient;
use shoal_proto::v1::{ExplainRequest, ExplainResponse};
use tonic::{Code, Status};

use super::address::{Address, ConnectError};
use super::credentials::{Credentials, Line};
use super::deadline;

/// A thousand calls, and as many models.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Who watches asks no more often.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Clears a terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// See what waits on a running server, what for, and what its workers do.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// Only this model, its workers and its calls.
    #[arg(long, default_value = "")]
    pub model: String,
    /// Where the server listens for admin calls: what it was given as --admin-listen.
    #[arg(long, value_name = "[https://]HOST:PORT", default_value = "127.0.0.1:8004", env = "SHOAL_ADMIN_ADDR")]
    pub addr: Address,
    #[command(flatten, next_help_heading = "A server with TLS, or that asks who calls")]
    pub credentials: Credentials,
    /// Waiting calls to show, those that have waited longest; 1000 at most.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub calls: u32,
    /// Print it as JSON, on one line.
    #[arg(long)]
    pub json: bool,
    /// Ask again and again, until interrupted; every second, or as often as said, at least 100ms apart.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "1s",
          value_parser = pause)]
    pub watch: Option<Duration>,
    /// Give up after this long.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// Why nothing is explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error(
        "no server takes admin calls at {} ({})\n\
         start one with `shoal serve --admin-listen {}`, or name another address with --addr host:port",
        .address, .reason, .address
    )]
    Connect { address: Address, reason: String },
    #[error(transparent)]
    Credentials(ConnectError),
    #[error("{0} is no address for admin calls: ask at the one the server was given as --admin-listen")]
    NoAdmin(Address),
    #[error("the server answered {:?}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
    #[error("cannot write: {0}")]
    Write(#[from] std::io::Error),
}

impl ExplainError {
    /// The next answer may be another: a server may be busy, or be started again.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() != Code::NotFound)
    }
}

/// Asks, once or for as long as it is watched, and writes the answers to `out`, and to `problems` why there is none this
/// time. `clears` says that `out` is a terminal, of which each answer has all.
pub async fn run(
    args: &ExplainArgs,
    clears: bool,
    out: &mut impl Write,
    problems: &mut impl Write,
) -> Result<(), ExplainError> {
    let channel = args.credentials.connect(&args.addr).await.map_err(|error| match error {
        ConnectError::NoServer { address, reason } => ExplainError::Connect { address, reason },
        error @ ConnectError::File { .. } => ExplainError::Credentials(error),
    })?;
    let mut client = AdminClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    loop {
        match ask(args, &mut client).await {
            Ok(answer) => {
                let page = if args.json { json::line(&answer) } else { page::page(&answer) };
                let clear = if clears && !args.json && args.watch.is_some() { CLEAR } else { "" };
                write!(out, "{clear}{page}")?;
                out.flush()?;
            }
            Err(error) if args.watch.is_some() && error.may_pass() => writeln!(problems, "shoal: {error}")?,
            Err(error) => return Err(error),
        }
        match args.watch {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Ok(()),
        }
    }
}

async fn ask(args: &ExplainArgs, client: &mut AdminClient<Line>) -> Result<ExplainResponse, ExplainError> {
    let request = ExplainRequest { model: args.model.clone(), calls_max: args.calls };
    let call = client.explain(deadline::request(request, args.timeout));
    deadline::answer(call, args.timeout).await.map_err(|status| match status.code() {
        Code::Unimplemented => ExplainError::NoAdmin(args.addr.clone()),
        _ => ExplainError::Refused(Box::new(status)),
    })
}

/// How long to wait between two answers.
fn pause(text: &str) -> Result<Duration, String> {
    let pause = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if pause < PAUSE_MIN {
        return Err(format!("must be at least {}", humantime::format_duration(PAUSE_MIN)));
    }
    Ok(pause)
}

#[cfg(test)]
mod tests;
