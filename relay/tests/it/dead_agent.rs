//! An agent that dies without a word: the real program, killed.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relay::server::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::byte_path::origin;
use crate::world::{SOON, TRANSPORTS, World};

const HOST: &str = "mynas.nas.localhost";

/// All that is on the way to a visitor who takes nothing has come there by then.
const FILLED: Duration = Duration::from_secs(2);

/// Between two looks whether somebody has been told.
const LOOK: Duration = Duration::from_millis(20);

/// `causeway-agent run`, killed when dropped.
struct Program(Child);

impl Program {
    /// Starts it and returns when it says that it is attached.
    fn attached(world: &World, name: &str, origin: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_causeway-agent"))
            .args(["run", "--origin", origin, "--state"])
            .arg(world.state_of(name))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = lines
            .by_ref()
            .find(|line| line.as_ref().unwrap().contains("attached to the relay"));
        assert!(said.is_some(), "the agent has ended");
        std::thread::spawn(move || lines.for_each(drop)); // so that it never blocks on what it logs
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(world: &World, origin: &str) -> Program {
    world.device("mynas");
    tokio::task::block_in_place(|| Program::attached(world, "mynas", origin))
}

/// A relay, the service of a device, and the device's agent.
async fn device(transport: Transport) -> (World, TcpListener, Program) {
    let world = World::start(transport);
    let (listener, address) = origin("tcp").await;
    let agent = start(&world, &address);
    (world, listener, agent)
}

/// Both ends of what a visitor has opened there.
async fn visit(world: &World, listener: &TcpListener) -> (TlsStream<TcpStream>, TcpStream) {
    let visitor = world.visit(HOST).await;
    let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    (visitor, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_visitor_is_told_within_four_seconds() {
    for transport in TRANSPORTS {
        let (world, listener, mut agent) = device(transport).await;
        let (mut visitor, mut stream) = visit(&world, &listener).await;
        stream.write_all(b"x").await.unwrap();
        timeout(SOON, visitor.read_u8()).await.unwrap().unwrap();

        agent.kill();
        let killed = Instant::now();
        let told = timeout(SOON, visitor.read_u8()).await.unwrap();
        told.expect_err("the answer does not come any more");
        assert!(
            killed.elapsed() < Duration::from_secs(4),
            "{transport:?} {:?}",
            killed.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_who_takes_nothing_is_told_too() {
    for transport in TRANSPORTS {
        let (world, listener, mut agent) = device(transport).await;
        let (mut visitor, mut stream) = visit(&world, &listener).await;
        let filled = async {
            loop {
                stream.write_all(&[0; 65536]).await.unwrap();
            }
        };
        timeout(FILLED, filled).await.expect_err("it is endless");

        agent.kill();
        let killed = Instant::now();
        let hears_nothing = async {
            // It hears of it by writing, since it does not read.
            while visitor.write_all(b"x").await.is_ok() && visitor.flush().await.is_ok() {
                sleep(LOOK).await;
            }
        };
        timeout(SOON, hears_nothing).await.unwrap();
        assert!(
            killed.elapsed() < Duration::from_secs(5),
            "{transport:?} {:?}",
            killed.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_that_comes_after_the_death_is_told_within_four_seconds() {
    for transport in TRANSPORTS {
        let (world, _listener, mut agent) = device(transport).await;
        agent.kill();
        let came = Instant::now();
        world.try_visit(HOST).await.expect_err("nobody answers");
        assert!(
            came.elapsed() < Duration::from_secs(4),
            "{transport:?} {:?}",
            came.elapsed()
        );
        // From then on the name is known to have nobody, and the alert comes at once.
        let again = Instant::now();
        world.try_visit(HOST).await.expect_err("nobody answers");
        assert!(
            again.elapsed() < Duration::from_millis(500),
            "{transport:?} {:?}",
            again.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_is_reached_within_two_seconds() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let mut agent = start(&world, &address);
        agent.kill();
        let restarted = Instant::now();
        let _agent = start(&world, &address);
        let _visitor = world.visit(HOST).await;
        timeout(SOON, listener.accept()).await.unwrap().unwrap();
        assert!(
            restarted.elapsed() < Duration::from_secs(2),
            "{transport:?} {:?}",
            restarted.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_visitor_does_not_end_a_healthy_tunnel() {
    let (world, listener, _agent) = device(Transport::Quic).await;
    let (mut visitor, mut stream) = visit(&world, &listener).await;
    // Longer than a dead agent would be allowed; the probes in between are answered.
    tokio::time::sleep(Duration::from_secs(5)).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(
        timeout(SOON, visitor.read_u8()).await.unwrap().unwrap(),
        b'x'
    );
}
