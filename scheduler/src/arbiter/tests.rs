use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::Class;

const MODEL: ModelId = ModelId(1);
const OTHER_MODEL: ModelId = ModelId(2);
const ONE: SchedulerId = SchedulerId(1);
const TWO: SchedulerId = SchedulerId(2);
const THREE: SchedulerId = SchedulerId(3);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn rows(rows: u64) -> Size {
    Size { rows, ..Size::default() }
}

/// So many standard requests that have to start by then, in a batch of so many milliseconds.
fn want(requests: u64, start_ms: u64) -> Want {
    Want {
        class: Class::Standard,
        start: at(start_ms),
        time: ms(requests),
        on_time: rows(requests),
        classes: [false, requests > 0, false],
        late: Size::default(),
        is_apart: false,
    }
}

fn late(requests: u64) -> Want {
    Want { late: rows(requests), ..want(0, 0) }
}

fn arbiter(slots: u32, members: &[SchedulerId]) -> Arbiter {
    let mut arbiter = Arbiter::new(Sharing { slots, patience: ms(10), parts_max: 8 });
    members.iter().for_each(|member| arbiter.join(at(0), *member));
    arbiter
}

/// To whom, which, of what, and how much others have of it.
type Given = (SchedulerId, Slot, ModelId, u64);

/// The turns that are given, and what is launched.
fn drain(arbiter: &mut Arbiter) -> (Vec<Given>, Vec<Launch>) {
    let (mut given, mut launched) = (Vec::new(), Vec::new());
    while let Some(action) = arbiter.poll_action() {
        match action {
            Action::Give { scheduler, slot, model, others, .. } => given.push((scheduler, slot, model, others.rows)),
            Action::Launch(launch) => launched.push(launch),
        }
    }
    (given, launched)
}

/// The one turn that is given: its slot, its model, and to whom.
fn turn(arbiter: &mut Arbiter) -> (Slot, ModelId, Vec<SchedulerId>) {
    let (given, launched) = drain(arbiter);
    assert_eq!(launched, []);
    let (_, slot, model, _) = *given.first().expect("a turn is given");
    assert!(given.iter().all(|(_, other, of, _)| (*other, *of) == (slot, model)), "one turn at a time: {given:?}");
    (slot, model, given.into_iter().map(|(scheduler, ..)| scheduler).collect())
}

/// Keeps the one slot busy, so that wants can be told without a turn in between.
fn keep_busy(arbiter: &mut Arbiter, with: SchedulerId) -> u64 {
    arbiter.bid(at(0), with, ModelId(99), Some(want(1, 0)));
    let (slot, ..) = turn(arbiter);
    assert!(arbiter.part(at(0), with, slot, rows(1)));
    drain(arbiter).1[0].number
}

#[test]
fn everybody_who_has_something_of_the_model_is_given_the_turn_and_all_parts_run_as_one() {
    let mut arbiter = arbiter(1, &[ONE, TWO, THREE]);
    let number = keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(1), ONE, MODEL, Some(want(3, 50)));
    arbiter.bid(at(1), TWO, MODEL, Some(want(5, 60)));
    arbiter.bid(at(1), THREE, OTHER_MODEL, Some(want(1, 70)));
    assert_eq!(drain(&mut arbiter), (vec![], vec![]));
    arbiter.ended(at(2), number, ms(2));
    let (given, launched) = drain(&mut arbiter);
    let slot = given[0].1;
    assert_eq!((given, launched), (vec![(ONE, slot, MODEL, 5), (TWO, slot, MODEL, 3)], vec![]));
    assert!(arbiter.part(at(3), TWO, slot, rows(5)));
    assert_eq!(drain(&mut arbiter), (vec![], vec![]));
    assert!(arbiter.part(at(3), ONE, slot, rows(3)));
    let (given, launched) = drain(&mut arbiter);
    assert_eq!((given.len(), launched.len()), (0, 1));
    let parts: Vec<_> = arbiter.parts(launched[0].number).iter().map(|part| (part.scheduler, part.size)).collect();
    assert_eq!((launched[0].model, parts), (MODEL, vec![(TWO, rows(5)), (ONE, rows(3))]));
}

