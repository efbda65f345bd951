//! The whole worker against a server of the test's own, over a Unix socket.

mod server;

mod batches;
mod connection;
mod models;
