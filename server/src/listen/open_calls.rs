//! How many calls of a connection are open: from the request's headers until the connection has written the last byte
//! of the answer, and not only taken it into its queue.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::timeout;
use tower::Service;

use crate::metrics::Counted;

/// The open calls of one connection. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct OpenCalls {
    count: Arc<watch::Sender<Count>>,
    /// Those of every connection.
    all: Gauge,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    open: usize,
    /// Ever, those that ended included.
    begun: u64,
    /// There was one that the gate let in.
    let_in: bool,
}

impl OpenCalls {
    pub(crate) fn new(all: Gauge) -> Self {
        Self { count: Arc::new(watch::Sender::new(Count::default())), all }
    }

    /// Counts the calls of `service`.
    pub(crate) fn count<S>(&self, service: S) -> CountedService<S> {
        CountedService { service, calls: self.clone() }
    }

    /// One of them was let in.
    pub(crate) fn let_in(&self) {
        self.count.send_if_modified(|count| !std::mem::replace(&mut count.let_in, true));
    }

    /// Returns once there was a call that was let in. Others show no more than that somebody dialled, however many.
    pub(crate) async fn any_let_in(&self) {
        // The sender is held by `self`.
        let _ = self.count.subscribe().wait_for(|count| count.let_in).await;
    }

    /// Returns after so long without a call; never if one is open now or begins in that time. Such a connection ends
    /// by itself once its answers are written.
    pub(crate) async fn none_for(&self, quiet: Duration) {
        let mut count = self.count.subscribe();
        let begun = count.borrow().begun;
        if timeout(quiet, count.wait_for(|count| count.open > 0 || count.begun > begun)).await.is_ok() {
            pending::<()>().await;
        }
    }

    fn open(&self) -> Open {
        self.count.send_modify(|count| {
            count.open += 1;
            count.begun += 1;
        });
        Open { calls: self.clone(), _counted: Counted::one(&self.all) }
    }
}

/// One open call.
#[derive(Debug)]
struct Open {
    calls: OpenCalls,
    _counted: Counted,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.calls.count.send_modify(|count| count.open -= 1);
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub(crate) struct CountedService<S> {
    service: S,
    calls: OpenCalls,
}

impl<S, R, B> Service<http::Request<R>> for CountedService<S>
where
    S: Service<http::Request<R>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = http::Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<R>) -> Self::Future {
        let open = Arc::new(self.calls.open());
        let answer = self.service.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| CountedBody { body, open })) })
    }
}

/// An answer's body; its call is open until this and every piece of it are dropped.
#[derive(Debug)]
pub(crate) struct CountedBody<B> {
    body: B,
    open: Arc<Open>,
}

/// A piece of an answer. The connection drops it when it is written.
#[derive(Debug)]
pub(crate) struct CountedBytes {
    bytes: Bytes,
    _open: Arc<Open>,
}

impl Buf for CountedBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.bytes.copy_to_bytes(count)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for CountedBody<B> {
    type Data = CountedBytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let counted = |bytes| CountedBytes { bytes, _open: self.open.clone() };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(counted))))
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
    use http_body_util::{BodyExt as _, Full};
    use tokio::time::Instant;

    use super::*;

    const QUIET: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn without_calls_quiet_is_soon_over() {
        let calls = OpenCalls::new(Gauge::default());
        drop(calls.open());
        let started = Instant::now();
        calls.none_for(QUIET).await;
        assert_eq!(started.elapsed(), QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_a_call_is_never_quiet_again() {
        let calls = OpenCalls::new(Gauge::default());
        let quiet = calls.none_for(QUIET);
        let meanwhile = async {
            tokio::time::sleep(QUIET / 2).await;
            drop(calls.open());
            pending::<()>().await;
        };
        let both = async {
            tokio::select! { () = quiet => {}, () = meanwhile => {} }
        };
        assert!(timeout(100 * QUIET, both).await.is_err());
    }

    #[tokio::test]
    async fn a_call_is_open_until_the_last_piece_of_its_answer_is_written() {
        let calls = OpenCalls::new(Gauge::default());
        let mut body = CountedBody { body: Full::new(Bytes::from_static(b"answer")), open: calls.open().into() };
        let piece = body.frame().await.expect("a frame").expect("no error").into_data().expect("data");
        drop(body);
        assert_eq!(calls.count.borrow().open, 1);
        drop(piece);
        assert_eq!(calls.count.borrow().open, 0);
    }
}
