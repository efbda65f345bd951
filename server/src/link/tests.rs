//! Payloads in parts, and who may attach.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use shoal_proto::link::limits::{FRAME_BYTES, MESSAGE_BYTES_MAX, TRACESTATE_BYTES_MAX};
use shoal_proto::link::model_source::Source;
use shoal_proto::link::model_state::State;
use shoal_proto::link::{
    self as wire, Artifact, BatchEnd, Column, DataType, Device, Gpu, Item, ItemOptions, ItemResult, ModelCard,
    ModelState, PageIn, Results, Run, Task, Tensor,
};

use shoal_scheduler::{Attempt, BatchId, Class, Epoch, Slot, TurnKind};

use super::convert;
use super::frames::{Assembly, FrameError, Whole, cut};
use super::tokens::Tokens;
use crate::call::{RowOptions, Trace};
use crate::card::Card;
use crate::driver::{Batch, BatchRow, FromWorker, ModelReport};

fn column(bytes: usize, fill: u8) -> Column {
    Column { name: "x".into(), data: vec![fill; bytes].into(), ..Default::default() }
}

fn results(declared: u64, data: &[u8]) -> Results {
    let tensor = Tensor { size: declared, data: Bytes::copy_from_slice(data), ..Default::default() };
    let item = ItemResult { last: true, tensors: vec![tensor], ..Default::default() };
    Results { batch: 7, items: vec![item], ..Default::default() }
}

fn data_of(whole: Whole) -> Bytes {
    match whole {
        Whole::Results(mut results) => results.items.remove(0).tensors.remove(0).data,
        Whole::Artifact(artifact) => artifact.data,
    }
}

#[test]
fn a_synthetic_model_reaches_the_wire_unchanged() {
    let model = "base=2500us+noise=0.1+memory_rows=3".parse().expect("options");
    let source = convert::source(crate::models::Place::Synthetic(model)).source;
    let Some(Source::Synthetic(wire)) = source else { panic!("{source:?}") };
    assert_eq!(wire.base, Some(prost_types::Duration { seconds: 0, nanos: 2_500_000 }));
    assert_eq!((wire.noise, wire.memory_rows, wire.faults), (0.1, 3, false));
}

#[test]
fn what_a_row_asks_for_reaches_the_wire_unchanged() {
    let asked = RowOptions { normalize: Some(false), dimensions: 2, raw: true, top_k: 4, targets: Arc::from([5, 6]) };
    let run = convert::run(batch(vec![RowOptions::default(), asked, RowOptions::default()]));
    let expected = ItemOptions { normalize: Some(false), dimensions: 2, raw: true, top_k: 4 };
    assert_eq!(run.items[1].options, Some(expected));
    let [targets] = &run.columns[..] else { panic!("{run:?}") };
    assert_eq!((&*targets.name, targets.data_type()), ("targets", DataType::U32));
    assert_eq!((&targets.row_splits[..], &targets.data[..]), (&[0, 0, 2, 2][..], &[5, 0, 0, 0, 6, 0, 0, 0][..]));
    assert!(convert::run(batch(vec![RowOptions::default()])).columns.is_empty());
}

#[test]
fn a_full_batch_of_targets_is_no_more_than_a_message_takes() {
    let most = RowOptions { targets: vec![1 << 20; 1024].into(), ..RowOptions::default() };
    let (run, fragments) = cut(convert::run(batch(vec![most; 1024])));
    assert!(run.encoded_len() <= MESSAGE_BYTES_MAX && fragments.len() >= 3, "{} fragments", fragments.len());
}

fn batch(rows: Vec<RowOptions>) -> Batch {
    let row = |options| BatchRow { columns: Vec::new(), options, remaining: None, trace: Trace::default() };
    Batch {
        batch: BatchId(1),
        attempt: Attempt(1),
        epoch: Epoch(1),
        slot: Slot(0),
        model: "m".into(),
        card: Arc::new(Card::testing("m")),
        held: Duration::ZERO,
        rows: rows.into_iter().map(row).collect(),
    }
}

#[test]
fn a_card_keeps_labels_mask_and_instructions() {
    let card = ModelCard {
        task: Task::FillMask.into(),
        labels: vec!["no".into(), "yes".into()],
        mask_token: "<mask>".into(),
        mask_token_id: 50_264,
        instructions: "avx2".into(),
        ..Default::default()
    };
    let state = ModelState { model: "m".into(), state: State::Ready.into(), card: Some(card), ..Default::default() };
    let said = convert::model_state(state);
    let Ok(FromWorker::Model { state: ModelReport::Ready(card), .. }) = said else { panic!("{said:?}") };
    assert_eq!(card.task, crate::card::Task::FillMask);
    assert_eq!(card.labels, ["no", "yes"]);
    assert_eq!((&*card.mask_token, card.mask_token_id), ("<mask>", 50_264));
    assert_eq!(card.instructions, "avx2");
}

