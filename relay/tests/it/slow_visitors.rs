//! Visitors who do not send what they have begun, and those who only take their time. The agent waits for ten seconds, so
//! everybody comes at once.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame};
use hyper::client::conn::http2;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use relay::agent::{self, State};
use relay::server::Transport;
use relay::tls::{Roots, connect_http2};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::byte_path::{origin, read_head};
use crate::world::{Agent, World};

const HOST: &str = "mynas.nas.localhost";

/// How long the agent waits for a head, and for a body that has brought nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pause that is longer.
const PAUSE: Duration = Duration::from_secs(12);

/// Nothing here takes longer unless it is broken.
const SOON: Duration = Duration::from_secs(60);

/// Answers each request as its path says.
async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve_one(stream));
    }
}

async fn serve_one(mut stream: TcpStream) {
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(octet) = stream.read_u8().await else {
                return;
            };
            head.push(octet);
        }
        let head = String::from_utf8(head).unwrap();
        match head.split(' ').nth(1).unwrap() {
            "/takes" => {
                let mut body = [0; 3000];
                if stream.read_exact(&mut body).await.is_err() {
                    return; // broken off
                }
            }
            "/changes" => {
                let changed =
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
                stream.write_all(changed).await.unwrap();
                for _ in 0..2 {
                    let octet = stream.read_u8().await.unwrap();
                    stream.write_u8(octet).await.unwrap();
                }
                return;
            }
            _ => {} // and takes no body
        }
        if stream.write_all(ok).await.is_err() {
            return;
        }
    }
}

/// A relay, the agent of a device, and its service.
async fn device() -> (World, Agent, AbortOnDropHandle<()>) {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let service = AbortOnDropHandle::new(tokio::spawn(serve(listener)));
    let agent = world.agent("mynas", &address).await;
    (world, agent, service)
}

fn head(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{more}\r\n")
}

async fn is_answered(visitor: &mut (impl AsyncRead + Unpin)) {
    let answer = timeout(SOON, read_head(visitor)).await.unwrap();
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    let mut ok = [0; 2];
    visitor.read_exact(&mut ok).await.unwrap();
    assert_eq!(&ok, b"ok");
}

/// What is said to a visitor until its end, which comes when the agent's patience is at its own.
async fn sent_away(mut visitor: impl AsyncRead + Unpin) -> String {
    let since = Instant::now();
    let mut said = Vec::new();
    // Broken off or not.
    let _ = timeout(SOON, visitor.read_to_end(&mut said)).await.unwrap();
    let waited = since.elapsed();
    assert!(waited > PATIENCE - Duration::from_secs(2), "{waited:?}");
    String::from_utf8_lossy(&said).into_owned()
}

async fn says_nothing(world: &World) {
    assert_eq!(sent_away(world.visit(HOST).await).await, "");
}

async fn begins_a_head(world: &World) {
    let mut visitor = world.visit(HOST).await;
    let asked = head("GET", "/", "");
    visitor.write_all(asked.as_bytes()).await.unwrap();
    is_answered(&mut visitor).await;
    visitor.write_all(b"GET / HT").await.unwrap();
    assert_eq!(sent_away(visitor).await, "");
}

async fn begins_a_body(world: &World) {
    let mut visitor = world.visit(HOST).await;
    let asked = head("PUT", "/takes", "Content-Length: 3000\r\n") + "only this";
    visitor.write_all(asked.as_bytes()).await.unwrap();
    let said = sent_away(visitor).await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(said.contains("\r\nconnection: close\r\n"), "{said}");
    assert!(said.ends_with("did not come in time.\n"), "{said}");
}

/// And the origin does not want it.
async fn begins_a_body_in_vain(world: &World) {
    let mut visitor = world.visit(HOST).await;
    let asked = head("PUT", "/", "Content-Length: 3000\r\n");
    visitor.write_all(asked.as_bytes()).await.unwrap();
    is_answered(&mut visitor).await;
    assert_eq!(sent_away(visitor).await, "");
}

async fn rests(world: &World) {
    let mut visitor = world.visit(HOST).await;
    let asked = head("GET", "/", "");
    visitor.write_all(asked.as_bytes()).await.unwrap();
    is_answered(&mut visitor).await;
    sleep(PAUSE).await;
    visitor.write_all(asked.as_bytes()).await.unwrap();
    is_answered(&mut visitor).await;
}

