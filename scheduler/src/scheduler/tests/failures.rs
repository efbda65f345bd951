//! Batches that fail: bisection, poison, memory.

use super::*;

/// Runs everything to its end; batches fail by `reason` while `breaks` says so of their requests.
fn run_out(stage: &mut Stage, reason: BatchFailure, breaks: impl Fn(&[u64]) -> bool) -> (Vec<Output>, Vec<Vec<u64>>) {
    let (mut outputs, mut batches) = (Vec::new(), Vec::new());
    while stage.core.counts().queued() > 0 {
        let batch = stage.take(WORKER);
        batches.push(ids(&batch));
        let told = if breaks(&ids(&batch)) { stage.fail(&batch, reason) } else { stage.finish(&batch) };
        outputs.extend(told);
    }
    (outputs, batches)
}

#[test]
fn finds_the_one_poison_by_halving_and_answers_its_mates() {
    let mut stage = Stage::with_worker();
    stage.queue(1..=8);
    let (outputs, batches) = run_out(&mut stage, BatchFailure::Item, |ids| ids.contains(&6));
    let expected = [
        complete(1),
        complete(2),
        complete(3),
        complete(4),
        complete(5),
        failed(6, Failure::Poison),
        complete(7),
        complete(8),
    ];
    let mut sorted = outputs.clone();
    sorted.sort_by_key(|output| expected.iter().position(|expected| expected == output));
    assert_eq!(sorted, expected);
    assert_eq!(batches.len(), 1 + 2 * 3, "two halves on each of three levels: {batches:?}");
}

#[test]
fn never_mixes_a_suspect_with_innocents() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2]);
    let batch = stage.take(WORKER);
    stage.queue([3, 4]);
    stage.fail(&batch, BatchFailure::Item);
    let after: Vec<_> = (0..3).map(|_| stage.take_and_finish(WORKER)).map(|of| (ids(&of), of.close)).collect();
    let isolated = CloseReason::Isolated;
    assert_eq!(after, [(vec![1], isolated), (vec![2], isolated), (vec![3, 4], CloseReason::Drained)]);
}

#[test]
fn fails_the_request_of_a_single_batch_that_breaks() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    let batch = stage.take(WORKER);
    assert_eq!(stage.fail(&batch, BatchFailure::Item), [failed(1, Failure::Poison)]);
}

#[test]
fn takes_unreported_items_of_an_ended_batch_as_broken() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2, 3]);
    let batch = stage.take(WORKER);
    stage.item(&batch, 2, ItemOutcome::Ok);
    assert_eq!(stage.end(&batch), []);
    let parts = [stage.take_and_finish(WORKER), stage.take_and_finish(WORKER)];
    assert_eq!(parts.map(|part| ids(&part)), [[1], [3]]);
}

#[test]
fn does_not_blame_the_one_that_is_left_when_a_cancelled_mate_may_be_guilty() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2]);
    let batch = stage.take(WORKER);
    stage.tell(Input::Cancel(GroupId(1)));
    assert_eq!(stage.fail(&batch, BatchFailure::Item), []);
    let again = stage.take(WORKER);
    assert_eq!((ids(&again), again.close, again.attempt), (vec![2], CloseReason::Isolated, Attempt(2)));
    assert_eq!(stage.finish(&again), [complete(2)]);
}

#[test]
fn blames_the_one_that_is_left_when_all_others_were_reported() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2, 3]);
    let batch = stage.take(WORKER);
    stage.tell(Input::Cancel(GroupId(1)));
    stage.item(&batch, 1, ItemOutcome::Ok);
    stage.item(&batch, 3, ItemOutcome::Ok);
    assert_eq!(stage.fail(&batch, BatchFailure::Item), [failed(2, Failure::Poison)]);
}

#[test]
fn a_part_too_large_for_a_credit_is_split_and_stays_apart() {
    let mut stage = Stage::with_worker();
    stage.queue(1..=6);
    let batch = stage.take(WORKER);
    stage.fail(&batch, BatchFailure::Item);
    stage.queue([7]);
    let two_rows = Budget { rows: 2, ..AMPLE };
    let mut next = || {
        let batch = only_dispatch(stage.credit(WORKER, 0, two_rows));
        stage.finish(&batch);
        ids(&batch)
    };
    let batches: Vec<_> = (0..5).map(|_| next()).collect();
    assert_eq!(batches, [vec![1, 2], vec![3], vec![4, 5], vec![6], vec![7]]);
}

#[test]
fn a_cancelled_member_leaves_its_part() {
    let mut stage = Stage::with_worker();
    stage.queue(1..=4);
    let batch = stage.take(WORKER);
    stage.fail(&batch, BatchFailure::Item);
    stage.tell(Input::Cancel(GroupId(1)));
    stage.tell(Input::Cancel(GroupId(3)));
    stage.tell(Input::Cancel(GroupId(4)));
    assert_eq!(ids(&stage.take(WORKER)), [2]);
    assert_eq!(stage.core.counts().queued(), 0);
}

