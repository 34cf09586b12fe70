//! Floods: who may come in, how often, and what it costs. The relay is a process of its own, whose memory and descriptors
//! are nobody else's, and so are those who flood it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use relay::server::LimitsConfig;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::world::{SOON, World, eventually};

/// Names demo.nas.localhost.
const HELLO: &[u8] = include_bytes!("../../wire/testdata/chromium.bin");

const FRONT: &str = "RELAY_TEST_FRONT";
const COUNT: &str = "RELAY_TEST_COUNT";
const NETWORK: &str = "RELAY_TEST_NETWORK";

/// Why somebody is sent away who says nothing.
const REASONS: [&str; 7] = [
    "unnamed_full",
    "gave_way",
    "address_busy",
    "address_too_fast",
    "full",
    "too_slow",
    "left_early",
];

/// A process of this program that says things, one to a line, and is told things, one to a line. It is killed when this is
/// dropped.
struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
    told: ChildStdin,
}

impl Process {
    fn of(test: &str, environment: &[(&str, String)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", test, "--nocapture"])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let told = child.stdin.take().unwrap();
        Self { child, said, told }
    }

    /// What it says next under the name `what`; what the test harness says is passed over.
    fn hear(&mut self, what: &str) -> String {
        let prefix = format!("{what} ");
        for line in (&mut self.said).lines() {
            let line = line.unwrap();
            if let Some((_, value)) = line.split_once(&prefix) {
                return value.to_owned();
            }
        }
        panic!("it has ended without saying its {what}");
    }

    fn ask(&mut self, what: &str) -> u64 {
        writeln!(self.told, "{what}").unwrap();
        self.hear("answer").parse().unwrap()
    }

    fn refused(&mut self, reason: &str) -> u64 {
        let refused = format!("causeway_relay_visitors_refused_total{{reason=\"{reason}\"}}");
        self.ask(&refused)
    }

    /// Connections that are here and have not been sent away.
    fn held(&mut self) -> u64 {
        let accepted = self.ask("causeway_relay_visitors_accepted_total");
        let gone = self.ask("gone");
        accepted.saturating_sub(gone)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// Lines that this process is told, until whoever started it has gone.
fn lines() -> impl Iterator<Item = String> {
    io::stdin().lines().map_while(Result::ok)
}

/// Started by other tests: a relay with a device whose visitors hear what they say, until standard input ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "other tests start it"]
async fn a_relay_of_its_own() {
    let world = World::limited(LimitsConfig::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let origin = format!("tls://{}", listener.local_addr().unwrap());
    let _agent = world.agent("demo", &origin).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await; // visitors leave as they like
            });
        }
    });
    println!("front {}", world.front);
    let answered = tokio::task::spawn_blocking(move || {
        let mut flood = Vec::new();
        let budget = |budget| {
            world.relay.as_ref().unwrap().set_limits(&LimitsConfig {
                memory: Some(budget),
                ..LimitsConfig::default()
            });
            budget
        };
        for line in lines() {
            let answer = match line.as_str() {
                "memory" => resident(),
                "flood" => {
                    flood = (0..200_000).map(|_| vec![1_u8; 1024]).collect();
                    resident()
                }
                // One in a hundred stays, and no heap ends with what is free.
                "ebb" => {
                    let mut number = 0;
                    flood.retain(|_| {
                        number += 1;
                        number % 100 == 0
                    });
                    resident()
                }
                "budget" => budget(resident() + 50_000_000),
                // An eighth is for those who are here, and half of it is used.
                "short" => budget(resident() + resident() / 16),
                "exceeded" => budget(resident() / 2),
                "gone" => gone(&world),
                metric => world.metric(metric),
            };
            println!("answer {answer}");
        }
    });
    answered.await.unwrap();
}

/// Octets of memory that this process has (proc(5)).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<u64>().unwrap() * 1024
}

