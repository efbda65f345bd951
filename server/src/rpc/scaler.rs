//! `externalscaler.ExternalScaler`: says to KEDA how many workers a pool should have, and whether it should have any.
//!
//! Two metrics, of which the larger wins: the seconds of work that wait for each worker, since workers that are busy for
//! all of their time do not say how much is missing; and the part of its time for which each computes, since nothing
//! waits for workers that are only just enough.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::externalscaler::{self as wire, external_scaler_server};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::call::CallError;
use crate::driver::{Handle, PoolStanding};
use crate::registry::Registry;

use super::status::status;

/// How long a busy driver may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a stream looks whether something changed: little beside what a pod takes to start.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Seconds of work that wait for all workers together.
const QUEUED: &str = "queued-seconds";
/// Workers that compute, in the mean of a minute.
const BUSY: &str = "busy-workers";
/// How much a key must be like one of ours to be taken for a slip. KEDA has keys of its own among them.
const SLIP: f64 = 0.85;

/// The service.
#[derive(Clone, Debug)]
pub struct ScalerService {
    driver: Handle,
    registry: Registry,
    draining: CancellationToken,
}

/// What a trigger's `metadata` asks for.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    /// The pool to be scaled.
    pool: Arc<str>,
    /// Models that it serves; all where none are named.
    models: Vec<Arc<str>>,
    /// Seconds of work that may wait for each worker.
    queued_seconds: f64,
    /// The part of its time for which each worker is to compute.
    busy_workers: f64,
    /// How long after a call there is still something to do.
    active: Duration,
    /// Servers that share the work, each of which is taken to have as much of it.
    servers: f64,
}

impl Asked {
    const KEYS: [&str; 6] = ["pool", "models", "queuedSeconds", "busyWorkers", "activeSeconds", "servers"];

    fn read(metadata: &HashMap<String, String>) -> Result<Self, CallError> {
        for key in metadata.keys().filter(|key| !Self::KEYS.contains(&key.as_str())) {
            let likeness = |known: &&str| strsim::jaro_winkler(known, key);
            if let Some(near) = Self::KEYS.iter().find(|known| likeness(known) > SLIP) {
                return Err(invalid(key, format!("is no key; did you mean `{near}`?")));
            }
        }
        let text = |key: &str| metadata.get(key).map(|text| text.trim()).filter(|text| !text.is_empty());
        let number = |key: &str, default: f64, most: f64| match text(key).map(str::parse) {
            None => Ok(default),
            Some(Ok(number)) if number > 0.0 && number <= most => Ok(number),
            Some(_) => Err(invalid(key, format!("must be a number above 0, {most} at most"))),
        };
        let names = text("models").into_iter().flat_map(|names| names.split(','));
        Ok(Self {
            pool: text("pool").unwrap_or("default").into(),
            models: names.map(|name| name.trim().into()).collect(),
            queued_seconds: number("queuedSeconds", 0.5, 3600.0)?,
            busy_workers: number("busyWorkers", 0.7, 1.0)?,
            active: Duration::from_secs_f64(number("activeSeconds", 60.0, 86_400.0)?),
            servers: number("servers", 1.0, 1000.0)?,
        })
    }

    fn is_active(&self, standing: &PoolStanding) -> bool {
        let is_called = standing.open_calls > 0 || standing.last_call.is_some_and(|ago| ago < self.active);
        is_called || standing.queued_elsewhere.as_secs_f64() > self.queued_seconds
    }
}

impl ScalerService {
    /// A service that asks `driver`.
    pub fn new(driver: Handle, registry: Registry, draining: CancellationToken) -> Self {
        Self { driver, registry, draining }
    }

    async fn look(&self, asked: &Asked) -> Result<PoolStanding, Status> {
        // A model may be on its way into the configuration, or out of it.
        let mut known = asked.models.clone();
        known.retain(|model| self.registry.model(model).is_ok());
        if let (true, Some(first)) = (known.is_empty(), asked.models.first()) {
            self.registry.model(first).map_err(|error| status(&error.within("models")))?;
        }
        let standing = self.driver.pool(asked.pool.clone(), known, PATIENCE).await;
        standing.ok_or_else(|| {
            let patience = humantime::format_duration(PATIENCE);
            Status::unavailable(format!("the server is too busy to say within {patience} how its workers stand"))
        })
    }

    /// Tells a stream whether there is anything to do, whenever that changes, until either end is gone.
    async fn watch(self, asked: Asked, answers: mpsc::Sender<Result<wire::IsActiveResponse, Status>>) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.draining.cancelled() => return,
                () = answers.closed() => return,
            }
            let answer = match self.look(&asked).await {
                Ok(standing) => Ok(asked.is_active(&standing)),
                Err(status) => Err(status),
            };
            if answer.as_ref().ok() == told.as_ref() {
                continue;
            }
            told = answer.as_ref().ok().copied();
            let answer = answer.map(|result| wire::IsActiveResponse { result });
            let is_last = answer.is_err();
            if answers.send(answer).await.is_err() || is_last {
                return;
            }
        }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<wire::IsActiveResponse, Status>> + Send>>;