#[test]
fn a_worker_says_which_gpu_it_is_on_or_nothing() {
    let on = |uuid: &str| convert::gpu_of(&Device { uuid: uuid.to_owned(), ..Device::default() });
    assert_eq!(
        on("GPU-00112233-4455-6677-8899-aabbccddeeff").as_deref(),
        Some("GPU-00112233-4455-6677-8899-aabbccddeeff")
    );
    assert_eq!((on(""), on(&"x".repeat(1_000))), (None, None));
}

#[test]
fn weights_that_came_are_read_where_a_worker_tells_of_them() {
    let mut end = BatchEnd { batch: 7, attempt: 1, ..BatchEnd::default() };
    assert!(convert::page_in(&end).unwrap().is_none(), "an older worker does not");
    let taken = Some(prost_types::Duration { seconds: 0, nanos: 3_000_000 });
    end.page_in = Some(PageIn { taken, absent: Vec::new() });
    let told = convert::page_in(&end).unwrap();
    let Some(FromWorker::PagedIn { batch, taken, .. }) = told else { panic!("{told:?}") };
    assert_eq!((batch.0, taken), (7, Duration::from_millis(3)));
    let told = convert::weights(&["a".to_owned()]);
    let FromWorker::Weights { absent } = told else { panic!("{told:?}") };
    assert_eq!(*absent, ["a".into()]);
}

#[test]
fn a_run_that_fits_a_frame_is_not_cut() {
    let (run, fragments) = cut(Run { columns: vec![column(10, 1), column(20, 2)], ..Default::default() });
    assert!(fragments.is_empty());
    assert_eq!(run.columns.iter().map(|column| column.size).collect::<Vec<_>>(), [10, 20]);
}

#[test]
fn a_large_run_is_cut_in_the_order_of_its_columns() {
    let sizes = [FRAME_BYTES / 2, FRAME_BYTES, 3];
    let columns = sizes.iter().zip(1..).map(|(&size, fill)| column(size, fill)).collect();
    let (run, fragments) = cut(Run { columns, ..Default::default() });
    let inline: Vec<_> = run.columns.iter().map(|column| column.data.len()).collect();
    assert_eq!(inline[0], FRAME_BYTES / 2);
    assert!((FRAME_BYTES / 2 - 100..FRAME_BYTES / 2).contains(&inline[1]), "{inline:?}");
    assert_eq!(inline[2], 0);
    assert!(fragments.iter().all(|fragment| fragment.len() <= FRAME_BYTES));
    let mut rest: Vec<u8> = fragments.concat();
    for (column, fill) in run.columns.iter().zip(1..) {
        let missing = column.size as usize - column.data.len();
        let tail: Vec<u8> = rest.drain(..missing).collect();
        assert!(tail.iter().all(|&byte| byte == fill));
    }
    assert!(rest.is_empty());
}

#[test]
fn no_trace_makes_a_run_too_large_for_its_message() {
    let traced = |bytes| Item { traceparent: "0".repeat(55), tracestate: "s".repeat(bytes), ..Default::default() };
    for (rows, keeps) in [(1024, true), (4096, false)] {
        let items = vec![traced(TRACESTATE_BYTES_MAX); rows];
        let columns = vec![Column { row_splits: (0..=rows as u32).collect(), ..column(FRAME_BYTES, 1) }];
        let (run, fragments) = cut(Run { columns, items, ..Default::default() });
        assert!(run.encoded_len() <= FRAME_BYTES + 64, "{} bytes", run.encoded_len());
        assert!(run.encoded_len() < MESSAGE_BYTES_MAX);
        assert_eq!(run.columns[0].data.len() + fragments.concat().len(), FRAME_BYTES);
        assert!(run.items.iter().all(|item| item.tracestate.is_empty() != keeps));
    }
}

#[test]
fn a_payload_in_parts_is_put_together() {
    let mut assembly = Assembly::default();
    assert!(assembly.results(results(6, b"ab")).expect("begun").is_none());
    assert!(assembly.fragment(&Bytes::from_static(b"cd")).expect("more").is_none());
    let whole = assembly.fragment(&Bytes::from_static(b"ef")).expect("whole").expect("a message");
    assert_eq!(data_of(whole), Bytes::from_static(b"abcdef"));
    assert!(assembly.check_closed().is_ok());
}

#[test]
fn a_whole_message_needs_no_fragment() {
    let mut assembly = Assembly::default();
    let whole = assembly.results(results(2, b"ab")).expect("whole").expect("a message");
    assert_eq!(data_of(whole), Bytes::from_static(b"ab"));
    let artifact = Artifact { size: 1, data: Bytes::from_static(b"a"), ..Default::default() };
    assert!(assembly.artifact(artifact).expect("whole").is_some());
}

