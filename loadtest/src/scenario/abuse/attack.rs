//! Those who attack: many connections, each held for as long as the other end lets it, or packets without any. Each kind has a
//! file here.

mod frames;
mod handshakes;
mod hello;
mod http2;
mod initial;
mod initials;
mod quiet;
mod slow_http;
mod syns;
mod target;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rand::RngExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Interval, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Force;
pub(super) use target::{Needs, Target};

/// So often some more come.
const TICK: Duration = Duration::from_millis(10);

/// Nobody is held for longer.
const HOLD: Duration = Duration::from_secs(30);

/// Octets a second of one who reads slowly, and of one who is in no way slow.
const SLOW: u64 = 1000;
const FAST: u64 = 1 << 40;

/// What is done to the relay. The numbers are those of the faults in this program's manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// 13: connections to a relay that has few descriptors, which say nothing
    Descriptors,
    /// 14: downloads at a kilobyte a second, and hellos that do not end, at a relay that may have little memory
    Memory,
    /// 15: downloads at a kilobyte a second, all of one device
    SlowReaders,
    /// 16: TCP SYNs of addresses that nobody has, in a network namespace of its own; needs root
    SynFlood,
    /// 17: connections from many addresses that say nothing
    Silent,
    /// 17: connections from many addresses that ask for a device which does not exist
    UnknownName,
    /// 17: TLS handshakes with relay.<zone> and cloud.<zone> that end with the ClientHello
    HalfHandshakes,
    /// 17: the same, the ClientHello in records of one octet each
    SplitHellos,
    /// 18: QUIC's first packets from many addresses, half of them broken in some way
    QuicInitials,
    /// 20: HTTP/2 requests that are taken back at once, of the device and of cloud.<zone> as the next two are
    RapidReset,
    /// 20: HTTP/2 heads that do not end
    Continuations,
    /// 20: HTTP/2 request bodies in frames without an octet
    EmptyData,
    /// 21: connections from many addresses that say their name octet by octet
    SlowHello,
    /// 21: HTTP request heads octet by octet, to the device and to cloud.<zone> as the next two are
    SlowHeads,
    /// 21: HTTP request bodies octet by octet
    SlowBodies,
    /// 21: HTTP requests whose answers nobody reads
    UnreadAnswers,
    /// 22: frames of a paired agent that are longer than any, or none
    BadFrames,
    /// 22: TLS records and hellos that claim more than they have
    LongHellos,
    /// 22: raw connections with a ticket that nobody gave out
    RawHeaders,
    /// 27: downloads as fast as they come, all of another device than the bystander's
    NoisyNeighbour,
}

impl Attack {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
            Self::SlowReaders => "slow_readers",
            Self::SynFlood => "syn_flood",
            Self::Silent => "silent",
            Self::UnknownName => "unknown_name",
            Self::HalfHandshakes => "half_handshakes",
            Self::SplitHellos => "split_hellos",
            Self::QuicInitials => "quic_initials",
            Self::RapidReset => "rapid_reset",
            Self::Continuations => "continuations",
            Self::EmptyData => "empty_data",
            Self::SlowHello => "slow_hello",
            Self::SlowHeads => "slow_heads",
            Self::SlowBodies => "slow_bodies",
            Self::UnreadAnswers => "unread_answers",
            Self::BadFrames => "bad_frames",
            Self::LongHellos => "long_hellos",
            Self::RawHeaders => "raw_headers",
            Self::NoisyNeighbour => "noisy_neighbour",
        }
    }

    /// What must be there for it, beside a relay.
    pub(super) fn needs(self) -> Needs {
        match self {
            Self::Descriptors => Needs::FewDescriptors,
            Self::Memory => Needs::LittleMemory,
            Self::SynFlood => Needs::Strangers,
            Self::BadFrames => Needs::Identity,
            Self::NoisyNeighbour => Needs::Neighbour,
            Self::SlowReaders
            | Self::Silent
            | Self::UnknownName
            | Self::HalfHandshakes
            | Self::SplitHellos
            | Self::QuicInitials
            | Self::RapidReset
            | Self::Continuations
            | Self::EmptyData
            | Self::SlowHello
            | Self::SlowHeads
            | Self::SlowBodies
            | Self::UnreadAnswers
            | Self::LongHellos
            | Self::RawHeaders => Needs::Nothing,
        }
    }

    /// Whether it can be made on a server that somebody else has started.
    pub(crate) fn goes_anywhere(self) -> bool {
        self.needs() == Needs::Nothing
    }

    /// Whether it is more than packets.
    pub(super) fn has_connections(self) -> bool {
        !matches!(self, Self::QuicInitials | Self::SynFlood)
    }

    pub(super) fn speaks_http2(self) -> bool {
        matches!(
            self,
            Self::RapidReset | Self::Continuations | Self::EmptyData
        )
    }

    /// Whether every other one goes to `cloud.<zone>`.
    pub(super) fn goes_to_cloud_too(self) -> bool {
        self.speaks_http() || matches!(self, Self::HalfHandshakes | Self::SplitHellos)
    }

    /// Whether the agent has a part in it.
    pub(super) fn reaches_the_agent(self) -> bool {
        self.speaks_http() || self == Self::SlowReaders
    }

    fn speaks_http(self) -> bool {
        self.speaks_http2()
            || matches!(
                self,
                Self::SlowHeads | Self::SlowBodies | Self::UnreadAnswers
            )
    }
}

