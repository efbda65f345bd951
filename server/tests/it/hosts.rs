//! Several hosts on one machine: network namespaces around a router, and links that are cut, one-way, slow or far.
//!
//! It takes root, and a kernel that has them; elsewhere these tests say that they were skipped.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use shoal_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;

use crate::process::{Shoal, binary, page, wait_for};
use crate::traffic::{Tally, drive, hashed};

/// A call may be on a worker when that is cut off: it takes three seconds of silence to be known, and then it runs anew.
const DEADLINE: Duration = Duration::from_secs(20);

/// Tells the networks of tests apart that run at once.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Hosts that reach each other through a router, each at `10.77.N.2` with N from 1.
struct Network {
    prefix: String,
    hosts: Vec<&'static str>,
}

impl Network {
    /// Hosts of these names, or none where they cannot be made.
    fn of(hosts: &[&'static str]) -> Option<Self> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("shoal{}-{number}-", std::process::id());
        let network = Self { prefix, hosts: hosts.to_vec() };
        match network.build() {
            Ok(()) => Some(network),
            Err(problem) => {
                // Past the test harness, which would keep it from being seen.
                let _ = writeln!(std::io::stderr(), "SKIPPED for want of network namespaces: {problem}");
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        ip(&["netns", "add", &self.router()])?;
        self.within_ip("router", &["link", "set", "lo", "up"])?;
        for (number, host) in (1..).zip(&self.hosts) {
            let (name, end) = (self.name(host), format!("to-{host}"));
            ip(&["netns", "add", &name])?;
            let peer = ["peer", "name", "eth0", "netns", &name];
            let link = ["link", "add", &end, "netns", &self.router(), "type", "veth"];
            ip(&[&link[..], &peer].concat())?;
            self.within_ip("router", &["addr", "add", &format!("10.77.{number}.1/24"), "dev", &end])?;
            self.within_ip("router", &["link", "set", &end, "up"])?;
            self.within_ip(host, &["addr", "add", &format!("{}/24", self.address(host)), "dev", "eth0"])?;
            self.within_ip(host, &["link", "set", "lo", "up"])?;
            self.within_ip(host, &["link", "set", "eth0", "up"])?;
            self.within_ip(host, &["route", "add", "default", "via", &format!("10.77.{number}.1")])?;
        }
        let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(|error| error.to_string());
        self.within("router", forward)
    }

    fn router(&self) -> String {
        self.name("router")
    }

    fn name(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    fn address(&self, host: &str) -> String {
        let number = 1 + self.hosts.iter().position(|known| *known == host).expect("a host");
        format!("10.77.{number}.2")
    }

    fn within_ip(&self, host: &str, arguments: &[&str]) -> Result<(), String> {
        ip(&[&["-n", &self.name(host)], arguments].concat())
    }

    /// Does something as if on that host. Threads that it starts are there as well.
    fn within<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let space = std::fs::File::open(Path::new("/run/netns").join(self.name(host))).expect("a namespace");
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                use std::os::fd::AsFd as _;
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(space.as_fd(), network).expect("a thread moves");
                work()
            });
            there.join().expect("it does not panic")
        })
    }

    /// From now on nothing that is sent to a host arrives, and nobody is told.
    fn cut_to(&self, host: &str) {
        self.within_ip("router", &["route", "add", "blackhole", &self.address(host)]).expect("a route");
    }

    fn mend_to(&self, host: &str) {
        self.within_ip("router", &["route", "del", "blackhole", &self.address(host)]).expect("a route");
    }

    /// The same for what it sends.
    fn cut_from(&self, host: &str) {
        self.within_ip("router", &["rule", "add", "from", &self.address(host), "blackhole"]).expect("a rule");
    }

    fn mend_from(&self, host: &str) {
        self.within_ip("router", &["rule", "del", "from", &self.address(host), "blackhole"]).expect("a rule");
    }

    /// A kind of queue for what is sent to a host; false where the kernel does not have it.
    fn shape_to(&self, host: &str, queue: &[&str]) -> bool {
        let end = format!("to-{host}");
        let arguments = [&["netns", "exec", &self.router(), "tc", "qdisc", "replace", "dev", &end, "root"], queue];
        match ip(&arguments.concat()) {
            Ok(()) => true,
            Err(problem) => {
                let _ = writeln!(std::io::stderr(), "SKIPPED for want of tc {}: {problem}", queue[0]);
                false
            }
        }
    }

    /// Returns once so many workers hold the model.
    fn wait_for_workers(&self, count: usize) {
        let wanted = format!("shoal_model_workers{{model=\"s\"}} {count}\n");
        self.within("server", || {
            wait_for("workers", || page("127.0.0.1:8002", "/metrics").1.contains(&wanted).then_some(()));
        });
    }

    /// Returns once so many more calls have been answered.
    fn wait_for_answers(&self, count: u64) {
        let answered = || {
            let (_, page) = page("127.0.0.1:8002", "/metrics");
            let value = |line: &str| line.strip_prefix("shoal_calls_total{model=\"s\",code=\"OK\"} ")?.parse().ok();
            page.lines().find_map(value).unwrap_or(0_u64)
        };
        self.within("server", || {
            let before = answered();
            wait_for("answers", || (answered() >= before + count).then_some(()));
        });
    }

    /// Has four clients call, all the while that `meanwhile` lasts.
    fn under_load(&self, meanwhile: impl FnOnce()) -> Tally {
        let address = format!("http://{}:8001", self.address("server"));
        let stop = CancellationToken::new();
        thread::scope(|scope| {
            let calling = scope.spawn(|| {
                self.within("client", || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
                    runtime.block_on(async {
                        let channel = Endpoint::from_shared(address).expect("endpoint").connect_lazy();
                        let client = GrpcInferenceServiceClient::new(channel);
                        let ask = move |who, call| hashed(client.clone(), DEADLINE, who, call);
                        drive(4, DEADLINE, stop.clone(), ask).await
                    })
                })
            });
            meanwhile();
            stop.cancel();
            let tally = calling.join().expect("clients");
            println!("{tally}");
            tally
        })
    }

    fn start(&self, host: &str, home: &Path, arguments: &[&str]) -> Shoal {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(host)]).arg(binary()).args(arguments);
        command.env("SHOAL_HOME", home).env_remove("SHOAL_LOG").stdin(std::process::Stdio::null());
        Shoal::spawn(command)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in self.hosts.iter().chain(&["router"]) {
            // Its end of each link goes with it.
            let _ = ip(&["netns", "del", &self.name(host)]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A server on `server` with a worker on each of the other hosts but `client`, which calls.
struct Cluster {
    network: Network,
    /// Ended when it is dropped.
    server: Option<Shoal>,
    workers: Vec<Shoal>,
    home: tempfile::TempDir,
}

impl Cluster {
    fn start(hosts: &[&'static str]) -> Option<Self> {
        let network = Network::of(&[&["server", "client"], hosts].concat())?;
        let home = tempfile::tempdir().expect("folder");
        let mut server = Self::serve(&network, home.path());
        let workers = hosts.iter().map(|host| Self::work(&network, home.path(), host)).collect();
        server.line_with("gRPC on ");
        let cluster = Self { network, server: Some(server), workers, home };
        cluster.network.wait_for_workers(hosts.len());
        Some(cluster)
    }

    fn serve(network: &Network, home: &Path) -> Shoal {
        let model = ["--model", "s=synthetic:base=2ms+per_row=100us"];
        let external = ["--workers", "external", "--worker-token", "t", "--address", "0.0.0.0", "--http-port", "off"];
        network.start("server", home, &[&["serve"], &model[..], &external].concat())
    }

    fn work(network: &Network, home: &Path, host: &str) -> Shoal {
        let server = format!("http://{}:8003", network.address("server"));
        let named = ["--name", host, "--worker-token", "t", "--connect", &server];
        let model = ["--model", "s=synthetic:base=2ms+per_row=100us", "--device", "cpu", "--worker-threads", "1"];
        network.start(host, home, &[&["worker"], &named[..], &model].concat())
    }
}

/// Fewer than this and nobody called.
const ANSWERS: u64 = 8;

fn all_were_answered(tally: &Tally) {
    assert!(tally.ok >= ANSWERS, "{tally}");
    assert_eq!(tally.ok, tally.total(), "{tally}");
}

#[test]
fn a_worker_that_is_cut_off_costs_no_answer_and_comes_back() {
    let Some(cluster) = Cluster::start(&["a", "b"]) else { return };
    let tally = cluster.network.under_load(|| {
        cluster.network.cut_to("a");
        cluster.network.cut_from("a");
        cluster.network.wait_for_workers(1);
        cluster.network.mend_to("a");
        cluster.network.mend_from("a");
        cluster.network.wait_for_workers(2);
    });
    all_were_answered(&tally);
}

#[test]
fn a_link_that_works_one_way_is_known_to_be_broken() {
    let Some(cluster) = Cluster::start(&["a", "b"]) else { return };
    let tally = cluster.network.under_load(|| {
        // What the worker says still arrives; what it is sent does not, and the server is not told.
        cluster.network.cut_to("a");
        cluster.network.wait_for_workers(1);
        cluster.network.mend_to("a");
        cluster.network.wait_for_workers(2);
        cluster.network.cut_from("b");
        cluster.network.wait_for_workers(1);
        cluster.network.mend_from("b");
        cluster.network.wait_for_workers(2);
    });
    all_were_answered(&tally);
}

#[test]
fn a_worker_that_vanishes_costs_no_answer_and_another_may_have_its_name() {
    let Some(mut cluster) = Cluster::start(&["a", "b"]) else { return };
    let gone = cluster.workers.remove(0);
    let tally = cluster.network.under_load(|| {
        cluster.network.cut_to("a");
        cluster.network.cut_from("a");
        drop(gone);
        cluster.network.wait_for_workers(1);
        cluster.network.mend_to("a");
        cluster.network.mend_from("a");
        let next = Cluster::work(&cluster.network, cluster.home.path(), "a");
        cluster.network.wait_for_workers(2);
        drop(next);
        cluster.network.wait_for_workers(1);
    });
    all_were_answered(&tally);
}

#[test]
fn workers_find_the_server_that_comes_after_one_that_vanished() {
    let Some(mut cluster) = Cluster::start(&["a", "b"]) else { return };
    cluster.network.cut_to("server");
    for host in ["a", "b", "client"] {
        cluster.network.cut_to(host);
    }
    // Nobody hears that it ends.
    cluster.server = None;
    let mut next = Cluster::serve(&cluster.network, cluster.home.path());
    for host in ["server", "a", "b", "client"] {
        cluster.network.mend_to(host);
    }
    next.line_with("gRPC on ");
    cluster.server = Some(next);
    cluster.network.wait_for_workers(2);
    let tally = cluster.network.under_load(|| cluster.network.wait_for_answers(ANSWERS));
    all_were_answered(&tally);
    for worker in cluster.workers.drain(..) {
        let (status, _) = worker.stop();
        assert!(status.success(), "the same one as before: {status}");
    }
}

#[test]
fn a_slow_link_and_a_far_worker_lose_nothing() {
    let Some(cluster) = Cluster::start(&["a", "b"]) else { return };
    // Half a megabit: a frame of the link takes as long as a batch.
    if !cluster.network.shape_to("a", &["tbf", "rate", "512kbit", "burst", "8kb", "latency", "500ms"]) {
        return;
    }
    let tally = cluster.network.under_load(|| cluster.network.wait_for_answers(10 * ANSWERS));
    all_were_answered(&tally);
    if cluster.network.shape_to("b", &["netem", "delay", "80ms", "20ms", "loss", "1%"]) {
        let tally = cluster.network.under_load(|| cluster.network.wait_for_answers(10 * ANSWERS));
        all_were_answered(&tally);
    }
}
