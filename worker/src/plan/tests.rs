use super::*;

const HEADS: Heads = Heads { count: 2, shared: 2, width: 2 };

/// Two tokens' worth of everything: embed, gemm, attend, add-norm, pool, gemm.
fn plan() -> Plan {
    let mut plan = Builder::default();
    let words = plan.weight(&["words".to_owned()], &[10, 4], 0);
    let positions = plan.weight(&["positions".to_owned()], &[6, 4], 2);
    let norm = plan.norm("norm", 4, 1e-5);
    let x = plan.embed(words, Some(positions), None, Some(norm));
    let qkv = plan.stacked(&["q", "k", "v"].map(str::to_owned), (4, 4), Activation::Identity);
    let qkv = plan.gemm("qkv", x, qkv);
    let context = plan.attend("context", qkv, HEADS, Mask::None);
    let y = plan.add_norm("y", context, Some(x), norm);
    let pooled = plan.pool(y, Pooling::Cls);
    let dense = plan.dense("labels", (3, 4), Activation::Tanh);
    let output = plan.gemm("logits", pooled, dense);
    plan.finish(output)
}

fn problem(change: impl FnOnce(&mut Plan)) -> String {
    let mut plan = plan();
    change(&mut plan);
    plan.check().unwrap_err().to_string()
}

#[test]
fn what_the_builder_writes_is_a_plan() {
    let plan = plan();
    plan.check().unwrap();
    let names: Vec<&str> = plan.ops.iter().map(Op::name).collect();
    assert_eq!(names, ["embed", "gemm", "attend", "add-norm", "pool", "gemm"]);
    // The norm's two vectors are there once, though two ops read them; positions without the rows at the top.
    assert_eq!(plan.weights.len(), 8);
    assert_eq!(plan.parameters(), 10 * 4 + 4 * 4 + 2 * 4 + 3 * (16 + 4) + 3 * 4 + 3);
    let Op::Attend { scale, .. } = plan.ops[2] else { panic!("{:?}", plan.ops[2]) };
    assert!((scale - 1.0 / 2f32.sqrt()).abs() < 1e-7);
}

#[test]
fn refuses_reads_and_writes_out_of_order_by_name() {
    let found = problem(|plan| plan.ops.swap(1, 2));
    assert_eq!(found, "op 1 (attend): reads `qkv` before it is written");
    let found = problem(|plan| plan.ops.insert(2, plan.ops[1].clone()));
    assert_eq!(found, "op 2 (gemm): writes `qkv` again");
    let found = problem(|plan| _ = plan.ops.pop());
    assert_eq!(found, "buffer `logits` is written by no op");
    let found = problem(|plan| plan.output = plan.ops[3].output());
    assert_eq!(found, "buffer `logits` is read by no op and is not the output");
    let found = problem(|plan| plan.weights.push(plan.weights[0].clone()));
    assert_eq!(found, "weight `words` is read by no op");
}

#[test]
fn refuses_shapes_that_do_not_fit_by_op() {
    let found = problem(|plan| plan.buffers[1].width = 11);
    assert_eq!(found, "op 1 (gemm): the weight is (12, 4), not (11, 4)");
    let found = problem(|plan| plan.weights[0].tensors[0].shape = vec![10, 5]);
    assert_eq!(found, "op 0 (embed): words are (10, 5), but rows are 4 wide");
    let found = problem(|plan| plan.weights[2].tensors[0].shape = vec![5]);
    assert_eq!(found, "op 0 (embed): the gain is (1, 5), not 4 long");
    let heads = |plan: &mut Plan, count: usize, shared: usize| {
        if let Op::Attend { heads, .. } = &mut plan.ops[2] {
            *heads = Heads { count, shared, width: 2 };
        }
    };
    assert_eq!(problem(|plan| heads(plan, 3, 3)), "op 2 (attend): `qkv` is [Tokens, 12], not [Tokens, 18]");
    let found = problem(|plan| heads(plan, 4, 1));
    assert_eq!(found, "op 2 (attend): `context` is [Tokens, 4], not [Tokens, 8]");
    let found = problem(|plan| heads(plan, 4, 3));
    assert_eq!(found, "op 2 (attend): 4 heads of 2 cannot share 3 of keys and values");
    assert!(problem(|plan| heads(plan, 0, 1)).contains("0 heads of 2"));
    let found = problem(|plan| plan.buffers[4].rows = Rows::Tokens);
    assert_eq!(found, "op 4 (pool): `pooled` is [Tokens, 4], not [Sequences, 4]");
}

