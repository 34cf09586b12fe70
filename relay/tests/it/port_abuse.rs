//! Public ports against those who lie: devices, relays, and visitors whose addresses may be forged.

use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use directory::{DeviceLimits, Protocol, PublicPort};
use relay::records::SecretKey;
use relay::server::Transport;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use wire::frame::{Frame, Open, Ticket};
use wire::ports::PortState;
use wire::{ALPN_CARRIER, ALPN_TUNNEL, CloseCode, Features, Hello, InstanceId};

use crate::by_hand;
use crate::ports::{CUT, Echo, OPEN_TCP, OPEN_UDP, Owner, RANGE, at, echoed, lost, said, visitor};
use crate::records;
use crate::status::status_json;
use crate::world::{SOON, World, eventually};

const DEVICE_GONE: &str = "causeway_relay_visitors_ended_total{end=\"device_gone\"}";

fn refused(reason: &str) -> String {
    format!("causeway_relay_visitors_refused_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn a_device_that_lies_has_no_port_of_another() {
    let world = World::with_ports(Transport::Tls, RANGE);
    let shell = Echo::over_tcp("shell").await;
    let origin = shell.address;
    let text = format!("[services.shell]\norigin = \"tcp://{origin}\"\npublic = \"20022/tcp\"\n");
    let _owner = Owner::of(&world, &text).await;
    world.give_ports("mynas", &["20022/tcp"]);
    world.until_metric(OPEN_TCP, 1).await;

    world.device("thief");
    let mut thief = by_hand::connect(&world, "thief", ALPN_TUNNEL).await;
    let hello = Frame::Hello(Hello {
        version: 1,
        features: Features::TLS_CARRIER.and(Features::PORTS),
        instance: InstanceId([9; 16]),
        software: "thief/1".to_owned(),
    });
    let ports = ["20022/tcp", "20023/tcp", "22/tcp", "20053/udp"].map(|port| port.parse().unwrap());
    let publish = Frame::Publish {
        ports: ports.into(),
    };
    for frame in [hello, publish] {
        thief.write_all(&frame.encode().unwrap()).await.unwrap();
    }
    let each = loop {
        if let Frame::Published { each } = by_hand::hear(&mut thief).await {
            break each;
        }
    };
    let states: Vec<_> = each.into_iter().map(|one| one.state.unwrap()).collect();
    let [taken, out, not] = [PortState::Taken, PortState::OutOfRange, PortState::NotGiven];
    assert_eq!(states, [out, taken, not, not]);
    assert_eq!(world.metric(OPEN_TCP), 1);
    assert_eq!(said(&world, 20_022, b"!").await.unwrap(), b"shell!");
    // With many more than there may be it has broken the protocol.
    let port = "20022/tcp".parse().unwrap();
    let flood = Frame::Publish {
        ports: vec![port; 65],
    };
    thief.write_all(&flood.encode().unwrap()).await.unwrap();
    let gone = async { while thief.read_u8().await.is_ok() {} };
    timeout(SOON, gone)
        .await
        .expect("its tunnel is still there");
}

/// A relay that says what it likes: that somebody has come to a public port of the device.
struct LyingRelay {
    listener: TcpListener,
    tls: TlsAcceptor,
    tunnel: TlsStream<TcpStream>,
}

impl LyingRelay {
    /// Waits for the agent's tunnel, and hears which ports it has services for.
    async fn greet(listener: TcpListener, tls: TlsAcceptor) -> (Self, Vec<PublicPort>) {
        let mut tunnel = Self::accept(&listener, &tls).await;
        let Frame::Hello(hello) = by_hand::hear(&mut tunnel).await else {
            panic!("no hello");
        };
        assert!(hello.features.has(Features::PORTS));
        let welcome = Frame::Welcome {
            version: 1,
            features: Features::TLS_CARRIER.and(Features::PORTS),
            seen_as: tunnel.get_ref().0.peer_addr().unwrap(),
        };
        tunnel.write_all(&welcome.encode().unwrap()).await.unwrap();
        let ports = loop {
            if let Frame::Publish { ports } = by_hand::hear(&mut tunnel).await {
                break ports;
            }
        };
        let relay = Self {
            listener,
            tls,
            tunnel,
        };
        (relay, ports)
    }

    /// The next of the agent's connections that is for a relay: the cloud has the same address.
    async fn accept(listener: &TcpListener, tls: &TlsAcceptor) -> TlsStream<TcpStream> {
        let accepted = async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(stream) = tls.accept(stream).await {
                    return stream;
                }
            }
        };
        timeout(SOON, accepted).await.unwrap()
    }

    /// What the agent makes of a visitor at `port`.
    async fn bring(&mut self, port: &str) -> TlsStream<TcpStream> {
        let port: PublicPort = port.parse().unwrap();
        let ticket = Ticket(rand::random());
        let dial = Frame::Dial { ticket };
        self.tunnel
            .write_all(&dial.encode().unwrap())
            .await
            .unwrap();
        let mut carrier = Self::accept(&self.listener, &self.tls).await;
        assert_eq!(by_hand::hear(&mut carrier).await, Frame::Carry { ticket });
        let open = Frame::Open(Open {
            name: String::new(),
            visitor: "203.0.113.9:5000".parse().unwrap(),
            front: "203.0.113.1:443".parse().unwrap(),
            datagrams: port.protocol == Protocol::Udp,
            port: Some(port.number),
        });
        carrier.write_all(&open.encode().unwrap()).await.unwrap();
        carrier
    }
}

