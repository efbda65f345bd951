use shoal_scheduler::Class;

use super::*;
use crate::batch::{Column, Item};

const ONE: ServerId = ServerId(1);
const TWO: ServerId = ServerId(2);
const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(10);

struct Bench {
    desk: Desk,
    now: Instant,
    batches: u64,
}

fn want(rows: u64) -> Option<Want> {
    Some(Want {
        class: Class::Standard,
        start: Timestamp::ZERO + BEFORE,
        time: MS,
        on_time: Size { rows, tokens: rows, squares: rows },
        classes: [false, true, false],
        late: Size::default(),
        is_apart: false,
    })
}

impl Bench {
    fn new(budget: Budget) -> Self {
        let now = Instant::now();
        let mut desk = Desk::new(now, budget, PATIENCE);
        desk.join(now, ONE);
        desk.join(now, TWO);
        Self { desk, now, batches: 0 }
    }

    /// The model is taken by the one server before the other has said that it wants it, unless the device is busy.
    fn bid(&mut self, server: ServerId, rows: u64) {
        self.desk.bid(self.now, server, &"m".into(), want(rows));
    }

    fn turns(&mut self) -> Vec<(ServerId, u32)> {
        let mut turns = Vec::new();
        while let Some(step) = self.desk.step(self.now) {
            match step {
                Step::Give(server, model, turn) => {
                    assert_eq!(&*model, "m");
                    turns.push((server, turn.slot));
                }
                Step::Run(batch) => panic!("{batch:?} runs"),
            }
        }
        turns
    }

    fn runs(&mut self) -> Vec<HostBatch> {
        let mut runs = Vec::new();
        while let Some(step) = self.desk.step(self.now) {
            if let Step::Run(batch) = step {
                runs.push(batch);
            }
        }
        runs
    }

    /// Answers a turn with so many rows of one token.
    fn send(&mut self, server: ServerId, slot: u32, rows: usize) -> BatchKey {
        self.batches += 1;
        let key = BatchKey { server, epoch: 5, batch: self.batches, attempt: 1 };
        let column = Column::of_integers((0..rows).map(|_| [[0; 4]]));
        let batch = HostBatch {
            key,
            arrived: self.now,
            ..HostBatch::unsent("m".into(), vec![column], vec![Item::default(); rows])
        };
        self.desk.part(self.now, slot, batch).unwrap();
        key
    }

    fn finish(&mut self, batch: &HostBatch) -> Vec<Finished> {
        self.finish_after(batch, 5 * MS)
    }

    fn finish_after(&mut self, batch: &HostBatch, compute: Duration) -> Vec<Finished> {
        let (waited, rows) = (Duration::ZERO, batch.items.len() as u64);
        let outcome = Ok(Vec::new());
        let finished =
            Finished { key: batch.key, waited, compute, page_in: None, rows, tokens: rows, cancelled: 0, outcome };
        self.desk.finished(self.now, finished)
    }

    /// Both have their turn: a batch of the first runs, and when it is over the two share the next.
    fn both_given(&mut self) -> (u32, u32) {
        self.bid(ONE, 1);
        let [(ONE, slot)] = self.turns()[..] else { panic!("no turn") };
        self.bid(TWO, 4);
        self.send(ONE, slot, 1);
        let [run] = &self.runs()[..] else { panic!("no run") };
        self.bid(ONE, 3);
        self.finish(run);
        let turns = self.turns();
        let of = |server| turns.iter().find(|(given, _)| *given == server).expect("a turn").1;
        (of(ONE), of(TWO))
    }
}

#[test]
fn what_comes_in_one_turn_runs_as_one_batch_and_ends_for_each() {
    let mut bench = Bench::new(Budget::default());
    let (slot, same) = bench.both_given();
    assert_eq!(slot, same);
    let first = bench.send(ONE, slot, 3);
    assert!(bench.runs().is_empty(), "the other is waited for");
    bench.now += 2 * MS;
    let second = bench.send(TWO, slot, 4);
    let [run] = &bench.runs()[..] else { panic!("not one batch") };
    assert_eq!(run.items.len(), 7);
    let size = |rows| Size { rows, tokens: rows, squares: rows };
    let begun = bench.desk.begun(bench.now);
    let expected = [
        Begun { key: first, others: size(4), waited: 2 * MS },
        Begun { key: second, others: size(3), waited: Duration::ZERO },
    ];
    assert_eq!(begun, expected);
    assert!(bench.desk.begun(bench.now).is_empty(), "once");
    let ended = bench.finish(run);
    assert_eq!(ended.iter().map(|part| part.key).collect::<Vec<_>>(), [first, second]);
    assert_eq!((bench.desk.totals().batches, bench.desk.totals().rows), (2, 8));
    assert_eq!(bench.desk.totals().busy, 10 * MS, "the device's time, not each server's");
}

#[test]
fn one_that_does_not_answer_is_not_waited_for_long_and_runs_by_itself_later() {
    let mut bench = Bench::new(Budget::default());
    let (slot, _) = bench.both_given();
    bench.send(ONE, slot, 3);
    let due = bench.desk.timeout().expect("somebody is waited for");
    assert_eq!(due, bench.now + PATIENCE);
    bench.now = due;
    bench.desk.tick(bench.now);
    let [run] = &bench.runs()[..] else { panic!("no run") };
    assert_eq!(run.items.len(), 3);
    let late = bench.send(TWO, slot, 4);
    assert!(bench.runs().is_empty(), "the device is busy");
    bench.finish(run);
    let [run] = &bench.runs()[..] else { panic!("no run") };
    assert_eq!(bench.finish(run)[0].key, late);
}

