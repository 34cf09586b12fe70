//! The listeners: every kind of address, many clients, and those who misbehave.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::dns::{ask_tcp, ask_udp, framed, query, read_framed, receive, resolve, udp_socket};
use crate::world::World;

/// A socket of the tests hears only the address that it has asked, so each reply comes from there.
#[tokio::test]
async fn a_reply_comes_from_where_the_query_went() {
    for (listen, servers) in [
        ("[::]:0", &["127.0.0.1", "127.0.0.2", "::1"][..]),
        ("0.0.0.0:0", &["127.0.0.1", "127.0.0.2"]),
        ("127.0.0.3:0", &["127.0.0.3"]),
        ("[::1]:0", &["::1"]),
    ] {
        let world = World::with_config(&format!("listen = \"{listen}\"")).await;
        for server in servers {
            let server = SocketAddr::new(server.parse().unwrap(), world.server.addr().port());
            assert_eq!(resolve(server, "nas.test", "A").await, "192.0.2.250");
            let reply = ask_tcp(server, &query(&["nas.test", "A"])).await;
            assert!(reply.is_some(), "{server}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_of_many_is_answered_by_one_of_many_threads() {
    let world = World::with_config("listen = \"[::]:0\"\nthreads = 4").await;
    let message = query(&["nas.test", "A"]);
    let mut sockets = Vec::new();
    for _ in 0..200 {
        let socket = udp_socket(world.v4()).await;
        socket.send(&message).await.unwrap();
        sockets.push(socket);
    }
    for socket in &sockets {
        receive(socket).await;
    }
    let answered = world.metric(r#"queries_total{rcode="noerror",transport="udp"}"#);
    // The last batches are counted right after they are sent.
    assert!(
        (200.0 - 4.0 * 32.0..=200.0).contains(&answered),
        "{answered}"
    );
}

#[tokio::test]
async fn what_gets_no_reply_is_counted() {
    let world = World::with_config("listen = \"127.0.0.1:0\"\nthreads = 1").await;
    let socket = udp_socket(world.v4()).await;
    let mut response = query(&["nas.test", "A"]);
    response[2] |= 0x80;
    socket.send(b"short").await.unwrap();
    socket.send(&response).await.unwrap();
    socket.send(&[0; 1233]).await.unwrap();
    socket.send(&query(&["nas.test", "A"])).await.unwrap();
    receive(&socket).await;
    // One more, so that the batch of those before is counted.
    ask_udp(world.v4(), &query(&["nas.test", "A"])).await;
    for reason in ["short", "response", "too_long"] {
        let series = format!(r#"dropped_total{{reason="{reason}",transport="udp"}}"#);
        assert_eq!(world.metric(&series), 1.0, "{reason}");
    }
}

#[tokio::test]
async fn one_connection_carries_many_queries() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(world.v4()).await.unwrap();
    for id in 0..1000_u16 {
        let mut message = query(&["nas.test", "A"]);
        message[..2].copy_from_slice(&id.to_be_bytes());
        stream.write_all(&framed(&message)).await.unwrap();
    }
    for id in 0..1000_u16 {
        let reply = read_framed(&mut stream).await.unwrap();
        assert_eq!(reply[..2], id.to_be_bytes());
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_counted() {
    let config = "listen = \"127.0.0.1:0\"\ntcp_connections = 3\ntcp_connections_per_address = 2";
    let world = World::with_config(config).await;
    let message = framed(&query(&["nas.test", "SOA"]));
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(world.v4()).await.unwrap();
        stream.write_all(&message).await.unwrap();
        read_framed(&mut stream).await.unwrap();
        streams.push(stream);
    }
    let mut third = TcpStream::connect(world.v4()).await.unwrap();
    assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)));
    let series = r#"tcp_connections_refused_total{limit="of_one_address",transport="tcp"}"#;
    assert_eq!(world.metric(series), 1.0);
    assert_eq!(
        world.metric(r#"tcp_connections_opened_total{transport="tcp"}"#),
        2.0
    );
}
