//! The whole question, on home folders with costs in them.

use clap::Parser as _;
use shoal_scheduler::BatchCost;

use super::*;
use crate::config::Settings;
use crate::costs::keep_below;
use crate::driver::{CostKey, KeptCost};
use crate::models::PullSettings;

const LAPTOP: &str = "cpu (a laptop), 4 threads";
const SERVER: &str = "cpu (a server), 64 threads";

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

fn config(args: &[&str]) -> Config {
    let cli = Cli::try_parse_from([&["plan"], args].concat()).expect("flags");
    Config::load(cli.settings).expect("a configuration")
}

fn key(weights: &str, device: &str, dtype: &str) -> CostKey {
    let (backend, instructions) = ("cpu".to_owned(), "avx2".to_owned());
    CostKey { weights: weights.into(), device: device.into(), dtype: dtype.into(), backend, instructions }
}

fn kept(model: &str, base_ms: u64, batches: u64) -> KeptCost {
    let cost = BatchCost { base_ns: base_ms * 1_000_000, row_ns: 1_000, token_ps: 0, token_squared_fs: 0 };
    KeptCost { model: model.into(), cost, batches }
}

fn question(rates: &[&str]) -> Question {
    Question { rates: rates.iter().map(|rate| rate.parse().expect("a rate")).collect(), ..Question::default() }
}

/// The weights of the catalogue's model.
fn minilm() -> String {
    let store = Store::new("/nowhere", PullSettings::default());
    crate::models::sha256_of(&"minilm".parse().expect("source"), &store).expect("pinned").to_string()
}

/// Answers on a home folder in which this is kept.
fn ask(args: &[&str], costs: &[(CostKey, KeptCost)], question: &Question) -> Result<Plan, PlanError> {
    let home = tempfile::tempdir().expect("folder");
    keep_below(home.path(), costs);
    plan(&config(args), &Store::new(home.path(), PullSettings::default()), question)
}

/// The base of the first model's cost in milliseconds, by device.
fn bases(plan: &Plan) -> Vec<(Option<&str>, u64)> {
    let base = |answer: &Answer| answer.models[0].known.cost.base_ns / 1_000_000;
    plan.answers.iter().map(|answer| (answer.device.as_deref(), base(answer))).collect()
}

#[test]
fn there_is_an_answer_for_each_device_or_for_those_that_are_named() {
    let costs = [
        (key(&minilm(), LAPTOP, "f32"), kept("minilm", 9, 20)),
        (key(&minilm(), SERVER, "f32"), kept("minilm", 3, 20)),
        (key("others", LAPTOP, "f32"), kept("minilm", 100, 20)),
    ];
    let asked = question(&["minilm=10"]);
    let plan = ask(&["--model", "minilm"], &costs, &asked).expect("answers");
    assert_eq!(bases(&plan), [(Some(LAPTOP), 9), (Some(SERVER), 3)]);
    let on = |on: &str| ask(&["--model", "minilm"], &costs, &Question { on: Some(on.into()), ..asked.clone() });
    assert_eq!(bases(&on("LAPtop").expect("an answer")), [(Some(LAPTOP), 9)]);
    let error = on("abacus").expect_err("none").to_string();
    assert!(error.contains("`abacus`, but on `cpu (a laptop), 4 threads`, `cpu (a server), 64 threads`"), "{error}");
}

