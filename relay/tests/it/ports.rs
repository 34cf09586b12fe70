//! Public ports of the relay that lead to services of a device, TCP and UDP.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use relay::agent::ServicesFile;
use relay::records::SecretKey;
use relay::resolve::Resolver;
use relay::server::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wire::proxy_v2;
use wire::record::{Carrier as RecordedCarrier, End};

use crate::doctor::doctor;
use crate::raw::payload;
use crate::records;
use crate::status::{status, status_json};
use crate::world::{Agent, SOON, TRANSPORTS, World};

pub(crate) const RANGE: &str = "20000-20999";
pub(crate) const OPEN_TCP: &str = "causeway_relay_public_ports{protocol=\"tcp\"}";
pub(crate) const OPEN_UDP: &str = "causeway_relay_public_ports{protocol=\"udp\"}";
const RAW: &str = "causeway_relay_raw_connections_total{outcome=\"came\"}";
const DONE: &str = "causeway_relay_visitors_ended_total{end=\"done\"}";
pub(crate) const CUT: &str = "causeway_relay_visitors_ended_total{end=\"cut\"}";

pub(crate) fn lost(reason: &str) -> String {
    format!("causeway_relay_flow_datagrams_lost_total{{reason=\"{reason}\"}}")
}

/// The file of a device, and an agent that reads it again whenever it is told to.
pub(crate) struct Owner {
    file: PathBuf,
    services: ServicesFile,
    _agent: Agent,
}

impl Owner {
    pub(crate) async fn of(world: &World, text: &str) -> Self {
        Self::at(world.front, world, text).await
    }

    /// The same where the relay is there.
    /// Of a device that has port 20053 of UDP, open for such a service.
    pub(crate) async fn of_udp(world: &World, service: &Echo) -> Self {
        let address = service.address;
        let text =
            format!("[services.udp]\norigin = \"udp://{address}\"\npublic = \"20053/udp\"\n");
        let owner = Self::of(world, &text).await;
        world.give_ports("mynas", &["20053/udp"]);
        world.until_metric(OPEN_UDP, 1).await;
        owner
    }

    pub(crate) async fn at(relay: SocketAddr, world: &World, text: &str) -> Self {
        let state = world.device("mynas");
        let file = world.state_of("mynas").join("agent.toml");
        fs::write(&file, text).unwrap();
        let services = ServicesFile::open(file.clone()).unwrap();
        let resolver = Resolver::Fixed(relay);
        let agent = world.agent_for(state, resolver, services.services()).await;
        Self {
            file,
            services,
            _agent: agent,
        }
    }

    pub(crate) fn says(&mut self, text: &str) {
        fs::write(&self.file, text).unwrap();
        self.services.reload();
    }
}

/// A service whose connections say its name, and then all that they hear.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    _serves: AbortOnDropHandle<()>,
}

impl Echo {
    pub(crate) async fn over_tcp(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serves = async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    to.write_all(name.as_bytes()).await?;
                    tokio::io::copy(&mut from, &mut to).await?;
                    to.shutdown().await
                });
            }
        };
        Self {
            address,
            _serves: AbortOnDropHandle::new(tokio::spawn(serves)),
        }
    }

    /// The file of an owner who has it as the service "shell", at a public port.
    pub(crate) fn at_port(&self, port: &str) -> String {
        let origin = self.address;
        format!("[services.shell]\norigin = \"tcp://{origin}\"\npublic = \"{port}\"\n")
    }

    /// One that says each datagram again, so many times.
    pub(crate) async fn over_udp(times: usize) -> Self {
        Self::loud(times, None).await
    }

    /// The same, or so many octets of its own.
    pub(crate) async fn loud(times: usize, length: Option<usize>) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let serves = async move {
            let mut room = [0; 2048];
            while let Ok((heard, from)) = socket.recv_from(&mut room).await {
                let length = length.unwrap_or(heard);
                for _ in 0..times {
                    let _ = socket.send_to(&room[..length], from).await;
                }
            }
        };
        Self {
            address,
            _serves: AbortOnDropHandle::new(tokio::spawn(serves)),
        }
    }
}

pub(crate) fn at(world: &World, port: u16) -> SocketAddr {
    (world.front.ip(), port).into()
}

/// What is heard at a port by who says so much there.
pub(crate) async fn said(world: &World, port: u16, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut visitor = TcpStream::connect(at(world, port)).await?;
    let (mut from, mut to) = visitor.split();
    let mut heard = Vec::new();
    let saying = async {
        to.write_all(payload).await?;
        to.shutdown().await
    };
    let both = async { tokio::try_join!(saying, from.read_to_end(&mut heard)) };
    timeout(SOON, both).await.unwrap()?;
    Ok(heard)
}

