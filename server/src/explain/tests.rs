//! Each sentence as a person reads it.

use super::text::{Brief, Count};
use shoal_scheduler::CloseReason;

use super::*;
use crate::call::{Answer, BatchUse};
use crate::registry::ModelState;

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

fn waited(parts: &[(WaitCause, u64)], failed: u64) -> Waited {
    let waits = parts.iter().map(|(cause, time)| (*cause, micros(*time))).collect();
    Waited { waits, failed: micros(failed) }
}

fn batch(rows: u32, own_rows: u32, close: CloseReason) -> BatchUse {
    BatchUse { rows, tokens: 10 * rows, own_rows, close, compute_time: micros(21_000), attempt: 1 }
}

fn answer(batches: Vec<BatchUse>) -> Answer {
    let (model, rows) = ("m".into(), Vec::new());
    Answer { model, rows, queue_time: Duration::ZERO, compute_time: Duration::ZERO, batches, explanation: None }
}

fn explanation(waited: Waited) -> Explanation {
    let ran = Ran { worker: "local-0".into(), expected: Some(micros(20_000)), taken: micros(22_500) };
    Explanation { waited, late_rows: 0, objective: Duration::from_millis(50), batches: vec![ran] }
}

#[test]
fn times_have_about_three_digits_and_their_unit() {
    let told = [0, 3, 310, 999, 9_100, 99_940, 123_456, 999_600, 1_234_567, 60_000_000, 123_000_000];
    let told = told.map(|time| Brief(micros(time)).to_string());
    let expected = [
        "0 ms",
        "less than 0.01 ms",
        "0.31 ms",
        "1.0 ms",
        "9.1 ms",
        "99.9 ms",
        "123 ms",
        "1.0 s",
        "1.2 s",
        "60.0 s",
        "123 s",
    ];
    assert_eq!(told, expected);
    assert_eq!([1, 2].map(|count| Count(count, "batch").to_string()), ["1 batch", "2 batches"]);
}

#[test]
fn an_answer_says_what_was_waited_for_and_in_whose_company_it_ran() {
    let parts = [(WaitCause::WorkersBusy, 9_100), (WaitCause::FullerBatch, 3_300), (WaitCause::Loading, 4)];
    let text = explanation(waited(&parts, 0)).text(&answer(vec![batch(18, 2, CloseReason::Objective)]));
    let expected = "Waited 12.4 ms: 9.1 ms for busy workers, 3.3 ms for a fuller batch. Ran with 16 rows of other calls \
                    on local-0 for 21.0 ms (22.5 ms from when it was sent, 20.0 ms expected), closed because one \
                    more row would have taken longer than the objective of 50.0 ms allows.";
    assert_eq!(text, expected);
}

#[test]
fn an_answer_that_waited_for_one_thing_or_nothing_says_so_in_short() {
    let text = |waited| explanation(waited).text(&answer(Vec::new()));
    assert_eq!(text(waited(&[(WaitCause::NoWorker, 812_000)], 0)), "Waited 812 ms for a worker to connect.");
    assert_eq!(text(waited(&[(WaitCause::WorkersBusy, 9)], 0)), "Did not wait.");
    let lost = waited(&[(WaitCause::WorkersBusy, 2_000)], 30_000);
    assert_eq!(text(lost), "Waited 32.0 ms: 2.0 ms for busy workers, 30.0 ms with a worker that gave no result.");
    assert_eq!(text(waited(&[], 30_000)), "Waited 30.0 ms with a worker that gave no result.");
    let late = Explanation { late_rows: 2, ..explanation(waited(&[], 0)) }.text(&answer(Vec::new()));
    assert_eq!(late, "Did not wait; 2 rows could not meet the objective of 50.0 ms and went behind others.");
}

#[test]
fn a_batch_that_was_lost_is_told_before_the_one_that_was_not() {
    let mut explanation = explanation(waited(&[], 22_500));
    explanation.batches.push(Ran { worker: "local-1".into(), expected: None, taken: micros(30_000) });
    let lost = BatchUse { compute_time: Duration::ZERO, ..batch(1, 1, CloseReason::Drained) };
    let again = BatchUse { attempt: 2, ..batch(1, 1, CloseReason::Drained) };
    let expected = "Waited 22.5 ms with a worker that gave no result. Was with local-0 for 22.5 ms, which did \
                    not finish it. Ran without rows of other calls on local-1 for 21.0 ms, as attempt 2, closed because \
                    it had all that was queued.";
    assert_eq!(explanation.text(&answer(vec![lost, again])), expected);
}

