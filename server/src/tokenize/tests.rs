use tokenizers::Tokenizer as HuggingFaceTokenizer;

use super::*;

/// What follows the model, by the names that `tokenizer.json` has for it.
const BERT: &str = r#"{"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]}"#;
const ROBERTA: &str = r#"{"type":"RobertaProcessing","sep":["[SEP]",2],"cls":["[CLS]",1],"trim_offsets":true,
    "add_prefix_space":false}"#;
const TEMPLATE: &str = r#"{"type":"TemplateProcessing",
    "single":[{"SpecialToken":{"id":"[CLS]","type_id":0}},{"Sequence":{"id":"A","type_id":0}},
        {"SpecialToken":{"id":"[SEP]","type_id":0}}],
    "pair":[{"SpecialToken":{"id":"[CLS]","type_id":0}},{"Sequence":{"id":"A","type_id":0}},
        {"SpecialToken":{"id":"[SEP]","type_id":0}},{"Sequence":{"id":"B","type_id":1}},
        {"SpecialToken":{"id":"[SEP]","type_id":1}}],
    "special_tokens":{"[CLS]":{"id":"[CLS]","ids":[1],"tokens":["[CLS]"]},
        "[SEP]":{"id":"[SEP]","ids":[2],"tokens":["[SEP]"]}}}"#;

fn json(post_processor: &str) -> Vec<u8> {
    let special = |(id, content): (u32, &str)| {
        format!(
            r#"{{"id":{id},"content":"{content}","single_word":false,"lstrip":false,"rstrip":false,
            "normalized":false,"special":true}}"#
        )
    };
    let added: Vec<_> = (0..).zip(["[UNK]", "[CLS]", "[SEP]", "[MASK]"]).map(special).collect();
    let json = format!(
        r###"{{"version":"1.0","added_tokens":[{}],"pre_tokenizer":{{"type":"Whitespace"}},
        "post_processor":{post_processor},"decoder":{{"type":"WordPiece","prefix":"##","cleanup":false}},
        "model":{{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##",
            "max_input_chars_per_word":20,
            "vocab":{{"[UNK]":0,"[CLS]":1,"[SEP]":2,"[MASK]":3,"a":4,"b":5,"##c":6,"cat":7}}}}}}"###,
        added.join(",")
    );
    json.into_bytes()
}

fn tokenizer(post_processor: &str, tokens_max: u32) -> Tokenizer {
    Tokenizer::new(Vocabulary::parse("ab", &json(post_processor)).expect("a tokenizer"), tokens_max)
}

fn pair(first: &str, second: &str) -> Text {
    Text::Pair(first.into(), second.into())
}

