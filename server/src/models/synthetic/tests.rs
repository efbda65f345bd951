use std::time::Duration;

use super::{Synthetic, SyntheticError};

#[test]
fn reads_every_option() {
    let text = "base=3ms+per_row=100us+per_token=1us+floor=1ms+noise=0.05+seed=7+faults+memory_rows=64\
                +nanos_per_token_squared=0.5";
    let options: Synthetic = text.parse().unwrap();
    let expected = Synthetic {
        floor: Duration::from_millis(1),
        base: Duration::from_millis(3),
        per_row: Duration::from_micros(100),
        per_token: Duration::from_micros(1),
        nanos_per_token_squared: 0.5,
        noise: 0.05,
        seed: 7,
        faults: true,
        memory_rows: 64,
    };
    assert_eq!(options, expected);
}

#[test]
fn keeps_the_defaults_of_options_left_out() {
    let options: Synthetic = "seed=9".parse().unwrap();
    assert_eq!(options, Synthetic { seed: 9, ..Synthetic::default() });
}

#[test]
fn reads_back_what_it_writes() {
    for text in ["faults", "base=0", "base=1s+noise=0.333+seed=18446744073709551615", "per_token=1us+per_row=1500ns"] {
        let options: Synthetic = text.parse().unwrap();
        assert_eq!(options.to_string().parse::<Synthetic>().unwrap(), options, "{options}");
    }
}

#[test]
fn names_the_option_that_is_wrong() {
    let error = |text: &str| text.parse::<Synthetic>().unwrap_err();
    assert_eq!(error(""), SyntheticError::EmptyOption);
    assert_eq!(error("base=1ms++seed=1"), SyntheticError::EmptyOption);
    assert_eq!(
        error("per_rows=1ms"),
        SyntheticError::UnknownOption { found: "per_rows".into(), near: "per_row".into() }
    );
    assert_eq!(error("base"), SyntheticError::NoValue { option: "base" });
    assert_eq!(error("seed=1+seed=2"), SyntheticError::Twice { option: "seed".into() });
    for (text, option) in [
        ("base=2", "base"),
        ("floor=2h", "floor"),
        ("noise=NaN", "noise"),
        ("noise=-1", "noise"),
        ("nanos_per_token_squared=inf", "nanos_per_token_squared"),
        ("seed=-1", "seed"),
        ("faults=maybe", "faults"),
        ("memory_rows=4294967296", "memory_rows"),
    ] {
        let found = error(text);
        assert!(matches!(found, SyntheticError::Value { option: o, .. } if o == option), "{text}: {found}");
    }
}
