//! Every checker can fail: a good run is changed in one place, and the checker in charge must say so.

use std::num::NonZeroU32;
use std::time::Duration;

use shoal_scheduler::{
    Attempt, BatchId, Budget, Class, CloseReason, Cost, DeviceId, Dispatch, Epoch, Failure, Group, GroupId, Input,
    Limits, ModelConfig, ModelId, ModelState, Output, PolicyConfig, Probe, Reject, Request, RequestId, Slot, TenantId,
    Timestamp, WorkerId,
};

use super::{Judge, Violation};
use crate::plan::Plan;
use crate::transcript::{Entry, Transcript, What};
use crate::world::run;

/// Changes the first good run in which `change` finds its place, and expects this checker to object.
#[track_caller]
fn assert_caught(check: &str, change: impl Fn(&mut Vec<Entry>) -> Option<()>) {
    for seed in 0..300 {
        let plan = Plan::draw(seed);
        let limits = plan.limits;
        let mut transcript = run(plan).transcript;
        assert_eq!(Judge::read(limits, &transcript), Ok(()), "a good run");
        if change(&mut transcript.0).is_some() {
            let violation = Judge::read(limits, &transcript).expect_err("nobody objected");
            assert_eq!(violation.check, check, "seed {seed}: {violation}");
            return;
        }
    }
    panic!("no run has a place for the change");
}

/// The first output for which `change` finds its place.
fn change_output(entries: &mut [Entry], change: impl Fn(&mut Output) -> Option<()>) -> Option<()> {
    entries.iter_mut().find_map(|entry| if let What::Did(output) = &mut entry.what { change(output) } else { None })
}

fn change_dispatch(entries: &mut [Entry], change: impl Fn(&mut Dispatch) -> Option<()>) -> Option<()> {
    change_output(entries, |output| if let Output::Dispatch(dispatch) = output { change(dispatch) } else { None })
}

fn is_dispatch(entry: &Entry) -> bool {
    matches!(&entry.what, What::Did(Output::Dispatch(_)))
}

fn is_fail(entry: &Entry) -> bool {
    matches!(&entry.what, What::Did(Output::Fail { .. }))
}

fn is_complete(entry: &Entry) -> bool {
    matches!(&entry.what, What::Did(Output::Complete { .. }))
}

fn remove(entries: &mut Vec<Entry>, is_it: impl Fn(&Entry) -> bool) -> Option<()> {
    let at = entries.iter().position(is_it)?;
    entries.remove(at);
    Some(())
}

/// Removes an output after which the core had no more to say, so that nothing else is out of place for it.
fn remove_last_word(entries: &mut Vec<Entry>, is_it: impl Fn(&Entry) -> bool) -> Option<()> {
    let at = entries.windows(2).position(|pair| is_it(&pair[0]) && pair[1].what == What::Settled)?;
    entries.remove(at);
    Some(())
}

fn double(entries: &mut Vec<Entry>, is_it: impl Fn(&Entry) -> bool) -> Option<()> {
    let at = entries.iter().position(is_it)?;
    entries.insert(at, entries[at].clone());
    Some(())
}

#[test]
fn a_result_that_is_kept_back_is_caught() {
    assert_caught("outcomes", |entries| remove(entries, is_complete));
}

#[test]
fn a_second_outcome_is_caught() {
    assert_caught("outcomes", |entries| double(entries, is_complete));
    assert_caught("outcomes", |entries| double(entries, is_fail));
}

#[test]
fn a_result_credited_to_another_request_is_caught() {
    assert_caught("outcomes", |entries| {
        change_output(entries, |output| match output {
            Output::Complete { request } => {
                request.0 += 1;
                Some(())
            }
            _ => None,
        })
    });
}

#[test]
fn a_failure_that_is_kept_back_is_caught() {
    assert_caught("outcomes", |entries| remove(entries, is_fail));
}

#[test]
fn a_failure_for_the_wrong_reason_is_caught() {
    assert_caught("outcomes", |entries| {
        change_output(entries, |output| match output {
            Output::Fail { why, .. } if *why == Failure::DeadlinePassed => {
                *why = Failure::QueueTimeout;
                Some(())
            }
            _ => None,
        })
    });
}

#[test]
fn a_worker_that_is_not_told_of_a_cancel_is_caught() {
    assert_caught("outcomes", |entries| {
        remove(entries, |entry| matches!(&entry.what, What::Did(Output::CancelRunning { .. })))
    });
}

#[test]
fn a_refusal_for_the_wrong_reason_is_caught() {
    assert_caught("outcomes", |entries| {
        change_output(entries, |output| match output {
            Output::Reject { why, .. } if matches!(why, Reject::QueueFull { .. }) => {
                *why = Reject::GroupTooLarge;
                Some(())
            }
            _ => None,
        })
    });
}

