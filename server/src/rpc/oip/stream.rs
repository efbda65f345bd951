//! `ModelStreamInfer`: calls run side by side and are answered in the order they came.

use shoal_proto::inference as wire;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Code, Status, Streaming};

use crate::call::{CallError, Caller};
use crate::explain::Asked;
use crate::oip::{stream_answer, stream_failure};
use crate::traces::{Outcome, StreamSpan};

use super::OipService;
use crate::rpc::status::{explained_status, status};
use crate::rpc::unreadable::explained;

/// A call of a stream while it runs. Dropping it cancels the call.
pub(super) struct StreamCall {
    id: String,
    model: String,
    explain: Asked,
    task: JoinHandle<Result<wire::ModelInferResponse, CallError>>,
}

impl Drop for StreamCall {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OipService {
    /// Starts the calls of a stream as they come.
    pub(super) async fn read_stream(
        self,
        caller: Caller,
        mut requests: Streaming<wire::ModelInferRequest>,
        running: mpsc::Sender<Result<StreamCall, Status>>,
        spans: StreamSpan,
    ) {
        loop {
            let request = tokio::select! {
                request = requests.message() => request,
                () = running.closed() => return,
                () = self.draining.cancelled() => return,
            };
            let started = match request {
                Ok(Some(request)) => {
                    let (id, model) = (request.id.clone(), request.model_name.clone());
                    let (service, mut caller) = (self.clone(), caller.again());
                    let span = spans.call(&mut caller.trace);
                    let explain = caller.explain.clone();
                    let task = tokio::spawn(async move {
                        let answer = service.infer(caller, request).await;
                        let code = answer.as_ref().map_or_else(|error| status(error).code(), |_| Code::Ok);
                        span.end(Outcome::Grpc(code.into()));
                        answer
                    });
                    Ok(StreamCall { id, model, explain, task })
                }
                Ok(None) => return,
                Err(broken) => Err(explained(&broken)),
            };
            let broken = started.is_err();
            if running.send(started).await.is_err() || broken {
                return;
            }
        }
    }
}

/// Sends the answers of a stream in the order of its requests: clients without ids know them by that.
pub(super) async fn answer_stream(
    mut running: mpsc::Receiver<Result<StreamCall, Status>>,
    answers: &mpsc::Sender<Result<wire::ModelStreamInferResponse, Status>>,
    as_status: bool,
) -> Outcome {
    while let Some(call) = running.recv().await {
        let answer = match call {
            Err(broken) => Err(broken),
            Ok(mut call) => {
                let result = tokio::select! {
                    result = &mut call.task => result,
                    () = answers.closed() => return Outcome::Gone,
                };
                match result.unwrap_or_else(|lost| Err(CallError::Internal { what: lost.to_string() })) {
                    Ok(response) => Ok(stream_answer(response)),
                    Err(error) if as_status => Err(explained_status(&error, &call.explain)),
                    Err(error) => Ok(stream_failure(&call.id, &call.model, &error, &call.explain)),
                }
            }
        };
        let ended = answer.as_ref().err().map(|status| Outcome::Grpc(status.code().into()));
        if answers.send(answer).await.is_err() {
            return Outcome::Gone;
        }
        if let Some(outcome) = ended {
            return outcome;
        }
    }
    Outcome::Grpc(Code::Ok.into())
}
