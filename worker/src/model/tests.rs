use std::fs;

use serde_json::{Value, json};

use super::testing::Tiny;
use super::*;
use crate::plan::{Mask, Op};

fn read(tiny: &Tiny) -> Result<Model, ReadError> {
    Model::read(tiny.write().path())
}

fn problem(tiny: &Tiny) -> String {
    read(tiny).unwrap_err().to_string()
}

fn pooling(model: &Model) -> Pooling {
    let pooled = model.plan.ops.iter().find_map(|op| match op {
        Op::Pool { pooling, .. } => Some(*pooling),
        _ => None,
    });
    pooled.unwrap()
}

#[test]
fn reads_what_sentence_transformers_saves() {
    let model = read(&Tiny::read("bert-embed")).unwrap();
    assert_eq!((model.task, pooling(&model), model.normalizes), (Task::Embed, Pooling::Mean, true));
    assert_eq!((model.dims, model.tokens_max, model.vocabulary, model.types), (32, 96, 120, 0));
    assert!(model.weights.ends_with("model.safetensors"));
    assert!(model.tokenizer.unwrap().ends_with("tokenizer.json"));
}

#[test]
fn the_longest_input_is_read_under_the_names_it_had_for_other_architectures() {
    for (name, file) in [
        ("roberta-embed", "sentence_roberta_config.json"),
        ("distilbert-embed", "sentence_distilbert_config.json"),
        ("xlm-roberta-embed", "sentence_xlm-roberta_config.json"),
    ] {
        let tiny = Tiny::read(name).edit(file, |sentence| *sentence = json!({ "max_seq_length": 12 }));
        assert_eq!(read(&tiny).unwrap().tokens_max, 12, "{name}");
        // Today's name goes first.
        let both = tiny.edit("sentence_bert_config.json", |sentence| *sentence = json!({ "max_seq_length": 11 }));
        assert_eq!(read(&both).unwrap().tokens_max, 11, "{name}");
    }
}

#[test]
fn a_plain_encoder_is_pooled_by_mean_and_not_normalised() {
    let tiny = Tiny::read("bert-embed").without("modules.json").without("sentence_bert_config.json");
    for tiny in [tiny.clone(), tiny.set("architectures", Value::Null)] {
        let model = read(&tiny).unwrap();
        assert_eq!((pooling(&model), model.normalizes, model.tokens_max), (Pooling::Mean, false, 128));
    }
}

#[test]
fn a_head_is_used_unless_modules_follow_the_encoder() {
    let tiny = Tiny::read("bert-fill").edit("modules.json", |modules| {
        *modules = json!([{ "path": "", "type": "sentence_transformers.models.Transformer" }]);
    });
    assert_eq!(read(&tiny).unwrap().task, Task::FillMask);
    assert_eq!(read(&Tiny::read("bert-embed-masked-lm")).unwrap().task, Task::Embed);
}

#[test]
fn reads_every_pooling_in_both_spellings() {
    let cases = [
        (json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false }), Pooling::Cls),
        (json!({ "pooling_mode_max_tokens": true }), Pooling::Max),
        (json!({ "pooling_mode": "cls" }), Pooling::Cls),
        (json!({ "pooling_mode": "mean" }), Pooling::Mean),
        (json!({ "pooling_mode_lasttoken": true }), Pooling::Last),
        (json!({ "pooling_mode": "lasttoken" }), Pooling::Last),
    ];
    for (settings, expected) in cases {
        let tiny = Tiny::read("bert-embed").edit("1_Pooling/config.json", |pooling| *pooling = settings);
        assert_eq!(pooling(&read(&tiny).unwrap()), expected);
    }
}

#[test]
fn refuses_a_pooling_it_does_not_know() {
    let both = json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true });
    for (settings, says) in [
        (both, "cls_token with mean_tokens"),
        (json!({ "pooling_mode_weightedmean_tokens": true }), "`pooling_mode` is weightedmean_tokens"),
        (json!({}), "`pooling_mode` is not set"),
    ] {
        let error = problem(&Tiny::read("bert-embed").edit("1_Pooling/config.json", |pooling| *pooling = settings));
        assert!(error.contains("1_Pooling/config.json") && error.contains(says), "{error}");
    }
}

