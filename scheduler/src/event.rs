//! What the core is told and what it answers: the whole of its contact with the world.
//!
//! Payloads, channels and text never appear here. The driver keeps them by id.

use alloc::vec::Vec;
use core::time::Duration;

use crate::cost::Size;
use crate::{
    Attempt, BatchCost, BatchId, DeviceId, Epoch, GroupId, ModelConfig, ModelId, ProbeRow, RequestId, Slot, TenantId,
    Timestamp, WorkerId,
};

/// What a request asks of a worker, known before it is queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Rows of the batch it takes; 1 for one text.
    pub rows: u32,
    /// Tokens, 0 for models that have none.
    pub tokens: u32,
    /// Sum over its rows of the squared token count: what attention costs.
    pub tokens_squared: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

/// How urgent a request is. Orders before deadlines do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A person is waiting.
    Interactive,
    /// The default.
    #[default]
    Standard,
    /// Nobody is waiting; takes what the others leave, but never nothing.
    Bulk,
}

impl Class {
    /// Every class, most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Standard, Self::Bulk];
}

/// All requests of one call, as submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The call.
    pub id: GroupId,
    /// The model that runs it.
    pub model: ModelId,
    /// On whose account.
    pub tenant: TenantId,
    /// How urgent.
    pub class: Class,
    /// The client's deadline. Nothing of the group runs after it.
    pub deadline: Option<Timestamp>,
    /// Its requests, in the order of the call. Never empty.
    pub requests: Vec<Request>,
}

/// One request of a [`Group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its name.
    pub id: RequestId,
    /// What it costs.
    pub cost: Cost,
}

/// What one batch may hold at most. Granted by a worker with each credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Rows.
    pub rows: u32,
    /// Tokens.
    pub tokens: u32,
    /// Bytes of payload.
    pub bytes: u64,
}

/// What a worker says about one model it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Being read into memory.
    Loading,
    /// Can run batches.
    Ready,
    /// Could not be loaded; the driver keeps the reason.
    Failed,
    /// Not in memory.
    Unloaded,
}

/// Why a worker went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownCause {
    /// It ended by itself while running: an abort, a signal of its own making, an exit. Its batch is suspect.
    Crashed,
    /// Its device broke, by what it ran or by itself. Its batch is suspect, but nothing in it guilty until another device
    /// breaks under it as well: another worker on the same one proves nothing.
    DeviceBroke,
    /// It was ended, cut off or lost from outside. Its batch is innocent.
    Lost,
    /// It said goodbye after a drain.
    Left,
}

/// Why a whole batch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFailure {
    /// Some item in it could not be computed, and the worker cannot say which.
    Item,
    /// The device had not enough memory for it.
    OutOfMemory,
    /// The device failed; the worker is going to say more, or to go.
    Device,
    /// The worker gave up on it after its own time limit.
    Timeout,
}

/// How one item of a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemOutcome {
    /// It has a result.
    Ok,
    /// It failed alone, with a reason of its own that the driver keeps.
    Failed,
}

/// Everything the core can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A call arrived.
    SubmitGroup(Group),
    /// Its client cancelled it or went away. Unknown groups are ignored: it may just have ended.
    Cancel(GroupId),
    /// A worker connected that computes on this device, and can serve these models, none of them loaded yet.
    WorkerUp { worker: WorkerId, epoch: Epoch, device: DeviceId, models: Vec<ModelId> },
    /// A connected worker can serve these models as well, not loaded yet; of those it could before nothing changes.
    WorkerOffers { worker: WorkerId, epoch: Epoch, models: Vec<ModelId> },
    /// A worker can take one more batch. A second credit for a slot replaces the first; one of no rows takes it back.
    WorkerCredit { worker: WorkerId, epoch: Epoch, slot: Slot, budget: Budget },
    /// A worker that serves several schedulers can take a batch of one model, now or not at all: the answer is one
    /// [`Output::Dispatch`] on its slot or one [`Output::Pass`].
    WorkerTurn(Turn),
    /// A worker that serves several schedulers begins to run a batch, as one with so much of what others sent, after it
    /// lay there for so long.
    BatchBegun { worker: WorkerId, epoch: Epoch, batch: BatchId, attempt: Attempt, others: Size, waited: Duration },
    /// One item of a running batch ended.
    ItemDone {
        worker: WorkerId,
        epoch: Epoch,
        batch: BatchId,
        attempt: Attempt,
        request: RequestId,
        outcome: ItemOutcome,
    },
    /// A batch, which is about to end, began so much later because its model's weights had to be brought onto the worker's
    /// device.
    PagedIn { worker: WorkerId, epoch: Epoch, batch: BatchId, attempt: Attempt, taken: Duration },
    /// Of the models that the worker holds the weights of these are not on its device now, and those of all others are. Until
    /// a worker says this all are.
    Weights { worker: WorkerId, epoch: Epoch, absent: Vec<ModelId> },
    /// A batch ended; items not reported before are taken as broken by the worker.
    BatchEnd { worker: WorkerId, epoch: Epoch, batch: BatchId, attempt: Attempt, compute: Duration },
    /// A batch ended without results for the items not reported before.
    BatchFailed { worker: WorkerId, epoch: Epoch, batch: BatchId, attempt: Attempt, reason: BatchFailure },
    /// A worker is gone.
    WorkerDown { worker: WorkerId, epoch: Epoch, cause: DownCause },
    /// A worker's model changed state.
    ModelState { worker: WorkerId, epoch: Epoch, model: ModelId, state: ModelState },
    /// What batches of a model were found to cost before. Looked at while hardly anything was learned of it; from then
    /// on it is learned. Unknown models are ignored.
    CostKnown { model: ModelId, cost: BatchCost },
    /// What batches of a model cost may be found out, with rows like this one, on one of its workers while it has
    /// nothing else to do. Ignored where something was known before or requests have taught enough; put off while the
    /// model's policy does not ask what batches cost.
    Calibrate { model: ModelId, row: ProbeRow },
    /// These are now all the models. Models left out are unloaded and their queues refused.
    ConfigChanged(Vec<ModelConfig>),
    /// Take nothing new, finish what is there by `deadline`, then say [`Output::Drained`].
    Drain { deadline: Timestamp },
    /// Time passed: a wake-up asked for by `poll_timeout` is due.
    Tick,
}