pub(crate) async fn visitor(world: &World, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(at(world, port)).await.unwrap();
    socket
}

/// Says something until it is heard again: datagrams may be lost.
pub(crate) async fn echoed(visitor: &UdpSocket, what: &[u8]) {
    const AGAIN: Duration = Duration::from_millis(250);
    let heard = async {
        let mut room = [0; 2048];
        loop {
            visitor.send(what).await.unwrap();
            if let Ok(Ok(length)) = timeout(AGAIN, visitor.recv(&mut room)).await {
                assert_eq!(&room[..length], what);
                return;
            }
        }
    };
    timeout(SOON, heard).await.expect("nothing comes back");
}

/// Waits until the agent says so of its one public port.
async fn port_is(world: &World, state: &str) {
    let is_so = async { while status_json(world).await["tunnel"]["ports"][0]["state"] != state {} };
    let never = |_| panic!("never {state}");
    timeout(SOON, is_so).await.unwrap_or_else(never);
}

/// What the doctor says of the device's one public port: the service and the port, its health, what was seen, and what to do.
async fn diagnosed(world: &World) -> [String; 4] {
    let said = doctor(&world.state_of("mynas"), &["--json"]).await.stdout;
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&said).unwrap();
    let text = |finding: &serde_json::Value, key: &str| {
        finding[key].as_str().unwrap_or_default().to_owned()
    };
    let mut of_ports = findings.iter();
    let found = of_ports.find(|finding| text(finding, "subject").contains(", port "));
    let found = found.unwrap_or_else(|| panic!("nothing of ports: {findings:#?}"));
    ["subject", "health", "words", "mend"].map(|key| text(found, key))
}

#[tokio::test]
async fn the_doctor_names_a_service_whose_port_is_not_open_and_says_what_to_do() {
    let world = World::with_ports(Transport::Quic, RANGE);
    let shell = Echo::over_tcp("shell").await;
    let file = |port: &str| shell.at_port(port);
    let mut owner = Owner::of(&world, &file("20022/tcp")).await;
    let relay_says = async |state: &str| port_is(&world, state).await;
    let is = async |expected: [&str; 3]| {
        let [subject, health, words, mend] = diagnosed(&world).await;
        assert!(subject.starts_with("service shell, port "), "{subject}");
        assert_eq!(health, expected[0], "{words}");
        assert!(words.contains(expected[1]), "{words}");
        assert!(mend.contains(expected[2]), "{mend}");
    };
    relay_says("not_given").await;
    let give = "causeway port add DEVICE 20022/tcp";
    is(["ill", "this device has not been given it", give]).await;
    world.device("other");
    world.give_ports("other", &["20022/tcp"]);
    relay_says("taken").await;
    is(["ill", "another device has it", "another one"]).await;
    owner.says(&file("30022/tcp"));
    relay_says("out_of_range").await;
    is(["ill", "other ports only", "`ports` in [relay]"]).await;
    owner.says(&file("20023/tcp"));
    world.give_ports("mynas", &["20023/tcp"]);
    relay_says("open").await;
    is(["well", "it is open at ", ""]).await;
}

#[tokio::test]
async fn bytes_pass_at_a_port_as_they_are_and_never_leave_the_tunnel() {
    for transport in TRANSPORTS {
        let world = World::with_ports(transport, RANGE);
        let shell = Echo::over_tcp("shell").await;
        let origin = shell.address;
        let text = format!(
            "[services.shell]\norigin = \"tcp://{origin}\"\nreach = \"port\"\npublic = \"20022/tcp\"\n"
        );
        let _owner = Owner::of(&world, &text).await;
        world.give_ports("mynas", &["20022/tcp"]);
        world.until_metric(OPEN_TCP, 1).await;
        // One way it is bulk: inside TLS it would have left for a connection of its own.
        let much = payload(3_000_000);
        let heard = said(&world, 20_022, &much).await.unwrap();
        assert!(heard.starts_with(b"shell") && heard[5..] == much);
        assert_eq!(world.metric(RAW), 0, "{transport:?}");
        // By its name nobody comes to it.
        assert!(world.try_visit("shell.mynas.nas.localhost").await.is_err());
    }
}

