use std::sync::Mutex;

use bytes::Bytes;

use super::*;
use crate::backend::LoadError;
use crate::batch::{BatchKey, CancelFlags, Column, DataType, Item, ServerId};
use crate::source::{ModelSource, Precision};

/// Batches of so many rows are brief.
const BRIEF_ROWS: usize = 7;

/// A device with a queue: a batch is done when the test says so, and `depth` may be launched before.
struct Queued {
    depth: usize,
    log: flume::Sender<String>,
    done: flume::Receiver<u64>,
    ready: Mutex<Vec<u64>>,
    /// Models that were installed, and how often one was or went. There is room for the weights of the last one.
    models: Vec<Arc<str>>,
    moves: u64,
}

impl Backend for Queued {
    type Prepared = ();
    type Ticket = (u64, Vec<u32>);

    fn prepare(
        request: &PrepareRequest,
        _: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<((), ModelCard), LoadError> {
        progress(0.5);
        match &*request.name {
            "panics" => panic!("unreadable"),
            _ => Err(LoadError::NoFolder),
        }
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn is_brief(&self, batch: &HostBatch) -> bool {
        batch.items.len() == BRIEF_ROWS
    }

    fn install(&mut self, name: &Arc<str>, (): ()) -> Result<(), LoadError> {
        self.models.push(name.clone());
        self.moves += 1;
        Ok(())
    }

    fn evict(&mut self, name: &str) {
        self.models.retain(|model| &**model != name);
        self.moves += 1;
        self.log.send(format!("evict {name}")).unwrap();
    }

    fn launch(&mut self, batch: &HostBatch, live: &[u32]) -> Result<(u64, Vec<u32>), BatchError> {
        assert!(&*batch.model != "panics", "this model panics");
        self.log.send(format!("launch {}", batch.key.batch)).unwrap();
        Ok((batch.key.batch, live.to_vec()))
    }

    fn absent(&self, seen: &mut u64) -> Option<Vec<Arc<str>>> {
        let is_news = std::mem::replace(seen, self.moves) != self.moves;
        is_news.then(|| self.models.split_last().map_or(Vec::new(), |(_, others)| others.to_vec()))
    }

    fn poll(&mut self, (batch, live): &mut (u64, Vec<u32>)) -> Option<Result<Vec<ItemResult>, BatchError>> {
        let mut ready = self.ready.lock().unwrap();
        ready.extend(self.done.try_iter());
        ready
            .contains(batch)
            .then(|| Ok(live.iter().map(|&index| ItemResult { index, outcome: Ok(Vec::new()) }).collect()))
    }
}

struct Bench {
    executor: Executor<Queued>,
    log: flume::Receiver<String>,
    done: flume::Sender<u64>,
}

fn bench(depth: usize) -> Bench {
    let (log_out, log) = flume::unbounded();
    let (done, done_in) = flume::unbounded();
    let compute = Compute::new(std::num::NonZeroUsize::new(1), crate::CpuIsa::detect()).unwrap();
    let open =
        move || Queued { depth, log: log_out, done: done_in, ready: Mutex::default(), models: Vec::new(), moves: 0 };
    Bench { executor: Executor::start(open, compute).unwrap(), log, done }
}

impl Bench {
    fn logged(&self) -> String {
        self.log.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn event(&self) -> Event {
        self.executor.events.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn finished(&self) -> Finished {
        match self.event() {
            Event::Finished(finished) => finished,
            other => panic!("{other:?}"),
        }
    }
}

fn batch(number: u64, rows: usize) -> HostBatch {
    HostBatch {
        key: BatchKey { server: ServerId(1), epoch: 1, batch: number, attempt: 1 },
        model: "m".into(),
        columns: vec![Column { data_type: DataType::U8, row_splits: vec![0; rows + 1], data: Bytes::new() }],
        items: vec![Item::default(); rows],
        has_tokens: true,
        cancelled: Arc::new(CancelFlags::new(rows)),
        arrived: Instant::now(),
    }
}

#[test]
fn keeps_as_many_batches_in_flight_as_the_device_takes() {
    let bench = bench(2);
    for number in 1..=3 {
        bench.executor.run(batch(number, 1)).unwrap();
    }
    assert_eq!((bench.logged(), bench.logged()), ("launch 1".to_owned(), "launch 2".to_owned()));
    assert!(bench.log.is_empty());
    bench.done.send(1).unwrap();
    assert_eq!(bench.finished().key.batch, 1);
    assert_eq!(bench.logged(), "launch 3");
    // Reported in the order of launch, even when done out of order.
    bench.done.send(3).unwrap();
    bench.done.send(2).unwrap();
    assert_eq!((bench.finished().key.batch, bench.finished().key.batch), (2, 3));
}

#[test]
fn a_brief_batch_runs_on_the_thread_that_brings_it() {
    let bench = bench(1);
    // The executor's thread is up and has nothing more to do.
    bench.executor.evict("m".into()).unwrap();
    assert!(matches!(bench.event(), Event::Evicted { .. }));
    while bench.executor.idle_device().is_none() {
        thread::yield_now();
    }
    bench.done.send(1).unwrap();
    let finished = bench.executor.run(batch(1, BRIEF_ROWS)).unwrap().expect("run at once");
    assert_eq!((finished.key.batch, finished.rows), (1, BRIEF_ROWS as u64));
    assert!(bench.executor.events.is_empty());
}

#[test]
fn a_brief_batch_does_not_overtake_what_came_before() {
    let bench = bench(1);
    bench.executor.run(batch(1, 1)).unwrap();
    assert_eq!(bench.logged(), "launch 1");
    assert!(bench.executor.run(batch(2, BRIEF_ROWS)).unwrap().is_none());
    bench.done.send(1).unwrap();
    bench.done.send(2).unwrap();
    assert_eq!((bench.finished().key.batch, bench.finished().key.batch), (1, 2));
}

#[test]
fn drops_cancelled_items_and_answers_late_ones_without_computing_them() {
    let bench = bench(1);
    let mut batch = batch(1, 4);
    batch.cancelled.set(0);
    batch.items[2].deadline = Some(Instant::now());
    bench.done.send(1).unwrap();
    bench.executor.run(batch).unwrap();
    let finished = bench.finished();
    let outcomes: Vec<(u32, bool)> =
        finished.outcome.unwrap().into_iter().map(|result| (result.index, result.outcome.is_ok())).collect();
    assert_eq!(outcomes, [(1, true), (2, false), (3, true)]);
    assert_eq!((finished.rows, finished.cancelled), (2, 1));
}

#[test]
fn launches_nothing_when_nothing_is_left_to_compute() {
    let bench = bench(1);
    let batch = batch(1, 2);
    batch.cancelled.set_all();
    bench.executor.run(batch).unwrap();
    let finished = bench.finished();
    assert_eq!((finished.outcome, finished.compute), (Ok(Vec::new()), Duration::ZERO));
    assert!(bench.log.is_empty());
}

#[test]
fn a_panic_fails_its_batch_and_the_next_one_runs() {
    let bench = bench(1);
    bench.executor.run(HostBatch { model: "panics".into(), ..batch(1, 1) }).unwrap();
    let error = bench.finished().outcome.unwrap_err();
    assert_eq!(error, BatchError::Device("the model panicked: this model panics".to_owned()));
    bench.done.send(2).unwrap();
    bench.executor.run(batch(2, 1)).unwrap();
    assert!(bench.finished().outcome.is_ok());
}

#[test]
fn evicts_after_the_batches_ordered_before() {
    let bench = bench(1);
    bench.executor.run(batch(1, 1)).unwrap();
    bench.executor.evict("m".into()).unwrap();
    assert_eq!(bench.logged(), "launch 1");
    bench.done.send(1).unwrap();
    assert_eq!(bench.finished().key.batch, 1);
    assert_eq!(bench.logged(), "evict m");
    assert!(matches!(bench.event(), Event::Evicted { .. }));
}

#[test]
fn tells_which_weights_are_not_there_where_that_changed() {
    let bench = bench(1);
    let install = |name: &str| {
        let request = PrepareRequest { name: name.into(), source: ModelSource::Echo, precision: Precision::Auto };
        let compute = Compute::new(std::num::NonZeroUsize::new(1), crate::CpuIsa::detect()).unwrap();
        let (_, card) = crate::backend::Stack::prepare(&request, &compute, &mut |_| ()).unwrap();
        bench.executor.orders.send(Order::Install { name: name.into(), prepared: (), card }).unwrap();
        assert!(matches!(bench.event(), Event::Ready { .. }));
    };
    let told = || match bench.event() {
        Event::Weights { absent } => absent.iter().map(ToString::to_string).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    install("a");
    // The first one's are there, as was thought.
    install("b");
    assert_eq!(told(), ["a"]);
    bench.done.send(1).unwrap();
    bench.executor.run(batch(1, 1)).unwrap();
    assert_eq!(bench.finished().key.batch, 1, "which brought nothing in");
    bench.executor.evict("b".into()).unwrap();
    assert!(matches!(bench.event(), Event::Evicted { .. }));
    assert_eq!(told(), [""; 0]);
}

#[test]
fn a_model_that_cannot_be_read_is_reported_and_the_next_is_tried() {
    let bench = bench(1);
    for (name, says) in [("panics", "reading it panicked: unreadable"), ("fails", "folder")] {
        let source = ModelSource::Echo;
        bench.executor.load(PrepareRequest { name: name.into(), source, precision: Precision::Auto }).unwrap();
        assert!(matches!(bench.event(), Event::Loading { progress: 0.0, .. }));
        assert!(matches!(bench.event(), Event::Loading { progress: 0.5, .. }));
        match bench.event() {
            Event::LoadFailed { reason, .. } => assert!(reason.contains(says), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn takes_no_more_than_its_queue_holds() {
    let bench = bench(1);
    let taken = (0..200).take_while(|number| bench.executor.run(batch(*number, 1)).is_ok()).count();
    // The first may have left the queue already.
    assert!((ORDERS_MAX..=ORDERS_MAX + 1).contains(&taken), "{taken}");
}

#[test]
fn its_threads_end_with_the_handle() {
    let Bench { executor, log, done } = bench(1);
    executor.run(batch(1, 1)).unwrap();
    assert_eq!(log.recv_timeout(Duration::from_secs(10)).unwrap(), "launch 1");
    drop(executor);
    done.send(1).unwrap();
    // The log's other end is owned by the backend, which its thread drops last.
    assert_eq!(log.recv_timeout(Duration::from_secs(10)), Err(flume::RecvTimeoutError::Disconnected));
}