/// The attackers. They are gone when this is dropped.
pub(super) struct Attackers {
    counts: Arc<Counts>,
    stop: CancellationToken,
    coming: AbortOnDropHandle<io::Result<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    attempted: AtomicU64,
    held: AtomicU64,
    most_held: AtomicU64,
    turned_away: AtomicU64,
    /// Until one of them was, of those with an even number and of the others: some attacks go to two ends in turn.
    longest_ms: [AtomicU64; 2],
    stayed: AtomicU64,
    calmed: AtomicU64,
    sent: AtomicU64,
    answered: AtomicU64,
}

/// What has become of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    /// Connections, or packets where there are none.
    pub(super) attempted: u64,
    /// Connections at a time.
    pub(super) most_held: u64,
    /// Those that could not connect, or were ended by the other end.
    pub(super) turned_away: u64,
    /// Seconds until one of them was, of those with an even number and of the others.
    pub(super) longest: [f64; 2],
    /// Those that were left alone for [`HOLD`], and went.
    pub(super) stayed: u64,
    /// Those that were told over HTTP/2 why.
    pub(super) calmed: u64,
    /// Octets of packets without a connection, and of what came back.
    pub(super) sent: u64,
    pub(super) answered: u64,
}

impl Attackers {
    /// Attacks `target` as hard as `force` says, with at most so many at a time.
    pub(super) fn start(attack: Attack, target: Target, force: Force, most: usize) -> Self {
        let counts = Arc::<Counts>::default();
        let (target, most) = (Arc::new(target), most as u64);
        let (pace, stop) = (Pace::of(force), CancellationToken::new());
        let here = Arc::clone(&counts);
        let stopped = stop.clone().cancelled_owned();
        let coming = tokio::spawn(async move {
            let mut attackers = JoinSet::new();
            let attacking = async {
                if attack == Attack::QuicInitials {
                    return initials::flood(&target, &here, pace, most).await;
                }
                if attack == Attack::SynFlood {
                    return syns::flood(&target, &here, pace).await;
                }
                let attacker = Arc::new(Attacker {
                    attack,
                    target,
                    counts: here,
                });
                come(&attacker, &mut attackers, pace, most).await
            };
            let attacked = tokio::select! {
                attacked = attacking => attacked,
                () = stopped => Ok(()),
            };
            attackers.shutdown().await;
            attacked
        });
        Self {
            counts,
            stop,
            coming: AbortOnDropHandle::new(coming),
        }
    }

    /// Ends the attack, and says what has become of them.
    pub(super) async fn end(self) -> io::Result<Counted> {
        self.stop.cancel();
        self.coming.await.map_err(io::Error::other)??;
        let count = |count: &AtomicU64| count.load(Relaxed);
        let counts = &*self.counts;
        Ok(Counted {
            attempted: count(&counts.attempted),
            most_held: count(&counts.most_held),
            turned_away: count(&counts.turned_away),
            longest: counts.longest_ms.each_ref().map(|ms| {
                let longest = Duration::from_millis(count(ms));
                longest.as_secs_f64()
            }),
            stayed: count(&counts.stayed),
            calmed: count(&counts.calmed),
            sent: count(&counts.sent),
            answered: count(&counts.answered),
        })
    }
}

/// When the next of them come.
#[derive(Debug)]
struct Pace {
    ticks: Interval,
    each_tick: f64,
    due: f64,
    /// How many were due so far, and are to be in all.
    numbers: Range<u64>,
}

impl Pace {
    fn of(force: Force) -> Self {
        Self {
            ticks: interval(TICK),
            each_tick: f64::from(force.rate) * TICK.as_secs_f64(),
            due: 0.0,
            numbers: 0..force.attempts,
        }
    }

    /// Waits for the next moment, and gives the numbers of those who are due then.
    async fn due(&mut self) -> Range<u64> {
        self.ticks.tick().await;
        self.due += self.each_tick;
        let some = self.due as u64;
        self.due -= some as f64;
        let begin = self.numbers.start;
        self.numbers.start = begin.saturating_add(some).min(self.numbers.end);
        begin..self.numbers.start
    }
}

