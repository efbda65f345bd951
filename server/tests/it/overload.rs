//! Three times the calls that can be served: those taken in are answered in bounded time, the others are refused with a
//! time to come back, memory is bounded, probes answer, and soon after it is over all is as before.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

use crate::endurance::fault_seconds;
use crate::oip::texts;
use crate::process::{Shoal, wait_for};
use crate::traffic::is_right;

/// Eight rows in twenty milliseconds.
const CAPACITY: f64 = 400.0;
const OFFERED: f64 = 3.0 * CAPACITY;
/// A call that was taken in waits for this at most, and runs for a batch then.
const QUEUE_TIME_MAX: Duration = Duration::from_millis(500);
const BATCH_TIME: Duration = Duration::from_millis(20);
/// What a busy machine of two processors, with server, worker and clients on it, may add to any latency.
const SLACK: Duration = Duration::from_millis(500);
const CONNECTIONS: usize = 8;
/// 99 of 100 probes are answered in this; whatever stops the whole machine for a moment stops the others too, which are
/// all answered in ten times this.
const PROBE_TIME_MAX: Duration = Duration::from_millis(100);
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(2);
const MEMORY_GROWTH_MAX: f64 = (128 << 20) as f64;

const CONFIG: &str = r#"
    [models.s]
    source = "synthetic:base=20ms"
    batch_rows_max = 8
    queue_requests_max = 1000
    queue_time_max = "500ms"
"#;

/// A short run shares two processors with every other test, and proves the behaviour; a long one has them to itself, and
/// proves the times.
fn leeway() -> u32 {
    if fault_seconds() >= 30 { 1 } else { 100 }
}

#[derive(Debug, Default)]
struct Outcomes {
    answered: Vec<Duration>,
    refused: u64,
    /// Answers that are not the caller's, statuses that are none of overload, refusals without a time.
    wrong: Vec<String>,
}