#[test]
fn the_model_whose_batch_must_start_first_is_next() {
    let mut arbiter = arbiter(1, &[ONE, TWO]);
    let number = keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(0), ONE, MODEL, Some(want(1, 60)));
    arbiter.bid(at(0), TWO, OTHER_MODEL, Some(want(1, 50)));
    arbiter.ended(at(1), number, ms(1));
    assert_eq!(turn(&mut arbiter).1, OTHER_MODEL);
}

#[test]
fn what_the_others_have_counts_for_when_a_batch_must_start() {
    let mut arbiter = arbiter(1, &[ONE, TWO]);
    let number = keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(0), ONE, MODEL, Some(want(1, 60)));
    arbiter.bid(at(0), TWO, MODEL, Some(want(20, 80)));
    arbiter.bid(at(0), TWO, OTHER_MODEL, Some(want(1, 50)));
    arbiter.ended(at(1), number, ms(1));
    assert_eq!(turn(&mut arbiter).1, MODEL, "61 ms less 21 ms is before 50 ms");
}

#[test]
fn classes_come_before_times() {
    let mut arbiter = arbiter(1, &[ONE, TWO]);
    let number = keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(0), ONE, MODEL, Some(want(1, 5)));
    let urgent = Want { class: Class::Interactive, classes: [true, false, false], ..want(1, 500) };
    arbiter.bid(at(0), TWO, OTHER_MODEL, Some(urgent));
    arbiter.ended(at(1), number, ms(1));
    assert_eq!(turn(&mut arbiter).1, OTHER_MODEL);
}

#[test]
fn a_part_of_a_batch_that_failed_runs_alone() {
    let mut arbiter = arbiter(1, &[ONE, TWO]);
    let number = keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(0), ONE, MODEL, Some(Want { is_apart: true, time: ms(0), ..want(4, 10) }));
    arbiter.bid(at(0), TWO, MODEL, Some(want(5, 20)));
    arbiter.ended(at(1), number, ms(1));
    let (slot, _, given) = turn(&mut arbiter);
    assert_eq!(given, [ONE]);
    arbiter.part(at(1), ONE, slot, rows(2));
    let number = drain(&mut arbiter).1[0].number;
    arbiter.ended(at(2), number, ms(1));
    assert_eq!(turn(&mut arbiter).2, [TWO]);
}

#[test]
fn nothing_runs_beside_a_part_of_a_batch_that_failed() {
    let mut arbiter = arbiter(2, &[ONE, TWO]);
    let number = keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(0), ONE, MODEL, Some(Want { is_apart: true, time: ms(0), ..want(4, 10) }));
    arbiter.bid(at(0), TWO, MODEL, Some(want(5, 20)));
    assert_eq!(drain(&mut arbiter), (vec![], vec![]), "the device has something in hand");
    arbiter.ended(at(1), number, ms(1));
    let (slot, _, given) = turn(&mut arbiter);
    assert_eq!(given, [ONE]);
    // It comes too late for its turn, and the other's is given.
    arbiter.tick(at(20));
    let (other, _, given) = turn(&mut arbiter);
    assert_eq!(given, [TWO]);
    arbiter.part(at(21), ONE, slot, rows(2));
    arbiter.part(at(21), TWO, other, rows(5));
    let (_, launched) = drain(&mut arbiter);
    assert_eq!(launched.iter().map(|launch| launch.slot).collect::<Vec<_>>(), [other]);
    arbiter.ended(at(22), launched[0].number, ms(1));
    let (_, launched) = drain(&mut arbiter);
    assert_eq!(launched.iter().map(|launch| launch.slot).collect::<Vec<_>>(), [slot]);
    arbiter.bid(at(22), TWO, MODEL, Some(want(5, 20)));
    assert_eq!(drain(&mut arbiter), (vec![], vec![]), "not beside it");
    arbiter.ended(at(23), launched[0].number, ms(1));
    assert_eq!(turn(&mut arbiter).2, [TWO]);
}

