use super::{ModelName, NameError};

#[test]
fn accepts_what_the_rule_allows() {
    for name in ["minilm", "0", "a.b_c-d", "bge-small-en-v1.5", &"a".repeat(64)] {
        assert_eq!(name.parse::<ModelName>().unwrap().as_str(), name);
    }
}

#[test]
fn says_which_character_is_wrong() {
    let error = |text: &str| text.parse::<ModelName>().unwrap_err();
    assert_eq!(error(""), NameError::Empty);
    assert_eq!(error("-a"), NameError::First { name: "-a".into(), found: '-' });
    assert_eq!(error("MiniLM"), NameError::First { name: "MiniLM".into(), found: 'M' });
    assert_eq!(error("org/model"), NameError::Character { name: "org/model".into(), found: '/' });
    assert_eq!(error("modèle"), NameError::Character { name: "modèle".into(), found: 'è' });
    assert_eq!(error(&"a".repeat(65)), NameError::TooLong { length: 65 });
}

#[test]
fn is_checked_when_read_from_configuration() {
    assert_eq!(serde_json::from_str::<ModelName>("\"minilm\"").unwrap().as_str(), "minilm");
    let error = serde_json::from_str::<ModelName>("\"a b\"").unwrap_err();
    assert!(error.to_string().contains("contains ' '"), "{error}");
}
