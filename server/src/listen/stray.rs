//! Clients that speak TLS where that is not spoken, and those that do not where it is.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The first byte of every TLS connection: a record of a handshake. HTTP, of either version, begins with another.
pub(super) const TLS_FIRST: u8 = 0x16;

/// Whether a connection begins as TLS does, once it began; nothing if it ended before. Its first byte is still to be read.
pub(crate) async fn speaks_tls(stream: &TcpStream) -> io::Result<Option<bool>> {
    let mut first = [0];
    let count = stream.peek(&mut first).await?;
    Ok((count > 0).then_some(first[0] == TLS_FIRST))
}

/// Says a last word in plain bytes, from which the other side may see why it was not understood.
pub(crate) async fn farewell(mut stream: TcpStream, word: &[u8]) {
    // What it sent is read first: a connection that is closed over unread bytes is reset, and the word with it.
    let mut heard = [0; 4096];
    let _ = stream.read(&mut heard).await;
    if stream.write_all(word).await.is_ok() && stream.shutdown().await.is_ok() {
        while stream.read(&mut heard).await.is_ok_and(|count| count > 0) {}
    }
}

/// What an HTTP/2 server says that will not speak in the open: empty SETTINGS, then GOAWAY (RFC 9113, 6.5 and 6.8).
pub(crate) fn go_away(why: &[u8]) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const INADEQUATE_SECURITY: u32 = 0xc;
    let length = (8 + why.len()) as u32;
    let mut bytes = SETTINGS.to_vec();
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    // The kind, no flags, of the connection; no stream was looked at.
    bytes.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&INADEQUATE_SECURITY.to_be_bytes());
    bytes.extend_from_slice(why);
    bytes
}
