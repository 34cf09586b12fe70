//! Bulk leaves its stream for a raw connection, whole or not at all, and conversation does not.

use std::time::Duration;

use aws_lc_rs::hmac;
use relay::server::{LimitsConfig, Transport};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use wire::frame::{Frame, Ticket};
use wire::segment::{Notice, Piece, Reader, data_header};
use wire::{ALPN_CARRIER, ALPN_TUNNEL, Features, Hello, InstanceId, raw};

use crate::by_hand::{connect, hear};
use crate::byte_path::origin;
use crate::world::{SOON, TRANSPORTS, World};

/// Names demo.nas.localhost.
const HELLO: &[u8] = include_bytes!("../../wire/testdata/chromium.bin");
pub(crate) const HOST: &str = "demo.nas.localhost";

pub(crate) const CAME: &str = "causeway_relay_raw_connections_total{outcome=\"came\"}";
const NO_ROOM: &str = "causeway_relay_raw_connections_total{outcome=\"no_room\"}";

pub(crate) fn payload(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect()
}

async fn send(mut to: impl AsyncWrite + Unpin, octets: &[u8]) {
    to.write_all(octets).await.unwrap();
    to.shutdown().await.unwrap();
}

async fn receive(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut octets = Vec::new();
    from.read_to_end(&mut octets).await.unwrap();
    octets
}

/// A visitor who sends a real hello and any bytes behind it.
/// One who has said hello to `demo`.
pub(crate) async fn visitor(world: &World) -> TcpStream {
    let mut visitor = TcpStream::connect(world.front).await.unwrap();
    visitor.write_all(HELLO).await.unwrap();
    visitor
}

#[tokio::test]
async fn bulk_arrives_whole_over_a_raw_connection_that_serves_both_ways() {
    let octets = payload(20_000_000);
    for transport in TRANSPORTS {
        for scheme in ["tcp", "tls"] {
            let world = World::start(transport);
            let (listener, address) = origin(scheme).await;
            let _agent = world.agent("demo", &address).await;
            let exchanged = async {
                let (there, back) = if scheme == "tcp" {
                    let visitor = world.visit(HOST).await;
                    let (mut stream, _) = listener.accept().await.unwrap();
                    // One way first, then both at once.
                    let (mut from, to) = tokio::io::split(visitor);
                    let mut first = vec![0; octets.len()];
                    let (wrote, read) =
                        tokio::join!(stream.write_all(&octets), from.read_exact(&mut first));
                    wrote.unwrap();
                    read.unwrap();
                    assert!(first == octets);
                    let (from_visitor, to_visitor) = stream.into_split();
                    let (_, _, there, back) = tokio::join!(
                        send(to, &octets),
                        send(to_visitor, &octets),
                        receive(from_visitor),
                        receive(from),
                    );
                    (there, back)
                } else {
                    let (from, to) = visitor(&world).await.into_split();
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut hello = vec![0; HELLO.len()];
                    stream.read_exact(&mut hello).await.unwrap();
                    assert_eq!(hello, HELLO);
                    let (from_visitor, to_visitor) = stream.into_split();
                    let (_, _, there, back) = tokio::join!(
                        send(to, &octets),
                        async {
                            let mut to_visitor = to_visitor;
                            to_visitor.write_all(&octets).await.unwrap();
                            send(to_visitor, &octets).await;
                        },
                        receive(from_visitor),
                        receive(from),
                    );
                    assert!(back[..octets.len()] == octets);
                    (there, back[octets.len()..].to_vec())
                };
                assert!(there == octets && back == octets, "{transport:?} {scheme}");
            };
            timeout(SOON, exchanged).await.unwrap();
            world
                .until_metric("causeway_relay_visitors_ended_total{end=\"done\"}", 1)
                .await;
            world.metric_is(CAME, 1).await;
        }
    }
}