#[test]
fn what_counts_is_learned_in_what_would_be_served() {
    let costs = [
        (key(&minilm(), LAPTOP, "bf16"), kept("minilm", 5, 20)),
        (key(&minilm(), LAPTOP, "f32"), kept("minilm", 9, 900)),
        (key(&minilm(), LAPTOP, "int8"), kept("minilm", 2, 5_000)),
    ];
    for (args, base) in [
        (&["--model", "minilm"][..], 5),
        (&["--model", "minilm,dtype=f32"], 9),
        (&["--model", "minilm,dtype=int8", "--device", "cpu"], 2),
        (&["--model", "minilm,dtype=int8", "--cpu-isa", "avx2"], 2),
    ] {
        let plan = ask(args, &costs, &question(&["minilm=10"])).expect("an answer");
        assert_eq!(bases(&plan), [(Some(LAPTOP), base)], "{args:?}");
    }
    for args in [&["--model", "minilm,dtype=int8-mixed"][..], &["--model", "minilm", "--cpu-isa", "avx512-bf16"]] {
        let error = ask(args, &costs, &question(&["minilm=10"])).expect_err("not learned").to_string();
        assert!(error.starts_with("what `minilm` costs is not known: "), "{error}");
    }
}

#[test]
fn flags_go_over_what_was_learned_and_that_over_what_a_source_states() {
    let source = "synthetic:base=7ms+per_row=0+per_token=0";
    let weights = format!(
        "synthetic:{}",
        source.trim_start_matches("synthetic:").parse::<crate::models::Synthetic>().expect("options")
    );
    let costs = [(key(&weights, LAPTOP, "f32"), kept("m", 8, 20))];
    let (model, asked) = (format!("m={source}"), question(&["m=10"]));
    let args = ["--model", &model];
    assert_eq!(bases(&ask(&args, &[], &asked).expect("stated")), [(None, 7)]);
    assert_eq!(bases(&ask(&args, &costs, &asked).expect("learned")), [(Some(LAPTOP), 8)]);
    let said = Question { costs: vec!["m=9ms,0,0".parse().expect("a cost")], ..asked };
    assert_eq!(bases(&ask(&args, &costs, &said).expect("said")), [(None, 9)]);
}

#[test]
fn a_model_whose_files_are_elsewhere_is_known_by_its_name() {
    let costs = [(key("unknown here", LAPTOP, "f32"), kept("far", 6, 20))];
    let args = ["--workers", "external", "--worker-token", "t", "--model", "far=hf:org/name"];
    let plan = ask(&args, &costs, &question(&["far=10"])).expect("an answer");
    assert_eq!(bases(&plan), [(Some(LAPTOP), 6)]);
    assert!(!plan.answers[0].is_given, "as many workers as are needed");
    assert_eq!(plan.answers[0].needed.safe, Some(plan.answers[0].workers));
}

#[test]
fn a_device_on_which_something_is_unknown_is_left_out_and_named() {
    let costs = [
        (key(&minilm(), LAPTOP, "f32"), kept("minilm", 9, 20)),
        (key(&minilm(), SERVER, "f32"), kept("minilm", 3, 20)),
        (key("far's", SERVER, "f32"), kept("far", 4, 20)),
    ];
    let args = ["--model", "minilm", "--model", "far=hf:org/name"];
    let plan = ask(&args, &costs, &question(&["minilm=10", "far=10"])).expect("an answer");
    assert_eq!(bases(&plan), [(Some(SERVER), 3)]);
    assert_eq!(plan.incomplete, BTreeMap::from([(LAPTOP.to_owned(), vec!["far".to_owned()])]));
    // Who is not asked need not be known.
    let plan = ask(&args, &costs, &question(&["minilm=10"])).expect("answers");
    assert_eq!((plan.answers.len(), &plan.unsaid[..]), (2, &["far".to_owned()][..]));
    let error = ask(&args, &costs[..2], &question(&["far=10"])).expect_err("unknown").to_string();
    assert!(error.starts_with("what `far` costs is not known on cpu (a laptop)"), "{error}");
}

