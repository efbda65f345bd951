use std::path::Path;

use clap::Parser;

use shoal_scheduler::{OnLate, PolicyConfig};

use super::*;
use crate::access::{Proof, Right};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

fn flags(args: &[&str]) -> Settings {
    let args = std::iter::once("serve").chain(args.iter().copied());
    Cli::try_parse_from(args).expect("flags").settings
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    let mut file = file::parse(text, Path::new("shoal.toml"))?;
    Config::check(std::mem::take(&mut file.settings), file)
}

#[test]
fn every_key_of_the_file_is_a_flag_and_a_variable() {
    let command = <Cli as clap::CommandFactory>::command();
    for key in Settings::KEYS {
        let arg = command.get_arguments().find(|arg| arg.get_id() == key).unwrap_or_else(|| panic!("no flag {key}"));
        let long = arg.get_long().expect("long name");
        assert_eq!(long, key.replace('_', "-"));
        let variable = arg.get_env().expect("variable").to_str().expect("text");
        assert_eq!(variable, format!("SHOAL_{}", key.to_uppercase()));
    }
}

#[test]
fn a_flag_wins_over_the_file() {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), "grpc_port = 1\nmetrics_port = 2\n").expect("write");
    let path = file.path().to_str().expect("path");
    let config = Config::load(flags(&["--config", path, "--grpc-port", "3"])).expect("config");
    assert_eq!((config.grpc.port(), config.metrics.port()), (3, 2));
}

#[test]
fn a_model_flag_changes_the_model_of_the_file() {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), "[models.m]\nsource = \"echo\"\nslo = \"1s\"\nbatch_rows_max = 4\n").expect("write");
    let path = file.path().to_str().expect("path");
    let config = Config::load(flags(&["--config", path, "--model", "m=echo,slo=5ms"])).expect("config");
    assert_eq!(config.models.len(), 1);
    assert_eq!(config.models[0].slo, Duration::from_millis(5));
    assert_eq!(config.models[0].batch_rows_max.get(), 4);
}

