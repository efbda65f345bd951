//! grpcurl by reflection alone.

use serde_json::{Value, json};

use super::{answered, client, run, succeed};
use crate::process::Shoal;
use crate::tools;

#[tokio::test]
async fn everything_served_can_be_listed_and_described() {
    let Some(grpcurl) = tools::tool("grpcurl") else { return };
    let shoal = Shoal::serve(&["--model", "echo"]);
    let ask = |what: &[&str]| {
        let mut command = client(grpcurl.clone());
        command.args(["-plaintext", &shoal.grpc]).args(what);
        command
    };
    let services = succeed(&mut ask(&["list"])).await;
    let services: Vec<&str> = services.lines().collect();
    for service in ["grpc.health.v1.Health", "inference.GRPCInferenceService", "shoal.v1.Inference"] {
        assert!(services.contains(&service), "{services:?}");
        // With every type that its calls name.
        let calls = succeed(&mut ask(&["list", service])).await;
        assert!(calls.lines().count() > 0, "{service}");
        for call in calls.lines() {
            let described = succeed(&mut ask(&["describe", call])).await;
            let types = described.split(['(', ')', ' ']).filter_map(|word| word.strip_prefix('.'));
            for name in types {
                succeed(&mut ask(&["describe", name])).await;
            }
            assert!(described.contains("returns"), "{call}: {described}");
        }
    }
}

#[tokio::test]
async fn calls_are_made_from_json_and_failures_show_their_details() {
    let Some(grpcurl) = tools::tool("grpcurl") else { return };
    let shoal = Shoal::serve(&["--model", "echo"]);
    let call = |data: &Value| {
        let mut command = client(grpcurl.clone());
        command.args(["-plaintext", "-format-error", "-d", &data.to_string()]);
        command.args([&shoal.grpc, "inference.GRPCInferenceService/ModelInfer"]);
        command
    };
    let contents = json!({"fp32_contents": [1.5, -2]});
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 2], "contents": contents});
    let answer = succeed(&mut call(&json!({"model_name": "echo", "id": "7", "inputs": [input]}))).await;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!((&answer["id"], &answer["outputs"][0]["name"]), (&json!("7"), &json!("y")));
    // 1.5 and -2 as bytes, in base64.
    assert_eq!(answer["rawOutputContents"], json!(["AADAPwAAAMA="]));
    assert_eq!(answered(&shoal, "echo"), 1);
    let failed = run(&mut call(&json!({"model_name": "ecco", "inputs": [input]}))).await;
    // 64 and the gRPC code.
    assert_eq!(failed.status.code(), Some(64 + tonic::Code::NotFound as i32), "{failed:?}");
    let error: Value = serde_json::from_slice(&failed.stderr).expect("a status");
    assert!(error["message"].as_str().is_some_and(|message| message.contains("`echo`")), "{error}");
    assert_eq!(error["details"][0]["resourceType"], "model", "{error}");
}
