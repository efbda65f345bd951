use super::*;
use crate::batch::{BatchError, ServerId};

const NONE: [u32; 0] = [];
const MS: Duration = Duration::from_millis(1);

fn key(epoch: u64, batch: u64) -> BatchKey {
    BatchKey { server: ServerId(1), epoch, batch, attempt: 1 }
}

fn finished(key: BatchKey, compute: Duration) -> Finished {
    Finished { key, waited: MS, compute, page_in: None, rows: 2, tokens: 10, cancelled: 0, outcome: Ok(Vec::new()) }
}

/// A connected session and a time to begin at.
fn session() -> (Session, Instant) {
    let mut session = Session::new();
    session.connect(1, false);
    (session, Instant::now())
}

/// Sends a batch on a credit granted before and gives its flags.
fn launch(session: &mut Session, now: Instant, batch: u64, slot: u32) -> Arc<CancelFlags> {
    assert_eq!(session.begin(now, key(1, batch), slot, "m"), Ok(Admission::Run));
    session.launch(key(1, batch), slot, 4, Duration::ZERO)
}

#[test]
fn grants_one_credit_and_again_when_the_batch_is_over() {
    let (mut session, now) = session();
    assert_eq!(session.grants(now), [0]);
    assert_eq!(session.grants(now), NONE);
    launch(&mut session, now, 1, 0);
    assert_eq!(session.grants(now), NONE);
    assert!(session.finish(&finished(key(1, 1), MS)));
    assert_eq!(session.grants(now), [0]);
}

#[test]
fn grants_nothing_without_a_connection_or_while_draining() {
    let now = Instant::now();
    let mut session = Session::new();
    assert_eq!(session.grants(now), NONE);
    session.connect(1, false);
    session.drain();
    assert_eq!(session.grants(now), NONE);
}

#[test]
fn a_batch_needs_the_credit_of_its_slot() {
    let (mut session, now) = session();
    session.grants(now);
    assert!(session.begin(now, key(1, 1), 1, "m").is_err());
    assert!(session.begin(now, key(1, 1), 99, "m").is_err());
    launch(&mut session, now, 1, 0);
    assert!(session.begin(now, key(1, 2), 0, "m").is_err());
}

#[test]
fn drops_stale_epochs_and_keys_seen_before() {
    let (mut session, now) = session();
    session.grants(now);
    assert_eq!(session.begin(now, key(9, 1), 0, "m"), Ok(Admission::Drop));
    launch(&mut session, now, 1, 0);
    assert_eq!(session.begin(now, key(1, 1), 0, "m"), Ok(Admission::Drop));
    session.finish(&finished(key(1, 1), MS));
    session.grants(now);
    assert_eq!(session.begin(now, key(1, 1), 0, "m"), Ok(Admission::Drop));
    let again = BatchKey { attempt: 2, ..key(1, 1) };
    assert_eq!(session.begin(now, again, 0, "m"), Ok(Admission::Run));
    assert_eq!(session.totals().dropped, 3);
}

#[test]
fn remembers_a_bounded_number_of_keys() {
    let (mut session, now) = session();
    for batch in 0..3 * SEEN_MAX as u64 {
        session.grants(now);
        launch(&mut session, now, batch, 0);
        session.finish(&finished(key(1, batch), MS));
    }
    assert_eq!(session.seen.len(), SEEN_MAX);
}

#[test]
fn results_of_an_earlier_epoch_are_dropped_and_free_their_slot() {
    let (mut session, now) = session();
    session.grants(now);
    let flags = launch(&mut session, now, 1, 0);
    session.disconnect();
    assert!((0..4).all(|item| flags.is_set(item)));
    session.connect(2, false);
    assert_eq!(session.grants(now), NONE, "the device is busy with the old batch");
    assert!(!session.finish(&finished(key(1, 1), MS)));
    assert_eq!(session.totals().dropped, 1);
    assert_eq!(session.grants(now), [0]);
}

#[test]
fn a_server_that_was_started_anew_may_number_as_it_did_before() {
    let (mut session, now) = session();
    session.grants(now);
    launch(&mut session, now, 1, 0);
    session.finish(&finished(key(1, 1), MS));
    session.disconnect();
    session.connect(1, false);
    session.grants(now);
    launch(&mut session, now, 1, 0);
}

#[test]
fn a_turn_is_answered_once_by_a_batch_of_its_model() {
    let now = Instant::now();
    let mut session = Session::new();
    session.connect(1, true);
    assert_eq!(session.grants(now), NONE, "turns instead");
    session.give(7, "m".into());
    assert!(session.begin(now, key(1, 1), 7, "another").is_err());
    assert!(session.begin(now, key(1, 1), 8, "m").is_err());
    assert!(!session.is_idle(), "its answer may still come");
    assert_eq!(session.begin(now, key(1, 1), 7, "m"), Ok(Admission::Run));
    assert!(session.begin(now, key(1, 2), 7, "m").is_err());
    session.launch(key(1, 1), 7, 1, Duration::ZERO);
    assert!(!session.is_idle());
    assert!(session.end(&key(1, 1)));
    session.give(8, "m".into());
    session.pass(8);
    assert!(session.is_idle());
}

#[test]
fn a_credit_not_spent_before_the_connection_broke_is_void() {
    let (mut session, now) = session();
    session.grants(now);
    session.disconnect();
    session.connect(2, false);
    assert_eq!(session.grants(now), [0]);
}

