//! The mistakes that people make, one by one, with the field each is told by.

use proptest::strategy::ValueTree as _;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::inference::{InferParameter, InferTensorContents, ModelInferRequest};
use shoal_proto::v1::{
    ClassifyRequest, ClassifyResponse, EmbedRequest, EmbedResponse, FillMaskRequest, FillMaskResponse, RerankRequest,
    RerankResponse, TokenizeRequest,
};

use super::requests::{CLASSIFY, EMBED, FILL_MASK, INFER, RERANK, classify, embed, fill_mask, infer_echo, rerank};
use super::*;

const TOKENIZE: &str = "/shoal.v1.Inference/Tokenize";

async fn field(bench: &Bench, method: &str, message: &impl Message) -> String {
    let outcome = bench.ask(method, message).await;
    assert_eq!(outcome.status.code(), Code::InvalidArgument, "{outcome:?}");
    assert_documented(method, &outcome);
    let details = outcome.status.get_error_details();
    details.bad_request().expect("details").field_violations[0].field.clone()
}

fn texts(texts: Vec<String>) -> EmbedRequest {
    EmbedRequest { model: "e".into(), texts, ..Default::default() }
}

#[tokio::test]
async fn texts_that_are_none_are_named() {
    let bench = Bench::new(ModelControl::None).await;
    let cases = [
        (vec![], "texts"),
        (vec![String::new()], "texts[0]"),
        (vec!["a".into(), String::new()], "texts[1]"),
        // This tokenizer adds no tokens of its own.
        (vec!["a".into(), " \n\t ".into()], "texts[1]"),
        (vec!["a ".repeat(17)], "texts[0]"),
        (vec!["a".into(), "a".repeat(900_000)], "texts[1]"),
        (vec!["a".into(); 2049], "texts"),
    ];
    for (given, expected) in cases {
        assert_eq!(field(&bench, EMBED, &texts(given.clone())).await, expected);
        let tokenize = TokenizeRequest { model: "e".into(), texts: given.clone(), truncate: false };
        assert_eq!(field(&bench, TOKENIZE, &tokenize).await, expected);
        // The protocol's calls name the input, and the shape where it is their number that is wrong.
        let pieces = given.iter().map(|text| Bytes::from(text.clone())).collect();
        let contents = InferTensorContents { bytes_contents: pieces, ..Default::default() };
        let mut infer = ModelInferRequest { model_name: "e".into(), ..Default::default() };
        infer.inputs = infer_echo().inputs;
        let input = &mut infer.inputs[0];
        (input.name, input.datatype, input.shape) = ("text".into(), "BYTES".into(), vec![given.len() as i64]);
        input.contents = Some(contents);
        let expected =
            if expected == "texts" { "inputs[0].shape".into() } else { expected.replace("texts", "inputs[0]") };
        assert_eq!(field(&bench, INFER, &infer).await, expected);
    }
    bench.assert_unharmed().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_pair_a_query_or_a_mask_is_named() {
    let bench = Bench::new(ModelControl::None).await;
    let classify = |change: &dyn Fn(&mut ClassifyRequest)| changed(classify(), change);
    let cases = [
        (classify(&|it| it.texts.clear()), "texts"),
        (classify(&|it| drop(it.text_pairs.pop())), "text_pairs"),
        (classify(&|it| it.text_pairs[1].clear()), "text_pairs[1]"),
        (classify(&|it| (it.texts[1], it.truncate) = ("a ".repeat(13), false)), "texts[1]"),
        (classify(&|it| it.model = "e".into()), "model"),
    ];
    for (request, expected) in cases {
        assert_eq!(field(&bench, CLASSIFY, &request).await, expected);
    }
    let rerank = |change: &dyn Fn(&mut RerankRequest)| changed(rerank(), change);
    let cases = [
        (rerank(&|it| it.query.clear()), "query"),
        (rerank(&|it| it.texts.clear()), "texts"),
        (rerank(&|it| it.texts[2].clear()), "texts[2]"),
        (rerank(&|it| (it.query, it.truncate) = ("a ".repeat(13), false)), "texts[0]"),
        (rerank(&|it| it.texts = vec!["a".into(); 2049]), "texts"),
    ];
    for (request, expected) in cases {
        assert_eq!(field(&bench, RERANK, &request).await, expected);
    }
    let fill_mask = |change: &dyn Fn(&mut FillMaskRequest)| changed(fill_mask(), change);
    let cases = [
        (fill_mask(&|it| it.texts[1] = "a".into()), "texts[1]"),
        (fill_mask(&|it| it.texts[0] = format!("{}[MASK]", "a ".repeat(12))), "texts[0]"),
        (fill_mask(&|it| it.targets[2] = "x".into()), "targets[2]"),
        (fill_mask(&|it| it.targets[0] = "🦑".repeat(200)), "targets[0]"),
        (fill_mask(&|it| it.targets[1] = "a\0b".repeat(50)), "targets[1]"),
        (fill_mask(&|it| it.targets = vec!["a".into(); 1025]), "targets"),
        (fill_mask(&|it| it.top_k = u32::MAX), "top_k"),
    ];
    for (request, expected) in cases {
        assert_eq!(field(&bench, FILL_MASK, &request).await, expected);
    }
    bench.assert_unharmed().await;
}

fn changed<T>(mut request: T, change: &dyn Fn(&mut T)) -> T {
    change(&mut request);
    request
}

#[tokio::test]
async fn scores_reach_the_wire_by_their_names() {
    let bench = Bench::new(ModelControl::None).await;
    let answer: ClassifyResponse = bench.ask(CLASSIFY, &classify()).await.only();
    let scores: Vec<_> = answer.results[0].scores.iter().map(|it| (it.label.as_str(), it.score)).collect();
    assert_eq!(scores, [("tokens", 6.0), ("second", 2.0)]);
    assert_eq!(answer.usage.expect("usage").tokens, 11);
    let answer: RerankResponse = bench.ask(RERANK, &rerank()).await.only();
    let ranked: Vec<_> = answer.results.iter().map(|it| (it.index, it.score, it.text.as_str())).collect();
    assert_eq!(ranked, [(1, -8.0, "c"), (2, -9.0, "d")]);
    let bare = RerankRequest { return_text: false, ..rerank() };
    let answer: RerankResponse = bench.ask(RERANK, &bare).await.only();
    assert!(answer.results.iter().all(|it| it.text.is_empty()));
    let answer: FillMaskResponse = bench.ask(FILL_MASK, &fill_mask()).await.only();
    let masks: Vec<_> =
        answer.results.iter().map(|it| it.masks.iter().map(|it| it.token_index).collect::<Vec<_>>()).collect();
    assert_eq!(masks, [vec![2, 4], vec![1]]);
    let best: Vec<_> =
        answer.results[1].masks[0].candidates.iter().map(|it| (it.token_id, it.token.as_str())).collect();
    assert_eq!(best, [(4, "a"), (5, "b")]);
}

#[tokio::test]
async fn texts_that_are_only_odd_are_answered() {
    let bench = Bench::new(ModelControl::None).await;
    let odd = ["\0", "a\0b", "\u{301}\u{301}", "\u{202e}a", "🦑", "\u{fffd}"].map(String::from);
    let long_word = "b".repeat(10_000);
    let all: Vec<String> = odd.into_iter().chain([long_word]).collect();
    let answer: EmbedResponse = bench.ask(EMBED, &texts(all.clone())).await.only();
    assert_eq!(answer.embeddings.len(), all.len());
    let cut = EmbedRequest { truncate: true, ..texts(vec!["a ".repeat(400_000)]) };
    let answer: EmbedResponse = bench.ask(EMBED, &cut).await.only();
    assert_eq!((answer.embeddings[0].values[0], answer.usage.expect("usage").truncated), (16.0, 1));
    let most: EmbedResponse = bench.ask(EMBED, &texts(vec!["a".into(); 2048])).await.only();
    assert_eq!(most.embeddings.len(), 2048);
}

#[tokio::test]
async fn what_is_not_utf8_is_named() {
    let bench = Bench::new(ModelControl::None).await;
    for (message, expected) in [
        (EmbedRequest { model: "QQ".into(), ..embed() }.encode_to_vec(), "model"),
        (EmbedRequest { texts: vec!["QQ".into()], ..embed() }.encode_to_vec(), "texts"),
    ] {
        let at = message.windows(2).position(|pair| pair == b"QQ").expect("the mark");
        let mut broken = message;
        broken[at] = 0xff;
        let outcome = bench.call(EMBED, framed(&broken)).await;
        assert_eq!(outcome.status.code(), Code::InvalidArgument, "{outcome:?}");
        assert!(outcome.status.message().starts_with(&format!("`{expected}`: invalid string")), "{outcome:?}");
    }
    let mut request = infer_echo();
    request.model_name = "e".into();
    request.outputs.clear();
    request.inputs[0] = shoal_proto::inference::model_infer_request::InferInputTensor {
        name: "text".into(),
        datatype: "BYTES".into(),
        shape: vec![1],
        ..Default::default()
    };
    request.raw_input_contents = vec![Bytes::from_static(b"\x02\0\0\0\xff\xfe")];
    assert_eq!(field(&bench, INFER, &request).await, "raw_input_contents[0]");
    request.raw_input_contents = vec![Bytes::from_static(b"\xff\xff\xff\xffab")];
    assert_eq!(field(&bench, INFER, &request).await, "raw_input_contents[0]");
}

#[tokio::test]
async fn parameters_of_the_wrong_kind_are_named() {
    use ParameterChoice::{BoolParam, DoubleParam, Int64Param, StringParam, Uint64Param};
    let bench = Bench::new(ModelControl::None).await;
    let cases = [
        ("priority", DoubleParam(f64::NAN)),
        ("priority", DoubleParam(f64::INFINITY)),
        ("priority", BoolParam(true)),
        ("priority", Int64Param(4)),
        ("priority", Uint64Param(u64::MAX)),
        ("timeout", DoubleParam(f64::NEG_INFINITY)),
        ("timeout", Int64Param(-1)),
        ("timeout", Int64Param(i64::MAX)),
        ("timeout", Uint64Param(u64::MAX)),
        ("timeout", StringParam("1s".into())),
        ("truncate", Int64Param(1)),
        ("triton_request_priority", Int64Param(1)),
        ("binary_data", BoolParam(true)),
        ("", BoolParam(true)),
    ];
    for (name, choice) in cases {
        let mut request = infer_echo();
        request.parameters = [(name.to_owned(), InferParameter { parameter_choice: Some(choice) })].into();
        assert_eq!(field(&bench, INFER, &request).await, format!("parameters.{name}"));
    }
    for name in ["sequence_id", "sequence_start", "sequence_end"] {
        for choice in [BoolParam(true), Int64Param(1), StringParam("s".into()), DoubleParam(f64::NAN)] {
            let mut request = infer_echo();
            request.parameters = [(name.to_owned(), InferParameter { parameter_choice: Some(choice) })].into();
            assert_eq!(bench.ask(INFER, &request).await.status.code(), Code::Unimplemented);
        }
    }
    bench.assert_unharmed().await;
}

#[tokio::test]
async fn floats_that_are_no_numbers_come_back_bit_by_bit() {
    let bench = Bench::new(ModelControl::None).await;
    let patterns = [0x7fc0_0000_u32, 0x7f80_0001, 0xffff_ffff, 0x7f80_0000, 0xff80_0000, 0x8000_0000, 1];
    let data: Vec<u8> = patterns.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let mut raw = infer_echo();
    raw.inputs[0].shape = vec![1, 7];
    raw.raw_input_contents = vec![data.clone().into()];
    let mut typed = raw.clone();
    typed.raw_input_contents.clear();
    let fp32_contents = patterns.iter().map(|bits| f32::from_bits(*bits)).collect();
    typed.inputs[0].contents = Some(InferTensorContents { fp32_contents, ..Default::default() });
    for request in [raw, typed] {
        let answer: oip::ModelInferResponse = bench.ask(INFER, &request).await.only();
        assert_eq!(answer.raw_output_contents.concat(), data);
    }
}

#[tokio::test]
async fn a_stream_is_answered_behind_a_wrong_call() {
    let bench = Bench::new(ModelControl::None).await;
    let call = |id: &str, request| v1::EmbedStreamRequest { id: id.into(), request };
    let calls = [call("none", None), call("wrong", Some(texts(vec![]))), call("right", Some(embed()))];
    let body = calls.iter().flat_map(|call| framed(&call.encode_to_vec())).collect();
    let outcome = bench.call(EMBED_STREAM, body).await;
    assert_eq!((outcome.status.code(), outcome.messages.len()), (Code::Ok, 3), "{outcome:?}");
    let mut found = BTreeMap::new();
    for message in outcome.messages {
        let answer = v1::EmbedStreamResponse::decode(message).expect("an answer");
        let said = match answer.result.expect("a result") {
            v1::embed_stream_response::Result::Response(_) => "answered".to_owned(),
            v1::embed_stream_response::Result::Error(error) => error.message,
        };
        found.insert(answer.id, said);
    }
    assert_eq!(found["right"], "answered");
    assert!(found["none"].starts_with("`request`"), "{found:?}");
    assert!(found["wrong"].starts_with("`texts`"), "{found:?}");
}

#[test]
fn the_mutations_do_change_what_they_are_given() {
    let message = infer_echo().encode_to_vec();
    assert_eq!(change_fields(&message, &[]), message, "read and written without a loss");
    let mut runner = TestRunner::deterministic();
    let changed = |changes: &[(Index, mutation::FieldChange)]| change_fields(&message, changes) != message;
    let drawn = (0..100).map(|_| mutation::field_changes().new_tree(&mut runner).expect("changes").current());
    assert!(drawn.filter(|changes| changed(changes)).count() > 80);
}
