//! The service behind the agent: small answers, endless ones, and a place to upload to, as cheap as HTTP can be.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::TcpListener;

use crate::zeros::Zeros;

/// Answered with [`BULK_LENGTH`] octets; uploads go there too. Every other path gets [`SMALL_LENGTH`].
pub(crate) const BULK: &str = "/bulk";

const BULK_LENGTH: u64 = 1 << 30;
const SMALL_LENGTH: u64 = 1024;

/// What it gives the kernel that cannot be sent yet, in octets, for each visitor. On loopback that would be 1.4 MB by default, which
/// is no part of what is measured.
const UNSENT: u32 = 256 * 1024;

/// What is wanted: nothing that could be chosen.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {}

/// Where it listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) address: SocketAddr,
}

pub(super) async fn play(Order {}: Order) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    // Its connections have it too.
    SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT)?;
    super::say(&Ready {
        address: listener.local_addr()?,
    })?;
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        // Its client sees an error as a broken connection, which is counted there. The tasks end with the process.
        tokio::spawn(
            http1::Builder::new().serve_connection(TokioIo::new(client), service_fn(answer)),
        );
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Zeros>, Infallible> {
    let bulk = request.uri().path() == BULK;
    let mut answer = match request.method() {
        &Method::PUT | &Method::POST => Response::new(Zeros::new(0)),
        _ if bulk => Response::new(Zeros::new(BULK_LENGTH)),
        _ => Response::new(Zeros::new(SMALL_LENGTH)),
    };
    let mut body = request.into_body();
    if !body.is_end_stream() {
        while let Some(Ok(_)) = body.frame().await {}
        *answer.status_mut() = StatusCode::NO_CONTENT;
    }
    Ok(answer)
}
