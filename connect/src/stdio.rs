//! A service on standard input and output: what `ssh` calls a proxy command.

use std::io;

use tokio::io::{join as joined, stdin, stdout};

use super::pass::{Connection, both_ways};

/// Passes standard input to the service, and what it says to standard output, until both have ended.
///
/// # Errors
/// If either side breaks off.
pub async fn join(connection: Connection) -> io::Result<()> {
    let mut app = joined(stdin(), stdout());
    both_ways(connection, &mut app).await
}
