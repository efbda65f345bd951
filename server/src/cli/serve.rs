//! `shoal serve`: from flags to a running server, and back to nothing.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::config::{Config, CpuIsa, Device, Settings, Workers};
use crate::driver::ModelSettings;
use crate::gpus::{CannotLook, Gpus};
use crate::link::LinkAddress;
use crate::models::Store;
use crate::server::Server;
use crate::supervisor::LocalWorkers;
use crate::telemetry::{self, LogControl};

use super::Outcome;
use super::banner;
use super::files::model_settings;
use super::reload::Reloads;
use super::seats::{self, Seat, seats};

/// Arguments of `shoal serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(mut args: ServeArgs) -> Outcome {
    if args.settings.model.is_empty() {
        args.settings.model = super::models_of_environment()?;
    }
    let config = Config::load(args.settings.clone())?;
    let log = telemetry::init(&config.log, config.log_format).map_err(anyhow::Error::msg)?;
    if config.models.is_empty() {
        anyhow::bail!(
            "no model to serve: name one, for example `shoal serve --model minilm`, or see `shoal models list`"
        );
    }
    // The server brings threads of its own; this one waits for signals.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(args.settings, config, log));
    // A pull that was interrupted goes on in a thread of its own; nobody waits for it.
    runtime.shutdown_background();
    outcome
}

async fn serve(flags: Settings, mut config: Config, log: LogControl) -> Outcome {
    // Asked for first, so that a signal during the start is not lost.
    let mut stops = Stops::listen(flags.config.is_some())?;
    let store = super::store(config.home.as_ref())?;
    let reloads = Reloads::watch(flags, config.clone(), store.clone(), log.clone())?;
    let (models, (device, seats)) = tokio::select! {
        found = async { tokio::try_join!(find_models(&config, &store), find_seats(&config)) } => found?,
        () = stops.next() => return Ok(ExitCode::from(130)),
    };
    config.device = device;
    if let Some(count) = NonZeroUsize::new(seats.len()) {
        config.workers = Workers::Local(count);
    }
    let mut server = start(&config, models, &store, &seats, log).await?;
    if let LinkAddress::Tcp(address) = server.link_address() {
        let scheme = if config.link_tls.is_some() { "https" } else { "http" };
        println!("workers dial {scheme}://{address}");
    }
    // From now on: what keeps the server from being ready may be in the file. Ends with the runtime.
    if let Some(reloads) = reloads {
        tokio::spawn(reloads.run(server.driver().clone(), server.metrics().clone()));
    }
    let started = tokio::select! {
        ready = server.ready() => ready,
        () = stops.next() => return Ok(stops.stop(server, ExitCode::SUCCESS).await),
    };
    if let Err(problem) = started {
        stops.stop(server, ExitCode::FAILURE).await;
        // The last line, where it is looked for.
        return Err(problem.into());
    }
    let page = banner::page(&server, &config);
    // A closed standard output is no reason not to serve.
    let _ = std::io::stdout().write_all(page.as_bytes());
    let _ = std::io::stdout().flush();
    loop {
        tokio::select! {
            () = stops.next() => break,
            trouble = server.trouble() => {
                error!("{}", trouble.what);
                if trouble.fatal {
                    return Ok(stops.stop(server, ExitCode::FAILURE).await);
                }
            }
        }
    }
    info!("stopping: no new calls, open ones have {:?}", config.drain_time_max);
    Ok(stops.stop(server, ExitCode::SUCCESS).await)
}

/// Starts a server whose local workers, one for each seat, are children of this executable.
pub(super) async fn start(
    config: &Config,
    models: Vec<ModelSettings>,
    store: &Store,
    seats: &[Option<Seat>],
    log: LogControl,
) -> anyhow::Result<Server> {
    let local = match seats {
        [] => None,
        seats => {
            let arguments = seats.iter().map(|seat| worker_arguments(config, seat.as_ref())).collect();
            Some(LocalWorkers { program: executable()?, arguments })
        }
    };
    Ok(Server::start(config, models, store.home().to_owned(), local, log).await?)
}

