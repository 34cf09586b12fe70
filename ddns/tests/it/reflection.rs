//! What somebody gets who asks in another's name: little from each answer, and less than they send from all of them.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::dns::{ask_tcp, ask_udp, decode, query, receive, udp_socket};
use crate::signing::{Signer, update};
use crate::world::World;

/// Octets of the reply for each octet of the query.
async fn gain(server: SocketAddr, words: &str) -> f64 {
    let words: Vec<_> = words.split(' ').collect();
    let message = query(&words);
    ask_udp(server, &message).await.len() as f64 / message.len() as f64
}

#[tokio::test]
async fn no_answer_is_much_longer_than_its_query() {
    let mut world = World::with_config("listen = \"127.0.0.1:0\"").await;
    world.directory.add("home");
    world.directory.add("away");
    world.set("home", &["192.0.2.7"]).await.unwrap();
    let clients = [
        "",
        " edns",
        " do",
        " cookie=0102030405060708",
        " cookie=0102030405060708 nsid zoneversion do",
    ];
    for client in clients {
        for (questions, most) in [
            (&["nas.test A", "ns1.nas.test A", "nas.test NS"][..], 2.0),
            (
                &["home.nas.test A", "x.home.nas.test A", "away.nas.test A"],
                2.0,
            ),
            (
                &["away.nas.test AAAA", "home.nas.test ANY", "nas.test ANY"],
                2.0,
            ),
            (&["nobody.nas.test A", "a.b.nobody.nas.test AAAA"], 3.0),
            (
                &["home.nas.test AAAA", "nas.test TXT", "nas.test HTTPS"],
                3.0,
            ),
            (&["nas.test SOA"], 3.0),
            (
                &[
                    "example.com A",
                    "nas.test AXFR",
                    "version.bind TXT class=CH",
                ],
                1.5,
            ),
            (&["nas.test A edns=1"], 1.5),
        ] {
            for question in questions {
                let gain = gain(world.v4(), &format!("{question}{client}")).await;
                assert!(gain <= most, "{question}{client}: {gain}");
            }
        }
    }
}

/// Sockets of one /24 of the loopback network.
struct Network(Vec<UdpSocket>);

impl Network {
    fn new(network: [u8; 3], hosts: u8, server: SocketAddr) -> Self {
        let [a, b, c] = network;
        let socket = |host| {
            let socket = UdpSocket::bind((Ipv4Addr::new(a, b, c, host), 0)).unwrap();
            socket.connect(server).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket
        };
        Self((1..=hosts).map(socket).collect())
    }

    /// Asks from host number `i`.
    fn send(&self, i: usize, message: &[u8]) {
        self.0[i % self.0.len()].send(message).unwrap();
    }

    /// Waits for host number `i`.
    fn receive(&self, i: usize) -> Option<Vec<u8>> {
        let mut reply = [0; 2000];
        let len = self.0[i % self.0.len()].recv(&mut reply).ok()?;
        Some(reply[..len].to_vec())
    }

