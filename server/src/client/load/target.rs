//! The calls themselves: what is sent, and what is read from the answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use shoal_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::inference::model_infer_request::InferInputTensor;
use shoal_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse, ModelMetadataRequest};
use shoal_proto::v1::inference_client::InferenceClient;
use shoal_proto::v1::{EmbedRequest, EmbedResponse};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status};

use super::LoadError;
use super::options::{Api, LoadOptions, OptionsError};
use super::texts::Texts;
use super::trace::Models;
use crate::client::ask::micros;
use crate::client::{Line, deadline};

/// Most bytes of one answer.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Models on a server, and what to send to them.
#[derive(Debug)]
pub(super) struct Target {
    channels: Vec<Line>,
    next: AtomicUsize,
    /// Never empty.
    models: Vec<Model>,
    /// Which of them each call is for, where there may be several.
    of_calls: Option<Arc<Models>>,
    texts: Texts,
    rows: u32,
    truncate: bool,
    metadata: Vec<(&'static str, MetadataValue<Ascii>)>,
}

#[derive(Debug)]
struct Model {
    name: String,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    /// Texts, to the typed call.
    Embed,
    /// One tensor of texts.
    Bytes { input: String },
    /// One tensor of numbers, the same in each call.
    Floats { input: String, row_length: u32, data: Bytes },
}

/// What an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Texts or rows answered.
    pub rows: u32,
    /// 0 where the answer does not tell.
    pub tokens: u64,
    pub queue_us: Option<u64>,
    pub compute_us: Option<u64>,
    pub batches: Vec<BatchShare>,
}

/// This call's part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchShare {
    pub rows: u32,
    pub own_rows: u32,
}

impl Target {
    /// Opens the connections and learns what the models take. `of_calls` is what a trace says; `--model` comes before it.
    pub(super) async fn connect(
        options: &LoadOptions,
        texts: Texts,
        of_calls: Option<Arc<Models>>,
    ) -> Result<Self, LoadError> {
        let of_calls = of_calls.filter(|_| options.model.is_empty());
        let names = of_calls.as_ref().map_or_else(|| vec![options.model.clone()], |models| models.names().to_vec());
        let metadata = metadata(options)?;
        let mut channels = Vec::new();
        for _ in 0..options.connections {
            channels.push(options.credentials.connect(&options.addr).await?);
        }
        let mut models = Vec::with_capacity(names.len());
        for name in names {
            let payload = match options.api {
                Api::Embed => Payload::Embed,
                Api::Infer => infer_payload(&channels[0], options, &name).await?,
            };
            models.push(Model { name, payload });
        }
        Ok(Self {
            channels,
            next: AtomicUsize::new(0),
            models,
            of_calls,
            texts,
            rows: options.texts_per_call,
            truncate: options.truncate,
            metadata,
        })
    }

    /// The model's name, empty for the server's only one; of several all, between commas.
    pub(super) fn model(&self) -> String {
        let names: Vec<_> = self.models.iter().map(|model| model.name.as_str()).collect();
        names.join(", ")
    }

    /// What is asked of the lengths of texts, if anything is.
    pub(super) fn lengths(&self) -> Option<String> {
        let takes_texts = |model: &Model| !matches!(model.payload, Payload::Floats { .. });
        self.texts.lengths().filter(|_| self.models.iter().any(takes_texts))
    }

