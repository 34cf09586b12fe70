//! A certificate authority of these tests' own, as strict as a real one (RFC 8555, RFC 9773, draft-ietf-acme-profiles), that lies or fails
//! when it is told to. It looks into the DNS of the server that is tested, over the wire.
//!
//! ```text
//!   authority   HTTPS, and what it is told to do wrong
//!   jws         who has said what? ─► books   what was ordered, proved and issued ─► issuer
//! ```

mod books;
mod issuer;
mod jws;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

pub(super) use self::books::Books;
use self::issuer::Issuer;
use self::jws::Said;
use crate::process::run;

/// Longer than anything that a client has to say.
const MAX_REQUEST: usize = 64 * 1024;

/// How it behaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Manner {
    /// What it does wrong, and where: a path begins like that.
    pub(super) lie: Option<(&'static str, Lie)>,
    /// When it wants certificates renewed; nothing if it does not say.
    pub(super) advice: Option<Advice>,
    /// What kinds of certificates it has.
    pub(super) profiles: &'static [&'static str],
    /// Whose devices may have accounts: a key's id, and the key in base64url.
    pub(super) binding: Option<(&'static str, &'static str)>,
    /// How long its certificates are good; 90 days if it does not say.
    pub(super) validity: Option<Duration>,
}

/// What an authority can do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// It answers with this status, and nonsense.
    Status(u16),
    /// It has trouble and says so, at length and in lines of its own.
    Maintenance,
    /// What it answers is neither JSON nor a certificate.
    Garbage,
    /// It does not even speak HTTP.
    NoHttp,
    /// It never answers.
    Silent,
    /// An answer of some megabytes, whose length it says.
    Huge,
    /// An answer without end.
    Endless,
    /// A head without end.
    EndlessHead,
    /// Its directory leads away from HTTPS.
    Plain,
    /// A certificate for another name.
    OtherName,
    /// For another key.
    OtherKey,
    /// That ended years ago.
    Ended,
    /// That begins in two days.
    Later,
    /// That is not signed by the one that is sent along.
    BrokenChain,
    /// It says that what an order replaces has been replaced already.
    Replaced,
}

/// When it wants every certificate renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Long ago.
    Past,
    /// In a month.
    Month,
}

/// It ends with the test.
pub(super) struct Authority {
    office: Arc<Office>,
    folder: TempDir,
    _runtime: Runtime,
}

/// What each of its connections has.
struct Office {
    /// `https://<host>:<port>`
    base: String,
    issuer: Issuer,
    manner: Mutex<Manner>,
    books: Mutex<Books>,
    /// Whom it asks for what stands in the DNS.
    dns: Mutex<Option<SocketAddr>>,
}

/// Why a request is not taken: the status, the kind of problem, and what is wrong.
#[derive(Debug)]
struct Refusal(u16, &'static str, String);

fn refused<T>(status: u16, kind: &'static str, what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(status, kind, what.into()))
}

impl Authority {
    /// At this address of this host, on a port of its own.
    pub(super) fn start(host: &str, manner: Manner) -> Self {
        let host: IpAddr = host.parse().unwrap();
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind((host, 0))).unwrap();
        let at = listener.local_addr().unwrap();
        let issuer = Issuer::new();
        let (tls, own) = issuer::tls(host);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("own.pem"), own).unwrap();
        std::fs::write(folder.path().join("root.pem"), issuer.root()).unwrap();
        let office = Arc::new(Office {
            base: format!("https://{at}"),
            issuer,
            manner: Mutex::new(manner),
            books: Mutex::default(),
            dns: Mutex::default(),
        });
        let door = Arc::clone(&office);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&door), tls.clone(), stream));
            }
        });
        Self {
            office,
            folder,
            _runtime: runtime,
        }
    }

    /// For the server's file; `more` lines stand beneath.
    pub(super) fn section(&self, more: &str) -> String {
        let own = self.folder.path().join("own.pem");
        format!(
            "[[acme.ca]]\ndirectory = \"{}/dir\"\nca_file = \"{}\"\n{more}\n",
            self.office.base,
            own.display()
        )
    }

    /// Whom it asks for what stands in the DNS.
    pub(super) fn asks(&self, dns: SocketAddr) {
        *self.office.dns.lock().unwrap() = Some(dns);
    }

    /// From now on it behaves otherwise.
    pub(super) fn is_to(&self, manner: Manner) {
        *self.office.manner.lock().unwrap() = manner;
    }

    /// What visitors who trust it trust.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// What stands in its books.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Books) -> T) -> T {
        look(&self.office.books.lock().unwrap())
    }
}

