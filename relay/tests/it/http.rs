//! HTTP that is more than a page: events, changed protocols, bodies without an end.

use relay::server::Transport;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::byte_path::{origin, read_head};
use crate::world::{SOON, TRANSPORTS, World};

const HOST: &str = "mynas.nas.localhost";

/// Reads until `end` has been seen.
async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        read.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("http").await;
        let _agent = world.agent("mynas", &address).await;
        let mut visitor = world.visit(HOST).await;
        let request =
            format!("GET /events HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n\r\n");
        visitor.write_all(request.as_bytes()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(
            read_until(&mut visitor, "\r\n\r\n")
                .await
                .contains("text/event-stream")
        );
        for i in 0..5 {
            // The next one is sent only once this one has been seen.
            stream
                .write_all(format!("9\r\ndata: {i}\n\n\r\n").as_bytes())
                .await
                .unwrap();
            assert!(
                read_until(&mut visitor, "\n\n")
                    .await
                    .contains(&format!("data: {i}")),
                "{transport:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_changed_protocol_passes_both_ways() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("http").await;
        let _agent = world.agent("mynas", &address).await;
        let mut visitor = world.visit(HOST).await;
        let request = format!(
            "GET /chat HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        visitor.write_all(request.as_bytes()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(
            head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"),
            "{head}"
        );
        assert!(head.contains("sec-websocket-key: "), "{head}");
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let answer = read_until(&mut visitor, "\r\n\r\n")
            .await
            .to_ascii_lowercase();
        assert!(
            answer.starts_with("http/1.1 101 ") && answer.contains("upgrade: websocket"),
            "{answer}"
        );

        let mut heard = [0; 4];
        visitor.write_all(b"ping").await.unwrap();
        timeout(SOON, stream.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&heard, b"ping");
        stream.write_all(b"pong").await.unwrap();
        timeout(SOON, visitor.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&heard, b"pong");
        // The end of the origin is the end of the visitor.
        drop(stream);
        let mut rest = Vec::new();
        timeout(SOON, visitor.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn an_upgrade_that_the_origin_declines_is_an_ordinary_answer() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let _agent = world.agent("mynas", &address).await;
    let mut visitor = world.visit(HOST).await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    visitor.write_all(request.as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_head(&mut stream).await;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    assert!(
        read_until(&mut visitor, "\r\n\r\nok")
            .await
            .starts_with("HTTP/1.1 200 OK")
    );
}

#[tokio::test]
async fn a_body_reaches_the_origin_while_it_is_still_being_sent() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("http").await;
        let _agent = world.agent("mynas", &address).await;
        let mut visitor = world.visit(HOST).await;
        let head =
            format!("POST /up HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
        visitor.write_all(head.as_bytes()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        for part in ["first", "secnd", "third"] {
            visitor
                .write_all(format!("5\r\n{part}\r\n").as_bytes())
                .await
                .unwrap();
            assert!(
                read_until(&mut stream, &format!("{part}\r\n"))
                    .await
                    .ends_with(&format!("{part}\r\n"))
            );
        }
        visitor.write_all(b"0\r\n\r\n").await.unwrap();
        read_until(&mut stream, "0\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        assert!(
            read_until(&mut visitor, "\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 204"),
            "{transport:?}"
        );
    }
}

#[tokio::test]
async fn a_visitor_who_breaks_off_an_upload_breaks_off_the_origins() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let _agent = world.agent("mynas", &address).await;
    let mut visitor = world.visit(HOST).await;
    let request =
        format!("PUT /up HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\nonly this");
    visitor.write_all(request.as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_head(&mut stream).await;
    drop(visitor);
    let mut got = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut got)).await.unwrap();
    assert!(
        got.len() < 1000,
        "the origin sees fewer octets than were announced"
    );
}

#[tokio::test]
async fn two_visitors_never_share_a_connection_to_the_origin() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let _agent = world.agent("mynas", &address).await;
    let mut origins = Vec::new();
    for i in 0..3 {
        let mut visitor = world.visit(HOST).await;
        let request = format!("GET /{i} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        visitor.write_all(request.as_bytes()).await.unwrap();
        let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        assert!(
            read_head(&mut stream)
                .await
                .starts_with(&format!("get /{i} "))
        );
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        read_until(&mut visitor, "\r\n\r\nok").await;
        // The next request of the same visitor comes on the same connection.
        visitor.write_all(request.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
        origins.push((visitor, stream));
    }
}

/// What reaches the origin of a request whose head is `lines`, the first of them first.
async fn head_at_origin(lines: &[&str], body: &str) -> (String, String) {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let _agent = world.agent("mynas", &address).await;
    let mut visitor = world.visit(HOST).await;
    let request = format!("{}\r\n\r\n{body}", lines.join("\r\n"));
    visitor.write_all(request.as_bytes()).await.unwrap();
    let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let head = read_head(&mut stream).await;
    let mut got = vec![0; body.len()];
    timeout(SOON, stream.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    (head, String::from_utf8(got).unwrap())
}

#[tokio::test]
async fn a_visitor_cannot_speak_for_the_agent_in_any_spelling() {
    let host = format!("Host: {HOST}");
    let (head, _) = head_at_origin(
        &[
            "GET / HTTP/1.1",
            &host,
            "X_Forwarded_For: 192.0.2.66",
            "x-Forwarded_for: 192.0.2.66",
            "X_Real_IP: 192.0.2.66",
        ],
        "",
    )
    .await;
    assert!(!head.contains("192.0.2.66"), "{head}");
    assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n"), "{head}");
}

#[tokio::test]
async fn nobody_changes_to_http2_in_clear() {
    let host = format!("Host: {HOST}");
    let (head, _) = head_at_origin(
        &[
            "GET / HTTP/1.1",
            &host,
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
        ],
        "",
    )
    .await;
    assert!(!head.contains("h2c") && !head.contains("http2"), "{head}");
}

#[tokio::test]
async fn a_get_keeps_its_body() {
    let host = format!("Host: {HOST}");
    let (head, body) = head_at_origin(
        &["GET /search HTTP/1.1", &host, "Transfer-Encoding: chunked"],
        "5\r\nwords\r\n0\r\n\r\n",
    )
    .await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert_eq!(body, "5\r\nwords\r\n0\r\n\r\n");
}

#[tokio::test]
async fn http_1_0_needs_no_host() {
    let (head, _) = head_at_origin(&["GET / HTTP/1.0"], "").await;
    assert!(head.contains(&format!("host: {HOST}\r\n")), "{head}");
}

#[tokio::test]
async fn a_request_names_one_host_and_nothing_around_it() {
    let world = World::start(Transport::Quic);
    let (_listener, address) = origin("http").await;
    let _agent = world.agent("mynas", &address).await;
    for hosts in [
        "Host: mynas.nas.localhost:80@evil.example\r\n",
        "Host: evil@mynas.nas.localhost\r\n",
        "Host: mynas.nas.localhost:8o\r\n",
        "Host: mynas.nas.localhost\r\nHost: mynas.nas.localhost\r\n",
        "",
    ] {
        let mut visitor = world.visit(HOST).await;
        let request = format!("GET / HTTP/1.1\r\n{hosts}\r\n");
        visitor.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut visitor, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{hosts}: {answer}");
    }
}