#[test]
fn a_refusal_that_asks_to_come_back_never_is_caught() {
    assert_caught("outcomes", |entries| {
        change_output(entries, |output| match output {
            Output::Reject { why: Reject::QueueFull { retry_after, .. }, .. } => {
                *retry_after = Duration::MAX;
                Some(())
            }
            _ => None,
        })
    });
}

#[test]
fn a_drain_that_does_not_end_or_ends_twice_is_caught() {
    let is_drained = |entry: &Entry| entry.what == What::Did(Output::Drained);
    assert_caught("outcomes", |entries| remove(entries, is_drained));
    assert_caught("outcomes", |entries| double(entries, is_drained));
}

#[test]
fn a_hung_worker_that_is_not_replaced_is_caught() {
    assert_caught("outcomes", |entries| {
        remove_last_word(entries, |entry| matches!(&entry.what, What::Did(Output::Replace { .. })))
    });
}

#[test]
fn a_wrong_attempt_is_caught() {
    assert_caught("outcomes", |entries| {
        change_dispatch(entries, |dispatch| {
            dispatch.attempt.0 += 1;
            Some(())
        })
    });
}

#[test]
fn a_dispatch_at_the_deadline_is_caught() {
    assert_caught("deadlines", |entries| {
        let at = entries.iter().position(is_dispatch)?;
        let What::Did(Output::Dispatch(dispatch)) = &entries[at].what else { return None };
        let (request, now) = (dispatch.requests[0], entries[at].at);
        let told = entries.iter().take(at).rposition(|entry| matches!(&entry.what, What::Told(_)))?;
        entries.iter().take(told).all(|entry| entry.at < now).then_some(())?;
        let submitted = entries.iter_mut().take(at).find_map(|entry| match &mut entry.what {
            What::Told(Input::SubmitGroup(group)) => {
                let is_its = group.requests.iter().any(|of| of.id == request);
                (is_its && group.deadline.is_none() && entry.at < now && group.requests.len() == 1).then_some(group)
            }
            _ => None,
        })?;
        submitted.deadline = Some(now);
        // A deadline also orders: only where there was nothing to order does it change nothing else.
        let What::Did(Output::Dispatch(dispatch)) = &entries[at].what else { return None };
        (dispatch.requests.len() == 1 && dispatch.close == CloseReason::Drained).then_some(())
    });
}

#[test]
fn a_credit_that_was_not_given_is_caught() {
    assert_caught("credits", |entries| {
        change_dispatch(entries, |dispatch| {
            dispatch.slot = Slot(999);
            Some(())
        })
    });
}

#[test]
fn a_batch_for_an_old_epoch_is_caught() {
    assert_caught("credits", |entries| {
        change_dispatch(entries, |dispatch| {
            dispatch.epoch = Epoch(dispatch.epoch.0.checked_sub(1)?);
            Some(())
        })
    });
}

#[test]
fn a_batch_beyond_its_budget_is_caught() {
    assert_caught("credits", |entries| {
        let of_two = |entry: &Entry| matches!(&entry.what, What::Did(Output::Dispatch(d)) if d.requests.len() > 1);
        let at = entries.iter().position(of_two)?;
        let What::Did(Output::Dispatch(dispatch)) = entries[at].what.clone() else { return None };
        entries.iter_mut().take(at).rev().find_map(|entry| match &mut entry.what {
            What::Told(Input::WorkerCredit { worker, slot, budget, .. })
                if (*worker, *slot) == (dispatch.worker, dispatch.slot) =>
            {
                budget.rows = 1;
                Some(())
            }
            _ => None,
        })
    });
}

#[test]
fn a_request_that_is_in_a_batch_twice_is_caught() {
    assert_caught("homogeneity", |entries| {
        change_dispatch(entries, |dispatch| {
            dispatch.requests.push(dispatch.requests[0]);
            Some(())
        })
    });
}

#[test]
fn a_batch_id_that_is_used_again_is_caught() {
    assert_caught("homogeneity", |entries| {
        change_dispatch(entries, |dispatch| (dispatch.batch.0 > 1).then(|| dispatch.batch = BatchId(1)))
    });
}

#[test]
fn a_suspect_among_innocents_is_caught() {
    assert_caught("homogeneity", |entries| {
        let is_isolated =
            |entry: &Entry| matches!(&entry.what, What::Did(Output::Dispatch(d)) if d.close == CloseReason::Isolated);
        let at = entries.iter().position(is_isolated)?;
        let next = entries.iter().skip(at).position(|entry| is_dispatch(entry) && !is_isolated(entry))? + at;
        let What::Did(Output::Dispatch(innocent)) = entries[next].what.clone() else { return None };
        let What::Did(Output::Dispatch(suspect)) = &mut entries[at].what else { return None };
        // One that waits by then: it was submitted before and runs for the first time.
        (innocent.model == suspect.model && innocent.attempt == Attempt(1)).then_some(())?;
        let request = innocent.requests[0];
        suspect.requests.push(request);
        let is_it = |entry: &Entry| matches!(&entry.what, What::Told(Input::SubmitGroup(g)) if g.requests.iter().any(|r| r.id == request));
        entries.iter().take(at).any(is_it).then_some(())
    });
}