#[tokio::test]
async fn bulk_for_whose_raw_connection_there_is_no_room_arrives_whole_on_its_carrier() {
    let octets = payload(5_000_000);
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("demo", &address).await;
        let visitor = world.visit(HOST).await;
        let (stream, _) = listener.accept().await.unwrap();
        // Whoever is here stays, and has no more descriptors.
        let relay = world.relay.as_ref().unwrap();
        relay.set_limits(&LimitsConfig {
            visitors_per_address: Some(0),
            ..LimitsConfig::default()
        });
        let exchanged = async { tokio::join!(send(stream, &octets), receive(visitor)).1 };
        let heard = timeout(SOON, exchanged).await.unwrap();
        assert!(heard == octets, "{transport:?}");
        world.metric_is(NO_ROOM, 1).await;
        assert_eq!(world.metric(CAME), 0);
    }
}

#[tokio::test]
async fn conversation_stays_on_its_stream_and_so_do_sixty_four_of_them() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("demo", &address).await;
        let mut conversations = JoinSet::new();
        for _ in 0..64 {
            let mut visitor = world.visit(HOST).await;
            let (mut stream, _) = listener.accept().await.unwrap();
            conversations.spawn(async move {
                let (mut request, mut answer) = ([0; 90], [0; 1200]);
                for _ in 0..400 {
                    visitor.write_all(&[1; 90]).await.unwrap();
                    stream.read_exact(&mut request).await.unwrap();
                    stream.write_all(&[2; 1200]).await.unwrap();
                    visitor.read_exact(&mut answer).await.unwrap();
                }
            });
        }
        conversations.join_all().await;
        assert_eq!(world.metric(CAME), 0, "{transport:?}");
    }
}

#[tokio::test]
async fn half_a_connection_stays_useful_on_either_way() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tls").await;
        let _agent = world.agent("demo", &address).await;
        let (from, mut to) = visitor(&world).await.into_split();
        let (mut stream, _) = listener.accept().await.unwrap();
        let octets = payload(3_000_000);
        // Everything up and the end of it, then everything down: each direction moves in its turn.
        to.write_all(&octets[HELLO.len()..]).await.unwrap();
        to.shutdown().await.unwrap();
        let up = timeout(SOON, receive(&mut stream)).await.unwrap();
        assert_eq!(up.len(), octets.len());
        let (_, down) = timeout(SOON, async {
            tokio::join!(send(stream, &octets), receive(from))
        })
        .await
        .unwrap();
        assert!(down == octets, "{transport:?}");
        world.metric_is(CAME, 1).await;
    }
}

#[tokio::test]
async fn a_visitor_who_leaves_a_moved_download_is_a_reset_for_the_origin() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("tls").await;
    let _agent = world.agent("demo", &address).await;
    let mut visitor = visitor(&world).await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let endless = tokio::spawn(async move {
        let portion = payload(64 * 1024);
        while stream.write_all(&portion).await.is_ok() {}
    });
    let mut some = vec![0; 2_000_000];
    timeout(SOON, visitor.read_exact(&mut some))
        .await
        .unwrap()
        .unwrap();
    world.until_metric(CAME, 1).await;
    drop(visitor);
    timeout(SOON, endless).await.unwrap().unwrap();
    world
        .until_metric(
            "causeway_relay_visitors_ended_total{end=\"visitor_gone\"}",
            1,
        )
        .await;
}

/// A tunnel over TLS of device `demo`.
pub(crate) async fn tunnel(world: &World, instance: InstanceId) -> TlsStream<TcpStream> {
    let mut tunnel = connect(world, "demo", ALPN_TUNNEL).await;
    let hello = Frame::Hello(Hello {
        version: 1,
        features: Features::TLS_CARRIER.and(Features::RAW_CARRIER),
        instance,
        software: "by hand".into(),
    });
    tunnel.write_all(&hello.encode().unwrap()).await.unwrap();
    assert!(matches!(hear(&mut tunnel).await, Frame::Welcome { .. }));
    tunnel
}

/// An agent over TLS that brings a carrier as it should, and then does what a test makes it do.
pub(crate) struct ByHand {
    _tunnel: TlsStream<TcpStream>,
    key: hmac::Key,
    carrier: TlsStream<TcpStream>,
    reader: Reader,
    unread: Vec<u8>,
    pub(crate) sent: u64,
}

impl ByHand {
    /// Attached and visited.
    async fn visited(world: &World) -> (Self, TcpStream) {
        world.device("demo");
        let tunnel = tunnel(world, InstanceId([7; 16])).await;
        Self::visited_over(tunnel, world).await
    }

