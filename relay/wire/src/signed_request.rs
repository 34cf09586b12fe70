//! How a device proves an HTTP request: HTTP Message Signatures (RFC 9421) with its Ed25519 identity key, over the
//! method, the target and a digest of the body (RFC 9530).
//!
//! ```text
//!   Content-Digest:  sha-256=:…:
//!   Signature-Input: causeway=("@method" "@target-uri" "content-digest");created=…;nonce="…";keyid="…";alg="ed25519"
//!   Signature:       causeway=:…:
//! ```
//!
//! Only this one shape is written and only this one is read. Signing and verifying is the caller's, so that no
//! cryptography library stands here; the clock and the memory of nonces are the caller's too.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use directory::PublicKey;
use sha2::{Digest, Sha256};

/// The header with the body's digest.
pub const CONTENT_DIGEST: &str = "content-digest";
/// The header that says what is signed.
pub const SIGNATURE_INPUT: &str = "signature-input";
/// The header with the signature.
pub const SIGNATURE: &str = "signature";

const COMPONENTS: &str = r#"("@method" "@target-uri" "content-digest")"#;

/// What is signed, and by which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The key that the signer says it has.
    pub key: PublicKey,
    /// When it signed, in seconds since 1970.
    pub created: u64,
    /// Random; a verifier accepts each once.
    pub nonce: [u8; 16],
}

/// The three headers that carry a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// For [`CONTENT_DIGEST`].
    pub content_digest: String,
    /// For [`SIGNATURE_INPUT`].
    pub signature_input: String,
    /// For [`SIGNATURE`].
    pub signature: String,
}

/// A request as both ends see it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `POST`, …
    pub method: &'a str,
    /// The whole URI: `https://cloud.nas.localhost:8443/api/pair`.
    pub target: &'a str,
    /// The whole body.
    pub body: &'a [u8],
}

/// Why headers carry no claim. Always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Not of the one shape that is read.
    #[error("the signature headers are malformed")]
    Malformed,
    /// The digest is not that of the body.
    #[error("the body is not the one that was signed")]
    WrongDigest,
}

impl Claim {
    /// The octets to sign or to verify (RFC 9421 section 2.5).
    pub fn base(&self, request: &Request<'_>) -> Vec<u8> {
        let components = [
            ("@method", request.method),
            ("@target-uri", request.target),
            (CONTENT_DIGEST, &content_digest(request.body)),
        ];
        signature_base(&components, &self.parameters()).into_bytes()
    }

    /// The headers for a request whose [`base`](Self::base) was signed with `signature`.
    pub fn headers(&self, request: &Request<'_>, signature: &[u8; 64]) -> Headers {
        Headers {
            content_digest: content_digest(request.body),
            signature_input: format!("causeway={}", self.parameters()),
            signature: format!("causeway=:{}:", BASE64.encode(signature)),
        }
    }

    /// Reads the headers of `request`. What comes back is only claimed: the caller verifies the signature over
    /// [`base`](Self::base) with [`key`](Self::key), the clock and the nonce.
    ///
    /// # Errors
    /// If the headers have another shape or the body was changed.
    pub fn read(request: &Request<'_>, headers: &Headers) -> Result<(Self, [u8; 64]), ClaimError> {
        let claim = Self::parse(&headers.signature_input).ok_or(ClaimError::Malformed)?;
        let signature = headers
            .signature
            .strip_prefix("causeway=:")
            .and_then(|rest| rest.strip_suffix(':'))
            .and_then(|text| BASE64.decode(text.as_bytes()).ok())
            .and_then(|octets| <[u8; 64]>::try_from(octets).ok())
            .ok_or(ClaimError::Malformed)?;
        if headers.content_digest != content_digest(request.body) {
            return Err(ClaimError::WrongDigest);
        }
        Ok((claim, signature))
    }

    fn parameters(&self) -> String {
        format!(
            r#"{COMPONENTS};created={};nonce="{}";keyid="{}";alg="ed25519""#,
            self.created,
            BASE64URL_NOPAD.encode(&self.nonce),
            self.key
        )
    }

