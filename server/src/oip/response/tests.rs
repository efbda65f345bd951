use std::time::Duration;

use proptest::prelude::*;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_scheduler::{CloseReason, WaitCause};

use super::super::testing::{
    classifier, echo, embedder, f32s, framed, i64s, input, masker, parse, raw_request, reranker, several,
};
use super::super::{InferRequest, Payload};
use super::*;
use crate::call::BatchUse;
use crate::explain::{Explanation, Waited};

fn tensor(name: &str, data_type: DataType, shape: &[i64], data: Vec<u8>) -> Tensor {
    Tensor { name: name.into(), data_type, shape: shape.to_vec(), data: data.into() }
}

fn answer(rows: Vec<Vec<Tensor>>) -> Answer {
    let (model, batches) = ("m".into(), Vec::new());
    Answer { model, rows, queue_time: Duration::ZERO, compute_time: Duration::ZERO, batches, explanation: None }
}

fn all(signature: &Signature) -> ReplyForm {
    ReplyForm { id: "7".into(), outputs: (0..signature.outputs().len()).collect() }
}

fn labelled(label: &[u8], score: i64) -> Vec<Tensor> {
    let label = tensor("label", DataType::Bytes, &[i64::try_from(label.len()).unwrap()], label.to_vec());
    vec![label, tensor("score", DataType::I64, &[], i64s(&[score]))]
}

