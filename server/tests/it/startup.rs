//! What keeps a server from starting: each is told in one line, the last on standard error, and leaves no process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Shoal, binary, shoal, wait_for};

/// Runs `shoal serve` with these arguments to its end, and returns the line that says why.
fn refusal(args: &[&str]) -> String {
    refusal_with(args, |_| {})
}

fn refusal_with(args: &[&str], change: impl FnOnce(&mut Command)) -> String {
    let home = tempfile::tempdir().expect("folder");
    let mut command = shoal(home.path());
    // Free ports where nothing is said of them.
    let ports = ["--grpc-port", "--metrics-port"].into_iter().filter(|flag| !args.contains(flag));
    command.arg("serve").args(args).args(ports.flat_map(|flag| [flag, "0"])).env("RUST_BACKTRACE", "1");
    change(&mut command);
    let output = command.output().expect("shoal runs");
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && output.status.code().is_some(), "{:?}\n{told}", output.status);
    for sign in ["panicked", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!told.contains(sign), "{told}");
    }
    // `output` returns when all that inherited standard error have ended; a worker has a pipe of its own.
    assert_no_process_in(home.path());
    let last = told.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("shoal: ") || told.starts_with("error: "), "{told}");
    if told.starts_with("error: ") { told.lines().next().unwrap_or_default().to_owned() } else { last }
}

/// Fails if a process is left that has `home` in its environment.
fn assert_no_process_in(home: &Path) {
    let home = home.to_str().expect("path").as_bytes();
    let mentions = |process: &fs::DirEntry| {
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        environment.windows(home.len()).any(|part| part == home)
    };
    wait_for("the end of every process", || {
        let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
        (processes.filter(mentions).count() == 0).then_some(())
    });
}

fn assert_tells(line: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| line.contains(part)), "{line:?} does not tell {parts:?}");
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_picks_another() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = held.local_addr().expect("address");
    let port = address.port().to_string();
    let external = ["--workers", "external", "--worker-token", "t"];
    for (flag, more) in [("--grpc-port", &[][..]), ("--metrics-port", &[]), ("--link-port", &external)] {
        let told = refusal(&[&["--model", "echo", flag, &port], more].concat());
        assert_tells(&told, &[&format!(" {address}: "), "in use", flag]);
    }
    let told = refusal(&["--model", "echo", "--address", "203.0.113.1"]);
    assert_tells(&told, &["203.0.113.1"]);
}

/// The smallest model there is, with something wrong.
struct Model {
    folder: tempfile::TempDir,
    /// The header of its weights, and how many bytes follow it.
    header: serde_json::Map<String, Value>,
    bytes: usize,
}

impl Model {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let config = json!({
            "model_type": "bert", "hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1,
            "intermediate_size": 4, "vocab_size": 3, "max_position_embeddings": 8, "type_vocab_size": 2,
            "hidden_act": "gelu", "layer_norm_eps": 1e-12
        });
        let mut shapes = vec![
            ("embeddings.word_embeddings.weight".to_owned(), vec![3, 2]),
            ("embeddings.position_embeddings.weight".into(), vec![8, 2]),
            ("embeddings.token_type_embeddings.weight".into(), vec![2, 2]),
            ("embeddings.LayerNorm.weight".into(), vec![2]),
            ("embeddings.LayerNorm.bias".into(), vec![2]),
        ];
        let layer = [
            ("attention.self.query", vec![2, 2]),
            ("attention.self.key", vec![2, 2]),
            ("attention.self.value", vec![2, 2]),
            ("attention.output.dense", vec![2, 2]),
            ("attention.output.LayerNorm", vec![2]),
            ("intermediate.dense", vec![4, 2]),
            ("output.dense", vec![2, 4]),
            ("output.LayerNorm", vec![2]),
        ];
        for (name, shape) in layer {
            shapes.push((format!("encoder.layer.0.{name}.bias"), vec![shape[0]]));
            shapes.push((format!("encoder.layer.0.{name}.weight"), shape));
        }
        let (mut header, mut bytes) = (serde_json::Map::new(), 0);
        for (name, shape) in shapes {
            let end = bytes + 4 * shape.iter().product::<usize>();
            header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [bytes, end]}));
            bytes = end;
        }
        let model = Self { folder, header, bytes };
        model.write("config.json", config.to_string());
        model.write_tokenizer(json!({"[UNK]": 0, "a": 1, "b": 2}));
        fs::create_dir(model.folder.path().join("1_Pooling")).expect("folder");
        let pooling = json!({"word_embedding_dimension": 2, "pooling_mode_mean_tokens": true});
        model.write("1_Pooling/config.json", pooling.to_string());
        model.write_weights(None);
        model
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        fs::write(self.folder.path().join(file), text).expect("file");
    }

    fn write_tokenizer(&self, vocabulary: Value) {
        let model = json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"});
        self.write("tokenizer.json", json!({"version": "1.0", "added_tokens": [], "model": model}).to_string());
    }

    /// Writes the weights, with `length` as that of the header whatever it has.
    fn write_weights(&self, length: Option<u64>) {
        let header = Value::Object(self.header.clone()).to_string();
        let length = length.unwrap_or(header.len() as u64).to_le_bytes();
        self.write("model.safetensors", [&length[..], header.as_bytes(), &vec![0; self.bytes]].concat());
    }

    fn weights(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    fn refusal(&self) -> String {
        refusal(&["--model", &format!("m={}/", self.folder.path().display())])
    }
}

