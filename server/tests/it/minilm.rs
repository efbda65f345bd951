//! Real weights: clients get what sentence-transformers computes, as near as the type of numbers allows, and the same
//! bits however they ask.

mod accuracy;
mod alone;

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::Signal;
use serde::Deserialize;
use shoal_proto::inference as oip;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::inference::model_infer_request::InferInputTensor;
use shoal_proto::v1 as wire;
use shoal_proto::v1::embed_stream_response::Result as StreamResult;
use shoal_server::models::{PullSettings, Store, catalogue};
use tonic::Code;

use crate::process::{Shoal, shared_home, signal, wait_for};

use alone::{Alone, assert_near};

/// What `make.py` beside the fixtures wrote.
#[derive(Deserialize)]
pub(crate) struct Fixtures {
    dims: usize,
    pub(crate) texts: Vec<Fixture>,
    #[serde(skip)]
    vectors: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
pub(crate) struct Fixture {
    name: String,
    pub(crate) text: String,
    truncated: bool,
    norm: f64,
    ids: Vec<u32>,
}

impl Fixtures {
    pub(crate) fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/minilm");
        let json = std::fs::read(folder.join("texts.json")).expect("texts.json");
        let mut fixtures: Self = serde_json::from_slice(&json).expect("texts");
        let bytes = std::fs::read(folder.join("vectors.f32")).expect("vectors.f32");
        let values: Vec<f32> =
            bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().expect("four"))).collect();
        fixtures.vectors = values.chunks_exact(fixtures.dims).map(<[f32]>::to_vec).collect();
        assert_eq!(fixtures.vectors.len(), fixtures.texts.len());
        assert!(fixtures.texts.len() >= 40);
        fixtures
    }

    fn all(&self) -> Vec<String> {
        self.texts.iter().map(|fixture| fixture.text.clone()).collect()
    }
}

/// The folder with the models, once the weights are in it. `None` where no mirror has them, unless they are required.
pub(crate) fn home() -> Option<PathBuf> {
    static HOME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let home = HOME.get_or_init(|| {
        let home = shared_home();
        let entry = catalogue::find("minilm").expect("the catalogue has minilm");
        let pulled = Store::new(&home, PullSettings::from_env()).pull(entry, &mut |_| {});
        pulled.map(|_| home).map_err(|error| error.to_string())
    });
    match home {
        Ok(home) => Some(home.clone()),
        Err(why) => {
            let required = std::env::var("SHOAL_TEST_WEIGHTS").is_ok_and(|value| value == "required");
            assert!(!required, "the weights of minilm are required and could not be pulled: {why}");
            // Past the test harness, which would keep it from being seen.
            let _ = writeln!(std::io::stderr(), "SKIPPED for want of the weights of minilm: {why}");
            None
        }
    }
}