#[test]
fn what_does_not_go_together_does_not_wherever_it_is_said() {
    let file = tempfile::NamedTempFile::new().expect("file");
    let path = file.path().to_str().expect("UTF-8");
    std::fs::write(file.path(), "[models.echo]\non_late = \"shed\"\n").expect("write");
    let error = Config::load(flags(&["--config", path, "--model", "echo,load=demand"])).expect_err("both");
    assert!(error.to_string().starts_with("`models.echo.on_late`"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    let error = parse("grpc_prot = 1").expect_err("error").to_string();
    assert_eq!(error, "unknown key `grpc_prot`; did you mean `grpc_port`?");
    let error = parse("[models.echo]\nslow = \"1s\"").expect_err("error").to_string();
    assert_eq!(error, "unknown key `models.echo.slow`; did you mean `models.echo.slo`?");
}

#[test]
fn a_wrong_value_is_named_by_its_key() {
    for (text, key) in [
        ("grpc_port = 70000", "`grpc_port`"),
        ("http_port = 70000", "`http_port`"),
        ("http_port = \"on\"", "`http_port`"),
        ("admin_listen = 8004", "`admin_listen`"),
        ("admin_listen = \"localhost\"", "`admin_listen`"),
        ("workers = 0", "`workers`"),
        ("drain_time_max = \"soon\"", "`drain_time_max`"),
        ("tenant_key = \"Team\"", "`tenant_key`"),
        ("models = 3", "`models`"),
        ("[models.echo]\nslo = \"never\"", "`models.echo.slo`"),
        ("[models.echo]\nqueue_delay_max = \"1ms\"", "`models.echo.queue_delay_max`"),
        ("[models.echo]\npolicy = \"fixed\"\non_late = \"shed\"", "`models.echo.on_late`"),
        ("[models.echo]\non_late = \"never\"", "`models.echo.on_late`"),
        ("[models.Echo]\nsource = \"echo\"", "`models.Echo`"),
        ("connection_age_max = \"1ms\"", "`connection_age_max`"),
        ("share_workers = true", "`share_workers`"),
        ("share_workers = \"yes\"", "`share_workers`"),
        ("call_texts_max = 0", "`call_texts_max`"),
        ("call_bytes_max = -1", "`call_bytes_max`"),
        ("call_bytes_max = \"16 MiB\"", "`call_bytes_max`"),
        ("drain_time_max = 5", "`drain_time_max`"),
        ("[models.echo]\nslo = \"0s\"", "`models.echo.slo`"),
        ("[models.echo]\nslo = \"2h\"", "`models.echo.slo`"),
        ("scaler_listen = \"on\"", "`scaler_listen`"),
        ("resident_bytes_max = 0", "`resident_bytes_max`"),
        ("[models.echo]\nload = \"never\"", "`models.echo.load`"),
        ("[models.echo]\nunload_after = \"1m\"", "`models.echo.unload_after`"),
        ("[models.echo]\nload = \"demand\"\nunload_after = \"1ms\"", "`models.echo.unload_after`"),
        ("[models.echo]\nload = \"demand\"\non_late = \"shed\"", "`models.echo.on_late`"),
        (
            "[models.a]\nsource = \"echo\"\nload = \"demand\"\ncanary_of = \"echo\"\ncanary_percent = 5",
            "`models.a.canary_of`",
        ),
        ("[models.echo]\ncanary_of = \"m\"", "`models.echo.canary_percent`"),
        ("[models.echo]\ncanary_percent = 5", "`models.echo.canary_of`"),
        ("[models.echo]\ncanary_of = \"m\"\ncanary_percent = 0", "`models.echo.canary_percent`"),
        ("[models.echo]\ncanary_of = \"m\"\ncanary_percent = nan", "`models.echo.canary_percent`"),
        ("[models.echo]\ncanary_of = \"m\"\ncanary_percent = 5", "`models.echo.canary_of`"),
        ("[models.echo]\ncanary_of = \"echo\"\ncanary_percent = 5", "`models.echo.canary_of`"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(key), "{text}: {error}");
    }
}

#[test]
fn calls_are_given_away_once() {
    let models = |canaries: &[(&str, &str, u32)]| {
        let table = |(name, of, percent): &(&str, &str, u32)| {
            format!("[models.{name}]\nsource = \"echo\"\ncanary_of = \"{of}\"\ncanary_percent = {percent}\n")
        };
        let text = canaries.iter().map(table).collect::<String>() + "[models.echo]\n";
        parse(&text).map(|config| config.models.len()).map_err(|error| error.to_string())
    };
    assert_eq!(models(&[("a", "echo", 50), ("b", "echo", 50)]), Ok(3));
    let error = models(&[("a", "echo", 50), ("b", "echo", 51)]).expect_err("too much");
    assert!(error.contains("more than all of the calls for `echo`"), "{error}");
    let error = models(&[("a", "echo", 5), ("b", "a", 5)]).expect_err("a chain");
    assert!(error.contains("`models.b.canary_of`: `a` takes a part"), "{error}");
}

#[test]
fn entries_of_access_are_read_with_their_names() {
    let config = parse(
        "[[access]]\nname = \"search\"\ntoken_file = \"/t\"\ntenant = \"s\"\nrights = [\"infer\", \"inspect\"]\n\
         models = [\"echo\"]\n[models.echo]",
    );
    let entries = config.expect("an entry").access;
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(entry.proof, Proof::TokenFile("/t".into()));
    assert_eq!((entry.identity.name.as_str(), entry.identity.tenant.as_deref()), ("search", Some("s")));
    assert_eq!(entry.identity.rights, [Right::Infer, Right::Inspect].into());
    assert_eq!(entry.identity.models, Some(["echo".to_owned()].into()));
    assert!(parse("").expect("nothing").access.is_empty());
}

#[test]
fn what_is_wrong_with_access_is_told_by_entry_and_key() {
    let sha = "0".repeat(64);
    let entry = |lines: &str| format!("[[access]]\n{lines}\n[models.echo]\n");
    let rights = "rights = [\"infer\"]";
    for (text, told) in [
        ("access = 3".to_owned(), "`access`: must be tables".to_owned()),
        ("access = [3]".to_owned(), "`access[0]`: must be a table".to_owned()),
        (entry("token_file = \"/t\""), "`access[0].name`".to_owned()),
        (entry("name = \"a b\"\ntoken_file = \"/t\""), "`access[0].name`".to_owned()),
        (entry("name = \"a\"\ntoken = \"x\""), "unknown key `access.a.token`".to_owned()),
        (entry(&format!("name = \"a\"\n{rights}")), "`access.a.token_file`: must be set".to_owned()),
        (
            entry(&format!("name = \"a\"\ntoken_file = \"/t\"\ntoken_sha256 = \"{sha}\"\n{rights}")),
            "`access.a.token_file`: must be alone".to_owned(),
        ),
        (entry(&format!("name = \"a\"\ntoken_sha256 = \"abc\"\n{rights}")), "`access.a.token_sha256`".to_owned()),
        (entry(&format!("name = \"a\"\ncertificate = \"x\"\n{rights}")), "`access.a.certificate`: needs".to_owned()),
        (entry("name = \"a\"\ntoken_file = \"/t\""), "`access.a.rights`".to_owned()),
        (entry("name = \"a\"\ntoken_file = \"/t\"\nrights = []"), "`access.a.rights`".to_owned()),
        (entry("name = \"a\"\ntoken_file = \"/t\"\nrights = [\"all\"]"), "`access.a.rights`".to_owned()),
        (
            entry(&format!("name = \"a\"\ntoken_file = \"/t\"\n{rights}\ntenant = \"a b\"")),
            "`access.a.tenant`".to_owned(),
        ),
        (
            entry(&format!("name = \"a\"\ntoken_file = \"/t\"\n{rights}\nmodels = [\"ecco\"]")),
            "`access.a.models`: `ecco` is not configured".to_owned(),
        ),
        (
            entry("name = \"a\"\ntoken_file = \"/t\"\nrights = [\"admin\"]\nmodels = [\"echo\"]"),
            "`access.a.models`: cannot be".to_owned(),
        ),
        (
            entry(&format!("name = \"a\"\ntoken_file = \"/t\"\n{rights}"))
                + &format!("[[access]]\nname = \"a\"\ntoken_file = \"/u\"\n{rights}\n"),
            "`access.a.name`: is another".to_owned(),
        ),
    ] {
        let error = parse(&text).expect_err(&text).to_string();
        assert!(error.starts_with(&told), "{text}: {error}");
    }
}

#[test]
fn tls_is_set_whole_or_not_at_all() {
    for (text, told) in [
        ("tls_cert = \"c\"", "`tls_key`: must be set with `tls_cert`"),
        ("tls_key = \"k\"", "`tls_cert`: must be set with `tls_key`"),
        ("tls_client_ca = \"a\"", "`tls_cert`: must be set with `tls_client_ca`"),
        ("tls_client_auth = \"optional\"", "`tls_client_auth`: needs `tls_client_ca`"),
        ("tls_client_auth = \"never\"", "`tls_client_auth`"),
        ("link_tls_cert = \"c\"", "`link_tls_key`: must be set with `link_tls_cert`"),
        ("link_tls_client_ca = \"a\"", "`link_tls_cert`: must be set with `link_tls_client_ca`"),
        ("worker_token = \"t\"\nworker_token_file = \"f\"", "`worker_token_file`: must be alone"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(told), "{text}: {error}");
    }
    let config = parse("tls_cert = \"c\"\ntls_key = \"k\"\ntls_client_ca = \"a\"").expect("whole");
    let (_, auth) = config.tls.and_then(|tls| tls.client_ca).expect("an authority");
    assert_eq!(auth, ClientAuth::Required);
}

#[test]
fn secrets_that_cannot_be_read_are_told_by_their_key() {
    for (text, told) in [
        ("tls_cert = \"/nowhere\"\ntls_key = \"/nowhere\"", "`tls_cert`: /nowhere cannot be read"),
        ("link_tls_cert = \"/nowhere\"\nlink_tls_key = \"/nowhere\"", "`link_tls_cert`: /nowhere cannot be read"),
        ("worker_token_file = \"/nowhere\"", "`worker_token_file`: /nowhere cannot be read"),
        ("workers = \"external\"", "`worker_token`: must be set with"),
        (
            "[[access]]\nname = \"a\"\ntoken_file = \"/nowhere\"\nrights = [\"infer\"]",
            "`access.a.token_file`: /nowhere cannot be read",
        ),
    ] {
        let error = Secrets::read(&parse(text).expect(text)).expect_err(text).to_string();
        assert!(error.starts_with(told), "{text}: {error}");
    }
}

#[test]
fn a_model_follows_its_objective_unless_it_says_otherwise() {
    let policy = |text: &str, flags_of: &[&str]| {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("write");
        let mut all = vec!["--config", file.path().to_str().expect("UTF-8")];
        all.extend(flags_of);
        Config::load(flags(&all)).expect("config").models[0].policy.clone()
    };
    let learned = |wait_price, waits_when_idle, on_late| PolicyConfig::Learned { wait_price, waits_when_idle, on_late };
    assert_eq!(policy("[models.echo]", &[]), learned(1, false, OnLate::Serve));
    assert_eq!(policy("[models.echo]\nslo = \"5ms\"", &[]), learned(1, false, OnLate::Serve));
    let shed = "[models.echo]\npreset = \"throughput\"\non_late = \"shed\"";
    assert_eq!(policy(shed, &[]), learned(16, true, OnLate::Shed));
    // A flag's preset goes over the file's; what becomes of the late stays.
    assert_eq!(policy(shed, &["--model", "echo,preset=latency"]), learned(0, false, OnLate::Shed));
    assert_eq!(policy("[models.echo]\npolicy = \"fixed\"", &["--model", "echo,preset=latency"]), PolicyConfig::Fixed);
}

#[test]
fn tei_closes_at_a_budget_of_tokens_and_queues_no_more_than_it_does() {
    let model = |text: &str| parse(text).expect(text).models.swap_remove(0);
    let tei = model("[models.echo]\npolicy = \"tei\"");
    assert_eq!(tei.policy, PolicyConfig::Fixed);
    assert_eq!((tei.batch_tokens_max.get(), tei.queue_requests_max.get()), (16_384, 512));
    let tuned = model("[models.echo]\npolicy = \"tei\"\nbatch_tokens_max = 1024\nqueue_requests_max = 9");
    assert_eq!((tuned.batch_tokens_max.get(), tuned.queue_requests_max.get()), (1_024, 9));
    // Nobody else's queue is that short.
    assert_eq!(model("[models.echo]\npolicy = \"fixed\"").queue_requests_max.get(), 32_768);
    let error = parse("[models.echo]\npolicy = \"tei\"\npreferred_rows = [8]").expect_err("triton's").to_string();
    assert!(error.starts_with("`models.echo.preferred_rows`"), "{error}");
}

#[test]
fn what_is_no_toml_is_told_by_its_line() {
    for (text, told) in [
        ("grpc_port = 1\ngrpc_port = \n", "shoal.toml, line 2: "),
        ("[models.a]\nsource = \"echo\"\n[models.a]\n", "shoal.toml, line 3: duplicate key"),
        ("\0", "shoal.toml, line 1: "),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(told) && !error.contains('\n'), "{text:?}: {error:?}");
    }
}

#[test]
fn defaults_listen_on_loopback_with_one_local_worker() {
    let config = Config::load(Settings::default()).expect("config");
    assert_eq!(config.grpc.to_string(), "127.0.0.1:8001");
    assert_eq!(config.http.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:8000"));
    assert_eq!(config.metrics.to_string(), "127.0.0.1:8002");
    assert_eq!(config.workers, Workers::Local(NonZeroUsize::MIN));
    assert_eq!(config.link, None);
}

#[test]
fn only_external_workers_are_shared() {
    let shared = |text| parse(text).expect(text).limits.workers_are_shared;
    assert!(!shared("") && !shared("workers = \"external\"\nworker_token = \"t\""));
    assert!(shared("workers = \"external\"\nworker_token = \"t\"\nshare_workers = true"));
    let given =
        |more: &[&str]| Config::load(flags(&[&["--workers", "external", "--worker-token", "t"], more].concat()));
    assert!(given(&["--share-workers"]).expect("config").limits.workers_are_shared);
    assert!(!given(&["--share-workers", "false"]).expect("config").limits.workers_are_shared);
    let error = parse("share_workers = true").expect_err("local workers").to_string();
    assert!(error.contains("`share_workers`") && error.contains("`workers = \"external\"`"), "{error}");
}

#[test]
fn http_is_served_elsewhere_or_not_at_all() {
    let port = |text| parse(text).expect(text).http.map(|address| address.port());
    assert_eq!(port("http_port = 0"), Some(0));
    assert_eq!(port("http_port = 9000"), Some(9000));
    assert_eq!(port("http_port = \"off\""), None);
    assert_eq!(Config::load(flags(&["--http-port", "off"])).expect("config").http, None);
}

#[test]
fn admin_calls_are_served_where_somebody_says_so() {
    let admin = |text| parse(text).expect(text).admin.map(|address| address.to_string());
    assert_eq!(admin(""), None);
    assert_eq!(admin("admin_listen = \"off\""), None);
    assert_eq!(admin("admin_listen = \"[::1]:8004\"").as_deref(), Some("[::1]:8004"));
    let config = Config::load(flags(&["--admin-listen", "127.0.0.1:0"])).expect("config");
    assert_eq!(config.admin.map(|address| address.port()), Some(0));
}

#[test]
fn every_key_is_documented() {
    let page = include_str!("../../docs/configuration.md");
    let documented = |key: &str| page.lines().any(|line| line.starts_with(&format!("| `{key}` |")));
    let missing: Vec<_> = Settings::KEYS.iter().chain(model::ModelFile::KEYS).filter(|key| !documented(key)).collect();
    assert!(missing.is_empty(), "not in server/docs/configuration.md: {missing:?}");
    let page = include_str!("../../docs/security.md");
    let documented = |key: &str| page.lines().any(|line| line.starts_with(&format!("| `{key}` |")));
    let missing: Vec<_> = access::AccessFile::KEYS.iter().filter(|key| !documented(key)).collect();
    assert!(missing.is_empty(), "not in server/docs/security.md: {missing:?}");
}
