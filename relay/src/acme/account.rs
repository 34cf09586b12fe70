//! The account with an authority. Its key is on disk before the authority hears of it, and an account with a key
//! that the authority knows already is the same account (RFC 8555 section 7.3): however often this is interrupted, there is one.
//!
//! The ACME library makes its own key where an account is bound to another of the operator's, so this much is said here.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Uri};
use instant_acme::Problem;
use serde::Deserialize;
use serde_json::{Value, json};

use super::authorities::{Authority, Binding};
use super::error::AcmeError;
use super::http::Http;
use crate::keys::AccountKey;

/// As whom an authority is spoken to.
const SOFTWARE: &str = concat!("causeway/", env!("CARGO_PKG_VERSION"));

/// How often a request is made whose nonce is not taken.
const NONCES: usize = 20;

/// Where an authority is asked for what.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    new_nonce: String,
    new_account: String,
}

/// What an authority says of itself.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    /// RFC 8555 section 7.1.1.
    caa_identities: Vec<String>,
}

/// Says what only the owner of an account key can say.
pub(super) struct Speaker<'a> {
    http: &'a Http,
    key: EcdsaKeyPair,
    directory: Directory,
}

impl<'a> Speaker<'a> {
    pub(super) async fn with(
        http: &'a Http,
        authority: &Authority,
        key: &AccountKey,
    ) -> Result<Self, AcmeError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.der());
        let key = key.map_err(|_| AcmeError::Key)?;
        let (_, directory) = call(http, Method::GET, &authority.directory, None).await?;
        let directory = serde_json::from_slice(&directory)?;
        Ok(Self {
            http,
            key,
            directory,
        })
    }

    /// The account's address. It is made if there is none.
    pub(super) async fn account(
        &self,
        contact: Option<&str>,
        binding: Option<&Binding>,
    ) -> Result<String, AcmeError> {
        let url = &self.directory.new_account;
        let mut asked = json!({ "termsOfServiceAgreed": true });
        if let Some(contact) = contact {
            asked["contact"] = json!([contact]);
        }
        if let Some(binding) = binding {
            asked["externalAccountBinding"] = self.bound(binding, url)?;
        }
        let (headers, _) = self.say(url, None, &asked.to_string()).await?;
        let account = headers.get(LOCATION).and_then(|url| url.to_str().ok());
        account.map(str::to_owned).ok_or(AcmeError::Nonsense)
    }

    /// The addresses of the account's orders, if the authority lists them; some do not. The first page only: a device has few.
    pub(super) async fn orders(&self, account: &str) -> Result<Vec<String>, AcmeError> {
        #[derive(Deserialize)]
        struct Account {
            orders: Option<String>,
        }
        #[derive(Deserialize)]
        struct Orders {
            orders: Vec<String>,
        }
        let (_, found) = self.say(account, Some(account), "").await?;
        let Account { orders: Some(list) } = serde_json::from_slice(&found)? else {
            return Ok(Vec::new());
        };
        let (_, found) = self.say(&list, Some(account), "").await?;
        let Orders { orders } = serde_json::from_slice(&found)?;
        Ok(orders)
    }

    /// Who the key is, as JSON (RFC 7517).
    fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = point
            .get(1..)
            .unwrap_or_default()
            .split_at(32.min(point.len() / 2));
        json!({ "crv": "P-256", "kty": "EC", "x": BASE64URL_NOPAD.encode(x), "y": BASE64URL_NOPAD.encode(y) })
    }

    /// That the account belongs to one that the operator has with the authority (RFC 8555 section 7.3.4).
    fn bound(&self, binding: &Binding, url: &str) -> Result<Value, AcmeError> {
        let key = binding.key.trim_end_matches('=').as_bytes();
        let key = BASE64URL_NOPAD
            .decode(key)
            .map_err(|_| AcmeError::Binding)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let protected = json!({ "alg": "HS256", "kid": binding.key_id, "url": url });
        let signed = |text: &[u8]| hmac::sign(&key, text).as_ref().to_vec();
        jws(&protected, &self.jwk().to_string(), |text| Ok(signed(text)))
    }

    /// Sends `payload` (RFC 8555 section 6.2); nothing asks for what is at `url`. Who is known already is named by `account`.
    async fn say(
        &self,
        url: &str,
        account: Option<&str>,
        payload: &str,
    ) -> Result<(HeaderMap, Bytes), AcmeError> {
        let mut tries = 0;
        loop {
            let (headers, _) =
                call(self.http, Method::HEAD, &self.directory.new_nonce, None).await?;
            let nonce = headers
                .get("replay-nonce")
                .and_then(|nonce| nonce.to_str().ok());
            let mut protected =
                json!({ "alg": "ES256", "url": url, "nonce": nonce.ok_or(AcmeError::Nonsense)? });
            match account {
                Some(account) => protected["kid"] = json!(account),
                None => protected["jwk"] = self.jwk(),
            }
            let body = jws(&protected, payload, |text| {
                let signed = self.key.sign(&SystemRandom::new(), text);
                signed
                    .map(|signed| signed.as_ref().to_vec())
                    .map_err(|_| AcmeError::Key)
            })?;
            tries += 1;
            match call(self.http, Method::POST, url, Some(body.to_string())).await {
                Err(error) if error.is_bad_nonce() && tries < NONCES => {}
                answered => return answered,
            }
        }
    }
}