#[test]
fn refuses_settings_it_cannot_run_by_name() {
    let bert = [
        ("hidden_act", json!("mish"), "`hidden_act` is mish, but must be one of gelu, gelu_new"),
        ("hidden_size", json!(25), "`hidden_size` is 25, but must be a multiple of num_attention_heads, 2"),
        ("hidden_size", Value::Null, "`hidden_size` is not set, but must be from 1"),
        ("num_hidden_layers", json!(0), "`num_hidden_layers` is 0, but must be from 1"),
        ("position_embedding_type", json!("relative_key"), "`position_embedding_type` is relative_key"),
        ("layer_norm_eps", json!(-1), "`layer_norm_eps` is -1"),
        ("vocab_size", json!("many"), "`vocab_size` is many"),
        ("vocab_size", json!(1 << 30), "`vocab_size` is 1073741824, but must be from 1 to 1048576"),
        ("type_vocab_size", json!(-2), "`type_vocab_size` is -2"),
    ];
    let roberta = [
        ("pad_token_id", json!(79), "`pad_token_id` is 79, but must be from 0 to 78"),
        ("pad_token_id", json!("x"), "`pad_token_id` is x"),
    ];
    let distilbert = [
        ("dim", json!(25), "`dim` is 25, but must be a multiple of n_heads, 3"),
        ("activation", json!(7), "`activation` is 7, but must be one of gelu"),
        ("n_layers", Value::Null, "`n_layers` is not set"),
    ];
    let modernbert = [
        ("hidden_size", json!(34), "`hidden_size` is 34, but must be an even multiple of num_attention_heads"),
        ("layer_types", json!(["full_attention"]), "but must be 5 times full_attention or sliding_attention"),
        ("layer_types", json!(vec!["linear_attention"; 5]), "but must be 5 times full_attention or sliding_attention"),
        ("local_attention", json!(0), "`local_attention` is 0"),
        ("rope_parameters", json!({ "full_attention": { "rope_type": "yarn" } }), "but must be of rope_type default"),
        (
            "rope_parameters",
            json!({ "sliding_attention": { "rope_theta": -1 } }),
            "but must be of a rope_theta above 0",
        ),
        ("global_rope_theta", json!("far"), "`global_rope_theta` is far, but must be a number above 0"),
        (
            "rope_parameters",
            json!({ "rope_type": "yarn", "factor": 4 }),
            "but must be one object each for full_attention",
        ),
        ("rope_parameters", json!("yarn"), "but must be one object each for full_attention"),
        ("rope_scaling", json!({ "rope_type": "linear", "factor": 2 }), "but must be of rope_type default"),
        ("norm_bias", json!("no"), "`norm_bias` is no, but must be true or false"),
    ];
    let qwen3 = [
        (
            "num_key_value_heads",
            json!(3),
            "`num_key_value_heads` is 3, but must be a divisor of num_attention_heads, 4",
        ),
        ("head_dim", json!(15), "`head_dim` is 15, but must be even"),
        ("is_causal", json!("no"), "`is_causal` is no, but must be true or false"),
        ("rope_scaling", json!({ "type": "linear", "factor": 2 }), "but must be of rope_type default"),
        ("rope_parameters", json!({ "rope_theta": 0 }), "but must be of a rope_theta above 0"),
        ("rms_norm_eps", json!(2), "`rms_norm_eps` is 2"),
    ];
    let cases = [
        ("bert-embed", &bert[..]),
        ("roberta-embed", &roberta),
        ("distilbert-embed", &distilbert),
        ("modernbert-embed", &modernbert),
        ("qwen3-embed", &qwen3),
    ];
    for (name, cases) in cases {
        for (field, value, says) in cases {
            let error = problem(&Tiny::read(name).set(field, value.clone()));
            assert!(error.contains("config.json") && error.contains(says), "{error}");
        }
    }
}

#[test]
fn an_architecture_we_lack_is_one_error_that_names_those_we_have() {
    let t5 = Tiny::read("bert-embed").set("model_type", "t5").set("architectures", json!(["T5Model"]));
    let error = problem(&t5);
    assert!(error.contains("architecture `T5Model` (model_type `t5`) is not supported, only BertModel, "), "{error}");
    for known in ["BertForPreTraining", "RobertaForMaskedLM", "XLMRobertaModel", "DistilBertForSequenceClassification"]
    {
        assert!(error.contains(known), "{error}");
    }
    for wrong in [json!(["BertForTokenClassification"]), json!(["RobertaModel"]), json!(["BertModel", "BertModel"])] {
        let error = problem(&Tiny::read("bert-embed").set("architectures", wrong));
        assert!(error.contains("is not supported, only BertModel"), "{error}");
    }
    let error = problem(&Tiny::read("bert-embed").set("model_type", Value::Null));
    assert!(error.contains("(model_type `not set`)"), "{error}");
}