#[test]
fn retries_as_halves_when_memory_runs_out_and_fails_only_what_does_not_fit_alone() {
    let mut stage = Stage::with_worker();
    stage.queue(1..=8);
    let (outputs, batches) = run_out(&mut stage, BatchFailure::OutOfMemory, |ids| ids.len() > 2 || ids.contains(&3));
    assert!(outputs.contains(&failed(3, Failure::OutOfMemory)));
    assert_eq!(outputs.iter().filter(|output| matches!(output, Output::Complete { .. })).count(), 7);
    assert_eq!(batches.iter().map(Vec::len).max(), Some(8));
}

#[test]
fn learns_four_fifths_of_the_size_that_did_not_fit() {
    let mut stage = Stage::with_worker();
    stage.queue(1..=20); // ten tokens each
    let batch = stage.take(WORKER);
    stage.fail(&batch, BatchFailure::OutOfMemory);
    stage.take_and_finish(WORKER);
    stage.take_and_finish(WORKER);
    stage.queue(21..=50);
    let capped = stage.take(WORKER);
    assert_eq!((capped.requests.len(), capped.close), (16, CloseReason::Tokens), "160 of 200 tokens");
}

#[test]
fn remembers_the_cap_when_the_worker_comes_back_but_not_for_other_workers() {
    let mut stage = Stage::with_worker();
    stage.queue(1..=10);
    let batch = stage.take(WORKER);
    stage.tell(Input::Cancel(GroupId(1)));
    stage.fail(&batch, BatchFailure::OutOfMemory);
    (2..=10).for_each(|id| drop(stage.tell(Input::Cancel(GroupId(id)))));
    stage.down(WORKER, DownCause::Lost);
    stage.ready(WORKER);
    stage.ready(OTHER_WORKER);
    stage.queue(11..=40);
    assert_eq!(stage.take(WORKER).requests.len(), 8);
    assert_eq!(stage.take(OTHER_WORKER).requests.len(), 22);
}

#[test]
fn raises_the_cap_by_two_percent_every_hundred_good_batches() {
    let mut stage = Stage::with_worker();
    stage.queue(1..=20);
    let batch = stage.take(WORKER);
    stage.fail(&batch, BatchFailure::OutOfMemory); // 200 tokens: the cap is 160
    run_out(&mut stage, BatchFailure::Item, |_| false); // two good batches
    for id in 101..=198 {
        stage.queue([id]);
        let batch = stage.take(WORKER);
        stage.finish(&batch);
    }
    let mut one_token_more = call(200, 200..=215);
    one_token_more.requests[15].cost.tokens = 13;
    stage.submit(one_token_more);
    assert_eq!(stage.take(WORKER).requests.len(), 16, "163 tokens fit");
}

#[test]
fn treats_a_device_failure_as_a_loss_and_not_as_poison() {
    for reason in [BatchFailure::Device, BatchFailure::Timeout] {
        let mut stage = Stage::with_worker();
        stage.queue([1, 2]);
        for attempt in 1..=3 {
            let batch = stage.take(WORKER);
            assert_eq!((ids(&batch), batch.attempt), (vec![1, 2], Attempt(attempt)));
            let outputs = stage.fail(&batch, reason);
            let lost = Failure::WorkerLost { attempts: Attempt(3) };
            assert_eq!(outputs, if attempt == 3 { vec![failed(1, lost), failed(2, lost)] } else { vec![] });
        }
    }
}

#[test]
fn drops_and_counts_replies_that_do_not_name_a_batch_as_it_is() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2]);
    let batch = stage.take(WORKER);
    let wrong = [
        Dispatch { worker: OTHER_WORKER, ..batch.clone() },
        Dispatch { epoch: Epoch(99), ..batch.clone() },
        Dispatch { batch: BatchId(99), ..batch.clone() },
        Dispatch { attempt: Attempt(9), ..batch.clone() },
    ];
    for wrong in &wrong {
        assert_eq!(stage.item(wrong, 1, ItemOutcome::Ok), []);
        assert_eq!(stage.end(wrong), []);
        assert_eq!(stage.fail(wrong, BatchFailure::Item), []);
    }
    assert_eq!(stage.item(&batch, 99, ItemOutcome::Ok), [], "a request that is not in the batch");
    assert_eq!(stage.dropped(), 13);
    assert_eq!(stage.finish(&batch), [complete(1), complete(2)]);
    assert_eq!(stage.item(&batch, 1, ItemOutcome::Ok), [], "a result that comes twice");
    assert_eq!(stage.end(&batch), []);
    assert_eq!(stage.dropped(), 15);
}