#[test]
fn costs_are_those_counted_by_hand() {
    let plan = plan();
    let sizes = Sizes { tokens: 5, sequences: 2, marks: 0, squares: 2 * 2 + 3 * 3 };
    let flop: Vec<u64> = plan.ops.iter().map(|op| plan.op_cost(op, &sizes).flop).collect();
    assert_eq!(flop, [0, 2 * 5 * 12 * 4, 4 * 13 * 4, 0, 0, 2 * 2 * 3 * 4]);
    assert_eq!(plan.cost(&sizes).flop, flop.iter().sum::<u64>());
    // 48 numbers and 12 of bias; 5 rows of 4 in and of 12 out.
    let gemm = plan.op_cost(&plan.ops[1], &sizes);
    assert_eq!((gemm.weights, gemm.values), (60, 5 * 4 + 5 * 12));
}

#[test]
fn a_buffer_lives_from_its_write_to_its_last_read() {
    let plan = plan();
    assert_eq!(plan.lives(), [0..=3, 1..=2, 2..=3, 3..=4, 4..=5, 5..=6]);
    // While attention runs: embeddings, queries with keys and values, and context.
    assert_eq!(plan.peak(&Sizes::uniform(1, 10)), (10 * (4 + 12 + 4), 2));
}

#[test]
fn a_table_shows_shapes_weights_and_costs() {
    let text = plan().table(10).to_string();
    let lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).take(14).collect();
    let expected = [
        "op reads writes weights bytes FLOP/token B/token",
        "embed words embeddings [T, 4] 10x4 192 16",
        "positions 4x4 64",
        "gemm embeddings qkv [T, 12] 12x4 240 96 48",
        "attend qkv context [T, 4] 160 16",
        "add-norm context + embeddings y [T, 4] 32 16",
        "pool y pooled [N, 4] 1.60",
        "gemm tanh pooled logits [N, 3] 3x4 60 2.40 1.20",
        "",
        "weights 139 numbers, 556 B",
        "compute 258 FLOP per token, 2.58 kFLOP per sequence",
        "buffers 98.8 B per token, 988 B per sequence",
        "arena 80 B per token, 800 B per sequence, at `context`",
        "",
    ];
    assert_eq!(lines, expected, "{text}");
}

#[test]
fn layers_that_are_alike_are_shown_once() {
    let table = |inner: [usize; 3]| {
        let mut plan = Builder::default();
        let (words, positions) =
            (plan.weight(&["w".to_owned()], &[9, 4], 0), plan.weight(&["p".to_owned()], &[6, 4], 0));
        let norm = plan.norm("norm", 4, 1e-5);
        let mut x = plan.embed(words, Some(positions), None, Some(norm));
        for (index, inner) in inner.into_iter().enumerate() {
            let up = plan.dense(&format!("{index}.up"), (inner, 4), Activation::Gelu);
            let up = plan.gemm(&format!("layer {index} up"), x, up);
            let down = plan.dense(&format!("{index}.down"), (4, inner), Activation::Identity);
            x = plan.gemm(&format!("layer {index} down"), up, down);
        }
        let output = plan.pool(x, Pooling::Cls);
        let text = plan.finish(output).table(8).to_string();
        let shown = text.lines().skip(3).take_while(|line| !line.is_empty());
        let first_cells = |line: &str| {
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).take(3).collect::<Vec<_>>().join("|")
        };
        shown.map(first_cells).collect()
    };
    let alike: Vec<String> = table([8, 8, 8]);
    let expected = [
        "layers 0 to 2, each on the one before",
        "gemm gelu|embeddings|up [T, 8]",
        "gemm|up|down [T, 4]",
        "head",
        "pool|layer 2 down|pooled [N, 4]",
    ];
    assert_eq!(alike, expected);
    let unlike: Vec<String> = table([8, 8, 16]);
    assert_eq!(unlike[0], "layers 0 to 1, each on the one before");
    assert_eq!(unlike[3..5], ["layer 2", "gemm gelu|layer 1 down|up [T, 16]"]);
}

#[test]
fn heads_that_share_keys_stand_behind_all_queries() {
    let heads = Heads { count: 6, shared: 2, width: 10 };
    assert_eq!((heads.queries(), heads.keys(), heads.row()), (60, 20, 100));
    assert_eq!([0, 2, 3, 5].map(|head| heads.columns(head)), [[0, 60, 80], [20, 60, 80], [30, 70, 90], [50, 70, 90]]);
}

