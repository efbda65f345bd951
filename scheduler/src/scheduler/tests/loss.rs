//! Workers that crash, are lost, leave, or come back.

use super::*;

#[test]
fn sends_lost_requests_again_in_their_old_place_with_their_old_deadline() {
    let mut stage = Stage::with_worker();
    let deadline = stage.now + ms(300);
    stage.submit(Group { deadline: Some(deadline), ..call(1, [1]) });
    stage.take(WORKER);
    stage.pass(50);
    stage.queue([2]);
    assert_eq!(stage.down(WORKER, DownCause::Lost), []);
    stage.ready(WORKER);
    let again = stage.take(WORKER);
    assert_eq!((ids(&again), again.attempt, again.close), (vec![1, 2], Attempt(2), CloseReason::Drained));
    assert_eq!(stage.pass(250), [failed(1, Failure::DeadlinePassed), cancel_running(&again, &[1])]);
}

#[test]
fn gives_up_a_request_whose_worker_was_lost_too_often() {
    let limits = Limits { attempts_max: NonZeroU16::new(2).unwrap(), ..Limits::default() };
    let mut stage = Stage::new(limits, vec![config(MODEL)]);
    stage.queue([1]);
    stage.ready(WORKER);
    stage.take(WORKER);
    assert_eq!(stage.down(WORKER, DownCause::Lost), []);
    stage.ready(WORKER);
    stage.take(WORKER);
    assert_eq!(stage.down(WORKER, DownCause::Lost), [failed(1, Failure::WorkerLost { attempts: Attempt(2) })]);
}

#[test]
fn counts_no_loss_against_a_batch_that_crossed_a_goodbye() {
    let limits = Limits { attempts_max: NonZeroU16::new(1).unwrap(), ..Limits::default() };
    let mut stage = Stage::new(limits, vec![config(MODEL)]);
    stage.queue([1]);
    for _ in 0..3 {
        stage.ready(WORKER);
        assert_eq!(ids(&stage.take(WORKER)), [1]);
        assert_eq!(stage.down(WORKER, DownCause::Left), []);
    }
}

#[test]
fn suspects_the_batch_that_ran_when_its_worker_crashed() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2, 3]);
    stage.take(WORKER);
    stage.down(WORKER, DownCause::Crashed);
    stage.ready(WORKER);
    let half = stage.take(WORKER);
    assert_eq!((ids(&half), half.close), (vec![1, 2], CloseReason::Isolated));
}

#[test]
fn convicts_a_request_that_crashed_its_worker_alone() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    stage.take(WORKER);
    assert_eq!(stage.down(WORKER, DownCause::Crashed), [failed(1, Failure::Poison)]);
}

#[test]
fn convicts_a_request_that_broke_two_devices_but_not_the_one_that_broke_one() {
    let mut stage = Stage::with_worker();
    stage.ready(OTHER_WORKER);
    stage.queue([1]);
    stage.take(WORKER);
    assert_eq!(stage.down(WORKER, DownCause::DeviceBroke), []);
    stage.queue([2]);
    let again = stage.take(OTHER_WORKER);
    assert_eq!((ids(&again), again.close), (vec![1], CloseReason::Isolated));
    assert_eq!(stage.down(OTHER_WORKER, DownCause::DeviceBroke), [failed(1, Failure::Poison)]);
    stage.ready(WORKER);
    assert_eq!(ids(&stage.take(WORKER)), [2]);
}

#[test]
fn does_not_convict_a_request_under_which_the_same_device_broke_again() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    for _ in 1..3 {
        assert_eq!(ids(&stage.take(WORKER)), [1]);
        assert_eq!(stage.down(WORKER, DownCause::DeviceBroke), []);
        stage.ready(WORKER);
    }
    assert_eq!(stage.take(WORKER).close, CloseReason::Isolated);
    let lost = Failure::WorkerLost { attempts: Attempt(3) };
    assert_eq!(stage.down(WORKER, DownCause::DeviceBroke), [failed(1, lost)]);
}

