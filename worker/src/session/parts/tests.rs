use super::*;
use crate::batch::{BatchError, DataType, Item, ItemError, ItemOptions, PageIn, ServerId};

/// A part of rows with so many tokens each, whose ids are counted from `first` on.
fn part(server: u32, first: i32, rows: &[usize]) -> HostBatch {
    let mut next = first;
    let mut row = |tokens: usize| -> Vec<[u8; 4]> {
        (0..tokens)
            .map(|_| {
                next += 1;
                (next - 1).to_le_bytes()
            })
            .collect()
    };
    let column = Column::of_integers(rows.iter().map(|tokens| row(*tokens)));
    let items = vec![Item::default(); rows.len()];
    let key = BatchKey { server: ServerId(server), epoch: u64::from(server), batch: 7, attempt: 1 };
    HostBatch { key, ..HostBatch::unsent("m".into(), vec![column], items) }
}

fn key(number: u64) -> BatchKey {
    BatchKey { server: ServerId::NONE, epoch: 1, batch: number, attempt: 1 }
}

fn finished(outcome: Result<Vec<ItemResult>, BatchError>) -> Finished {
    let (waited, compute) = (Duration::from_millis(1), Duration::from_millis(5));
    Finished { key: key(1), waited, compute, page_in: None, rows: 5, tokens: 9, cancelled: 0, outcome }
}

fn budget(rows: u32, tokens: u32, bytes: u64) -> Budget {
    Budget { rows, tokens, bytes }
}

#[test]
fn rows_follow_each_other_as_they_came_part_by_part() {
    let now = Instant::now();
    let (whole, pieces) = joined(key(1), now, vec![part(1, 0, &[2, 0]), part(2, 10, &[3]), part(3, 20, &[1])]).unwrap();
    let ids = |row: usize| {
        let bytes = whole.columns[0].row(row);
        bytes.as_chunks::<4>().0.iter().map(|id| i32::from_le_bytes(*id)).collect::<Vec<_>>()
    };
    assert_eq!((0..4).map(ids).collect::<Vec<_>>(), [vec![0, 1], vec![], vec![10, 11, 12], vec![20]]);
    assert_eq!(whole.columns[0].row_splits, [0, 2, 2, 5, 6]);
    assert_eq!((whole.items.len(), whole.key), (4, key(1)));
    assert_eq!(pieces.iter().map(|piece| (piece.first, piece.rows)).collect::<Vec<_>>(), [(0, 2), (2, 1), (3, 1)]);
}

#[test]
fn a_part_alone_is_not_copied() {
    let alone = part(1, 0, &[2]);
    let bytes = alone.columns[0].data.as_ptr();
    let (whole, pieces) = joined(key(1), Instant::now(), vec![alone]).unwrap();
    assert_eq!(whole.columns[0].data.as_ptr(), bytes);
    assert_eq!(pieces.len(), 1);
    assert!(joined(key(1), Instant::now(), Vec::new()).is_none());
}

#[test]
fn splits_count_elements_of_any_width() {
    let column = |data: &'static [u8], splits: &[u32]| Column {
        data_type: DataType::I64,
        row_splits: splits.to_vec(),
        data: data.into(),
    };
    let of = |column| HostBatch::unsent("m".into(), vec![column], vec![Item::default()]);
    let parts = vec![of(column(&[1; 16], &[0, 2])), of(column(&[2; 8], &[0, 1]))];
    let (whole, _) = joined(key(1), Instant::now(), parts).unwrap();
    assert_eq!(whole.columns[0].row_splits, [0, 2, 3]);
    assert_eq!((&whole.columns[0].row(0)[..], &whole.columns[0].row(1)[..]), (&[1; 16][..], &[2; 8][..]));
}

#[test]
fn targets_that_only_one_part_has_stay_with_its_rows() {
    let mut with = part(2, 0, &[1]);
    with.items[0].options = ItemOptions { targets: [4, 5].into(), ..ItemOptions::default() };
    let (whole, _) = joined(key(1), Instant::now(), vec![part(1, 0, &[1, 1]), with]).unwrap();
    let targets: Vec<&[u32]> = whole.items.iter().map(|item| &item.options.targets[..]).collect();
    assert_eq!(targets, [&[][..], &[], &[4, 5]]);
}

