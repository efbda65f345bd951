use std::num::NonZeroUsize;

use crate::CpuIsa;

use super::*;
use crate::backend::planned::testing::{Row, follows_transformers, numbers, open, run};
use crate::model::testing::fixtures;

fn compute() -> Compute {
    Compute::new(NonZeroUsize::new(3), CpuIsa::detect()).unwrap()
}

#[test]
fn follows_transformers_for_every_architecture_and_head() {
    follows_transformers::<Candle>(Precision::F32, 1e-5, &compute());
}

#[test]
fn a_text_gives_the_same_alone_and_in_any_batch() {
    for name in ["bert-embed", "distilbert-embed"] {
        let (mut planned, _) = open::<Candle>(&fixtures().join(name), Precision::Auto, &compute()).unwrap();
        // Enough tokens for several chunks.
        let lengths = [1, 96, 3, 17, 80, 80, 9, 2, 96, 33, 5, 96, 96, 96, 31, 7];
        let row = |length: i32| Row::of(&(0..length).map(|at| (at * 7 + length) % 100).collect::<Vec<_>>());
        let rows: Vec<Row> = lengths.into_iter().map(row).collect();
        let mixed = run(&mut planned, &rows);
        for (row, mixed) in rows.iter().zip(mixed) {
            let alone = run(&mut planned, std::slice::from_ref(row)).remove(0).unwrap();
            let pairs = numbers(&alone, "embedding").into_iter().zip(numbers(&mixed.unwrap(), "embedding"));
            let worst = pairs.fold(0.0, |worst: f32, (alone, mixed)| worst.max((alone - mixed).abs()));
            assert!(worst < 2e-6, "{worst} for {} tokens", row.ids.len());
        }
    }
}

#[test]
fn a_table_that_is_multiplied_with_as_well_is_in_memory_once() {
    let (_, card) = open::<Candle>(&fixtures().join("bert-fill"), Precision::Auto, &compute()).unwrap();
    assert_eq!((card.bytes, card.dtype, card.backend), (card.parameters * 4, "f32", "candle"));
}

#[test]
fn refuses_to_compute_in_anything_but_f32() {
    for precision in [Precision::Bf16, Precision::Int8] {
        let error = open::<Candle>(&fixtures().join("bert-embed"), precision, &compute()).unwrap_err();
        assert!(error.to_string().contains("candle backend does not compute in"), "{error}");
    }
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