#[test]
fn a_turn_goes_without_who_passes_and_ends_when_all_do() {
    let mut arbiter = arbiter(1, &[ONE, TWO]);
    let number = keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(0), ONE, MODEL, Some(want(1, 60)));
    arbiter.bid(at(0), TWO, MODEL, Some(want(1, 60)));
    arbiter.bid(at(0), TWO, OTHER_MODEL, Some(want(1, 90)));
    arbiter.ended(at(1), number, ms(1));
    let (slot, ..) = turn(&mut arbiter);
    arbiter.pass(at(1), ONE, slot);
    assert_eq!(drain(&mut arbiter), (vec![], vec![]));
    arbiter.pass(at(1), TWO, slot);
    assert_eq!(turn(&mut arbiter).1, OTHER_MODEL, "the device is not kept waiting");
}

#[test]
fn a_turn_expires_and_what_comes_late_runs_before_the_next() {
    let mut arbiter = arbiter(1, &[ONE, TWO]);
    let number = keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(0), ONE, MODEL, Some(want(1, 60)));
    arbiter.bid(at(0), TWO, MODEL, Some(want(2, 60)));
    arbiter.ended(at(1), number, ms(1));
    let (slot, ..) = turn(&mut arbiter);
    assert!(arbiter.part(at(2), ONE, slot, rows(1)));
    assert_eq!(arbiter.poll_timeout(), Some(at(11)));
    arbiter.tick(at(10));
    assert_eq!(drain(&mut arbiter), (vec![], vec![]));
    arbiter.tick(at(11));
    let number = drain(&mut arbiter).1[0].number;
    assert_eq!(arbiter.parts(number).len(), 1);
    // What it said before its answer was said before it knew of the turn.
    arbiter.bid(at(12), TWO, MODEL, Some(want(2, 60)));
    arbiter.bid(at(12), ONE, MODEL, Some(want(7, 13)));
    assert!(arbiter.part(at(12), TWO, slot, rows(2)));
    arbiter.ended(at(13), number, ms(1));
    let (given, launched) = drain(&mut arbiter);
    assert_eq!((given.len(), launched.len()), (0, 1));
    assert_eq!(arbiter.parts(launched[0].number), [Part { scheduler: TWO, size: rows(2) }]);
    arbiter.ended(at(14), launched[0].number, ms(1));
    assert_eq!(turn(&mut arbiter).2, [ONE]);
    assert!(!arbiter.part(at(14), TWO, slot, rows(2)), "a turn is answered once");
}

#[test]
fn who_leaves_is_waited_for_no_longer_and_nothing_of_his_begins() {
    let mut arbiter = arbiter(1, &[ONE, TWO, THREE]);
    let number = keep_busy(&mut arbiter, THREE);
    arbiter.bid(at(0), ONE, MODEL, Some(want(1, 60)));
    arbiter.bid(at(0), TWO, MODEL, Some(want(1, 60)));
    arbiter.bid(at(0), THREE, MODEL, Some(want(1, 60)));
    arbiter.ended(at(1), number, ms(1));
    let (slot, ..) = turn(&mut arbiter);
    arbiter.part(at(1), ONE, slot, rows(1));
    arbiter.part(at(1), TWO, slot, rows(1));
    arbiter.leave(at(2), TWO);
    arbiter.leave(at(2), THREE);
    let launched = drain(&mut arbiter).1;
    assert_eq!(arbiter.parts(launched[0].number), [Part { scheduler: ONE, size: rows(1) }]);
}

#[test]
fn a_slot_more_hides_the_link() {
    let mut arbiter = arbiter(2, &[ONE]);
    keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(0), ONE, MODEL, Some(want(1, 60)));
    let (slot, ..) = turn(&mut arbiter);
    arbiter.part(at(1), ONE, slot, rows(1));
    assert_eq!(drain(&mut arbiter).1.len(), 1);
    arbiter.bid(at(1), ONE, MODEL, Some(want(1, 60)));
    assert_eq!(drain(&mut arbiter), (vec![], vec![]), "and not two");
}

