//! A request's body that ends early when it is told to.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body as HttpBody, Frame};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;

/// Ends with the body inside it, or on cancellation.
pub(super) struct BodyUntil {
    body: Body,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl BodyUntil {
    pub(super) fn new(body: Body, end: CancellationToken) -> Self {
        Self { body, end: Box::pin(end.cancelled_owned()) }
    }
}

impl HttpBody for BodyUntil {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        // What has arrived is still handed on.
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => self.end.as_mut().poll(context).map(|()| None),
            frame => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    #[tokio::test]
    async fn ends_when_told_but_not_before_what_has_arrived() {
        let end = CancellationToken::new();
        end.cancel();
        let arrived = Body::new(Full::new(Bytes::from_static(b"asked")));
        let body = BodyUntil::new(arrived, end.clone()).collect().await.expect("body").to_bytes();
        assert_eq!(body, "asked");
        let silent = Body::new(StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, tonic::Status>>()));
        assert!(BodyUntil::new(silent, end).frame().await.is_none());
    }
}