#[tonic::async_trait]
impl external_scaler_server::ExternalScaler for ScalerService {
    async fn is_active(
        &self,
        request: Request<wire::ScaledObjectRef>,
    ) -> Result<Response<wire::IsActiveResponse>, Status> {
        let asked = read(request.get_ref())?;
        let result = asked.is_active(&self.look(&asked).await?);
        Ok(Response::new(wire::IsActiveResponse { result }))
    }

    type StreamIsActiveStream = Answers;

    async fn stream_is_active(&self, request: Request<wire::ScaledObjectRef>) -> Result<Response<Answers>, Status> {
        let asked = read(request.get_ref())?;
        let (answers, stream) = mpsc::channel(1);
        tokio::spawn(self.clone().watch(asked, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_metric_spec(
        &self,
        request: Request<wire::ScaledObjectRef>,
    ) -> Result<Response<wire::GetMetricSpecResponse>, Status> {
        let asked = read(request.get_ref())?;
        let specs = [(QUEUED, asked.queued_seconds), (BUSY, asked.busy_workers)];
        let spec = |(name, target): (&str, f64)| wire::MetricSpec {
            metric_name: name.to_owned(),
            target_size: whole(target).max(1),
            target_size_float: target,
        };
        Ok(Response::new(wire::GetMetricSpecResponse { metric_specs: specs.map(spec).into() }))
    }

    async fn get_metrics(
        &self,
        request: Request<wire::GetMetricsRequest>,
    ) -> Result<Response<wire::GetMetricsResponse>, Status> {
        let wire::GetMetricsRequest { scaled_object_ref, metric_name } = request.into_inner();
        let asked = read(&scaled_object_ref.unwrap_or_default())?;
        let standing = self.look(&asked).await?;
        let value = match metric_name.as_str() {
            QUEUED => standing.queued.as_secs_f64() * asked.servers,
            BUSY => standing.busy * asked.servers,
            other => {
                let known = format!("is `{other}`; there are {QUEUED} and {BUSY}");
                return Err(status(&invalid("metricName", known)));
            }
        };
        let value = wire::MetricValue { metric_name, metric_value: whole(value), metric_value_float: value };
        Ok(Response::new(wire::GetMetricsResponse { metric_values: vec![value] }))
    }
}

fn read(object: &wire::ScaledObjectRef) -> Result<Asked, Status> {
    Asked::read(&object.scaler_metadata).map_err(|error| status(&error))
}

fn invalid(key: &str, problem: String) -> CallError {
    CallError::InvalidArgument { field: key.to_owned(), problem }
}

/// Rounded up: for KEDA before 2.17 there are no halves, and a little is more than nothing.
fn whole(value: f64) -> i64 {
    value.ceil() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<Asked, String> {
        let metadata = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Asked::read(&metadata).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_trigger_does_not_say_has_a_default() {
        let expected = Asked {
            pool: "default".into(),
            models: Vec::new(),
            queued_seconds: 0.5,
            busy_workers: 0.7,
            active: Duration::from_secs(60),
            servers: 1.0,
        };
        // What KEDA has for itself is none of ours.
        let own = [("scalerAddress", "shoal:8005"), ("caCert", "x"), ("enableTLS", "true"), ("unsafeSsl", "false")];
        assert_eq!(asked(&own), Ok(expected));
    }

    #[test]
    fn reads_what_it_says() {
        let read =
            asked(&[("pool", "gpu"), ("models", "a, b"), ("queuedSeconds", "2"), ("servers", "3")]).expect("read");
        assert_eq!((&*read.pool, read.queued_seconds, read.servers), ("gpu", 2.0, 3.0));
        assert_eq!(read.models, ["a".into(), "b".into()]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, expected) in [
            ("queuedSeconds", "much", "`queuedSeconds`: must be a number above 0, 3600 at most"),
            ("queuedSeconds", "NaN", "`queuedSeconds`: must be a number above 0, 3600 at most"),
            ("busyWorkers", "70", "`busyWorkers`: must be a number above 0, 1 at most"),
            ("activeSeconds", "-1", "`activeSeconds`: must be a number above 0, 86400 at most"),
            ("servers", "0", "`servers`: must be a number above 0, 1000 at most"),
            ("queuedSecond", "1", "`queuedSecond`: is no key; did you mean `queuedSeconds`?"),
            ("model", "a", "`model`: is no key; did you mean `models`?"),
        ] {
            let found = asked(&[(key, value)]).expect_err(key);
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn there_is_something_to_do_while_calls_are_open_and_for_a_time_after() {
        let asked = asked(&[("activeSeconds", "10")]).expect("read");
        let seconds = |ago| Some(Duration::from_secs(ago));
        for (open_calls, last_call, expected) in
            [(0, None, false), (1, None, true), (1, seconds(60), true), (0, seconds(9), true), (0, seconds(10), false)]
        {
            let standing = PoolStanding { open_calls, last_call, ..PoolStanding::default() };
            assert_eq!(asked.is_active(&standing), expected, "{standing:?}");
        }
    }
}