    /// The same over a tunnel that stands.
    pub(crate) async fn visited_over(
        mut tunnel: TlsStream<TcpStream>,
        world: &World,
    ) -> (Self, TcpStream) {
        let visitor = visitor(world).await;
        let Frame::Dial { ticket } = hear(&mut tunnel).await else {
            panic!("no carrier is asked for")
        };
        let mut carrier = connect(world, "demo", ALPN_CARRIER).await;
        let carry = Frame::Carry { ticket }.encode().unwrap();
        carrier.write_all(&carry).await.unwrap();
        assert!(matches!(hear(&mut carrier).await, Frame::Open(_)));
        let exported =
            tunnel
                .get_ref()
                .1
                .export_keying_material([0; 32], raw::EXPORTER_LABEL, None);
        let agent = Self {
            _tunnel: tunnel,
            key: hmac::Key::new(hmac::HMAC_SHA256, &exported.unwrap()),
            carrier,
            reader: Reader::default(),
            unread: Vec::new(),
            sent: 0,
        };
        (agent, visitor)
    }

    async fn payload(&mut self, octets: &[u8]) {
        for portion in octets.chunks(60_000) {
            let segment = [&data_header(portion.len()), portion].concat();
            self.carrier.write_all(&segment).await.unwrap();
            self.sent += portion.len() as u64;
        }
    }

    pub(crate) async fn say(&mut self, notice: Notice) {
        let octets = notice.encode();
        self.carrier.write_all(octets.as_ref()).await.unwrap();
        self.carrier.flush().await.unwrap();
    }

    /// The next notice; payload is skipped.
    async fn notice(&mut self) -> Notice {
        loop {
            let (taken, piece) = self.reader.read(&self.unread).unwrap();
            self.unread.drain(..taken);
            match piece {
                Piece::Data(length) => drop(self.unread.drain(..length)),
                Piece::Notice(notice) => return notice,
                Piece::NeedMore => {
                    let read = timeout(SOON, self.carrier.read_buf(&mut self.unread)).await;
                    assert_ne!(read.unwrap().unwrap(), 0, "the carrier has ended");
                }
            }
        }
    }

    /// As much as is bulk, and the ticket that it brings.
    async fn until_asked(&mut self) -> Ticket {
        self.payload(&payload(200_000)).await;
        let Notice::Dial(ticket) = self.notice().await else {
            panic!("no raw connection is asked for")
        };
        ticket
    }

    fn header(&self, ticket: &Ticket) -> Vec<u8> {
        let sealed = raw::to_seal(ticket);
        [&sealed, hmac::sign(&self.key, &sealed).as_ref()].concat()
    }

    /// The raw connection, in use by the relay.
    pub(crate) async fn switched(&mut self, world: &World) -> TcpStream {
        let ticket = self.until_asked().await;
        let raw = show(world, &self.header(&ticket)).await;
        assert_eq!(self.notice().await, Notice::Switch);
        raw
    }
}

/// A connection to the front that begins with `octets`.
async fn show(world: &World, octets: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(world.front).await.unwrap();
    stream.write_all(octets).await.unwrap();
    stream
}

