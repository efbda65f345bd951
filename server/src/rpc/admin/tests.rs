//! The service in front of a real driver whose only worker never takes a batch.

use shoal_proto::v1::admin_server::Admin as _;
use shoal_proto::v1::{ExplainRequest, ExplainResponse, WaitReason};
use tonic::{Code, Request};

use super::AdminService;
use crate::access::Scope;
use crate::call::{Call, Caller, Row, RowOptions, Trace};
use crate::explain::Asked;
use crate::frontend::testing::Bench;
use crate::traces::TraceParent;

fn admin(bench: &Bench) -> AdminService {
    AdminService::new(bench.driver.clone(), bench.frontend.registry.clone(), bench.draining.clone())
}

async fn explain(bench: &Bench, model: &str, calls_max: u32) -> ExplainResponse {
    let request = Request::new(ExplainRequest { model: model.into(), calls_max });
    admin(bench).explain(request).await.expect("an explanation").into_inner()
}

/// Leaves so many calls of two rows each waiting.
async fn wait_with(bench: &Bench, calls: i64) -> Vec<tokio::task::JoinHandle<()>> {
    let mut waiting = Vec::new();
    for number in 0..calls {
        let trace = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333{number}-01");
        let caller = Caller {
            tenant: "search".into(),
            class: shoal_scheduler::Class::Bulk,
            deadline: None,
            trace: Trace { parent: TraceParent::parse(&trace), ..Trace::default() },
            explain: Asked::default(),
            scope: Scope::default(),
        };
        let row = Row { columns: Vec::new(), tokens: 1, truncated: false, options: RowOptions::default() };
        let call = Call { model: "e".into(), stands_in_for: None, caller, rows: vec![row.clone(), row] };
        let driver = bench.driver.clone();
        waiting.push(tokio::spawn(async move {
            let _ = driver.submit(call).await;
        }));
        // One after the other, so that their order is known.
        bench.wait_for_calls(number + 1).await;
    }
    waiting
}

#[tokio::test]
async fn says_what_waits_and_what_for() {
    let bench = Bench::new().await;
    let _waiting = wait_with(&bench, 2).await;
    let told = explain(&bench, "e", 0).await;
    let [model] = told.models.as_slice() else { panic!("one model: {told:?}") };
    assert_eq!((model.name.as_str(), model.workers, model.waits_for()), ("e", 1, WaitReason::WorkersBusy));
    let queued = model.queued.as_ref().expect("a queue");
    assert_eq!((queued.interactive, queued.standard, queued.bulk, queued.late), (0, 0, 4, 0));
    assert!(model.text.starts_with("4 rows wait for busy workers, the oldest for "), "{}", model.text);
    let [first, second] = told.calls.as_slice() else { panic!("two calls: {told:?}") };
    assert_eq!((first.position, second.position, second.rows, second.open_rows), (0, 2, 2, 2));
    assert_eq!((first.tenant.as_str(), first.class.as_str()), ("search", "bulk"));
    assert_eq!(first.trace_id, "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((first.waits_for(), &*told.workers[0].name), (WaitReason::WorkersBusy, "w"));
    assert_eq!((told.workers[0].ready.as_slice(), told.open_calls, told.draining), (&["e".to_owned()][..], 2, false));
}

#[tokio::test]
async fn tells_no_more_calls_than_are_asked_for_and_only_what_concerns_the_model() {
    let bench = Bench::new().await;
    let _waiting = wait_with(&bench, 3).await;
    assert_eq!(explain(&bench, "", 2).await.calls.len(), 2);
    assert_eq!(explain(&bench, "", u32::MAX).await.calls.len(), 3);
    let other = explain(&bench, "slow", 0).await;
    assert_eq!((other.models.len(), other.workers.len(), other.calls.len()), (1, 1, 0));
    assert_eq!(other.workers[0].loading, ["slow"]);
    assert_eq!(other.models[0].text, "Nothing waits, and no worker holds it.");
    let names: Vec<_> = explain(&bench, "", 0).await.models.into_iter().map(|model| model.name).collect();
    assert_eq!(names, ["e", "slow"]);
}

#[tokio::test]
async fn an_unknown_model_is_named_and_a_driver_that_is_gone_is_not_waited_for() {
    let bench = Bench::new().await;
    let unknown = Request::new(ExplainRequest { model: "slo".into(), calls_max: 0 });
    let error = admin(&bench).explain(unknown).await.expect_err("no such model");
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "model `slo` is not served here; did you mean `slow`?")
    );
    let (driver, inbox) = crate::driver::Handle::new();
    drop(inbox);
    let service = AdminService::new(driver, bench.frontend.registry.clone(), bench.draining.clone());
    let error = service.explain(Request::new(ExplainRequest::default())).await.expect_err("nobody answers");
    assert_eq!(error.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_driver_that_does_not_answer_is_given_up() {
    let bench = Bench::new().await;
    // Nobody reads what is put into this inbox.
    let (driver, _inbox) = crate::driver::Handle::new();
    let service = AdminService::new(driver, bench.frontend.registry.clone(), bench.draining.clone());
    tokio::time::pause();
    let error = service.explain(Request::new(ExplainRequest::default())).await.expect_err("nobody answers");
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("within 2s"), "{error}");
}
