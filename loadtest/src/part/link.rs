//! A link between two network namespaces: a wire, or a path that is long, loses packets and has a rate. The kernel's own
//! emulator is often not there, so packets pass through here.
//!
//! ```text
//!   near: tun ─► lost? ─► room in the queue? ─► due when the rate and the delay let it ─► tun :far      and the same back
//! ```

mod spec;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::process::{Namespace, ProcessId};

pub(crate) use spec::{Link, Quality};

/// What the interfaces are called, each in its namespace.
pub(crate) const INTERFACE: &str = "link0";

/// As Ethernet has it.
const MTU: u16 = 1500;

/// Packets that the kernel may have ready for us. More than a queue of ours ever holds: what is dropped is dropped here.
const READY_PACKETS: u32 = 20_000;

/// Packets under way, at most: a second at 1 Gbit/s.
const MOST_UNDERWAY: usize = 1 << 17;

/// Buffers that are no limit.
const BUFFERS: [(&str, &str); 2] = [
    ("tcp_rmem", "4096 131072 33554432"),
    ("tcp_wmem", "4096 16384 33554432"),
];

/// What Linux comes with. A host whose own default is another may keep it from namespaces.
pub(crate) const CONGESTION: &str = "cubic";

/// Always the same losses.
const SEED: u64 = 42;

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) link: Link,
    /// The addresses at the near end, which is here, and at the far one.
    pub(crate) addresses: [Ipv4Addr; 2],
    /// Who is in the far namespace.
    pub(crate) far: u32,
}

/// It is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// How TCP meets losses there, unless it is told.
    pub(crate) congestion: String,
}

pub(super) fn play(order: Order) -> anyhow::Result<()> {
    let near = ProcessId(std::process::id());
    let far = ProcessId(order.far);
    let [near_address, far_address] = order.addresses;
    match order.link {
        Link::Wire => {
            let far_end = format!("veth peer name {INTERFACE} netns {}", far.0);
            ip(&format!("link add {INTERFACE} type {far_end}"))?;
            inside(near, move || configure(near_address, far_address))?;
            inside(far, move || configure(far_address, near_address))?;
        }
        Link::Path(path) => {
            let end = |process, address, peer| {
                inside(process, move || {
                    let tun = tun()?; // where the thread is that opens it
                    configure(address, peer)?;
                    Ok(Arc::new(tun))
                })
            };
            let here = end(near, near_address, far_address)?;
            let there = end(far, far_address, near_address)?;
            for (seed, from, to) in [(SEED, &here, &there), (SEED + 1, &there, &here)] {
                let (from, to) = (Arc::clone(from), Arc::clone(to));
                let (sender, receiver) = sync_channel(MOST_UNDERWAY);
                // They end with the process.
                thread::spawn(move || take(&from, path, StdRng::seed_from_u64(seed), &sender));
                thread::spawn(move || deliver(&to, receiver));
            }
        }
    }
    let congestion = inside(far, || {
        Ok(fs::read_to_string(setting("tcp_congestion_control"))?)
    })?;
    super::say(&Ready {
        congestion: congestion.trim().to_owned(),
    })?;
    loop {
        thread::park();
    }
}

/// Does `work` in the network namespace of `process`.
fn inside<T: Send + 'static>(
    process: ProcessId,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let worker = thread::spawn(move || {
        Namespace::enter(process)?;
        work()
    });
    worker.join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn tun() -> io::Result<SyncDevice> {
    DeviceBuilder::new()
        .name(INTERFACE)
        .mtu(MTU)
        .with(|device| {
            device.tx_queue_len(READY_PACKETS);
        })
        .build_sync()
}

fn configure(address: Ipv4Addr, peer: Ipv4Addr) -> anyhow::Result<()> {
    let _ = fs::write(setting("tcp_congestion_control"), CONGESTION); // what it is then is looked at
    for (name, value) in BUFFERS {
        fs::write(setting(name), value).context(name)?;
    }
    ip("link set lo up")?;
    let address = format!("addr add {address} peer {peer} dev {INTERFACE}");
    ip(&address)?;
    ip(&format!("link set {INTERFACE} up"))
}

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv4").join(name)
}

pub(super) fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.context("ip, of iproute2, is needed for a link")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {}", said.trim());
    Ok(())
}

/// A packet, and when it arrives at the other end.
struct Packet {
    due: Instant,
    octets: Box<[u8]>,
}

/// Takes packets in as they are sent. What is neither lost nor too much is passed on.
fn take(from: &SyncDevice, path: Quality, mut dice: StdRng, sender: &SyncSender<Packet>) {
    let mut buffer = [0; 1 << 16];
    let longest_queue = path.delay * 2; // a whole round trip, as routers have it
    let mut free = Instant::now();
    while let Ok(length) = from.recv(&mut buffer) {
        if dice.random_bool(path.loss) {
            continue;
        }
        let now = Instant::now();
        free = free.max(now);
        if let Some(rate) = path.octets_per_second {
            if free - now > longest_queue {
                continue;
            }
            free += Duration::from_secs_f64(length as f64 / rate as f64);
        }
        let packet = Packet {
            due: free + path.delay,
            octets: buffer[..length].into(),
        };
        if let Err(TrySendError::Disconnected(_)) = sender.try_send(packet) {
            return;
        }
    }
}

fn deliver(to: &SyncDevice, receiver: Receiver<Packet>) {
    for Packet { due, octets } in receiver {
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            thread::sleep(early);
        }
        let _ = to.send(&octets); // an interface that is down loses it, as any does
    }
}
