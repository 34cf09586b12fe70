//! Each direction ends on its own, and a broken connection never looks like a finished one.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::byte_path::origin;
use crate::world::{SOON, TRANSPORTS, World};

#[tokio::test]
async fn a_half_closed_visitor_still_receives() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        let mut visitor = world.visit("mynas.nas.localhost").await;
        visitor.write_all(b"question").await.unwrap();
        visitor.shutdown().await.unwrap();

        let (mut stream, _) = listener.accept().await.unwrap();
        let mut question = String::new();
        timeout(SOON, stream.read_to_string(&mut question))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(question, "question");
        // The origin answers only now that it has seen the end.
        stream.write_all(b"answer").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(SOON, visitor.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer, "answer", "{transport:?}");
        world
            .until_metric("causeway_relay_visitors_ended_total{end=\"done\"}", 1)
            .await;
    }
}

#[tokio::test]
async fn an_origin_that_has_said_all_still_hears() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        let mut visitor = world.visit("mynas.nas.localhost").await;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"all").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        timeout(SOON, visitor.read_to_string(&mut all))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(all, "all");

        visitor.write_all(b"late").await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut late = String::new();
        timeout(SOON, stream.read_to_string(&mut late))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(late, "late", "{transport:?}");
    }
}

#[tokio::test]
async fn a_reset_at_the_origin_is_a_reset_for_the_visitor() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        let mut visitor = world.visit("mynas.nas.localhost").await;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"half of it").await.unwrap();
        let mut half = [0; 10];
        timeout(SOON, visitor.read_exact(&mut half))
            .await
            .unwrap()
            .unwrap();
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(stream);

        let rest = timeout(SOON, visitor.read(&mut half)).await.unwrap();
        rest.expect_err("a cut transfer must not look complete");
        world
            .until_metric(
                "causeway_relay_visitors_ended_total{end=\"device_gone\"}",
                1,
            )
            .await;
    }
}

#[tokio::test]
async fn a_reset_by_the_visitor_is_a_reset_for_the_origin() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        let mut visitor = world.visit("mynas.nas.localhost").await;
        visitor.write_all(b"half of it").await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut half = [0; 10];
        timeout(SOON, stream.read_exact(&mut half))
            .await
            .unwrap()
            .unwrap();
        SockRef::from(visitor.get_ref().0)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(visitor);

        let rest = timeout(SOON, stream.read(&mut half)).await.unwrap();
        rest.expect_err("a cut transfer must not look complete");
        world
            .until_metric(
                "causeway_relay_visitors_ended_total{end=\"visitor_gone\"}",
                1,
            )
            .await;
    }
}

#[tokio::test]
async fn a_visitor_that_leaves_without_close_notify_has_not_finished() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        let mut visitor = world.visit("mynas.nas.localhost").await;
        visitor.write_all(b"half of it").await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut half = [0; 10];
        timeout(SOON, stream.read_exact(&mut half))
            .await
            .unwrap()
            .unwrap();
        drop(visitor); // TCP ends in order, TLS does not

        let rest = timeout(SOON, stream.read(&mut half)).await.unwrap();
        rest.expect_err("a truncated upload must not look complete");
    }
}

#[tokio::test]
async fn an_origin_that_has_heard_enough_is_still_heard() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        let visitor = world.visit("mynas.nas.localhost").await;
        let (mut heard, mut said) = tokio::io::split(visitor);
        // The visitor sends for as long as anybody takes it.
        let upload = tokio::spawn(async move {
            let portion = vec![0; 64 * 1024];
            while said.write_all(&portion).await.is_ok() {}
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        timeout(SOON, stream.read_u8()).await.unwrap().unwrap();
        stream.write_all(b"too large").await.unwrap();
        // Closing with octets unread resets the connection, as servers do.
        SockRef::from(&stream)
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        let mut answer = [0; 9];
        timeout(SOON, heard.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&answer, b"too large", "{transport:?}");
        drop(stream);
        timeout(SOON, upload).await.unwrap().unwrap();
    }
}
