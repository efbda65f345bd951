//! Everything that can happen to the driver, and everything it can ask of a worker.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_scheduler::{Attempt, BatchFailure, BatchId, Budget, DownCause, Epoch, Size, Slot, TurnKind, Want};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::call::{Answer, Call, CallError, RowOptions, Tensor, Trace};
use crate::card::Card;
use crate::explain::Report;
use crate::metrics::GpuHealth;
use crate::models::Place;
use crate::tokenize::Vocabulary;

use super::costs::{CostKey, KeptCost};
use super::models::{ModelReport, ModelSettings};
use super::pools::PoolStanding;
use super::tokenizers::ArtifactError;

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// A call arrived. `first` is the id of its first row and of its group; the rows' ids follow on.
    Submit { first: u64, call: Call, reply: oneshot::Sender<Result<Answer, CallError>> },
    /// A worker attached both its streams.
    WorkerUp(WorkerUp),
    /// A worker said something.
    Worker { epoch: Epoch, said: FromWorker },
    /// A local worker's process ended.
    ProcessEnded { worker: Arc<str>, cause: DownCause },
    /// These are now all the models; answered once they are known.
    Configure { models: Vec<ModelSettings>, done: oneshot::Sender<()> },
    /// A model is to be in memory, or no longer.
    Want { model: Arc<str>, wanted: bool, done: oneshot::Sender<()> },
    /// A tokenizer was read, or could not be.
    Tokenizer { sha256: String, result: Result<Vocabulary, ArtifactError> },
    /// What a model was found to cost before, if it was.
    Cost { model: Arc<str>, key: CostKey, found: Option<KeptCost> },
    /// What was learned is to be kept; answered once it is.
    KeepCosts { done: oneshot::Sender<()> },
    /// Local workers are to finish what they run and end, within `grace`.
    Dismiss { grace: Duration },
    /// Bring the gauges up to date.
    Measure { done: oneshot::Sender<()> },
    /// Say how things stand: of one model, if one is named, with so many of the calls that have waited longest.
    Explain { model: Option<Arc<str>>, calls_max: usize, done: oneshot::Sender<Report> },
    /// Say how a pool of workers stands, for these models, or for those that it holds when none are named.
    Pool { pool: Arc<str>, models: Vec<Arc<str>>, done: oneshot::Sender<PoolStanding> },
    /// A call came for a model that nobody can be asked for yet, and waits for it.
    Awaited { model: Arc<str> },
    /// A call ended because there is no model to ask.
    GaveUp { model: Arc<str>, error: CallError },
    /// Take nothing new; answer when the last call is done or after `grace`.
    Drain { grace: Duration, done: oneshot::Sender<()> },
}

/// A worker, as it introduced itself.
#[derive(Debug)]
pub struct WorkerUp {
    /// Names this life of its connection.
    pub epoch: Epoch,
    /// Its own name.
    pub name: Arc<str>,
    /// What it runs on, for people.
    pub device: String,
    /// What else is like it: batches of the same model take as long there.
    pub device_class: Arc<str>,
    /// The GPU it is on, as NVIDIA's tools name it; none where it is on a processor, or does not say.
    pub gpu: Option<Arc<str>>,
    /// Started by this server: it is told where to read models.
    pub local: bool,
    /// Models it has sources for of its own.
    pub offers: Vec<Arc<str>>,
    /// Those of them that it holds already.
    pub held: Vec<Arc<str>>,
    /// Which workers it is one of, of those that are scaled together.
    pub pool: Arc<str>,
    /// Where to send what it should do. Bounded by its credits and the number of models.
    pub commands: mpsc::UnboundedSender<ToWorker>,
}

/// What a worker says.
#[derive(Debug)]
pub enum FromWorker {
    /// It can take one more batch.
    Credit { slot: Slot, budget: Budget },
    /// It can take a batch of one model, now or not at all; it serves other servers as well.
    Turn { slot: Slot, model: Arc<str>, budget: Budget, kind: TurnKind, own: Size, others: Size },
    /// It began to run a batch, as one with so much of what other servers sent, after it lay there for so long.
    Begun { batch: BatchId, attempt: Attempt, others: Size, waited: Duration },
    /// A model of it changed state.
    Model { model: Arc<str>, state: ModelReport },
    /// Some items ended.
    Items { batch: BatchId, attempt: Attempt, items: Vec<ItemResult> },
    /// Weights had to come onto the device before a batch, which is about to end.
    PagedIn { batch: BatchId, attempt: Attempt, taken: Duration },
    /// The weights of these of its models are not on its device now, and those of all others are.
    Weights { absent: Vec<Arc<str>> },
    /// A batch ended. It waited so long from its arrival until it was computed.
    BatchEnd { batch: BatchId, attempt: Attempt, waited: Duration, compute: Duration },
    /// A batch failed.
    BatchFailed { batch: BatchId, attempt: Attempt, reason: BatchFailure, detail: String },
    /// An artifact it was asked for.
    Artifact { sha256: String, result: Result<Bytes, String> },
    /// How its GPU is; none if it does not know any more.
    Gpu(Option<GpuHealth>),
    /// Its connection is over.
    Gone { left: bool, reason: String },
}

/// How one item ended.
#[derive(Debug)]
pub struct ItemResult {
    /// Its place in the batch.
    pub index: u32,
    /// Its tensors, or why not.
    pub result: Result<Vec<Tensor>, ItemError>,
}

/// Why an item has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemError {
    /// The model could not compute it.
    Input(String),
    /// Its deadline had passed when its turn came.
    Deadline,
    /// It was cancelled before its turn came.
    Cancelled,
}

/// What a worker is asked to do.
#[derive(Debug)]
pub enum ToWorker {
    Run(Batch),
    /// What waits for it, of one model.
    Bid {
        model: Arc<str>,
        want: Option<Wanted>,
    },
    /// Nothing is sent for this turn.
    Pass {
        slot: Slot,
    },
    Cancel {
        batch: BatchId,
        items: Vec<u32>,
    },
    Load {
        model: Arc<str>,
        source: Option<Place>,
        dtype: Arc<str>,
    },
    Unload {
        model: Arc<str>,
    },
    FetchArtifact {
        sha256: String,
    },
    Drain {
        grace: Duration,
    },
    /// End the connection.
    Close,
}

/// What waits for a worker, with its latest start as the time that it is.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub want: Want,
    pub start: Instant,
}

/// A batch on its way to a worker.
#[derive(Debug)]
pub struct Batch {
    pub batch: BatchId,
    pub attempt: Attempt,
    pub epoch: Epoch,
    pub slot: Slot,
    pub model: Arc<str>,
    pub card: Arc<Card>,
    /// How long its credit was here before there was a batch for it.
    pub held: Duration,
    /// In batch order.
    pub rows: Vec<BatchRow>,
}

/// One row of a batch on its way.
#[derive(Debug)]
pub struct BatchRow {
    /// Values of each input column, in the order of the card's inputs.
    pub columns: Vec<Bytes>,
    pub options: RowOptions,
    /// Until the client's deadline.
    pub remaining: Option<Duration>,
    pub trace: Trace,
}
