//! Services that do not answer: what the visitor hears, and what the owner is told.

use std::time::Duration;

use relay::agent::{self, Origin, OriginTrust, State, VisitorAddress};
use relay::resolve::Resolver;
use relay::server::Transport;
use relay::tls::Roots;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::byte_path::{origin, read_head};
use crate::world::{SOON, World};

const HOST: &str = "mynas.nas.localhost";

/// How long the service has.
const ANSWER_TIME: Duration = Duration::from_secs(1);

async fn asked(world: &World, method: &str) -> String {
    let mut visitor = world.visit(HOST).await;
    let request = format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    visitor.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Broken off or not.
    let _ = timeout(SOON, visitor.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_service_that_hangs_is_told_apart_from_one_that_breaks_off() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let service = Origin::new(
        address.parse().unwrap(),
        VisitorAddress::Forwarded,
        &OriginTrust::Roots(Roots::none()),
    );
    let service = service.unwrap().answering_within(ANSWER_TIME);
    let state = world.device("mynas");
    let by_way = Resolver::Fixed(world.front);
    let _agent = world.agent_for(state, by_way, service).await;
    let state = State::open(world.state_of("mynas")).unwrap();
    let noted = async |reason: &str| {
        let status = agent::ask(&state).await.unwrap().origin;
        (status.failures[reason], status.problem)
    };
    assert_eq!(noted("no_answer").await, (0, None));

    let (answer, _held) = tokio::join!(asked(&world, "GET"), async {
        let (mut held, _) = listener.accept().await.unwrap();
        read_head(&mut held).await;
        held
    });
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    let (count, problem) = noted("no_answer").await;
    assert_eq!(count, 1);
    assert!(problem.unwrap().contains("did not answer in time"));

    let (answer, ()) = tokio::join!(asked(&world, "DELETE"), async {
        let (mut broken, _) = listener.accept().await.unwrap();
        read_head(&mut broken).await;
    });
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(noted("broke_off").await.0, 1);

    let (answer, ()) = tokio::join!(asked(&world, "GET"), async {
        let (mut good, _) = listener.accept().await.unwrap();
        read_head(&mut good).await;
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        good.write_all(text).await.unwrap();
        good.flush().await.unwrap();
    });
    assert!(answer.ends_with("ok"), "{answer}");
    assert_eq!(noted("no_answer").await, (1, None));
}

#[tokio::test]
async fn a_service_has_its_time_from_when_it_has_all_of_the_request() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let service = Origin::new(
        address.parse().unwrap(),
        VisitorAddress::Forwarded,
        &OriginTrust::Roots(Roots::none()),
    );
    let service = service.unwrap().answering_within(ANSWER_TIME);
    let state = world.device("mynas");
    let _agent = world
        .agent_for(state, Resolver::Fixed(world.front), service)
        .await;
    let mut visitor = world.visit(HOST).await;
    let head = format!("PUT / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\na");
    visitor.write_all(head.as_bytes()).await.unwrap();
    let (mut service, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    read_head(&mut service).await;
    // An upload that takes longer than an answer may.
    tokio::time::sleep(ANSWER_TIME * 2).await;
    visitor.write_all(b"b").await.unwrap();
    let mut body = [0; 2];
    timeout(SOON, service.read_exact(&mut body))
        .await
        .unwrap()
        .unwrap();
    let text = b"HTTP/1.1 204 No Content\r\n\r\n";
    service.write_all(text).await.unwrap();
    let mut answer = [0; 12];
    timeout(SOON, visitor.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 204");
}
