//! Clients' ports with TLS, all the way: certificates, tokens, workers that show theirs, and a certificate that is replaced
//! under load.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{text, waiting_for_workers, worker};
use crate::pki::Authority;
use crate::process::{PATIENCE, Shoal, page, shoal, wait_for};
use crate::tools;

const TOKEN: &str = "the-token-of-the-one-client";

/// Runs to its end a command that must succeed, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// `shoal load` over this many connections, closed loop.
fn load(home: &Path, shoal_at: &Shoal, flags: &[&str]) -> Command {
    let mut command = shoal(home);
    command.args(["load", "--addr", &format!("https://{}", shoal_at.grpc), "--api", "infer", "--model", "echo"]);
    command.args(["--concurrency", "8", "--warmup", "0s", "--json"]).args(flags);
    command
}

#[test]
fn everything_speaks_tls_and_a_certificate_that_is_replaced_under_load_fails_no_call() {
    let folder = tempfile::tempdir().expect("folder");
    let at = folder.path();
    let (outer, inner) = (Authority::new(), Authority::new());
    let (outer_ca, inner_ca) = (outer.write(at, "outer.crt"), inner.write(at, "inner.crt"));
    let front = outer.issue(at, "shoal.example");
    let (link, hand) = (inner.issue(at, "link.example"), inner.issue(at, "hand.example"));
    let token = at.join("token");
    std::fs::write(&token, TOKEN).expect("write");
    let config = at.join("shoal.toml");
    let rights = "rights = [\"infer\", \"inspect\", \"admin\"]";
    let entry = format!("[[access]]\nname = \"client\"\ntoken_file = \"{}\"\n{rights}\n", token.display());
    std::fs::write(&config, format!("admin_listen = \"127.0.0.1:0\"\n{entry}[models.echo]\n")).expect("write");
    let flags = [
        ["--config", text(&config)],
        ["--tls-cert", text(&front.cert)],
        ["--tls-key", text(&front.key)],
        ["--link-tls-cert", text(&link.cert)],
        ["--link-tls-key", text(&link.key)],
        ["--link-tls-client-ca", text(&inner_ca)],
    ];
    let (mut server, address) = waiting_for_workers(at, &flags.concat());
    let hands = [["--tls-ca", text(&inner_ca)], ["--tls-cert", text(&hand.cert)], ["--tls-key", text(&hand.key)]];
    let _worker = worker(at, &address, &[&hands.concat()[..], &["--model", "echo"]].concat());
    server.read_addresses();
    let expiry = "shoal_tls_certificate_expiry_timestamp_seconds{port=\"grpc\"}";
    assert!(server.metric(expiry) > 1e9);
    // Probes have no certificate and no token.
    for path in ["/livez", "/readyz", "/startupz"] {
        assert!(page(&server.metrics, path).0.contains("200"), "{path}");
    }

    let known = ["--ca", text(&outer_ca), "--token-file", text(&token)];
    let loading = load(at, &server, &[&known[..], &["--duration", "8s", "--connections", "8"]].concat())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    wait_for("calls", || {
        (server.metric_or_zero("shoal_calls_total{model=\"echo\",code=\"OK\"}") > 100.0).then_some(())
    });
    let shown = |authority: &Path| {
        let mut one = load(at, &server, &["--ca", text(authority), "--token-file", text(&token), "--count", "1"]);
        one.output().expect("it ends").status.success()
    };
    assert!(shown(&outer_ca) && !shown(&inner_ca));
    // By another authority, so that it is seen which is in use: who is connected stays so.
    let renewed = inner.issue(at, "shoal.example");
    assert_eq!(renewed.cert, front.cert);
    wait_for("the new certificate", || shown(&inner_ca).then_some(()));
    assert!(!shown(&outer_ca));
    // One that is broken changes nothing.
    std::fs::write(&front.key, "no key").expect("write");
    server.wait_for_log("no private key");
    assert!(shown(&inner_ca));
    let report = loading.wait_with_output().expect("it ends");
    let report: Value = serde_json::from_slice(&report.stdout).expect("a report");
    println!("{report}");
    assert!(report["calls"]["ok"].as_u64().is_some_and(|ok| ok > 100), "{report}");
    assert_eq!(report["calls"]["failed"], 0, "{report}");

    // An operator, too.
    let mut explain = shoal(at);
    explain.args(["explain", "--addr", &format!("https://{}", server.admin), "--ca", text(&inner_ca), "--json"]);
    let denied = explain.output().expect("it ends");
    assert!(String::from_utf8_lossy(&denied.stderr).contains("Unauthenticated"), "{denied:?}");
    let told = run(explain.env("SHOAL_TOKEN", TOKEN));
    assert!(told.contains("\"echo\""), "{told}");
    let log = server.kill();
    assert!(log.iter().any(|line| line.contains("tls_key") && line.contains("no private key")), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains(TOKEN)), "{log:#?}");
}

