//! `shoal demo`: the main job from nothing, in one command.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::process::ExitCode;

use clap::Args;

use crate::client;
use crate::config::{Config, ModelConfig, Settings};
use crate::models::{ModelName, Source};
use crate::telemetry::{self, LogControl, LogFormat};

use super::{Outcome, files, serve};

/// Arguments of `shoal demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// The model to show: an embedding model of the catalogue, or a folder.
    #[arg(long, default_value = "minilm")]
    model: Source,
    /// What to log.
    #[arg(long, value_name = "FILTER", env = "SHOAL_LOG", default_value = "warn,shoal::models=info")]
    log: String,
}

pub(super) fn run(args: DemoArgs) -> Outcome {
    let log = telemetry::init(&args.log, LogFormat::Text).map_err(anyhow::Error::msg)?;
    super::runtime()?.block_on(demo(args, log))
}

/// The same weights twice: once batched, once in batches of one, to show what batching buys.
async fn demo(args: DemoArgs, log: LogControl) -> Outcome {
    let mut config = Config::load(Settings::default())?;
    let anywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    (config.grpc, config.http, config.metrics) = (anywhere, None, anywhere);
    config.log = args.log;
    let batched: ModelName = "demo".parse()?;
    let single: ModelName = "demo-one-by-one".parse()?;
    let mut one_by_one = ModelConfig::new(single.clone(), args.model.clone());
    one_by_one.batch_rows_max = NonZeroU32::MIN;
    config.models = vec![ModelConfig::new(batched.clone(), args.model), one_by_one];
    let store = super::store(None)?;
    let models = {
        let (config, store) = (config.clone(), store.clone());
        tokio::task::spawn_blocking(move || files::model_settings(&config, &store)).await??
    };
    let mut server = serve::start(&config, models, &store, &[None], log).await?;
    let address = server.grpc_address();
    println!("server on {address}, one local worker");
    let result = tokio::select! {
        result = show(&mut server, address, &batched, &single) => result,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
    };
    server.stop().await;
    result
}

async fn show(
    server: &mut crate::server::Server,
    address: SocketAddr,
    batched: &ModelName,
    single: &ModelName,
) -> Outcome {
    server.ready().await?;
    let mut out = std::io::stdout();
    client::demo(address, batched.as_str(), single.as_str(), &mut out).await?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
