//! One HTTP/1.1 request on a connection of its own.

use std::io;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Sends `request` and reads the whole answer, at most `max_answer` octets of it. Knows no deadline; the caller does.
///
/// # Errors
/// If the connection fails or the answer is too long.
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    max_answer: usize,
) -> io::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), max_answer)
            .collect()
            .await;
        Ok((status, body.map_err(io::Error::other)?.to_bytes()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection ends first only if it fails, or if the answer is complete already.
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(io::Error::other(error)),
        },
    }
}