/// Connections that are no longer at the front.
fn gone(world: &World) -> u64 {
    let text = prometheus::TextEncoder::new().encode_to_string(&world.registry.gather());
    let text = text.unwrap();
    let gone = text.lines().filter(|line| {
        ["refused", "ended", "handed_over"]
            .iter()
            .any(|how| line.starts_with(&format!("causeway_relay_visitors_{how}_total{{")))
    });
    gone.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// Started by other tests: opens connections from many addresses, each of which says nothing, and holds all of them until
/// standard input ends.
#[test]
#[ignore = "other tests start it"]
fn a_flood_of_its_own() {
    relay::program::raise_descriptor_limit();
    let of = |name| std::env::var(name).unwrap();
    let front: SocketAddr = of(FRONT).parse().unwrap();
    let (count, network): (u32, u8) = (of(COUNT).parse().unwrap(), of(NETWORK).parse().unwrap());
    let mut held = Vec::new();
    println!("begins now");
    for number in 0..count {
        let [.., high, low] = (number % 500).to_be_bytes();
        held.push(connect(Ipv4Addr::new(127, network, high, low), front));
    }
    println!("attempted {}", held.len());
    assert_eq!(lines().count(), 0);
}

/// A connection from an address of loopback.
fn connect(from: Ipv4Addr, front: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect_timeout(&front.into(), SOON).unwrap();
    socket
}

/// One who is served: its hello comes back. Says how long that took.
fn bystander(front: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&front, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(HELLO)?;
    let mut heard = vec![0; HELLO.len()];
    stream.read_exact(&mut heard)?;
    assert!(heard == HELLO);
    Ok(start.elapsed())
}

/// Fifty thousand connections, in three processes and from 1,500 addresses, say nothing and stay.
#[test]
fn a_flood_of_half_open_visitors_takes_little_and_a_bystander_is_served() {
    const PROCESSES: u64 = 3;
    const EACH: u64 = 16_700;
    let mut relay = Process::of("limits::a_relay_of_its_own", &[]);
    let front = relay.hear("front");
    let address: SocketAddr = front.parse().unwrap();
    bystander(address).unwrap();
    let before = relay.ask("memory");
    let mut floods: Vec<_> = (1..=PROCESSES)
        .map(|network| {
            let environment = [
                (FRONT, front.clone()),
                (COUNT, EACH.to_string()),
                (NETWORK, network.to_string()),
            ];
            Process::of("limits::a_flood_of_its_own", &environment)
        })
        .collect();
    for flood in &mut floods {
        flood.hear("begins");
    }
    let start = Instant::now();
    let (mut most_held, mut most_memory, mut slowest, mut visits) = (0, 0, Duration::ZERO, 0);
    loop {
        let took = bystander(address).unwrap_or_else(|error| {
            let counts = REASONS.map(|reason| (reason, relay.refused(reason)));
            let held = relay.held();
            panic!("the bystander is sent away: {error}; {held} are held, refused {counts:?}")
        });
        slowest = slowest.max(took);
        visits += 1;
        most_held = most_held.max(relay.held());
        most_memory = most_memory.max(relay.ask("memory"));
        if relay.ask("causeway_relay_visitors_accepted_total") >= PROCESSES * EACH + visits {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "the flood takes too long"
        );
    }
    let took = start.elapsed();
    for flood in &mut floods {
        assert_eq!(flood.hear("attempted"), EACH.to_string());
    }
    let gave_way = relay.refused("gave_way");
    let full = relay.refused("unnamed_full");
    println!(
        "{most_held} held at a time, {gave_way} gave way, {full} refused at once, {} KiB more, in {took:?}; bystander {visits} times, {slowest:?} at most",
        most_memory.saturating_sub(before) / 1024
    );
    assert!(most_held <= 15_000 + 15_000 / 16, "{most_held}");
    assert!(most_memory.saturating_sub(before) < 100_000_000);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");

    // Nobody of them is served, and each is counted: at once, or by the deadline.
    let deadline = Instant::now() + SOON;
    while relay.held() > 0 {
        assert!(Instant::now() < deadline, "somebody is still held");
        std::thread::sleep(Duration::from_millis(50));
    }
    let refused: u64 = REASONS.map(|reason| relay.refused(reason)).iter().sum();
    assert_eq!(refused, PROCESSES * EACH);
    bystander(address).unwrap();
}

#[tokio::test]
async fn an_address_that_comes_too_often_is_refused_and_another_is_served() {
    let world = World::limited(LimitsConfig {
        connections_per_second_per_address: Some(10),
        ..LimitsConfig::default()
    });
    let (listener, origin) = crate::byte_path::origin("tls").await;
    let _agent = world.agent("demo", &origin).await;
    let front = world.front;
    let held: Vec<_> = tokio::task::spawn_blocking(move || {
        let often = Ipv4Addr::new(127, 9, 9, 9);
        (0..100).map(|_| connect(often, front)).collect()
    })
    .await
    .unwrap();
    // Of four seconds' worth at once all but those of the time it took are refused.
    let refused = "causeway_relay_visitors_refused_total{reason=\"address_too_fast\"}";
    world.until_metric(refused, 20).await;
    assert!(world.metric(refused) <= 60);

    let mut visitor = tokio::net::TcpStream::connect(front).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut visitor, HELLO)
        .await
        .unwrap();
    let (mut stream, _) = tokio::time::timeout(SOON, listener.accept())
        .await
        .unwrap()
        .unwrap();
    let mut heard = vec![0; HELLO.len()];
    let read = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut heard);
    tokio::time::timeout(SOON, read).await.unwrap().unwrap();
    assert!(heard == HELLO);
    drop(held);

    // A limit that is raised is in force for whoever comes next.
    world.relay.as_ref().unwrap().set_limits(&LimitsConfig {
        connections_per_second_per_address: Some(100_000),
        ..LimitsConfig::default()
    });
    let before = world.metric(refused);
    let again = tokio::task::spawn_blocking(move || {
        let often = Ipv4Addr::new(127, 9, 9, 9);
        (0..100).map(|_| connect(often, front)).collect::<Vec<_>>()
    });
    drop(again.await.unwrap());
    let accepted = "causeway_relay_visitors_accepted_total";
    world.until_metric(accepted, 201).await;
    assert_eq!(world.metric(refused), before);
}