#[test]
fn a_suspect_that_is_not_called_isolated_is_caught() {
    assert_caught("homogeneity", |entries| {
        change_dispatch(entries, |dispatch| {
            (dispatch.close == CloseReason::Isolated).then(|| dispatch.close = CloseReason::Drained)
        })
    });
}

#[test]
fn suspects_beside_another_batch_are_caught() {
    assert_caught("solitude", |entries| {
        let mut last: Option<Dispatch> = None;
        for entry in entries {
            // Nothing that is heard in between could have ended the batch before.
            let is_calm = matches!(&entry.what, What::Did(_) | What::Settled | What::Nature { .. })
                || matches!(&entry.what, What::Told(Input::SubmitGroup(_) | Input::WorkerCredit { .. }));
            last = last.filter(|_| is_calm);
            let What::Did(Output::Dispatch(next)) = &mut entry.what else { continue };
            let elsewhere = last.as_ref().filter(|before| before.worker != next.worker);
            if let Some(before) = elsewhere.filter(|_| next.close == CloseReason::Isolated) {
                (next.worker, next.epoch) = (before.worker, before.epoch);
                return Some(());
            }
            last = Some(next.clone());
        }
        None
    });
}

#[test]
fn a_batch_out_of_order_is_caught() {
    assert_caught("order", |entries| {
        change_dispatch(entries, |dispatch| {
            let is_plain = dispatch.close != CloseReason::Isolated && dispatch.requests.len() > 1;
            is_plain.then(|| dispatch.requests.reverse())
        })
    });
}

#[test]
fn a_close_reason_that_is_not_true_is_caught() {
    for (said, instead) in [
        (CloseReason::Rows, CloseReason::Drained),
        (CloseReason::Rows, CloseReason::Delay),
        (CloseReason::Drained, CloseReason::Bytes),
        (CloseReason::Drained, CloseReason::Preferred),
    ] {
        assert_caught("close reasons", |entries| {
            // Under the other policy most reasons may be true at once.
            let What::Told(Input::ConfigChanged(models)) = &entries[0].what else { return None };
            models.iter().all(|model| model.policy == PolicyConfig::Fixed).then_some(())?;
            change_dispatch(entries, |dispatch| (dispatch.close == said).then(|| dispatch.close = instead))
        });
    }
}

#[test]
fn a_request_that_waits_beside_a_credit_is_caught() {
    assert_caught("progress", |entries| remove_last_word(entries, is_dispatch));
}

#[test]
fn a_conviction_of_an_innocent_is_caught() {
    assert_caught("innocence", |entries| {
        let poisoned = |entry: &Entry| match &entry.what {
            What::Did(Output::Fail { request, why: Failure::Poison }) => Some(*request),
            _ => None,
        };
        entries.iter().all(|entry| !matches!(&entry.what, What::Struck { .. })).then_some(())?;
        let request = entries.iter().find_map(poisoned)?;
        remove(entries, |entry| matches!(&entry.what, What::Nature { request: of, .. } if *of == request))
    });
}

#[test]
fn a_model_that_is_loaded_twice_or_not_at_all_is_caught() {
    let is_load = |entry: &Entry| matches!(&entry.what, What::Did(Output::Load { .. }));
    assert_caught("models", |entries| double(entries, is_load));
    assert_caught("models", |entries| remove(entries, is_load));
}

#[test]
fn a_model_that_stays_loaded_is_caught() {
    assert_caught("models", |entries| remove(entries, |entry| matches!(&entry.what, What::Did(Output::Unload { .. }))));
}

#[test]
fn a_run_that_leaves_something_behind_is_caught() {
    assert_caught("rest", |entries| match &mut entries.last_mut()?.what {
        What::Finished(counts) => {
            counts.batches = 1;
            Some(())
        }
        _ => None,
    });
}

