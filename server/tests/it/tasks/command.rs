//! `shoal classify`, `shoal rerank` and `shoal fill-mask` against a server.

use serde_json::Value;

use super::serve;
use crate::process::{Shoal, shoal};

/// What a command prints.
async fn printed(server: &Shoal, arguments: &[&str]) -> String {
    let (address, home) = (server.grpc.clone(), tempfile::tempdir().expect("folder"));
    let mut command = shoal(home.path());
    command.args(arguments).args(["--addr", &address]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("task").expect("shoal runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_are_asked_for_from_the_command_line() {
    let server = serve(&["bert-classify", "roberta-rerank", "bert-fill"]);
    // The numbers are those of transformers in the fixtures.
    let found = printed(&server, &["classify", "--top-k", "2", "fish"]).await;
    assert!(found.starts_with("  1  \"fish\"\n       0.8845  neutral\n       0.0652  negative\n"), "{found}");
    assert!(found.contains("bert-classify") && found.contains("(f32): 3 tokens"), "{found}");
    let pair = ["classify", "--pair", "A storm is coming from the west.", "--json", "The boats are late."];
    let found: Value = serde_json::from_str(&printed(&server, &pair).await).expect("json");
    let best = &found["results"][0][0];
    assert_eq!(best["label"], "neutral");
    assert!((best["score"].as_f64().expect("a number") - 0.467_799_515).abs() < 1e-4, "{best}");

    let query = "How late was the last boat?";
    let (good, bad) = ("The last boat was late on Sunday.", "The cat sat on the mat.");
    let found = printed(&server, &["rerank", query, bad, good]).await;
    assert!(found.starts_with(&format!("  0.2298    2  \"{good}\"\n  0.0950    1  \"{bad}\"\n")), "{found}");
    let found = printed(&server, &["rerank", "--raw-scores", "--top-n", "1", query, bad, good]).await;
    assert!(found.starts_with(&format!(" -1.2093    2  \"{good}\"\n\n")), "{found}");

    let targets = ["fill-mask", "--target", "how", "--target", "not", "--json", "The [MASK] sat on the mat."];
    let found: Value = serde_json::from_str(&printed(&server, &targets).await).expect("json");
    let mask = &found["results"][0][0];
    assert_eq!(mask["token_index"], 2);
    let mut tokens: Vec<&str> =
        mask["candidates"].as_array().expect("some").iter().map(|it| it["token"].as_str().expect("text")).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, ["how", "not"]);
    let found = printed(&server, &["fill-mask", "--top-k", "3", "The [MASK] sat on the mat."]).await;
    assert!(found.starts_with("  1  \"The [MASK] sat on the mat.\"\n     token 2\n"), "{found}");
    assert_eq!(found.lines().count(), 2 + 3 + 2, "{found}");
}