/// Lets attackers come at their pace, as long as there are not as many as there may be.
async fn come(
    attacker: &Arc<Attacker>,
    attackers: &mut JoinSet<()>,
    mut pace: Pace,
    most: u64,
) -> io::Result<()> {
    loop {
        let due = pace.due().await;
        while attackers.try_join_next().is_some() {}
        for number in due.clone() {
            if (attackers.len() as u64) >= most {
                pace.numbers.start = number; // they come when others have left
                break;
            }
            let attacker = Arc::clone(attacker);
            attackers.spawn(async move { attacker.attack(number).await });
        }
    }
}

struct Attacker {
    attack: Attack,
    target: Arc<Target>,
    counts: Arc<Counts>,
}

impl Attacker {
    async fn attack(&self, number: u64) {
        self.counts.attempted.fetch_add(1, Relaxed);
        let since = Instant::now();
        let ended = timeout(HOLD, Box::pin(self.until_turned_away(number)));
        match ended.await {
            Ok(_) => self.counts.turned_away_after(since.elapsed(), number),
            Err(_) => drop(self.counts.stayed.fetch_add(1, Relaxed)),
        }
    }

    /// Until the other end has had enough, or there is none.
    async fn until_turned_away(&self, number: u64) -> io::Result<()> {
        let target = &*self.target;
        let counts = &*self.counts;
        if self.attack == Attack::SlowReaders {
            let _held = counts.hold();
            let download = target.download(SLOW);
            return download.once(&AtomicU64::default()).await;
        }
        // What one leaves is an attack, and what a hundred leave may be their paused videos.
        let comes_alone = self.attack == Attack::UnreadAnswers;
        let from = match comes_alone {
            true => 0,
            false => rand::rng().random_range(0..ADDRESSES_HERE),
        };
        let stream = connect(from, target.front).await?;
        let _held = counts.hold();
        match self.attack {
            Attack::Silent | Attack::Descriptors => quiet::rest(stream).await,
            Attack::UnknownName => quiet::ask_for_nobody(stream).await,
            Attack::SlowHello => quiet::say_slowly(stream).await,
            Attack::LongHellos => quiet::claim_much(stream).await,
            Attack::RawHeaders => quiet::show_a_ticket(stream).await,
            Attack::Memory if number.is_multiple_of(2) => quiet::begin_a_long_hello(stream).await,
            Attack::Memory => {
                target
                    .download(SLOW)
                    .once_by(stream, &AtomicU64::default())
                    .await
            }
            Attack::NoisyNeighbour => {
                let download = target.download_of_neighbour(FAST)?;
                download.once_by(stream, &AtomicU64::default()).await
            }
            Attack::HalfHandshakes => handshakes::begin(stream, target, number, 16_384).await,
            Attack::SplitHellos => handshakes::begin(stream, target, number, 1).await,
            Attack::RapidReset => http2::reset(stream, target, number, counts).await,
            Attack::Continuations => http2::go_on(stream, target, number, counts).await,
            Attack::EmptyData => http2::send_nothing(stream, target, number, counts).await,
            Attack::SlowHeads => slow_http::head(stream, target, number).await,
            Attack::SlowBodies => slow_http::body(stream, target, number).await,
            Attack::UnreadAnswers => slow_http::read_nothing(stream, target, number).await,
            Attack::BadFrames => frames::attack(stream, target, number).await,
            Attack::SlowReaders | Attack::QuicInitials | Attack::SynFlood => Ok(()), // not here
        }
    }
}

impl Counts {
    fn hold(&self) -> Held<'_> {
        let held = self.held.fetch_add(1, Relaxed) + 1;
        self.most_held.fetch_max(held, Relaxed);
        Held(self)
    }

    fn turned_away_after(&self, time: Duration, number: u64) {
        self.turned_away.fetch_add(1, Relaxed);
        let longest_ms = match number.is_multiple_of(2) {
            true => &self.longest_ms[0],
            false => &self.longest_ms[1],
        };
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        longest_ms.fetch_max(ms, Relaxed);
    }
}

/// A connection that is there.
struct Held<'a>(&'a Counts);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

/// Connects from that address of loopback.
async fn connect(from: u64, target: SocketAddr) -> io::Result<TcpStream> {
    if !target.is_ipv4() {
        return TcpStream::connect(target).await;
    }
    let socket = TcpSocket::new_v4()?;
    socket.bind((address_here(from), 0).into())?;
    socket.connect(target).await
}

/// How many addresses of loopback attackers use.
const ADDRESSES_HERE: u64 = 0x00fe_0000;

/// One of them; numbers beyond the last begin again.
fn address_here(number: u64) -> Ipv4Addr {
    let within = u32::try_from(number % ADDRESSES_HERE).unwrap_or_default();
    Ipv4Addr::from_bits(0x7f01_0000 + within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn they_come_at_their_rate_until_all_have_come() {
        let mut pace = Pace::of(Force {
            rate: 250,
            attempts: 4,
        });
        let mut come = Vec::new();
        for _ in 0..4 {
            come.push(pace.due().await);
        }
        assert_eq!(come, [0..2, 2..4, 4..4, 4..4]);
    }
}