#[test]
fn not_more_parts_run_as_one_than_may() {
    let mut arbiter = Arbiter::new(Sharing { slots: 1, patience: ms(10), parts_max: 2 });
    [ONE, TWO, THREE].into_iter().for_each(|member| arbiter.join(at(0), member));
    let number = keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(0), ONE, MODEL, Some(want(1, 50)));
    arbiter.bid(at(0), TWO, MODEL, Some(want(1, 60)));
    arbiter.bid(at(0), THREE, MODEL, Some(want(9, 60)));
    arbiter.ended(at(1), number, ms(1));
    assert_eq!(turn(&mut arbiter).2, [ONE, THREE]);
}

/// Answers every turn with all that was wanted, which is wanted again at once, and says how much of the device each got.
fn saturate(
    arbiter: &mut Arbiter,
    wants: &BTreeMap<(SchedulerId, ModelId), Want>,
    turns: usize,
) -> Vec<(SchedulerId, ModelId)> {
    let mut now = 0;
    for ((scheduler, model), want) in wants {
        arbiter.bid(at(0), *scheduler, *model, Some(*want));
    }
    let mut got = Vec::new();
    for _ in 0..turns {
        let (slot, model, given) = turn(arbiter);
        for scheduler in &given {
            let want = wants[&(*scheduler, model)];
            let size = if want.on_time.rows > 0 { want.on_time } else { want.late };
            arbiter.part(at(now), *scheduler, slot, size);
            got.push((*scheduler, model));
            // Told after the answer, as the link keeps the order.
            arbiter.bid(at(now), *scheduler, model, Some(want));
        }
        let (_, launched) = drain(arbiter);
        now += 1;
        arbiter.ended(at(now), launched[0].number, ms(1));
    }
    got
}

#[test]
fn schedulers_whose_requests_are_all_late_get_the_same_of_the_device() {
    let mut arbiter = arbiter(1, &[ONE, TWO]);
    let wants = BTreeMap::from([((ONE, MODEL), late(30)), ((TWO, OTHER_MODEL), late(3))]);
    // Tell the second want before the first turn is answered.
    let got = saturate(&mut arbiter, &wants, 100);
    let of = |scheduler| got.iter().filter(|(of, _)| *of == scheduler).count();
    assert_eq!((of(ONE), of(TWO)), (50, 50));
}

#[test]
fn of_late_ones_in_one_batch_nobody_counts_on_more_than_his_part() {
    let mut arbiter = arbiter(1, &[ONE, TWO]);
    let number = keep_busy(&mut arbiter, ONE);
    arbiter.bid(at(0), ONE, MODEL, Some(late(100)));
    arbiter.bid(at(0), TWO, MODEL, Some(late(10)));
    arbiter.ended(at(1), number, ms(1));
    let (given, _) = drain(&mut arbiter);
    let others: Vec<_> = given.iter().map(|(scheduler, _, _, others)| (*scheduler, *others)).collect();
    // Who has ten of a hundred and ten may take half of a batch; who has a hundred leaves him his ten.
    assert_eq!(BTreeMap::from_iter(others), BTreeMap::from([(ONE, 10), (TWO, 10)]));
}

#[test]
fn nobody_is_passed_over_for_ever() {
    let mut arbiter = arbiter(1, &[ONE, TWO, THREE]);
    let bulk = Want { class: Class::Bulk, classes: [false, false, true], ..want(1, 900) };
    let wants = BTreeMap::from([
        ((ONE, MODEL), want(4, 0)),
        ((TWO, OTHER_MODEL), want(4, 800)),
        ((TWO, ModelId(3)), bulk),
        ((THREE, ModelId(4)), late(3)),
    ]);
    let got = saturate(&mut arbiter, &wants, 400);
    for key in wants.keys() {
        let of = got.iter().filter(|of| *of == key).count();
        assert!(of >= 15, "{key:?} got {of} of 400 turns");
    }
}

/// Random numbers of Knuth's.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What the world around an arbiter knows of it.
#[derive(Default)]
struct World {
    members: BTreeSet<SchedulerId>,
    /// Turns without an answer.
    asked: BTreeSet<(SchedulerId, Slot)>,
    /// Batches that were taken and not launched.
    sent: BTreeSet<(SchedulerId, Slot)>,
    running: BTreeSet<u64>,
    /// Turns for parts of batches that failed, and those of them that run.
    apart: BTreeSet<Slot>,
    running_apart: BTreeSet<u64>,
}

