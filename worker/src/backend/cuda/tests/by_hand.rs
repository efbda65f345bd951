//! A plan that is written here, of what no architecture has yet.

use super::*;
use crate::model::weights::{Bound, Checkpoint, Names};
use crate::plan::{Activation, Builder, Dense, Heads, Mask, NormKind, Pooling};

const WIDTH: usize = 64;

/// Queries and keys that are needed turned and not turned, a product that goes onto its own input, and one that goes onto
/// what there was behind an activation, and is handed out.
pub(super) fn forked() -> Plan {
    let mut plan = Builder::default();
    let heads = Heads { count: 2, shared: 2, width: 32 };
    let words = plan.weight(&["embed.words".to_owned()], &[100, WIDTH], 0);
    let x = plan.embed(words, None, None, None);
    let dense =
        |name: &str, outputs: usize, plan: &mut Builder| plan.linear(&[(name.to_owned(), outputs)], WIDTH, false);
    let qkv = dense("qkv", heads.row(), &mut plan);
    let qkv = plan.gemm("qkv", x, qkv);
    let turned = plan.rotate("turned", qkv, heads, None, 1e4);
    let with = plan.attend("with places", turned, heads, Mask::None);
    let without = plan.attend("without places", qkv, heads, Mask::Causal);
    let square = dense("square", WIDTH, &mut plan);
    let with = plan.gemm_onto("with", with, square, Some(with));
    let without = plan.gemm_onto("without", without, square, Some(x));
    let norm = plan.gain("norm", WIDTH, NormKind::Layer, 1e-5);
    let sum = plan.add_norm("sum", with, Some(without), norm);
    let (mean, first) = (plan.pool(sum, Pooling::Mean), plan.pool(sum, Pooling::Cls));
    let head = dense("head", WIDTH, &mut plan);
    let output = plan.gemm_onto("head", mean, Dense { activation: Activation::Silu, ..head }, Some(first));
    plan.finish(output)
}

/// Gives a model of this plan, with random weights, to `check`.
pub(super) fn with_plan(plan: Plan, check: impl FnOnce(&Model, &Bound<'_>)) {
    plan.check().unwrap();
    let mut tiny = Tiny::read("bert-embed");
    tiny.tensors = weights_of(&plan, 7);
    let folder = tiny.write();
    let weights = folder.path().join("model.safetensors");
    let model = Model { plan, names: Names::default(), ..Model::read(folder.path()).unwrap() };
    let checkpoint = Checkpoint::open(&weights).unwrap();
    check(&model, &checkpoint.bind(&model.plan, &model.names).unwrap());
}
