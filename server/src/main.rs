//! `shoal`: one binary, several roles. This file starts a role, and hands over what only the worker knows of models and
//! of GPUs; it alone knows the worker.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use shoal_server::cli::{self, Cli, Command, StandardInput, WorkerArgs};
use shoal_server::config::{CpuIsa, Device};
use shoal_server::gpus::{Gpu, Gpus};
use shoal_server::models::{Inspect, Inspection, Place};
use shoal_server::supervisor::DEVICE_BROKE;
use shoal_server::telemetry;
use shoal_worker::{
    Auth, Budget, DeviceChoice, Endpoint, Exit, GpuInfo, ModelSource, Options, RunError, SyntheticCurve, TlsFiles,
};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    shoal_server::tls::choose_provider();
    let outcome = match Cli::parse().command {
        Command::Worker(args) => worker(args),
        Command::Devices(args) => args.show(&gpus()),
        command => cli::run(command, Inspect { check, plan }),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("shoal: {}", cli::one_line(&error));
        ExitCode::FAILURE
    })
}

fn worker(args: WorkerArgs) -> cli::Outcome {
    telemetry::init(&args.log, args.log_format).map_err(anyhow::Error::msg)?;
    let auth = match args.child_of {
        Some(_) => StandardInput::read()?.token,
        None => args.worker_token.clone(),
    };
    let connect = args.connect.iter().map(|address| address.parse()).collect::<Result<Vec<Endpoint>, _>>()?;
    let mut options = Options::to(connect, args.name(), auth);
    // A child's token is its own, whatever file its server was told of.
    if let Some(path) = args.token_file.clone().filter(|_| args.child_of.is_none()) {
        options.auth = Auth::File(path);
    }
    options.tls = TlsFiles {
        ca: args.tls_ca.clone(),
        identity: args.tls_cert.clone().zip(args.tls_key.clone()),
        server_name: args.tls_server_name.clone(),
    };
    anyhow::ensure!(
        options.tls.ca.is_some() || !options.connect.iter().any(Endpoint::is_tls),
        "--connect is to https://, which needs --tls-ca: the authority that signed the server's certificate"
    );
    options.device = match args.device {
        Device::Auto => DeviceChoice::Auto,
        Device::Cpu => DeviceChoice::Cpu,
        Device::Cuda => DeviceChoice::Cuda,
    };
    (options.gpu, options.gpu_workers) = (args.gpu.parse()?, args.gpu_workers);
    options.kernels = args.kernels();
    options.cpu_isa = match args.cpu_isa {
        CpuIsa::Auto => None,
        other => Some(other.as_str().parse()?),
    };
    options.threads = args.worker_threads;
    options.parent = args.child_of;
    options.exit_on_stdin_end = args.child_of.is_some();
    options.pool = args.pool.clone();
    options.version = env!("CARGO_PKG_VERSION").to_owned();
    if let Some(tokens) = args.worker_batch_tokens {
        options.budget = Some(Budget { tokens: tokens.get(), ..Budget::default() });
    }
    let models = args.find_models()?;
    options.offers = models.into_iter().map(|(name, place)| (name, source(place))).collect::<BTreeMap<_, _>>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(async { anyhow::Ok(shoal_worker::run(options, stop()?).await) })? {
        Ok(Exit::Refused { detail, .. }) => anyhow::bail!("the server refused this worker: {detail}"),
        Ok(Exit::Drained | Exit::GraceEnded | Exit::ParentGone) => Ok(ExitCode::SUCCESS),
        // What it ran may not be to blame, which the server is to know.
        Err(error @ RunError::Broken(_)) => {
            eprintln!("shoal: {error}");
            Ok(ExitCode::from(DEVICE_BROKE))
        }
        Err(error) => Err(error.into()),
    }
}

/// Done when somebody asks this process to stop.
fn stop() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// What the worker says of this machine.
fn gpus() -> Gpus {
    let found = match shoal_worker::gpus() {
        Ok(found) => found,
        Err(missing) => return Gpus { gpus: Vec::new(), missing: Some(missing.to_string()) },
    };
    let numbered = |(index, gpu): (u32, GpuInfo)| Gpu {
        index,
        name: gpu.name,
        uuid: gpu.uuid,
        address: gpu.address,
        compute_capability: format!("{}.{}", gpu.capability.0, gpu.capability.1),
        memory_bytes: gpu.memory,
        missing: gpu.missing,
    };
    Gpus { gpus: (0..).zip(found).map(numbered).collect(), missing: None }
}

/// What the worker says of a model's folder.
fn check(folder: &Path) -> Inspection {
    let shoal_worker::Inspection { facts, problems, vocabulary } = shoal_worker::inspect(folder);
    Inspection { facts, problems, vocabulary }
}

fn plan(folder: &Path, length: usize) -> Result<String, String> {
    shoal_worker::describe_plan(folder, length).map_err(|error| error.to_string())
}

fn source(place: Place) -> ModelSource {
    match place {
        Place::Folder(folder) => ModelSource::Folder(folder),
        Place::Echo => ModelSource::Echo,
        Place::Synthetic(curve) => ModelSource::Synthetic(SyntheticCurve {
            floor: curve.floor,
            base: curve.base,
            per_row: curve.per_row,
            per_token: curve.per_token,
            nanos_per_token_squared: curve.nanos_per_token_squared,
            noise: curve.noise,
            seed: curve.seed,
            faults: curve.faults,
            memory_rows: curve.memory_rows,
        }),
    }
}

#[cfg(test)]
mod tests {
    use shoal_server::config::{WORKER_BATCH_ROWS, WORKER_BATCH_TOKENS};
    use shoal_worker::Budget;

    #[test]
    fn a_plan_knows_what_a_worker_takes_in_one_batch() {
        let Budget { rows, tokens, .. } = Budget::default();
        assert_eq!((rows, tokens), (WORKER_BATCH_ROWS, WORKER_BATCH_TOKENS));
    }
}