/// Of a hello that is not complete, what it may have of a record.
fn long_part_of_a_hello() -> Vec<u8> {
    let mut octets = vec![22, 3, 1, 0x3f, 0xf0, 1, 0, 0x3f, 0x00];
    octets.resize(15_000, 0);
    octets
}

/// More memory than long hellos may have is sent, in parts that never become whole.
#[test]
fn long_hellos_that_never_end_are_bounded_and_usual_ones_beside_them_are_served() {
    const COUNT: u32 = 6000;
    relay::program::raise_descriptor_limit();
    let mut relay = Process::of("limits::a_relay_of_its_own", &[]);
    let address: SocketAddr = relay.hear("front").parse().unwrap();
    bystander(address).unwrap();
    let before = relay.ask("memory");
    let part = long_part_of_a_hello();
    let mut held = Vec::new();
    for number in 0..COUNT {
        if number % 100 == 0 && relay.refused("hellos_full") > 0 {
            break;
        }
        let [.., high, low] = (number % 500).to_be_bytes();
        let mut visitor = TcpStream::from(connect(Ipv4Addr::new(127, 1, high, low), address));
        // One who is refused may be gone before all is said.
        let _ = visitor.write_all(&part);
        held.push(visitor);
    }
    let more = relay.ask("memory").saturating_sub(before);
    println!("{} partial hellos, {} KiB more", held.len(), more / 1024);
    assert!(relay.refused("hellos_full") > 0);
    assert!(more < 100_000_000, "{more}");

    // Whole at once, and in two parts of which the first is waited with.
    bystander(address).unwrap();
    let mut slow = TcpStream::connect(address).unwrap();
    slow.set_nodelay(true).unwrap();
    slow.set_read_timeout(Some(SOON)).unwrap();
    slow.write_all(&HELLO[..600]).unwrap();
    bystander(address).unwrap();
    slow.write_all(&HELLO[600..]).unwrap();
    let mut heard = vec![0; HELLO.len()];
    slow.read_exact(&mut heard).unwrap();
    assert!(heard == HELLO);
    drop(held);
}

#[test]
fn what_a_flood_leaves_behind_is_given_back_and_newcomers_are_let_in_again() {
    let mut relay = Process::of("limits::a_relay_of_its_own", &[]);
    let address: SocketAddr = relay.hear("front").parse().unwrap();
    bystander(address).unwrap();
    let budget = relay.ask("budget");
    assert!(relay.ask("flood") > budget);
    let deadline = Instant::now() + SOON;
    while bystander(address).is_ok() {
        assert!(Instant::now() < deadline, "nobody looks");
    }
    relay.ask("ebb");
    let deadline = Instant::now() + SOON;
    while bystander(address).is_err() {
        let used = relay.ask("memory");
        assert!(Instant::now() < deadline, "{used} of {budget} are used");
        std::thread::sleep(Duration::from_millis(50)); // there is no event; the outcome does not depend on it
    }
    assert!(relay.refused("memory") > 0);
}