/// For each layer: its mask, and by what positions turn.
fn turns(model: &Model) -> Vec<(Mask, f32)> {
    let (mut turns, mut bases) = (Vec::new(), Vec::new());
    for op in &model.plan.ops {
        match op {
            Op::Rotate { base, .. } => bases.push(*base),
            Op::Attend { mask, .. } => turns.push((*mask, bases.pop().unwrap())),
            _ => {}
        }
    }
    turns
}

#[test]
fn modernbert_looks_near_or_far_as_old_and_new_settings_say() {
    let (far, near) = ((Mask::None, 160_000.0), (Mask::Window(8), 10_000.0));
    let tiny = Tiny::read("modernbert-embed");
    let layers = [far, near, near, far, near];
    assert_eq!(turns(&read(&tiny).unwrap()), layers);
    let old = tiny.clone().set("layer_types", Value::Null).set("rope_parameters", Value::Null);
    assert_eq!(turns(&read(&old).unwrap()), layers);
    let other = old.set("global_attn_every_n_layers", 4).set("global_rope_theta", 1e6).set("local_attention", 7);
    let (far, near) = ((Mask::None, 1e6), (Mask::Window(3), 10_000.0));
    assert_eq!(turns(&read(&other).unwrap()), [far, near, near, near, far]);
    // Left out on purpose, windows turn as the others do.
    let alike = other.edit("config.json", |config| config["local_rope_theta"] = Value::Null);
    assert_eq!(turns(&read(&alike).unwrap())[..2], [far, (Mask::Window(3), 1e6)]);
    let new = tiny.set("rope_parameters", json!({ "sliding_attention": { "rope_theta": 50, "rope_type": "default" } }));
    assert_eq!(turns(&read(&new).unwrap())[..2], [(Mask::None, 160_000.0), (Mask::Window(8), 50.0)]);
}

#[test]
fn modernbert_classifies_by_the_first_token_unless_told_otherwise() {
    let tiny = Tiny::read("modernbert-classify");
    let pooled = |tiny: &Tiny| read(tiny).map(|model| pooling(&model));
    assert_eq!(pooled(&tiny).unwrap(), Pooling::Mean);
    assert_eq!(pooled(&tiny.clone().set("classifier_pooling", Value::Null)).unwrap(), Pooling::Cls);
    let error = pooled(&tiny.set("classifier_pooling", "max")).unwrap_err().to_string();
    assert!(error.contains("`classifier_pooling` is max, but must be one of cls, mean"), "{error}");
}

#[test]
fn qwen3_turns_by_what_either_field_says_and_does_not_generate() {
    let tiny = Tiny::read("qwen3-embed");
    assert_eq!(turns(&read(&tiny).unwrap()), [(Mask::Causal, 10_000.0); 3]);
    let old = tiny.clone().set("rope_parameters", Value::Null).set("rope_theta", 1e6);
    assert_eq!(turns(&read(&old).unwrap()), [(Mask::Causal, 1e6); 3]);
    let both_ways = tiny.clone().set("is_causal", false);
    assert_eq!(turns(&read(&both_ways).unwrap())[0].0, Mask::None);
    let window = tiny.clone().set("use_sliding_window", true).set("sliding_window", 64).set("max_window_layers", 3);
    assert_eq!(turns(&read(&window).unwrap())[0].0, Mask::Causal);
    let error = problem(&window.set("max_window_layers", 2));
    assert!(error.contains("`use_sliding_window` is true, but must be false, or max_window_layers"), "{error}");
    let causal = Tiny::read("qwen3-embed-causal");
    assert_eq!(read(&causal).unwrap().task, Task::Embed);
    let error = problem(&causal.without("modules.json"));
    assert!(error.contains("config.json: generates text, which is not served"), "{error}");
}