#[test]
fn of_many_batches_three_are_told() {
    let ran = explanation(waited(&[], 0)).batches;
    let batches = ran.iter().cycle().take(5).cloned().collect();
    let text = Explanation { batches, ..explanation(waited(&[], 0)) };
    let text = text.text(&answer(vec![batch(1, 1, CloseReason::Drained); 5]));
    assert_eq!(text.matches("Ran without rows of other calls on local-0").count(), 3);
    assert!(text.ends_with("closed because it had all that was queued. 2 batches more ran as well."), "{text}");
}

#[test]
fn every_reason_is_ascii_and_so_is_whatever_a_worker_is_called() {
    for close in CloseReason::ALL {
        let mut explanation = explanation(waited(&WaitCause::ALL.map(|cause| (cause, 1_000)), 1_000));
        explanation.batches[0].worker = "größe\n".into();
        let text = explanation.text(&answer(vec![BatchUse { attempt: 2, ..batch(1, 1, close) }]));
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
        assert!(text.contains(" on gr??e? for 21.0 ms ") && text.contains(", as attempt 2, closed because "), "{text}");
    }
}

fn refusal() -> Refusal {
    Refusal {
        model: "minilm".into(),
        reason: "deadline_unmeetable",
        on_arrival: true,
        waited: None,
        deadline_in: Some(micros(20_000)),
        found: Some(Found {
            queued: 812,
            workers: 2,
            are_busy: true,
            free_in: Some(micros(31_000)),
            alone: Some(micros(4_000)),
            because: WaitCause::WorkersBusy,
        }),
    }
}

#[test]
fn a_refusal_says_what_stood_before_the_call() {
    let full = refusal().found.unwrap();
    let expected = "Refused on arrival: 812 rows are queued for minilm, all 2 workers that hold it are busy for about \
                    31.0 ms at least, one such row takes about 4.0 ms by itself, and the deadline was 20.0 ms away.";
    assert_eq!(refusal().text(), expected);
    let none = Found { queued: 0, workers: 0, free_in: None, alone: None, because: WaitCause::Loading, ..full };
    let text = Refusal { deadline_in: None, found: Some(none), ..refusal() }.text();
    let expected = "Refused on arrival: nothing is queued for minilm, no worker holds it yet, one is loading it.";
    assert_eq!(text, expected);
}

#[test]
fn a_call_that_ended_in_the_queue_says_what_it_had_waited_for() {
    let found = Found { queued: 1, workers: 1, free_in: None, alone: None, ..refusal().found.unwrap() };
    let waited = Some(waited(&[(WaitCause::WorkersBusy, 500_000)], 0));
    let refusal = Refusal { on_arrival: false, waited, found: Some(found), ..refusal() };
    let expected = "Ended after it had waited 500 ms for busy workers. 1 row is queued for minilm, its worker is busy";
    assert_eq!(refusal.text(), format!("{expected}, and the deadline was 20.0 ms away."));
    // The deadline it is.
    let ended = Refusal { deadline_in: Some(Duration::ZERO), ..refusal };
    assert_eq!(ended.text(), format!("{expected}."));
    // Its model was taken out of service.
    let gone = Refusal { waited: None, found: None, ..ended };
    assert_eq!(gone.text(), "Ended after it had been let in.");
}

#[test]
fn the_numbers_of_a_refusal_are_those_of_its_text() {
    let waited = Some(waited(&[(WaitCause::WorkersBusy, 500_000)], 7));
    let numbers = Refusal { on_arrival: false, waited, ..refusal() }.numbers();
    let expected = [
        ("queued_rows", "812"),
        ("workers", "2"),
        ("waits_for", "workers_busy"),
        ("free_in_us", "31000"),
        ("alone_us", "4000"),
        ("deadline_in_us", "20000"),
        ("waited_us", "500007"),
        ("waited_workers_busy_us", "500000"),
        ("waited_failed_attempts_us", "7"),
    ];
    assert_eq!(numbers, expected.map(|(key, value)| (key, value.to_owned())));
}

fn standing() -> ModelStanding {
    ModelStanding {
        name: "m".into(),
        state: ModelState::Ready,
        objective: Duration::from_millis(50),
        workers: 1,
        cost: None,
        cost_text: String::new(),
        queued: Queued { on_time: [1, 8, 0], late: 3, apart: 0 },
        oldest_age: Some(micros(8_100)),
        next_due_in: None,
        waits_for: Some(WaitCause::FullerBatch),
        looks_again_in: Some(micros(3_200)),
        recent_batches: 120,
        recent_rows: 756,
        closes: vec![("delay", 80), ("drained", 40)],
        refusals: vec![("late", 1)],
    }
}

