//! How near to sentence-transformers' float32 each type of numbers comes, on every instruction set this processor has.

use std::num::NonZeroUsize;
use std::path::Path;

use shoal_server::models::{PullSettings, Store, catalogue};
use shoal_worker::{CpuIsa, Offline};

use super::{Fixtures, cosine, home};

/// What a type of numbers must come to over all fixture texts.
struct Bounds {
    dtype: &'static str,
    isa: CpuIsa,
    /// Cosine to the reference, the least and the mean.
    least: f64,
    mean: f64,
    /// Spearman's rank correlation of the similarities of all pairs of texts.
    ranks: f64,
}

const BOUNDS: [Bounds; 6] = [
    Bounds { dtype: "f32", isa: CpuIsa::Portable, least: 0.999_999, mean: 0.999_999, ranks: 0.999_99 },
    Bounds { dtype: "f32", isa: CpuIsa::Avx2, least: 0.999_999, mean: 0.999_999, ranks: 0.999_99 },
    Bounds { dtype: "f32", isa: CpuIsa::Avx512, least: 0.999_999, mean: 0.999_999, ranks: 0.999_99 },
    Bounds { dtype: "bf16", isa: CpuIsa::Avx512Narrow, least: 0.999_5, mean: 0.999_9, ranks: 0.995 },
    Bounds { dtype: "int8", isa: CpuIsa::Avx512Narrow, least: 0.993, mean: 0.998_5, ranks: 0.99 },
    Bounds { dtype: "int8-mixed", isa: CpuIsa::Avx512Narrow, least: 0.999, mean: 0.999_5, ranks: 0.995 },
];

#[test]
fn each_type_of_numbers_is_as_exact_as_it_promises() {
    let Some(home) = home() else { return };
    let folder = Store::new(&home, PullSettings::from_env()).find(catalogue::find("minilm").expect("an entry"));
    let folder = folder.expect("the weights were pulled");
    let fixtures = Fixtures::read();
    let mut short = Vec::new();
    for bounds in BOUNDS {
        if bounds.isa > CpuIsa::detect() {
            eprintln!("skipped: {} on {}, which this processor lacks", bounds.dtype, bounds.isa);
            continue;
        }
        short.extend(shortfall(&folder, &fixtures, &bounds));
    }
    assert!(short.is_empty(), "{short:#?}");
}

/// What falls short of its bounds, if it does.
fn shortfall(folder: &Path, fixtures: &Fixtures, bounds: &Bounds) -> Option<String> {
    let Bounds { dtype, isa, .. } = bounds;
    let mut model = Offline::open(folder, dtype, Some(*isa), NonZeroUsize::new(2)).expect("a model");
    assert_eq!(model.dtype(), *dtype);
    let ids: Vec<Vec<u32>> = fixtures.texts.iter().map(|fixture| fixture.ids.clone()).collect();
    let found = model.embed(&ids).expect("embeddings");
    let cosines: Vec<f64> =
        found.iter().zip(&fixtures.vectors).map(|(found, expected)| cosine(found, expected)).collect();
    let least = cosines.iter().copied().fold(1.0, f64::min);
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let ranks = spearman(&similarities(&found), &similarities(&fixtures.vectors));
    let report = format!("{dtype} on {isa}: cosine {least:.6} at least, {mean:.6} in the mean; ranks {ranks:.6}");
    println!("{report}");
    let is_short = least < bounds.least || mean < bounds.mean || ranks < bounds.ranks;
    is_short.then_some(report)
}

/// The cosine of every pair.
fn similarities(vectors: &[Vec<f32>]) -> Vec<f64> {
    let pairs =
        vectors.iter().enumerate().flat_map(|(index, left)| vectors[..index].iter().map(move |right| (left, right)));
    pairs.map(|(left, right)| cosine(left, right)).collect()
}

/// The correlation of ranks; there are no ties among as many cosines.
fn spearman(left: &[f64], right: &[f64]) -> f64 {
    let ranks = |values: &[f64]| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
        let mut ranks = vec![0.0; values.len()];
        order.into_iter().enumerate().for_each(|(rank, index)| ranks[index] = rank as f64);
        ranks
    };
    let (left, right) = (ranks(left), ranks(right));
    let count = left.len() as f64;
    let distances: f64 = left.iter().zip(&right).map(|(left, right)| (left - right).powi(2)).sum();
    1.0 - 6.0 * distances / (count * (count * count - 1.0))
}
