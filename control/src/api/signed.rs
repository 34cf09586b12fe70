//! Requests signed by a device: the headers read, the signature verified, the clock checked, and the nonce of a device
//! that is known here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use axum::body::Bytes;
use axum::extract::{ConnectInfo, FromRequest, Request};
use axum::http::header::HOST;
use axum::http::{HeaderMap, Method};
use directory::{Device, OperatorName, Place, PublicKey, RelayName, host_of};
use wire::signed_request::{
    self, CONTENT_DIGEST, Claim, ClaimError, Headers, SIGNATURE, SIGNATURE_INPUT,
};

use super::Cloud;
use super::error::{ApiError, Code};

/// How far a device's clock may be off, either way.
const CLOCK_LEEWAY: Duration = Duration::from_secs(5 * 60);

/// Nonces remembered at a time: two hundred signed requests a second for as long as each could be replayed.
const MAX_NONCES: usize = 120_000;

/// A request whose signature is right and fresh; whose key it is, is not looked at yet.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) key: PublicKey,
    pub(crate) body: Bytes,
    /// Where it comes from.
    pub(crate) from: Option<IpAddr>,
    nonce: [u8; 16],
}

impl FromRequest<Arc<Cloud>> for Signed {
    type Rejection = ApiError;

    async fn from_request(request: Request, cloud: &Arc<Cloud>) -> Result<Self, ApiError> {
        let refuse =
            |code| move |cause: &dyn std::fmt::Display| ApiError::new(code, &cloud.metrics, cause);
        let (method, headers) = (request.method().clone(), request.headers().clone());
        let uri = request.uri().clone();
        let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let from = from.map(|ConnectInfo(address)| address.ip());
        let target = target(
            cloud,
            &headers,
            uri.authority().map(|a| a.as_str()),
            uri.path_and_query().map_or("/", |path| path.as_str()),
        )
        .ok_or_else(|| refuse(Code::BadRequest)(&"the request names no host of ours"))?;
        let body = Bytes::from_request(request, cloud)
            .await
            .map_err(|error| refuse(Code::BadRequest)(&error))?;
        let claim = verify(&method, &target, &headers, &body, since_1970())
            .map_err(|(code, cause)| refuse(code)(&cause))?;
        Ok(Self {
            key: claim.key,
            body,
            from,
            nonce: claim.nonce,
        })
    }
}

impl Signed {
    /// The device whose key it is, if the request comes for the first time. Nonces of strangers are not remembered:
    /// anybody can make keys, and would fill the memory that devices need.
    pub(crate) fn device(&self, cloud: &Cloud) -> Result<Device, ApiError> {
        let device = cloud.devices.directory().device_by_key(&self.key);
        let unknown = || {
            let cause = "a key that no device has";
            ApiError::new(Code::UnknownDevice, &cloud.metrics, &cause)
        };
        let device = device.ok_or_else(unknown)?;
        self.first_use(cloud)?;
        Ok(device)
    }

    /// The same of the relay whose key it is.
    pub(crate) fn relay(&self, cloud: &Cloud) -> Result<RelayName, ApiError> {
        let unknown = || {
            let cause = "a key that no relay has";
            ApiError::new(Code::UnknownRelay, &cloud.metrics, &cause)
        };
        let relay = cloud.fleet.relay_by_key(&self.key).ok_or_else(unknown)?;
        self.first_use(cloud)?;
        Ok(relay)
    }

    fn first_use(&self, cloud: &Cloud) -> Result<(), ApiError> {
        let refuse = |code, cause: &str| ApiError::new(code, &cloud.metrics, &cause);
        match cloud.replays.first_use(self.nonce, since_1970()) {
            FirstUse::Yes => Ok(()),
            FirstUse::No => Err(refuse(Code::Replayed, "a nonce was used twice")),
            FirstUse::Full => Err(refuse(Code::Busy, "too many nonces to remember")),
        }
    }
}

