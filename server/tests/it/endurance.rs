//! Workers killed and stopped, one every second, while clients call on: every call has one outcome, the right one, in
//! time. `SHOAL_FAULT_SECONDS` says for how long, `SHOAL_FAULT_SEED` repeats a run's choice of victims and signals.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use shoal_proto::v1 as wire;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::minilm::{cosine, embed, home};
use crate::process::{Shoal, wait_for};
use crate::traffic::{Tally, drive, hashed};

const CLIENTS: u64 = 64;
const DEADLINE: Duration = Duration::from_secs(60);
const WORKERS: usize = 3;
/// Part of the calls that must be answered.
const OK_SHARE_MIN: f64 = 0.999;

/// How long a run is.
pub(crate) fn fault_seconds() -> u64 {
    setting("SHOAL_FAULT_SECONDS").unwrap_or(5)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// What befalls a worker.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill,
    /// Stopped for good: the server has to find out and replace it.
    Stop,
    /// Stopped, and going on after so long, perhaps as one that was replaced meanwhile.
    Pause(Duration),
}

/// Strikes a worker every second until `end`, and returns how often.
async fn strike(shoal: &Shoal, end: Instant) -> usize {
    let seed = setting("SHOAL_FAULT_SEED").unwrap_or(20_261_123);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut blows = 0;
    let mut next = Instant::now() + Duration::from_millis(500);
    while next < end {
        sleep_until(next).await;
        next += Duration::from_secs(1);
        let (victim, choice) = (rng.random_range(0..WORKERS), rng.random_range(0..4));
        let blow = match choice {
            0 | 1 => Blow::Kill,
            2 => Blow::Stop,
            _ => Blow::Pause(Duration::from_millis(rng.random_range(100..4000))),
        };
        let workers = shoal.workers();
        let Some(&pid) = workers.get(victim % workers.len().max(1)) else { continue };
        println!("seed {seed}, blow {blows}: {blow:?} on {pid}");
        blows += 1;
        match blow {
            Blow::Kill => send(pid, Signal::KILL),
            Blow::Stop => send(pid, Signal::STOP),
            Blow::Pause(time) => {
                send(pid, Signal::STOP);
                tokio::spawn(async move {
                    sleep(time).await;
                    send(pid, Signal::CONT);
                });
            }
        }
    }
    blows
}

/// The worker may have been replaced a moment ago.
fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process id");
    let _ = kill_process(pid, signal);
}

/// Waits until more calls were answered than there are clients, however short the run and slow the machine.
fn wait_for_second_calls(shoal: &Shoal, model: &str) {
    let answered = format!("shoal_calls_total{{model=\"{model}\",code=\"OK\"}}");
    // With one that a test may have made before.
    wait_for("answers", || (shoal.metric_or_zero(&answered) > (CLIENTS + 1) as f64).then_some(()));
}

fn check(what: &str, tally: &Tally, blows: usize) {
    println!("{what}, {blows} blows: {tally}");
    assert!(blows > 0, "nothing was struck");
    assert!(tally.total() > CLIENTS, "{tally}");
    assert_eq!((tally.wrong, tally.missing, tally.late), (0, 0, 0), "{tally}");
    assert!(tally.ok_share() >= OK_SHARE_MIN, "{tally}");
}

/// All is as before the faults: nothing is queued or open, every worker is back, and the server stops in order.
async fn check_recovered(shoal: Shoal) {
    wait_for("the calls to be gone", || (shoal.metric("shoal_calls_in_flight") == 0.0).then_some(()));
    assert_eq!(shoal.metric("shoal_rows_in_flight"), 0.0);
    wait_for("the workers to be back", || {
        let up = |index| shoal.metric(&format!("shoal_worker_up{{worker=\"local-{index}\"}}"));
        ((0..WORKERS).map(up).sum::<f64>() == WORKERS as f64).then_some(())
    });
    let (status, log) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(status.success(), "{status:?}");
    let panicked: Vec<&String> = log.iter().filter(|line| line.contains("panicked")).collect();
    assert!(panicked.is_empty(), "{panicked:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_rightly_while_workers_are_killed_and_stopped() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=5ms+per_row=100us", "--workers", "3"]);
    let client = shoal.oip().await;
    let stop = CancellationToken::new();
    let end = Instant::now() + Duration::from_secs(fault_seconds());
    let ask = move |who, call| hashed(client.clone(), DEADLINE, who, call);
    let calls = tokio::spawn(drive(CLIENTS, DEADLINE, stop.clone(), ask));
    let blows = strike(&shoal, end).await;
    sleep_until(end).await;
    wait_for_second_calls(&shoal, "s");
    stop.cancel();
    let tally = calls.await.expect("the clients");
    check("synthetic", &tally, blows);
    check_recovered(shoal).await;
}

/// Texts no two of which are alike: five hundred where the run is long enough to use them, for computing them takes a
/// build without optimisation half a minute.
fn sentences() -> Vec<String> {
    let count = (fault_seconds() * 10).min(500) as usize;
    const WHO: [&str; 10] =
        ["a cat", "the judge", "my uncle", "rain", "the market", "a violin", "nobody", "the sea", "bread", "a child"];
    const DOES: [&str; 10] = [
        "sleeps in",
        "buys",
        "forgets",
        "paints",
        "measures",
        "breaks",
        "sings about",
        "leaves",
        "fears",
        "grows over",
    ];
    const WHAT: [&str; 5] = ["an old garden", "the third train", "cold soup", "seven numbers", "a foreign war"];
    let pairs = WHO.iter().flat_map(|who| DOES.iter().map(move |does| (who, does)));
    pairs.flat_map(|(who, does)| WHAT.iter().map(move |what| format!("{who} {does} {what}"))).take(count).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_stay_right_while_workers_are_killed_and_stopped() {
    let Some(home) = home() else { return };
    let shoal = Shoal::serve_in(&home, &["--model", "minilm", "--workers", "3", "--worker-threads", "1"]);
    let client = shoal.inference().await;
    let texts = sentences();
    let undisturbed = client.clone().embed(embed(&texts)).await.expect("answer").into_inner();
    let expected: Vec<Vec<f32>> = undisturbed.embeddings.into_iter().map(|row| row.values).collect();
    for (index, one) in expected.iter().enumerate() {
        // Or an answer of another text could pass for the right one.
        let nearest = expected[..index].iter().map(|other| cosine(one, other)).fold(0.0, f64::max);
        assert!(nearest < 0.999, "{}: {nearest}", texts[index]);
    }
    let known = Arc::new((texts, expected));
    let stop = CancellationToken::new();
    let end = Instant::now() + Duration::from_secs(fault_seconds().div_ceil(3));
    let ask = move |who: u64, call: u64| {
        let (mut client, known) = (client.clone(), known.clone());
        async move {
            let index = (who * 7919 + call * 31) as usize % known.0.len();
            let mut request: Request<wire::EmbedRequest> = Request::new(embed(std::slice::from_ref(&known.0[index])));
            request.set_timeout(DEADLINE);
            let answer = client.embed(request).await?.into_inner();
            let [row] = answer.embeddings.as_slice() else { return Ok(false) };
            Ok(cosine(&row.values, &known.1[index]) >= 0.999_99)
        }
    };
    let calls = tokio::spawn(drive(CLIENTS, DEADLINE, stop.clone(), ask));
    let blows = strike(&shoal, end).await;
    sleep_until(end).await;
    wait_for_second_calls(&shoal, "minilm");
    stop.cancel();
    let tally = calls.await.expect("the clients");
    check("minilm", &tally, blows);
    check_recovered(shoal).await;
}
