//! What all replies have in common.

use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use crate::update::UpdateError;

/// After so many seconds whoever changed too often may change again, even at the slowest pace that can be configured.
const LATER: HeaderValue = HeaderValue::from_static("60");

const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"DDNS\"");

/// Adds what every reply has, whoever made it.
pub(super) async fn finish(request: Request, next: Next) -> Response {
    let version = request.version();
    let mut response = next.run(request).await;
    let status = response.status();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // HTTP/2 has no such header (RFC 9113 section 8.2.2).
    if version < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, LATER);
    }
    response
}

/// Plain text.
pub(super) fn text(status: StatusCode, body: String) -> Response {
    with_type("text/plain", status, body)
}

/// A value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Structs of texts, which always can be written.
    let body = serde_json::to_string(value).unwrap_or_default();
    with_type("application/json", status, body)
}

/// A refusal in one word, as acme-dns has it: `{"error":"bad_txt"}`.
pub(super) fn error(status: StatusCode, error: &'static str) -> Response {
    #[derive(Serialize)]
    struct Refusal {
        error: &'static str,
    }
    json(status, &Refusal { error })
}

/// What a certificate client hears of an update that was not done. Never 429: none of them is known to wait and come back.
pub(super) fn challenge_error(not_done: UpdateError) -> Response {
    let (status, word) = match not_done {
        UpdateError::NotHeld => (StatusCode::UNAUTHORIZED, "forbidden"),
        UpdateError::NotApplied(_) => (StatusCode::CONFLICT, "too_many_names"),
        UpdateError::NotPublic => (StatusCode::BAD_REQUEST, "bad_address"),
        UpdateError::TooOften => (StatusCode::SERVICE_UNAVAILABLE, "too_many_changes"),
        UpdateError::Storage | UpdateError::Busy | UpdateError::Stalled | UpdateError::Stopped => {
            (StatusCode::SERVICE_UNAVAILABLE, "try_later")
        }
    };
    error(status, word)
}

/// The same refusal to who has not shown a key by Basic authentication.
pub(super) fn asking_for_a_key(mut response: Response) -> Response {
    response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
    response
}

fn with_type(content_type: &'static str, status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, content_type)], body).into_response()
}