/// Everything the core can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// What is wanted most of a worker that serves others as well: of one model this, or nothing any more. It replaces what
    /// was said of the model before; a turn for the model takes it back.
    Bid { worker: WorkerId, epoch: Epoch, model: ModelId, want: Option<Want> },
    /// Nothing is sent for this turn.
    Pass { worker: WorkerId, epoch: Epoch, slot: Slot },
    /// Send this batch to this worker, spending the credit of `slot`.
    Dispatch(Dispatch),
    /// Send this made-up batch to this worker, spending the credit of `slot`.
    Probe(Probe),
    /// No more probes are sent of this model: so many of them taught what it costs, and a worker was busy with them
    /// all for `spent`.
    Calibrated { model: ModelId, batches: u32, spent: Duration },
    /// The request has its result: the one in the `ItemDone` just handled.
    Complete { request: RequestId },
    /// The request ended without a result, and with it its call: what is left of that ends without another word.
    Fail { request: RequestId, why: Failure },
    /// The request cannot be on time any more. It stays queued, behind all that can.
    Late { request: RequestId },
    /// The group was not admitted; nothing of it was or will be run.
    Reject { group: GroupId, why: Reject },
    /// These requests of a running batch are no longer wanted.
    CancelRunning { worker: WorkerId, epoch: Epoch, batch: BatchId, requests: Vec<RequestId> },
    /// Bring a model into the worker's memory.
    Load { worker: WorkerId, epoch: Epoch, model: ModelId },
    /// Take a model out of the worker's memory.
    Unload { worker: WorkerId, epoch: Epoch, model: ModelId },
    /// The worker holds a batch for longer than its model allows: replace the process.
    /// The core already treats the worker as gone; its batch is suspect.
    Replace { worker: WorkerId, epoch: Epoch, batch: BatchId },
    /// Nothing is queued or running any more, or the drain's deadline has passed and the rest was failed.
    Drained,
}

/// What waits for a worker in one scheduler's queue of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Of the most urgent request.
    pub class: Class,
    /// When the batch must start at the latest for it to be on time.
    pub start: Timestamp,
    /// The device time that a batch of all that can still be on time takes.
    pub time: Duration,
    /// All that can still be on time; nothing where only late ones are to run now, be it that they alone wait or that the
    /// others wait for more of them or for a quicker worker.
    pub on_time: Size,
    /// Which classes have a request among them.
    pub classes: [bool; Class::ALL.len()],
    /// All that is late.
    pub late: Size,
    /// Whether it is a part of a batch that failed, and must share no batch with others.
    pub is_apart: bool,
}

/// The offer of a worker to run a batch now, made to every scheduler that wants the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose.
    pub worker: WorkerId,
    /// In this life.
    pub epoch: Epoch,
    /// Names the turn. Never one that was given before, until 2³² were.
    pub slot: Slot,
    /// Of this model alone.
    pub model: ModelId,
    /// What the whole batch may hold.
    pub budget: Budget,
    /// What kind of batch.
    pub kind: TurnKind,
    /// How much of this kind the scheduler had waiting when it last said so.
    pub own: Size,
    /// How much others had who are given the same turn.
    pub others: Size,
}

/// Which of what waits a turn is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnKind {
    /// What can still be on time, the class first.
    OnTime(Class),
    /// What is late.
    Late,
    /// A part of a batch that failed, by itself.
    Apart,
}

