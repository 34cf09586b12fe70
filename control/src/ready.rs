//! Whether a running server works, asked from beside it: for containers, load balancers and scripts.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use relay::http_client;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the server may take: its own look at the database may take a second of it.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is read of an answer; it has a line for each thing that does not work.
const MAX_ANSWER: usize = 16 * 1024;

/// Why a server cannot be said to work.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// None runs there, or it is stuck.
    #[error("no server answers at {admin}: {cause}")]
    Silent {
        /// Its admin listener.
        admin: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// It answers, and says what does not work.
    #[error("{}", .0.trim_end())]
    Ill(String),
}

/// Asks the server whose admin listener is at `admin` whether it works, and waits three seconds at most.
///
/// # Errors
/// If it does not answer, or does not work.
pub async fn ask(admin: SocketAddr) -> Result<(), HealthError> {
    let silent = |cause| HealthError::Silent { admin, cause };
    let request = Request::get("/readyz").header(HOST, admin.to_string());
    let request = request.body(Full::<Bytes>::default());
    let request = request.map_err(|error| silent(io::Error::other(error)))?;
    let exchanged = timeout(PATIENCE, async {
        let stream = TcpStream::connect(admin).await?;
        http_client::exchange(stream, request, MAX_ANSWER).await
    });
    let exchanged = exchanged
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()));
    match exchanged.map_err(silent)? {
        (StatusCode::OK, _) => Ok(()),
        (_, faults) => Err(HealthError::Ill(
            String::from_utf8_lossy(&faults).into_owned(),
        )),
    }
}