    /// All that has come.
    fn drain(&self) -> Vec<Vec<u8>> {
        let mut replies = Vec::new();
        for (i, socket) in self.0.iter().enumerate() {
            socket.set_nonblocking(true).unwrap();
            loop {
                let mut reply = [0; 2000];
                match socket.recv(&mut reply) {
                    Ok(len) => replies.push(reply[..len].to_vec()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("host {i}: {error}"),
                }
            }
        }
        replies
    }
}

const TC: u8 = 0x02;

/// A flood in the name of one /24, while others ask as ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_in_anothers_name_returns_less_than_it_sends_and_others_are_answered() {
    const FLOOD: usize = 20_000;
    const BETWEEN: usize = 64;
    // A single thread answers in the order of arrival: who is answered comes after all that was sent before.
    let config = "listen = \"127.0.0.1:0\"\nthreads = 1\nresponses_per_second = 400";
    for (name, rtype) in [
        (|_| "nas.test".to_owned(), "A"),
        (|i| format!("x{i}.nas.test"), "A"),
        (|_| "example.com".to_owned(), "A edns"),
    ] as [(fn(usize) -> String, &str); 3]
    {
        let world = World::with_config(config).await;
        let flood = Network::new([127, 1, 2], 100, world.v4());
        let others = Network::new([127, 9, 9], 8, world.v4());
        let (mut octets_in, mut others_asked, mut others_answered) = (0, 0, 0);
        let mut replies = Vec::new();
        for i in 0..FLOOD {
            let name = name(i);
            let words: Vec<_> = [&*name].into_iter().chain(rtype.split(' ')).collect();
            let message = query(&words);
            octets_in += message.len();
            flood.send(i, &message);
            if i % BETWEEN == 0 {
                others_asked += 1;
                others.send(i, &query(&["nas.test", "A"]));
                let reply = others.receive(i);
                let is_whole = |reply: &Vec<u8>| decode(reply).len() == 3;
                others_answered += usize::from(reply.as_ref().is_some_and(is_whole));
                replies.extend(flood.drain());
            }
        }
        // Once behind all of them, and once more behind the count of their batch.
        for i in 0..2 {
            others.send(i, &query(&["nas.test", "SOA"]));
            others.receive(i).unwrap();
        }
        replies.extend(flood.drain());

        let octets_out: usize = replies.iter().map(Vec::len).sum();
        let gain = octets_out as f64 / octets_in as f64;
        assert!(gain <= 1.0, "{rtype}: {gain}");
        assert!(
            others_answered as f64 >= 0.99 * others_asked as f64,
            "{others_answered} of {others_asked}"
        );
        let action = |action| {
            let count = world.metric(&format!(r#"limited_total{{action="{action}"}}"#));
            count as usize
        };
        assert_eq!(action("badcookie"), 0);
        // Each second one beyond the limit has a short reply.
        assert!(action("slipped").abs_diff(action("dropped")) <= 1);
        assert_eq!(replies.len(), FLOOD - action("dropped"));
        let answered = FLOOD - action("dropped") - action("slipped");
        assert!((400..4000).contains(&answered), "{answered}");
        let short = replies.iter().filter(|reply| reply[2] & TC != 0).count();
        assert_eq!(short, action("slipped"));
    }
}

#[tokio::test]
async fn who_shows_a_cookie_or_comes_by_tcp_is_not_limited() {
    let config = "listen = \"127.0.0.1:0\"\nthreads = 1\nresponses_per_second = 1\nslip = 1";
    let world = World::with_config(config).await;
    let plain = query(&["nas.test", "A"]);
    let first = query(&["nas.test", "A", "cookie=0102030405060708"]);
    let mut heard = Vec::new();
    for _ in 0..50 {
        heard.push(decode(&ask_udp(world.v4(), &first).await));
    }
    // RFC 7873 section 5.2.3: in place of the empty reply, a cookie to come again with.
    let [code, _, opt] = &heard[49][..] else {
        panic!("{heard:?}");
    };
    assert_eq!(code, "BADCOOKIE");
    let cookie = opt.split(' ').next_back().unwrap();
    let with_cookie = query(&["nas.test", "A", cookie]);
    for _ in 0..50 {
        let lines = decode(&ask_udp(world.v4(), &with_cookie).await);
        assert_eq!((&*lines[0], lines.len()), ("NOERROR aa", 4));
    }
    let without = decode(&ask_udp(world.v4(), &plain).await);
    assert_eq!(without, ["NOERROR tc", "question nas.test. A"]);
    for _ in 0..50 {
        let lines = decode(&ask_tcp(world.v4(), &plain).await.unwrap());
        assert_eq!(lines[0], "NOERROR aa");
    }
    let good = world.metric(r#"cookies_total{cookie="good",transport="udp"}"#);
    assert_eq!(good, 50.0);
}

/// A signature does not say where its message comes from: whoever has seen one can send it from another's address. What is done for
/// the first time is told nevertheless.
#[tokio::test]
async fn signed_messages_are_limited_but_for_updates_that_are_new() {
    const EACH: usize = 50;
    let config = "listen = \"127.0.0.1:0\"\nthreads = 1\nresponses_per_second = 1\nslip = 0\nupdates_per_minute = 0";
    let mut world = World::with_config(config).await;
    world.directory.add("home");
    let question = query(&["nas.test", "SOA"]);
    let client = udp_socket(world.v4()).await;
    let home = Signer::of("home", &world.directory);
    for signer in [&Signer::of("nobody", &world.directory), &home] {
        for _ in 0..EACH {
            client.send(&signer.sign(&question).octets).await.unwrap();
        }
    }
    for last in 1..=EACH {
        let statements = format!("add home.nas.test A 192.0.2.{last}");
        let mut message = update("nas.test", &statements);
        message[..2].copy_from_slice(&(last as u16).to_be_bytes());
        let message = home.sign(&message);
        client.send(&message.octets).await.unwrap();
        // Replies to the questions may come before.
        let reply = loop {
            let reply = receive(&client).await;
            if reply[..2] == message.octets[..2] {
                break reply;
            }
        };
        assert!(home.is_signed(&message, &reply));
    }
    let dropped = world.metric(r#"dropped_total{reason="limited",transport="udp"}"#);
    assert!(
        (2 * EACH - 10..2 * EACH).contains(&(dropped as usize)),
        "{dropped}"
    );
}
