use super::*;

/// Two tokens' worth of everything: embed, gemm, attend, add-norm, pool, gemm.
fn plan() -> Plan {
    let mut plan = Builder::default();
    let words = plan.weight(&["words".to_owned()], &[10, 4], 0);
    let positions = plan.weight(&["positions".to_owned()], &[6, 4], 2);
    let norm = plan.norm("norm", 4, 1e-5);
    let x = plan.embed(words, positions, None, norm);
    let qkv = plan.stacked(&["q", "k", "v"].map(str::to_owned), (4, 4), Activation::Identity);
    let qkv = plan.gemm("qkv", x, qkv);
    let context = plan.attend("context", qkv, 2);
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
    let found = problem(|plan| plan.weights[0].shape = vec![10, 5]);
    assert_eq!(found, "op 0 (embed): words are (10, 5), but rows are 4 wide");
    let found = problem(|plan| plan.weights[2].shape = vec![5]);
    assert_eq!(found, "op 0 (embed): the gain is (1, 5), not 4 long");
    let heads = |plan: &mut Plan, count: usize| {
        if let Op::Attend { heads, .. } = &mut plan.ops[2] {
            *heads = count;
        }
    };
    assert_eq!(problem(|plan| heads(plan, 3)), "op 2 (attend): rows of 4 are not for 3 heads");
    assert_eq!(problem(|plan| heads(plan, 0)), "op 2 (attend): rows of 4 are not for 0 heads");
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
        let mut x = plan.embed(words, positions, None, norm);
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