#[test]
fn while_memory_is_short_whoever_is_served_goes_on_and_above_the_budget_has_to_leave() {
    let mut relay = Process::of("limits::a_relay_of_its_own", &[]);
    let address: SocketAddr = relay.hear("front").parse().unwrap();
    let mut served = TcpStream::connect_timeout(&address, SOON).unwrap();
    served.set_read_timeout(Some(SOON)).unwrap();
    served.write_all(HELLO).unwrap();
    let mut heard = vec![0; HELLO.len()];
    served.read_exact(&mut heard).unwrap();
    relay.ask("flood");
    relay.ask("short");
    assert!(bystander(address).is_err());
    assert!(relay.refused("memory") > 0);
    served.write_all(b"goes on").unwrap();
    let heard = &mut heard[..7];
    served.read_exact(heard).unwrap();
    assert_eq!(heard, b"goes on");
    let shed = "causeway_relay_visitors_ended_total{end=\"shed\"}";
    assert_eq!(relay.ask(shed), 0);

    relay.ask("exceeded");
    let broken_off = served.read(heard).unwrap_err();
    assert_eq!(broken_off.kind(), io::ErrorKind::ConnectionReset);
    let deadline = Instant::now() + SOON;
    while relay.ask(shed) != 1 {
        assert!(Instant::now() < deadline, "nobody counts it");
    }
}

/// Downloads that come at once and are not read are let in as far as what they may take leaves room for it.
#[test]
fn who_comes_at_once_with_many_others_is_let_in_only_as_there_will_be_memory() {
    let mut relay = Process::of("limits::a_relay_of_its_own", &[]);
    let address: SocketAddr = relay.hear("front").parse().unwrap();
    bystander(address).unwrap();
    relay.ask("flood");
    relay.ask("budget"); // 50 MB more than it has, and an eighth of all for those who are here
    let come = || {
        let mut visitor = TcpStream::connect_timeout(&address, SOON).unwrap();
        visitor.set_read_timeout(Some(SOON)).unwrap();
        visitor.write_all(HELLO).unwrap();
        let mut heard = vec![0; HELLO.len()];
        let told = visitor.read_exact(&mut heard);
        told.map(|()| visitor)
    };
    let came: Vec<_> = (0..100).filter_map(|_| come().ok()).collect();
    assert!((1..60).contains(&came.len()), "{}", came.len());
    assert!(relay.refused("memory") > 0);
    drop(came);
    let deadline = Instant::now() + SOON;
    while come().is_err() {
        assert!(Instant::now() < deadline, "who has left is counted");
    }
}

#[tokio::test]
async fn above_the_memory_budget_newcomers_are_told() {
    let world = World::limited(LimitsConfig::default());
    let (listener, origin) = crate::byte_path::origin("tls").await;
    let _agent = world.agent("demo", &origin).await;
    let come = async || {
        let mut visitor = tokio::net::TcpStream::connect(world.front).await.unwrap();
        visitor.write_all(HELLO).await.unwrap();
        visitor
    };
    let budget = |memory| {
        let limits = LimitsConfig {
            memory,
            ..LimitsConfig::default()
        };
        world.relay.as_ref().unwrap().set_limits(&limits);
    };
    budget(Some(1));
    let mut alert = Vec::new();
    let mut refused = come().await;
    let told = refused.read_to_end(&mut alert);
    timeout(SOON, told).await.unwrap().unwrap();
    assert_eq!(alert.len(), 7, "an alert");
    let counted = "causeway_relay_visitors_refused_total{reason=\"memory\"}";
    world.metric_is(counted, 1).await;
    assert_eq!(world.metric("causeway_relay_memory_budget_bytes"), 1);
    assert!(world.metric("causeway_relay_memory_used_bytes") > 1_000_000);
    assert!(world.relay.as_ref().unwrap().upkeep().memory_is_over());

    budget(None);
    assert!(!world.relay.as_ref().unwrap().upkeep().memory_is_over());
    let _next = come().await;
    timeout(SOON, listener.accept()).await.unwrap().unwrap();
}

#[tokio::test]
async fn it_is_known_when_sessions_and_memory_were_last_looked_after() {
    let world = World::limited(LimitsConfig::default());
    let upkeep = world.relay.as_ref().unwrap().upkeep();
    let mark = Instant::now();
    eventually(|| upkeep.last_done().iter().all(|(_, at)| *at > mark)).await;
    assert_eq!(
        upkeep.last_done().map(|(what, _)| what),
        ["sessions", "memory"]
    );
}