async fn serve(office: Arc<Office>, tls: TlsAcceptor, stream: TcpStream) {
    let Ok(mut stream) = tls.accept(stream).await else {
        return;
    };
    let lie = office.lie_at("");
    if matches!(lie, Some(Lie::NoHttp | Lie::EndlessHead)) {
        let line = b"X-Garbage: who has asked for this is told the same again\r\n";
        let mut said = &b"220 mail.test ESMTP\r\n"[..];
        if lie == Some(Lie::EndlessHead) {
            said = b"HTTP/1.1 200 OK\r\n";
        }
        while stream.write_all(said).await.is_ok() && lie == Some(Lie::EndlessHead) {
            said = line;
        }
        let _ = stream.shutdown().await;
        return;
    }
    let service = service_fn(|request| answer(Arc::clone(&office), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = connection.await; // the client has heard enough
}

async fn answer(
    office: Arc<Office>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    if let Some(lie) = office.lie_at(&path)
        && let Some(answer) = lie.instead().await
    {
        return Ok(answer);
    }
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_REQUEST).collect().await;
    let answered = match body {
        Ok(body) => office.hear(&head, &path, &body.to_bytes()).await,
        Err(_) => refused(413, "malformed", "that is too long"),
    };
    let mut response = answered.unwrap_or_else(|refusal| office.refuse(refusal));
    if head.method == Method::POST || path == "/nonce" {
        let nonce = office.books.lock().unwrap().nonce();
        let headers = response.headers_mut();
        headers.insert("replay-nonce", nonce.parse().unwrap());
        headers.insert("cache-control", "no-store".parse().unwrap());
    }
    Ok(response)
}

impl Lie {
    /// What it answers instead of what it was asked for; nothing if it lies elsewhere.
    async fn instead(self) -> Option<Response<Body>> {
        let say = |status: u16, kind: &str, body: Body| {
            let response = Response::builder().status(status);
            response.header(CONTENT_TYPE, kind).body(body).unwrap()
        };
        const PART: Bytes = Bytes::from_static(&[b' '; 16 * 1024]);
        Some(match self {
            Self::Status(status) => say(status, "text/html", "<h1>Oops</h1>".into()),
            Self::Maintenance => {
                let kind = "urn:ietf:params:acme:error:serverInternal";
                let said = json!({ "type": kind, "detail": format!("down for maintenance\n\u{1b}[2J{}", "!".repeat(9999)) });
                say(503, "application/problem+json", said.to_string().into())
            }
            Self::Garbage => say(200, "application/json", "\u{0}{]\u{7f}".into()),
            Self::Silent => std::future::pending().await,
            Self::Huge => say(200, "application/json", vec![b' '; 4 << 20].into()),
            Self::Endless => {
                let parts = futures_util::stream::repeat(Ok::<_, Infallible>(PART));
                say(200, "application/json", Body::from_stream(parts))
            }
            Self::NoHttp
            | Self::EndlessHead
            | Self::Plain
            | Self::OtherName
            | Self::OtherKey
            | Self::Ended
            | Self::Later
            | Self::BrokenChain
            | Self::Replaced => return None,
        })
    }
}

impl Office {
    fn manner(&self) -> Manner {
        self.manner.lock().unwrap().clone()
    }

    fn lie_at(&self, path: &str) -> Option<Lie> {
        let (place, lie) = self.manner().lie?;
        path.starts_with(place).then_some(lie)
    }

    fn refuse(&self, Refusal(status, kind, what): Refusal) -> Response<Body> {
        let mut books = self.books.lock().unwrap();
        books.refusals.push(format!("{kind}: {what}"));
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        let said = json!({ "type": kind, "detail": what, "status": status });
        let response = Response::builder().status(status);
        let response = response.header(CONTENT_TYPE, "application/problem+json");
        response.body(said.to_string().into()).unwrap()
    }

    async fn hear(&self, head: &Parts, path: &str, body: &[u8]) -> Result<Response<Body>, Refusal> {
        // RFC 8555 section 6.1
        if !head.headers.contains_key(USER_AGENT) {
            return refused(400, "malformed", "who are you?");
        }
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (what, id) = (parts.next().unwrap_or_default(), parts.next());
        match (head.method.as_str(), what, id) {
            ("GET", "dir", None) => Ok(json_of(200, &self.directory())),
            ("HEAD" | "GET", "nonce", None) => Ok(Response::new(Body::empty())),
            ("GET", "renewal", Some(id)) => self.advise(id),
            ("POST", what, id) => {
                let url = format!("{}{path}", self.base);
                let said = {
                    let mut books = self.books.lock().unwrap();
                    Said::hear(
                        head,
                        body,
                        &url,
                        what == "account" && id.is_none(),
                        &mut books,
                    )?
                };
                self.attend(what, id, &said).await
            }
            _ => refused(404, "malformed", format!("nothing is at {path}")),
        }
    }

    fn directory(&self) -> Value {
        let (base, manner) = (&self.base, self.manner());
        let profiles = manner.profiles.iter();
        let profiles = profiles.map(|name| ((*name).to_owned(), json!("one of its kinds")));
        let mut directory = json!({
            "newNonce": format!("{base}/nonce"),
            "newAccount": format!("{base}/account"),
            "newOrder": format!("{base}/order"),
            "meta": { "externalAccountRequired": manner.binding.is_some() },
        });
        if manner.advice.is_some() {
            directory["renewalInfo"] = json!(format!("{base}/renewal"));
        }
        if !manner.profiles.is_empty() {
            directory["meta"]["profiles"] = Value::Object(profiles.collect());
        }
        if self.lie_at("/dir") == Some(Lie::Plain) {
            directory["newOrder"] = json!("http://127.0.0.1:1/order");
        }
        directory
    }

    /// RFC 9773 section 4
    fn advise(&self, id: &str) -> Result<Response<Body>, Refusal> {
        let advice = self.manner().advice;
        let mut books = self.books.lock().unwrap();
        let (Some(advice), true) = (advice, books.issued.contains_key(id)) else {
            return refused(404, "malformed", format!("there is no certificate {id}"));
        };
        books.asked_for_advice.push(id.to_owned());
        let (from, to) = match advice {
            Advice::Past => (-48, -24),
            Advice::Month => (30 * 24, 31 * 24),
        };
        let window = json!({ "start": issuer::in_hours(from), "end": issuer::in_hours(to) });
        let mut response = json_of(200, &json!({ "suggestedWindow": window }));
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, 21600.into());
        Ok(response)
    }

    /// Does what somebody has said who may.
    async fn attend(
        &self,
        what: &str,
        id: Option<&str>,
        said: &Said,
    ) -> Result<Response<Body>, Refusal> {
        let manner = self.manner();
        let number = id.and_then(|id| id.parse::<usize>().ok());
        if let ("challenge", Some(number)) = (what, number) {
            let place = self.books.lock().unwrap().to_look_at(number, said)?;
            let dns = *self.dns.lock().unwrap();
            let found = tokio::task::spawn_blocking(move || texts(dns, &place));
            let found = found.await.unwrap_or_default();
            let mut books = self.books.lock().unwrap();
            return Ok(json_of(200, &books.has_looked(number, &found, &self.base)));
        }
        let mut books = self.books.lock().unwrap();
        match (what, number) {
            ("account", None) if id.is_none() => {
                let url = format!("{}/account", self.base);
                let (number, is_new) = books.account(said, manner.binding, &url)?;
                let status = if is_new { 201 } else { 200 };
                let account =
                    json!({ "status": "valid", "orders": format!("{url}/{number}/orders") });
                Ok(located(status, format!("{url}/{number}"), &account))
            }
            ("account", _) => Ok(json_of(200, &books.about(id, said, &self.base)?)),
            ("order", None) if id.is_none() => {
                let number = books.order(said, manner.profiles)?;
                if self.lie_at("/order") == Some(Lie::Replaced) {
                    books.has_replaced(number)?;
                }
                let order = books.seen(number, &self.base);
                Ok(located(
                    201,
                    format!("{}/order/{number}", self.base),
                    &order,
                ))
            }
            ("order", Some(number)) => {
                books.own(number, said)?;
                said.asks_only()?;
                Ok(json_of(200, &books.seen(number, &self.base)))
            }
            ("authorization", Some(number)) => {
                said.asks_only()?;
                Ok(json_of(
                    200,
                    &books.authorization(number, said, &self.base)?,
                ))
            }
            ("finalize", Some(number)) => {
                let lie = self.lie_at("/finalize");
                let life = manner.validity.unwrap_or(Duration::from_secs(90 * 86_400));
                books.finalize(number, said, |request| {
                    self.issuer.issue(request, life, lie)
                })?;
                Ok(json_of(200, &books.seen(number, &self.base)))
            }
            ("certificate", Some(number)) => {
                said.asks_only()?;
                let chain = books.chain(number, said)?;
                let response = Response::builder();
                let response = response.header(CONTENT_TYPE, "application/pem-certificate-chain");
                Ok(response.body(chain.into()).unwrap())
            }
            _ => refused(404, "malformed", format!("there is no {what} {id:?}")),
        }
    }
}

fn json_of(status: u16, value: &Value) -> Response<Body> {
    let response = Response::builder().status(status);
    let response = response.header(CONTENT_TYPE, "application/json");
    response.body(value.to_string().into()).unwrap()
}

fn located(status: u16, at: String, value: &Value) -> Response<Body> {
    let mut response = json_of(status, value);
    response.headers_mut().insert(LOCATION, at.parse().unwrap());
    response
}

/// What TXT records have at `place`, by dig(1).
fn texts(dns: Option<SocketAddr>, place: &str) -> Vec<String> {
    let dns = dns.unwrap();
    let mut dig = std::process::Command::new("dig");
    dig.args([&format!("@{}", dns.ip()), "-p", &dns.port().to_string()]);
    dig.args(["+short", "+norecurse", "+tries=2", "+time=5", "TXT", place]);
    let found = String::from_utf8(run(dig).stdout).unwrap();
    let found = found.lines().filter(|line| line.starts_with('"'));
    let found = found.map(|line| line.trim_matches('"').to_owned());
    found.collect()
}