/// A batch on its way to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatch {
    pub batch: BatchId,
    pub worker: WorkerId,
    pub epoch: Epoch,
    /// The credit it spends.
    pub slot: Slot,
    pub model: ModelId,
    /// The highest attempt of its requests.
    pub attempt: Attempt,
    /// Why it was closed when it was.
    pub close: CloseReason,
    /// In batch order.
    pub requests: Vec<RequestId>,
}

/// A batch that nobody asked for, to find out how long it takes. Its rows are all alike, and nobody wants their
/// results: it is over with [`Input::BatchEnd`] or [`Input::BatchFailed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub batch: BatchId,
    pub worker: WorkerId,
    pub epoch: Epoch,
    /// The credit it spends.
    pub slot: Slot,
    pub model: ModelId,
    /// Always 1.
    pub attempt: Attempt,
    pub rows: u32,
    /// Of each row.
    pub tokens: u32,
}

/// Why a batch was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseReason {
    /// It took all that was queued.
    Drained,
    /// The row budget is used up.
    Rows,
    /// The token budget is used up.
    Tokens,
    /// The byte budget is used up.
    Bytes,
    /// A preferred size was reached.
    Preferred,
    /// The oldest request had waited as long as the policy lets it.
    Delay,
    /// With one more it would have taken longer than the objective of those in it allows.
    Objective,
    /// What is left goes to other workers, which are idle.
    Spread,
    /// It took late ones, whose turn it was: all there were, or as many as may hold up who is on time.
    Late,
    /// It runs alone or in a small part because a batch it was in failed.
    Isolated,
    /// Its requests are in another batch already, which has been slow: they are run a second time, and the first result of
    /// each counts.
    Hedged,
}

impl CloseReason {
    /// Every reason, in their order.
    pub const ALL: [Self; 11] = [
        Self::Drained,
        Self::Rows,
        Self::Tokens,
        Self::Bytes,
        Self::Preferred,
        Self::Delay,
        Self::Objective,
        Self::Spread,
        Self::Late,
        Self::Isolated,
        Self::Hedged,
    ];
}

/// Why a group was refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// No such model is configured.
    UnknownModel,
    /// The server is shutting down.
    Draining,
    /// The deadline had passed on arrival.
    DeadlinePassed,
    /// The client's deadline is `left` away, and one such request takes about `needed` even alone on the fastest worker.
    DeadlineTooShort { left: Duration, needed: Duration },
    /// What every worker has in hand leaves no time for it before the client's deadline. Trying again makes sense after
    /// about `retry_after`.
    DeadlineUnmeetable { retry_after: Duration },
    /// The group alone is more than a queue may ever hold.
    GroupTooLarge,
    /// One request alone is more than a batch may ever hold.
    RequestTooLarge,
    /// A queue is full. Trying again makes sense after about `retry_after`.
    QueueFull { limit: QueueLimit, retry_after: Duration },
}

/// Which limit refused a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueLimit {
    /// Requests queued for the model.
    Model,
    /// Requests queued for the tenant.
    Tenant,
    /// Requests queued in the class.
    Class,
    /// Bytes of payload queued in all.
    Bytes,
}

/// Why an admitted request ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The client's deadline passed, in the queue or while it ran.
    DeadlinePassed,
    /// It waited in the queue for the model's `queue_time_max`.
    QueueTimeout,
    /// It could not be on time any more, and its model sheds what is late; or it was late and could not end before its
    /// deadline, or there was no room for more that are late. Trying again makes sense after about `retry_after`.
    Shed { retry_after: Duration },
    /// The worker could not compute this item; the driver keeps the reason it gave.
    Item,
    /// It broke every batch it was in, at last alone.
    Poison,
    /// It did not fit the device's memory even alone.
    OutOfMemory,
    /// Its worker was lost as many times as a request may be tried.
    WorkerLost { attempts: Attempt },
    /// The model was taken out of the configuration.
    ModelRemoved,
    /// The server shut down before it could run.
    Drained,
}

/// Why the core wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A queued or running request's deadline or queue time limit passes.
    Expiry,
    /// A policy wants to look at this model's queue again.
    Policy(ModelId),
    /// A batch will have run for longer than nearly all of its size do.
    BatchSlow(BatchId),
    /// A batch will have run for longer than its model allows.
    BatchOverdue(BatchId),
    /// The drain's deadline passes.
    DrainDeadline,
}

/// Why a request is where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// In a queue; `late` where it cannot be on time and stands behind those that can.
    Queued { model: ModelId, position: usize, since: Timestamp, late: bool, because: Waiting },
    /// With a worker.
    Running { model: ModelId, worker: WorkerId, batch: BatchId, attempt: Attempt, since: Timestamp },
}

/// Why a queued request is not running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// No worker is connected that can serve the model.
    NoWorker,
    /// Workers are loading the model.
    ModelLoading,
    /// Every worker that holds the model and can be on time is busy.
    NoCredit,
    /// Until then another worker may come: the one that is free was found slow, and is not trusted.
    SuspectWorker { until: Timestamp },
    /// The policy waits for a better batch until then.
    Policy { until: Timestamp },
}
