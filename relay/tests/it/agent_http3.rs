//! HTTP/3 that the agent speaks itself, for services that do not.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h3::client::SendRequest;
use h3::error::{Code, ConnectionError};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Endpoint, TransportConfig};
use relay::agent::{self, Http3Server, Origin, OriginTrust, State, VisitorAddress};
use relay::resolve::Resolver;
use relay::server::Transport;
use relay::tls::Roots;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::byte_path::read_head;
use crate::world::{Agent, SOON, World};

pub(crate) const HOST: &str = "mynas.nas.localhost";

/// A service that gives back what it is sent, and says whom it has heard of.
pub(crate) struct Echo {
    address: SocketAddr,
    /// How many requests have come.
    pub(crate) asked: Arc<AtomicUsize>,
    _serves: AbortOnDropHandle<()>,
}

impl Echo {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&asked);
        let serves = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                let answer = service_fn(move |request| {
                    counted.fetch_add(1, Relaxed);
                    echo(request)
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer);
                tokio::spawn(serving);
            }
        };
        Self {
            address,
            asked,
            _serves: AbortOnDropHandle::new(tokio::spawn(serves)),
        }
    }

    pub(crate) fn origin(&self, http3: Option<Http3Server>) -> Origin {
        let roots = OriginTrust::Roots(Roots::none());
        let address = format!("http://{}", self.address).parse().unwrap();
        let origin = Origin::new(address, VisitorAddress::Forwarded, &roots).unwrap();
        origin.with_http3(http3)
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let said = |name: &str| request.headers().get(name).cloned();
    let (visitor, host) = (said("x-forwarded-for"), said("host"));
    let has_body = said("transfer-encoding").or(said("content-length"));
    let method = request.method().clone();
    let body = request.into_body().collect().await;
    let body = body.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
    let answer = Response::builder()
        .header("x-visitor", visitor.unwrap())
        .header("x-host", host.unwrap())
        .header("x-has-body", if has_body.is_some() { "yes" } else { "no" })
        .header("x-method", method.as_str());
    Ok(answer.body(Full::new(body)).unwrap())
}

pub(crate) async fn device(world: &World, name: &str) -> (Agent, Echo) {
    let echo = Echo::start().await;
    let origin = echo.origin(Some(Http3Server::Agent));
    let state = world.device(name);
    let agent = world.agent_for(state, Resolver::Fixed(world.front), origin);
    (agent.await, echo)
}

/// A client of HTTP/3 at an address of this host.
pub(crate) fn endpoint(world: &World, at: Ipv4Addr) -> Endpoint {
    endpoint_with(world, at, TransportConfig::default())
}

fn endpoint_with(world: &World, at: Ipv4Addr, transport: TransportConfig) -> Endpoint {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(world.trust_root.as_bytes());
    roots.add(root.unwrap()).unwrap();
    let mut tls = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    tls.enable_early_data = true;
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = Endpoint::client((at, 0).into()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    endpoint
}

/// A visitor's connection.
pub(crate) struct Visitor {
    pub(crate) connection: quinn::Connection,
    pub(crate) requests: SendRequest<h3_quinn::OpenStreams, Bytes>,
    _driven: AbortOnDropHandle<ConnectionError>,
}

impl Visitor {
    pub(crate) async fn come(client: &Endpoint, front: SocketAddr, host: &str) -> Self {
        let connecting = client.connect(front, host).unwrap();
        let connection = timeout(SOON, connecting).await.expect("in time").unwrap();
        let transport = h3_quinn::Connection::new(connection.clone());
        let (mut driver, requests) = h3::client::new(transport).await.unwrap();
        let driven = async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await };
        Self {
            connection,
            requests,
            _driven: AbortOnDropHandle::new(tokio::spawn(driven)),
        }
    }

    pub(crate) async fn ask(
        &mut self,
        method: Method,
        host: &str,
        body: &Bytes,
    ) -> (Response<()>, Vec<u8>) {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{host}/"))
            .header("x-forwarded-for", "192.0.2.66")
            .body(())
            .unwrap();
        let asked = async {
            let stream = self.requests.send_request(request).await.unwrap();
            let (mut sent, mut received) = stream.split();
            let says = async {
                if !body.is_empty() {
                    sent.send_data(body.clone()).await.unwrap();
                }
                sent.finish().await.unwrap();
            };
            let hears = async {
                let head = received.recv_response().await.unwrap();
                let mut heard = Vec::new();
                while let Some(part) = received.recv_data().await.unwrap() {
                    heard.extend_from_slice(part.chunk());
                }
                (head, heard)
            };
            tokio::join!(says, hears).1
        };
        timeout(SOON, asked).await.expect("in time")
    }
}