#[test]
fn a_model_says_what_waits_and_what_was_of_late() {
    let expected = "12 rows wait for a fuller batch, the oldest for 8.1 ms; that ends in 3.2 ms at the latest; 3 cannot \
                    meet the objective of 50.0 ms. In the last minute 120 batches of 6.3 rows on average, most closed \
                    as `delay`. 1 call got no answer, for `late`.";
    assert_eq!(standing().text(), expected);
    let late = ModelStanding { queued: Queued { late: 3, ..Queued::default() }, looks_again_in: None, ..standing() };
    let expected =
        "3 rows wait for a fuller batch, the oldest for 8.1 ms; none of them can meet the objective of 50.0 ms.";
    assert!(late.text().starts_with(expected), "{}", late.text());
    let none = Queued::default();
    let idle = ModelStanding {
        queued: none,
        oldest_age: None,
        waits_for: None,
        recent_batches: 0,
        refusals: Vec::new(),
        ..standing()
    };
    assert_eq!(idle.text(), "Nothing waits.");
    let failed = ModelStanding { workers: 0, state: ModelState::Failed("no file".into()), ..idle };
    assert_eq!(failed.text(), "Nothing waits, and no worker holds it. It cannot be served: no file.");
}

fn worker(running: Vec<Running>) -> WorkerStanding {
    WorkerStanding {
        name: "local-0".into(),
        device: "cpu".into(),
        credits: 1,
        free_in: Some(Duration::ZERO),
        suspect_for: None,
        ready: vec!["m".into()],
        loading: Vec::new(),
        running,
    }
}

fn running() -> Running {
    Running {
        model: "m".into(),
        rows: 16,
        tokens: 160,
        attempt: 1,
        sent_ago: micros(3_500),
        running_for: Some(micros(3_100)),
        expected: Some(micros(9_000)),
        is_probe: false,
        is_hedge: false,
        is_apart: false,
    }
}

#[test]
fn a_worker_says_what_it_runs() {
    assert_eq!(worker(Vec::new()).text(), "Has nothing to do.");
    let text = worker(vec![running(), running()]).text();
    assert_eq!(text, "Has run 16 rows of m for 3.1 ms, 9.0 ms expected; 1 batch behind it.");
    let suspect = |batches| WorkerStanding { suspect_for: Some(micros(250_000)), ..worker(batches) }.text();
    let busy = suspect(vec![running()]);
    assert!(busy.ends_with("since a batch of it was slow; it is tried again when that has ended."), "{busy}");
    let idle = suspect(Vec::new());
    assert!(idle.ends_with("since a batch of it was slow; it is tried again in 250 ms."), "{idle}");
    let loading = WorkerStanding { ready: Vec::new(), loading: vec!["m".into(), "n".into()], ..worker(Vec::new()) };
    assert_eq!(loading.text(), "Is loading m, n.");
    let probe = worker(vec![Running { is_probe: true, expected: None, ..running() }]).text();
    assert_eq!(probe, "Has run 16 rows of m for 3.1 ms, to find out what batches cost.");
}

#[test]
fn a_waiting_call_says_what_for_and_where_it_stands() {
    let call = CallStanding {
        model: "m".into(),
        tenant: "t".into(),
        class: shoal_scheduler::Class::Bulk,
        trace_id: String::new(),
        waited: waited(&[(WaitCause::Loading, 4_000), (WaitCause::WorkersBusy, 8_000)], 0),
        position: 3,
        is_late: false,
        rows: 1,
        open_rows: 1,
        waits_for: WaitCause::WorkersBusy,
        deadline_in: Some(micros(20_000)),
    };
    let expected = "Has waited 12.0 ms: 4.0 ms for the model to be loaded, 8.0 ms for busy workers, and now waits for \
                    busy workers; 3 rows before it; its deadline is 20.0 ms away.";
    assert_eq!(call.text(), expected);
    let waited = waited(&[(WaitCause::WorkersBusy, 3_000_000)], 0);
    let late = CallStanding { waited, is_late: true, position: 0, deadline_in: None, ..call };
    let expected = "Has waited 3.0 s for busy workers; it cannot meet the objective and stands behind those that can; \
                    it is next.";
    assert_eq!(late.text(), expected);
}

#[test]
fn who_asks_again_has_a_place_of_their_own() {
    let asked = Asked::yes();
    asked.refuse(refusal);
    assert_eq!(asked.refusal(), Some(&refusal()));
    let again = asked.anew();
    assert!(again.is_asked() && again.refusal().is_none());
    assert!(!Asked::default().anew().is_asked());
    Asked::default().refuse(|| unreachable!("nobody asked"));
}