fn numbers(column: &Bytes) -> Vec<u32> {
    column.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

const WITH_TYPES: Cut = Cut { truncate: false, type_ids: true, pieces: false };

#[test]
fn a_pair_becomes_one_row_with_its_segments_told_apart() {
    let tokens = tokenizer(TEMPLATE, 16).encode(&pair("a b", "cat"), WITH_TYPES).expect("tokens");
    assert_eq!(numbers(&tokens.ids), [1, 4, 5, 2, 7, 2]);
    assert_eq!(numbers(&tokens.type_ids), [0, 0, 0, 0, 1, 1]);
    assert_eq!((tokens.count, tokens.truncated), (6, false));
    let single = tokenizer(TEMPLATE, 16).encode(&Text::Single("a b".into()), WITH_TYPES).expect("tokens");
    assert_eq!(numbers(&single.type_ids), [0; 4]);
}

#[test]
fn segments_are_told_only_when_asked_for() {
    let tokens = tokenizer(TEMPLATE, 16).encode(&pair("a", "b"), Cut::default()).expect("tokens");
    assert!(tokens.type_ids.is_empty());
}

#[test]
fn a_pair_that_is_too_long_is_refused_unless_it_may_be_cut() {
    let problem = tokenizer(TEMPLATE, 5).encode(&pair("a b", "cat"), WITH_TYPES).expect_err("too long");
    assert_eq!(problem, "has 6 tokens with its pair, the model takes at most 5; shorten it or set `truncate`");
    let cut = tokenizer(TEMPLATE, 5).encode(&pair("a b", "cat"), Cut { truncate: true, ..WITH_TYPES }).expect("tokens");
    assert_eq!(numbers(&cut.ids), [1, 4, 2, 7, 2]);
    assert_eq!(numbers(&cut.type_ids), [0, 0, 0, 1, 1]);
    assert!(cut.truncated);
}

/// The library can cut by itself, but only with a limit that belongs to the vocabulary, which models share.
#[test]
fn what_is_cut_is_what_the_library_cuts_longest_first() {
    for post_processor in [BERT, ROBERTA, TEMPLATE, "null"] {
        let words = |count: usize| vec!["a"; count].join(" ");
        for (first, second, tokens_max) in
            [(1, 9, 8), (9, 1, 8), (9, 9, 8), (9, 9, 9), (3, 4, 8), (5, 30, 12), (30, 5, 12), (1, 1, 4)]
        {
            let mut library = HuggingFaceTokenizer::from_bytes(json(post_processor)).expect("a tokenizer");
            let params = TruncationParams { max_length: tokens_max, ..TruncationParams::default() };
            library.with_truncation(Some(params)).expect("truncation");
            let expected = library.encode((words(first), words(second)), true).expect("encoding");
            let cut = Cut { truncate: true, ..WITH_TYPES };
            let text = pair(&words(first), &words(second));
            let tokens = tokenizer(post_processor, tokens_max as u32).encode(&text, cut).expect("tokens");
            let case = format!("{post_processor}: {first} and {second} in {tokens_max}");
            assert_eq!(numbers(&tokens.ids), expected.get_ids(), "{case}");
            assert_eq!(numbers(&tokens.type_ids), expected.get_type_ids(), "{case}");
        }
    }
}

#[test]
fn bytes_that_cannot_fit_are_refused_on_either_side() {
    let long = "a".repeat(8 * BYTES_PER_TOKEN_MAX + 1);
    for text in [pair(&long, "a"), pair("a", &long), Text::Single(long.clone())] {
        let problem = tokenizer(TEMPLATE, 8).encode(&text, Cut::default()).expect_err("too long");
        assert_eq!(problem, "8193 bytes cannot fit 8 tokens");
        let cut = tokenizer(TEMPLATE, 8).encode(&text, Cut { truncate: true, ..Cut::default() }).expect("tokens");
        assert!(cut.truncated);
    }
    for text in [pair("", "a"), pair("a", ""), Text::Single(String::new())] {
        assert_eq!(tokenizer(TEMPLATE, 8).encode(&text, Cut::default()).expect_err("empty"), "is an empty text");
    }
}

#[test]
fn a_target_is_an_entry_of_the_vocabulary_or_a_text_of_one_token() {
    let vocabulary = Vocabulary::parse("ab", &json(TEMPLATE)).expect("a tokenizer");
    assert_eq!(vocabulary.id("cat"), Ok(7));
    assert_eq!(vocabulary.id("##c"), Ok(6));
    assert_eq!(vocabulary.id(" cat "), Ok(7), "no entry, and one token all the same");
    assert_eq!(vocabulary.id("ac").unwrap_err(), "is 2 tokens (a, ##c), not one");
    assert_eq!(vocabulary.id("a a a a a").unwrap_err(), "is 5 tokens (a, a, a, a, …), not one");
    for unknown in ["dog", "", " "] {
        assert_eq!(vocabulary.id(unknown).unwrap_err(), "is not in the model's vocabulary");
    }
    assert_eq!(vocabulary.id(&"a".repeat(257)).unwrap_err(), "has 257 bytes, and a token at most 256");
}

#[test]
fn a_token_is_told_as_text() {
    let vocabulary = Vocabulary::parse("ab", &json(TEMPLATE)).expect("a tokenizer");
    assert_eq!([3, 6, 7, 99].map(|id| vocabulary.text(id)), ["[MASK]", "##c", "cat", ""]);
}