pub(crate) fn payload(length: u32) -> Bytes {
    (0..length)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect()
}

pub(crate) fn said<'a>(head: &'a Response<()>, name: &str) -> &'a str {
    head.headers()[name].to_str().unwrap()
}

#[tokio::test]
async fn a_request_over_http3_reaches_the_service_as_others_do() {
    let world = World::start(Transport::Quic);
    let (_agent, _echo) = device(&world, "mynas").await;
    let client = endpoint(&world, Ipv4Addr::new(127, 0, 0, 2));
    let mut visitor = Visitor::come(&client, world.front, HOST).await;
    let body = payload(4 << 20);
    let (head, heard) = visitor.ask(Method::POST, HOST, &body).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert!(heard == body, "{} of {}", heard.len(), body.len());
    assert_eq!(
        said(&head, "x-visitor"),
        "127.0.0.2",
        "and nothing it has said"
    );
    assert_eq!(said(&head, "x-host"), HOST);
    let (head, heard) = visitor.ask(Method::GET, HOST, &Bytes::new()).await;
    assert_eq!((said(&head, "x-has-body"), heard.len()), ("no", 0));
    let (head, heard) = visitor.ask(Method::HEAD, HOST, &Bytes::new()).await;
    assert_eq!((said(&head, "x-method"), heard.len()), ("HEAD", 0));
    let (head, _) = visitor
        .ask(Method::GET, "other.nas.localhost", &Bytes::new())
        .await;
    assert_eq!(head.status(), StatusCode::MISDIRECTED_REQUEST);
    // What comes before the handshake is over may be somebody's who says it again.
    let connecting = client.connect(world.front, HOST).unwrap();
    assert!(connecting.into_0rtt().is_err());
}

#[tokio::test]
async fn http3_is_offered_where_it_is_and_taken_back_where_it_is_not() {
    for (transport, http3, offer) in [
        (
            Transport::Quic,
            Some(Http3Server::Agent),
            Some("h3=\":8443\"; ma=3600"),
        ),
        (Transport::Tls, Some(Http3Server::Agent), Some("clear")),
        (Transport::Quic, None, None),
    ] {
        let world = World::start(transport);
        let echo = Echo::start().await;
        let state = world.device("mynas");
        let origin = echo.origin(http3);
        let mut agent = world
            .agent_for(state, Resolver::Fixed(world.front), origin)
            .await;
        agent.is_attached().await;
        let asked = async {
            loop {
                let mut visitor = world.visit(HOST).await;
                let request = format!("GET / HTTP/1.1\r\nHost: {HOST}:8443\r\n\r\n");
                visitor.write_all(request.as_bytes()).await.unwrap();
                let head = read_head(&mut visitor).await;
                let said = head.lines().find_map(|line| line.strip_prefix("alt-svc: "));
                // A tunnel that has just been made finds out first how much its path carries.
                if said == offer {
                    break;
                }
                assert_eq!(
                    (said, transport),
                    (Some("clear"), Transport::Quic),
                    "{head}"
                );
            }
        };
        timeout(SOON, asked).await.expect("in time");
    }
}

#[tokio::test]
async fn a_head_that_is_longer_than_any_is_not_kept() {
    let world = World::start(Transport::Quic);
    let (_agent, _echo) = device(&world, "mynas").await;
    let client = endpoint(&world, Ipv4Addr::LOCALHOST);
    let visitor = Visitor::come(&client, world.front, HOST).await;
    let (mut send, _recv) = visitor.connection.open_bi().await.unwrap();
    // HEADERS of 2³⁰ octets.
    send.write_all(&[1, 0xc0, 0, 0, 0, 0x40, 0, 0, 0])
        .await
        .unwrap();
    let stopped = timeout(SOON, send.stopped()).await.expect("in time");
    let code = stopped.unwrap().unwrap().into_inner();
    assert_eq!(Code::from(code), Code::H3_EXCESSIVE_LOAD);
    // The same in many that are not too long each, and have no end.
    let mut open = Vec::new();
    let filled = async {
        loop {
            let (mut send, recv) = visitor.connection.open_bi().await?;
            send.write_all(&[1, 0x80, 0, 0xff, 0xff]).await?;
            send.write_all(&[0; 60_000]).await?;
            open.push((send, recv));
        }
    };
    let refused: Result<(), std::io::Error> = timeout(SOON, filled).await.expect("in time");
    refused.unwrap_err();
    let (mut again, echoed) = (Visitor::come(&client, world.front, HOST).await, payload(9));
    let (head, _) = again.ask(Method::POST, HOST, &echoed).await;
    assert_eq!(head.status(), StatusCode::OK, "others are served");
}