impl Outcomes {
    fn add(&mut self, other: Self) {
        self.answered.extend(other.answered);
        self.refused += other.refused;
        self.wrong.extend(other.wrong);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_times_too_many_calls_are_answered_in_time_or_refused_with_a_time_to_come_back() {
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("shoal.toml");
    std::fs::write(&config, CONFIG).expect("config");
    let shoal = Shoal::serve(&["--config", config.to_str().expect("path")]);
    let over = CancellationToken::new();
    let probes = [tokio::spawn(health(shoal.channel().await, over.clone())), ready(&shoal, &over)];
    let length = Duration::from_secs(fault_seconds().div_ceil(2));
    let before = shoal.metric("shoal_resident_memory_bytes");
    let (outcomes, offered) = offer(&shoal, length).await;
    let ended = Instant::now();
    let memory = shoal.metric("shoal_resident_memory_bytes") - before;
    over.cancel();
    let [health, ready] = probes.map(|probe| async { probe.await.expect("a probe") });
    let (health, ready) = (sorted(health.await), sorted(ready.await));
    let mut calm = shoal.oip().await;
    let recovered = loop {
        let started = Instant::now();
        let answer = calm.model_infer(texts("s", &["calm"])).await;
        let is_calm = answer.is_ok() && started.elapsed() < 2 * BATCH_TIME + leeway() * PROBE_TIME_MAX;
        // Or it never will be.
        if is_calm || ended.elapsed() > leeway() * RECOVERY_TIME_MAX {
            break ended.elapsed();
        }
    };
    wait_for("the queue to be empty", || (shoal.metric("shoal_calls_in_flight") == 0.0).then_some(()));
    let times = sorted(outcomes.answered);
    let at = |share: f64| part(&times, share);
    println!(
        "overload for {length:?}: {offered:.0} calls a second to {CAPACITY}, {} answered (p50 {:.0?}, p99 {:.0?}, most \
         {:.0?}), {} refused, {} wrong; probes took {:.0?}, at most {:.0?} (gRPC), and {:.0?}, at most {:.0?} (HTTP); \
         memory grew {:.0} MiB; recovered in {recovered:.0?}",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        outcomes.refused,
        outcomes.wrong.len(),
        part(&health, 0.99),
        part(&health, 1.0),
        part(&ready, 0.99),
        part(&ready, 1.0),
        memory / f64::from(1 << 20),
    );
    assert!(outcomes.wrong.is_empty(), "{:#?}", &outcomes.wrong[..outcomes.wrong.len().min(10)]);
    assert!(offered > 2.0 * CAPACITY, "{offered} calls a second are no overload");
    assert!(outcomes.refused > 0);
    // At the queue's limit less a batch, then its own batch and the one before it.
    assert!(at(1.0) < QUEUE_TIME_MAX + 2 * BATCH_TIME + leeway() * SLACK, "{:?}", at(1.0));
    let probe_time_max = leeway() * PROBE_TIME_MAX;
    for probes in [&health, &ready] {
        let is_quick = part(probes, 0.99) < probe_time_max && part(probes, 1.0) < 10 * probe_time_max;
        assert!(is_quick, "{:?}", &probes[probes.len() * 98 / 100..]);
    }
    assert!(memory < MEMORY_GROWTH_MAX, "{memory} bytes");
    assert!(recovered < leeway() * RECOVERY_TIME_MAX, "{recovered:?}");
}

/// Offers calls at a steady rate, whether those before are answered or not. Returns how they ended and the rate kept.
async fn offer(shoal: &Shoal, length: Duration) -> (Outcomes, f64) {
    // Several, or calls would wait in the client for one of a connection's 256 streams.
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(shoal.oip().await);
    }
    let mut running = JoinSet::new();
    let mut all = Outcomes::default();
    let mut tick = interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let started = Instant::now();
    let mut sent = 0_u64;
    while started.elapsed() < length {
        tick.tick().await;
        let due = (started.elapsed().as_secs_f64() * OFFERED) as u64;
        for call in sent..due {
            let mut client = clients[call as usize % CONNECTIONS].clone();
            running.spawn(async move {
                let text = format!("call {call}");
                let began = Instant::now();
                let answer = client.model_infer(texts("s", &[&text])).await;
                judge(&text, began.elapsed(), answer.map(tonic::Response::into_inner))
            });
        }
        sent = due;
        while let Some(ended) = running.try_join_next() {
            all.add(ended.expect("a call"));
        }
    }
    let rate = sent as f64 / started.elapsed().as_secs_f64();
    while let Some(ended) = running.join_next().await {
        all.add(ended.expect("a call"));
    }
    (all, rate)
}

fn judge(
    text: &str,
    took: Duration,
    answer: Result<shoal_proto::inference::ModelInferResponse, tonic::Status>,
) -> Outcomes {
    let mut one = Outcomes::default();
    match answer {
        Ok(answer) if is_right(&answer, &[text]) => one.answered.push(took),
        Ok(answer) => one.wrong.push(format!("{answer:?}")),
        Err(status) => {
            let details = status.get_error_details();
            let after = details.retry_info().and_then(|info| info.retry_delay);
            let has_time = after.is_some_and(|after| !after.is_zero());
            match status.code() == Code::ResourceExhausted && has_time {
                true => one.refused += 1,
                false => one.wrong.push(format!("{status:?}")),
            }
        }
    }
    one
}

/// How long many health checks took on a connection of their own.
async fn health(channel: tonic::transport::Channel, over: CancellationToken) -> Vec<Duration> {
    let mut client = HealthClient::new(channel);
    let mut took = Vec::new();
    while !over.is_cancelled() {
        let started = Instant::now();
        client.check(HealthCheckRequest::default()).await.expect("an answer");
        took.push(started.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    took
}

/// How long many looks at `/readyz` took, each on a connection of its own, from a thread of its own.
fn ready(shoal: &Shoal, over: &CancellationToken) -> tokio::task::JoinHandle<Vec<Duration>> {
    let (address, over) = (shoal.metrics.clone(), over.clone());
    tokio::task::spawn_blocking(move || {
        let mut took = Vec::new();
        while !over.is_cancelled() {
            let started = Instant::now();
            let (status, _) = crate::process::page(&address, "/readyz");
            assert!(status.contains("200"), "{status}");
            took.push(started.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        took
    })
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

/// What such a share of sorted times is no longer than.
fn part(times: &[Duration], share: f64) -> Duration {
    assert!(!times.is_empty(), "nothing was answered");
    times[((times.len() - 1) as f64 * share) as usize]
}
