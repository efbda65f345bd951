//! Workers as processes of their own: none outlives its parent. The test binary plays every part itself; which one, its
//! environment says.

use std::env;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use shoal_worker::{Endpoint, Exit, Options};

use crate::server::{Server, within};

/// Where a process that plays a part finds the server.
const SOCKET: &str = "SHOAL_TEST_SOCKET";
/// Which process it must not outlive.
const PARENT: &str = "SHOAL_TEST_PARENT";
/// No part is played longer than this, whatever goes wrong.
const PLAY_MAX: Duration = Duration::from_secs(60);

/// A process that ends with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<std::process::ExitStatus> = self.0.wait();
    }
}

/// This binary again, to run one test that plays a part.
fn player(part: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", part, "--ignored", "--nocapture"]).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
#[ignore = "a part the other tests start in a process of its own"]
fn plays_a_worker() {
    let Ok(socket) = env::var(SOCKET) else { return };
    let mut options = Options::new(Endpoint::Unix(socket.into()), "w1", "token");
    options.parent = env::var(PARENT).ok().map(|parent| parent.parse().unwrap());
    options.exit_on_stdin_end = options.parent.is_none();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let shutdown = async { tokio::time::sleep(PLAY_MAX).await };
    let exit = runtime.block_on(shoal_worker::run(options, shutdown)).unwrap();
    assert_eq!(exit, Exit::ParentGone);
}

#[test]
#[ignore = "a part the other tests start in a process of its own"]
fn plays_a_parent() {
    if env::var(SOCKET).is_err() {
        return;
    }
    let mut worker = player("process::plays_a_worker");
    let _worker = Guard(worker.env(PARENT, std::process::id().to_string()).stdin(Stdio::null()).spawn().unwrap());
    thread::sleep(PLAY_MAX);
}

#[tokio::test]
async fn ends_when_its_standard_input_does() {
    let mut server = Server::start();
    let mut worker = player("process::plays_a_worker");
    let mut worker = Guard(worker.env(SOCKET, server.socket()).stdin(Stdio::piped()).spawn().unwrap());
    let mut peer = server.peer(1).await;
    drop(worker.0.stdin.take());
    peer.ends_without_goodbye().await;
    let status = within(tokio::task::spawn_blocking(move || worker.0.wait())).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn is_killed_with_the_parent_that_started_it() {
    let mut server = Server::start();
    let mut parent = player("process::plays_a_parent");
    let mut parent = Guard(parent.env(SOCKET, server.socket()).stdin(Stdio::null()).spawn().unwrap());
    let mut peer = server.peer(1).await;
    assert_ne!(peer.hello.process_id, parent.0.id());
    parent.0.kill().unwrap();
    // The kernel closed its connection; it had no time for a goodbye.
    peer.ends_without_goodbye().await;
}
