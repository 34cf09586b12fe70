//! A certificate transparency log (RFC 6962) over HTTPS, strict with whoever asks, that can be told to misbehave.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, HOST};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::world::Place;

type Hash = [u8; 32];

/// What a log may do instead of what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    Honest,
    /// It has another first entry than it had.
    Rewritten,
    /// It signs with another key.
    OtherKey,
    /// It has two entries less than it has, and says so today.
    Shrunk,
    /// It takes questions and gives no answer.
    Hangs,
    /// It says things that are no JSON.
    Garbage,
    /// Its entries are none.
    GarbageEntries,
    /// It answers at the length of a gigabyte.
    Huge,
    /// Its newest head is of the day before yesterday.
    Stale,
    /// It is out of order, and says so.
    Broken,
}

/// A log. Dropped, it is gone.
pub(crate) struct CertificateLog {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    folder: TempDir,
    _runtime: Runtime,
}

struct State {
    /// `leaf_input` and `extra_data` of each.
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    conduct: Conduct,
    key: KeyPair,
    other_key: KeyPair,
    host: String,
    /// What it was asked that nobody should ask.
    faults: Vec<String>,
}

/// A certificate somebody has made by himself, with a key of his own, in DER.
pub(crate) fn certificate_for(names: &[&str]) -> Vec<u8> {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 60 * 60);
    params.not_after = tomorrow.into();
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

/// The SHA-256 of the key of a certificate.
pub(crate) fn key_of(certificate: &[u8]) -> String {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    HEXLOWER.encode(&Sha256::digest(certificate.public_key().raw))
}

impl CertificateLog {
    /// With some entries of others.
    pub(crate) fn start(place: &Place) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let listener = place.listen();
        let address = listener.local_addr().unwrap();
        let own = KeyPair::generate().unwrap();
        let shown = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let shown = shown.self_signed(&own).unwrap();
        fs::write(folder.path().join("ca.pem"), shown.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(own.serialize_der().into());
        let tls = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![shown.der().clone()], key)
            .unwrap();
        let state = Arc::new(Mutex::new(State {
            entries: Vec::new(),
            conduct: Conduct::Honest,
            key: KeyPair::generate().unwrap(),
            other_key: KeyPair::generate().unwrap(),
            host: address.to_string(),
            faults: Vec::new(),
        }));
        listener.set_nonblocking(true).unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls));
        runtime.spawn(serve(listener, tls, Arc::clone(&state)));
        let log = Self {
            state,
            address,
            folder,
            _runtime: runtime,
        };
        for number in 0..5 {
            log.add(&certificate_for(&[&format!("{number}.example.org")]));
        }
        log
    }

    /// What an operator writes to have it followed.
    pub(crate) fn configuration(&self) -> String {
        let key = BASE64.encode(&self.state().key.subject_public_key_info());
        format!(
            "[certificate_watch]\nevery = \"1s\"\ndevices_ask = \"1s\"\n\
             [[certificate_watch.log]]\nurl = \"{}\"\nkey = \"{key}\"\nca_file = \"{}\"\n",
            self.url(),
            self.ca().display()
        )
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}/2026h2", self.address)
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Takes a certificate.
    pub(crate) fn add(&self, certificate: &[u8]) {
        self.push(0, &[], certificate);
    }

    /// Takes what is to become one (RFC 6962 section 3.2): what is signed of it.
    pub(crate) fn add_precertificate(&self, certificate: &[u8]) {
        let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
        self.push(1, &[7; 32], parsed.tbs_certificate.as_ref());
    }

    fn push(&self, kind: u8, of_kind: &[u8], contents: &[u8]) {
        let length = u32::try_from(contents.len()).unwrap().to_be_bytes();
        let mut leaf = vec![0, 0];
        leaf.extend(now_ms().to_be_bytes());
        leaf.extend([0, kind]);
        leaf.extend(of_kind);
        leaf.extend(&length[1..]);
        leaf.extend(contents);
        leaf.extend([0, 0]);
        self.state().entries.push((leaf, vec![0; 3]));
    }

    pub(crate) fn behave(&self, conduct: Conduct) {
        self.state().conduct = conduct;
    }

    /// Nobody has asked what is against the rules.
    pub(crate) fn was_asked_in_order(&self) {
        assert_eq!(self.state().faults, [] as [String; 0]);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

async fn serve(listener: std::net::TcpListener, tls: TlsAcceptor, state: Arc<Mutex<State>>) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let answered = service_fn(move |request| answer(request, Arc::clone(&state)));
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection
                .serve_connection(TokioIo::new(stream), answered)
                .await;
        });
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn whole(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)).boxed());
    *answer.status_mut() = status;
    answer
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Answer, Infallible> {
    let conduct = state.lock().unwrap().conduct;
    Ok(match conduct {
        Conduct::Hangs => std::future::pending().await,
        Conduct::Garbage => whole(StatusCode::OK, "\u{1b}[2J<html>".to_owned()),
        Conduct::Broken => whole(StatusCode::BAD_GATEWAY, String::new()),
        Conduct::Huge => {
            const MIB: usize = 1024 * 1024;
            let chunk = Bytes::from(vec![b' '; MIB]);
            let chunks = (0..1024).map(move |_| Ok(Frame::data(chunk.clone())));
            let mut answer = Response::new(StreamBody::new(stream::iter(chunks)).boxed());
            let length = (1024 * MIB).into();
            answer.headers_mut().insert(CONTENT_LENGTH, length);
            answer
        }
        Conduct::Honest
        | Conduct::Rewritten
        | Conduct::OtherKey
        | Conduct::Shrunk
        | Conduct::GarbageEntries
        | Conduct::Stale => {
            let mut state = state.lock().unwrap();
            match state.answer(&request) {
                Ok(json) => whole(StatusCode::OK, json.to_string()),
                Err(fault) => {
                    state.faults.push(format!("{fault}: {}", request.uri()));
                    whole(StatusCode::BAD_REQUEST, fault.to_owned())
                }
            }
        }
    })
}