#[test]
fn rows_that_were_found_to_take_nothing_are_not_believed() {
    let with_row = |row_ns| {
        let kept = kept("minilm", 9, 20);
        KeptCost { cost: BatchCost { row_ns, ..kept.cost }, ..kept }
    };
    let told = |row_ns, rate: &str| {
        let costs = [(key(&minilm(), LAPTOP, "f32"), with_row(row_ns))];
        ask(&["--model", "minilm"], &costs, &question(&[rate])).expect("an answer").answers[0].to_string()
    };
    let warning = "What a row of minilm takes was not found out";
    assert!(told(0, "minilm=10").contains(warning) && !told(1_000, "minilm=10").contains(warning));
    assert!(!told(0, "minilm=0").contains(warning), "nobody asks");
}

#[test]
fn what_no_fleet_can_do_is_said_too() {
    let asked = |rate: &str| {
        let model = ["--model", "m=synthetic:base=4ms+per_row=500us+per_token=0,slo=5ms"];
        ask(&model, &[], &question(&[rate])).expect("an answer").answers[0].to_string()
    };
    assert!(asked("m=100000000").contains("and more than 65536 for 99 % of Poisson arrivals on time.\n"));
    assert!(asked("m=0").contains("no workers are needed"));
}

#[test]
fn batches_are_as_large_as_the_model_and_a_worker_allow() {
    let rows = |args: &[&str], tokens: f64| {
        let config = config(args);
        batch_rows_max(&config, &config.models[0], tokens)
    };
    assert_eq!(rows(&["--model", "minilm"], 0.0), 1_024);
    assert_eq!(rows(&["--model", "minilm"], 128.0), 16);
    assert_eq!(rows(&["--model", "minilm", "--worker-batch-tokens", "8192"], 128.0), 64);
    assert_eq!(rows(&["--model", "minilm", "--worker-batch-tokens", "100000"], 128.0), 128, "of the model's 16,384");
    assert_eq!(rows(&["--model", "minilm"], 5_000.0), 1, "at least one");
}

#[test]
fn an_objective_that_cannot_be_kept_spoils_no_sum() {
    let model = |name: &str, slo: &str| format!("{name}=synthetic:base=4ms+per_row=500us+per_token=0,slo={slo}");
    let (a, b) = (model("a", "50ms"), model("b", "4ms"));
    let alone = ask(&["--model", &a], &[], &question(&["a=1000"])).expect("an answer");
    let both = ask(&["--model", &a, "--model", &b], &[], &question(&["a=1000", "b=5"])).expect("an answer");
    let (alone, both) = (&alone.answers[0], &both.answers[0]);
    assert_eq!((alone.needed, alone.growth), (both.needed, both.growth));
    assert_eq!(both.impossible().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(both.first.as_deref(), Some("a"));
    assert_eq!(both.models[1].alone_breaks_at, 0.0);
}

#[test]
fn where_nobody_gave_a_number_of_workers_it_is_told_for_as_many_as_are_needed() {
    let model = ["--model", "m=synthetic:base=4ms+per_row=500us+per_token=0,slo=50ms"];
    let asked = question(&["m=5000"]);
    let answer = |args: &[&str]| {
        let plan = ask(&[&model[..], args].concat(), &[], &asked).expect("an answer");
        plan.answers.into_iter().next().expect("one answer")
    };
    let needed = answer(&[]);
    assert_eq!((needed.is_given, Some(needed.workers)), (false, needed.needed.safe));
    assert!(needed.growth.fluid > 1.0, "{needed}");
    let given = answer(&["--workers", "1"]);
    assert_eq!((given.is_given, given.workers), (true, 1));
    assert!(given.to_string().contains("With 1 worker the first objective"), "{given}");
}

#[test]
fn a_file_that_is_wrong_is_told_before_a_server_is_watched() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("rates.toml");
    std::fs::write(&path, "minlm = 3").expect("written");
    // Nobody listens there.
    let from = Some(("http://127.0.0.1:1/metrics".to_owned(), Duration::ZERO));
    let question = Question { rates_file: Some(path), from, ..Question::default() };
    let error = ask(&["--model", "minilm"], &[], &question).expect_err("no such model").to_string();
    assert!(error.starts_with("--rates: "), "{error}");
}
