//! What the API says when it does not do what was asked: RFC 9457 problems, with words for the person, a code for the
//! program, and the cause for the log only.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use ddns::update::UpdateError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::authority::SigningError;
use crate::devices::DeviceError;
use crate::fleet::ReportError;
use crate::store::PairingError;

use super::Metrics;

/// The content type of a refusal.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// After so many seconds a change is free again, even at the slowest pace that can be configured.
const LATER: HeaderValue = HeaderValue::from_static("60");

macro_rules! problems {
    ($($variant:ident $status:ident $name:literal $sentence:literal,)*) => {
        /// Every refusal of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code {
            $(#[doc = $sentence] $variant,)*
        }

        impl Code {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable word for programs.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

problems! {
    BadRequest      BAD_REQUEST          "bad_request"       "The request cannot be understood.",
    NotSigned       UNAUTHORIZED         "not_signed"        "The request is not signed as a device signs.",
    WrongSignature  UNAUTHORIZED         "wrong_signature"   "The request's signature is wrong.",
    WrongClock      UNAUTHORIZED         "wrong_clock"       "The request was signed more than five minutes ago or ahead; check the device's clock.",
    Replayed        UNAUTHORIZED         "replayed"          "The request has been sent before.",
    UnknownDevice   FORBIDDEN            "unknown_device"    "This device is not registered here; pair it again.",
    UnknownRelay    FORBIDDEN            "unknown_relay"     "This relay is not registered here; `causeway relay add` registers one.",
    OldSession      CONFLICT             "old_session"       "The relay's session has ended or has a gap; follow anew.",
    NotSignedIn     UNAUTHORIZED         "not_signed_in"     "Sign in with a link from `causeway sign-in`.",
    WrongLink       FORBIDDEN            "wrong_link"        "This link has been used or has expired; `causeway sign-in` makes another.",
    CrossSite       FORBIDDEN            "cross_site"        "The request comes from another site.",
    WrongPairing    FORBIDDEN            "wrong_code"        "This pairing code is wrong, used or expired; ask for a new one.",
    KeyTaken        CONFLICT             "key_taken"         "This device is paired under another name already; remove that first.",
    BadSigning      UNPROCESSABLE_ENTITY "bad_signing"       "The certificate signing request is not one for this device's own names and a P-256 key.",
    NoRoute         NOT_FOUND            "no_route"          "This API has no such path; /api/openapi.json describes it.",
    TooLong         PAYLOAD_TOO_LARGE    "too_long"          "No request of this API is longer than 64 KiB.",
    TooSlow         REQUEST_TIMEOUT      "too_slow"          "The request took too long; try again.",
    TooMany         UNPROCESSABLE_ENTITY "too_many"          "More addresses than a device has.",
    NoDns           NOT_FOUND            "no_dns"            "Another server answers for this zone; names cannot be changed here.",
    NotPublic       UNPROCESSABLE_ENTITY "not_public"        "The address is private or reserved: nobody out there can reach the device by it.",
    NotOfLan        UNPROCESSABLE_ENTITY "not_of_lan"        "Under `lan` stand addresses of a private network only: those of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 and fc00::/7.",
    BadChallenge    UNPROCESSABLE_ENTITY "bad_challenge"     "A challenge has a host made of labels below the device, and a value of 1 to 255 octets.",
    TooManyChallenges UNPROCESSABLE_ENTITY "too_many_challenges" "A device has challenges at no more than 16 names, and 8 at each.",
    UnknownAuthority UNPROCESSABLE_ENTITY "unknown_authority" "This certificate authority is none of those that are asked here.",
    BadIssuer       UNPROCESSABLE_ENTITY "bad_issuer"        "Under `caa` stand the device's accounts with authorities of /api/device/acme: the name by which one is known, and an https:// address of at most 255 characters.",
    TooOften        TOO_MANY_REQUESTS    "too_often"         "Too many changes in the last minutes; try again in a minute.",
    Busy            SERVICE_UNAVAILABLE  "busy"              "Too many requests at once; try again in a minute.",
    Replaced        SERVICE_UNAVAILABLE  "replaced"          "This server is stopping, and perhaps another follows it; try again in a minute.",
    Internal        SERVICE_UNAVAILABLE  "internal"          "Something failed here; try again in a minute.",
}

/// A refusal on its way to the client.
#[derive(Debug)]
pub(crate) struct ApiError(Code);

/// The body of a refusal (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened and what to do, for a person.
    detail: &'static str,
    /// A stable word for programs.
    code: &'static str,
}

impl ApiError {
    /// Counts a refusal, and logs `cause`, which the client does not hear.
    pub(crate) fn new(code: Code, metrics: &Metrics, cause: &dyn std::fmt::Display) -> Self {
        metrics.refusals.with_label_values(&[code.name()]).inc();
        if code == Code::Internal {
            tracing::error!(%cause, "an API request failed");
        } else {
            tracing::info!(code = code.name(), %cause, "an API request was refused");
        }
        Self(code)
    }

    pub(crate) fn pairing(error: &PairingError, metrics: &Metrics) -> Self {
        let code = match error {
            PairingError::UnknownCode | PairingError::Expired | PairingError::Used => {
                Code::WrongPairing
            }
            PairingError::KeyTaken => Code::KeyTaken,
            PairingError::Store(_) => Code::Internal,
        };
        Self::new(code, metrics, error)
    }

    pub(crate) fn signing(error: &SigningError, metrics: &Metrics) -> Self {
        let code = match error {
            SigningError::Malformed | SigningError::WrongKey | SigningError::WrongName => {
                Code::BadSigning
            }
            SigningError::Authority(_) => Code::Internal,
        };
        Self::new(code, metrics, error)
    }

    pub(crate) fn report(error: ReportError, metrics: &Metrics) -> Self {
        let code = match error {
            ReportError::OtherSession | ReportError::Gap => Code::OldSession,
            ReportError::Nonsense => Code::BadRequest,
        };
        Self::new(code, metrics, &error)
    }

    pub(crate) fn update(error: &UpdateError, metrics: &Metrics) -> Self {
        let code = match error {
            UpdateError::NotHeld => Code::UnknownDevice,
            UpdateError::NotApplied(_) => Code::TooManyChallenges,
            UpdateError::NotPublic => Code::NotPublic,
            UpdateError::TooOften => Code::TooOften,
            UpdateError::Busy => Code::Busy,
            UpdateError::Stopped => Code::Replaced,
            UpdateError::Storage | UpdateError::Stalled => Code::Internal,
        };
        Self::new(code, metrics, error)
    }

    pub(crate) fn device(error: &DeviceError, metrics: &Metrics) -> Self {
        let code = match error {
            DeviceError::TooManyAddresses => Code::TooMany,
            DeviceError::Name(_)
            | DeviceError::Unknown(_)
            | DeviceError::Register(_)
            | DeviceError::Port(_)
            | DeviceError::UnknownPort(_)
            | DeviceError::Rate => Code::BadRequest,
            DeviceError::Store(_) | DeviceError::Randomness(_) => Code::Internal,
        };
        Self::new(code, metrics, error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.0.status();
        let problem = Problem {
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.0.sentence(),
            code: self.0.name(),
        };
        let mut response = (status, [(CONTENT_TYPE, PROBLEM_JSON)], Json(problem)).into_response();
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, LATER);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn a_server_that_has_given_its_updates_up_says_later() {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let refusal = ApiError::update(&UpdateError::Stopped, &metrics);
        assert_eq!(refusal.0.name(), "replaced");
        let response = refusal.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let counted = metrics.refusals.with_label_values(&["replaced"]);
        assert_eq!(counted.get(), 1);
    }
}