fn executable() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find the running executable")
}

fn worker_arguments(config: &Config, seat: Option<&Seat>) -> Vec<String> {
    let mut arguments = vec!["--device".to_owned(), config.device.to_string()];
    let mut push = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    if let Some(seat) = seat {
        push("--gpu", seat.uuid.clone());
        push("--gpu-workers", seat.workers.to_string());
    }
    if let Some(threads) = config.worker_threads {
        push("--worker-threads", threads.to_string());
    }
    if let Some(tokens) = config.worker_batch_tokens {
        push("--worker-batch-tokens", tokens.to_string());
    }
    if config.cpu_isa != CpuIsa::Auto {
        push("--cpu-isa", config.cpu_isa.as_str().to_owned());
    }
    push("--log", config.log.clone());
    push("--log-format", format!("{:?}", config.log_format).to_lowercase());
    arguments
}

async fn find_models(config: &Config, store: &Store) -> anyhow::Result<Vec<ModelSettings>> {
    let (config, store) = (config.clone(), store.clone());
    tokio::task::spawn_blocking(move || model_settings(&config, &store)).await?
}

/// Where each local worker is to compute; none where there are no local workers.
async fn find_seats(config: &Config) -> anyhow::Result<(Device, Vec<Option<Seat>>)> {
    let Workers::Local(count) = config.workers else { return Ok((config.device, Vec::new())) };
    let stated = config.are_workers_stated.then_some(count);
    if config.device == Device::Cpu {
        return Ok((Device::Cpu, seats(stated, &[])));
    }
    Ok(seated(config.device, stated, Gpus::find(&executable()?).await)?)
}

/// Workers on what was found. Where that is not known, one that may take a GPU is told not to: it would find the driver as
/// it was just now, with nobody to end its wait.
fn seated(
    device: Device,
    stated: Option<NonZeroUsize>,
    found: Result<Gpus, CannotLook>,
) -> Result<(Device, Vec<Option<Seat>>), CannotLook> {
    match found {
        Ok(gpus) => {
            let seats = seats(stated, &gpus.usable());
            info!("{gpus}; {}", seats::line(&seats));
            Ok((device, seats))
        }
        Err(problem) if device == Device::Auto => {
            let seats = seats(stated, &[]);
            warn!("{problem}; {}, on the processor", seats::line(&seats));
            Ok((Device::Cpu, seats))
        }
        Err(problem) => Err(problem),
    }
}

/// Requests to stop: SIGTERM, SIGINT from a terminal, and SIGHUP when that is closed, unless there is a file to be read again.
#[derive(Debug)]
struct Stops {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: Option<tokio::signal::unix::Signal>,
}

impl Stops {
    fn listen(has_file: bool) -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: (!has_file).then(|| signal(SignalKind::hangup())).transpose()?,
        })
    }

    /// Stops the server; a second request to stop does not wait for it.
    async fn stop(&mut self, server: Server, code: ExitCode) -> ExitCode {
        tokio::select! {
            () = server.stop() => code,
            () = self.next() => {
                warn!("stopped at once by a second signal");
                ExitCode::from(130)
            }
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            Some(_) = async { self.hang_up.as_mut()?.recv().await } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn workers_compute_on_the_processor_where_nobody_can_look_for_gpus_unless_they_must_not() {
        let cannot_look = || Gpus::find("/nowhere".as_ref());
        let found = seated(Device::Auto, None, cannot_look().await).expect("a worker");
        assert_eq!(found, (Device::Cpu, vec![None]));
        assert!(seated(Device::Cuda, None, cannot_look().await).is_err());
        let none = Gpus::default();
        assert_eq!(seated(Device::Auto, None, Ok(none)).expect("a worker"), (Device::Auto, vec![None]));
    }
}
