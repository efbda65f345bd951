//! Words on the command line: what is refused, and how.

use std::process::Output;
use std::time::Duration;

use crate::process::{Shoal, shoal, wait_for};

fn run(args: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("folder");
    shoal(home.path()).args(args).output().expect("shoal runs")
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_key_in_the_file_is_named_with_the_nearest() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("shoal.toml");
    std::fs::write(&path, "grpc_prot = 1\n").expect("file");
    let output = run(&["serve", "--config", path.to_str().expect("path")]);
    assert!(!output.status.success());
    assert_eq!(error(&output), "shoal: unknown key `grpc_prot`; did you mean `grpc_port`?\n");
}

#[test]
fn a_server_without_a_model_says_how_to_name_one() {
    let output = run(&["serve"]);
    assert!(!output.status.success());
    assert!(error(&output).contains("--model minilm"), "{}", error(&output));
}

#[test]
fn a_port_in_use_for_http_is_named_and_so_is_doing_without() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = held.local_addr().expect("address").port().to_string();
    let common = ["serve", "--model", "echo", "--grpc-port", "0", "--metrics-port", "0", "--http-port"];
    let output = run(&[&common[..], &[&port]].concat());
    assert!(!output.status.success());
    assert!(error(&output).contains(&port) && error(&output).contains("--http-port off"), "{}", error(&output));
    let without = Shoal::serve(&["--model", "echo", "--http-port", "off"]);
    assert_eq!(without.http, "");
}

#[test]
fn probes_and_metrics_answer() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    assert_eq!(shoal.page("/livez").0, "HTTP/1.1 200 OK");
    assert_eq!(shoal.page("/readyz").0, "HTTP/1.1 200 OK");
    assert_eq!(shoal.page("/nothing").0, "HTTP/1.1 404 Not Found");
    assert_eq!(shoal.metric("shoal_worker_up{worker=\"local-0\"}"), 1.0);
}

#[test]
fn an_idle_server_is_small_and_sleeps() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", shoal.pid())).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    assert!(kib < 60 * 1024, "{kib} KiB resident");
    // Processor time in clock ticks (1/100 s), user and system.
    let busy = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", shoal.pid())).expect("stat");
        let fields: Vec<u64> =
            stat.rsplit(')').next().expect("fields").split(' ').filter_map(|f| f.parse().ok()).collect();
        fields[10] + fields[11]
    };
    // It comes to rest once it knows what its model costs.
    let two_seconds = || {
        let before = busy();
        std::thread::sleep(Duration::from_secs(2));
        busy() - before
    };
    wait_for("two seconds of which an idle server used less than 200 ms", || (two_seconds() < 20).then_some(()));
}