#[tokio::test]
async fn a_relay_that_lies_leads_nobody_to_a_service_that_is_at_no_such_port() {
    let world = World::start(Transport::Tls);
    let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let text = format!(
        "[services.secret]\norigin = \"tcp://{0}\"\n[services.shell]\norigin = \"tcp://{0}\"\npublic = \"20022/tcp\"\n",
        service.local_addr().unwrap()
    );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut tls = world.service("relay.nas.localhost");
    tls.alpn_protocols = vec![ALPN_TUNNEL.to_vec(), ALPN_CARRIER.to_vec()];
    let there = listener.local_addr().unwrap();
    let greeted = LyingRelay::greet(listener, TlsAcceptor::from(Arc::new(tls)));
    let both = async { tokio::join!(Owner::at(there, &world, &text), greeted) };
    let (_owner, (mut relay, ports)) = timeout(SOON, both).await.unwrap();
    assert_eq!(ports, ["20022/tcp".parse().unwrap()]);
    // None of these is in the file: another number, the number with the other protocol, and that of a service without a port.
    for (number, port) in ["20023/tcp", "20022/udp", "22/tcp"].into_iter().enumerate() {
        let mut carrier = relay.bring(port).await;
        let end = timeout(SOON, carrier.read(&mut [0; 64])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{port}: {end:?}");
        let counted =
            async { while status_json(&world).await["refused"]["unknown_port"] != number + 1 {} };
        timeout(SOON, counted).await.unwrap();
    }
    // Whoever comes to the one that is there is the first of whom the service hears.
    let mut carrier = relay.bring("20022/tcp").await;
    let (mut heard, _) = timeout(SOON, service.accept()).await.unwrap().unwrap();
    heard.write_all(b"here").await.unwrap();
    let mut said = BytesMut::new();
    let passed = async {
        while !said.windows(4).any(|octets| octets == b"here") {
            assert!(carrier.read_buf(&mut said).await.unwrap() > 0);
        }
    };
    timeout(SOON, passed).await.unwrap();
}

#[tokio::test]
async fn a_visitor_whom_an_agent_refuses_at_a_port_is_cut_and_counted() {
    let world = World::with_ports(Transport::Tls, RANGE);
    world.device("mynas");
    world.give_ports("mynas", &["20022/tcp"]);
    let mut agent = by_hand::connect(&world, "mynas", ALPN_TUNNEL).await;
    let hello = Frame::Hello(Hello {
        version: 1,
        features: Features::TLS_CARRIER.and(Features::PORTS),
        instance: InstanceId([9; 16]),
        software: "by hand".to_owned(),
    });
    let publish = Frame::Publish {
        ports: vec!["20022/tcp".parse().unwrap()],
    };
    for frame in [hello, publish] {
        agent.write_all(&frame.encode().unwrap()).await.unwrap();
    }
    world.until_metric(OPEN_TCP, 1).await;
    let mut visitor = TcpStream::connect(at(&world, 20_022)).await.unwrap();
    let ticket = loop {
        if let Frame::Dial { ticket } = by_hand::hear(&mut agent).await {
            break ticket;
        }
    };
    let mut carrier = by_hand::connect(&world, "mynas", ALPN_CARRIER).await;
    let carry = Frame::Carry { ticket };
    carrier.write_all(&carry.encode().unwrap()).await.unwrap();
    let Frame::Open(open) = by_hand::hear(&mut carrier).await else {
        panic!("nobody comes");
    };
    assert_eq!(open.public_port(), Some("20022/tcp".parse().unwrap()));
    assert_eq!(open.name, "");
    assert_eq!(open.visitor, visitor.local_addr().unwrap());
    // The file has just been changed, and the relay not heard of it yet.
    SockRef::from(carrier.get_ref().0)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(carrier);
    let end = timeout(SOON, visitor.read(&mut [0; 16])).await.unwrap();
    assert!(end.is_err(), "it was cut, which is no orderly end: {end:?}");
    world.metric_is(DEVICE_GONE, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forged_sources_is_bounded_and_who_is_there_is_still_served() {
    const FORGED: usize = 20_000;
    let world = World::with_ports(Transport::Quic, RANGE);
    let service = Echo::over_udp(1).await;
    let _owner = Owner::of_udp(&world, &service).await;
    let here = visitor(&world, 20_053).await;
    for round in 0..4 {
        echoed(&here, &[round; 40]).await;
    }
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard(); // the runtime waits for the flood, whatever happens here
    let (to, until) = (at(&world, 20_053), stop.clone());
    let flood = tokio::task::spawn_blocking(move || {
        let mut sent = 0;
        while sent < FORGED || !until.is_cancelled() {
            let [_, _, high, low] = (sent as u32).to_be_bytes();
            let source = Ipv4Addr::new(127, 9, high, low);
            let socket = std::net::UdpSocket::bind((source, 0)).unwrap();
            let _ = socket.send_to(&[1; 100], to);
            sent += 1;
        }
        sent
    });
    for round in 0..20 {
        echoed(&here, &[round; 200]).await;
    }
    // So many whose addresses may be forged, one who converses, and who is just about to leave.
    let status = status_json(&world).await;
    let visitors = status["flows"]["visitors"].as_u64().unwrap();
    assert!(visitors <= 64 + 1 + 32, "{visitors}");
    stop.cancel();
    let sent = timeout(SOON * 3, flood).await.unwrap().unwrap() as u64;
    let busy = || world.metric(&refused("port_busy"));
    eventually(|| busy() > 0).await;
    assert!(sent >= FORGED as u64);
    echoed(&here, b"and after it").await;
}

#[tokio::test]
async fn who_does_not_go_on_to_talk_hears_little_more_than_it_has_said() {
    let world = World::with_ports(Transport::Quic, RANGE);
    let service = Echo::over_udp(20).await;
    let _owner = Owner::of_udp(&world, &service).await;
    let once = visitor(&world, 20_053).await;
    once.send(&[7; 1000]).await.unwrap();
    // Of 20,000 octets three times what was said, and 4096: seven datagrams whole.
    world.until_metric(&lost("unproved"), 13).await;
    let mut heard = 0;
    while timeout(Duration::from_millis(200), once.recv(&mut [0; 2048]))
        .await
        .is_ok()
    {
        heard += 1;
    }
    assert_eq!(heard, 7);
    assert_eq!(world.metric(&lost("unproved")), 13);
    // It has been answered and goes on, twice: then it converses.
    let until_all_come = async {
        loop {
            once.send(&[7; 1000]).await.unwrap();
            let mut heard = 0;
            while timeout(Duration::from_millis(200), once.recv(&mut [0; 2048]))
                .await
                .is_ok()
            {
                heard += 1;
            }
            if heard == 20 {
                return;
            }
        }
    };
    timeout(SOON, until_all_come).await.unwrap();
}

#[tokio::test]
async fn who_goes_on_to_talk_blindly_hears_no_more_than_so_many_times_what_it_has_said() {
    const EACH: usize = 100;
    let world = World::with_ports(Transport::Quic, RANGE);
    let service = Echo::loud(EACH, Some(1000)).await;
    let _owner = Owner::of_udp(&world, &service).await;
    let blind = visitor(&world, 20_053).await;
    let mut heard = 0;
    let mut said = 0;
    while said < 6 {
        blind.send(&[7; 400]).await.unwrap();
        said += 1;
        while let Ok(Ok(length)) =
            timeout(Duration::from_millis(200), blind.recv(&mut [0; 2048])).await
        {
            heard += length;
        }
        // 64 times that, and the gift of 4096 once: not the 100,000 that the service says to each.
        assert!(heard <= said * 64 * 400 + 4096, "{heard} after {said}");
    }
    assert!(heard > said * 3 * 400 + 4096, "it converses: {heard}");
    assert!(world.metric(&lost("unproved")) > 0);
}

#[tokio::test]
async fn who_converses_at_a_udp_port_takes_no_place_of_others_and_is_not_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let [masked, full] = [(); 2].map(|()| SecretKey::generate().unwrap());
    let setup = records::setup(folder.path(), &masked, &full);
    let mut world = World::recording_ports(Transport::Quic, RANGE, setup);
    let (names, shell) = (Echo::over_udp(1).await, Echo::over_tcp("shell").await);
    let text = format!(
        "[services.names]\norigin = \"udp://{}\"\npublic = \"20053/udp\"\n[services.shell]\norigin = \"tcp://{}\"\npublic = \
         \"20022/tcp\"\n",
        names.address, shell.address
    );
    let _owner = Owner::of(&world, &text).await;
    let limits = DeviceLimits {
        bytes_per_second: None,
        visitors: NonZeroU32::new(1),
    };
    world.limit("mynas", limits);
    world.give_ports("mynas", &["20022/tcp", "20053/udp"]);
    world.until_metric(OPEN_UDP, 1).await;
    let here = visitor(&world, 20_053).await;
    for round in 0..5 {
        echoed(&here, &[round; 40]).await;
    }
    assert_eq!(said(&world, 20_022, b"!").await.unwrap(), b"shell!");
    world.give_ports("mynas", &["20022/tcp"]);
    world.until_metric(CUT, 1).await;
    let relay = world.relay.take().unwrap();
    timeout(SOON, relay.shutdown()).await.unwrap();
    let records = records::records(folder.path(), &full);
    let octets: Vec<_> = records.iter().map(|record| record.to_visitor).collect();
    assert_eq!(octets, [6], "the one over TCP alone");
}

#[tokio::test]
async fn who_has_not_said_that_it_knows_ports_and_publishes_one_breaks_the_protocol() {
    let world = World::with_ports(Transport::Tls, RANGE);
    world.device("mynas");
    world.give_ports("mynas", &["20022/tcp"]);
    let mut agent = by_hand::connect(&world, "mynas", ALPN_TUNNEL).await;
    let hello = Frame::Hello(Hello {
        version: 1,
        features: Features::TLS_CARRIER,
        instance: InstanceId([9; 16]),
        software: "by hand/1".to_owned(),
    });
    let publish = Frame::Publish {
        ports: vec!["20022/tcp".parse().unwrap()],
    };
    for frame in [hello, publish] {
        agent.write_all(&frame.encode().unwrap()).await.unwrap();
    }
    let code = loop {
        let frame = by_hand::hear(&mut agent).await;
        assert!(!matches!(frame, Frame::Published { .. }), "it was obeyed");
        if let Frame::Close { code } = frame {
            break code.unwrap();
        }
    };
    assert_eq!(code, CloseCode::Protocol);
    assert_eq!(world.metric(OPEN_TCP), 0);
}