impl State {
    fn answer(&self, request: &Request<Incoming>) -> Result<Value, &'static str> {
        if request.method() != Method::GET {
            return Err("no GET");
        }
        let host = request.headers().get(HOST);
        if host.is_none_or(|host| host.as_bytes() != self.host.as_bytes()) {
            return Err("another host");
        }
        let question = request.uri().path().strip_prefix("/2026h2/ct/v1/");
        let query = request.uri().query().unwrap_or_default();
        let parameters: Vec<_> = query
            .split('&')
            .filter_map(|each| each.split_once('='))
            .collect();
        let parameter = |name: &str| {
            let mut found = parameters.iter().filter(|(found, _)| *found == name);
            found
                .next()
                .map(|(_, value)| *value)
                .ok_or("a parameter is missing")
        };
        let number = |name: &str| parameter(name)?.parse::<usize>().map_err(|_| "no number");
        let entries = self.entries_now();
        match question.ok_or("another path")? {
            "get-sth" => Ok(self.head(&entries)),
            "get-entries" => {
                let (start, end) = (number("start")?, number("end")?);
                if start > end || start >= entries.len() {
                    return Err("entries that there are not");
                }
                // No more than three at once: a log gives what it likes.
                let end = (end + 1).min(entries.len()).min(start + 3);
                let given = entries[start..end].iter().map(|(leaf, extra)| {
                    let leaf = match self.conduct == Conduct::GarbageEntries {
                        true => &leaf[..9],
                        false => leaf,
                    };
                    json!({ "leaf_input": BASE64.encode(leaf), "extra_data": BASE64.encode(extra) })
                });
                Ok(json!({ "entries": given.collect::<Vec<_>>() }))
            }
            "get-proof-by-hash" => {
                let size = number("tree_size")?;
                let hash = parameter("hash")?;
                if hash.contains(['+', '/', '=']) {
                    return Err("a hash that is not encoded");
                }
                let hash = hash
                    .replace("%2B", "+")
                    .replace("%2F", "/")
                    .replace("%3D", "=");
                let hash = BASE64.decode(hash.as_bytes()).map_err(|_| "no hash")?;
                let leaves = hashes(&entries);
                let leaves = leaves.get(..size).ok_or("a tree that there is not")?;
                let index = leaves.iter().position(|leaf| leaf[..] == hash);
                let index = index.ok_or("a hash that there is not")?;
                let path = path_of(index, leaves).into_iter();
                let path: Vec<_> = path.map(|hash| BASE64.encode(&hash)).collect();
                Ok(json!({ "leaf_index": index, "audit_path": path }))
            }
            _ => Err("another question"),
        }
    }

    fn entries_now(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut entries = self.entries.clone();
        if self.conduct == Conduct::Rewritten {
            entries[0].0[5] ^= 1;
        }
        if self.conduct == Conduct::Shrunk {
            entries.truncate(entries.len() - 2);
        }
        entries
    }

    fn head(&self, entries: &[(Vec<u8>, Vec<u8>)]) -> Value {
        let root = root_of(&hashes(entries));
        let at = match self.conduct == Conduct::Stale {
            true => now_ms() - 2 * 24 * 60 * 60 * 1000,
            false => now_ms(),
        };
        let size = entries.len() as u64;
        let mut signed = vec![0, 1];
        signed.extend(at.to_be_bytes());
        signed.extend(size.to_be_bytes());
        signed.extend(root);
        let key = match self.conduct == Conduct::OtherKey {
            true => &self.other_key,
            false => &self.key,
        };
        let der = key.serialize_der();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).unwrap();
        let signature = signer.sign(&SystemRandom::new(), &signed).unwrap();
        let length = u16::try_from(signature.as_ref().len()).unwrap();
        let mut signature_of_tls = vec![4, 3];
        signature_of_tls.extend(length.to_be_bytes());
        signature_of_tls.extend(signature.as_ref());
        json!({
            "tree_size": size,
            "timestamp": at,
            "sha256_root_hash": BASE64.encode(&root),
            "tree_head_signature": BASE64.encode(&signature_of_tls),
        })
    }
}

fn hashes(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<Hash> {
    let leaf = |entry: &[u8]| {
        Sha256::new()
            .chain_update([0])
            .chain_update(entry)
            .finalize()
    };
    entries
        .iter()
        .map(|(entry, _)| leaf(entry).into())
        .collect()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let hash = Sha256::new().chain_update([1]).chain_update(left);
    hash.chain_update(right).finalize().into()
}

/// RFC 6962 section 2.1.
fn root_of(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node(&root_of(left), &root_of(right))
        }
    }
}

/// RFC 6962 section 2.1.1.
fn path_of(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let half = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(half);
    let (mut path, other) = match index < half {
        true => (path_of(index, left), right),
        false => (path_of(index - half, right), left),
    };
    path.push(root_of(other));
    path
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}