#[tokio::test]
async fn who_asks_for_nothing_or_does_not_end_asking_is_not_waited_for() {
    let world = World::start(Transport::Quic);
    let (_agent, _echo) = device(&world, "mynas").await;
    let client = endpoint(&world, Ipv4Addr::LOCALHOST);
    let silent = Visitor::come(&client, world.front, HOST).await;
    let mut slow = Visitor::come(&client, world.front, HOST).await;
    slow.ask(Method::GET, HOST, &Bytes::new()).await;
    let (mut send, _recv) = slow.connection.open_bi().await.unwrap();
    send.write_all(&[1, 30, 0]).await.unwrap();
    for visitor in [&silent, &slow] {
        let closed = timeout(SOON, visitor.connection.closed());
        closed.await.expect("in time");
    }
    let state = State::open(world.state_of("mynas")).unwrap();
    let too_slow = agent::ask(&state).await.unwrap().too_slow;
    assert_eq!((too_slow["silent"], too_slow["head"]), (1, 1));
}

/// The head of a POST as it is on the wire, in fields that every peer has in its table (RFC 9204 appendix A), with more behind them.
fn post(more: &[u8]) -> Vec<u8> {
    const METHOD_POST: u8 = 0xc0 | 20;
    const SCHEME_HTTPS: u8 = 0xc0 | 23;
    const PATH: u8 = 0xc0 | 1;
    const AUTHORITY: u8 = 0x50;
    let mut fields = vec![0, 0, METHOD_POST, SCHEME_HTTPS, PATH, AUTHORITY];
    fields.push(u8::try_from(HOST.len()).unwrap());
    fields.extend_from_slice(HOST.as_bytes());
    fields.extend_from_slice(more);
    let length = u8::try_from(fields.len()).unwrap();
    assert!(length < 64);
    [&[1, length], &fields[..]].concat()
}

/// What is answered, until the end of the stream or its reset.
async fn answer_to(visitor: &Visitor, said: &[u8]) -> Result<Vec<u8>, quinn::ReadError> {
    let (mut send, mut recv) = visitor.connection.open_bi().await.unwrap();
    let answered = async {
        // Who is refused is so before the end perhaps.
        let _ = send.write_all(said).await;
        let _ = send.finish();
        let mut heard = Vec::new();
        while let Some(chunk) = recv.read_chunk(1 << 20, true).await? {
            heard.extend_from_slice(&chunk.bytes);
        }
        Ok(heard)
    };
    timeout(SOON, answered).await.expect("in time")
}

/// The payload of all DATA (RFC 9114 section 7.2.1).
fn data_of(mut heard: &[u8]) -> Vec<u8> {
    fn number(octets: &mut &[u8]) -> u64 {
        let length = 1 << (octets[0] >> 6);
        let (number, rest) = octets.split_at(length);
        *octets = rest;
        let first = u64::from(number[0] & 0x3f);
        number[1..]
            .iter()
            .fold(first, |number, octet| number << 8 | u64::from(*octet))
    }
    let mut data = Vec::new();
    while !heard.is_empty() {
        let (kind, length) = (number(&mut heard), number(&mut heard));
        let (payload, rest) = heard.split_at(usize::try_from(length).unwrap());
        heard = rest;
        if kind == 0 {
            data.extend_from_slice(payload);
        }
    }
    data
}