    /// Makes the call of this number; the number chooses the texts, and the model where there are several.
    pub(super) async fn call(&self, number: u64, time_max: Duration) -> Result<Answer, Status> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        let channel = self.channels[next].clone();
        let model = &self.models[self.of_calls.as_ref().map_or(0, |models| models.of_call(number))];
        match &model.payload {
            Payload::Embed => {
                let request = EmbedRequest {
                    model: model.name.clone(),
                    texts: self.texts.of_call(number, self.rows).map(Cow::into_owned).collect(),
                    truncate: self.truncate,
                    ..EmbedRequest::default()
                };
                let mut client = InferenceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                let answer = deadline::answer(client.embed(self.request(request, time_max)), time_max).await?;
                self.read_embed(&answer)
            }
            Payload::Bytes { input } => {
                let mut raw = BytesMut::new();
                for text in self.texts.of_call(number, self.rows) {
                    // A text is shorter than the file it came from, or than a made one may be; both fit.
                    raw.put_u32_le(text.len() as u32);
                    raw.put_slice(text.as_bytes());
                }
                let tensor = tensor(input, "BYTES", vec![i64::from(self.rows)]);
                self.infer(channel, &model.name, tensor, raw.freeze(), time_max).await
            }
            Payload::Floats { input, row_length, data } => {
                let tensor = tensor(input, "FP32", vec![i64::from(self.rows), i64::from(*row_length)]);
                self.infer(channel, &model.name, tensor, data.clone(), time_max).await
            }
        }
    }

    async fn infer(
        &self,
        channel: Line,
        model: &str,
        tensor: InferInputTensor,
        raw: Bytes,
        time_max: Duration,
    ) -> Result<Answer, Status> {
        let mut request = ModelInferRequest {
            model_name: model.to_owned(),
            inputs: vec![tensor],
            raw_input_contents: vec![raw],
            ..ModelInferRequest::default()
        };
        if self.truncate {
            let yes = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
            request.parameters.insert("truncate".to_owned(), yes);
        }
        let mut client = GrpcInferenceServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = deadline::answer(client.model_infer(self.request(request, time_max)), time_max).await?;
        self.read_infer(&answer)
    }

    fn request<T>(&self, message: T, time_max: Duration) -> Request<T> {
        let mut request = deadline::request(message, time_max);
        for (key, value) in &self.metadata {
            request.metadata_mut().insert(*key, value.clone());
        }
        request
    }

    fn read_embed(&self, answer: &EmbedResponse) -> Result<Answer, Status> {
        if answer.embeddings.len() != self.rows as usize {
            return Err(miscounted(answer.embeddings.len(), self.rows));
        }
        let Some(usage) = &answer.usage else { return Ok(Answer { rows: self.rows, ..Answer::default() }) };
        let share = |batch: &shoal_proto::v1::BatchUsage| BatchShare { rows: batch.rows, own_rows: batch.own_rows };
        Ok(Answer {
            rows: self.rows,
            tokens: u64::from(usage.tokens),
            queue_us: usage.queue_time.as_ref().map(micros),
            compute_us: usage.compute_time.as_ref().map(micros),
            batches: usage.batches.iter().map(share).collect(),
        })
    }

    fn read_infer(&self, answer: &ModelInferResponse) -> Result<Answer, Status> {
        let rows = answer.outputs.first().and_then(|output| output.shape.first()).copied().unwrap_or(0);
        if rows != i64::from(self.rows) {
            return Err(miscounted(usize::try_from(rows).unwrap_or(0), self.rows));
        }
        let number = |name: &str| match answer.parameters.get(name)?.parameter_choice.as_ref()? {
            ParameterChoice::Int64Param(number) => u64::try_from(*number).ok(),
            ParameterChoice::Uint64Param(number) => Some(*number),
            _ => None,
        };
        let batch = number("batch_rows").and_then(|rows| u32::try_from(rows).ok()).filter(|&rows| rows > 0);
        Ok(Answer {
            rows: self.rows,
            tokens: number("tokens").unwrap_or(0),
            queue_us: number("queue_us"),
            compute_us: number("compute_us"),
            batches: batch.map(|rows| BatchShare { rows, own_rows: self.rows.min(rows) }).into_iter().collect(),
        })
    }
}

fn tensor(name: &str, datatype: &str, shape: Vec<i64>) -> InferInputTensor {
    let (name, datatype) = (name.to_owned(), datatype.to_owned());
    InferInputTensor { name, datatype, shape, ..InferInputTensor::default() }
}

fn miscounted(got: usize, sent: u32) -> Status {
    Status::internal(format!("{got} rows were answered to {sent}"))
}

fn metadata(options: &LoadOptions) -> Result<Vec<(&'static str, MetadataValue<Ascii>)>, LoadError> {
    let pairs = [("tenant", "x-shoal-tenant", &options.tenant), ("class", "x-shoal-class", &options.class)];
    let mut metadata = Vec::new();
    for (option, key, value) in pairs {
        if let Some(value) = value {
            let value = value.parse().map_err(|_| OptionsError { option, expected: "plain ASCII" })?;
            metadata.push((key, value));
        }
    }
    Ok(metadata)
}

/// Asks what a model takes.
async fn infer_payload(channel: &Line, options: &LoadOptions, model: &str) -> Result<Payload, LoadError> {
    const TIME_MAX: Duration = Duration::from_secs(10);
    if model.is_empty() {
        return Err(OptionsError { option: "model", expected: LoadOptions::MODEL_EXPECTED }.into());
    }
    let request = ModelMetadataRequest { name: model.to_owned(), ..ModelMetadataRequest::default() };
    let mut client = GrpcInferenceServiceClient::new(channel.clone());
    let metadata = deadline::answer(client.model_metadata(deadline::request(request, TIME_MAX)), TIME_MAX)
        .await
        .map_err(|status| LoadError::Metadata { model: model.to_owned(), status: Box::new(status) })?;
    // A model may take texts or tokens; texts are what there is to send.
    let takes = |datatype: &str| metadata.inputs.iter().find(|input| input.datatype == datatype);
    if let Some(input) = takes("BYTES") {
        return Ok(Payload::Bytes { input: input.name.clone() });
    }
    match (takes("FP32"), metadata.inputs.len()) {
        (Some(_), 1) if options.lengths.is_some() => {
            Err(OptionsError { option: "lengths", expected: "left out, as the model takes FP32" }.into())
        }
        (Some(input), 1) => {
            let numbers = options.texts_per_call as usize * options.row_length as usize;
            let data = (0..numbers).flat_map(|i| ((i % 1000) as f32 / 1000.0).to_le_bytes()).collect();
            Ok(Payload::Floats { input: input.name.clone(), row_length: options.row_length, data })
        }
        _ => {
            let named = |input: &shoal_proto::inference::model_metadata_response::TensorMetadata| {
                format!("{} {}", input.name, input.datatype)
            };
            let found: Vec<_> = metadata.inputs.iter().map(named).collect();
            Err(LoadError::Inputs { model: model.to_owned(), found: found.join(", ") })
        }
    }
}