#[test]
fn a_client_that_speaks_tls_where_the_port_does_not_or_the_other_way_round_is_told_of() {
    let folder = tempfile::tempdir().expect("folder");
    let files = Authority::new().issue(folder.path(), "shoal.example");
    let heard = |address: &str, said: &[u8]| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.write_all(said).expect("write");
        stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let mut heard = Vec::new();
        // Some are told why, and some are only cut.
        let _ = stream.read_to_end(&mut heard);
        String::from_utf8_lossy(&heard).into_owned()
    };
    let tells = |of: Shoal, problem: &str| {
        let log = of.kill();
        for port in ["grpc", "http"] {
            let told = |line: &&String| line.contains(problem) && line.contains(port);
            assert_eq!(log.iter().filter(told).count(), 1, "{port}, of many only the first: {log:#?}");
        }
    };
    let client_hello = [0x16, 3, 1, 0, 4, 1, 0, 0, 0];
    let tls = Shoal::serve(&["--model", "echo", "--tls-cert", text(&files.cert), "--tls-key", text(&files.key)]);
    let plain = Shoal::serve(&["--model", "echo"]);
    for _ in 0..5 {
        assert!(heard(&tls.grpc, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").contains("this port speaks TLS"));
        assert!(heard(&tls.http, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").contains("This port speaks TLS"));
        heard(&plain.grpc, &client_hello);
        heard(&plain.http, &client_hello);
    }
    assert_eq!(tls.metric("shoal_tls_handshake_failures_total{port=\"grpc\"}"), 5.0);
    tells(tls, "a client speaks no TLS, and this port does");
    tells(plain, "a client speaks TLS, and this port does not");
}

#[test]
fn clients_that_others_wrote_speak_tls_and_are_known_by_token_or_certificate() {
    let Some(grpcurl) = tools::tool("grpcurl") else { return };
    let Some(ghz) = tools::tool("ghz") else { return };
    let folder = tempfile::tempdir().expect("folder");
    let at = folder.path();
    let authority = Authority::new();
    let ca = authority.write(at, "ca.crt");
    let front = authority.issue(at, "shoal.example");
    let caller = authority.issue(at, "spiffe://prod/search");
    let token = at.join("token");
    std::fs::write(&token, TOKEN).expect("write");
    let config = at.join("shoal.toml");
    let text_of = format!(
        "tls_cert = \"{}\"\ntls_key = \"{}\"\ntls_client_ca = \"{}\"\ntls_client_auth = \"optional\"\n\
         [[access]]\nname = \"by-token\"\ntoken_file = \"{}\"\nrights = [\"infer\"]\n\
         [[access]]\nname = \"by-certificate\"\ncertificate = \"spiffe://prod/search\"\nrights = [\"inspect\"]\n\
         [models.echo]\n",
        front.cert.display(),
        front.key.display(),
        ca.display(),
        token.display(),
    );
    std::fs::write(&config, text_of).expect("write");
    let server = Shoal::serve(&["--config", text(&config)]);
    let ask = |flags: &[&str], what: &[&str]| {
        let mut command = Command::new(&grpcurl);
        command.args(["-cacert", text(&ca)]).args(flags).arg(&server.grpc).args(what).output().expect("it ends")
    };
    let bearer = format!("authorization: Bearer {TOKEN}");
    let by_token = ["-H", &bearer];
    let by_certificate = ["-cert", text(&caller.cert), "-key", text(&caller.key)];
    let (infer, list) = ("inference.GRPCInferenceService/ModelInfer", "shoal.v1.Inference/ListModels");
    let heard = |output: std::process::Output| {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{out}{err}")
    };
    assert!(heard(ask(&by_token, &["list"])).contains("shoal.v1.Inference"));
    assert!(heard(ask(&by_certificate, &[list])).contains("\"echo\""));
    assert!(heard(ask(&by_token, &[list])).contains("PermissionDenied"));
    assert!(heard(ask(&by_certificate, &[infer])).contains("PermissionDenied"));
    assert!(heard(ask(&[], &["list"])).contains("Unauthenticated"));
    assert!(
        heard(ask(&[], &["grpc.health.v1.Health/Check"])).contains("Unauthenticated"),
        "it asks by reflection first"
    );

    let mut command = Command::new(ghz);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    command.current_dir(repository).args(["--call", infer, "--format", "json"]);
    command.args(["--data-file", "benches/ghz/echo.json", "--disable-template-data", "--total", "200"]);
    command.args(["--concurrency", "4", "--cacert", text(&ca)]);
    let metadata = format!("{{\"authorization\": \"Bearer {TOKEN}\"}}");
    command.args(["--metadata", &metadata, "--reflect-metadata", &metadata]).arg(&server.grpc);
    let report: Value = serde_json::from_str(&run(&mut command)).expect("a report");
    assert_eq!(report["statusCodeDistribution"]["OK"], 200, "{report}");

    // Over HTTP, as curl says it.
    let list = format!("https://{}/v1/models", server.http);
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--cacert", text(&ca), "-w", "%{http_code}", &list]);
    assert!(run(&mut curl).ends_with("401"));
    let told = run(curl.args(["--cert", text(&caller.cert), "--key", text(&caller.key)]));
    assert!(told.contains("\"echo\"") && told.ends_with("200"), "{told}");

    // What is no TLS is counted, and ends nothing.
    let failures = "shoal_tls_handshake_failures_total{port=\"grpc\"}";
    let before = server.metric_or_zero(failures);
    let mut plain = TcpStream::connect(&server.grpc).expect("connection");
    std::io::Write::write_all(&mut plain, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("write");
    wait_for("the failure", || (server.metric_or_zero(failures) > before).then_some(()));
}
