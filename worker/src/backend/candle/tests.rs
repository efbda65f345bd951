use std::num::NonZeroUsize;

use super::*;
use crate::batch::{BatchKey, CancelFlags, Column, Item};
use crate::model::testing::{HIDDEN, TinyBert, VOCABULARY};

fn compute() -> Compute {
    Compute::new(NonZeroUsize::new(3)).unwrap()
}

fn open(tiny: &TinyBert) -> (Candle, ModelCard) {
    let folder = tiny.write();
    let request = PrepareRequest {
        name: "tiny".into(),
        source: ModelSource::Folder(folder.path().to_owned()),
        precision: Precision::Auto,
    };
    let (embedder, card) = Candle::prepare(&request, &compute(), &mut |_| {}).unwrap();
    let mut candle = Candle::new(compute());
    candle.install(&request.name, embedder).unwrap();
    (candle, card)
}

fn batch(rows: &[Vec<i32>], options: &[ItemOptions]) -> HostBatch {
    let mut row_splits = vec![0];
    rows.iter().for_each(|row| row_splits.push(row_splits[row_splits.len() - 1] + row.len() as u32));
    let data: Vec<u8> = rows.concat().iter().flat_map(|id| id.to_le_bytes()).collect();
    let option = |row| options.get(row).cloned().unwrap_or_default();
    HostBatch {
        key: BatchKey { epoch: 1, batch: 1, attempt: 1 },
        model: "tiny".into(),
        columns: vec![Column { data_type: DataType::I32, row_splits, data: data.into() }],
        items: (0..rows.len()).map(|row| Item { options: option(row), ..Item::default() }).collect(),
        has_tokens: true,
        cancelled: Arc::new(CancelFlags::new(rows.len())),
        arrived: Instant::now(),
    }
}

fn run(candle: &mut Candle, batch: &HostBatch) -> Vec<Result<Vec<f32>, ItemError>> {
    let live: Vec<u32> = (0..batch.items.len() as u32).collect();
    let mut ticket = candle.launch(batch, &live).unwrap();
    let mut results = candle.poll(&mut ticket).unwrap().unwrap();
    results.sort_by_key(|result| result.index);
    assert_eq!(results.iter().map(|result| result.index).collect::<Vec<_>>(), live);
    let values = |tensors: Vec<Tensor>| {
        let [tensor] = &tensors[..] else { panic!("{tensors:?}") };
        let values: Vec<f32> = tensor.data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(tensor.shape, [values.len() as i64]);
        values
    };
    results.into_iter().map(|result| result.outcome.map(values)).collect()
}

fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

fn rows(lengths: &[usize]) -> Vec<Vec<i32>> {
    let mut id = 0;
    let mut row = |length: usize| {
        (0..length)
            .map(|_| {
                id += 7;
                id % VOCABULARY as i32
            })
            .collect()
    };
    lengths.iter().map(|length| row(*length)).collect()
}

#[test]
fn a_text_gives_the_same_alone_and_in_any_batch() {
    let (mut candle, _) = open(&TinyBert::new());
    // Enough tokens for several chunks.
    let rows = rows(&[1, 48, 3, 17, 40, 40, 9, 2, 48, 33, 5, 48, 48, 48, 31, 7]);
    let mixed = run(&mut candle, &batch(&rows, &[]));
    for (row, mixed) in rows.iter().zip(mixed) {
        let alone = run(&mut candle, &batch(std::slice::from_ref(row), &[])).remove(0).unwrap();
        let cosine = cosine(&alone, &mixed.unwrap());
        assert!(cosine > 0.999_999, "{cosine} for {} tokens", row.len());
    }
}

#[test]
fn normalises_as_the_model_says_unless_asked_otherwise() {
    let norm = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>().sqrt();
    let options = [None, Some(true), Some(false)].map(|normalize| ItemOptions { normalize, ..ItemOptions::default() });
    let rows = vec![vec![1, 2, 3]; 3];
    let (mut candle, card) = open(&TinyBert::new());
    assert!(card.normalizes);
    let results: Vec<Vec<f32>> = run(&mut candle, &batch(&rows, &options)).into_iter().map(Result::unwrap).collect();
    assert!((norm(&results[0]) - 1.0).abs() < 1e-6);
    assert_eq!(results[0], results[1]);
    assert!((norm(&results[2]) - 1.0).abs() > 0.1, "{}", norm(&results[2]));
    assert!(cosine(&results[0], &results[2]) > 0.999_999);

    let mut tiny = TinyBert::new();
    tiny.modules.as_array_mut().unwrap().pop();
    let (mut candle, card) = open(&tiny);
    assert!(!card.normalizes);
    let plain = run(&mut candle, &batch(&rows[..1], &[])).remove(0).unwrap();
    assert!((norm(&plain) - norm(&results[2])).abs() < 1e-5);
}

