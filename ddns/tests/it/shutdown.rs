//! The server ends when it is told to, quickly and without losing what it has acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ddns::StartError;
use ddns::update::UpdateError;
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::dns::{ask_tcp, ask_udp, query, resolve};
use crate::world::{self, World, change};

/// More than the quarter of a second that an idle worker may sleep.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test]
async fn it_ends_soon_with_clients_connected() {
    let world = World::start().await;
    let mut idle = TcpStream::connect(world.v4()).await.unwrap();
    let mut halfway = TcpStream::connect(world.v4()).await.unwrap();
    halfway.write_all(&[0]).await.unwrap();
    let query = query(&["nas.test", "SOA"]);
    ask_udp(world.v4(), &query).await;
    // Both connections have been taken when a later one is answered.
    ask_tcp(world.v4(), &query).await.unwrap();

    let began = Instant::now();
    world.server.shutdown().await.unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    for stream in [&mut idle, &mut halfway] {
        let end = timeout(SOON, stream.read(&mut [0])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn cancelling_from_outside_ends_it() {
    let world = World::start().await;
    world.stop.cancel();
    timeout(SOON, world.server.join()).await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_it_ends_it() {
    let world = World::start().await;
    let addr = world.v4();
    drop(world.server);
    // The port is free again; nothing tells when, so it is tried.
    let began = Instant::now();
    while UdpSocket::bind(addr).await.is_err() {
        assert!(began.elapsed() < SOON, "still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn ending_it_does_not_end_what_started_it() {
    let world = World::start().await;
    world.server.shutdown().await.unwrap();
    assert!(!world.stop.is_cancelled());
}

#[tokio::test]
async fn it_starts_again_on_the_same_port_at_once() {
    let mut world = World::start().await;
    world.directory.add("mynas");
    for _ in 0..3 {
        let addr = world.server.addr();
        ask_tcp(world.v4(), &query(&["nas.test", "SOA"])).await;
        world.server.shutdown().await.unwrap();
        let config = format!("listen = \"{addr}\"");
        world.registry = Registry::new();
        world.server = world::start(
            &world.directory.reader,
            world.state.path(),
            &config,
            &world.registry,
            &world.stop,
        )
        .await
        .unwrap();
        let found = resolve(world.v4(), "mynas.nas.test", "A").await;
        assert_eq!(found, "192.0.2.250");
    }
}

#[tokio::test]
async fn a_port_in_use_is_told_in_a_sentence() {
    let world = World::start().await;
    let state = tempfile::tempdir().unwrap();
    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let port = world.server.addr().port();
    let config = format!("listen = \"127.0.0.1:{port}\"");
    let refused = world::start(
        &world.directory.reader,
        state.path(),
        &config,
        &registry,
        &stop,
    )
    .await
    .unwrap_err();
    assert!(matches!(refused, StartError::Listen(_)));
    let sentence = refused.to_string();
    assert!(
        sentence.contains(&format!("127.0.0.1:{port}")) && sentence.contains("`listen`"),
        "{sentence}"
    );
}

/// Every update that was taken while the server ended is there afterwards, and every other was told so.
#[tokio::test(flavor = "multi_thread")]
async fn updates_on_their_way_are_stored_or_refused() {
    let mut world = World::start().await;
    for name in ["a", "b", "c", "d"] {
        world.directory.add(name);
    }
    let reader = world.directory.reader.clone();
    let barrier = Arc::new(tokio::sync::Barrier::new(5));
    let mut tasks = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let updater = world.server.updater();
        let device = reader
            .device_by_name(&directory::DeviceName::parse(name).unwrap())
            .unwrap();
        let barrier = Arc::clone(&barrier);
        tasks.push(tokio::spawn(async move {
            let mut last = None;
            for octet in 1..=250 {
                if octet == 10 {
                    barrier.wait().await;
                }
                let address = format!("192.0.2.{octet}");
                let update = updater.update(device.registration, &device.name, change(&[&address]));
                match update.await {
                    Ok(_) => last = Some(address),
                    Err(error) => {
                        assert_eq!(error, UpdateError::Stopped);
                        break;
                    }
                }
            }
            (device.name.clone(), last.unwrap())
        }));
    }
    barrier.wait().await;
    let world = world.restart().await;
    for task in tasks {
        let (name, address) = task.await.unwrap();
        let found = resolve(world.v4(), &format!("{name}.nas.test"), "A").await;
        assert_eq!(found, address, "{name}");
    }
}