async fn is_closed(mut stream: TcpStream) {
    let mut nothing = [0; 1];
    let closed = timeout(SOON, stream.read(&mut nothing)).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

/// What came, and whether the visitor was told that it is not all.
pub(crate) async fn heard(mut visitor: TcpStream) -> (Vec<u8>, bool) {
    let mut octets = Vec::new();
    let read = timeout(SOON, visitor.read_to_end(&mut octets))
        .await
        .unwrap();
    (octets, read.is_err())
}

#[tokio::test]
async fn an_agent_that_brings_no_raw_connection_is_served_on_the_stream() {
    let world = World::start(Transport::Tls);
    let (mut agent, visitor) = ByHand::visited(&world).await;
    agent.until_asked().await;
    let more = payload(1_000_000);
    let (_, (octets, cut)) = tokio::join!(
        async {
            agent.payload(&more).await;
            let total = agent.sent;
            agent.say(Notice::End { total }).await;
        },
        heard(visitor)
    );
    assert!(!cut);
    assert!(octets[200_000..] == more);
    assert_eq!(world.metric(CAME), 0);
}

#[tokio::test]
async fn only_the_tunnels_own_ticket_opens_the_door_and_only_once() {
    let world = World::start(Transport::Tls);
    let refused = |reason| format!("causeway_relay_raw_turned_away_total{{reason=\"{reason}\"}}");
    let (mut agent, _visitor) = ByHand::visited(&world).await;
    let ticket = agent.until_asked().await;
    let header = agent.header(&ticket);

    let unknown = agent.header(&Ticket([0; 16]));
    is_closed(show(&world, &unknown).await).await;
    world.metric_is(&refused("unknown_ticket"), 1).await;

    let too_much = [&header[..], b"x"].concat();
    is_closed(show(&world, &too_much).await).await;
    let other_version = [&header[..1], &[9], &header[2..]].concat();
    is_closed(show(&world, &other_version).await).await;
    world.metric_is(&refused("bad_header"), 2).await;
    // An octet in front, and it is none at all.
    is_closed(show(&world, &[b"x", &header[..]].concat()).await).await;

    let raw = show(&world, &header).await;
    assert_eq!(agent.notice().await, Notice::Switch);
    is_closed(show(&world, &header).await).await;
    world.metric_is(&refused("unknown_ticket"), 2).await;
    drop(raw);
}

#[tokio::test]
async fn a_forged_seal_uses_the_ticket_up_and_the_stream_goes_on() {
    let world = World::start(Transport::Tls);
    let (mut agent, visitor) = ByHand::visited(&world).await;
    let ticket = agent.until_asked().await;
    let header = agent.header(&ticket);
    let mut forged = header.clone();
    *forged.last_mut().unwrap() ^= 1;
    is_closed(show(&world, &forged).await).await;
    world
        .metric_is(
            "causeway_relay_raw_turned_away_total{reason=\"bad_seal\"}",
            1,
        )
        .await;
    is_closed(show(&world, &header).await).await;
    let total = agent.sent;
    agent.say(Notice::End { total }).await;
    let (octets, cut) = heard(visitor).await;
    assert!(!cut && octets.len() == 200_000);
}

#[tokio::test]
async fn a_raw_connection_that_ends_early_is_a_reset_wherever_it_ends() {
    for lost in [1, 1000, 300_000] {
        let world = World::start(Transport::Tls);
        let (mut agent, visitor) = ByHand::visited(&world).await;
        let mut raw = agent.switched(&world).await;
        agent.say(Notice::Moved { at: agent.sent }).await;
        let octets = payload(300_000);
        let sending = async {
            raw.write_all(&octets[..octets.len() - lost]).await.unwrap();
            drop(raw); // in order, as far as TCP knows
            let total = agent.sent + octets.len() as u64;
            agent.say(Notice::End { total }).await;
        };
        let (_, (came, cut)) = tokio::join!(sending, heard(visitor));
        assert!(cut, "{lost} octets are missing and {} came", came.len());
    }
}

#[tokio::test]
async fn an_agent_that_lies_about_octets_is_cut() {
    for lie in ["early", "late", "twice", "behind", "more", "unasked"] {
        let world = World::start(Transport::Tls);
        let (mut agent, visitor) = ByHand::visited(&world).await;
        if lie == "unasked" {
            agent.payload(b"some").await;
            agent.say(Notice::Moved { at: 4 }).await;
            let (_, cut) = timeout(Duration::from_secs(15), heard(visitor))
                .await
                .unwrap();
            assert!(cut, "{lie}");
            continue;
        }
        let mut raw = agent.switched(&world).await;
        let at = agent.sent;
        match lie {
            "early" => agent.say(Notice::Moved { at: at - 1 }).await,
            "late" => agent.say(Notice::Moved { at: at + 1 }).await,
            "twice" => {
                agent.say(Notice::Moved { at }).await;
                agent.say(Notice::Moved { at }).await;
            }
            "behind" => {
                agent.say(Notice::Moved { at }).await;
                agent.payload(b"on the stream").await;
            }
            _ => {
                agent.say(Notice::Moved { at }).await;
                raw.write_all(b"more than was said").await.unwrap();
                agent.say(Notice::End { total: at + 4 }).await;
            }
        }
        let (_, cut) = heard(visitor).await;
        assert!(cut, "{lie}");
    }
}
