//! A service on standard input and output: what `ssh` calls a proxy command.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, join as joined, stdin, stdout};
use tokio::net::unix::pipe;

use super::pass::{Connection, both_ways};

/// Passes standard input to the service, and what it says to standard output, until both have ended.
///
/// # Errors
/// If either side breaks off.
pub async fn join(connection: Connection) -> io::Result<()> {
    let mut app = joined(input(), output());
    both_ways(connection, &mut app).await
}

/// Standard input. A pipe, which ssh makes, is opened anew to wait for it in the event queue: for anything else a thread waits, and each
/// portion goes from one to the other and back. Who shares the pipe notices nothing of it.
fn input() -> Box<dyn AsyncRead + Unpin> {
    match pipe::OpenOptions::new().open_receiver("/proc/self/fd/0") {
        Ok(pipe) => Box::new(pipe),
        Err(_) => Box::new(stdin()),
    }
}

/// Standard output, the same.
fn output() -> Box<dyn AsyncWrite + Unpin> {
    match pipe::OpenOptions::new().open_sender("/proc/self/fd/1") {
        Ok(pipe) => Box::new(pipe),
        Err(_) => Box::new(stdout()),
    }
}