#[test]
fn the_model_that_the_others_are_made_of_is_served() {
    let model = Model::new();
    let server = Shoal::serve(&["--model", &format!("m={}/", model.folder.path().display())]);
    assert_eq!(server.page("/readyz").0, "HTTP/1.1 200 OK");
    let (status, _) = server.stop();
    assert!(status.success());
}

#[test]
fn a_folder_that_is_none_is_named() {
    assert_tells(&refusal(&["--model", "m=/nowhere/at/all/"]), &["`m`", "/nowhere/at/all"]);
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let model = Model::new();
        fs::remove_file(model.folder.path().join(file)).expect("removed");
        assert_tells(&model.refusal(), &["`m`", "lacks", file]);
        // A folder in the place of a file is no file either.
        fs::create_dir(model.folder.path().join(file)).expect("folder");
        assert_tells(&model.refusal(), &["`m`", "lacks", file]);
    }
}

#[test]
fn weights_that_are_cut_are_named() {
    let model = Model::new();
    let whole = fs::read(model.weights()).expect("weights");
    for kept in [0, 7, 8, 20, whole.len() - 1] {
        fs::write(model.weights(), &whole[..kept]).expect("weights");
        assert_tells(&model.refusal(), &["`m`", "model.safetensors", "cut"]);
    }
}

#[test]
fn weights_whose_header_lies_are_named() {
    let mut model = Model::new();
    for length in [1 << 63, u64::MAX, u64::MAX - 7, 1 << 40, 0] {
        model.write_weights(Some(length));
        assert_tells(&model.refusal(), &["`m`", "model.safetensors"]);
    }
    let changes: [(&str, Value); 6] = [
        // Those of another tensor, backwards, outside the file, and past the end of numbers.
        ("data_offsets", json!([0, 8])),
        ("data_offsets", json!([8, 0])),
        ("data_offsets", json!([0, 1_u64 << 60])),
        ("data_offsets", json!([u64::MAX - 1, u64::MAX])),
        ("shape", json!([1_u64 << 33, 1_u64 << 33])),
        ("shape", json!([3])),
    ];
    for (key, value) in changes {
        let before = model.header["embeddings.LayerNorm.bias"].clone();
        model.header["embeddings.LayerNorm.bias"][key] = value;
        model.write_weights(None);
        assert_tells(&model.refusal(), &["`m`", "model.safetensors"]);
        model.header["embeddings.LayerNorm.bias"] = before;
    }
}

#[test]
fn a_tokenizer_that_is_no_or_another_models_is_named() {
    let model = Model::new();
    for broken in ["", "{not json", "{}", "[]"] {
        model.write("tokenizer.json", broken);
        assert_tells(&model.refusal(), &["`m`", "tokenizer"]);
    }
    model.write_tokenizer(json!({"[UNK]": 0, "a": 1, "z": 30521}));
    assert_tells(&model.refusal(), &["`m`", "tokenizer", "30521", "vocabulary of 3"]);
}

