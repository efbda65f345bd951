//! A row's answer is the same bits alone and in any batch, in any order, on any number of threads.

use proptest::prelude::*;

use super::{Cpu, compute, isas};
use crate::CpuIsa;
use crate::backend::Compute;
use crate::backend::cpu::net::TOKENS_TOGETHER;
use crate::backend::planned::Planned;
use crate::backend::planned::testing::{Row, open, run};
use crate::batch::{ItemError, Tensor};
use crate::card::ModelCard;
use crate::model::testing::fixtures;
use crate::source::Precision;

/// One model for each task, architecture and pooling, and one whose rows and heads fill neither words nor vectors.
const MODELS: [&str; 9] = [
    "bert-embed",
    "bert-classify",
    "bert-classify-odd",
    "roberta-rerank",
    "xlm-roberta-embed",
    "distilbert-embed",
    "distilbert-fill",
    "modernbert-embed-mean",
    "qwen3-embed-causal",
];

fn precisions(isa: CpuIsa) -> &'static [Precision] {
    match isa {
        CpuIsa::Avx512Narrow => &[Precision::F32, Precision::Bf16, Precision::Int8, Precision::Int8Mixed],
        _ => &[Precision::F32],
    }
}

/// A row of some length, different from any other, with a mask where the model fills masks.
fn row(card: &ModelCard, length: usize, seed: usize) -> Row {
    let vocabulary = card.vocabulary as usize;
    let mut ids: Vec<i32> = (0..length).map(|at| ((at * 31 + seed * 7 + length) % vocabulary) as i32).collect();
    if !card.mask_token.is_empty() {
        ids[seed % length] = card.mask_token_id.cast_signed();
    }
    let types = (card.inputs.len() > 1).then(|| (0..length).map(|at| i32::from(at > length / 2)).collect());
    Row { ids, types, ..Row::default() }
}

type Outcome = Result<Vec<Tensor>, ItemError>;

fn alone(planned: &mut Planned<Cpu>, rows: &[Row]) -> Vec<Outcome> {
    rows.iter().map(|row| run(planned, std::slice::from_ref(row)).remove(0)).collect()
}

fn check(name: &str, precision: Precision, teams: &[Compute], lengths: &[usize]) {
    let mut first: Option<Vec<Outcome>> = None;
    for compute in teams {
        let (mut planned, card) = open::<Cpu>(&fixtures().join(name), precision, compute).unwrap();
        let limit = card.tokens_max as usize;
        let rows: Vec<Row> =
            lengths.iter().enumerate().map(|(seed, length)| row(&card, (*length - 1) % limit + 1, seed)).collect();
        let apart = alone(&mut planned, &rows);
        assert!(apart.iter().all(Result::is_ok), "{name}: {apart:?}");
        let says = |what: &str| format!("{name} in {} on {} threads: {what}", precision.name(), compute.threads());
        assert_eq!(run(&mut planned, &rows), apart, "{}", says("together"));
        let backwards: Vec<Row> = rows.iter().rev().cloned().collect();
        let mut results = run(&mut planned, &backwards);
        results.reverse();
        assert_eq!(results, apart, "{}", says("in reverse"));
        assert_eq!(*first.get_or_insert_with(|| apart.clone()), apart, "{}", says("than on others"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn a_row_is_the_same_bits_in_any_batch(lengths in prop::collection::vec(1usize..140, 1..24)) {
        for isa in isas() {
            let teams = [1, 2, 5].map(|threads| compute(threads, isa));
            for precision in precisions(isa) {
                for name in MODELS {
                    check(name, *precision, &teams, &lengths);
                }
            }
        }
    }
}

/// Enough tokens for blocks of rows as well as for columns, and for a batch to run in parts, with its masks and types.
#[test]
fn a_row_is_the_same_bits_beside_thousands_of_tokens() {
    for isa in isas() {
        let teams = [1, 3].map(|threads| compute(threads, isa));
        let lengths: Vec<usize> = (0..40).map(|index| 1 + index * 37 % 96).collect();
        assert!(lengths.iter().sum::<usize>() > 3 * TOKENS_TOGETHER);
        for precision in precisions(isa) {
            for name in ["bert-embed", "bert-classify", "distilbert-fill", "modernbert-embed", "qwen3-embed"] {
                check(name, *precision, &teams, &lengths);
            }
        }
    }
}