/// One worker with one credit at a time, always taken by somebody more urgent than request 1.
fn passed_over(first: Class, others: ModelId) -> Result<(), Violation> {
    let (model, worker, epoch) = (ModelId(1), WorkerId(1), Epoch(1));
    let many = NonZeroU32::new(1_000).unwrap();
    let config = |id| ModelConfig {
        id,
        objective: Duration::from_secs(1),
        queue_requests_max: many,
        queue_time_max: Duration::from_secs(60),
        batch_time_max: Duration::from_secs(60),
        batch_rows_max: NonZeroU32::MIN,
        batch_tokens_max: many,
        policy: PolicyConfig::Fixed,
        cost: None,
    };
    let call = |id, model, class| {
        let requests = vec![Request { id: RequestId(id), cost: Cost { rows: 1, ..Cost::default() } }];
        let (id, tenant, deadline) = (GroupId(id), TenantId(1), None);
        What::Told(Input::SubmitGroup(Group { id, model, tenant, class, deadline, requests }))
    };
    let ready = |model| What::Told(Input::ModelState { worker, epoch, model, state: ModelState::Ready });
    let load = |model| What::Did(Output::Load { worker, epoch, model });
    let mut whats = vec![
        What::Told(Input::ConfigChanged(vec![config(model), config(ModelId(2))])),
        What::Told(Input::WorkerUp { worker, epoch, device: DeviceId(1), models: vec![model, ModelId(2)] }),
        load(model),
        load(ModelId(2)),
        What::Settled,
        ready(model),
        ready(ModelId(2)),
        call(1, model, first),
    ];
    for id in 2..40 {
        let (slot, budget) = (Slot(0), Budget { rows: 1, tokens: 1, bytes: 1 });
        let (batch, attempt, requests) = (BatchId(id), Attempt(1), vec![RequestId(id)]);
        let close = CloseReason::Drained;
        whats.extend([
            call(id, others, Class::Interactive),
            What::Told(Input::WorkerCredit { worker, epoch, slot, budget }),
            What::Did(Output::Dispatch(Dispatch {
                batch,
                worker,
                epoch,
                slot,
                model: others,
                attempt,
                close,
                requests,
            })),
        ]);
    }
    let at = Timestamp::from_millis(1);
    Judge::read(Limits::default(), &Transcript(whats.into_iter().map(|what| Entry { at, what }).collect()))
}

#[test]
fn a_class_that_is_always_passed_over_is_caught() {
    let violation = passed_over(Class::Bulk, ModelId(2)).expect_err("nobody objected");
    assert_eq!((violation.check, violation.how.as_str()), ("patience", "Bulk was passed over 18 times"));
}

fn change_probe(entries: &mut [Entry], change: impl Fn(&mut Probe)) -> Option<()> {
    change_output(entries, |output| {
        let Output::Probe(probe) = output else { return None };
        change(probe);
        Some(())
    })
}

#[test]
fn a_probe_that_nobody_allowed_is_caught() {
    assert_caught("probes", |entries| {
        entries.iter().find(|entry| matches!(entry.what, What::Did(Output::Probe(_))))?;
        remove(entries, |entry| matches!(entry.what, What::Told(Input::Calibrate { .. })))
    });
}

#[test]
fn a_probe_of_more_than_the_credit_allows_is_caught() {
    assert_caught("credits", |entries| change_probe(entries, |probe| probe.rows = 1_000));
}

#[test]
fn a_probe_under_an_old_id_is_caught() {
    assert_caught("homogeneity", |entries| change_probe(entries, |probe| probe.batch = BatchId(0)));
}

/// The end of a probe after which the next batch of all is another one of the same model.
fn end_between_probes(entries: &[Entry]) -> Option<usize> {
    let batches = entries.iter().enumerate().filter_map(|(at, entry)| match &entry.what {
        What::Did(Output::Probe(probe)) => Some((at, Some(*probe))),
        What::Did(Output::Dispatch(_)) => Some((at, None)),
        _ => None,
    });
    let batches: Vec<_> = batches.collect();
    let (from, to, first) = batches.windows(2).find_map(|pair| match pair {
        [(from, Some(one)), (to, Some(other))] if one.model == other.model => Some((*from, *to, one.batch)),
        _ => None,
    })?;
    let ends = |entry: &Entry| matches!(entry.what, What::Told(Input::BatchEnd { batch, .. }) if batch == first);
    entries[from..to].iter().position(ends).map(|at| from + at)
}

#[test]
fn a_probe_beside_another_is_caught() {
    assert_caught("probes", |entries| {
        let at = end_between_probes(entries)?;
        entries.remove(at);
        Some(())
    });
}

#[test]
fn probes_that_go_on_after_one_failed_are_caught() {
    assert_caught("probes", |entries| {
        let is_told = |entry: &Entry| matches!(entry.what, What::Told(Input::BatchFailed { .. }));
        let is_end = |entry: &Entry| matches!(entry.what, What::Did(Output::Calibrated { .. }));
        let at = entries
            .windows(3)
            .position(|three| is_told(&three[0]) && is_end(&three[1]) && three[2].what == What::Settled)?;
        entries.remove(at + 1);
        Some(())
    });
}
