//! Several servers that share their workers: real processes, as a cluster runs them.

use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::oip::texts;
use crate::process::{Shoal, shoal, signal, wait_for};
use crate::restarts::{End, call_raw};
use crate::traffic::{Tally, drive, hashed};

/// Nothing is late, however busy the machine is.
const MODEL: &str = "s=synthetic:base=5ms+per_row=100us+faults,slo=10s";
const DEADLINE: Duration = Duration::from_secs(60);
/// Of each server.
const CLIENTS: u64 = 8;

/// Servers on loopback, and workers that serve all of them.
struct Cluster {
    home: tempfile::TempDir,
    /// Where workers dial each.
    ports: Vec<u16>,
    servers: Vec<Shoal>,
    workers: Vec<Shoal>,
}

impl Cluster {
    fn start(servers: usize, workers: usize) -> Self {
        let home = tempfile::tempdir().expect("folder");
        // All are held before any is let go, so that no two are the same.
        let held: Vec<TcpListener> = (0..servers).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let ports = held.iter().map(|listener| listener.local_addr().expect("address").port()).collect();
        drop(held);
        let mut cluster = Self { home, ports, servers: Vec::new(), workers: Vec::new() };
        cluster.servers = (0..servers).map(|at| cluster.server(at)).collect();
        for server in &mut cluster.servers {
            server.line_with("workers dial ");
        }
        cluster.workers = (0..workers).map(|_| cluster.worker()).collect();
        cluster.servers.iter_mut().for_each(Shoal::read_addresses);
        for server in &cluster.servers {
            await_workers(server, workers);
        }
        cluster
    }

    fn server(&self, at: usize) -> Shoal {
        let mut command = self.command();
        command.args(["serve", "--workers", "external", "--share-workers", "--link-port", &self.ports[at].to_string()]);
        command.args(["--grpc-port", "0", "--metrics-port", "0"]);
        Shoal::spawn(command)
    }

    /// The first server goes by a name, which stands for more than one address where the machine has IPv6. Batches are too
    /// small for all that waits: clients whose calls all go in one would ask again all at once, each server's in its turn.
    fn worker(&self) -> Shoal {
        let mut command = self.command();
        command.args(["worker", "--device", "cpu", "--worker-threads", "1", "--worker-batch-tokens", "128"]);
        for (at, port) in self.ports.iter().enumerate() {
            let host = if at == 0 { "localhost" } else { "127.0.0.1" };
            command.args(["--connect", &format!("http://{host}:{port}")]);
        }
        Shoal::spawn(command)
    }

    fn command(&self) -> Command {
        let mut command = shoal(self.home.path());
        command.env("SHOAL_WORKER_TOKEN", "secret").env("SHOAL_MODELS", MODEL);
        command
    }

    /// Clients of a server that call until they are told to stop.
    async fn drive(&self, at: usize, stop: &CancellationToken) -> tokio::task::JoinHandle<Tally> {
        let client = self.servers[at].oip().await;
        let ask = move |who, call| hashed(client.clone(), DEADLINE, who, call);
        tokio::spawn(drive(CLIENTS, DEADLINE, stop.clone(), ask))
    }
}

fn await_workers(server: &Shoal, count: usize) {
    let holds = || server.metric_or_zero("shoal_model_workers{model=\"s\"}") == count as f64;
    wait_for("the workers", || holds().then_some(()));
}

fn joined(server: &Shoal) -> f64 {
    server.metric("shoal_joined_batches_total{model=\"s\"}")
}

fn all_ok(tally: &Tally) {
    assert!(tally.total() > CLIENTS, "{tally}");
    assert_eq!(tally.ok, tally.total(), "{tally}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_share_a_worker_and_run_what_they_have_as_one_batch() {
    let cluster = Cluster::start(3, 1);
    let stop = CancellationToken::new();
    let mut calls = Vec::new();
    for at in 0..3 {
        calls.push(cluster.drive(at, &stop).await);
    }
    for server in &cluster.servers {
        wait_for("batches of several servers", || (joined(server) >= 20.0).then_some(()));
    }
    stop.cancel();
    for calls in calls {
        all_ok(&calls.await.expect("the clients"));
    }
    for server in cluster.servers {
        let (status, _) = tokio::task::spawn_blocking(|| server.stop()).await.expect("stop");
        assert!(status.success(), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_its_own_calls_and_the_others_none() {
    let mut cluster = Cluster::start(3, 1);
    let stop = CancellationToken::new();
    let others = [cluster.drive(1, &stop).await, cluster.drive(2, &stop).await];
    let victim = cluster.servers.remove(0);
    let client = victim.oip().await;
    // They call until it is gone, so that it is killed in the middle of a batch however late that is seen.
    let lost: Vec<_> = (0..4)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                loop {
                    if let Err(status) = client.model_infer(texts("s", &["!sleep 500ms"])).await {
                        return status.code();
                    }
                }
            })
        })
        .collect();
    wait_for("the batch to run", || (victim.metric("shoal_rows_in_flight") > 0.0).then_some(()));
    signal(victim.pid(), Signal::KILL);
    for call in lost {
        let code = call.await.expect("task");
        // What a client's library makes of a connection that breaks while it waits.
        assert!(matches!(code, Code::Unavailable | Code::Unknown), "{code:?}");
    }
    let before: Vec<f64> = cluster.servers.iter().map(joined).collect();
    for (server, before) in cluster.servers.iter().zip(before) {
        wait_for("batches of the two that are left", || (joined(server) >= before + 20.0).then_some(()));
    }
    stop.cancel();
    for calls in others {
        all_ok(&calls.await.expect("the clients"));
    }
}

