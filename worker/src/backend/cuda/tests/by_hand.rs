//! Plans that are written here, of all that attention, norms and gates can be, as if there were models of them.

use super::*;
use crate::model::weights::{Checkpoint, Names};
use crate::plan::{Activation, Builder, Dense, Heads, Mask, NormKind, Plan, Pooling};

const WIDTH: usize = 64;
const INNER: usize = 96;
const VOCABULARY: usize = 100;

fn words(plan: &mut Builder) -> crate::plan::WeightId {
    plan.weight(&["embed.words".to_owned()], &[VOCABULARY, WIDTH], 0)
}

/// Layer norms without shifts, rotary positions, attention that is global in one layer and in a window in the next,
/// gated GELU. As ModernBERT is.
pub(super) fn windowed() -> Plan {
    let mut plan = Builder::default();
    let heads = Heads { count: 2, shared: 2, width: 32 };
    let gain = |plan: &mut Builder, name: &str| plan.gain(name, WIDTH, NormKind::Layer, 1e-5);
    let (words, norm) = (words(&mut plan), gain(&mut plan, "embed.norm"));
    let mut x = plan.embed(words, None, None, Some(norm));
    for (layer, mask, base) in [(0, Mask::None, 1.6e5), (1, Mask::Window(20), 1e4)] {
        let name = |what: &str| format!("layer {layer} {what}");
        // The first layer's input has had its norm.
        let norm = (layer > 0).then(|| gain(&mut plan, &name("norm")));
        let normed = norm.map_or(x, |norm| plan.add_norm(&name("normed"), x, None, norm));
        let dense = plan.linear(&name("qkv"), (heads.row(), WIDTH), false);
        let qkv = plan.gemm(&name("qkv"), normed, dense);
        let turned = plan.rotate(&name("turned"), qkv, heads, None, base);
        let context = plan.attend(&name("context"), turned, heads, mask);
        let dense = plan.linear(&name("out"), (WIDTH, WIDTH), false);
        x = plan.gemm_onto(&name("attended"), context, dense, Some(x));
        let norm = gain(&mut plan, &name("inner norm"));
        let normed = plan.add_norm(&name("inner normed"), x, None, norm);
        let dense = plan.linear(&name("up"), (2 * INNER, WIDTH), false);
        let up = plan.gemm(&name("up"), normed, dense);
        let gated = plan.gate(&name("gated"), up, Activation::Gelu);
        let dense = plan.linear(&name("down"), (WIDTH, INNER), false);
        x = plan.gemm_onto(&name("out"), gated, dense, Some(x));
    }
    let norm = gain(&mut plan, "final.norm");
    let states = plan.add_norm("states", x, None, norm);
    let (mean, first) = (plan.pool(states, Pooling::Mean), plan.pool(states, Pooling::Cls));
    // What no model here has: an activation before a residual is added, to what is handed out.
    let dense = plan.linear("head", (WIDTH, WIDTH), true);
    let output = plan.gemm_onto("head", mean, Dense { activation: Activation::Silu, ..dense }, Some(first));
    plan.finish(output)
}

/// RMS norms, also of single heads, causal attention with shared keys and values, gated SiLU. As Qwen3 is.
pub(super) fn causal() -> Plan {
    let mut plan = Builder::default();
    let heads = Heads { count: 4, shared: 2, width: 16 };
    let gain = |plan: &mut Builder, name: &str, width| plan.gain(name, width, NormKind::Rms, 1e-6);
    let words = words(&mut plan);
    let mut x = plan.embed(words, None, None, None);
    for layer in 0..2 {
        let name = |what: &str| format!("layer {layer} {what}");
        let norm = gain(&mut plan, &name("norm"), WIDTH);
        let normed = plan.add_norm(&name("normed"), x, None, norm);
        let dense = plan.linear(&name("qkv"), (heads.row(), WIDTH), false);
        let qkv = plan.gemm(&name("qkv"), normed, dense);
        let norms = ["query norm", "key norm"].map(|what| gain(&mut plan, &name(what), heads.width));
        let turned = plan.rotate(&name("turned"), qkv, heads, Some(norms), 1e6);
        let context = plan.attend(&name("context"), turned, heads, Mask::Causal);
        let dense = plan.linear(&name("out"), (WIDTH, heads.queries()), false);
        x = plan.gemm_onto(&name("attended"), context, dense, Some(x));
        let norm = gain(&mut plan, &name("inner norm"), WIDTH);
        let normed = plan.add_norm(&name("inner normed"), x, None, norm);
        let dense = plan.linear(&name("up"), (2 * INNER, WIDTH), false);
        let up = plan.gemm(&name("up"), normed, dense);
        let gated = plan.gate(&name("gated"), up, Activation::Silu);
        let dense = plan.linear(&name("down"), (WIDTH, INNER), false);
        x = plan.gemm_onto(&name("out"), gated, dense, Some(x));
    }
    let norm = gain(&mut plan, "final.norm", WIDTH);
    let states = plan.add_norm("states", x, None, norm);
    let output = plan.pool(states, Pooling::Last);
    plan.finish(output)
}