#[tokio::test]
async fn a_service_at_a_port_hears_whose_a_connection_is() {
    let world = World::with_ports(Transport::Quic, RANGE);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let text = format!(
        "[services.web]\norigin = \"http://{}\"\nvisitor_address = \"proxy-v2\"\npublic = \"20080/tcp\"\n",
        listener.local_addr().unwrap()
    );
    let _owner = Owner::of(&world, &text).await;
    world.give_ports("mynas", &["20080/tcp"]);
    world.until_metric(OPEN_TCP, 1).await;
    let visitor = TcpStream::connect(at(&world, 20_080)).await.unwrap();
    let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let expected = proxy_v2::encode(visitor.local_addr().unwrap(), at(&world, 20_080));
    let mut header = vec![0; expected.len()];
    let read = timeout(SOON, stream.read_exact(&mut header)).await;
    read.unwrap().unwrap();
    assert_eq!(header, &expected[..]);
}

#[tokio::test]
async fn datagrams_pass_at_a_port_and_so_do_the_answers() {
    let world = World::with_ports(Transport::Quic, RANGE);
    let service = Echo::over_udp(1).await;
    let _owner = Owner::of_udp(&world, &service).await;
    let (one, other) = (visitor(&world, 20_053).await, visitor(&world, 20_053).await);
    for round in 0..5_u8 {
        echoed(&one, &[round; 700]).await;
        echoed(&other, &[round + 100; 3]).await;
    }
    assert_eq!(world.metric(&lost("unproved")), 0);
    let status = status_json(&world).await;
    assert_eq!(status["tunnel"]["ports"][0]["state"], "open");
    assert_eq!(status["flows"]["visitors"], 2);
    // The port is the device's no more: whoever is there has to leave, and nobody comes.
    world.give_ports("mynas", &[]);
    world.until_metric(CUT, 2).await;
    assert_eq!(world.metric(OPEN_UDP), 0);
    one.send(b"still there?").await.unwrap();
    let gone = timeout(SOON, one.recv(&mut [0; 16])).await.unwrap();
    assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn the_owner_hears_why_a_port_is_not_open_and_it_opens_when_that_is_mended() {
    let world = World::with_ports(Transport::Quic, RANGE);
    let shell = Echo::over_tcp("shell").await;
    let file = |port: &str| shell.at_port(port);
    let mut owner = Owner::of(&world, &file("20022/tcp")).await;
    let state_is = async |state: &str| port_is(&world, state).await;
    state_is("not_given").await;
    let words = status(&world.state_of("mynas"), &[]).await;
    let words = String::from_utf8(words.stdout).unwrap();
    for expected in [
        "port        20022/tcp is not open: this device has not been given it",
        "to mend     the relay (service shell, port 20022/tcp): ask your operator for it: causeway port add DEVICE 20022/tcp",
    ] {
        assert!(words.contains(expected), "{words}");
    }
    let refused = said(&world, 20_022, b"").await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    world.device("other");
    world.give_ports("other", &["20022/tcp"]);
    state_is("taken").await;
    owner.says(&file("30022/tcp"));
    state_is("out_of_range").await;
    owner.says(&file("20023/tcp"));
    let occupied = TcpListener::bind(at(&world, 20_023)).await.unwrap();
    world.give_ports("mynas", &["20023/tcp"]);
    state_is("unavailable").await;
    drop(occupied);
    world.give_ports("mynas", &["20022/tcp", "20023/tcp"]);
    state_is("open").await;
    assert_eq!(said(&world, 20_023, b"!").await.unwrap(), b"shell!");
    let refused = said(&world, 20_022, b"").await.unwrap_err();
    assert_eq!(
        refused.kind(),
        io::ErrorKind::ConnectionRefused,
        "it is in no file"
    );

    // What its file leads elsewhere goes there from then on; who is there stays.
    let mut early = TcpStream::connect(at(&world, 20_023)).await.unwrap();
    early.read_exact(&mut [0; 5]).await.unwrap();
    let photos = Echo::over_tcp("photos").await;
    owner.says(&format!(
        "[services.photos]\norigin = \"tcp://{}\"\npublic = \"20023/tcp\"\n",
        photos.address
    ));
    assert_eq!(said(&world, 20_023, b"!").await.unwrap(), b"photos!");
    early.write_all(b"here").await.unwrap();
    let mut again = [0; 4];
    timeout(SOON, early.read_exact(&mut again))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&again, b"here");
    // But not if the device loses the port.
    world.give_ports("mynas", &[]);
    state_is("not_given").await;
    let cut = timeout(SOON, early.read(&mut [0; 16])).await.unwrap();
    assert!(cut.is_err(), "it was cut, which is no orderly end");
    assert_eq!(world.metric(OPEN_TCP), 0);
}