#[test]
fn a_config_of_the_model_that_is_none_is_named() {
    let model = Model::new();
    let sizes = [("hidden_size", json!(0)), ("num_hidden_layers", json!(1_u64 << 60)), ("vocab_size", json!(-1))];
    let whole: Value =
        serde_json::from_slice(&fs::read(model.folder.path().join("config.json")).expect("file")).expect("JSON");
    for (key, value) in sizes {
        let mut config = whole.clone();
        config[key] = value;
        model.write("config.json", config.to_string());
        assert_tells(&model.refusal(), &["`m`", "config.json"]);
    }
    for broken in ["", "{", "[]", "null", "\u{0}"] {
        model.write("config.json", broken);
        assert_tells(&model.refusal(), &["`m`", "config.json"]);
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("path").to_owned();
    std::os::unix::fs::symlink("/nowhere", path("link.toml")).expect("link");
    fs::write(path("binary.toml"), b"grpc_port = \xff\xfe").expect("file");
    for file in [path("none.toml"), path("link.toml"), path("binary.toml"), path("")] {
        assert_tells(&refusal(&["--config", &file]), &["cannot read", &file]);
    }
    let twice = "[models.a]\nsource = \"echo\"\n[models.a]\nsource = \"echo\"\n";
    for (text, parts) in [
        ("grpc_prot = 1\n", &["`grpc_prot`", "`grpc_port`"][..]),
        ("[models.a]\nsurce = \"echo\"\n", &["`models.a.surce`", "`models.a.source`"]),
        ("grpc_port = \n", &["line 1"]),
        (twice, &["line 3", "duplicate key"]),
        ("drain_time_max = \"soon\"\n", &["`drain_time_max`", "`soon`"]),
        ("call_bytes_max = \"many\"\n", &["`call_bytes_max`"]),
        ("call_texts_max = 0\n", &["`call_texts_max`"]),
        ("[models.a]\nsource = \"echo\"\nslo = \"0s\"\n", &["`models.a.slo`", "100us"]),
    ] {
        fs::write(path("shoal.toml"), text).expect("file");
        assert_tells(&refusal(&["--config", &path("shoal.toml")]), parts);
    }
}

#[test]
fn flags_that_are_wrong_are_named() {
    for (args, parts) in [
        (&["--model", "echo", "--model", "echo=synthetic"][..], &["`model`", "`echo`", "twice"][..]),
        (&["--model", "echo,slo=banana"], &["slo", "banana"]),
        (&["--model", "echo", "--drain-time-max", "soon"], &["--drain-time-max", "soon"]),
        (&["--model", "echo", "--call-bytes-max", "16MiB"], &["--call-bytes-max", "16MiB"]),
        (&["--model", "echo", "--call-texts-max", "0"], &["--call-texts-max"]),
        (&["--model", "echo", "--workers", "0"], &["--workers"]),
        (&["--modle", "echo"], &["--modle"]),
    ] {
        assert_tells(&refusal(args), parts);
    }
}

#[test]
fn an_objective_that_cannot_be_kept_is_named_with_what_can() {
    let told = refusal(&["--model", "s=synthetic:base=20ms,slo=5ms"]);
    assert_tells(&told, &["`s`", "its slo of 5ms cannot be kept", "takes 20.1ms by itself", "\"25ms\""]);
}

#[test]
fn a_home_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("file");
    // Whoever runs the tests may write anywhere they may name, but not below a file, nor in /proc.
    for home in [file.to_str().expect("path"), "/proc/nothing"] {
        let told = refusal(&["--model", "minilm", "--home", home]);
        assert_tells(&told, &["`minilm`", "cannot write", home]);
        assert_eq!(told.matches("(os error").count(), 1, "the cause is said once: {told}");
    }
    // For what is only kept to save time it is no reason not to serve.
    let model = Model::new();
    let source = format!("m={}/", model.folder.path().display());
    let server = Shoal::serve(&["--model", &source, "--home", "/proc/nothing"]);
    let (status, log) = server.stop();
    assert!(status.success());
    assert!(log.iter().any(|line| line.contains("cannot keep a tokenizer")), "{log:#?}");
}

#[test]
fn a_worker_that_cannot_work_is_given_up_soon_and_quoted() {
    let told = refusal(&["--model", "echo", "--device", "cuda"]);
    assert_tells(&told, &["`local-0` was given up", "exit status: 1", "--device cuda"]);
}

#[test]
fn a_worker_that_cannot_be_started_is_told() {
    // A program that is gone once it runs: its own path leads nowhere then.
    let folder = tempfile::tempdir().expect("folder");
    let program = folder.path().join("shoal");
    fs::hard_link(binary(), &program).or_else(|_| fs::copy(binary(), &program).map(|_| ())).expect("a copy");
    let ports = "--grpc-port 0 --http-port 0 --metrics-port 0";
    let script = format!("rm {0}; exec /proc/self/fd/9 serve --model echo {ports}", program.display());
    let output = Command::new("sh")
        .args(["-c", &format!("exec 9<{}; {script}", program.display())])
        .env("SHOAL_HOME", folder.path())
        .env("RUST_BACKTRACE", "1")
        .output()
        .expect("sh");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    assert_tells(told.lines().last().unwrap_or_default(), &["shoal: ", "`local-0`", "could not be started"]);
}