#[test]
fn one_that_passes_or_leaves_is_not_waited_for() {
    for leaves in [false, true] {
        let mut bench = Bench::new(Budget::default());
        let (slot, _) = bench.both_given();
        bench.send(ONE, slot, 3);
        match leaves {
            true => assert_eq!(bench.desk.leave(bench.now, TWO), []),
            false => bench.desk.pass(bench.now, TWO, slot),
        }
        assert_eq!(bench.runs().len(), 1);
    }
}

#[test]
fn what_a_server_sent_that_left_before_it_began_is_not_run() {
    let mut bench = Bench::new(Budget::default());
    let (slot, _) = bench.both_given();
    let dropped = bench.send(TWO, slot, 4);
    assert_eq!(bench.desk.leave(bench.now, TWO), [dropped]);
    let key = bench.send(ONE, slot, 3);
    let [run] = &bench.runs()[..] else { panic!("no run") };
    assert_eq!(run.items.len(), 3);
    assert_eq!(bench.finish(run).iter().map(|part| part.key).collect::<Vec<_>>(), [key]);
}

#[test]
fn parts_that_are_too_much_together_run_one_after_the_other_before_the_next_turn() {
    let mut bench = Bench::new(Budget { rows: 5, ..Budget::default() });
    let (slot, _) = bench.both_given();
    bench.send(ONE, slot, 3);
    bench.send(TWO, slot, 4);
    let runs = bench.runs();
    assert_eq!(runs.iter().map(|run| run.items.len()).collect::<Vec<_>>(), [3, 4]);
    bench.bid(ONE, 2);
    assert_eq!(bench.desk.begun(bench.now).len(), 1);
    bench.finish(&runs[0]);
    let [begun] = bench.desk.begun(bench.now)[..] else { panic!("the second did not begin") };
    assert_eq!((begun.key.server, begun.others), (TWO, Size::default()));
    assert!(bench.turns().is_empty(), "the launch has not ended");
    bench.finish(&runs[1]);
    assert_eq!(bench.turns().len(), 1);
}

#[test]
fn a_batch_that_no_turn_was_given_for_is_refused() {
    let mut bench = Bench::new(Budget::default());
    let key = BatchKey { server: ONE, epoch: 5, batch: 9, attempt: 1 };
    let batch = HostBatch { key, ..HostBatch::unsent("m".into(), vec![], vec![Item::default()]) };
    assert_eq!(bench.desk.part(bench.now, 3, batch), Err(NoCredit { batch: 9, slot: 3 }));
    assert!(bench.runs().is_empty());
}

#[test]
fn one_that_drains_gets_no_more_turns() {
    let mut bench = Bench::new(Budget::default());
    bench.bid(ONE, 1);
    let [(ONE, slot)] = bench.turns()[..] else { panic!("no turn") };
    bench.bid(TWO, 4);
    bench.desk.withdraw(bench.now, TWO);
    bench.desk.pass(bench.now, ONE, slot);
    assert!(bench.turns().is_empty());
}

/// Runs batches of one server one by one, each answered half a millisecond after its turn, until what they take is known.
fn paced(compute: Duration) -> Bench {
    let mut bench = Bench::new(Budget::default());
    for _ in 0..30 {
        bench.bid(ONE, 1);
        let [(ONE, slot)] = bench.turns()[..] else { panic!("no turn") };
        bench.now += MS / 2;
        bench.send(ONE, slot, 1);
        let [run] = &bench.runs()[..] else { panic!("no run") };
        bench.desk.begun(bench.now);
        bench.now += compute;
        bench.finish_after(run, compute);
    }
    bench.bid(ONE, 1);
    let [(ONE, slot)] = bench.turns()[..] else { panic!("no turn") };
    bench.now += MS / 2;
    bench.send(ONE, slot, 1);
    assert_eq!(bench.runs().len(), 1);
    bench.desk.begun(bench.now);
    bench.bid(TWO, 1);
    assert!(bench.turns().is_empty(), "the device has one");
    bench
}

#[test]
fn a_second_batch_is_asked_for_near_the_end_of_the_first_where_that_hides_the_way() {
    for (compute, after) in [(MS, Some(Duration::ZERO)), (4 * MS, Some(3 * MS)), (50 * MS, None)] {
        let mut bench = paced(compute);
        let asks_at = bench.desk.timeout();
        assert_eq!(asks_at.is_some(), after.is_some(), "{compute:?}");
        let (Some(at), Some(after)) = (asks_at, after) else { continue };
        let off = at.saturating_duration_since(bench.now).abs_diff(after);
        assert!(off < MS / 100, "{compute:?}: {off:?} off");
        bench.now = at;
        bench.desk.tick(bench.now);
        assert_eq!(bench.turns().len(), 1, "{compute:?}");
        assert!(bench.desk.timeout().is_some_and(|at| at > bench.now), "which is waited for now");
    }
}