#[tokio::test]
async fn over_a_tunnel_without_datagrams_the_owner_hears_why_nobody_comes() {
    let world = World::with_ports(Transport::Tls, RANGE);
    let text = "[services.names]\norigin = \"udp://127.0.0.1:53\"\npublic = \"20053/udp\"\n";
    let _owner = Owner::of(&world, text).await;
    world.give_ports("mynas", &["20053/udp"]);
    let said = async {
        while status_json(&world).await["tunnel"]["ports"][0]["state"] != "no_datagrams" {}
    };
    timeout(SOON, said).await.unwrap();
    assert_eq!(world.metric(OPEN_UDP), 0);
    let [subject, health, words, mend] = diagnosed(&world).await;
    assert_eq!(subject, "service names, port 20053/udp");
    assert_eq!(health, "ill");
    assert!(
        words.contains("datagrams do not cross this tunnel"),
        "{words}"
    );
    assert!(mend.contains("let UDP out to the relay"), "{mend}");
}

#[tokio::test]
async fn a_record_says_of_a_visitor_at_a_tcp_port_what_it_says_of_any() {
    let folder = tempfile::tempdir().unwrap();
    let (masked, full) = [(); 2].map(|()| SecretKey::generate().unwrap()).into();
    let to = records::setup(folder.path(), &masked, &full);
    let mut world = World::recording_ports(Transport::Quic, RANGE, to);
    let shell = Echo::over_tcp("shell").await;
    let text = format!(
        "[services.shell]\norigin = \"tcp://{}\"\npublic = \"20022/tcp\"\n",
        shell.address
    );
    let _owner = Owner::of(&world, &text).await;
    world.give_ports("mynas", &["20022/tcp"]);
    world.until_metric(OPEN_TCP, 1).await;
    assert_eq!(said(&world, 20_022, &[7; 1000]).await.unwrap().len(), 1005);
    world.metric_is(DONE, 1).await;
    let relay = world.relay.take().unwrap();
    timeout(SOON, relay.shutdown()).await.unwrap();
    let found = records::records(folder.path(), &full);
    let [record] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(record.device, world.device_id("mynas"));
    // Who passes at a port never leaves the tunnel.
    assert_eq!((record.carrier, record.raw), (RecordedCarrier::Quic, false));
    assert!(record.visitor.to_string().starts_with("127.0.0.1:"));
    assert_eq!(record.end, End::Done);
    assert!((1000..1200).contains(&record.to_device), "{record:?}");
    assert!((1005..1200).contains(&record.to_visitor), "{record:?}");
    let masked = records::records(folder.path(), &masked);
    let networks = masked.iter().map(|record| record.visitor.to_string());
    assert_eq!(networks.collect::<Vec<_>>(), ["127.0.0.0/24"]);
}

#[tokio::test]
async fn a_successor_has_the_ports_and_whoever_is_there_stays() {
    let mut world = World::with_ports(Transport::Quic, RANGE);
    let shell = Echo::over_tcp("shell").await;
    let names = Echo::over_udp(1).await;
    let text = format!(
        "[services.shell]\norigin = \"tcp://{}\"\npublic = \"20022/tcp\"\n[services.names]\norigin = \"udp://{}\"\npublic = \
         \"20053/udp\"\n",
        shell.address, names.address
    );
    let _owner = Owner::of(&world, &text).await;
    world.give_ports("mynas", &["20022/tcp", "20053/udp"]);
    world.until_metric(OPEN_TCP, 1).await;
    let mut early = TcpStream::connect(at(&world, 20_022)).await.unwrap();
    early.read_exact(&mut [0; 5]).await.unwrap();
    let asker = visitor(&world, 20_053).await;
    echoed(&asker, b"before").await;

    let before = world.take_over();
    before.relay.give_way();
    let stop = CancellationToken::new();
    let come = async {
        let mut came = 0;
        while !stop.is_cancelled() || came == 0 {
            assert_eq!(said(&world, 20_022, b"!").await.unwrap(), b"shell!");
            came += 1;
        }
        came
    };
    let moved = async {
        world.until_metric(OPEN_TCP, 1).await;
        before.metric_becomes(OPEN_TCP, 0).await;
        stop.cancel();
    };
    let (came, ()) = tokio::join!(come, moved);
    assert!(came > 0);
    echoed(&asker, b"after").await;
    early.write_all(b"here").await.unwrap();
    let mut again = [0; 4];
    timeout(SOON, early.read_exact(&mut again))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&again, b"here");
}