#[test]
fn what_stands_around_a_text_is_what_the_tokenizer_puts_there() {
    let ends = |tiny: &Tiny| {
        let folder = tiny.write();
        Model::read(folder.path()).unwrap().sequence_ends()
    };
    let cases = [("bert-embed", [2, 3]), ("roberta-embed", [0, 2]), ("modernbert-embed", [2, 3])];
    for (name, expected) in cases {
        assert_eq!(ends(&Tiny::read(name)), expected.map(Some), "{name}");
    }
    let qwen3 = Tiny::read("qwen3-embed");
    assert_eq!(ends(&qwen3), [None, Some(0)]);
    let nested = qwen3.clone().edit("tokenizer.json", |tokenizer| {
        let template = tokenizer["post_processor"].take();
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false });
        tokenizer["post_processor"] = json!({ "type": "Sequence", "processors": [bytes, template] });
    });
    assert_eq!(ends(&nested), [None, Some(0)]);
    // Without one it is what the settings name.
    let bare = |tiny: Tiny| tiny.edit("tokenizer.json", |tokenizer| tokenizer["post_processor"] = Value::Null);
    assert_eq!(ends(&bare(Tiny::read("bert-embed"))), [Some(2), Some(3)]);
    assert_eq!(ends(&bare(qwen3.clone())), [None, None]);

    let added = bare(qwen3).edit("tokenizer_config.json", |settings| settings["add_eos_token"] = true.into());
    let error = problem(&added);
    assert!(error.contains("tokenizer.json: puts no token behind a text, though"), "{error}");
}

#[test]
fn roberta_counts_positions_from_behind_the_padding() {
    // 80 positions and padding 1; then 70 and 3.
    let model = read(&Tiny::read("roberta-embed")).unwrap();
    assert_eq!(model.tokens_max, 78);
    let Op::Embed { positions: Some(positions), .. } = model.plan.ops[0] else { panic!("{:?}", model.plan.ops[0]) };
    assert_eq!((model.plan[positions].skip, model.plan[positions].size()), (2, (78, 40)));
    assert_eq!(read(&Tiny::read("xlm-roberta-classify-multi")).unwrap().tokens_max, 66);
}

#[test]
fn only_bert_is_told_the_segments_of_pairs_and_only_where_it_has_some() {
    for (name, types) in [
        ("bert-classify", 2),
        ("bert-rerank", 2),
        ("bert-classify-multi", 0),
        ("bert-fill", 0),
        ("roberta-rerank", 0),
        ("distilbert-rerank", 0),
    ] {
        assert_eq!(read(&Tiny::read(name)).unwrap().types, types, "{name}");
    }
}

