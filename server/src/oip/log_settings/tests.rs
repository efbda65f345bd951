use super::super::testing::{not_offered, refusal};
use super::*;

use ParameterChoice::{BoolParam, StringParam, Uint32Param};

fn request(settings: &[(&str, ParameterChoice)]) -> LogSettingsRequest {
    let setting = |(name, value): &(&str, ParameterChoice)| {
        ((*name).to_owned(), SettingValue { parameter_choice: Some(value.clone()) })
    };
    LogSettingsRequest { settings: settings.iter().map(setting).collect() }
}

fn shown(settings: LogSettings) -> Vec<(String, String)> {
    let value = |value: log_settings_response::SettingValue| {
        use log_settings_response::setting_value::ParameterChoice;
        match value.parameter_choice.unwrap() {
            ParameterChoice::BoolParam(value) => value.to_string(),
            ParameterChoice::Uint32Param(value) => value.to_string(),
            ParameterChoice::StringParam(value) => value,
        }
    };
    let mut rows: Vec<_> = settings.response().settings.into_iter().map(|(name, it)| (name, value(it))).collect();
    rows.sort();
    rows
}

#[test]
fn settings_tell_the_level_they_started_with() {
    for level in [
        LevelFilter::OFF,
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ] {
        assert_eq!(LogSettings::new(level).level_max(), level);
    }
    let rows = shown(LogSettings::new(LevelFilter::WARN));
    let values: Vec<_> = rows.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let expected = [
        "log_error=true",
        "log_file=",
        "log_format=ISO8601",
        "log_info=false",
        "log_verbose_level=0",
        "log_warning=true",
    ];
    assert_eq!(values, expected);
}

#[test]
fn a_change_is_told_and_kept() {
    let mut settings = LogSettings::new(LevelFilter::INFO);
    assert_eq!(settings.apply(&request(&[("log_verbose_level", Uint32Param(1))])), Ok(Some(LevelFilter::DEBUG)));
    assert_eq!(settings.apply(&request(&[("log_verbose_level", Uint32Param(7))])), Ok(Some(LevelFilter::TRACE)));
    let quieter = request(&[("log_verbose_level", Uint32Param(0)), ("log_info", BoolParam(false))]);
    assert_eq!(settings.apply(&quieter), Ok(Some(LevelFilter::WARN)));
    assert_eq!(settings.level_max(), LevelFilter::WARN);
}

#[test]
fn what_holds_already_is_no_change() {
    let mut settings = LogSettings::new(LevelFilter::INFO);
    assert_eq!(settings.apply(&request(&[])), Ok(None));
    let same = request(&[("log_info", BoolParam(true)), ("log_format", StringParam("ISO8601".into()))]);
    assert_eq!(settings.apply(&same), Ok(None));
    // 2 and 3 are both everything, but what was asked is told.
    settings.apply(&request(&[("log_verbose_level", Uint32Param(2))])).unwrap();
    assert_eq!(settings.apply(&request(&[("log_verbose_level", Uint32Param(3))])), Ok(None));
    assert!(shown(settings).contains(&("log_verbose_level".into(), "3".into())));
}

#[test]
fn gaps_are_refused() {
    let refused =
        |level, settings: &[(&str, ParameterChoice)]| refusal(LogSettings::new(level).apply(&request(settings)));
    let (field, problem) = refused(LevelFilter::INFO, &[("log_error", BoolParam(false))]);
    assert_eq!((field.as_str(), problem.as_str()), ("settings.log_error", "cannot be off while log_warning is on"));
    assert_eq!(refused(LevelFilter::WARN, &[("log_verbose_level", Uint32Param(1))]).0, "settings.log_info");
    let mut settings = LogSettings::new(LevelFilter::INFO);
    let all_off = [("log_error", BoolParam(false)), ("log_warning", BoolParam(false)), ("log_info", BoolParam(false))];
    assert_eq!(settings.apply(&request(&all_off)), Ok(Some(LevelFilter::OFF)));
}

#[test]
fn wrong_values_are_refused_by_name_and_nothing_is_done() {
    for (name, value) in [
        ("log_info", Uint32Param(1)),
        ("log_verbose_level", BoolParam(true)),
        ("log_format", StringParam("default".into())),
        ("log_format", BoolParam(true)),
        ("log_colour", BoolParam(true)),
    ] {
        let mut settings = LogSettings::new(LevelFilter::INFO);
        let (field, _) = refusal(settings.apply(&request(&[("log_error", BoolParam(true)), (name, value)])));
        assert_eq!(field, format!("settings.{name}"));
        assert_eq!(settings, LogSettings::new(LevelFilter::INFO));
    }
    let nothing = LogSettingsRequest { settings: [("log_info".to_owned(), SettingValue::default())].into() };
    assert_eq!(refusal(LogSettings::new(LevelFilter::INFO).apply(&nothing)).0, "settings.log_info");
}

#[test]
fn no_client_says_where_this_server_writes() {
    let mut settings = LogSettings::new(LevelFilter::INFO);
    assert!(not_offered(settings.apply(&request(&[("log_file", StringParam("/tmp/x".into()))]))).contains("log file"));
}
