//! Services of any wire, in front of a real driver. Its only worker takes no batch, so that every call stays open, unless
//! it is told to [work](Bench::work).

pub(crate) mod heads;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use shoal_scheduler::{Budget, Epoch, Limits, PolicyConfig, Slot};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Frontend, FrontendOptions};
use crate::call::{DataType, Tensor};
use crate::card::{Card, Task, TensorSpec};
use crate::driver::{
    Batch, BatchRow, Driver, Event, FromWorker, Handle, ItemError, ItemResult, ModelReport, ModelSettings,
    Surroundings, ToWorker, WorkerUp, drive,
};
use crate::metrics::Metrics;
use crate::registry::{ModelState, Registry};
use crate::tokenize::{TokenizerPool, Vocabulary};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Texts of one token each.
const TOKENIZER: &[u8] =
    br#"{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0,"b":1,"c":2},"unk_token":"a"}}"#;

/// The id whose row the worker cannot compute.
pub(crate) const BAD_ID: i32 = 2;

const EPOCH: Epoch = Epoch(1);

pub(crate) struct Bench {
    pub(crate) driver: Handle,
    pub(crate) metrics: Metrics,
    pub(crate) draining: CancellationToken,
    pub(crate) frontend: Frontend,
    commands: mpsc::UnboundedReceiver<ToWorker>,
}

impl Bench {
    /// Serves `e`, which embeds, and `slow`, which is never loaded.
    pub(crate) async fn new() -> Self {
        Self::with(FrontendOptions::default(), settings("e")).await
    }

    /// As [`Self::new`], with these options and this model `e`.
    pub(crate) async fn with(options: FrontendOptions, e: ModelSettings) -> Self {
        // Nobody waits long for what is never there.
        let slow = ModelSettings { queue_time_max: Duration::from_millis(100), ..settings("slow") };
        Self::start(options, vec![e, slow], vec![card()], TOKENIZER).await
    }

    /// Serves `c`, which classifies, `r`, which ranks, and `f`, which fills masks.
    pub(crate) async fn of_heads() -> Self {
        let models = ["c", "r", "f"].map(settings);
        Self::start(FrontendOptions::default(), models.into(), heads::cards().into(), heads::TOKENIZER).await
    }

    async fn start(options: FrontendOptions, models: Vec<ModelSettings>, cards: Vec<Card>, tokenizer: &[u8]) -> Self {
        let (registry, metrics) = (Registry::default(), Metrics::new());
        let (driver, inbox) = Handle::new();
        let (around, _) = Surroundings::of_test(registry.clone(), metrics.clone());
        tokio::spawn(drive(Driver::new(Limits::default(), Instant::now(), around), inbox));
        let offers = models.iter().map(|model| model.name.clone()).collect();
        driver.configure(models).await;
        let (epoch, (up, commands)) = (EPOCH, WorkerUp::of_test(EPOCH, "w"));
        driver.tell(Event::WorkerUp(WorkerUp { offers, ..up })).await;
        let ready: Vec<_> = cards.iter().map(|card| card.name.clone()).collect();
        for card in cards {
            let (model, state) = (card.name.clone(), ModelReport::Ready(Arc::new(card)));
            driver.tell(Event::Worker { epoch, said: FromWorker::Model { model, state } }).await;
        }
        let vocabulary = Vocabulary::parse("ab", tokenizer).expect("a tokenizer");
        driver.tell(Event::Tokenizer { sha256: "ab".into(), result: Ok(vocabulary) }).await;
        let mut changes = registry.changes();
        while ready.iter().any(|name| registry.model(name).map_or(true, |view| view.state != ModelState::Ready)) {
            timeout(PATIENCE, changes.changed()).await.expect("it gets ready").expect("registry");
        }
        let tokenizers = TokenizerPool::start(1).expect("a thread");
        let draining = CancellationToken::new();
        let frontend = Frontend::new(driver.clone(), registry.clone(), tokenizers, options, draining.clone());
        Self { driver, metrics, draining, frontend, commands }
    }

    /// Has the worker run all it is given: the embedding of a row is [`vector`] of its first id, and [`heads`] says the
    /// rest.
    pub(crate) fn work(mut self) -> Self {
        let (_, nothing) = mpsc::unbounded_channel();
        let mut commands = std::mem::replace(&mut self.commands, nothing);
        let driver = self.driver.clone();
        tokio::spawn(async move {
            let say = |said| driver.tell(Event::Worker { epoch: EPOCH, said });
            let budget = Budget { rows: 8, tokens: 1000, bytes: 1 << 20 };
            say(FromWorker::Credit { slot: Slot(0), budget }).await;
            while let Some(command) = commands.recv().await {
                let ToWorker::Run(Batch { batch, attempt, card, rows, .. }) = command else { continue };
                let result = |row| if card.task == Task::Embed { compute(row) } else { Ok(heads::compute(&card, row)) };
                let items = (0..).zip(&rows).map(|(index, row)| ItemResult { index, result: result(row) }).collect();
                say(FromWorker::Items { batch, attempt, items }).await;
                say(FromWorker::BatchEnd { batch, attempt, waited: Duration::ZERO, compute: Duration::from_millis(1) })
                    .await;
                say(FromWorker::Credit { slot: Slot(0), budget }).await;
            }
        });
        self
    }

    pub(crate) async fn wait_for_calls(&self, count: i64) {
        let counted = async {
            while self.metrics.calls_in_flight.get() != count {
                tokio::task::yield_now().await;
                self.driver.measure(PATIENCE).await;
            }
        };
        timeout(PATIENCE, counted).await.expect("calls come and go");
    }
}

/// The embedding of a row that begins with this id.
pub(crate) fn vector(id: i32) -> [f32; 4] {
    [id as f32, 0.1, -1e-7, 3.0]
}

fn compute(row: &BatchRow) -> Result<Vec<Tensor>, ItemError> {
    let id = row.columns[0].first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
    if id == BAD_ID {
        return Err(ItemError::Input("cannot compute that".into()));
    }
    let kept = if row.options.dimensions == 0 { 4 } else { row.options.dimensions as usize };
    let mut data = BytesMut::new();
    vector(id)[..kept].iter().for_each(|value| data.put_f32_le(*value));
    let shape = vec![kept as i64];
    Ok(vec![Tensor { name: "embedding".into(), data_type: DataType::F32, shape, data: data.freeze() }])
}

pub(crate) fn settings(name: &str) -> ModelSettings {
    ModelSettings {
        name: name.into(),
        place: None,
        dtype: "auto".into(),
        slo: Duration::from_millis(50),
        is_slo_stated: true,
        queue_time_max: 10 * PATIENCE,
        queue_requests_max: NonZeroU32::new(1 << 16).expect("not zero"),
        batch_time_max: PATIENCE,
        batch_rows_max: NonZeroU32::new(8).expect("not zero"),
        batch_tokens_max: NonZeroU32::new(1000).expect("not zero"),
        policy: PolicyConfig::Fixed,
        load: Default::default(),
        canary: None,
    }
}

fn card() -> Card {
    let tensor =
        |name: &str, data_type, shape: &[i64]| TensorSpec { name: name.into(), data_type, shape: shape.into() };
    Card {
        task: Task::Embed,
        dims: 4,
        tokens_max: 16,
        vocabulary: 3,
        tokenizer_sha256: "ab".into(),
        inputs: vec![tensor("ids", DataType::I32, &[-1])],
        outputs: vec![tensor("embedding", DataType::F32, &[4])],
        normalizes: true,
        smallest_batch: Duration::from_millis(1),
        ..Card::testing("e")
    }
}
