use axum::response::IntoResponse as _;
use serde_json::{Value, json};

use super::*;
use crate::frontend::EmbedInput;

fn parse(body: &Value) -> EmbeddingsRequest {
    EmbeddingsRequest::parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{body}: {error:?}"))
}

/// Status, param and message of what is wrong with a body.
async fn wrong(body: &str) -> (u16, Value, String) {
    let error = EmbeddingsRequest::parse(body.as_bytes()).expect_err(body);
    let (head, answer) = error.into_response().into_parts();
    let answer = axum::body::to_bytes(answer, usize::MAX).await.expect("body");
    let mut answer: Value = serde_json::from_slice(&answer).expect("JSON");
    let message = answer["error"]["message"].as_str().expect("a message").to_owned();
    (head.status.as_u16(), answer["error"]["param"].take(), message)
}

fn texts(texts: &[&str]) -> EmbedInput {
    EmbedInput::Texts(texts.iter().map(|&text| text.to_owned()).collect())
}

#[test]
fn an_input_comes_in_four_forms() {
    let cases = [
        (json!("a \"b\" ü"), texts(&["a \"b\" ü"]), true),
        (json!(["a", "b"]), texts(&["a", "b"]), false),
        (json!([1, 2]), EmbedInput::Ids(vec![vec![1, 2]]), true),
        (json!([[1], [2, 3]]), EmbedInput::Ids(vec![vec![1], vec![2, 3]]), false),
        (json!([]), texts(&[]), false),
        (json!([[]]), EmbedInput::Ids(vec![vec![]]), false),
    ];
    for (input, expected, lone) in cases {
        let request = parse(&json!({"model": "m", "input": input}));
        assert_eq!((request.embed.input, request.lone), (expected, lone), "{input}");
    }
}

#[test]
fn what_is_not_said_is_as_openai_has_it() {
    let request = parse(&json!({"input": "a", "dimensions": null, "user": null}));
    assert_eq!((request.embed.model.as_str(), request.form, request.embed.truncate), ("", Form::Float, false));
    assert_eq!(request.embed.options, RowOptions::default());
}

#[test]
fn every_field_is_read() {
    let request = parse(&json!({
        "model": "m", "input": "a", "encoding_format": "base64", "dimensions": 64, "user": "someone",
        "truncate": true, "normalize": false,
    }));
    assert_eq!((request.embed.model.as_str(), request.form, request.embed.truncate), ("m", Form::Base64, true));
    assert_eq!(request.embed.options, RowOptions { normalize: Some(false), dimensions: 64, ..RowOptions::default() });
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let cases = [
        (r#"{"model":"m"}"#, "input"),
        (r#"{"input":null}"#, "input"),
        (r#"{"input":3}"#, "input"),
        (r#"{"input":{"a":1}}"#, "input"),
        (r#"{"input":["a",null]}"#, "input[1]"),
        (r#"{"input":["a",true,"b"]}"#, "input[1]"),
        (r#"{"input":["a","b",{"c":[1]}]}"#, "input[2]"),
        (r#"{"input":["a",1]}"#, "input[1]"),
        (r#"{"input":[1,"a"]}"#, "input[1]"),
        (r#"{"input":[[1],"a"]}"#, "input[1]"),
        (r#"{"input":[1,[2]]}"#, "input[1]"),
        (r#"{"input":[1,-2]}"#, "input[1]"),
        (r#"{"input":[1,2.0]}"#, "input[1]"),
        (r#"{"input":[4294967296]}"#, "input[0]"),
        (r#"{"input":[[1],[2,"a",3]]}"#, "input[1][1]"),
        (r#"{"input":[[[1]]]}"#, "input[0][0]"),
        (r#"{"input":"a","model":7}"#, "model"),
        (r#"{"input":"a","encoding_format":"hex"}"#, "encoding_format"),
        (r#"{"input":"a","encoding_format":["float"]}"#, "encoding_format"),
        (r#"{"input":"a","dimensions":0}"#, "dimensions"),
        (r#"{"input":"a","dimensions":1.5}"#, "dimensions"),
        (r#"{"input":"a","user":7}"#, "user"),
        (r#"{"input":"a","truncate":1}"#, "truncate"),
        (r#"{"input":"a","normalize":"yes"}"#, "normalize"),
        (r#"{"input":"a","inputs":"b"}"#, "inputs"),
        (r#"["input"]"#, "body"),
        ("null", "body"),
        (r#""input""#, "body"),
    ];
    for (body, field) in cases {
        let (status, param, message) = wrong(body).await;
        assert_eq!((status, param.as_str()), (400, Some(field)), "{body}: {message}");
        assert!(message.contains(field), "{body}: {message}");
    }
}

#[tokio::test]
async fn what_is_no_json_is_said_to_be_none() {
    for body in ["", "{", "{]", r#"{"input":"a"} {}"#, r#"{"input":[1,}"#, "input=a", "{\"input\":\"\u{1}\"}"] {
        let (status, param, message) = wrong(body).await;
        assert_eq!((status, param), (400, Value::Null), "{body}");
        assert!(message.starts_with("the body is not JSON"), "{body}: {message}");
    }
    assert!(EmbeddingsRequest::parse(b"{\"input\":\"\xff\"}").is_err());
}

#[tokio::test]
async fn as_many_inputs_fit_as_openai_takes() {
    let list = |element: &str, count| format!(r#"{{"input":[{}]}}"#, vec![element; count].join(","));
    for element in [r#""a""#, "[1]"] {
        assert!(EmbeddingsRequest::parse(list(element, 2048).as_bytes()).is_ok());
        let (status, param, message) = wrong(&list(element, 2049)).await;
        assert_eq!((status, param.as_str()), (400, Some("input")));
        assert!(message.contains("2049") && message.contains("2048"), "{message}");
    }
    // One input of many ids is one input.
    assert!(EmbeddingsRequest::parse(list("1", 5000).as_bytes()).is_ok());
}

#[tokio::test]
async fn no_message_is_as_long_as_what_was_sent() {
    let long = "x".repeat(1 << 16);
    let bodies = [
        format!(r#"{{"{long}":1}}"#),
        format!(r#"{{"input":"a","dimensions":"{long}"}}"#),
        format!(r#"{{"input":"a","encoding_format":"{long}"}}"#),
        format!(r#"{{"input":[1,"{long}"]}}"#),
        format!(r#""{long}""#),
        format!("{{{long}"),
        format!(r#"{{"input":{}"#, "[".repeat(1 << 16)),
        format!(r#"{{"input":{}{}}}"#, "[".repeat(1 << 16), "]".repeat(1 << 16)),
    ];
    for body in bodies {
        let (status, _, message) = wrong(&body).await;
        assert_eq!(status, 400);
        assert!(message.len() < 400, "{message}");
    }
}
