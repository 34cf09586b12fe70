//! Who has said what (RFC 8555 section 6): a JWS, signed with ES256, for this address, at this time.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::books::Books;
use super::{Refusal, refused};

/// What somebody has said who may.
pub(super) struct Said {
    /// The number of the account; nothing of somebody who is to have one.
    pub(super) account: Option<usize>,
    /// RFC 7638, which the key is known by.
    pub(super) thumbprint: String,
    /// The key itself.
    pub(super) point: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Said {
    /// `url` is where it has come to; who `is_stranger` shows a key, and everybody else the account.
    pub(super) fn hear(
        head: &Parts,
        body: &[u8],
        url: &str,
        is_stranger: bool,
        books: &mut Books,
    ) -> Result<Self, Refusal> {
        let kind = head.headers.get(CONTENT_TYPE);
        if kind.is_none_or(|kind| kind != "application/jose+json") {
            return refused(415, "malformed", "this is no application/jose+json");
        }
        let jws = Jws::read(body)?;
        let protected = &jws.protected;
        if protected["alg"] != "ES256" {
            return refused(400, "badSignatureAlgorithm", "this is not ES256");
        }
        if protected["url"] != url {
            return refused(
                401,
                "unauthorized",
                format!("this is for {}", protected["url"]),
            );
        }
        let (point, account) = match (&protected["jwk"], &protected["kid"], is_stranger) {
            (jwk @ Value::Object(_), Value::Null, true) => (point_of(jwk)?, None),
            (Value::Null, Value::String(kid), false) => {
                let (number, point) = books.known(kid)?;
                (point, Some(number))
            }
            _ => return refused(400, "malformed", "either `jwk` or `kid`, and the right one"),
        };
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point);
        if key.verify(jws.signed.as_bytes(), &jws.signature).is_err() {
            return refused(401, "unauthorized", "the signature is wrong");
        }
        let nonce = protected["nonce"].as_str().unwrap_or_default();
        if !books.nonces.remove(nonce) {
            return refused(
                400,
                "badNonce",
                format!("{nonce:?} is none, or not any more"),
            );
        }
        Ok(Self {
            account,
            thumbprint: thumbprint(&point),
            point,
            payload: jws.payload,
        })
    }

    /// RFC 8555 section 6.3: POST-as-GET.
    pub(super) fn asks_only(&self) -> Result<(), Refusal> {
        match self.payload.is_empty() {
            true => Ok(()),
            false => refused(400, "malformed", "nothing is to be said here"),
        }
    }

    /// The object that is said; it has no other members than these.
    pub(super) fn object(&self, members: &[&str]) -> Result<Value, Refusal> {
        let object: Value = serde_json::from_slice(&self.payload).unwrap_or_default();
        let Some(found) = object.as_object() else {
            return refused(400, "malformed", "this is no object");
        };
        match found.keys().find(|key| !members.contains(&&***key)) {
            Some(key) => refused(400, "malformed", format!("what is {key:?}?")),
            None => Ok(object),
        }
    }