#[test]
fn masks_let_tokens_see_what_is_near_or_before() {
    assert_eq!([0, 4].map(|place| Mask::None.seen(place, 5)), [0..5, 0..5]);
    assert_eq!([0, 2, 4].map(|place| Mask::Causal.seen(place, 5)), [0..1, 0..3, 0..5]);
    assert_eq!([0, 2, 4].map(|place| Mask::Window(1).seen(place, 5)), [0..2, 1..4, 3..5]);
    assert_eq!(Mask::Window(usize::MAX).seen(3, 5), 0..5);
    let sizes = Sizes { tokens: 5, sequences: 2, marks: 0, squares: 2 * 2 + 3 * 3 };
    let mut plan = plan();
    let cost = |plan: &Plan| plan.op_cost(&plan.ops[2], &sizes).flop;
    let full = cost(&plan);
    let Op::Attend { mask, .. } = &mut plan.ops[2] else { unreachable!() };
    *mask = Mask::Causal;
    assert_eq!((full, cost(&plan)), (4 * 13 * 4, 4 * (3 + 6) * 4));
}

/// One layer of the other sort: no table of positions, norms before, heads that share keys, a gate.
#[test]
fn a_plan_may_rotate_gate_and_add_onto_what_there_was() {
    let mut plan = Builder::default();
    let words = plan.weight(&["words".to_owned()], &[10, 8], 0);
    let x = plan.embed(words, None, None, None);
    let norm = plan.gain("norm", 8, NormKind::Rms, 1e-6);
    let y = plan.add_norm("layer 0 norm", x, None, norm);
    let heads = Heads { count: 2, shared: 1, width: 4 };
    let qkv = plan.linear(&[("q".to_owned(), 8), ("k".to_owned(), 4), ("v".to_owned(), 4)], 8, false);
    let qkv = plan.gemm("layer 0 qkv", y, qkv);
    let norms = ["q_norm", "k_norm"].map(|name| plan.gain(name, 4, NormKind::Rms, 1e-6));
    let turned = plan.rotate("layer 0 turned", qkv, heads, Some(norms), 1e4);
    let context = plan.attend("layer 0 context", turned, heads, Mask::Causal);
    let out = plan.linear(&[("out".to_owned(), 8)], 8, true);
    let y = plan.gemm_onto("layer 0 attention", context, out, Some(x));
    let up = plan.linear(&[("up".to_owned(), 12)], 8, false);
    let up = plan.gemm("layer 0 up", y, up);
    let gated = plan.gate("layer 0 gated", up, Activation::Silu);
    let down = plan.linear(&[("down".to_owned(), 8)], 6, false);
    let y = plan.gemm_onto("layer 0 output", gated, down, Some(y));
    let output = plan.pool(y, Pooling::Last);
    let plan = plan.finish(output);
    plan.check().unwrap();
    // Of tensors of different heights, each counted once.
    assert_eq!(plan.parameters(), 10 * 8 + 8 + (8 + 4 + 4) * 8 + 2 * 4 + 8 * 8 + 8 + 12 * 8 + 8 * 6);
    // The embeddings are read once more by the product that adds onto them, and so is what it makes.
    assert_eq!(plan.lives()[..2], [0..=5, 1..=2]);
    let text = plan.table(4).to_string();
    let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in ["rotate qkv turned", "attend causal turned context", "gemm context + embeddings", "gate silu up gated"]
    {
        assert!(lines.iter().any(|found| found.starts_with(line)), "{text}");
    }

    let broken = |change: fn(&mut Op)| {
        let mut plan = plan.clone();
        plan.ops.iter_mut().for_each(change);
        plan.check().unwrap_err().to_string()
    };
    let odd = broken(|op| {
        if let Op::Rotate { heads, .. } = op {
            *heads = Heads { count: 2, shared: 2, width: 3 };
        }
    });
    assert_eq!(odd, "op 3 (rotate): heads of 3 have no halves");
    let other = broken(|op| {
        if let Op::Attend { heads, .. } = op {
            *heads = Heads { count: 1, shared: 1, width: 8 };
        }
    });
    assert!(other.contains("op 4 (attend): looks with Heads { count: 1, "), "{other}");
    let mut uneven = plan.clone();
    uneven.weights.iter_mut().find(|weight| weight.tensors.len() == 3).unwrap().tensors[1].shape[1] = 7;
    let uneven = uneven.check().unwrap_err().to_string();
    assert_eq!(uneven, "tensors of weight `q.weight + k.weight + v.weight` do not fit below each other");
    let residual = broken(|op| {
        if let Op::Gemm { residual: Some(residual), .. } = op {
            *residual = BufferId(2);
        }
    });
    assert_eq!(residual, "op 5 (gemm): `layer 0 qkv` is [Tokens, 16], not [Tokens, 8]");
}
