//! Who is let in, and what those who are not are told.

use super::*;
use crate::{QueueLimit, Reject};

fn rejected(group: u64, why: Reject) -> Vec<Output> {
    vec![Output::Reject { group: GroupId(group), why }]
}

fn limit_of(outputs: &[Output]) -> QueueLimit {
    match outputs {
        [Output::Reject { why: Reject::QueueFull { limit, .. }, .. }] => *limit,
        other => panic!("not a full queue: {other:?}"),
    }
}

fn retry_after_of(outputs: &[Output]) -> Duration {
    match outputs {
        [Output::Reject { why: Reject::QueueFull { retry_after, .. }, .. }] => *retry_after,
        other => panic!("not a full queue: {other:?}"),
    }
}

#[test]
fn admits_a_group_whole_or_not_at_all() {
    let limits = Limits { tenant_requests_max: 5, ..Limits::default() };
    let mut stage = Stage::new(limits, vec![config(MODEL)]);
    assert_eq!(stage.submit(call(1, 1..=3)), []);
    assert_eq!(limit_of(&stage.submit(call(2, 4..=6))), QueueLimit::Tenant);
    assert_eq!(stage.core.counts().queued(), 3);
    assert_eq!(stage.submit(call(3, 7..=8)), []);
}

#[test]
fn names_the_limit_that_refused() {
    let few = |requests| ModelConfig { queue_requests_max: NonZeroU32::new(requests).unwrap(), ..config(MODEL) };
    let roomy = Limits::default();
    let cases = [
        (roomy, few(2), QueueLimit::Model),
        (Limits { tenant_requests_max: 2, ..roomy }, few(9), QueueLimit::Tenant),
        (Limits { class_requests_max: 2, ..roomy }, few(9), QueueLimit::Class),
        (Limits { queue_bytes_max: 250, ..roomy }, few(9), QueueLimit::Bytes),
    ];
    for (limits, model, limit) in cases {
        let mut stage = Stage::new(limits, vec![model]);
        stage.queue([1, 2]);
        assert_eq!(limit_of(&stage.submit(call(3, [3]))), limit);
    }
}

#[test]
fn lets_other_tenants_in_when_one_is_full() {
    let mut stage = Stage::new(Limits { tenant_requests_max: 1, ..Limits::default() }, vec![config(MODEL)]);
    stage.queue([1]);
    assert_eq!(stage.submit(Group { tenant: TenantId(2), ..call(2, [2]) }), []);
}

#[test]
fn refuses_what_could_never_be_queued_or_run_without_asking_to_try_again() {
    let mut stage = Stage::with_worker();
    assert_eq!(stage.submit(Group { model: ModelId(9), ..call(1, [1]) }), rejected(1, Reject::UnknownModel));
    assert_eq!(stage.submit(call(2, 0..1_001)), rejected(2, Reject::GroupTooLarge));
    let mut wide = call(3, [1]);
    wide.requests[0].cost.rows = 65;
    assert_eq!(stage.submit(wide), rejected(3, Reject::RequestTooLarge));
    let mut long = call(4, [1]);
    long.requests[0].cost.tokens = 4_097;
    assert_eq!(stage.submit(long), rejected(4, Reject::RequestTooLarge));
    let late = Group { deadline: Some(stage.now), ..call(5, [1]) };
    assert_eq!(stage.submit(late), rejected(5, Reject::DeadlinePassed));
    assert_eq!(stage.core.counts().queued(), 0);
}

#[test]
fn makes_room_when_requests_are_dispatched_or_cancelled() {
    let mut stage = Stage::new(Limits { tenant_requests_max: 1, ..Limits::default() }, vec![config(MODEL)]);
    stage.ready(WORKER);
    stage.queue([1]);
    stage.take(WORKER);
    stage.queue([2]);
    stage.tell(Input::Cancel(GroupId(2)));
    stage.queue([3]);
}

#[test]
fn says_a_second_when_nothing_was_served_lately() {
    let mut stage = Stage::new(Limits { tenant_requests_max: 1, ..Limits::default() }, vec![config(MODEL)]);
    stage.queue([1]);
    let after = retry_after_of(&stage.submit(call(2, [2])));
    assert!((ms(1_000)..ms(1_500)).contains(&after), "{after:?}");
}

#[test]
fn estimates_the_time_until_there_is_room_from_what_was_served_lately() {
    let few = ModelConfig { queue_requests_max: NonZeroU32::new(4).unwrap(), ..config(MODEL) };
    let mut stage = Stage::new(Limits::default(), vec![few]);
    stage.ready(WORKER);
    for id in 1..=40 {
        stage.pass(250); // four a second
        stage.queue([id]);
        let batch = stage.take(WORKER);
        stage.finish(&batch);
    }
    stage.queue(101..=104);
    let two_more = retry_after_of(&stage.submit(call(200, [200, 201])));
    assert!((ms(400)..=ms(900)).contains(&two_more), "{two_more:?}");
}

#[test]
fn counts_a_request_of_no_rows_as_one() {
    let mut stage = Stage::with_worker();
    let mut free = call(1, 1..=3);
    free.requests.iter_mut().for_each(|request| request.cost = Cost::default());
    stage.submit(free);
    assert_eq!(ids(&only_dispatch(stage.credit(WORKER, 0, Budget { rows: 2, ..AMPLE }))), [1, 2]);
}

#[test]
fn ignores_a_group_of_nothing() {
    let mut stage = Stage::with_fixed();
    assert_eq!(stage.submit(call(1, [])), []);
    assert_eq!(stage.core.counts().queued(), 0);
}

#[test]
#[should_panic(expected = "request id 1 is in use")]
fn panics_rather_than_mix_up_two_requests() {
    let mut stage = Stage::with_fixed();
    stage.submit(call(1, [1]));
    stage.submit(call(2, [1]));
}

#[test]
fn cancels_what_is_queued_without_a_word() {
    let mut stage = Stage::with_worker();
    stage.submit(call(1, [1, 2]));
    stage.queue([3]);
    assert_eq!(stage.tell(Input::Cancel(GroupId(1))), []);
    assert_eq!(ids(&stage.take(WORKER)), [3]);
}

#[test]
fn tells_the_worker_what_of_a_running_batch_was_cancelled() {
    let mut stage = Stage::with_worker();
    stage.submit(call(1, [1, 2]));
    stage.queue([3]);
    let batch = stage.take(WORKER);
    assert_eq!(stage.tell(Input::Cancel(GroupId(1))), [cancel_running(&batch, &[1, 2])]);
    assert_eq!(stage.item(&batch, 1, ItemOutcome::Ok), [], "a result nobody waits for");
    assert_eq!(stage.item(&batch, 3, ItemOutcome::Ok), [complete(3)]);
    assert_eq!(stage.end(&batch), [], "a cancelled item need not be reported");
    assert_eq!(stage.core.counts().queued(), 0);
}

#[test]
fn ignores_the_cancel_of_a_call_that_has_ended() {
    let mut stage = Stage::with_fixed();
    assert_eq!(stage.tell(Input::Cancel(GroupId(1))), []);
}
