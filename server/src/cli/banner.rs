//! What `shoal serve` prints once it serves: the models, and lines to paste.

use std::fmt::Write as _;

use crate::card::{Card, Task};
use crate::config::{Config, Workers};
use crate::server::Server;

/// The page.
pub(super) fn page(server: &Server, config: &Config) -> String {
    let mut page = String::new();
    let grpc = server.grpc_address();
    let metrics = server.metrics_address();
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["model", "task", "size", "dtype", "limit", "objective", "backend"]);
    let views = server.registry().all();
    for view in &views {
        let Some(card) = &view.card else { continue };
        table.add_row([
            view.name.to_string(),
            card.task.name().to_owned(),
            size(card),
            card.dtype.to_string(),
            if card.tokens_max == 0 { "–".into() } else { format!("{} tokens", card.tokens_max) },
            format!("p99 {}", humantime::format_duration(view.slo)),
            backend(card),
        ]);
    }
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{table}\n");
    let workers = match config.workers {
        Workers::Local(count) => format!("{count} local"),
        Workers::External => "external".to_owned(),
    };
    let http = server.http_address();
    let shown = http.map(|http| format!(" HTTP on {http},")).unwrap_or_default();
    let tls = if config.tls.is_some() { ", all but metrics with TLS" } else { "" };
    let admin = server.admin_address().map(|admin| format!(" admin calls on {admin},")).unwrap_or_default();
    let scaler = server.scaler_address().map(|scaler| format!(" KEDA asks on {scaler},")).unwrap_or_default();
    let probes = format!("metrics and probes on http://{metrics}");
    let _ = writeln!(page, "gRPC on {grpc},{shown} {probes},{admin}{scaler} workers: {workers}{tls}\n");
    let open = config.tls.is_none() && config.access.is_empty();
    if !open {
        // Lines to paste would need what only the caller has.
        let shoal = std::env::args().next().unwrap_or_else(|| "shoal".into());
        let scheme = if config.tls.is_some() { "https://" } else { "" };
        let ca = if config.tls.is_some() { " --ca CA.pem" } else { "" };
        let token = if config.access.is_empty() { "" } else { " --token-file FILE" };
        let _ = writeln!(page, "Try it:\n  {shoal} embed --addr {scheme}{grpc}{ca}{token} \"the cat sat\"");
        return page;
    }
    let embed = views.iter().find(|view| view.card.as_ref().is_some_and(|card| card.task == Task::Embed));
    let tensor = views.iter().find(|view| view.card.as_ref().is_some_and(|card| card.task == Task::Tensor));
    if let Some(view) = embed {
        let shoal = std::env::args().next().unwrap_or_else(|| "shoal".into());
        let model = &view.name;
        // Who has one need not name it.
        let choice = if views.len() > 1 { format!("--model {model} ") } else { String::new() };
        let data = format!(r#"{{"model": "{model}", "texts": ["the cat sat", "a kitten rests"]}}"#);
        let _ = writeln!(
            page,
            "Try it:\n  \
             {shoal} embed --addr {grpc} {choice}\"the cat sat\" \"a kitten rests\"\n  \
             grpcurl -plaintext -d '{data}' {grpc} shoal.v1.Inference/Embed\n  \
             ghz --insecure --call shoal.v1.Inference/Embed -d '{data}' -n 2000 -c 32 {grpc}\n  \
             python3 -c 'import numpy as np, tritonclient.grpc as t; c = t.InferenceServerClient(\"{grpc}\"); \
             x = t.InferInput(\"text\", [1], \"BYTES\"); x.set_data_from_numpy(np.array([b\"the cat sat\"], dtype=object)); \
             print(c.infer(\"{model}\", [x]).as_numpy(\"embedding\")[0, :4])'"
        );
        if let Some(http) = http {
            let data = format!(r#"{{"model": "{model}", "input": ["the cat sat", "a kitten rests"]}}"#);
            let _ =
                writeln!(page, "  curl http://{http}/v1/embeddings -H 'content-type: application/json' -d '{data}'");
        }
    } else if let Some(view) = tensor {
        let model = &view.name;
        let data = format!(
            r#"{{"model_name": "{model}", "inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 2], "contents": {{"fp32_contents": [1, 2]}}}}]}}"#
        );
        let _ = writeln!(
            page,
            "Try it:\n  \
             grpcurl -plaintext -d '{data}' {grpc} inference.GRPCInferenceService/ModelInfer\n  \
             ghz --insecure --call inference.GRPCInferenceService/ModelInfer -d '{data}' -n 2000 -c 32 {grpc}"
        );
    }
    page
}

fn size(card: &Card) -> String {
    match card.parameters {
        0 => "–".to_owned(),
        parameters => format!("{:.1}M parameters", parameters as f64 / 1e6),
    }
}

/// With the instructions that its kernels use.
fn backend(card: &Card) -> String {
    [&*card.backend, &*card.instructions].join(" ").trim_end().to_owned()
}
