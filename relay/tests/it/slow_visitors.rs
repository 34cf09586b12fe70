//! Visitors who do not send what they have begun, and those who only take their time. The agent waits for nine seconds, so
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
const PATIENCE: Duration = Duration::from_secs(9);

/// A pause that is longer.
const PAUSE: Duration = Duration::from_secs(11);

/// How long it waits for who takes nothing, and somewhat more: filling what is on the way takes a moment here.
const TAKING_TIME: Duration = Duration::from_secs(8);
const LATE: Duration = Duration::from_secs(4);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Nothing here takes longer unless it is broken.
const SOON: Duration = Duration::from_secs(60);

/// More than all that is on the way to a visitor holds, in octets.
const MUCH: usize = 256 * 1024 * 1024;

/// So many of one address may leave what they have asked for.
const LEAVE: usize = 8;

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
            "/much" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
                let mut written = stream.write_all(head.as_bytes()).await;
                for _ in 0..MUCH / 65536 {
                    if written.is_err() {
                        return; // broken off
                    }
                    written = stream.write_all(&[0; 65536]).await;
                }
                continue;
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
    assert!(waited > PATIENCE - Duration::from_secs(3), "{waited:?}");
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
async fn noted(world: &World) -> ([u64; 4], u64) {
    let state = State::open(world.state_of("mynas")).unwrap();
    let status = agent::ask(&state).await.unwrap();
    let counts = ["silent", "head", "body", "answer"].map(|reason| status.too_slow[reason]);
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
    assert_eq!(noted(&world).await, ([1, 1, 2, 0], 0));
}

async fn over_http2(world: &World) -> impl AsyncRead + AsyncWrite + Send + Unpin + use<> {
    let stream = TcpStream::connect(world.front).await.unwrap();
    let roots = Roots::from_pem(&world.trust_root).unwrap();
    connect_http2(stream, HOST, &roots).await.unwrap()
}

async fn says_nothing_over_http2(world: &World) {
    sent_away(over_http2(world).await).await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frames are written by hand (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// GET, https, the path and the authority (RFC 7541 section 6.2.2 and appendix A).
fn fields(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0x82, 0x87, 0x04][..], &text(path), &[0x01], &text(HOST)].concat()
}

/// After a request that is whole.
async fn begins_a_head_over_http2(world: &World) {
    let mut visitor = over_http2(world).await;
    let asked = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 5, 1, &fields("/"))];
    visitor.write_all(&asked.concat()).await.unwrap();
    let mut answered = Vec::new();
    while !answered.ends_with(b"ok") {
        let octet = timeout(SOON, visitor.read_u8()).await.unwrap();
        answered.push(octet.unwrap());
    }
    visitor
        .write_all(&frame(1, 1, 3, &fields("/")))
        .await
        .unwrap();
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
    assert_eq!(noted(&world).await, ([1, 1, 1, 0], 0));
}

async fn asks_for_much(world: &World) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
    let mut visitor = world.visit(HOST).await;
    let asked = head("GET", "/much", "");
    visitor.write_all(asked.as_bytes()).await.unwrap();
    visitor
}

/// And takes none of it: it gives no stream any room (RFC 9113 section 6.5.2).
async fn asks_for_much_over_http2(world: &World) {
    let mut visitor = over_http2(world).await;
    let asked = [
        PREFACE,
        &frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]),
        &frame(1, 5, 1, &fields("/much")),
    ];
    visitor.write_all(&asked.concat()).await.unwrap();
    sent_away(visitor).await;
}

/// Once so many leave theirs.
async fn one_more_asks_for_much(world: &World) {
    let mut visitor = asks_for_much(world).await;
    let since = Instant::now();
    let hears_nothing = async {
        // It hears of it by writing, since it does not read: a line end in front of a request is skipped (RFC 9112 section 2.2).
        while visitor.write_all(b"\r\n").await.is_ok() && visitor.flush().await.is_ok() {
            sleep(LOOK).await;
        }
    };
    timeout(SOON, hears_nothing).await.unwrap();
    let waited = since.elapsed();
    assert!(
        (TAKING_TIME..TAKING_TIME + LATE).contains(&waited),
        "{waited:?}"
    );
}

/// A mebibyte a second.
async fn takes_its_time(world: &World) {
    let mut visitor = asks_for_much(world).await;
    let mut taken = vec![0; 1024 * 1024];
    let since = Instant::now();
    while since.elapsed() < 2 * PAUSE {
        visitor.read_exact(&mut taken).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_few_may_leave_what_they_have_asked_for_and_no_more_than_that() {
    let (world, _agent, _service) = device().await;
    let mut leave = Vec::new();
    for _ in 0..LEAVE {
        leave.push(asks_for_much(&world).await);
    }
    sleep(PAUSE).await;
    tokio::join!(
        one_more_asks_for_much(&world),
        asks_for_much_over_http2(&world),
        takes_its_time(&world),
    );
    assert_eq!(noted(&world).await, ([0, 0, 0, 2], 0));
    for mut visitor in leave {
        let answer = timeout(SOON, read_head(&mut visitor)).await.unwrap();
        assert!(answer.starts_with("http/1.1 200 "), "{answer}");
        let mut body = vec![0; MUCH];
        timeout(SOON, visitor.read_exact(&mut body))
            .await
            .unwrap()
            .unwrap();
    }
}