    fn parse(signature_input: &str) -> Option<Self> {
        let rest = signature_input.strip_prefix("causeway=")?;
        let rest = rest.strip_prefix(COMPONENTS)?.strip_prefix(";created=")?;
        let (created, rest) = rest.split_once(r#";nonce=""#)?;
        let (nonce, rest) = rest.split_once(r#"";keyid=""#)?;
        let (key, rest) = rest.split_once('"')?;
        let claim = Self {
            key: PublicKey::parse(key).ok()?,
            created: created.parse().ok()?,
            nonce: BASE64URL_NOPAD
                .decode(nonce.as_bytes())
                .ok()?
                .try_into()
                .ok()?,
        };
        // Written back it must be what came, so that one claim has one spelling.
        (rest == r#";alg="ed25519""#
            && signature_input == format!("causeway={}", claim.parameters()))
        .then_some(claim)
    }
}

fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64.encode(&Sha256::digest(body)))
}

fn signature_base(components: &[(&str, &str)], parameters: &str) -> String {
    let mut base = String::new();
    for (name, value) in components {
        base.push_str(&format!("\"{name}\": {value}\n"));
    }
    base.push_str(&format!("\"@signature-params\": {parameters}"));
    base
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

    use super::*;

    const REQUEST: Request<'_> = Request {
        method: "POST",
        target: "https://cloud.nas.localhost:8443/api/pair",
        body: b"{}",
    };

    fn signed() -> (Claim, Headers) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let claim = Claim {
            key: PublicKey::from_bytes(pair.public_key().as_ref().try_into().unwrap()),
            created: 1_618_884_473,
            nonce: [9; 16],
        };
        let signature = pair.sign(&claim.base(&REQUEST));
        let headers = claim.headers(&REQUEST, signature.as_ref().try_into().unwrap());
        (claim, headers)
    }

    #[test]
    fn a_signed_request_is_read_back_and_verifies() {
        let (claim, headers) = signed();
        let (read, signature) = Claim::read(&REQUEST, &headers).unwrap();
        assert_eq!(read, claim);
        let key = UnparsedPublicKey::new(&ED25519, read.key.as_bytes());
        key.verify(&read.base(&REQUEST), &signature).unwrap();

        let elsewhere = Request {
            target: "https://cloud.nas.localhost:8443/api/other",
            ..REQUEST
        };
        assert!(key.verify(&read.base(&elsewhere), &signature).is_err());
    }

    #[test]
    fn a_changed_body_is_noticed_before_any_signature_is_checked() {
        let (_, headers) = signed();
        let changed = Request {
            body: b"{ }",
            ..REQUEST
        };
        assert_eq!(
            Claim::read(&changed, &headers),
            Err(ClaimError::WrongDigest)
        );
    }

    #[test]
    fn only_one_spelling_is_read() {
        let (_, headers) = signed();
        let input = &headers.signature_input;
        let spellings = [
            input.replace("created=1", "created=+1"),
            input.replace("created=1", "created=01"),
            input.replace("\"@method\" ", ""),
            input.replace("ed25519", "rsa-pss-sha512"),
            input.replace("causeway=", "other="),
            format!("{input};tag=\"x\""),
            format!("{input}, {input}"),
            String::new(),
        ];
        for signature_input in spellings {
            let headers = Headers {
                signature_input,
                ..headers.clone()
            };
            assert_eq!(Claim::read(&REQUEST, &headers), Err(ClaimError::Malformed));
        }
    }

    /// RFC 9421 appendix B.2.6, with the key test-key-ed25519 of B.1.4.
    #[test]
    fn the_base_is_the_one_of_the_rfc() {
        let components = [
            ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
            ("@method", "POST"),
            ("@path", "/foo"),
            ("@authority", "example.com"),
            ("content-type", "application/json"),
            ("content-length", "18"),
        ];
        let parameters = concat!(
            r#"("date" "@method" "@path" "@authority" "content-type" "content-length")"#,
            r#";created=1618884473;keyid="test-key-ed25519""#
        );
        let base = signature_base(&components, parameters);
        let key = BASE64
            .decode(b"JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")
            .unwrap();
        let signature = BASE64
            .decode(b"wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==")
            .unwrap();
        UnparsedPublicKey::new(&ED25519, key)
            .verify(base.as_bytes(), &signature)
            .unwrap();
    }
}