#[test]
fn labels_are_in_the_order_of_their_numbers() {
    let labels = |value: Value| read(&Tiny::read("bert-classify").set("id2label", value)).map(|model| model.labels);
    let many: Vec<String> = (0..12).map(|index| format!("label {index}")).collect();
    let map: serde_json::Map<_, _> =
        many.iter().enumerate().map(|(index, label)| (index.to_string(), json!(label))).collect();
    assert_eq!(labels(map.into()).unwrap(), many);
    assert_eq!(labels(Value::Null).unwrap(), ["LABEL_0", "LABEL_1"]);
    let three = Tiny::read("bert-classify").set("id2label", Value::Null).set("num_labels", 3);
    assert_eq!(read(&three).unwrap().labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
    for wrong in [json!({}), json!({ "1": "a" }), json!({ "0": "a", "2": "b" }), json!({ "0": 1 }), json!(["a"])] {
        let error = labels(wrong).unwrap_err().to_string();
        assert!(error.contains("`id2label` is") && error.contains("a name for each number from 0 up"), "{error}");
    }
}

#[test]
fn scores_are_what_the_settings_say() {
    let of = |tiny: &Tiny| read(tiny).map(|model| (model.task, model.scores));
    let classify = |problem: &str| Tiny::read("bert-classify").set("problem_type", problem);
    assert_eq!(of(&classify("single_label_classification")).unwrap(), (Task::Classify, Scores::Softmax));
    assert_eq!(of(&classify("multi_label_classification")).unwrap(), (Task::Classify, Scores::Sigmoid));
    assert_eq!(of(&classify("regression")).unwrap(), (Task::Classify, Scores::Identity));
    let unset = Tiny::read("bert-classify").set("problem_type", Value::Null);
    assert_eq!(of(&unset).unwrap(), (Task::Classify, Scores::Softmax));
    assert!(of(&classify("guess")).unwrap_err().to_string().contains("`problem_type` is guess, but must be one of"));

    let rerank = Tiny::read("bert-rerank").set("sentence_transformers", Value::Null);
    assert_eq!(of(&rerank).unwrap(), (Task::Rerank, Scores::Sigmoid));
    let saved = |name: &str| rerank.clone().set("sentence_transformers", json!({ "activation_fn": name }));
    assert_eq!(of(&saved("torch.nn.modules.linear.Identity")).unwrap(), (Task::Rerank, Scores::Identity));
    assert_eq!(of(&saved("torch.nn.modules.activation.Sigmoid")).unwrap(), (Task::Rerank, Scores::Sigmoid));
    let old = rerank.clone().set("sbert_ce_default_activation_function", "torch.nn.modules.linear.Identity");
    assert_eq!(of(&old).unwrap(), (Task::Rerank, Scores::Identity));
    let error = of(&saved("torch.nn.modules.activation.Tanh")).unwrap_err().to_string();
    assert!(error.contains("`sentence_transformers` is") && error.contains("Sigmoid or Identity"), "{error}");
}

#[test]
fn the_mask_token_is_found_wherever_it_is_spelt() {
    let tiny = Tiny::read("bert-fill");
    let mask = |tiny: &Tiny| read(tiny).map(|model| model.mask_token);
    let found = Some(("[MASK]".to_owned(), 4));
    assert_eq!(mask(&tiny).unwrap(), found);
    let token = tiny.clone().edit("tokenizer_config.json", |settings| {
        settings["mask_token"] = json!({ "content": "[MASK]", "lstrip": true });
    });
    assert_eq!(mask(&token).unwrap(), found);
    let bare = tiny.clone().without("tokenizer_config.json");
    let error = mask(&bare).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json: names no mask_token"), "{error}");
    let map = bare.edit("special_tokens_map.json", |map| *map = json!({ "mask_token": "[MASK]" }));
    assert_eq!(mask(&map).unwrap(), found);

    let other = tiny.clone().edit("tokenizer_config.json", |settings| settings["mask_token"] = "<m>".into());
    let error = mask(&other).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: the mask token `<m>` is not among the added_tokens"), "{error}");
    let far = tiny.clone().edit("tokenizer.json", |tokenizer| tokenizer["added_tokens"][4]["id"] = 160.into());
    let error = mask(&far).unwrap_err().to_string();
    assert!(error.contains("`[MASK]` is 160, and ids are below 160"), "{error}");
    assert!(mask(&tiny.without("tokenizer.json")).unwrap_err().to_string().contains("tokenizer.json"));
}

#[test]
fn refuses_modules_it_does_not_know_or_outside_the_folder() {
    let tiny = Tiny::read("bert-embed");
    let dense = tiny.clone().edit("modules.json", |modules| {
        modules[2]["type"] = "sentence_transformers.models.Dense".into();
    });
    assert!(problem(&dense).contains("modules.json") && problem(&dense).contains("Dense"), "{}", problem(&dense));
    for path in ["../elsewhere", "/etc"] {
        let error = problem(&tiny.clone().edit("modules.json", |modules| modules[1]["path"] = path.into()));
        assert!(error.contains("leads out of the model's folder"), "{error}");
    }
}

#[test]
fn says_which_file_is_not_there_or_no_json() {
    let error = problem(&Tiny::read("bert-embed").without("config.json"));
    assert!(error.contains("config.json"), "{error}");
    let error = problem(&Tiny::read("bert-embed").edit("config.json", |config| *config = json!([1])));
    assert!(error.contains("config.json: invalid type"), "{error}");
    let error = problem(&Tiny::read("bert-embed").edit("sentence_bert_config.json", |sentence| {
        *sentence = json!({ "max_seq_length": 0 });
    }));
    assert!(error.contains("`max_seq_length` is 0, but must be at least 1"), "{error}");

    let folder = Tiny::read("bert-embed").write();
    let weights = folder.path().join("model.safetensors");
    fs::remove_file(&weights).unwrap();
    assert!(Model::read(folder.path()).unwrap_err().to_string().contains("model.safetensors"));
    fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
    assert!(matches!(Model::read(folder.path()), Err(ReadError::OnlyPickle { .. })));
    fs::write(folder.path().join("model.safetensors.index.json"), "").unwrap();
    assert!(matches!(Model::read(folder.path()), Err(ReadError::Sharded { .. })));
}