    /// RFC 8555 section 7.3.4
    pub(super) fn is_bound(
        &self,
        bound: &Value,
        (id, key): (&str, &str),
        url: &str,
    ) -> Result<(), Refusal> {
        let jws = Jws::read(bound.to_string().as_bytes())?;
        let key = BASE64URL_NOPAD.decode(key.as_bytes()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let jwk: Value = serde_json::from_slice(&jws.payload).unwrap_or_default();
        let is_right = jws.protected == json!({ "alg": "HS256", "kid": id, "url": url })
            && hmac::verify(&key, jws.signed.as_bytes(), &jws.signature).is_ok()
            && point_of(&jwk)? == self.point;
        match is_right {
            true => Ok(()),
            false => refused(401, "unauthorized", "this binds to nobody's account"),
        }
    }
}

struct Jws {
    protected: Value,
    payload: Vec<u8>,
    signed: String,
    signature: Vec<u8>,
}

impl Jws {
    /// In the flattened form, with nothing that is not signed (RFC 8555 section 6.2).
    fn read(text: &[u8]) -> Result<Self, Refusal> {
        let jws: Value = serde_json::from_slice(text).unwrap_or_default();
        let members = jws.as_object().map_or(0, serde_json::Map::len);
        let part = |name: &str| {
            let text = jws[name].as_str()?;
            let octets = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
            Some((text, octets))
        };
        let parts = part("protected")
            .zip(part("payload"))
            .zip(part("signature"));
        let (Some(((protected, payload), (_, signature))), 3) = (parts, members) else {
            return refused(400, "malformed", "this is no JWS");
        };
        Ok(Self {
            signed: format!("{}.{}", protected.0, payload.0),
            protected: serde_json::from_slice(&protected.1).unwrap_or_default(),
            payload: payload.1,
            signature,
        })
    }
}

/// The point of a P-256 key (RFC 7518 section 6.2), uncompressed.
fn point_of(jwk: &Value) -> Result<Vec<u8>, Refusal> {
    let half = |name: &str| {
        let octets = BASE64URL_NOPAD
            .decode(jwk[name].as_str()?.as_bytes())
            .ok()?;
        (octets.len() == 32).then_some(octets)
    };
    let is_public = jwk["d"].is_null() && jwk["kty"] == "EC" && jwk["crv"] == "P-256";
    match (half("x"), half("y")) {
        (Some(x), Some(y)) if is_public => Ok([vec![4], x, y].concat()),
        _ => refused(400, "badPublicKey", "this is no public key of P-256"),
    }
}

fn thumbprint(point: &[u8]) -> String {
    let (x, y) = point[1..].split_at(32);
    let (x, y) = (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y));
    sha256(&format!(
        r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#
    ))
}

/// In base64url.
pub(super) fn sha256(text: &str) -> String {
    BASE64URL_NOPAD.encode(digest(&SHA256, text.as_bytes()).as_ref())
}

#[test]
fn only_what_is_said_as_it_has_to_be_is_heard() {
    type Change = fn(&mut Value);
    const URL: &str = "https://ca.test/account";
    let key = rcgen::KeyPair::generate().unwrap().serialize_der();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key).unwrap();
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let (x, y) = (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
    let mut books = Books::default();
    let mut say = |change: Change, spoil: Change, kind: &str| {
        let mut protected =
            json!({ "alg": "ES256", "url": URL, "nonce": books.nonce(), "jwk": jwk });
        change(&mut protected);
        let encoded = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let (protected, payload) = (encoded(&protected.to_string()), encoded("{}"));
        let signed = format!("{protected}.{payload}");
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        let signature = BASE64URL_NOPAD.encode(signature.as_ref());
        let mut jws = json!({ "protected": protected, "payload": payload, "signature": signature });
        spoil(&mut jws);
        let request = axum::http::Request::builder().header(CONTENT_TYPE, kind);
        let head = request.body(()).unwrap().into_parts().0;
        let mut hear = || Said::hear(&head, jws.to_string().as_bytes(), URL, true, &mut books);
        let heard = hear().map(drop);
        let again = hear().map(drop);
        assert!(again.is_err(), "nothing is heard twice");
        heard.map_err(|Refusal(_, kind, _)| kind)
    };
    let jose = "application/jose+json";
    let nothing: Change = |_| {};
    assert_eq!(say(nothing, nothing, jose), Ok(()));
    assert_eq!(say(nothing, nothing, "application/json"), Err("malformed"));
    let changes: [(Change, _); 7] = [
        (|said| said["nonce"] = json!("AAAA"), "badNonce"),
        (|said| said["nonce"] = Value::Null, "badNonce"),
        (
            |said| said["url"] = json!("https://ca.test/order"),
            "unauthorized",
        ),
        (|said| said["alg"] = json!("HS256"), "badSignatureAlgorithm"),
        (
            |said| said["kid"] = json!("https://ca.test/account/0"),
            "malformed",
        ),
        (|said| said["jwk"]["x"] = json!("AAAA"), "badPublicKey"),
        (|said| said["jwk"]["d"] = json!("AAAA"), "badPublicKey"),
    ];
    for (change, kind) in changes {
        assert_eq!(say(change, nothing, jose), Err(kind));
    }
    let spoils: [(Change, _); 3] = [
        (|jws| jws["payload"] = json!("e30K"), "unauthorized"),
        (|jws| jws["signature"] = json!(""), "unauthorized"),
        (|jws| jws["header"] = json!({}), "malformed"),
    ];
    for (spoil, kind) in spoils {
        assert_eq!(say(nothing, spoil, jose), Err(kind));
    }
}
