//! A service that wants HTTP/2, as gRPC does.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use relay::server::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::byte_path::origin;
use crate::world::{Agent, SOON, World};

const HOST: &str = "mynas.nas.localhost";

/// Answers with the head that it was sent, once it has all of the body.
async fn tell(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let told = format!("{:?} {} {:?}", head.version, head.uri, head.headers);
    Ok(match body.collect().await {
        Ok(body) => Response::new(Full::from(format!("{told} {}", body.to_bytes().len()))),
        Err(_) => Response::new(Full::default()),
    })
}

async fn serve(listener: TcpListener) {
    loop {
        let (visitor, _) = listener.accept().await.unwrap();
        let connection = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(visitor), service_fn(tell));
        tokio::spawn(connection);
    }
}

/// A relay, the agent of a device, and its service.
async fn device() -> (World, Agent, AbortOnDropHandle<()>) {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("h2c").await;
    let service = AbortOnDropHandle::new(tokio::spawn(serve(listener)));
    let agent = world.agent("mynas", &address).await;
    (world, agent, service)
}

/// What is said to a visitor who says this, until its end.
async fn answer(world: &World, request: &str) -> String {
    let mut visitor = world.visit(HOST).await;
    visitor.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let read = timeout(SOON, visitor.read_to_end(&mut said)).await;
    read.expect("in time").unwrap();
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn it_hears_the_host_that_was_asked_for_and_who_asks_and_of_no_other_protocol() {
    let (world, _agent, _service) = device().await;
    let request = format!(
        "POST /a?b HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: 192.0.2.66\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         TE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    );
    let mut visitor = world.visit(HOST).await;
    visitor.write_all(request.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    while !told.ends_with(b"} 5") {
        told.push(timeout(SOON, visitor.read_u8()).await.unwrap().unwrap());
    }
    let told = String::from_utf8(told).unwrap();
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    assert!(
        told.contains(&format!("HTTP/2.0 http://{HOST}/a?b ")),
        "{told}"
    );
    assert!(
        told.contains("\"x-forwarded-for\": \"127.0.0.1\""),
        "{told}"
    );
    assert!(told.contains("\"te\": \"trailers\""), "{told}");
    let others = [
        "192.0.2.66",
        "\"upgrade\"",
        "\"connection\"",
        "\"transfer-encoding\"",
        "\"host\"",
    ];
    for other in others {
        assert!(!told.contains(other), "{other}: {told}");
    }
}

/// It is only calls that may rest.
#[tokio::test]
async fn a_body_that_does_not_come_is_waited_for_no_longer_than_anybodys() {
    let (world, _agent, _service) = device().await;
    let begun = Instant::now();
    let request =
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3000\r\n\r\nonly this");
    let said = answer(&world, &request).await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(begun.elapsed() > Duration::from_secs(6));
}

#[tokio::test]
async fn one_that_speaks_no_http2_is_no_answer() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("h2c").await;
    let _agent = world.agent("mynas", &address).await;
    let asked = answer(
        &world,
        "GET / HTTP/1.1\r\nHost: mynas.nas.localhost\r\nConnection: close\r\n\r\n",
    );
    let service = async {
        let (mut service, _) = listener.accept().await.unwrap();
        let refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        service.write_all(refusal.as_bytes()).await.unwrap();
        let _ = service.read_to_end(&mut Vec::new()).await;
    };
    let (said, ()) = tokio::join!(asked, service);
    assert!(said.starts_with("HTTP/1.1 502 "), "{said}");
}