#[test]
fn a_cancel_of_one_part_is_seen_in_the_whole_and_in_no_other_part() {
    let parts = vec![part(1, 0, &[1, 1]), part(2, 0, &[1, 1]), part(3, 0, &[1])];
    let flags: Vec<_> = parts.iter().map(|part| part.cancelled.clone()).collect();
    let (whole, _) = joined(key(1), Instant::now(), parts).unwrap();
    flags[1].set(1);
    flags[2].set_all();
    assert_eq!(
        (0..6).map(|item| whole.cancelled.is_set(item)).collect::<Vec<_>>(),
        [false, false, false, true, true, false]
    );
    assert!(!flags[0].is_set(0) && !flags[0].is_set(1));
}

#[test]
fn what_the_device_cannot_take_at_once_runs_apart() {
    let groups = |rows: &[&[usize]], budget: Budget| {
        let parts = (1u32..).zip(rows).map(|(server, rows)| part(server, 0, rows)).collect();
        let servers = |group: Vec<HostBatch>| group.iter().map(|part| part.key.server.0).collect::<Vec<_>>();
        grouped(parts, budget).into_iter().map(servers).collect::<Vec<_>>()
    };
    let parts: [&[usize]; 3] = [&[2, 2], &[5], &[1]];
    assert_eq!(groups(&parts, budget(9, 99, 999)), [vec![1, 2, 3]]);
    assert_eq!(groups(&parts, budget(3, 99, 999)), [vec![1, 2], vec![3]]);
    assert_eq!(groups(&parts, budget(9, 6, 999)), [vec![1, 3], vec![2]]);
    assert_eq!(groups(&parts, budget(9, 99, 24)), [vec![1, 3], vec![2]]);
    assert_eq!(groups(&parts, budget(1, 1, 1)), [vec![1], vec![2], vec![3]], "one by itself is the server's to fit");
}

#[test]
fn targets_count_against_the_bytes() {
    let mut with = part(2, 0, &[1]);
    with.items[0].options = ItemOptions { targets: [4, 5].into(), ..ItemOptions::default() };
    let groups = grouped(vec![part(1, 0, &[1]), with], budget(9, 99, 15));
    assert_eq!(groups.len(), 2, "4 bytes and 12");
}

#[test]
fn each_part_gets_its_own_results_under_its_own_numbers() {
    let launched = Instant::now();
    let (_, pieces) =
        joined(key(1), launched, vec![part(1, 0, &[1, 1]), part(2, 0, &[1, 1]), part(3, 0, &[1])]).unwrap();
    let result = |index, outcome| ItemResult { index, outcome };
    // The second was cancelled, and says nothing.
    let results = vec![
        result(0, Ok(Vec::new())),
        result(2, Err(ItemError::Deadline)),
        result(3, Ok(Vec::new())),
        result(4, Err(ItemError::Input("no".into()))),
    ];
    let page_in = PageIn { taken: Duration::from_millis(3), absent: Vec::new() };
    let whole = Finished { page_in: Some(page_in.clone()), ..finished(Ok(results)) };
    let parts = split(whole, launched, &pieces);
    let seen: Vec<_> = parts
        .into_iter()
        .map(|part| {
            assert_eq!((part.compute, part.page_in), (Duration::from_millis(5), Some(page_in.clone())));
            (part.key.server.0, part.outcome.unwrap())
        })
        .collect();
    let expected = vec![
        (1, vec![result(0, Ok(Vec::new()))]),
        (2, vec![result(0, Err(ItemError::Deadline)), result(1, Ok(Vec::new()))]),
        (3, vec![result(0, Err(ItemError::Input("no".into())))]),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_failure_is_everybodys() {
    let launched = Instant::now();
    let (_, pieces) = joined(key(1), launched, vec![part(1, 0, &[1]), part(2, 0, &[1])]).unwrap();
    let error = BatchError::Item("something in it".into());
    let parts = split(finished(Err(error.clone())), launched, &pieces);
    assert!(parts.iter().all(|part| part.outcome == Err(error.clone())));
    assert_eq!(parts.iter().map(|part| part.key.server.0).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_part_waited_from_when_it_came() {
    let came = Instant::now();
    let launched = came + Duration::from_millis(4);
    let early = HostBatch { arrived: came, ..part(1, 0, &[1]) };
    let late = HostBatch { arrived: launched, ..part(2, 0, &[1]) };
    let (_, pieces) = joined(key(1), launched, vec![early, late]).unwrap();
    let parts = split(finished(Ok(Vec::new())), launched, &pieces);
    let millis = Duration::from_millis;
    assert_eq!(parts.iter().map(|part| part.waited).collect::<Vec<_>>(), [millis(5), millis(1)]);
}
