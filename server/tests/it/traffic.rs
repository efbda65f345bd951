//! Clients that call until they are told to stop, and know the right answer to each of their calls.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use shoal_proto::inference::ModelInferResponse;
use shoal_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::oip::texts;

/// How much later than its deadline a call may end on a busy machine before it counts as one that never will.
const GRACE: Duration = Duration::from_secs(10);

/// How calls ended: every one in exactly one of these.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// With the right answer, in time.
    pub(crate) ok: u64,
    /// With another answer.
    pub(crate) wrong: u64,
    /// Never.
    pub(crate) missing: u64,
    /// After the deadline.
    pub(crate) late: u64,
    /// With a status, in time.
    pub(crate) failed: HashMap<Code, u64>,
    pub(crate) slowest: Duration,
    /// One of each kind of failure, for whoever reads the test's output.
    examples: HashMap<Code, String>,
}

impl Tally {
    pub(crate) fn total(&self) -> u64 {
        self.ok + self.wrong + self.missing + self.late + self.failed.values().sum::<u64>()
    }

    /// The part that was answered, in [0, 1].
    pub(crate) fn ok_share(&self) -> f64 {
        self.ok as f64 / self.total().max(1) as f64
    }

    fn count(&mut self, took: Duration, deadline: Duration, outcome: Option<Result<bool, Status>>) {
        self.slowest = self.slowest.max(took);
        match outcome {
            None => self.missing += 1,
            Some(Ok(false)) => self.wrong += 1,
            Some(_) if took > deadline => self.late += 1,
            Some(Ok(true)) => self.ok += 1,
            Some(Err(status)) => {
                *self.failed.entry(status.code()).or_default() += 1;
                self.examples.entry(status.code()).or_insert_with(|| status.message().to_owned());
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.wrong += other.wrong;
        self.missing += other.missing;
        self.late += other.late;
        self.slowest = self.slowest.max(other.slowest);
        for (code, count) in other.failed {
            *self.failed.entry(code).or_default() += count;
        }
        self.examples.extend(other.examples);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ok, wrong, missing, late, failed, slowest, examples } = self;
        let (total, share) = (self.total(), 100.0 * self.ok_share());
        write!(f, "{total} calls: {ok} ok ({share:.3} %), {wrong} wrong, {missing} missing, {late} late")?;
        for (code, count) in failed {
            write!(f, ", {count} {code:?} (`{}`)", examples.get(code).map_or("", String::as_str))?;
        }
        write!(f, ", slowest {slowest:.1?}")
    }
}

/// Has `clients` clients call, each one call at a time, until `stop`. `ask` makes a client's next call, given its number
/// and that of the call, and says whether the answer was right.
pub(crate) async fn drive<F>(
    clients: u64,
    deadline: Duration,
    stop: CancellationToken,
    ask: impl Fn(u64, u64) -> F + Clone + Send + 'static,
) -> Tally
where
    F: Future<Output = Result<bool, Status>> + Send,
{
    let mut running = JoinSet::new();
    for client in 0..clients {
        let (ask, stop) = (ask.clone(), stop.clone());
        running.spawn(async move {
            let mut tally = Tally::default();
            for call in 0.. {
                if stop.is_cancelled() {
                    break;
                }
                let started = Instant::now();
                let outcome = timeout(deadline + GRACE, ask(client, call)).await.ok();
                tally.count(started.elapsed(), deadline, outcome);
            }
            tally
        });
    }
    let mut all = Tally::default();
    while let Some(tally) = running.join_next().await {
        all.add(tally.expect("a client"));
    }
    all
}

/// One call of one to four texts that nobody else sends, to the synthetic model `s`; whether their hashes came back.
pub(crate) async fn hashed(
    mut client: GrpcInferenceServiceClient<Channel>,
    deadline: Duration,
    who: u64,
    call: u64,
) -> Result<bool, Status> {
    let inputs: Vec<String> = (0..=call % 4).map(|row| format!("{who} asks {call}.{row}")).collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut request = Request::new(texts("s", &inputs));
    request.set_timeout(deadline);
    let answer = client.model_infer(request).await?.into_inner();
    Ok(is_right(&answer, &inputs))
}

/// Whether these are the hashes of these texts.
pub(crate) fn is_right(answer: &ModelInferResponse, inputs: &[&str]) -> bool {
    let expected: Vec<u8> = inputs.iter().flat_map(|text| fnv1a(text.as_bytes()).to_le_bytes()).collect();
    answer.raw_output_contents.first().is_some_and(|found| **found == *expected)
}

/// 64-bit FNV-1a, as the synthetic model's documentation says; written out again, so that a mistake in the one shows.
fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash ^= u64::from(*byte);
        hash = hash.wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