impl World {
    fn take_actions(&mut self, arbiter: &mut Arbiter, slots: usize) {
        let mut given = BTreeSet::new();
        while let Some(action) = arbiter.poll_action() {
            match action {
                Action::Give { scheduler, slot, own, kind, .. } => {
                    assert!(self.members.contains(&scheduler), "turns are given to who is there");
                    assert!(own.rows > 0 || kind == TurnKind::Apart, "and who wants one");
                    assert!(self.asked.insert((scheduler, slot)), "a turn is given once");
                    given.insert(slot);
                    if kind == TurnKind::Apart {
                        self.apart.insert(slot);
                    }
                }
                Action::Launch(Launch { slot, number, .. }) => {
                    assert!(!arbiter.parts(number).is_empty(), "something is launched");
                    for part in arbiter.parts(number) {
                        assert!(self.sent.remove(&(part.scheduler, slot)), "what came is launched, once");
                    }
                    self.running.insert(number);
                    if self.apart.contains(&slot) {
                        self.running_apart.insert(number);
                    }
                }
            }
        }
        assert!(given.len() <= 1, "one turn at a time");
        assert!(self.running.len() <= slots, "no more than the device takes in");
        self.running_apart.retain(|number| self.running.contains(number));
        assert!(self.running_apart.is_empty() || self.running.len() == 1, "nothing runs beside a part");
    }

    /// What it was asked and what of it did not begin is void.
    fn leave(&mut self, scheduler: SchedulerId) {
        self.members.remove(&scheduler);
        self.asked.retain(|(of, _)| *of != scheduler);
        self.sent.retain(|(of, _)| *of != scheduler);
    }

    fn pick<T: Copy>(random: &mut Random, from: &BTreeSet<T>) -> Option<T> {
        let at = random.below(from.len().max(1) as u64) as usize;
        from.iter().nth(at).copied()
    }
}

#[test]
fn whatever_happens_every_batch_is_launched_once_and_the_device_never_stands_still() {
    for seed in 0..300 {
        let (mut random, mut world) = (Random(seed), World::default());
        let slots = 1 + random.below(2) as u32;
        let mut arbiter = Arbiter::new(Sharing { slots, patience: ms(5), parts_max: 1 + random.below(3) as u32 });
        let mut now = 0;
        for _ in 0..400 {
            now += random.below(3);
            let scheduler = SchedulerId(random.below(4) as u32);
            match random.below(12) {
                0 => {
                    world.leave(scheduler);
                    world.members.insert(scheduler);
                    arbiter.join(at(now), scheduler);
                }
                1 if random.below(3) == 0 => {
                    world.leave(scheduler);
                    arbiter.leave(at(now), scheduler);
                }
                2..=5 => {
                    let requests = random.below(5);
                    let wanted = Want {
                        late: rows(random.below(3)),
                        is_apart: random.below(8) == 0,
                        ..want(requests, now + random.below(60))
                    };
                    let is_any = wanted.on_time.rows + wanted.late.rows > 0;
                    let model = ModelId(random.below(3) as u32);
                    arbiter.bid(at(now), scheduler, model, Some(wanted).filter(|_| is_any));
                }
                6..=8 => {
                    if let Some((scheduler, slot)) = World::pick(&mut random, &world.asked) {
                        world.asked.remove(&(scheduler, slot));
                        if random.below(4) == 0 {
                            arbiter.pass(at(now), scheduler, slot);
                        } else {
                            world.sent.insert((scheduler, slot));
                            assert!(arbiter.part(at(now), scheduler, slot, rows(1)), "late or not, it is taken");
                        }
                    }
                }
                9..=10 => {
                    if let Some(number) = World::pick(&mut random, &world.running) {
                        world.running.remove(&number);
                        arbiter.ended(at(now), number, ms(1));
                    }
                }
                _ => arbiter.tick(at(now)),
            }
            arbiter.tick(at(now));
            world.take_actions(&mut arbiter, slots as usize);
            let mut wants = arbiter.members.values().flat_map(|member| member.wants.values());
            let is_apart = wants.any(|want| want.is_apart)
                || world.sent.iter().any(|(_, slot)| world.apart.contains(slot))
                || !world.running_apart.is_empty();
            let has_room = world.running.is_empty() || (world.running.len() < slots as usize && !is_apart);
            let waits = arbiter.members.values().any(|member| !member.wants.is_empty()) || !world.sent.is_empty();
            let is_waited_for = arbiter.poll_timeout().is_some_and(|expires| expires > at(now));
            assert!(!has_room || !waits || is_waited_for, "who wants the device gets it, seed {seed}");
        }
        // Everybody leaves: nothing is left over.
        for member in (0..4).map(SchedulerId) {
            world.leave(member);
            arbiter.leave(at(now), member);
            world.take_actions(&mut arbiter, slots as usize);
        }
        world.running.iter().for_each(|number| arbiter.ended(at(now), *number, ms(1)));
        assert_eq!((arbiter.poll_action(), arbiter.poll_timeout()), (None, None));
    }
}