#[test]
fn cuts_to_fewer_dimensions_before_normalising() {
    let (mut candle, _) = open(&TinyBert::new());
    let options = [
        ItemOptions { normalize: Some(false), ..ItemOptions::default() },
        ItemOptions { normalize: Some(true), dimensions: 5, ..ItemOptions::default() },
        ItemOptions { dimensions: HIDDEN as u32 + 1, ..ItemOptions::default() },
    ];
    let results = run(&mut candle, &batch(&vec![vec![4, 5, 6]; 3], &options));
    let (whole, cut) = (results[0].clone().unwrap(), results[1].clone().unwrap());
    assert_eq!(cut.len(), 5);
    assert!((cut.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
    assert!(cosine(&whole[..5], &cut) > 0.999_999);
    assert_eq!(results[2], Err(ItemError::Input("dimensions is 25, and the model has 24".to_owned())));
}

#[test]
fn fails_bad_rows_alone_and_computes_their_mates() {
    let (mut candle, _) = open(&TinyBert::new());
    let rows = vec![vec![1, 2], vec![], vec![-1], vec![3, VOCABULARY as i32], vec![1; 49], vec![1, 2]];
    let results = run(&mut candle, &batch(&rows, &[]));
    let says = |index: usize| results[index].clone().unwrap_err().to_string();
    assert_eq!(says(1), "input_ids is empty");
    assert_eq!(says(2), "input_ids holds -1, and ids are from 0 to 49");
    assert_eq!(says(3), "input_ids holds 50, and ids are from 0 to 49");
    assert_eq!(says(4), "input_ids has 49 tokens, and the model takes 48 at most");
    assert!(cosine(results[0].as_ref().unwrap(), results[5].as_ref().unwrap()) > 0.999_999);
}

#[test]
fn computes_only_the_rows_that_are_wanted() {
    let (mut candle, _) = open(&TinyBert::new());
    let mut ticket = candle.launch(&batch(&vec![vec![1, 2]; 4], &[]), &[1, 3]).unwrap();
    let results = candle.poll(&mut ticket).unwrap().unwrap();
    assert_eq!(results.iter().map(|result| result.index).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn pools_as_the_model_says() {
    let mut embeddings = Vec::new();
    for pooling in ["mean", "cls", "max"] {
        let mut tiny = TinyBert::new();
        tiny.pooling = serde_json::json!({ "pooling_mode": pooling });
        embeddings.push(run(&mut open(&tiny).0, &batch(&[vec![1, 2, 3]], &[])).remove(0).unwrap());
    }
    assert!(cosine(&embeddings[0], &embeddings[1]) < 0.999);
    assert!(cosine(&embeddings[0], &embeddings[2]) < 0.999);
}

#[test]
fn the_card_says_what_was_read() {
    let tiny = TinyBert::new();
    let (_, card) = open(&tiny);
    assert_eq!((card.architecture, card.task, card.dtype, card.backend), ("bert", Task::Embed, "f32", "candle"));
    assert_eq!((card.dims, card.tokens_max, card.vocabulary), (24, 48, 50));
    assert_eq!(card.bytes, card.parameters * 4);
    // Of "{}", and of whatever the weights file holds.
    assert_eq!(card.tokenizer_sha256, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    let folder = tiny.write();
    assert_eq!(card.weights_sha256, sha256(&folder.path().join("model.safetensors"), &mut |_| {}).unwrap());
    assert!(card.smallest_batch > std::time::Duration::ZERO);
}

#[test]
fn chunks_hold_every_sequence_once_and_stay_within_their_size() {
    for (count, length, threads) in [(1, 1, 1), (1, 4000, 4), (100, 16, 2), (16, 256, 3), (3, 600, 2)] {
        let splits: Vec<usize> = (0..=count).map(|index| index * length).collect();
        let chunks = chunks(&splits, threads);
        assert_eq!(chunks[0].start, 0);
        assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(chunks[chunks.len() - 1].end, count);
        assert!(chunks.iter().all(|chunk| chunk.len() == 1 || chunk.len() * length <= CHUNK_TOKENS_MAX));
        assert!(count * length < CHUNK_TOKENS_MIN * threads || chunks.len() >= threads.min(count), "{chunks:?}");
    }
}

#[test]
fn no_rows_make_no_chunks() {
    assert!(chunks(&[0], 2).is_empty());
}