#[tokio::test]
async fn a_body_in_frames_of_any_size_is_whole() {
    let world = World::start(Transport::Quic);
    let (_agent, _echo) = device(&world, "mynas").await;
    let client = endpoint(&world, Ipv4Addr::LOCALHOST);
    let visitor = Visitor::come(&client, world.front, HOST).await;
    let body = payload(50_000);
    let mut said = post(&[]);
    for (at, octet) in body.iter().enumerate() {
        match at % 1000 {
            0 => said.extend([0, 0]),          // DATA without any
            1 => said.extend([0x21, 2, 7, 7]), // a frame that nobody knows
            _ => {}
        }
        said.extend([0, 1, *octet]);
    }
    let heard = answer_to(&visitor, &said).await.unwrap();
    assert!(data_of(&heard) == body, "{} octets", heard.len());
}

#[tokio::test]
async fn a_body_that_ends_within_a_frame_is_broken_off() {
    let world = World::start(Transport::Quic);
    let (_agent, _echo) = device(&world, "mynas").await;
    let client = endpoint(&world, Ipv4Addr::LOCALHOST);
    let mut visitor = Visitor::come(&client, world.front, HOST).await;
    let said = [&post(&[])[..], &[0, 10], b"5 oct"].concat();
    let heard = answer_to(&visitor, &said).await;
    assert!(!heard.is_ok_and(|heard| heard.ends_with(b"5 oct")));
    let echoed = payload(9);
    let (head, heard) = visitor.ask(Method::POST, HOST, &echoed).await;
    assert_eq!((head.status(), heard), (StatusCode::OK, echoed.to_vec()));
}

#[tokio::test]
async fn a_request_that_says_two_lengths_reaches_no_service() {
    let world = World::start(Transport::Quic);
    let (_agent, _echo) = device(&world, "mynas").await;
    let client = endpoint(&world, Ipv4Addr::LOCALHOST);
    let visitor = Visitor::come(&client, world.front, HOST).await;
    const CONTENT_LENGTH: u8 = 0x50 | 4;
    for more in [
        &[CONTENT_LENGTH, 1, b'0', CONTENT_LENGTH, 1, b'5'][..],
        &[CONTENT_LENGTH, 2, b'+', b'0'],
    ] {
        let heard = answer_to(&visitor, &post(more)).await;
        let malformed = quinn::VarInt::try_from(Code::H3_MESSAGE_ERROR.value()).unwrap();
        assert_eq!(heard, Err(quinn::ReadError::Reset(malformed)));
    }
    let heard = answer_to(&visitor, &post(&[CONTENT_LENGTH, 1, b'0'])).await;
    assert!(heard.is_ok());
}

#[tokio::test]
async fn who_grants_no_stream_is_not_waited_for() {
    let world = World::start(Transport::Quic);
    let (_agent, _echo) = device(&world, "mynas").await;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(0_u8.into())
        .keep_alive_interval(Some(Duration::from_millis(500)));
    let client = endpoint_with(&world, Ipv4Addr::LOCALHOST, transport);
    let connecting = client.connect(world.front, HOST).unwrap();
    let connection = timeout(SOON, connecting).await.expect("in time").unwrap();
    timeout(SOON, connection.closed()).await.expect("in time");
}

#[tokio::test]
async fn who_is_here_over_http3_hears_that_the_agent_stops() {
    let world = World::start(Transport::Quic);
    let (agent, _echo) = device(&world, "mynas").await;
    let client = endpoint(&world, Ipv4Addr::LOCALHOST);
    let mut rests = Visitor::come(&client, world.front, HOST).await;
    rests.ask(Method::GET, HOST, &Bytes::new()).await;
    // Another one is in the middle of what it says. Before its handshake is over it would hear of no code (RFC 9000 section 10.2.3).
    let mut asks = Visitor::come(&client, world.front, HOST).await;
    asks.ask(Method::GET, HOST, &Bytes::new()).await;
    let request = Request::post(format!("https://{HOST}/")).body(()).unwrap();
    let mut stream = asks.requests.send_request(request).await.unwrap();
    stream.send_data(payload(100_000)).await.unwrap();
    agent.stop().await;
    for visitor in [&rests, &asks] {
        let closed = timeout(SOON / 4, visitor.connection.closed());
        let closed = closed.await.expect("they would ask on until they give up");
        let quinn::ConnectionError::ApplicationClosed(closed) = closed else {
            panic!("{closed}");
        };
        let code = Code::from(closed.error_code.into_inner());
        assert_eq!(code, Code::H3_NO_ERROR, "{closed}");
    }
}
