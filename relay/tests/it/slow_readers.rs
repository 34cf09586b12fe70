//! What the kernel holds for visitors who ask for much and read nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use relay::server::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::byte_path::origin;
use crate::raw::{CAME, HOST, payload, visitor};
use crate::world::{SOON, TRANSPORTS, World};

const VISITORS: u64 = 20;

/// Octets that relay and agent may have in their sockets for each.
const EACH: u64 = 1280 * 1024;

/// Nothing moves any more when nothing has for so long.
const STILL: Duration = Duration::from_millis(500);

/// A socket of this machine, as `/proc/net/tcp` has it.
struct Queues {
    local: u16,
    remote: u16,
    /// Octets to send and received.
    waiting: u64,
}

fn queues() -> Vec<Queues> {
    let read = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let mut port = || u16::from_str_radix(fields.next()?.rsplit(':').next()?, 16).ok();
        let (local, remote) = (port()?, port()?);
        let (send, receive) = fields.nth(1)?.split_once(':')?;
        let octets = |hex| u64::from_str_radix(hex, 16).ok();
        Some(Queues {
            local,
            remote,
            waiting: octets(send)? + octets(receive)?,
        })
    };
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().filter_map(read).collect()
}

#[tokio::test]
async fn the_kernel_holds_little_for_who_reads_nothing() {
    for transport in TRANSPORTS {
        for scheme in ["tcp", "tls"] {
            timeout(SOON, hold_little(transport, scheme)).await.unwrap();
        }
    }
}

async fn hold_little(transport: Transport, scheme: &str) {
    let world = World::start(transport);
    let (listener, address) = origin(scheme).await;
    let origin_port = listener.local_addr().unwrap().port();
    let _agent = world.agent("demo", &address).await;
    let written = Arc::new(AtomicU64::new(0));
    let (mut passing, mut ending, mut of_visitors) = (Vec::new(), Vec::new(), HashSet::new());
    for _ in 0..VISITORS {
        let local = |stream: &TcpStream| stream.local_addr().unwrap().port();
        if scheme == "tls" {
            let visitor = visitor(&world).await;
            of_visitors.insert(local(&visitor));
            passing.push(visitor);
        } else {
            let visitor = world.visit(HOST).await;
            of_visitors.insert(local(visitor.get_ref().0));
            ending.push(visitor);
        }
        let (mut stream, _) = listener.accept().await.unwrap();
        let written = Arc::clone(&written);
        tokio::spawn(async move {
            let portion = payload(64 * 1024);
            while stream.write_all(&portion).await.is_ok() {
                written.fetch_add(1, Relaxed);
            }
        });
    }
    world.until_metric(CAME, VISITORS).await;
    let mut before = 0;
    while written.load(Relaxed) != before {
        before = written.load(Relaxed);
        sleep(STILL).await;
    }

    let front = world.front.port();
    let ours = |queues: &&Queues| {
        let is_visitor = of_visitors.contains(&queues.local);
        queues.local == front
            || queues.remote == origin_port
            || (queues.remote == front && !is_visitor)
    };
    let held: u64 = queues()
        .iter()
        .filter(ours)
        .map(|queues| queues.waiting)
        .sum();
    let each = held / VISITORS;
    assert!(each < EACH, "{transport:?} {scheme}: {each} octets each");
    assert!(each > 0, "{transport:?} {scheme}: they are not seen at all");

    // Who begins to read after all has what was held, and what comes then.
    let mut much = vec![0; 8 << 20];
    let last = async {
        match (passing.pop(), ending.pop()) {
            (Some(mut visitor), _) => visitor.read_exact(&mut much).await,
            (_, Some(mut visitor)) => visitor.read_exact(&mut much).await,
            (None, None) => panic!("nobody has come"),
        }
    };
    last.await.unwrap();
    let whole = payload(64 * 1024);
    for portion in much.chunks(whole.len()) {
        assert!(
            portion == whole,
            "{transport:?} {scheme}: what came is not what was sent"
        );
    }
}