#[test]
fn takes_two_workers_on_one_device_for_one() {
    const DEVICE: DeviceId = DeviceId(7);
    let mut stage = Stage::with_fixed();
    stage.ready_on(WORKER, DEVICE);
    stage.ready_on(OTHER_WORKER, DEVICE);
    stage.queue([1]);
    stage.take(WORKER);
    assert_eq!(stage.down(WORKER, DownCause::DeviceBroke), []);
    assert_eq!(ids(&stage.take(OTHER_WORKER)), [1]);
    assert_eq!(stage.down(OTHER_WORKER, DownCause::DeviceBroke), [], "the device may be what is wrong");
    // The worker comes back on another one.
    stage.ready_on(WORKER, DeviceId(8));
    assert_eq!(ids(&stage.take(WORKER)), [1]);
    assert_eq!(stage.down(WORKER, DownCause::DeviceBroke), [failed(1, Failure::Poison)]);
}

#[test]
fn halves_a_batch_under_which_a_device_broke() {
    let mut stage = after_a_break();
    let one = stage.take(WORKER);
    assert_eq!((ids(&one), one.close), (vec![1], CloseReason::Isolated));
    assert_eq!(stage.finish(&one), [complete(1)]);
    assert_eq!(ids(&stage.take(OTHER_WORKER)), [2]);
    // The second device that it broke.
    assert_eq!(stage.down(OTHER_WORKER, DownCause::DeviceBroke), [failed(2, Failure::Poison)]);
}

#[test]
fn convicts_nobody_when_a_device_broke_that_had_two_batches() {
    let mut stage = Stage::with_worker();
    stage.ready(OTHER_WORKER);
    stage.queue([1]);
    stage.take(WORKER);
    stage.queue([2, 3]);
    assert_eq!(ids(&only_dispatch(stage.credit(WORKER, 1, AMPLE))), [2, 3]);
    assert_eq!(stage.down(WORKER, DownCause::DeviceBroke), []);
    // Each runs with nothing beside it, so that the next device that breaks tells them apart.
    let again = stage.take(OTHER_WORKER);
    assert_eq!((ids(&again), again.close), (vec![1], CloseReason::Isolated));
    assert_eq!(stage.credit(OTHER_WORKER, 1, AMPLE), []);
    assert_eq!(stage.down(OTHER_WORKER, DownCause::DeviceBroke), []);
    stage.ready(WORKER);
    let innocent = stage.take_and_finish(WORKER);
    assert_eq!((ids(&innocent), innocent.close, innocent.attempt), (vec![1], CloseReason::Isolated, Attempt(3)));
    assert_eq!(ids(&stage.take_and_finish(WORKER)), [2, 3]);
}

#[test]
fn counts_a_broken_device_as_a_loss() {
    let limits = Limits { attempts_max: NonZeroU16::new(1).unwrap(), ..Limits::default() };
    let mut stage = Stage::new(limits, vec![config(MODEL)]);
    stage.queue([1]);
    stage.ready(WORKER);
    stage.take(WORKER);
    let lost = Failure::WorkerLost { attempts: Attempt(1) };
    assert_eq!(stage.down(WORKER, DownCause::DeviceBroke), [failed(1, lost)]);
}

#[test]
fn gives_the_last_unreported_of_a_crashed_batch_one_run_alone() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2]);
    let batch = stage.take(WORKER);
    stage.item(&batch, 1, ItemOutcome::Ok);
    assert_eq!(stage.down(WORKER, DownCause::Crashed), []);
    stage.ready(WORKER);
    assert_eq!(ids(&stage.take(WORKER)), [2]);
    assert_eq!(stage.down(WORKER, DownCause::Crashed), [failed(2, Failure::Poison)]);
}

