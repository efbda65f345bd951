//! What becomes of batches.

use std::time::Duration;

use bytes::Bytes;
use shoal_proto::link::batch_failed::Reason;
use shoal_proto::link::{Cancel, DataType, Fragment, Run, control_response, data_response, item_error};

use shoal_worker::Budget;

use crate::server::{Answer, Server, Worker, echo_run, text_run};

/// 64-bit FNV-1a, which is what the synthetic model answers with.
fn fnv1a(text: &str) -> i64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash.cast_signed()
}

#[tokio::test]
async fn echoes_each_row_to_its_own_item() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(7).await;
    peer.load_echo().await;
    peer.run(echo_run(1, &[&[1.0, 2.0], &[], &[3.0]])).await;
    let items = peer.answer(1).await.items();
    let rows: Vec<(u32, Vec<i64>, &[u8])> = items
        .iter()
        .map(|item| {
            assert!(item.last && item.error.is_none());
            let [tensor] = &item.tensors[..] else { panic!("{item:?}") };
            assert_eq!((tensor.name.as_str(), tensor.data_type()), ("y", DataType::F32));
            (item.index, tensor.shape.clone(), &tensor.data[..])
        })
        .collect();
    let bytes: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(rows, [(0, vec![2], &bytes[..8]), (1, vec![0], &[][..]), (2, vec![1], &bytes[8..])]);
}

#[tokio::test]
async fn grants_the_slot_again_after_each_batch() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_echo().await;
    for batch in 1..=20 {
        peer.run(echo_run(batch, &[&[batch as f32]])).await;
        peer.answer(batch).await.items();
    }
}

#[tokio::test]
async fn answers_texts_with_their_hashes() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    let card = peer.load_synthetic().await;
    assert_eq!((card.backend.as_str(), card.inputs[0].name.as_str()), ("synthetic", "text"));
    peer.run(text_run(1, &["shoal", "of", "fish"])).await;
    let items = peer.answer(1).await.items();
    let hashes: Vec<i64> =
        items.iter().map(|item| i64::from_le_bytes(item.tensors[0].data[..].try_into().unwrap())).collect();
    assert_eq!(hashes, ["shoal", "of", "fish"].map(fnv1a));
}

#[tokio::test]
async fn fails_one_item_alone_and_a_broken_batch_as_a_whole() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_synthetic().await;
    peer.run(text_run(1, &["good", "!fail too odd"])).await;
    let items = peer.answer(1).await.items();
    assert!(items[0].error.is_none());
    let error = items[1].error.clone().unwrap();
    assert_eq!((error.reason(), error.detail.as_str()), (item_error::Reason::Input, "too odd"));

    peer.run(text_run(2, &["good", "!break"])).await;
    assert_eq!(peer.answer(2).await.failed().reason(), Reason::Item);
    peer.run(text_run(3, &["!oom"])).await;
    assert_eq!(peer.answer(3).await.failed().reason(), Reason::OutOfMemory);
}

#[tokio::test]
async fn serves_on_after_a_model_panicked() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_synthetic().await;
    peer.run(text_run(1, &["!panic"])).await;
    let failed = peer.answer(1).await.failed();
    assert_eq!(failed.reason(), Reason::Device);
    assert!(failed.detail.contains("told to panic"), "{failed:?}");
    peer.run(text_run(2, &["on"])).await;
    assert_eq!(peer.answer(2).await.items().len(), 1);
}

#[tokio::test]
async fn computes_no_item_whose_deadline_has_passed() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_synthetic().await;
    // It would break the batch if it ran.
    let mut run = text_run(1, &["in time", "!break", "no deadline"]);
    run.items[0].remaining_micros = Some(3_600_000_000);
    run.items[1].remaining_micros = Some(-5);
    peer.run(run).await;
    let items = peer.answer(1).await.items();
    let late: Vec<bool> = items
        .iter()
        .map(|item| item.error.as_ref().is_some_and(|error| error.reason() == item_error::Reason::Deadline))
        .collect();
    assert_eq!(late, [false, true, false]);
}

#[tokio::test]
async fn drops_cancelled_items_before_they_run_and_does_not_report_them() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_synthetic().await;
    let mut run = text_run(1, &["kept", "!break", "kept too"]);
    // The cancel comes while the batch is still on its way: its last bytes follow only after a heartbeat that the worker
    // answers after the cancel.
    let rest = run.columns[0].data.split_off(3);
    peer.run(run).await;
    peer.send(control_response::Message::Cancel(Cancel { batch: 1, items: vec![1] })).await;
    peer.barrier().await;
    peer.send_data(data_response::Message::Fragment(Fragment { data: rest })).await;
    let items = peer.answer(1).await.items();
    assert_eq!(items.iter().map(|item| item.index).collect::<Vec<_>>(), [0, 2]);
}