/// Queries and keys that are needed turned and not turned, and a product that goes onto its own input.
pub(super) fn forked() -> Plan {
    let mut plan = Builder::default();
    let heads = Heads { count: 2, shared: 2, width: 32 };
    let words = words(&mut plan);
    let x = plan.embed(words, None, None, None);
    let dense = plan.linear("qkv", (heads.row(), WIDTH), false);
    let qkv = plan.gemm("qkv", x, dense);
    let turned = plan.rotate("turned", qkv, heads, None, 1e4);
    let with = plan.attend("with places", turned, heads, Mask::None);
    let without = plan.attend("without places", qkv, heads, Mask::Causal);
    let dense = plan.linear("square", (WIDTH, WIDTH), false);
    let with = plan.gemm_onto("with", with, dense, Some(with));
    let without = plan.gemm_onto("without", without, dense, Some(x));
    let norm = plan.gain("norm", WIDTH, NormKind::Layer, 1e-5);
    let sum = plan.add_norm("sum", with, Some(without), norm);
    let output = plan.pool(sum, Pooling::Max);
    plan.finish(output)
}

/// Gives a model of this plan, with random weights, to `check`.
pub(super) fn with_plan(plan: Plan, check: impl FnOnce(&Model, &crate::model::weights::Bound<'_>)) {
    plan.check().unwrap();
    let mut tiny = Tiny::read("bert-embed");
    tiny.tensors = weights_of(&plan, 7);
    let folder = tiny.write();
    let weights = folder.path().join("model.safetensors");
    let model = Model { plan, names: Names::default(), ..Model::read(folder.path()).unwrap() };
    let checkpoint = Checkpoint::open(&weights).unwrap();
    check(&model, &checkpoint.bind(&model.plan, &model.names).unwrap());
}

#[test]
fn an_output_lies_where_the_input_lay_that_it_may_be_written_over() {
    for plan in [windowed(), causal()] {
        let shape = Shape { tokens: 512, sequences: 8, marks: 0 };
        let program = Program::new(&plan, shape).unwrap();
        let range = |id| program.range(id, &shape);
        let lives = plan.lives();
        let (mut over, mut apart) = (0, 0);
        for (index, op) in plan.ops.iter().enumerate() {
            let inputs = op.inputs().filter(|input| range(*input) == range(op.output()));
            let shared: Vec<_> = inputs.collect();
            assert!(shared.iter().all(|input| *lives[input.0].end() == index), "{op:?} is written over what is needed");
            match op {
                Op::Rotate { .. } => assert_eq!(shared.len(), 1, "{op:?}"),
                Op::Gemm { residual: Some(residual), activation: Activation::Identity, .. } => {
                    assert_eq!(shared, [*residual]);
                }
                Op::AddNorm { .. } if shared.is_empty() => apart += 1,
                Op::AddNorm { .. } => over += 1,
                _ => assert!(shared.is_empty(), "{op:?}"),
            }
        }
        // Only the last norm's input is not needed for the sum that goes on.
        assert!(over == 1 && apart > 1, "{over}, {apart}");
    }
}
