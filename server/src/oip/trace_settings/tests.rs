use shoal_proto::inference::trace_setting_request::SettingValue;

use super::super::testing::{not_offered, refusal};
use super::*;

const TIMESTAMPS: TraceLevel = TraceLevel { timestamps: true, tensors: false };

fn request(model: &str, settings: &[(&str, &[&str])]) -> TraceSettingRequest {
    let setting = |(name, values): &(&str, &[&str])| {
        ((*name).to_owned(), SettingValue { value: values.iter().map(|value| (*value).to_owned()).collect() })
    };
    TraceSettingRequest { model_name: model.into(), settings: settings.iter().map(setting).collect() }
}

fn with_models() -> (TraceSettings, Arc<TraceSampler>, Arc<TraceSampler>) {
    let mut settings = TraceSettings::default();
    let (a, b) = (settings.add_model(&"a".into()), settings.add_model(&"b".into()));
    (settings, a, b)
}

fn value(settings: &TraceSettings, model: &str, name: &str) -> String {
    settings.response(model).unwrap().settings[name].value.join("+")
}

#[test]
fn starts_as_triton_does() {
    let (settings, sampler, _) = with_models();
    for model in ["", "a"] {
        let names = ["trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode"];
        assert_eq!(names.map(|name| value(&settings, model, name)), ["OFF", "1000", "-1", "0", "", "log"]);
    }
    assert_eq!(sampler.sample(), None);
}

#[test]
fn a_models_own_setting_wins_and_gives_way_when_cleared() {
    let (mut settings, a, b) = with_models();
    settings.apply(&request("a", &[("trace_level", &["TIMESTAMPS"]), ("trace_rate", &["1"])])).unwrap();
    assert_eq!((a.sample(), b.sample()), (Some(TIMESTAMPS), None));
    settings.apply(&request("", &[("trace_level", &["TENSORS", "TIMESTAMPS"]), ("trace_rate", &["2"])])).unwrap();
    assert_eq!(value(&settings, "a", "trace_level"), "TIMESTAMPS");
    assert_eq!(value(&settings, "b", "trace_level"), "TIMESTAMPS+TENSORS");
    settings.apply(&request("a", &[("trace_level", &[])])).unwrap();
    assert_eq!(value(&settings, "a", "trace_level"), "TIMESTAMPS+TENSORS");
    assert_eq!(value(&settings, "a", "trace_rate"), "1");
    settings.apply(&request("", &[("trace_level", &[])])).unwrap();
    assert_eq!(value(&settings, "a", "trace_level"), "OFF");
    assert_eq!(value(&settings, "", "trace_rate"), "2");
}

#[test]
fn every_so_manyeth_call_is_traced() {
    let (mut settings, a, _) = with_models();
    settings.apply(&request("a", &[("trace_level", &["TIMESTAMPS"]), ("trace_rate", &["3"])])).unwrap();
    let traced: Vec<bool> = (0..7).map(|_| a.sample().is_some()).collect();
    assert_eq!(traced, [false, false, true, false, false, true, false]);
}

#[test]
fn tracing_ends_when_enough_was_traced() {
    let (mut settings, a, b) = with_models();
    let on: [(&str, &[&str]); 3] = [("trace_level", &["TIMESTAMPS"]), ("trace_rate", &["1"]), ("trace_count", &["2"])];
    settings.apply(&request("", &on)).unwrap();
    assert_eq!((0..4).filter(|_| a.sample().is_some()).count(), 2);
    assert_eq!(value(&settings, "a", "trace_count"), "0");
    // Each model has its own.
    assert_eq!(value(&settings, "b", "trace_count"), "2");
    // Another setting does not start it anew; the count does.
    settings.apply(&request("", &[("trace_level", &["TENSORS"])])).unwrap();
    assert_eq!(a.sample(), None);
    settings.apply(&request("", &[("trace_count", &["1"])])).unwrap();
    assert!(a.sample().is_some() && a.sample().is_none() && b.sample().is_some());
}

#[test]
fn a_request_without_settings_changes_nothing() {
    let (mut settings, ..) = with_models();
    let change = settings.apply(&request("a", &[])).unwrap();
    assert_eq!(change, TraceChange { model: Some("a".into()), ..Default::default() });
    assert_eq!(value(&settings, "a", "trace_rate"), "1000");
}

#[test]
fn a_change_says_what_holds_now() {
    let (mut settings, ..) = with_models();
    let change = settings.apply(&request("", &[("trace_rate", &["5"]), ("trace_count", &[])])).unwrap();
    assert_eq!(change, TraceChange { rate: Some(5), count: Some(-1), ..Default::default() });
}

#[test]
fn a_request_is_done_whole_or_not_at_all() {
    let (mut settings, ..) = with_models();
    refusal(settings.apply(&request("", &[("trace_count", &["5"]), ("trace_rate", &["x"])])));
    assert_eq!(value(&settings, "", "trace_count"), "-1");
}

#[test]
fn wrong_values_are_refused_by_name() {
    let (mut settings, ..) = with_models();
    for (name, values) in [
        ("trace_level", &["LOUD"][..]),
        ("trace_level", &["OFF", "TENSORS"]),
        ("trace_rate", &["0"]),
        ("trace_rate", &["-1"]),
        ("trace_rate", &["4294967296"]),
        ("trace_rate", &["1", "2"]),
        ("trace_count", &["-2"]),
        ("trace_count", &["2147483648"]),
        ("trace_count", &[""]),
        ("log_frequency", &["5"]),
        ("trace_mode", &["triton"]),
        ("colour", &["red"]),
    ] {
        assert_eq!(refusal(settings.apply(&request("", &[(name, values)]))).0, format!("settings.{name}"));
    }
    settings.apply(&request("", &[("log_frequency", &["0"])])).unwrap();
}

#[test]
fn no_client_says_where_this_server_writes() {
    let (mut settings, ..) = with_models();
    assert!(not_offered(settings.apply(&request("", &[("trace_file", &["/etc/passwd"])]))).contains("trace file"));
    assert!(not_offered(settings.apply(&request("", &[("trace_file", &[])]))).contains("trace file"));
}

#[test]
fn models_come_and_go() {
    let (mut settings, a, _) = with_models();
    assert!(Arc::ptr_eq(&a, &settings.add_model(&"a".into())));
    settings.remove_model("a");
    for error in [settings.response("a").unwrap_err(), settings.apply(&request("a", &[])).unwrap_err()] {
        assert_eq!(error, CallError::UnknownModel { model: "a".into(), near: None });
    }
}

#[test]
fn a_rate_of_zero_at_start_is_one() {
    let mut settings = TraceSettings::new(TraceDefaults { level: TIMESTAMPS, rate: 0, count: -1 });
    assert_eq!(settings.add_model(&"a".into()).sample(), Some(TIMESTAMPS));
}
