//! A connection that writes once a turn. The HTTP/2 library flushes after every frame that is not tiny, so that thirty
//! answers ready at once would take sixty system calls, each of which wakes the client. Here small writes are held back
//! until the task that drives the connection has nothing more to do, and leave together.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes from this size on are not held back: copying them would cost more than it saves.
const LARGE: usize = 4 << 10;
/// Held back at most; then it is written, turn or no turn.
const HELD_MAX: usize = 64 << 10;

/// The library's end of a connection.
#[derive(Debug)]
pub(crate) struct Corked<S>(Arc<Mutex<Held<S>>>);

/// The driving task's end.
#[derive(Debug)]
pub(crate) struct Cork<S>(Arc<Mutex<Held<S>>>);

#[derive(Debug)]
struct Held<S> {
    stream: S,
    bytes: BytesMut,
    /// The stream itself may hold something back, as one that encrypts does while its socket is full.
    unflushed: bool,
}

/// Both ends of a corked stream.
pub(crate) fn cork<S>(stream: S) -> (Corked<S>, Cork<S>) {
    let held = Arc::new(Mutex::new(Held { stream, bytes: BytesMut::new(), unflushed: false }));
    (Corked(held.clone()), Cork(held))
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// Drives a connection, and writes what it left at the end of each turn.
    pub(crate) async fn drive<F, E>(&self, mut connection: Pin<&mut F>) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        std::future::poll_fn(|context| {
            let ended = connection.as_mut().poll(context);
            // Pending means that the socket is full; its being writable wakes this task. An error shows as well when the
            // connection reads or writes next.
            let _: Poll<io::Result<()>> = lock(&self.0).poll_write_out(context);
            ended
        })
        .await
    }

    /// Nothing is held back.
    pub(crate) fn is_empty(&self) -> bool {
        let held = lock(&self.0);
        held.bytes.is_empty() && !held.unflushed
    }
}

impl<S: AsyncWrite + Unpin> Held<S> {
    /// Writes all that is held back.
    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.bytes.advance(written);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let size = parts.iter().map(|part| part.len()).sum::<usize>();
        if size >= LARGE || self.bytes.len() + size > HELD_MAX {
            ready!(self.poll_write_out(context))?;
        }
        if size >= LARGE {
            self.unflushed = true;
            return Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        }
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        Poll::Ready(Ok(size))
    }
}

/// A poisoned lock means that a panic is already under way; bytes are held or written, never half of either.
fn lock<S>(held: &Mutex<Held<S>>) -> MutexGuard<'_, Held<S>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Left to the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.0);
        ready!(held.poll_write_out(context))?;
        Pin::new(&mut held.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    async fn read(stream: &mut DuplexStream, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).await.expect("bytes");
        bytes
    }

    #[tokio::test]
    async fn small_writes_leave_together_when_the_turn_ends() {
        let (mut far, near) = duplex(1 << 20);
        let (mut corked, cork) = cork(near);
        let connection = async {
            for part in [&b"one "[..], b"two ", b"three"] {
                corked.write_all(part).await?;
                corked.flush().await?;
            }
            // Not in the middle of a turn.
            let mut none = [0];
            assert!(at_once(far.read(&mut none)).await.is_none());
            tokio::task::yield_now().await;
            assert_eq!(read(&mut far, 13).await, b"one two three");
            Ok::<_, io::Error>(())
        };
        cork.drive(pin!(connection)).await.expect("no error");
    }

    /// What a future is ready with at its first poll.
    async fn at_once<F: Future>(future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        std::future::poll_fn(|context| {
            Poll::Ready(match future.as_mut().poll(context) {
                Poll::Ready(output) => Some(output),
                Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn nothing_is_lost_or_reordered_whatever_the_sizes_and_however_narrow_the_socket() {
        let (mut far, near) = duplex(1000);
        let (mut corked, cork) = cork(near);
        let sizes = [1, 10, LARGE - 1, LARGE, 3, HELD_MAX, LARGE + 1, 100];
        let sent: Vec<Vec<u8>> = (0..).zip(sizes.repeat(20)).map(|(index, size)| vec![index as u8; size]).collect();
        let expected = sent.concat();
        let writing = async {
            for part in &sent {
                corked.write_all(part).await?;
            }
            corked.shutdown().await
        };
        let reading = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.expect("bytes");
            all
        };
        let writing = pin!(writing);
        let (written, all) = tokio::join!(cork.drive(writing), reading);
        written.expect("no error");
        assert!(all == expected, "{} of {} bytes, or in another order", all.len(), expected.len());
    }

    #[tokio::test]
    async fn what_the_stream_itself_holds_back_leaves_with_the_turn_or_when_there_is_room() {
        let (mut far, near) = duplex(1000);
        // As one that encrypts, it writes when it is flushed, or can hold no more.
        let (mut corked, cork) = cork(tokio::io::BufWriter::with_capacity(16 << 10, near));
        let sent = vec![7; LARGE + 100];
        let connection = async {
            corked.write_all(&sent[..LARGE]).await?;
            corked.write_all(&sent[LARGE..]).await?;
            assert_eq!(read(&mut far, sent.len()).await, sent);
            Ok::<_, io::Error>(())
        };
        let driven = tokio::time::timeout(std::time::Duration::from_secs(20), cork.drive(pin!(connection))).await;
        driven.expect("in time").expect("no error");
        assert!(cork.is_empty());
    }

    #[tokio::test]
    async fn what_is_held_back_is_bounded() {
        let (far, near) = duplex(16);
        let (mut corked, cork) = cork(near);
        let mut taken = 0;
        while at_once(corked.write(&[0; 100])).await.is_some() {
            taken += 100;
            assert!(taken <= HELD_MAX + 100);
        }
        assert!(lock(&cork.0).bytes.len() <= HELD_MAX);
        drop(far);
    }
}