#[tokio::test]
async fn carries_three_mebibytes_both_ways_in_fragments() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_echo().await;
    let large: Vec<f32> = (0..(3 << 18) + 5).map(|index| index as f32).collect();
    let mut run = echo_run(1, &[&large, &[9.0]]);
    let whole = run.columns[0].data.clone();
    let mut rest = run.columns[0].data.split_off(1 << 20);
    peer.run(run).await;
    while !rest.is_empty() {
        let data = rest.split_to(rest.len().min(1 << 20));
        peer.send_data(data_response::Message::Fragment(Fragment { data })).await;
    }
    let items = peer.answer(1).await.items();
    assert_eq!(items[0].tensors[0].shape, [large.len() as i64]);
    let echoed = [&items[0].tensors[0].data[..], &items[1].tensors[0].data[..]].concat();
    assert!(echoed == whole, "{} bytes of {} came back", echoed.len(), whole.len());
}

#[tokio::test]
async fn refuses_a_bad_run_by_name_and_serves_on() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_echo().await;
    let good = || echo_run(0, &[&[1.0], &[2.0, 3.0]]);
    let mut cases: Vec<(Run, Reason, &str)> = Vec::new();
    let mut case = |change: fn(&mut Run), reason, says| {
        let mut run = good();
        change(&mut run);
        cases.push((run, reason, says));
    };
    case(|run| run.columns[0].row_splits = vec![0, 3, 1], Reason::Item, "fall from 3 at row 1");
    case(|run| run.columns[0].row_splits = vec![1, 2, 3], Reason::Item, "begin at 1");
    case(|run| run.columns[0].row_splits = vec![0, 3], Reason::Item, "2 row_splits, not 3");
    case(|run| run.columns[0].row_splits = vec![0, 1, 4], Reason::Item, "end at byte 16");
    case(|run| run.columns[0].set_data_type(DataType::I32), Reason::Item, "not F32");
    case(|run| run.columns[0].name = "z".to_owned(), Reason::Item, "column `x` of model `echo` is missing");
    case(|run| run.columns.push(run.columns[0].clone()), Reason::Item, "`x` is there twice");
    case(|run| run.items.clear(), Reason::Item, "`items` is empty");
    case(|run| run.model = "none".to_owned(), Reason::Device, "`none` is not in memory");
    case(|run| run.items = vec![Default::default(); 5000], Reason::OutOfMemory, "5000 rows");
    for (batch, (mut run, reason, says)) in (1..).zip(cases) {
        run.batch = batch;
        peer.run(run).await;
        let failed = peer.answer(batch).await.failed();
        assert_eq!(failed.reason(), reason, "{failed:?}");
        assert!(failed.detail.contains(says), "{failed:?} does not say {says}");
    }
    peer.run(echo_run(99, &[&[1.0]])).await;
    assert_eq!(peer.answer(99).await.items().len(), 1);
}

#[tokio::test]
async fn skips_a_payload_that_is_too_large_without_holding_it() {
    let mut server = Server::start();
    let mut options = server.options();
    options.budget = Some(Budget { bytes: 1000, ..Budget::default() });
    let _worker = Worker::start(options);
    let mut peer = server.peer(1).await;
    peer.load_echo().await;
    let mut run = echo_run(1, &[&[0.0; 500]]);
    let rest = run.columns[0].data.split_off(1200);
    peer.run(run).await;
    peer.send_data(data_response::Message::Fragment(Fragment { data: rest })).await;
    let failed = peer.answer(1).await.failed();
    assert_eq!(failed.reason(), Reason::OutOfMemory);
    assert!(failed.detail.contains("2000 bytes"), "{failed:?}");
    peer.run(echo_run(2, &[&[1.0]])).await;
    assert_eq!(peer.answer(2).await.items().len(), 1);
}

#[tokio::test]
async fn drops_a_batch_of_another_epoch_and_one_sent_twice() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(5).await;
    peer.load_echo().await;
    let mut stale = echo_run(1, &[&[1.0]]);
    stale.epoch = 4;
    peer.send_data(data_response::Message::Run(stale)).await;
    let mut run = echo_run(2, &[&[2.0]]);
    run.slot = peer.credit().await.slot;
    run.epoch = 5;
    peer.send_data(data_response::Message::Run(run.clone())).await;
    peer.send_data(data_response::Message::Run(run)).await;
    assert_eq!(peer.answer(2).await.items().len(), 1);
    // Neither got an answer: the next thing on the stream is the next batch's.
    peer.run(echo_run(3, &[&[3.0]])).await;
    assert_eq!(peer.answer(3).await.items()[0].tensors[0].data, Bytes::copy_from_slice(&3.0f32.to_le_bytes()));
    assert_eq!(peer.stats().await.dropped, 2);
}

#[tokio::test]
async fn says_how_long_a_batch_waited_and_computed() {
    let mut server = Server::start();
    let _worker = Worker::start(server.options());
    let mut peer = server.peer(1).await;
    peer.load_synthetic().await;
    peer.run(text_run(1, &["!sleep 30ms", "short"])).await;
    let Answer::Results { end, .. } = peer.answer(1).await else { panic!("the batch failed") };
    let compute = Duration::try_from(end.compute.unwrap()).unwrap();
    assert!(compute >= Duration::from_millis(30) && compute < Duration::from_secs(10), "{compute:?}");
    assert!(end.waited.is_some());
    assert!(cfg!(not(target_os = "linux")) || end.memory_bytes > 0);
    let stats = peer.stats().await;
    assert_eq!((stats.batches, stats.rows, stats.tokens), (1, 2, 16));
}