#[test]
fn a_batch_that_was_still_arriving_when_the_connection_broke_frees_its_slot() {
    let (mut session, now) = session();
    session.grants(now);
    session.begin(now, key(1, 1), 0, "m").unwrap();
    session.disconnect();
    session.connect(2, false);
    assert!(session.is_idle());
    assert_eq!(session.grants(now), [0]);
}

#[test]
fn cancels_items_in_flight_before_it_comes_and_not_after() {
    let (mut session, now) = session();
    session.cancel(1, vec![0, 2, 77]);
    session.grants(now);
    session.begin(now, key(1, 1), 0, "m").unwrap();
    session.cancel(1, vec![1]);
    let flags = session.launch(key(1, 1), 0, 4, Duration::ZERO);
    assert_eq!((0..4).map(|item| flags.is_set(item)).collect::<Vec<_>>(), [true, true, true, false]);
    session.cancel(1, vec![3]);
    assert!(flags.is_set(3));
    session.finish(&finished(key(1, 1), MS));
    session.cancel(1, vec![0]);
    assert!(session.early.is_empty());
}

#[test]
fn keeps_a_bounded_number_of_early_cancels() {
    let (mut session, _) = session();
    for batch in 0..1000 {
        session.cancel(batch, vec![0]);
    }
    assert_eq!(session.early.len(), EARLY_MAX);
}

#[test]
fn is_idle_only_when_nothing_arrives_or_runs() {
    let (mut session, now) = session();
    session.grants(now);
    assert!(session.is_idle());
    session.begin(now, key(1, 1), 0, "m").unwrap();
    assert!(!session.is_idle());
    session.launch(key(1, 1), 0, 1, Duration::ZERO);
    assert!(!session.is_idle());
    session.finish(&finished(key(1, 1), MS));
    assert!(session.is_idle());
    session.grants(now);
    session.begin(now, key(1, 2), 0, "m").unwrap();
    session.refuse(0);
    assert!(session.is_idle());
}

#[test]
fn a_failed_batch_counts_no_rows_but_its_time() {
    let (mut session, now) = session();
    session.grants(now);
    launch(&mut session, now, 1, 0);
    let outcome = Err(BatchError::OutOfMemory(String::new()));
    session.finish(&Finished { outcome, ..finished(key(1, 1), 3 * MS) });
    assert_eq!(session.totals(), Totals { busy: 3 * MS, ..Totals::default() });
}

/// Runs batches one by one with so long between grant and batch; returns how many credits are out at last.
fn credits_after(turnaround: Duration, transfer: Duration, compute: Duration) -> usize {
    let (session, now) = session();
    credits_of(session, now, turnaround, transfer, compute)
}

fn credits_of(
    mut session: Session,
    mut now: Instant,
    turnaround: Duration,
    transfer: Duration,
    compute: Duration,
) -> usize {
    let mut granted: VecDeque<u32> = session.grants(now).into();
    for batch in 0..50 {
        let slot = granted.pop_front().unwrap();
        now += turnaround;
        session.begin(now, key(1, batch), slot, "m").unwrap();
        now += transfer;
        session.launch(key(1, batch), slot, 1, transfer);
        session.finish(&finished(key(1, batch), compute));
        granted.extend(session.grants(now));
    }
    granted.len()
}

#[test]
fn a_second_credit_hides_the_link_only_where_batches_are_short() {
    let micros = Duration::from_micros;
    assert_eq!(credits_after(micros(200), micros(0), micros(500)), 2);
    assert_eq!(credits_after(micros(200), micros(0), 20 * MS), 1);
    assert_eq!(credits_after(micros(50), 3 * MS, 20 * MS), 2, "a slow transfer counts as well");
}

#[test]
fn a_server_with_nothing_to_send_is_not_a_slow_link() {
    assert_eq!(credits_after(400 * MS, Duration::ZERO, MS), 1);
}

#[test]
fn a_credit_that_the_server_held_until_somebody_asked_is_no_slow_link_either() {
    for (held, credits) in [(Duration::ZERO, 2), (Duration::from_micros(900), 1), (9 * MS, 1)] {
        let (mut session, mut now) = session();
        let mut granted: VecDeque<u32> = session.grants(now).into();
        for batch in 0..50 {
            let slot = granted.pop_front().unwrap();
            now += MS;
            session.held(slot, held);
            session.begin(now, key(1, batch), slot, "m").unwrap();
            session.launch(key(1, batch), slot, 1, Duration::ZERO);
            session.finish(&finished(key(1, batch), 5 * MS));
            granted.extend(session.grants(now));
        }
        assert_eq!(granted.len(), credits, "{held:?}");
    }
}

#[test]
fn a_link_known_to_be_slow_is_believed() {
    let (mut session, now) = session();
    assert_eq!(credits_after(20 * MS, Duration::ZERO, MS), 1);
    session.round_trip(5 * MS);
    assert_eq!(credits_of(session, now, 20 * MS, Duration::ZERO, MS), 2);
}

#[test]
fn goes_back_to_one_credit_when_batches_grow() {
    let (mut session, mut now) = session();
    let mut granted: VecDeque<u32> = session.grants(now).into();
    let mut most = 0;
    for batch in 0..100 {
        let slot = granted.pop_front().unwrap();
        now += Duration::from_micros(200);
        session.begin(now, key(1, batch), slot, "m").unwrap();
        session.launch(key(1, batch), slot, 1, Duration::ZERO);
        let compute = if batch < 50 { Duration::from_micros(500) } else { 50 * MS };
        session.finish(&finished(key(1, batch), compute));
        granted.extend(session.grants(now));
        most = most.max(granted.len());
    }
    assert_eq!((most, granted.len()), (2, 1));
}
