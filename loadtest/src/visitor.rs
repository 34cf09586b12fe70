//! A visitor: TLS to a device's name through the front, and HTTP/1.1 in it. As cheap as it can be had, because its
//! processor time is not what is measured.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use relay::tls::{Roots, connect_https};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::entrance::Entrance;
use crate::zeros::Zeros;

/// How long a connection or a small exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);

const HTTPS: u16 = 443;

/// A device's door: where it is, and by which name it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    front: SocketAddr,
    host: String,
    /// The host as HTTP names it, with the port unless that is the usual one.
    authority: HeaderValue,
    roots: Roots,
}

/// What went wrong for a visitor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VisitError {
    #[error("no connection to {0}: {1}; does a relay listen there?")]
    Connect(SocketAddr, io::Error),
    #[error("no TLS with {0}: {1}; is that device attached, and is --ca its authority?")]
    Tls(String, io::Error),
    #[error("HTTP failed: {}", with_cause(.0))]
    Http(#[from] hyper::Error),
    #[error("the answer was {0}; is that path right?")]
    Status(StatusCode),
    #[error("nothing came within {} s", PATIENCE.as_secs())]
    Late,
}

fn with_cause(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl Door {
    /// The door of `host` at `front`; its certificate must be vouched for by `roots`. `None` if `host` is no host name.
    pub(crate) fn new(front: SocketAddr, host: &str, roots: Roots) -> Option<Self> {
        let authority = match front.port() {
            HTTPS => host.parse(),
            port => format!("{host}:{port}").parse(),
        };
        Some(Self {
            front,
            host: host.to_owned(),
            authority: authority.ok()?,
            roots,
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// What vouches for the host's certificate.
    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The same for who speaks HTTP by himself.
    pub(crate) fn entrance(&self) -> Entrance {
        Entrance {
            front: self.front,
            tls: Some((self.host.clone(), self.roots.clone())),
        }
    }

    /// A new visitor's connection: TCP, and a whole TLS handshake.
    pub(crate) async fn enter(&self) -> Result<Visit, VisitError> {
        let entered = timeout(PATIENCE, async {
            let connect = |error| VisitError::Connect(self.front, error);
            let stream = TcpStream::connect(self.front).await.map_err(connect)?;
            stream.set_nodelay(true).map_err(connect)?;
            let stream = connect_https(stream, &self.host, &self.roots)
                .await
                .map_err(|error| VisitError::Tls(self.host.clone(), error))?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            Ok(Visit {
                sender,
                connection: Some(Box::pin(connection)),
            })
        });
        entered.await.unwrap_or(Err(VisitError::Late))
    }

    pub(crate) fn get(&self, path: &str) -> Request<Zeros> {
        self.request(Method::GET, path, Zeros::new(0))
    }

    /// The same on a connection that ends with it.
    pub(crate) fn get_once(&self, path: &str) -> Request<Zeros> {
        let mut request = self.get(path);
        request
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        request
    }

    pub(crate) fn put(&self, path: &str, body: Zeros) -> Request<Zeros> {
        self.request(Method::PUT, path, body)
    }

    fn request(&self, method: Method, path: &str, body: Zeros) -> Request<Zeros> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        // What is no path is asked for as the root, whose answer then shows the mistake.
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.headers_mut().insert(HOST, self.authority.clone());
        request
    }
}

/// A visitor's connection.
pub(crate) struct Visit {
    sender: SendRequest<Zeros>,
    connection: Option<Work>,
}

/// What the connection does while an exchange is waited for, in the same task: no other has to be woken.
type Work = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

impl Visit {
    /// One exchange of any length. `received` hears of the answer's octets as they come.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Zeros>,
        mut received: impl FnMut(usize),
    ) -> Result<(), VisitError> {
        let answer = self.sender.send_request(request);
        let answer = drive(&mut self.connection, answer).await?;
        if !answer.status().is_success() {
            return Err(VisitError::Status(answer.status()));
        }
        let mut body = answer.into_body();
        while let Some(frame) = drive(&mut self.connection, body.frame()).await {
            received(frame?.data_ref().map_or(0, |data| data.len()));
        }
        Ok(())
    }

    /// One small exchange, which must not take long.
    pub(crate) async fn exchange_soon(
        &mut self,
        request: Request<Zeros>,
    ) -> Result<(), VisitError> {
        let exchanged = timeout(PATIENCE, self.exchange(request, |_| {}));
        exchanged.await.unwrap_or(Err(VisitError::Late))
    }
}

/// Lets the connection work until `awaited` is there.
async fn drive<T>(connection: &mut Option<Work>, awaited: impl Future<Output = T>) -> T {
    let mut awaited = pin!(awaited);
    if let Some(work) = connection {
        tokio::select! {
            biased; // the last of an answer may come together with the connection's end
            there = &mut awaited => return there,
            // Its error, if there is one, is what `awaited` gives then.
            _ = work => *connection = None,
        }
    }
    awaited.await
}
