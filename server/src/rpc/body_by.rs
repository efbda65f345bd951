//! A request's body that fails once the client's time is up: one that trickles in would else be waited for without end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::body::Body;

use super::status::status;
use crate::call::CallError;

/// The body inside it, or DEADLINE_EXCEEDED.
pub(super) struct BodyBy {
    body: Body,
    deadline: Instant,
    /// Made when there is something to wait for; most bodies come with their headers.
    late: Option<Pin<Box<Sleep>>>,
}

impl BodyBy {
    pub(super) fn new(body: Body, deadline: Instant) -> Self {
        Self { body, deadline, late: None }
    }
}

impl HttpBody for BodyBy {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        // What has arrived is still handed on.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let deadline = self.deadline;
        ready!(self.late.get_or_insert_with(|| Box::pin(sleep_until(deadline))).as_mut().poll(context));
        Poll::Ready(Some(Err(status(&CallError::DeadlinePassed))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tonic::{Code, Status};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fails_at_the_deadline_but_not_before_what_has_arrived() {
        let deadline = Instant::now() + Duration::from_secs(1);
        let arrived = Body::new(Full::new(Bytes::from_static(b"asked")));
        tokio::time::advance(Duration::from_secs(2)).await;
        let body = BodyBy::new(arrived, deadline).collect().await.expect("body").to_bytes();
        assert_eq!(body, "asked");
        let started = Instant::now();
        let silent = Body::new(StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Status>>()));
        let mut body = BodyBy::new(silent, started + Duration::from_secs(1));
        let failed = body.frame().await.expect("a frame").expect_err("late");
        assert_eq!((failed.code(), started.elapsed()), (Code::DeadlineExceeded, Duration::from_secs(1)));
    }
}
