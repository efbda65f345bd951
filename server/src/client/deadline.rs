//! Calls with a deadline.

use std::time::Duration;

use tonic::{Code, Request, Response, Status};

/// After the deadline a server has this long to say so itself.
const GRACE: Duration = Duration::from_millis(500);

/// A request that tells the server how long it has.
pub(super) fn request<T>(message: T, time_max: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time_max);
    request
}

/// Waits for an answer, but not much longer than its request allowed. A call that took too long is DEADLINE_EXCEEDED.
pub(super) async fn answer<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
    time_max: Duration,
) -> Result<T, Status> {
    match tokio::time::timeout(time_max + GRACE, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        // What the gRPC library makes of a deadline that it notices itself, at either end.
        Ok(Err(status)) if status.code() == Code::Cancelled && status.message() == "Timeout expired" => {
            Err(late(time_max))
        }
        Ok(Err(status)) => Err(status),
        Err(_) => Err(late(time_max)),
    }
}

fn late(time_max: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {}", humantime::format_duration(time_max)))
}
