//! Those who attack: many connections, each held for as long as the other end lets it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::ValueEnum;
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Force;
use super::download::Download;
use crate::entrance::Entrance;
use crate::plain::HELLO;
use crate::world::Device;

/// So often some more come.
const TICK: Duration = Duration::from_millis(10);

/// Nobody is held for longer: the relay's own limits are shorter, but those of a download.
const HOLD: Duration = Duration::from_secs(30);

/// Between two octets of one who says its name slowly.
const PAUSE: Duration = Duration::from_millis(500);

/// Octets a second of one who reads slowly.
const SLOW: u64 = 1000;

/// What is done to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// Connections from many addresses that say nothing
    Silent,
    /// Connections from many addresses that say their name octet by octet
    SlowHello,
    /// Connections from many addresses that ask for a device which does not exist
    UnknownName,
    /// Downloads at a kilobyte a second, all of one device
    SlowReaders,
}

impl Attack {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::SlowHello => "slow_hello",
            Self::UnknownName => "unknown_name",
            Self::SlowReaders => "slow_readers",
        }
    }
}

/// The attackers. They are gone when this is dropped.
pub(super) struct Attackers {
    counts: Arc<Counts>,
    _coming: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    attempted: AtomicU64,
    held: AtomicU64,
    most_held: AtomicU64,
    turned_away: AtomicU64,
}

/// What has become of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) attempted: u64,
    /// Connections at a time.
    pub(super) most_held: u64,
    /// Those that could not connect, or were ended by the other end.
    pub(super) turned_away: u64,
}

impl Attackers {
    /// Attacks `target` as hard as `force` says, with at most so many at a time.
    pub(super) fn start(
        attack: Attack,
        device: &Device,
        target: SocketAddr,
        force: Force,
        most: usize,
    ) -> Self {
        let attacker = Arc::new(Attacker {
            attack,
            download: Download {
                entrance: Entrance {
                    front: target,
                    ..device.door.entrance()
                },
                path: device.bulk.clone(),
                rate: SLOW,
            },
            counts: Arc::default(),
        });
        let counts = Arc::clone(&attacker.counts);
        let coming = tokio::spawn(come(attacker, force, most as u64));
        Self {
            counts,
            _coming: AbortOnDropHandle::new(coming),
        }
    }

    pub(super) fn counted(&self) -> Counted {
        Counted {
            attempted: self.counts.attempted.load(Relaxed),
            most_held: self.counts.most_held.load(Relaxed),
            turned_away: self.counts.turned_away.load(Relaxed),
        }
    }
}

/// Lets attackers come at their pace, until there were as many as there may be.
async fn come(attacker: Arc<Attacker>, force: Force, most: u64) {
    let mut attackers = JoinSet::new(); // dropped with this future, and every attacker with it
    let mut ticks = interval(TICK);
    let each_tick = f64::from(force.rate) * TICK.as_secs_f64();
    let (mut due, mut come) = (0.0, 0);
    loop {
        ticks.tick().await;
        while attackers.try_join_next().is_some() {}
        due += each_tick;
        while due >= 1.0 {
            due -= 1.0;
            if come < force.attempts && (attackers.len() as u64) < most {
                come += 1;
                let attacker = Arc::clone(&attacker);
                attackers.spawn(async move { attacker.attack().await });
            }
        }
    }
}

struct Attacker {
    attack: Attack,
    download: Download,
    counts: Arc<Counts>,
}

impl Attacker {
    async fn attack(&self) {
        self.counts.attempted.fetch_add(1, Relaxed);
        let ended = timeout(HOLD, async {
            match self.attack {
                Attack::SlowReaders => {
                    let _held = self.counts.hold();
                    self.download.once(&AtomicU64::default()).await
                }
                Attack::Silent | Attack::SlowHello | Attack::UnknownName => {
                    let stream = connect(self.download.entrance.front).await?;
                    let _held = self.counts.hold();
                    self.say_little(stream).await
                }
            }
        });
        if ended.await.is_ok() {
            self.counts.turned_away.fetch_add(1, Relaxed);
        }
    }

    /// Until the other end has had enough.
    async fn say_little(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut room = [0; 64];
        match self.attack {
            Attack::Silent | Attack::SlowReaders => {}
            Attack::UnknownName => stream.write_all(HELLO).await?,
            Attack::SlowHello => {
                for octet in HELLO {
                    stream.write_all(&[*octet]).await?;
                    if timeout(PAUSE, stream.read(&mut room)).await.is_ok() {
                        return Ok(());
                    }
                }
            }
        }
        while stream.read(&mut room).await? > 0 {}
        Ok(())
    }
}

impl Counts {
    fn hold(&self) -> Held<'_> {
        let held = self.held.fetch_add(1, Relaxed) + 1;
        self.most_held.fetch_max(held, Relaxed);
        Held(self)
    }
}

/// A connection that is there.
struct Held<'a>(&'a Counts);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

/// Connects from any address of loopback but the usual one.
async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    if !target.is_ipv4() {
        return TcpStream::connect(target).await;
    }
    let from = rand::rng().random_range(0x7f01_0000..0x7fff_0000_u32);
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::from_bits(from), 0).into())?;
    socket.connect(target).await
}