pub(crate) fn embed(texts: &[String]) -> wire::EmbedRequest {
    wire::EmbedRequest { model: "minilm".into(), texts: texts.to_vec(), truncate: true, ..Default::default() }
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_those_of_sentence_transformers_alone_and_in_any_mix() {
    let Some(home) = home() else { return };
    let fixtures = Fixtures::read();
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    let alone = Alone::of(&shoal, &fixtures).await;
    let client = shoal.inference().await;
    let together = client.clone().embed(embed(&fixtures.all())).await.expect("answer").into_inner();
    assert_eq!(together.embeddings.len(), fixtures.texts.len());
    for (index, found) in together.embeddings.iter().enumerate() {
        alone.check(index, &found.values);
    }
    // Every call at once, in another order each time, so that batches mix them at random.
    for stride in [7, 11, 13] {
        let order: Vec<usize> = (0..fixtures.texts.len()).map(|index| index * stride % fixtures.texts.len()).collect();
        let calls: Vec<_> = order
            .iter()
            .map(|&index| {
                let (mut client, text) = (client.clone(), fixtures.texts[index].text.clone());
                tokio::spawn(async move { client.embed(embed(&[text])).await })
            })
            .collect();
        for (index, call) in order.into_iter().zip(calls) {
            let answer = call.await.expect("task").expect("answer").into_inner();
            alone.check(index, &answer.embeddings[0].values);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_threads_and_workers_answers_with_the_same_bits() {
    let Some(home) = home() else { return };
    let fixtures = Fixtures::read();
    let two = Shoal::serve_in(&home, &["--model", "minilm", "--worker-threads", "2"]);
    let alone = Alone::of(&two, &fixtures).await;
    drop(two);
    for (workers, threads) in [("1", "1"), ("2", "3")] {
        let arguments = ["--model", "minilm", "--workers", workers, "--worker-threads", threads];
        let shoal = Shoal::serve_in(&home, &arguments);
        let answer = shoal.inference().await.embed(embed(&fixtures.all())).await.expect("answer").into_inner();
        assert_eq!(answer.embeddings.len(), fixtures.texts.len());
        for (index, found) in answer.embeddings.iter().enumerate() {
            alone.check(index, &found.values);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_can_be_raw_and_short() {
    let Some(home) = home() else { return };
    let fixtures = Fixtures::read();
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    let mut client = shoal.inference().await;
    let fixture = &fixtures.texts[0];
    let texts = vec![fixture.text.clone()];
    let raw = wire::EmbedRequest { normalize: Some(false), ..embed(&texts) };
    let mut answer = client.embed(raw).await.expect("answer").into_inner();
    let (values, dtype) = (answer.embeddings.remove(0).values, answer.usage.expect("usage").dtype);
    let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    // A bfloat16 has eight bits.
    let tolerance = if dtype == "f32" { 1e-3 } else { 1e-2 };
    assert!((norm - fixture.norm).abs() < tolerance * fixture.norm, "{norm} is not {}", fixture.norm);
    let short = wire::EmbedRequest { dimensions: 64, ..embed(&texts) };
    let short = client.embed(short).await.expect("answer").into_inner().embeddings.remove(0).values;
    assert_eq!(short.len(), 64);
    assert_near("short", &short, &fixtures.vectors[0][..64], &dtype);
    let wide = wire::EmbedRequest { dimensions: 385, ..embed(&texts) };
    let status = client.embed(wide).await.expect_err("too wide");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("`dimensions`"), "{}", status.message());
    let long = "word ".repeat(300);
    let long = wire::EmbedRequest { truncate: false, ..embed(&[fixture.text.clone(), long]) };
    let status = client.embed(long).await.expect_err("too long");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("`texts[1]`") && status.message().contains("256"), "{}", status.message());
    let none = client.embed(embed(&[])).await.expect_err("nothing to embed");
    assert_eq!(none.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_and_ids_by_tensor_are_the_same_as_texts_by_call() {
    let Some(home) = home() else { return };
    let fixtures = Fixtures::read();
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    let alone = Alone::of(&shoal, &fixtures).await;
    let mut client = shoal.oip().await;
    let mut request = crate::oip::texts("minilm", &fixtures.texts.iter().map(|f| f.text.as_str()).collect::<Vec<_>>());
    let truncate = oip::InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    request.parameters.insert("truncate".into(), truncate);
    let answer = client.model_infer(request).await.expect("answer").into_inner();
    assert_eq!(answer.outputs[0].shape, [fixtures.texts.len() as i64, 384]);
    check_rows(&answer, fixtures.texts.len(), &alone);
    let few = &fixtures.texts[..8];
    let length = few.iter().map(|fixture| fixture.ids.len()).max().expect("some");
    let padded = |value: &dyn Fn(&Fixture, usize) -> i64| -> Vec<i64> {
        few.iter().flat_map(|fixture| (0..length).map(|at| value(fixture, at)).collect::<Vec<_>>()).collect()
    };
    let ids = padded(&|fixture, at| fixture.ids.get(at).map_or(0, |id| i64::from(*id)));
    let mask = padded(&|fixture, at| i64::from(at < fixture.ids.len()));
    let input = |name: &str, values: Vec<i64>| InferInputTensor {
        name: name.into(),
        datatype: "INT64".into(),
        shape: vec![few.len() as i64, length as i64],
        contents: Some(oip::InferTensorContents { int64_contents: values, ..Default::default() }),
        ..Default::default()
    };
    let request = oip::ModelInferRequest {
        model_name: "minilm".into(),
        inputs: vec![input("input_ids", ids), input("attention_mask", mask)],
        ..Default::default()
    };
    let answer = client.model_infer(request).await.expect("answer").into_inner();
    check_rows(&answer, few.len(), &alone);
}

/// Holds the rows of a tensor to the first so many texts.
fn check_rows(answer: &oip::ModelInferResponse, count: usize, alone: &Alone) {
    let values: Vec<f32> = answer.raw_output_contents[0]
        .chunks_exact(4)
        .map(|chunk| f32::from_le_bytes(chunk.try_into().expect("four")))
        .collect();
    assert_eq!(answer.outputs[0].shape[0], count as i64);
    assert_eq!(values.len() % count, 0);
    for (index, found) in values.chunks_exact(values.len() / count).enumerate() {
        alone.check(index, found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_each_call_and_tokens_are_shown() {
    let Some(home) = home() else { return };
    let fixtures = Fixtures::read();
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    let alone = Alone::of(&shoal, &fixtures).await;
    let mut client = shoal.inference().await;
    let mut requests: Vec<_> = fixtures
        .texts
        .iter()
        .map(|fixture| wire::EmbedStreamRequest {
            id: fixture.name.clone(),
            request: Some(embed(std::slice::from_ref(&fixture.text))),
        })
        .collect();
    requests.push(wire::EmbedStreamRequest { id: "nothing".into(), request: None });
    let mut stream = client.embed_stream(tokio_stream::iter(requests)).await.expect("stream").into_inner();
    let mut answers = HashMap::new();
    while let Some(answer) = stream.message().await.expect("message") {
        answers.insert(answer.id, answer.result.expect("a result"));
    }
    assert_eq!(answers.len(), fixtures.texts.len() + 1);
    let Some(StreamResult::Error(error)) = answers.remove("nothing") else { panic!("an error was due") };
    assert_eq!(error.code, Code::InvalidArgument as i32);
    for (index, fixture) in fixtures.texts.iter().enumerate() {
        match &answers[&fixture.name] {
            StreamResult::Response(answer) => alone.check(index, &answer.embeddings[0].values),
            StreamResult::Error(error) => panic!("{}: {error:?}", fixture.name),
        }
    }
    let request = wire::TokenizeRequest { model: "minilm".into(), texts: fixtures.all(), truncate: true };
    let tokenized = client.tokenize(request).await.expect("tokens").into_inner().texts;
    for (fixture, tokens) in fixtures.texts.iter().zip(tokenized) {
        assert_eq!(tokens.ids, fixture.ids, "{}", fixture.name);
        assert_eq!(tokens.truncated, fixture.truncated, "{}", fixture.name);
        assert_eq!(tokens.offsets.len(), 2 * tokens.ids.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_2048_texts_survives_the_loss_of_its_worker() {
    let Some(home) = home() else { return };
    let fixtures = Fixtures::read();
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("shoal.toml");
    // The last of them waits for all the others, for as long as that takes on a busy machine.
    std::fs::write(&config, "[models.minilm]\nqueue_time_max = \"10min\"\n").expect("config");
    let shoal = Shoal::serve_in(&home, &["--config", config.to_str().expect("path")]);
    let alone = Alone::of(&shoal, &fixtures).await;
    let mut client = shoal.inference().await.max_encoding_message_size(64 << 20);
    // Short texts, so that it takes seconds and not minutes; which of them is where can still be told.
    let short: Vec<usize> = (0..fixtures.texts.len()).filter(|&index| fixtures.texts[index].ids.len() < 16).collect();
    let chosen: Vec<usize> = (0..2048).map(|index| short[index % short.len()]).collect();
    let texts: Vec<String> = chosen.iter().map(|&index| fixtures.texts[index].text.clone()).collect();
    let call = tokio::spawn(async move { client.embed(embed(&texts)).await });
    let workers = shoal.wait_for_workers(1, &[]);
    wait_for("the call to run", || (shoal.metric("shoal_rows_in_flight") > 0.0).then_some(()));
    signal(workers[0], Signal::KILL);
    let answer = call.await.expect("task").expect("answer").into_inner();
    assert_eq!(answer.embeddings.len(), 2048);
    for (index, found) in chosen.into_iter().zip(&answer.embeddings) {
        alone.check(index, &found.values);
    }
    assert_eq!(answer.usage.expect("usage").dtype, alone.dtype);
    assert_eq!(shoal.metric("shoal_worker_restarts_total{worker=\"local-0\"}"), 1.0);
}
