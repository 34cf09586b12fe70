//! What the agent itself asks of a service that speaks HTTP, in the HTTP that it speaks.

use std::io;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::SOFTWARE;
use super::origin::Scheme;
use crate::http_client;

/// Asks for `path` of `host` on a connection of its own, and says how the answer begins. Knows no deadline; the caller does.
pub(super) async fn get(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    scheme: Scheme,
    host: &str,
    path: &str,
) -> io::Result<StatusCode> {
    let request = Request::get(match scheme {
        Scheme::H2c => format!("http://{host}{path}"),
        Scheme::H2 => format!("https://{host}{path}"),
        Scheme::Http | Scheme::Https | Scheme::Tcp | Scheme::Tls | Scheme::Udp => path.to_owned(),
    });
    let request = request.header(header::USER_AGENT, SOFTWARE);
    let answer = if scheme.is_http2() {
        let request = request.body(Full::<Bytes>::default());
        http_client::open_http2(stream, request.map_err(io::Error::other)?).await?
    } else {
        let request = request
            .header(header::HOST, host)
            .header(header::CONNECTION, "close")
            .body(Full::<Bytes>::default());
        http_client::open(stream, request.map_err(io::Error::other)?).await?
    };
    Ok(answer.status())
}
