//! Updates over one TCP connection, many of them under way at once (RFC 7766 section 6.2.1.1).

use std::collections::HashMap;
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::dns::{framed, query, read_framed, resolve};
use crate::signing::{Signer, update};
use crate::world::World;

const DEVICES: usize = 1000;
/// Of each device, so that one connection has more of them than may be under way.
const ROUNDS: usize = 4;

/// How many a second, is printed and not demanded: the machine has other things to do.
#[tokio::test(flavor = "multi_thread")]
async fn every_update_of_a_full_pipe_is_acknowledged_and_in_the_next_answer() {
    let mut world = World::start().await;
    let names: Vec<_> = (0..DEVICES).map(|number| format!("d{number}")).collect();
    for name in &names {
        world.directory.add(name);
    }
    let signers: Vec<_> = names
        .iter()
        .map(|name| Signer::of(name, &world.directory))
        .collect();
    for round in 0..ROUNDS {
        let mut pipe = Vec::new();
        let mut requests = HashMap::new();
        for (number, (name, signer)) in names.iter().zip(&signers).enumerate() {
            let host = format!("{name}.nas.test");
            let mut message = update(
                "nas.test",
                &format!("add {host} A {}", address(number, round)),
            );
            message[..2].copy_from_slice(&(number as u16).to_be_bytes());
            let message = signer.sign(&message);
            pipe.extend(framed(&message.octets));
            requests.insert(number as u16, (signer, message));
        }
        let stream = TcpStream::connect(world.v4()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let began = Instant::now();
        let sending = tokio::spawn(async move {
            write.write_all(&pipe).await.unwrap();
            // Half of the connection ends; what was asked is still answered.
            write.shutdown().await.unwrap();
        });
        while let Some(reply) = read_framed(&mut read).await {
            let id = u16::from_be_bytes([reply[0], reply[1]]);
            let (signer, request) = requests.remove(&id).expect("answered twice");
            assert_eq!(reply[2..4], [0xA8, 0], "update {id}");
            assert!(signer.is_signed(&request, &reply));
        }
        let took = began.elapsed();
        sending.await.unwrap();
        assert!(requests.is_empty(), "{} without a reply", requests.len());
        println!("{DEVICES} updates of one pipe took {took:?}");
        for number in (0..DEVICES).step_by(97) {
            let host = format!("{}.nas.test", names[number]);
            let found = resolve(world.v4(), &host, "A").await;
            assert_eq!(found, address(number, round));
        }
    }
    let done = (DEVICES * ROUNDS) as f64;
    assert_eq!(
        world.metric(r#"updates_total{door="dynamic",result="changed"}"#),
        done
    );
    assert_eq!(
        world.metric(r#"dynamic_updates_total{rcode="noerror"}"#),
        done
    );
}

fn address(number: usize, round: usize) -> String {
    format!("10.{round}.{}.{}", number / 250, number % 250 + 1)
}

/// The second would change nothing if the first were not under way.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_undoes_the_one_before_it_is_not_taken_for_no_change() {
    let mut world = World::start().await;
    world.directory.add("home");
    let signer = Signer::of("home", &world.directory);
    for round in 0..50 {
        let there = format!("192.0.2.{}", round + 1);
        let messages = [
            "add home.nas.test A",
            "delete home.nas.test A; add home.nas.test A",
        ]
        .into_iter()
        .zip(["203.0.113.7", &there])
        .map(|(words, address)| signer.sign(&update("nas.test", &format!("{words} {address}"))));
        let before = signer.sign(&update("nas.test", &format!("add home.nas.test A {there}")));
        let mut stream = TcpStream::connect(world.v4()).await.unwrap();
        stream.write_all(&framed(&before.octets)).await.unwrap();
        read_framed(&mut stream).await.unwrap();
        let pipe: Vec<_> = messages
            .flat_map(|message| framed(&message.octets))
            .collect();
        stream.write_all(&pipe).await.unwrap();
        for _ in 0..2 {
            let reply = read_framed(&mut stream).await.unwrap();
            assert_eq!(reply[3] & 0xF, 0);
        }
        assert_eq!(resolve(world.v4(), "home.nas.test", "A").await, there);
    }
}

/// A query does not wait for the disk on which an update before it waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_overtakes_an_update() {
    let mut world = World::start().await;
    world.directory.add("home");
    let signer = Signer::of("home", &world.directory);
    let message = signer.sign(&update("nas.test", "add home.nas.test A 192.0.2.7"));
    let behind = query(&["nas.test", "SOA"]);
    let mut stream = TcpStream::connect(world.v4()).await.unwrap();
    let pipe = [framed(&message.octets), framed(&behind)].concat();
    stream.write_all(&pipe).await.unwrap();
    let first = read_framed(&mut stream).await.unwrap();
    assert_eq!(first[2] & 0x78, 0, "the update has come first");
    let second = read_framed(&mut stream).await.unwrap();
    assert!(signer.is_signed(&message, &second));
}

/// A client whose connection has ended before the reply came asks again, and is told what has become of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_outlives_its_connection() {
    let mut world = World::start().await;
    world.directory.add("home");
    let signer = Signer::of("home", &world.directory);
    let statements = "nxrrset home.nas.test A; add home.nas.test A 192.0.2.7";
    let message = signer.sign(&update("nas.test", statements));
    let mut stream = TcpStream::connect(world.v4()).await.unwrap();
    stream.write_all(&framed(&message.octets)).await.unwrap();
    drop(stream);
    let mut reply = None;
    while reply.is_none() {
        // While the first is under way, the second is not answered; so the connection is only given up.
        let mut stream = TcpStream::connect(world.v4()).await.unwrap();
        let pipe = [
            framed(&message.octets),
            framed(&query(&["nas.test", "SOA"])),
        ]
        .concat();
        stream.write_all(&pipe).await.unwrap();
        stream.shutdown().await.unwrap();
        while let Some(heard) = read_framed(&mut stream).await {
            if heard[2] & 0x78 != 0 {
                reply = Some(heard);
            }
        }
    }
    let reply = reply.unwrap();
    assert_eq!(
        reply[2..4],
        [0xA8, 0],
        "its prerequisite was met when it came first"
    );
    assert!(signer.is_signed(&message, &reply));
    assert_eq!(resolve(world.v4(), "home.nas.test", "A").await, "192.0.2.7");
}

/// The limits are those of every door.
#[tokio::test(flavor = "multi_thread")]
async fn who_changes_too_often_is_refused_and_who_changes_nothing_is_not() {
    let mut world = World::with_config("listen = \"127.0.0.1:0\"").await;
    world.directory.add("home");
    let signer = Signer::of("home", &world.directory);
    let mut stream = TcpStream::connect(world.v4()).await.unwrap();
    let mut codes = Vec::new();
    for last in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 10, 12] {
        let statements = format!("add home.nas.test A 192.0.2.{last}");
        let message = signer.sign(&update("nas.test", &statements));
        stream.write_all(&framed(&message.octets)).await.unwrap();
        let reply = read_framed(&mut stream).await.unwrap();
        assert!(signer.is_signed(&message, &reply));
        codes.push(reply[3]);
    }
    const REFUSED: u8 = 5;
    let expected = [&[0; 10][..], &[REFUSED, 0, REFUSED]].concat();
    assert_eq!(codes, expected);
}