async fn pauses_an_upload(world: &World) {
    let mut visitor = world.visit(HOST).await;
    let asked = head("PUT", "/takes", "Content-Length: 3000\r\n") + &"x".repeat(2000);
    visitor.write_all(asked.as_bytes()).await.unwrap();
    sleep(PAUSE).await; // of the fourteen seconds that it has by then
    visitor.write_all(&[b'x'; 1000]).await.unwrap();
    is_answered(&mut visitor).await;
}

async fn changes_the_protocol(world: &World) {
    let mut visitor = world.visit(HOST).await;
    let asked = head(
        "GET",
        "/changes",
        "Connection: Upgrade\r\nUpgrade: echo\r\n",
    );
    visitor.write_all(asked.as_bytes()).await.unwrap();
    let answer = read_head(&mut visitor).await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    for pause in [Duration::ZERO, PAUSE] {
        sleep(pause).await;
        visitor.write_u8(b'x').await.unwrap();
        let echoed = timeout(SOON, visitor.read_u8()).await.unwrap();
        assert_eq!(echoed.unwrap(), b'x');
    }
}

/// What the agent says of those it has not waited for, and of its service.
async fn noted(world: &World) -> ([u64; 3], u64) {
    let state = State::open(world.state_of("mynas")).unwrap();
    let status = agent::ask(&state).await.unwrap();
    let counts = ["silent", "head", "body"].map(|reason| status.too_slow[reason]);
    (counts, status.origin.failures["broke_off"])
}

#[tokio::test]
async fn who_does_not_go_on_is_not_waited_for_and_who_pauses_is() {
    let (world, _agent, _service) = device().await;
    tokio::join!(
        says_nothing(&world),
        begins_a_head(&world),
        begins_a_body(&world),
        begins_a_body_in_vain(&world),
        rests(&world),
        pauses_an_upload(&world),
        changes_the_protocol(&world),
    );
    assert_eq!(noted(&world).await, ([1, 1, 2], 0));
}

async fn over_http2(world: &World) -> impl AsyncRead + AsyncWrite + Send + Unpin + use<> {
    let stream = TcpStream::connect(world.front).await.unwrap();
    let roots = Roots::from_pem(&world.trust_root).unwrap();
    connect_http2(stream, HOST, &roots).await.unwrap()
}

async fn says_nothing_over_http2(world: &World) {
    sent_away(over_http2(world).await).await;
}

/// After a request that is whole. The frames are written by hand (RFC 9113 section 4.1).
async fn begins_a_head_over_http2(world: &World) {
    let mut visitor = over_http2(world).await;
    // GET, https, / and the authority (RFC 7541 appendix A).
    let length = u8::try_from(HOST.len()).unwrap();
    let fields = [&[0x82, 0x87, 0x84, 0x41, length][..], HOST.as_bytes()].concat();
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    let asked = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(4, 0, 0, &[]),
        &frame(1, 5, 1, &fields),
    ];
    visitor.write_all(&asked.concat()).await.unwrap();
    let mut answered = Vec::new();
    while !answered.ends_with(b"ok") {
        let octet = timeout(SOON, visitor.read_u8()).await.unwrap();
        answered.push(octet.unwrap());
    }
    visitor.write_all(&frame(1, 1, 3, &fields)).await.unwrap();
    sent_away(visitor).await;
}

/// Of a body, whose rest does not come.
struct Part(Option<&'static str>);

impl Body for Part {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(part) => Poll::Ready(Some(Ok(Frame::data(part.into())))),
            None => Poll::Pending,
        }
    }
}

/// Asks for something else afterwards, whose body nobody wants.
async fn begins_a_body_over_http2(world: &World) {
    let visitor = TokioIo::new(over_http2(world).await);
    let handshake = http2::handshake(TokioExecutor::new(), visitor);
    let (mut asks, connection) = handshake.await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let asked = |method: &str, path: &str| {
        Request::builder()
            .method(method)
            .uri(format!("https://{HOST}{path}"))
    };
    let begun = asked("PUT", "/takes").header("Content-Length", 3000);
    let begun = asks.send_request(begun.body(Part(Some("only this"))).unwrap());
    let since = Instant::now();
    let answer = timeout(SOON, begun).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    assert!(since.elapsed() > PATIENCE - Duration::from_secs(1));

    let another = asked("PUT", "/").body(Part(None)).unwrap();
    let answer = timeout(SOON, asks.send_request(another)).await;
    let answer = answer.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn over_http2_only_the_request_that_does_not_go_on_ends() {
    let (world, _agent, _service) = device().await;
    tokio::join!(
        says_nothing_over_http2(&world),
        begins_a_head_over_http2(&world),
        begins_a_body_over_http2(&world)
    );
    assert_eq!(noted(&world).await, ([1, 1, 1], 0));
}