#[test]
fn a_sender_that_breaks_the_rules_is_named() {
    let fragment = Bytes::from_static(b"abc");
    assert_eq!(Assembly::default().fragment(&fragment).expect_err("stray"), FrameError::Stray);
    let mut open = Assembly::default();
    open.results(results(4, b"ab")).expect("begun");
    assert_eq!(open.check_closed(), Err(FrameError::Interrupted));
    assert_eq!(open.results(results(2, b"ab")).expect_err("interrupted"), FrameError::Interrupted);
    assert_eq!(open.fragment(&fragment).expect_err("overrun"), FrameError::Overrun(4));
    let huge = Assembly::default().results(results(1 << 40, b"")).expect_err("too large");
    assert_eq!(huge, FrameError::TooLarge(1 << 40));
    let mut inside = results(4, b"ab");
    inside.items.extend(results(2, b"cd").items);
    assert_eq!(Assembly::default().results(inside).expect_err("cut inside"), FrameError::CutInside);
}

#[test]
fn a_child_needs_its_own_token_and_nobody_elses() {
    let tokens = Tokens::shared("cluster");
    tokens.admit_child("local-0", "secret");
    assert!(tokens.admits("local-0", "secret"));
    assert!(!tokens.admits("local-0", "cluster"));
    assert!(!tokens.admits("local-0", "Secret"));
    assert!(tokens.admits("elsewhere", "cluster"));
    assert!(!tokens.admits("elsewhere", "cluste"));
}

#[test]
fn without_a_shared_token_only_children_get_in() {
    let tokens = Tokens::default();
    assert!(!tokens.admits("elsewhere", ""));
}

#[test]
fn a_gpus_names_are_cut_and_its_numbers_are_some() {
    let said = Gpu {
        uuid: "GPU-1".into(),
        name: "x".repeat(10_000),
        memory_bytes: Some(2),
        memory_used_bytes: Some(1),
        power_watts: Some(f64::NAN),
        temperature_celsius: Some(f64::INFINITY),
        utilization_ratio: Some(0.5),
    };
    let gpu = convert::gpu(said);
    assert_eq!((gpu.uuid.as_str(), gpu.name.len()), ("GPU-1", 96));
    assert_eq!((gpu.memory_bytes, gpu.memory_used_bytes), (Some(2), Some(1)));
    assert_eq!((gpu.power_watts, gpu.temperature_celsius, gpu.utilization_ratio), (None, None, Some(0.5)));
}

#[test]
fn a_bid_says_times_from_when_it_is_sent() {
    let now = tokio::time::Instant::now() + Duration::from_secs(10);
    let size = |rows| shoal_scheduler::Size { rows, tokens: 2 * rows, squares: 4 * rows };
    let want = shoal_scheduler::Want {
        class: Class::Interactive,
        start: shoal_scheduler::Timestamp::ZERO,
        time: Duration::from_micros(700),
        on_time: size(3),
        classes: [true, false, true],
        late: size(1),
        is_apart: false,
    };
    let said = |start| convert::bid("m", Some(crate::driver::Wanted { want, start }), now).want.expect("a want");
    assert_eq!(said(now + Duration::from_micros(250)).start_micros, 250);
    assert_eq!(said(now - Duration::from_millis(2)).start_micros, -2_000, "it is late already");
    let wanted = said(now);
    assert_eq!((wanted.class(), wanted.time_micros, wanted.is_apart), (wire::Class::Interactive, 700, false));
    assert_eq!(wanted.classes().collect::<Vec<_>>(), [wire::Class::Interactive, wire::Class::Bulk]);
    assert_eq!(wanted.on_time, Some(wire::Size { rows: 3, tokens: 6, tokens_squared: 12 }));
    assert_eq!(convert::bid("m", None, now), wire::Bid { model: "m".into(), want: None });
}

#[test]
fn a_turn_must_say_what_it_is_for() {
    use wire::turn::Kind;
    let turn = |kind: Kind, class: wire::Class| {
        let (kind, class) = (kind.into(), class.into());
        convert::turn(wire::Turn { slot: 4, model: "m".into(), rows: 8, kind, class, ..wire::Turn::default() })
    };
    let kind = |kind, class| match turn(kind, class) {
        Ok(FromWorker::Turn { slot: Slot(4), kind, .. }) => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(Kind::OnTime, wire::Class::Bulk), TurnKind::OnTime(Class::Bulk));
    assert_eq!(kind(Kind::Late, wire::Class::Unspecified), TurnKind::Late);
    assert_eq!(kind(Kind::Apart, wire::Class::Unspecified), TurnKind::Apart);
    assert!(turn(Kind::Unspecified, wire::Class::Bulk).is_err());
    assert!(turn(Kind::OnTime, wire::Class::Unspecified).is_err());
}