/// What an authority looks for in CAA records, as the operator says, or else its directory; the first of several is as good as each.
pub(super) async fn caa_identity(
    http: &Http,
    authority: &Authority,
) -> Result<Option<String>, AcmeError> {
    if let Some(identity) = &authority.caa_identity {
        return Ok(Some(identity.clone()));
    }
    let (_, directory) = call(http, Method::GET, &authority.directory, None).await?;
    identity_in(&directory)
}

fn identity_in(directory: &[u8]) -> Result<Option<String>, AcmeError> {
    #[derive(Deserialize)]
    struct Described {
        #[serde(default)]
        meta: Meta,
    }
    let Described { meta } = serde_json::from_slice(directory)?;
    let mut identities = meta.caa_identities.into_iter();
    let identity = identities.find(|identity| is_domain(identity));
    Ok(identity.map(|identity| identity.to_ascii_lowercase()))
}

/// Whether nothing else than a name can be read in it, wherever it stands.
fn is_domain(text: &str) -> bool {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-');
    (1..=253).contains(&text.len()) && text.bytes().all(is_plain)
}

fn jws(
    protected: &Value,
    payload: &str,
    sign: impl Fn(&[u8]) -> Result<Vec<u8>, AcmeError>,
) -> Result<Value, AcmeError> {
    let protected = BASE64URL_NOPAD.encode(protected.to_string().as_bytes());
    let payload = BASE64URL_NOPAD.encode(payload.as_bytes());
    let signature = sign(format!("{protected}.{payload}").as_bytes())?;
    let signature = BASE64URL_NOPAD.encode(&signature);
    Ok(json!({ "protected": protected, "payload": payload, "signature": signature }))
}

async fn call(
    http: &Http,
    method: Method,
    url: &str,
    body: Option<String>,
) -> Result<(HeaderMap, Bytes), AcmeError> {
    let uri: Uri = url.parse().map_err(|_| AcmeError::Nonsense)?;
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(SOFTWARE));
    if body.is_some() {
        let jose = HeaderValue::from_static("application/jose+json");
        headers.insert(CONTENT_TYPE, jose);
    }
    let body = body.unwrap_or_default().into();
    let (head, answer) = http.send(method, &uri, headers, body).await?;
    if head.status.is_success() {
        return Ok((head.headers, answer));
    }
    match serde_json::from_slice::<Problem>(&answer) {
        Ok(problem) => Err(problem.into()),
        Err(_) => Err(AcmeError::Status(head.status.as_u16())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_known_by_what_its_directory_says_and_by_nothing_that_is_no_name() {
        for (directory, identity) in [
            (
                r#"{"meta":{"caaIdentities":["CA.test","other.test"]}}"#,
                Some("ca.test"),
            ),
            (
                r#"{"meta":{"caaIdentities":["ca.test; accounturi=x","b.test"]}}"#,
                Some("b.test"),
            ),
            (r#"{"meta":{"caaIdentities":[""," ","\"","ä.test"]}}"#, None),
            (r#"{"meta":{"caaIdentities":[]}}"#, None),
            (r#"{"meta":{"website":"https://ca.test"}}"#, None),
            (r#"{"newNonce":"https://ca.test/n"}"#, None),
        ] {
            let found = identity_in(directory.as_bytes()).unwrap();
            assert_eq!(found.as_deref(), identity, "{directory}");
        }
        for nonsense in ["", "[1]", r#"{"meta":{"caaIdentities":"ca.test"}}"#] {
            assert!(identity_in(nonsense.as_bytes()).is_err(), "{nonsense}");
        }
    }
}
