use std::path::PathBuf;
use std::time::Duration;

use super::{Dtype, ModelArg, ModelArgError, Preset};
use crate::models::{Source, SourceError};

fn parse(text: &str) -> Result<ModelArg, ModelArgError> {
    text.parse()
}

#[test]
fn a_name_alone_is_its_own_source() {
    let arg = parse("minilm").unwrap();
    assert_eq!(arg.name.as_str(), "minilm");
    assert!(matches!(arg.source, Source::Catalogue(entry) if entry.name == "minilm"));
    assert_eq!((arg.slo, arg.preset, arg.dtype), (None, None, None));
    assert_eq!(parse("echo").unwrap().source, Source::Echo);
}

#[test]
fn settings_follow_the_source_in_any_order() {
    let arg = parse("m=/models/x,dtype=bf16,slo=50ms,preset=throughput").unwrap();
    assert_eq!(arg.source, Source::Folder(PathBuf::from("/models/x")));
    assert_eq!(arg.slo, Some(Duration::from_millis(50)));
    assert_eq!((arg.preset, arg.dtype), (Some(Preset::Throughput), Some(Dtype::Bf16)));
    assert_eq!(parse("minilm,slo=1s").unwrap().slo, Some(Duration::from_secs(1)));
}

#[test]
fn options_of_a_synthetic_model_do_not_mix_with_settings() {
    let arg = parse("slow=synthetic:base=20ms+noise=0.1,slo=100ms").unwrap();
    let Source::Synthetic(options) = arg.source else { panic!("{:?}", arg.source) };
    assert_eq!((options.base, options.noise), (Duration::from_millis(20), 0.1));
    assert_eq!(arg.slo, Some(Duration::from_millis(100)));
}

#[test]
fn an_equals_sign_in_a_path_belongs_to_the_path() {
    assert_eq!(parse("m=/x/run=3").unwrap().source, Source::Folder(PathBuf::from("/x/run=3")));
}

#[test]
fn a_source_without_a_name_is_told_to_take_one() {
    for text in ["/models/x", "hf:org/name", "synthetic:base=2ms"] {
        assert_eq!(parse(text), Err(ModelArgError::Nameless { found: text.into() }), "{text}");
    }
}

#[test]
fn says_which_part_is_wrong() {
    assert!(matches!(parse(""), Err(ModelArgError::Name(_))));
    assert!(matches!(parse("Big=minilm"), Err(ModelArgError::Name(_))));
    assert_eq!(
        parse("minlm"),
        Err(ModelArgError::Source(SourceError::Unknown { found: "minlm".into(), near: "minilm".into() }))
    );
    assert_eq!(parse("m="), Err(ModelArgError::Source(SourceError::Empty)));
    assert_eq!(parse("m=/x,y/z"), Err(ModelArgError::NoValue { found: "y/z".into() }));
    assert_eq!(parse("minilm,"), Err(ModelArgError::NoValue { found: String::new() }));
    assert_eq!(
        parse("minilm,solo=1s"),
        Err(ModelArgError::UnknownSetting { found: "solo".into(), near: "slo".into() })
    );
    assert_eq!(parse("minilm,slo=1s,slo=2s"), Err(ModelArgError::Twice { setting: "slo".into() }));
    for (text, setting) in
        [("slo=50", "slo"), ("slo=0s", "slo"), ("slo=2h", "slo"), ("preset=fast", "preset"), ("dtype=fp8", "dtype")]
    {
        let error = parse(&format!("minilm,{text}")).unwrap_err();
        assert!(matches!(error, ModelArgError::Value { setting: s, .. } if s == setting), "{text}: {error}");
    }
}

#[test]
fn the_example_in_the_help_is_valid() {
    parse("name=synthetic:base=2ms+per_row=100us,slo=50ms,preset=balanced,dtype=f32").unwrap();
}