/// The target as the device signed it: the scheme is ours, the host must be the cloud's.
fn target(
    cloud: &Cloud,
    headers: &HeaderMap,
    in_target: Option<&str>,
    path: &str,
) -> Option<String> {
    let authority = match in_target {
        Some(authority) => authority,
        None => headers.get(HOST)?.to_str().ok()?,
    };
    (cloud.zone.locate(host_of(authority)) == Place::Operator(OperatorName::Cloud))
        .then(|| format!("https://{authority}{path}"))
}

fn verify(
    method: &Method,
    target: &str,
    headers: &HeaderMap,
    body: &[u8],
    now: Duration,
) -> Result<Claim, (Code, &'static str)> {
    let header = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let signature_headers = header(CONTENT_DIGEST)
        .zip(header(SIGNATURE_INPUT))
        .zip(header(SIGNATURE))
        .map(|((content_digest, signature_input), signature)| Headers {
            content_digest,
            signature_input,
            signature,
        })
        .ok_or((Code::NotSigned, "signature headers are missing"))?;
    let request = signed_request::Request {
        method: method.as_str(),
        target,
        body,
    };
    let (claim, signature) =
        Claim::read(&request, &signature_headers).map_err(|error| match error {
            ClaimError::Malformed => (Code::NotSigned, "the signature headers are malformed"),
            ClaimError::WrongDigest => (Code::WrongSignature, "the digest is not that of the body"),
        })?;
    UnparsedPublicKey::new(&ED25519, claim.key.as_bytes())
        .verify(&claim.base(&request), &signature)
        .map_err(|_| (Code::WrongSignature, "the signature does not verify"))?;
    if Duration::from_secs(claim.created).abs_diff(now) > CLOCK_LEEWAY {
        return Err((Code::WrongClock, "signed at another time"));
    }
    Ok(claim)
}

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Remembers the nonces of devices' signatures for as long as they could be replayed.
#[derive(Debug, Default)]
pub(crate) struct ReplayGuard {
    until_by_nonce: Mutex<HashMap<[u8; 16], Duration>>,
}

#[derive(Debug, PartialEq, Eq)]
enum FirstUse {
    Yes,
    No,
    Full,
}

impl ReplayGuard {
    /// `now` is the time since 1970.
    fn first_use(&self, nonce: [u8; 16], now: Duration) -> FirstUse {
        let mut until_by_nonce = self
            .until_by_nonce
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if until_by_nonce.len() >= MAX_NONCES {
            until_by_nonce.retain(|_, until| now <= *until);
            if until_by_nonce.len() >= MAX_NONCES {
                return FirstUse::Full;
            }
        }
        // A signature made with a clock ahead of ours is good for twice the leeway.
        match until_by_nonce.insert(nonce, now + 2 * CLOCK_LEEWAY) {
            Some(until) if now <= until => FirstUse::No,
            Some(_) | None => FirstUse::Yes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_once_for_as_long_as_its_signature() {
        let guard = ReplayGuard::default();
        let now = Duration::from_secs(1_700_000_000);
        assert_eq!(guard.first_use([1; 16], now), FirstUse::Yes);
        assert_eq!(
            guard.first_use([1; 16], now + Duration::from_secs(1)),
            FirstUse::No
        );
        assert_eq!(guard.first_use([2; 16], now), FirstUse::Yes);
        assert_eq!(
            guard.first_use([1; 16], now + 5 * CLOCK_LEEWAY),
            FirstUse::Yes
        );
    }

    #[test]
    fn memory_is_bounded_and_old_nonces_make_room() {
        let guard = ReplayGuard::default();
        let now = Duration::from_secs(1_700_000_000);
        for i in 0..MAX_NONCES as u128 {
            assert_eq!(guard.first_use(i.to_be_bytes(), now), FirstUse::Yes);
        }
        assert_eq!(guard.first_use([0xff; 16], now), FirstUse::Full);
        assert_eq!(
            guard.first_use([0xff; 16], now + 3 * CLOCK_LEEWAY),
            FirstUse::Yes
        );
    }
}
