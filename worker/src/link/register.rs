//! The beginning of a connection: Hello and Welcome on the one stream, then Attach on the other.

use std::time::Duration;

use shoal_proto::link::limits::{MESSAGE_BYTES_MAX, PROTOCOL, PROTOCOL_MIN};
use shoal_proto::link::worker_link_client::WorkerLinkClient;
use shoal_proto::link::{
    Attach, ControlRequest, ControlResponse, DataRequest, DataResponse, Hello, Refused, Welcome, control_request,
    control_response, data_request, refused,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{Leave, LinkError, convert, next_message, send};
use crate::run::{Exit, Refusal};

/// Messages that wait for a stream at most. A server that reads so little is lost.
const CONTROL_OUT_MAX: usize = 256;
/// Messages of a frame each that wait for the data stream at most.
const DATA_OUT_MAX: usize = 4;
/// When the server does not say how often it wants to hear from its workers, or when silence means loss.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A server cannot ask for more heartbeats than that.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// A server that welcomed this worker, which may still go.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) welcome: Welcome,
    client: WorkerLinkClient<Channel>,
    worker: String,
    auth: String,
    control_out: mpsc::Sender<ControlRequest>,
    control_in: Streaming<ControlResponse>,
}

/// A registered connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) epoch: u64,
    pub(super) heartbeat_interval: Duration,
    pub(super) silence_max: Duration,
    pub(super) control_out: mpsc::Sender<ControlRequest>,
    pub(super) control_in: Streaming<ControlResponse>,
    pub(super) data_out: mpsc::Sender<DataRequest>,
    pub(super) data_in: Streaming<DataResponse>,
}

/// Hello and Welcome.
pub(super) async fn greet(channel: Channel, hello: Hello) -> Result<Greeted, Leave> {
    let mut client = WorkerLinkClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (worker, auth) = (hello.worker.clone(), hello.auth.clone());
    let (control_out, control_queue) = mpsc::channel(CONTROL_OUT_MAX);
    send(&control_out, control_request::Message::Hello(hello))?;
    let opened = client.control(ReceiverStream::new(control_queue)).await;
    let mut control_in = opened.map_err(|status| LinkError::Stream(Box::new(status)))?.into_inner();
    let welcome = match next_message(&mut control_in, "control").await?.message {
        Some(control_response::Message::Welcome(welcome)) => welcome,
        Some(control_response::Message::Refused(refused)) => return Err(refusal(refused)),
        _ => return Err(LinkError::NotWelcome.into()),
    };
    if !(PROTOCOL_MIN..=PROTOCOL).contains(&welcome.protocol) {
        return Err(LinkError::Protocol(welcome.protocol).into());
    }
    Ok(Greeted { welcome, client, worker, auth, control_out, control_in })
}

/// Attach. From here on the server counts on this worker.
pub(super) async fn attach(greeted: Greeted) -> Result<Connection, Leave> {
    let Greeted { welcome, mut client, worker, auth, control_out, control_in } = greeted;
    let heartbeat_interval =
        convert::time_or(welcome.heartbeat_interval, HEARTBEAT_INTERVAL).max(HEARTBEAT_INTERVAL_MIN);
    let silence_max = convert::time_or(welcome.silence_max, SILENCE_MAX).max(heartbeat_interval * 2);
    let (data_out, data_queue) = mpsc::channel(DATA_OUT_MAX);
    let attach = Attach { epoch: welcome.epoch, worker, auth };
    // The queue is empty and its other end is held, so there is room.
    if data_out.try_send(DataRequest { message: Some(data_request::Message::Attach(attach)) }).is_err() {
        return Err(LinkError::Clogged.into());
    }
    let opened = client.data(ReceiverStream::new(data_queue)).await;
    let data_in = opened.map_err(|status| LinkError::Stream(Box::new(status)))?.into_inner();
    Ok(Connection { epoch: welcome.epoch, heartbeat_interval, silence_max, control_out, control_in, data_out, data_in })
}

/// A refusal that no waiting changes ends the worker; the others may pass.
pub(super) fn refusal(refused: Refused) -> Leave {
    let reason = refused.reason();
    let Refused { detail, .. } = refused;
    match reason {
        refused::Reason::Protocol => Leave::Exit(Exit::Refused { reason: Refusal::Protocol, detail }),
        refused::Reason::Auth => Leave::Exit(Exit::Refused { reason: Refusal::Auth, detail }),
        refused::Reason::Unspecified
        | refused::Reason::NameTaken
        | refused::Reason::Draining
        | refused::Reason::TooManyWorkers => {
            let reason = reason.as_str_name().trim_start_matches("REASON_").to_lowercase();
            Leave::Lost(LinkError::Refused(format!("{reason}: {detail}")))
        }
    }
}