fn fault_of(signature: &Signature, rows: Vec<Vec<Tensor>>) -> String {
    match all(signature).response(signature, &answer(rows), Usage::default()) {
        Err(CallError::Internal { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_names_its_request_and_its_model() {
    let rows = vec![vec![tensor("embedding", DataType::F32, &[4], f32s(&[1.0; 4]))]];
    let response = all(&embedder()).response(&embedder(), &answer(rows), Usage::default()).unwrap();
    assert_eq!(
        (response.id.as_str(), response.model_name.as_str(), response.model_version.as_str()),
        ("7", "minilm", "1")
    );
}

#[test]
fn rows_are_joined_in_order() {
    let row = |value: f32| vec![tensor("embedding", DataType::F32, &[2], f32s(&[value, -value]))];
    let response = all(&embedder()).response(&embedder(), &answer(vec![row(1.0), row(2.0)]), Usage::default()).unwrap();
    let [output] = &response.outputs[..] else { panic!("{response:?}") };
    assert_eq!((output.name.as_str(), output.datatype.as_str(), &output.shape[..]), ("embedding", "FP32", &[2, 2][..]));
    assert!(output.contents.is_none());
    assert_eq!(response.raw_output_contents, [f32s(&[1.0, -1.0, 2.0, -2.0])]);
}

#[test]
fn a_single_row_is_not_copied() {
    let row = tensor("embedding", DataType::F32, &[4], f32s(&[1.0; 4]));
    let start = row.data.as_ptr();
    let response = all(&embedder()).response(&embedder(), &answer(vec![vec![row]]), Usage::default()).unwrap();
    assert_eq!(response.raw_output_contents[0].as_ptr(), start);
}

#[test]
fn every_output_has_raw_contents_in_the_order_asked() {
    let signature = several();
    let form = ReplyForm { id: String::new(), outputs: vec![1, 0] };
    let rows = vec![labelled(b"cat", 3), labelled(b"", -1)];
    let response = form.response(&signature, &answer(rows), Usage::default()).unwrap();
    let shapes: Vec<_> =
        response.outputs.iter().map(|output| (output.name.as_str(), output.shape.as_slice())).collect();
    assert_eq!(shapes, [("score", &[2][..]), ("label", &[2, 1])]);
    assert_eq!(response.raw_output_contents, [i64s(&[3, -1]), framed(&[b"cat", b""])]);
}

#[test]
fn an_answer_says_what_it_took() {
    let batch = |rows, close| BatchUse {
        rows,
        tokens: rows * 10,
        own_rows: 1,
        close,
        compute_time: Duration::ZERO,
        attempt: 1,
    };
    let rows = vec![vec![tensor("embedding", DataType::F32, &[4], f32s(&[1.0; 4]))]];
    let answer = Answer {
        queue_time: Duration::from_micros(1500),
        compute_time: Duration::from_millis(2),
        batches: vec![batch(3, CloseReason::Drained), batch(8, CloseReason::Tokens)],
        ..answer(rows)
    };
    let response = all(&embedder()).response(&embedder(), &answer, Usage { tokens: 42, truncated: 1 }).unwrap();
    let number = |name: &str| match &response.parameters[name].parameter_choice {
        Some(ParameterChoice::Int64Param(value)) => *value,
        other => panic!("{name}: {other:?}"),
    };
    let numbers =
        ["queue_us", "compute_us", "tokens", "truncated", "batches", "batch_rows", "batch_tokens"].map(number);
    assert_eq!(numbers, [1500, 2000, 42, 1, 2, 8, 80]);
    let text = |name: &str| response.parameters[name].parameter_choice.clone();
    assert_eq!(text("batch_close_reason"), Some(ParameterChoice::StringParam("tokens".into())));
    assert_eq!(text("dtype"), Some(ParameterChoice::StringParam("f32".into())));
}

#[test]
fn an_answer_says_what_it_waited_for_to_who_asked() {
    let rows = || vec![vec![tensor("embedding", DataType::F32, &[4], f32s(&[1.0; 4]))]];
    let waits = [(WaitCause::WorkersBusy, Duration::from_micros(1200))].into_iter().collect();
    let waited = Waited { waits, failed: Duration::from_micros(300) };
    let objective = Duration::from_millis(50);
    let explanation = Some(Box::new(Explanation { waited, late_rows: 1, objective, batches: Vec::new() }));
    let asked = Answer { explanation, ..answer(rows()) };
    let parameters = all(&embedder()).response(&embedder(), &asked, Usage::default()).unwrap().parameters;
    let number = |name: &str| match &parameters[name].parameter_choice {
        Some(ParameterChoice::Int64Param(value)) => *value,
        other => panic!("{name}: {other:?}"),
    };
    let names =
        ["waited_workers_busy_us", "waited_failed_attempts_us", "waited_loading_us", "late_rows", "objective_us"];
    assert_eq!(names.map(number), [1200, 300, 0, 1, 50_000]);
    assert!(matches!(&parameters["explain"].parameter_choice, Some(ParameterChoice::StringParam(text)) if
        text.starts_with("Waited 1.5 ms: 1.2 ms for busy workers")));
    let plain = all(&embedder()).response(&embedder(), &answer(rows()), Usage::default()).unwrap().parameters;
    assert!(!plain.keys().any(|name| name.starts_with("waited") || name == "explain"), "{plain:?}");
}

#[test]
fn what_the_model_does_not_promise_is_a_fault_not_an_answer() {
    let good = || tensor("embedding", DataType::F32, &[4], f32s(&[1.0; 4]));
    assert!(fault_of(&embedder(), vec![]).contains("without rows"));
    assert!(fault_of(&embedder(), vec![vec![good()], vec![]]).contains("`embedding` in its place"));
    assert!(fault_of(&embedder(), vec![vec![Tensor { name: "other".into(), ..good() }]]).contains("in its place"));
    assert!(fault_of(&embedder(), vec![vec![Tensor { data_type: DataType::I32, ..good() }]]).contains("INT32"));
    assert!(fault_of(&embedder(), vec![vec![Tensor { shape: vec![5], ..good() }]]).contains("fit its shape"));
    assert!(fault_of(&embedder(), vec![vec![Tensor { shape: vec![-4], ..good() }]]).contains("fit its shape"));
    let short = tensor("embedding", DataType::F32, &[1], f32s(&[1.0]));
    assert!(fault_of(&embedder(), vec![vec![good()], vec![short]]).contains("differ in shape"));
}

#[test]
fn answers_on_a_stream_are_final() {
    let wrapped = stream_answer(ModelInferResponse { id: "a".into(), ..Default::default() });
    let response = wrapped.infer_response.unwrap();
    assert_eq!(wrapped.error_message, "");
    assert_eq!(response.id, "a");
    let last = response.parameters["triton_final_response"].parameter_choice.clone();
    assert_eq!(last, Some(ParameterChoice::BoolParam(true)));
}

#[test]
fn failures_on_a_stream_are_found_by_id() {
    let wrapped = stream_failure("a", "minilm", &CallError::DeadlinePassed, &Asked::default());
    assert_eq!(wrapped.error_message, CallError::DeadlinePassed.to_string());
    let response = wrapped.infer_response.unwrap();
    assert_eq!((response.id.as_str(), response.model_name.as_str()), ("a", "minilm"));
    assert!(response.parameters.contains_key("triton_final_response"));
}

proptest! {
    #[test]
    fn what_goes_in_comes_out_bit_by_bit(rows in 1..6_usize, length in 1..6_usize, values in prop::collection::vec(any::<u8>(), 100)) {
        let sent = values[..rows * length * 4 % 100].to_vec();
        let sent: Vec<u8> = sent.iter().copied().cycle().chain(std::iter::repeat(0)).take(rows * length * 4).collect();
        let request = raw_request(vec![input("x", "FP32", &[rows as i64, length as i64])], vec![sent.clone()]);
        let InferRequest { payload: Payload::Rows(parsed), reply, .. } = parse(request, &echo()).unwrap() else { panic!() };
        let echoed = parsed.into_iter().map(|row| {
            let data = row.columns.into_iter().next().unwrap();
            vec![Tensor { name: "y".into(), data_type: DataType::F32, shape: vec![length as i64], data }]
        });
        let response = reply.response(&echo(), &answer(echoed.collect()), Usage::default()).unwrap();
        prop_assert_eq!(&response.outputs[0].shape, &[rows as i64, length as i64]);
        prop_assert_eq!(&response.raw_output_contents[0], &sent);
    }
}

#[test]
fn scores_have_the_shapes_that_clients_are_told_of() {
    let scores = |shape: &[i64], values: &[f32]| tensor("scores", DataType::F32, shape, f32s(values));
    let shapes = |signature: &Signature, rows| {
        let response = all(signature).response(signature, &answer(rows), Usage::default()).unwrap();
        response.outputs.into_iter().map(|output| output.shape).collect::<Vec<_>>()
    };
    let row = |values: &[f32; 2]| vec![scores(&[2], values)];
    assert_eq!(shapes(&classifier(), vec![row(&[0.1, 0.9]), row(&[0.8, 0.2])]), [[2, 2]]);
    assert_eq!(shapes(&reranker(), vec![vec![scores(&[1], &[0.5])]; 3]), [[3]]);
    let row = |masks: i64| {
        let count = usize::try_from(2 * masks).unwrap();
        let ids = tensor("token_ids", DataType::I64, &[masks, 2], i64s(&vec![7; count]));
        vec![ids, scores(&[masks, 2], &vec![0.5; count])]
    };
    assert_eq!(shapes(&masker(), vec![row(1); 3]), [[3, 2], [3, 2]]);
    assert!(fault_of(&masker(), vec![row(2); 3]).contains("`token_ids` with 2 dimensions"));
}