#[test]
fn does_not_suspect_a_batch_that_was_still_behind_another() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    stage.take(WORKER);
    stage.queue([2, 3]);
    stage.take(WORKER);
    assert_eq!(stage.down(WORKER, DownCause::Crashed), [failed(1, Failure::Poison)]);
    stage.ready(WORKER);
    let again = stage.take(WORKER);
    assert_eq!((ids(&again), again.close), (vec![2, 3], CloseReason::Drained));
}

#[test]
fn does_not_count_a_loss_against_a_batch_that_had_not_begun() {
    let limits = Limits { attempts_max: NonZeroU16::MIN, ..Limits::default() };
    let mut stage = Stage::new(limits, vec![config(MODEL)]);
    stage.ready(WORKER);
    stage.queue([1]);
    stage.take(WORKER);
    stage.queue([2]);
    stage.take(WORKER);
    let lost = Failure::WorkerLost { attempts: Attempt(1) };
    assert_eq!(stage.down(WORKER, DownCause::Lost), [failed(1, lost)]);
    stage.ready(WORKER);
    assert_eq!(ids(&stage.take(WORKER)), [2]);
}

#[test]
fn keeps_a_part_apart_when_it_is_lost() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2, 3, 4]);
    stage.take(WORKER);
    stage.down(WORKER, DownCause::Crashed);
    stage.ready(WORKER);
    assert_eq!(ids(&stage.take(WORKER)), [1, 2]);
    stage.queue([5]);
    stage.down(WORKER, DownCause::Lost);
    stage.ready(WORKER);
    let batches: Vec<_> = (0..3).map(|_| ids(&stage.take_and_finish(WORKER))).collect();
    assert_eq!(batches, [vec![1, 2], vec![3, 4], vec![5]]);
}

#[test]
fn takes_a_newer_epoch_as_the_loss_of_the_older() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    let before = stage.take(WORKER);
    stage.ready(WORKER);
    let again = stage.take(WORKER);
    assert_eq!((ids(&again), again.attempt), (vec![1], Attempt(2)));
    assert_eq!(stage.item(&before, 1, ItemOutcome::Ok), [], "a voice from the old epoch");
    assert_eq!(stage.item(&again, 1, ItemOutcome::Ok), [complete(1)]);
}

#[test]
fn drops_and_counts_everything_from_an_older_epoch() {
    let mut stage = Stage::with_worker();
    let old = stage.epoch_of(WORKER);
    stage.ready(WORKER);
    let models = vec![MODEL];
    let stale = [
        Input::WorkerUp { worker: WORKER, epoch: old, device: DeviceId(1), models },
        Input::WorkerCredit { worker: WORKER, epoch: old, slot: Slot(0), budget: AMPLE },
        Input::ModelState { worker: WORKER, epoch: old, model: MODEL, state: ModelState::Failed },
        Input::WorkerDown { worker: WORKER, epoch: old, cause: DownCause::Crashed },
    ];
    for input in stale {
        let before = stage.dropped();
        assert_eq!(stage.tell(input), []);
        assert_eq!(stage.dropped(), before + 1);
    }
    stage.queue([1]);
    assert_eq!(ids(&stage.take(WORKER)), [1], "the present life goes on");
}

#[test]
fn does_not_take_an_epoch_back_after_the_worker_went() {
    let mut stage = Stage::with_worker();
    let epoch = stage.epoch_of(WORKER);
    stage.down(WORKER, DownCause::Lost);
    let again = Input::WorkerUp { worker: WORKER, epoch, device: DeviceId(1), models: vec![MODEL] };
    assert_eq!(stage.tell(again), []);
    assert_eq!(stage.core.counts().workers, 0);
}

#[test]
fn loses_the_credits_with_the_worker() {
    let mut stage = Stage::with_worker();
    stage.credit(WORKER, 0, AMPLE);
    stage.ready(WORKER);
    stage.queue([1]);
    assert_eq!(stage.core.counts().credits, 0);
}
