//! One HTTP request on a connection of its own, its answer read as a whole or line by line.

use std::io;
use std::time::SystemTime;

use bytes::BytesMut;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::DATE;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

/// Sends `request` over HTTP/1.1 and reads the whole answer, at most `max_answer` octets of it. Knows no deadline; the caller does.
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

/// Sends `request` over HTTP/1.1 and reads the beginning of the answer; the rest comes when it is asked for. Knows no deadline; the caller does.
///
/// # Errors
/// If the connection fails.
pub async fn open(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> io::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // What goes wrong with it is heard from the body.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await;
    Ok(Answer::new(response.map_err(io::Error::other)?, connection))
}

/// The same over HTTP/2. The request's URI names its scheme and host.
///
/// # Errors
/// If the connection fails.
pub async fn open_http2(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> io::Result<Answer> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await;
    Ok(Answer::new(response.map_err(io::Error::other)?, connection))
}

/// An answer that is still coming. Dropped, it ends the connection.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    /// Has come, and nobody has asked for it yet.
    unread: BytesMut,
    /// So much of it holds no end of a line.
    searched: usize,
    _connection: AbortOnDropHandle<()>,
}

impl Answer {
    fn new(response: Response<Incoming>, connection: AbortOnDropHandle<()>) -> Self {
        let (head, body) = response.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body,
            unread: BytesMut::new(),
            searched: 0,
            _connection: connection,
        }
    }

    /// How the request was taken.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What stands in its head.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// When it was given, by the server's clock, if it says so (RFC 9110 section 6.6.1).
    pub fn date(&self) -> Option<SystemTime> {
        let date = self.headers.get(DATE)?.to_str().ok()?;
        httpdate::parse_http_date(date).ok()
    }

    /// All that is still to come, at most `max_answer` octets of it.
    ///
    /// # Errors
    /// If the connection fails or the answer is too long.
    pub async fn rest(self, max_answer: usize) -> io::Result<Bytes> {
        let body = Limited::new(self.body, max_answer).collect().await;
        Ok(body.map_err(io::Error::other)?.to_bytes())
    }

    /// The next line, without its end, of `max_line` octets at most; `None` once the answer has ended in order. Dropped while it
    /// waits, it loses nothing.
    ///
    /// # Errors
    /// If the connection fails, the line is too long, or the answer ends within it.
    pub async fn line(&mut self, max_line: usize) -> io::Result<Option<Bytes>> {
        loop {
            let fresh = self.unread.get(self.searched..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|octet| *octet == b'\n') {
                let end = self.searched + end;
                if end > max_line {
                    return Err(too_long());
                }
                let mut line = self.unread.split_to(end + 1);
                line.truncate(end);
                self.searched = 0;
                return Ok(Some(line.freeze()));
            }
            self.searched = self.unread.len();
            if self.searched > max_line {
                return Err(too_long());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(octets) = frame.data_ref() {
                        self.unread.extend_from_slice(octets);
                    }
                }
                Some(Err(error)) => return Err(io::Error::other(error)),
                None if self.unread.is_empty() => return Ok(None),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// Whether it is that an answer is too long, or its head, which the HTTP library bounds.
pub fn is_too_long(error: &io::Error) -> bool {
    let cause = error.get_ref();
    cause.is_some_and(|cause| {
        let of_http = cause.downcast_ref::<hyper::Error>();
        cause.is::<LengthLimitError>() || of_http.is_some_and(hyper::Error::is_parse_too_large)
    })
}

/// Whether it is that what was answered is no HTTP.
pub(crate) fn is_no_http(error: &io::Error) -> bool {
    let cause = error.get_ref();
    let of_http = cause.and_then(|cause| cause.downcast_ref::<hyper::Error>());
    of_http.is_some_and(hyper::Error::is_parse)
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a line is too long")
}
