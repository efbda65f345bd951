//! The calls themselves: what is sent, and what is read from the answer.

use std::borrow::Cow;
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
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::LoadError;
use super::options::{Api, LoadOptions, OptionsError};
use super::texts::Texts;
use crate::client::ask::micros;
use crate::client::deadline;

/// Most bytes of one answer.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A model on a server, and what to send to it.
#[derive(Debug)]
pub(super) struct Target {
    channels: Vec<Channel>,
    next: AtomicUsize,
    model: String,
    payload: Payload,
    rows: u32,
    truncate: bool,
    metadata: Vec<(&'static str, MetadataValue<Ascii>)>,
}

#[derive(Debug)]
enum Payload {
    Embed {
        texts: Texts,
    },
    /// One tensor of texts.
    Bytes {
        input: String,
        texts: Texts,
    },
    /// One tensor of numbers, the same in each call.
    Floats {
        input: String,
        row_length: u32,
        data: Bytes,
    },
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
    /// Opens the connections and learns what the model takes.
    pub(super) async fn connect(options: &LoadOptions, texts: Texts) -> Result<Self, LoadError> {
        let metadata = metadata(options)?;
        let mut channels = Vec::new();
        for _ in 0..options.connections {
            channels.push(options.addr.connect().await?);
        }
        let payload = match options.api {
            Api::Embed => Payload::Embed { texts },
            Api::Infer => infer_payload(&channels[0], options, texts).await?,
        };
        Ok(Self {
            channels,
            next: AtomicUsize::new(0),
            model: options.model.clone(),
            payload,
            rows: options.texts_per_call,
            truncate: options.truncate,
            metadata,
        })
    }

    /// The model's name, empty for the server's only one.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// What is asked of the lengths of texts, if anything is.
    pub(super) fn lengths(&self) -> Option<String> {
        match &self.payload {
            Payload::Embed { texts } | Payload::Bytes { texts, .. } => texts.lengths(),
            Payload::Floats { .. } => None,
        }
    }

    /// Makes the call of this number; the number chooses the texts.
    pub(super) async fn call(&self, number: u64, time_max: Duration) -> Result<Answer, Status> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        let channel = self.channels[next].clone();
        match &self.payload {
            Payload::Embed { texts } => {
                let request = EmbedRequest {
                    model: self.model.clone(),
                    texts: texts.of_call(number, self.rows).map(Cow::into_owned).collect(),
                    truncate: self.truncate,
                    ..EmbedRequest::default()
                };
                let mut client = InferenceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                let answer = deadline::answer(client.embed(self.request(request, time_max)), time_max).await?;
                self.read_embed(&answer)
            }
            Payload::Bytes { input, texts } => {
                let mut raw = BytesMut::new();
                for text in texts.of_call(number, self.rows) {
                    // A text is shorter than the file it came from, or than a made one may be; both fit.
                    raw.put_u32_le(text.len() as u32);
                    raw.put_slice(text.as_bytes());
                }
                self.infer(channel, input, "BYTES", vec![i64::from(self.rows)], raw.freeze(), time_max).await
            }
            Payload::Floats { input, row_length, data } => {
                let shape = vec![i64::from(self.rows), i64::from(*row_length)];
                self.infer(channel, input, "FP32", shape, data.clone(), time_max).await
            }
        }
    }

    async fn infer(
        &self,
        channel: Channel,
        input: &str,
        datatype: &str,
        shape: Vec<i64>,
        raw: Bytes,
        time_max: Duration,
    ) -> Result<Answer, Status> {
        let tensor = InferInputTensor {
            name: input.to_owned(),
            datatype: datatype.to_owned(),
            shape,
            ..InferInputTensor::default()
        };
        let mut request = ModelInferRequest {
            model_name: self.model.clone(),
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

/// Asks what the model takes.
async fn infer_payload(channel: &Channel, options: &LoadOptions, texts: Texts) -> Result<Payload, LoadError> {
    const TIME_MAX: Duration = Duration::from_secs(10);
    let request = ModelMetadataRequest { name: options.model.clone(), ..ModelMetadataRequest::default() };
    let mut client = GrpcInferenceServiceClient::new(channel.clone());
    let metadata = deadline::answer(client.model_metadata(deadline::request(request, TIME_MAX)), TIME_MAX)
        .await
        .map_err(|status| LoadError::Metadata { model: options.model.clone(), status: Box::new(status) })?;
    // A model may take texts or tokens; texts are what there is to send.
    let takes = |datatype: &str| metadata.inputs.iter().find(|input| input.datatype == datatype);
    if let Some(input) = takes("BYTES") {
        return Ok(Payload::Bytes { input: input.name.clone(), texts });
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
            Err(LoadError::Inputs { model: options.model.clone(), found: found.join(", ") })
        }
    }
}
