use super::*;

#[test]
fn blocks_cover_all_rows_once_large_ones_first_and_threads_have_one_of_each_size() {
    for threads in 1..=17 {
        for rows in 0..2000 {
            let mut found = Vec::new();
            bounds(&mut found, rows, threads);
            let says = format!("{rows} rows on {threads} threads: {found:?}");
            assert_eq!((found[0], found[found.len() - 1]), (0, rows), "{says}");
            assert!(found.is_sorted_by(|start, end| start < end), "{says}");
            let sizes: Vec<usize> = found.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(sizes.is_sorted_by(|size, next| size >= next), "{says}");
            assert!(sizes.iter().all(|size| *size <= BLOCK_ROWS_MAX), "{says}");
            let min = if is_small(rows, threads) { ROWS_STEP } else { BLOCK_ROWS_MIN };
            // What is left over is in the last one.
            let whole = &sizes[..sizes.len().saturating_sub(1)];
            assert!(whole.iter().all(|size| *size >= min && size.is_multiple_of(ROWS_STEP)), "{says}");
            for same in sizes.chunk_by(|size, next| size == next) {
                let is_between = same[0] > min && same[0] < BLOCK_ROWS_MAX;
                assert!(same.len() <= threads || !is_between, "{says}");
            }
        }
    }
}