/// Standard requests and bulk ones.
fn mixed(requests: u64) -> Want {
    Want { classes: [false, true, true], ..want(requests, 1_000) }
}

/// What turns a scheduler is given that wants the same after each, and sends so many rows in each.
fn kinds_of(arbiter: &mut Arbiter, want: Want, sent: u64, turns: usize) -> Vec<TurnKind> {
    let mut kinds = Vec::new();
    arbiter.bid(at(0), ONE, MODEL, Some(want));
    for _ in 0..turns {
        let Some(Action::Give { scheduler, slot, kind, .. }) = arbiter.poll_action() else { panic!("a turn is given") };
        kinds.push(kind);
        assert!(arbiter.part(at(0), scheduler, slot, rows(sent)));
        let Some(Action::Launch(launch)) = arbiter.poll_action() else { panic!("it is launched") };
        arbiter.bid(at(0), ONE, MODEL, Some(want));
        arbiter.ended(at(0), launch.number, ms(1));
    }
    kinds
}

#[test]
fn a_class_that_goes_along_with_another_is_owed_no_turn() {
    let mut arbiter = arbiter(1, &[ONE, TWO]);
    let wants = [(ONE, mixed(4)), (TWO, want(2, 1_000))];
    let mut number = keep_busy(&mut arbiter, TWO);
    wants.iter().for_each(|(scheduler, want)| arbiter.bid(at(0), *scheduler, MODEL, Some(*want)));
    for turn in 0..40 {
        arbiter.ended(at(0), number, ms(1));
        let mut given = Vec::new();
        while let Some(Action::Give { slot, kind, .. }) = arbiter.poll_action() {
            assert_eq!(kind, TurnKind::OnTime(Class::Standard), "turn {turn}");
            given.push(slot);
        }
        // The first says what came in the meantime while the second is still to answer.
        for ((scheduler, want), slot) in wants.iter().zip(given) {
            assert!(arbiter.part(at(0), *scheduler, slot, want.on_time));
            arbiter.bid(at(0), *scheduler, MODEL, Some(*want));
        }
        number = drain(&mut arbiter).1[0].number;
    }
}

#[test]
fn a_class_for_which_no_room_is_left_has_its_turn_though_its_only_scheduler_says_so_after_each_turn() {
    let kinds = kinds_of(&mut arbiter(1, &[ONE]), mixed(4), 2, 40);
    let bulk = kinds.iter().filter(|kind| **kind == TurnKind::OnTime(Class::Bulk)).count();
    assert_eq!(bulk, 2, "one of seventeen: {kinds:?}");
}

#[test]
fn what_is_late_has_its_turn_though_its_only_scheduler_says_so_after_each_turn() {
    let both = Want { late: rows(1), ..want(1, 1_000) };
    let kinds = kinds_of(&mut arbiter(1, &[ONE]), both, 1, 40);
    let late = kinds.iter().filter(|kind| **kind == TurnKind::Late).count();
    assert_eq!(late, 2, "one of seventeen: {kinds:?}");
}
