//! How many calls of a connection are open: from the request's headers to the end of the answer's body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::body::Body;
use tower::Service;

/// The open calls of one connection. Clones count together.
#[derive(Clone, Debug)]
pub(super) struct OpenCalls {
    count: Arc<watch::Sender<usize>>,
}

impl OpenCalls {
    pub(super) fn new() -> Self {
        Self { count: Arc::new(watch::Sender::new(0)) }
    }

    /// Counts the calls of `service`.
    pub(super) fn count<S>(&self, service: S) -> Counted<S> {
        Counted { service, calls: self.clone() }
    }

    /// Returns once there was no open call for so long.
    pub(super) async fn none_for(&self, quiet: Duration) {
        let mut count = self.count.subscribe();
        loop {
            // The sender is held by `self`.
            let _ = count.wait_for(|open| *open == 0).await;
            if timeout(quiet, count.wait_for(|open| *open > 0)).await.is_err() {
                return;
            }
        }
    }

    fn open(&self) -> Open {
        self.count.send_modify(|open| *open += 1);
        Open(self.clone())
    }
}

/// One open call.
#[derive(Debug)]
struct Open(OpenCalls);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.count.send_modify(|open| *open -= 1);
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    service: S,
    calls: OpenCalls,
}

impl<S, R> Service<http::Request<R>> for Counted<S>
where
    S: Service<http::Request<R>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<R>) -> Self::Future {
        let open = self.calls.open();
        let answer = self.service.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(CountedBody { body, _open: open }))) })
    }
}

/// An answer's body; its call is open until it is dropped.
struct CountedBody {
    body: Body,
    _open: Open,
}

impl HttpBody for CountedBody {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quiet_begins_when_the_last_call_ends() {
        let calls = OpenCalls::new();
        let (first, second) = (calls.open(), calls.open());
        let started = Instant::now();
        let quiet = tokio::spawn({
            let calls = calls.clone();
            async move { calls.none_for(Duration::from_secs(1)).await }
        });
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(first);
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(second);
        quiet.await.expect("task");
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_in_between_starts_the_quiet_anew() {
        let calls = OpenCalls::new();
        let started = Instant::now();
        let quiet = tokio::spawn({
            let calls = calls.clone();
            async move { calls.none_for(Duration::from_secs(1)).await }
        });
        tokio::time::sleep(Duration::from_millis(900)).await;
        let call = calls.open();
        tokio::time::sleep(Duration::from_millis(900)).await;
        drop(call);
        quiet.await.expect("task");
        assert_eq!(started.elapsed(), Duration::from_millis(2800));
    }
}
