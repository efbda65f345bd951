use super::*;
use crate::batch::ServerId;

fn column(name: &str, size: u64, data: &'static [u8]) -> Column {
    Column { name: name.to_owned(), size, data: Bytes::from_static(data), ..Column::default() }
}

fn run(columns: Vec<Column>) -> Run {
    Run { batch: 7, columns, ..Run::default() }
}

fn begin(columns: Vec<Column>) -> Result<Assembly, Violation> {
    let mut assembly = Assembly::default();
    assembly.begin(&mut run(columns), false)?;
    Ok(assembly)
}

#[test]
fn a_whole_column_is_not_copied() {
    let data = Bytes::from(vec![1, 2, 3]);
    let mut assembly = Assembly::default();
    let column = Column { name: "x".to_owned(), size: 3, data: data.clone(), ..Column::default() };
    assembly.begin(&mut run(vec![column]), false).unwrap();
    assert!(assembly.is_complete());
    assert_eq!(assembly.take()[0].as_ptr(), data.as_ptr());
}

#[test]
fn fills_columns_in_order_whatever_the_fragments_cut() {
    let mut assembly =
        begin(vec![column("a", 2, b"AB"), column("b", 5, b"12"), column("c", 0, b""), column("d", 4, b"")]).unwrap();
    for piece in ["3", "45w", "xy", "z"] {
        assert!(!assembly.is_complete());
        assembly.fragment(Bytes::from_static(piece.as_bytes())).unwrap();
    }
    assert!(assembly.is_complete());
    assert_eq!(assembly.take(), ["AB", "12345", "", "wxyz"]);
}

#[test]
fn a_column_that_comes_in_one_fragment_is_not_copied() {
    let mut assembly = begin(vec![column("a", 3, b"")]).unwrap();
    let data = Bytes::from(vec![1, 2, 3]);
    assembly.fragment(data.clone()).unwrap();
    assert_eq!(assembly.take()[0].as_ptr(), data.as_ptr());
}

#[test]
fn skips_without_keeping() {
    let mut assembly = Assembly::default();
    assembly.begin(&mut run(vec![column("a", 1 << 40, b"12")]), true).unwrap();
    assembly.fragment(Bytes::from_static(b"34")).unwrap();
    assert!(!assembly.is_complete());
    assert_eq!(assembly.left, (1 << 40) - 4);
    assert!(assembly.take().is_empty());
}

#[test]
fn refuses_what_no_reading_of_the_protocol_allows() {
    let error = begin(vec![column("a", 1, b"12")]).unwrap_err();
    assert_eq!(error, Violation::ColumnTooLong { batch: 7, column: "a".to_owned(), got: 2, size: 1 });
    let error = begin(vec![column("a", 3, b"12"), column("b", 1, b"1")]).unwrap_err();
    assert_eq!(error, Violation::ColumnAfterCut { batch: 7, column: "b".to_owned() });
    let error = begin(vec![column("a", u64::MAX, b""), column("b", 1, b"")]).unwrap_err();
    assert_eq!(error, Violation::Uncountable { batch: 7 });
    assert_eq!(Assembly::default().fragment(Bytes::from_static(b"1")), Err(Violation::StrayFragment));
    let mut assembly = begin(vec![column("a", 3, b"1")]).unwrap();
    assert_eq!(assembly.fragment(Bytes::new()), Err(Violation::EmptyFragment));
    assert_eq!(assembly.fragment(Bytes::from_static(b"234")), Err(Violation::FragmentTooLong { got: 3, left: 2 }));
    assert_eq!(assembly.begin(&mut run(vec![]), false), Err(Violation::Interrupted { batch: 7, left: 2 }));
}

fn item(index: u32, sizes: &[usize]) -> ItemResult {
    let tensor = |size: &usize| Tensor {
        name: "y".to_owned(),
        size: *size as u64,
        data: vec![index as u8; *size].into(),
        ..Tensor::default()
    };
    ItemResult { index, last: true, tensors: sizes.iter().map(tensor).collect(), ..ItemResult::default() }
}

/// Per message: the bytes in it, and whether its last tensor is cut.
fn shape(messages: &[Message]) -> Vec<(usize, bool)> {
    messages
        .iter()
        .map(|message| match message {
            Message::Results(results) => {
                let tensors: Vec<&Tensor> = results.items.iter().flat_map(|item| &item.tensors).collect();
                let (last, others) = tensors.split_last().unwrap();
                assert!(others.iter().all(|tensor| tensor.size == tensor.data.len() as u64));
                (tensors.iter().map(|tensor| tensor.data.len()).sum(), last.size > last.data.len() as u64)
            }
            Message::Fragment(fragment) => (fragment.data.len(), false),
            other => panic!("{other:?}"),
        })
        .collect()
}

const KEY: BatchKey = BatchKey { server: ServerId(1), epoch: 3, batch: 7, attempt: 2 };

#[test]
fn small_results_share_a_message() {
    let messages = pack_results(KEY, (0..100).map(|index| item(index, &[1536])).collect());
    assert_eq!(shape(&messages), [(153_600, false)]);
    let [Message::Results(results)] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((results.epoch, results.batch, results.attempt), (3, 7, 2));
}

#[test]
fn many_results_take_as_many_frames_as_they_need() {
    let messages = pack_results(KEY, (0..30).map(|index| item(index, &[100_000])).collect());
    assert_eq!(shape(&messages), [(1_000_000, false); 3]);
}

#[test]
fn a_large_tensor_is_cut_and_its_rest_follows() {
    let messages = pack_results(KEY, vec![item(0, &[10]), item(1, &[FRAME_BYTES * 2 + 5]), item(2, &[10])]);
    assert_eq!(shape(&messages), [(10, false), (FRAME_BYTES, true), (FRAME_BYTES, false), (5, false), (10, false)]);
}

#[test]
fn an_item_of_several_large_tensors_goes_out_in_parts() {
    let messages = pack_results(KEY, vec![item(0, &[FRAME_BYTES + 1, 10])]);
    assert_eq!(shape(&messages), [(FRAME_BYTES, true), (1, false), (10, false)]);
    let parts: Vec<(u32, bool)> = messages
        .iter()
        .filter_map(|message| match message {
            Message::Results(results) => Some((results.items[0].seq, results.items[0].last)),
            _ => None,
        })
        .collect();
    assert_eq!(parts, [(0, false), (1, true)]);
}

#[test]
fn an_artifact_is_cut_like_any_payload() {
    let messages = pack_artifact("ab".to_owned(), vec![1; FRAME_BYTES + 3].into());
    let [Message::Artifact(artifact), Message::Fragment(fragment)] = &messages[..] else { panic!() };
    assert_eq!((artifact.size, artifact.data.len(), fragment.data.len()), (FRAME_BYTES as u64 + 3, FRAME_BYTES, 3));
    assert_eq!(pack_artifact("ab".to_owned(), Bytes::new()).len(), 1);
}