/// Each client stays with its server until that turns calls away that it never looked at, and goes on with the next.
#[tokio::test(flavor = "multi_thread")]
async fn restarting_every_server_in_turn_fails_no_call() {
    let mut cluster = Cluster::start(3, 1);
    let addresses: Vec<String> = cluster.servers.iter().map(|server| server.grpc.clone()).collect();
    let addresses = Arc::new(Mutex::new(addresses));
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for client in 0..3 * CLIENTS {
        clients.spawn(follow(client, addresses.clone(), stop.clone()));
    }
    for at in 0..3 {
        wait_for("calls", || (cluster.servers[at].metric("shoal_rows_in_flight") > 0.0).then_some(()));
        let idle = cluster.idle();
        let old = std::mem::replace(&mut cluster.servers[at], idle);
        let (status, _) = tokio::task::spawn_blocking(|| old.stop()).await.expect("stop");
        assert!(status.success(), "{status:?}");
        let mut new = cluster.server(at);
        new.read_addresses();
        await_workers(&new, 1);
        addresses.lock().expect("no client panics")[at] = new.grpc.clone();
        cluster.servers[at] = new;
    }
    stop.cancel();
    let (mut answered, mut moved) = (0, 0);
    while let Some(client) = clients.join_next().await {
        let (calls, moves) = client.expect("a client");
        answered += calls;
        moved += moves;
    }
    println!("rolling restart of 3 servers: {answered} answered, {moved} moves, none failed");
    assert!(answered > 3 * CLIENTS && moved > 0, "{answered} answered, {moved} moves");
}

impl Cluster {
    /// A process that does nothing, in the place of a server that is stopped.
    fn idle(&self) -> Shoal {
        let mut command = shoal(self.home.path());
        command.arg("--version");
        Shoal::spawn(command)
    }
}

/// Calls until it is told to stop. Says how many calls were answered, and how often it went to another server.
async fn follow(client: u64, addresses: Arc<Mutex<Vec<String>>>, stop: CancellationToken) -> (u64, u64) {
    let address = |at: u64| {
        let addresses = addresses.lock().expect("no client panics");
        addresses[at as usize % addresses.len()].clone()
    };
    let (mut at, mut answered, mut moves) = (client, 0, 0);
    while !stop.is_cancelled() {
        let address = address(at);
        let Some(mut sender) = connect(&address).await else {
            at += 1;
            continue;
        };
        while !stop.is_cancelled() {
            match call_raw(&address, &mut sender, &format!("{client} asks {answered}")).await {
                End::Answered => answered += 1,
                End::NeverStarted => break,
                End::Broken(how) => panic!("a call of {address} failed: {how}"),
            }
        }
        at += 1;
        moves += 1;
    }
    (answered, moves)
}

async fn connect(address: &str) -> Option<SendRequest<Full<Bytes>>> {
    let stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_and_that_leave_cost_no_server_a_call() {
    let mut cluster = Cluster::start(2, 3);
    let stop = CancellationToken::new();
    let calls = [cluster.drive(0, &stop).await, cluster.drive(1, &stop).await];
    let running = |server: &Shoal| (server.metric("shoal_rows_in_flight") > 0.0).then_some(());
    wait_for("calls", || running(&cluster.servers[0]));
    let killed = cluster.workers.remove(0);
    signal(killed.pid(), Signal::KILL);
    for server in &cluster.servers {
        await_workers(server, 2);
    }
    let leaving = cluster.workers.remove(0);
    let (status, _) = tokio::task::spawn_blocking(|| leaving.stop()).await.expect("stop");
    assert!(status.success(), "{status:?}");
    for server in &cluster.servers {
        await_workers(server, 1);
        let before = joined(server);
        wait_for("the one that is left", || (joined(server) >= before + 10.0).then_some(()));
    }
    stop.cancel();
    for calls in calls {
        all_ok(&calls.await.expect("the clients"));
    }
}
