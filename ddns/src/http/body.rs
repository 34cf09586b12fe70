//! The body of a request: short, and here in time.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::http::StatusCode;
use tokio::time::timeout;

/// The longest body that is read, in octets: a certificate client's JSON has a few hundred.
const MAX_BODY: usize = 8 * 1024;

/// How long it may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(9);

/// Why a body was not read. The asker's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// Longer than [`MAX_BODY`], or broken off.
    TooLong,
    /// Not here after [`BODY_TIME`].
    TooSlow,
}

impl BodyError {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// The word for the client and for the counter.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::TooLong => "body_too_long",
            Self::TooSlow => "body_too_slow",
        }
    }
}

/// Reads it, whatever its type is said to be: clients say what their libraries make them say.
pub(super) async fn read(body: Body) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(BodyError::TooLong);
    }
    timeout(BODY_TIME, to_bytes(body, MAX_BODY))
        .await
        .map_err(|_| BodyError::TooSlow)?
        .map_err(|_| BodyError::TooLong)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let nothing = Body::from_stream(pending::<Result<Bytes, Infallible>>());
        let read = timeout(2 * BODY_TIME, read(nothing));
        assert_eq!(read.await.unwrap(), Err(BodyError::TooSlow));
    }

    #[tokio::test]
    async fn a_body_may_be_so_long_and_no_longer() {
        let long = read(Body::from(vec![b' '; MAX_BODY])).await;
        assert_eq!(long.map(|body| body.len()), Ok(MAX_BODY));
        let longer = read(Body::from(vec![b' '; MAX_BODY + 1])).await;
        assert_eq!(longer, Err(BodyError::TooLong));
    }
}
