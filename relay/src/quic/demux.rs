//! Whose a datagram is that comes to the relay's UDP port: it is decided once. The QUIC endpoint is a customer, and so are those
//! of the processes before this one, and visitors who come over QUIC; parked devices will be others on the same port.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use quinn_udp::RecvMeta;
use wire::connection_id::{ConnectionIdKey, LENGTH, Owner};
use wire::datagram::Datagram;

use super::channel::{Earlier, Sent};
use super::flow::Batch;
use super::hellos::{Hellos, Kept, NoHello, Read};

/// What came on the UDP port and was not for this process.
#[derive(Clone, Debug)]
pub(crate) struct DatagramCounts {
    /// QUIC packets with a connection id that nobody here made.
    pub(crate) stray: IntCounter,
    /// No QUIC at all.
    pub(crate) other: IntCounter,
    /// From port 0, to which nothing can be sent.
    pub(crate) no_port: IntCounter,
    /// For a connection of another worker. The kernel steers them; while the sockets are being bound it does not.
    pub(crate) misdirected: IntCounter,
    /// For a process before this one, on their way to it.
    pub(crate) passed: IntCounter,
    /// The same, but it has as many as it can have.
    pub(crate) full: IntCounter,
    /// Messages from the process after this one that nobody understands.
    pub(crate) malformed: IntCounter,
    /// Of somebody who wants to connect, where too many do.
    pub(crate) too_many: IntCounter,
    /// The same, but it is longer than any such packet.
    pub(crate) oversized: IntCounter,
    /// The same, but it is damaged.
    pub(crate) damaged: IntCounter,
    /// Hellos whose rest did not come in time.
    pub(crate) hello_late: IntCounter,
    /// Hellos that gave way to others before their rest came.
    pub(crate) hello_gave_way: IntCounter,
    /// Hellos that are longer than any.
    pub(crate) hello_too_long: IntCounter,
}

#[cfg(test)]
impl DatagramCounts {
    pub(super) fn unregistered() -> Self {
        let count = || IntCounter::new("datagrams", "datagrams").unwrap();
        Self {
            stray: count(),
            other: count(),
            no_port: count(),
            misdirected: count(),
            passed: count(),
            full: count(),
            malformed: count(),
            too_many: count(),
            oversized: count(),
            damaged: count(),
            hello_late: count(),
            hello_gave_way: count(),
            hello_too_long: count(),
        }
    }
}

/// Where a datagram has come from, and to which address of this host, if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) address: SocketAddr,
    pub(crate) here: Option<IpAddr>,
}

impl Sender {
    pub(super) fn of(meta: &RecvMeta) -> Self {
        Self {
            address: meta.addr,
            here: meta.dst_ip,
        }
    }
}

/// A visitor who comes over QUIC, and whom it asks for.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) from: Sender,
    pub(crate) name: String,
    /// What it has made up for the other end's id.
    pub(crate) id: Vec<u8>,
    /// All that has come.
    pub(crate) datagrams: Vec<Vec<u8>>,
}

/// Those who take visitors over QUIC. They are asked on the worker that reads the port: they must be quick.
pub(crate) trait Visitors: Send + Sync {
    /// Takes datagrams of visitors who are known from the front of a batch, and says how many that were.
    fn take(&self, from: Sender, batch: Batch<'_>, now: Instant) -> usize;

    /// Whether a datagram that is of nobody known comes back from elsewhere to a connection that it belongs to.
    fn comes_back(&self, datagram: &[u8]) -> bool;

    /// Takes somebody who has come back with one, or not.
    fn come_back(&self, from: Sender, datagram: &[u8], now: Instant);

    /// Whether a name is the relay's own.
    fn is_own(&self, name: &str) -> bool;

    /// Takes somebody who asks for another name, or not.
    fn arrive(&self, arrival: Arrival, now: Instant);
}

/// First packets are looked at so often: each costs some 15 µs, even if all that comes of it is a Retry. More are a flood, and who is
/// here already must not wait for it. An agent whose packet is among those that are dropped sends another, and comes over TCP if that
/// is dropped too.
const NEWCOMER_EVERY: Duration = Duration::from_micros(100);

/// So many at once, after a while with fewer.
const NEWCOMERS_AT_ONCE: u32 = 1_000;

/// A longer first packet is nobody's: clients know nothing yet of what the path takes. It could be thousands of Initials, and is
/// fragments on its way.
const LONGEST_NEWCOMER: usize = 2048;

/// How many may be looked at.
#[derive(Debug)]
pub(crate) struct Newcomers {
    every: Duration,
    at_once: u32,
    left: u32,
    since: Instant,
}

impl Newcomers {
    /// One more `every` so long, and so many at once after a while with fewer.
    pub(crate) fn new(every: Duration, at_once: u32, now: Instant) -> Self {
        Self {
            every,
            at_once,
            left: at_once,
            since: now,
        }
    }

    /// Whether `count` more may.
    pub(crate) fn may_come(&mut self, count: u32, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.since).as_micros();
        let more = u32::try_from(waited / self.every.as_micros().max(1)).unwrap_or(u32::MAX);
        match self.left.checked_add(more) {
            Some(left) if left < self.at_once => {
                self.left = left;
                self.since += self.every * more;
            }
            Some(_) | None => (self.left, self.since) = (self.at_once, now),
        }
        let rest = self.left.checked_sub(count);
        self.left = rest.unwrap_or(self.left);
        rest.is_some()
    }
}

pub(super) struct Demultiplexer {
    key: ConnectionIdKey,
    owner: Owner,
    /// The processes before this one, as far as they are known to live.
    earlier: Vec<Earlier>,
    newcomers: Newcomers,
    hellos: Hellos,
    /// What was kept of hellos that turned out to be for the endpoint; it is to have it before anything else.
    released: Vec<Kept>,
    visitors: Option<Arc<dyn Visitors>>,
    counts: DatagramCounts,
}

/// Whose a datagram is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Endpoint,
    /// The endpoint's, if not too many of them come.
    Newcomer,
    /// The earlier process with this place among them.
    Earlier(usize),
    Misdirected,
    Stray,
    Other,
}

impl Whose {
    /// Whether it is nobody's by what stands in it.
    fn may_be_a_visitors(self) -> bool {
        matches!(self, Self::Newcomer | Self::Stray | Self::Other)
    }
}

impl Demultiplexer {
    pub(super) fn new(
        key: ConnectionIdKey,
        owner: Owner,
        earlier: Vec<Earlier>,
        visitors: Option<Arc<dyn Visitors>>,
        counts: DatagramCounts,
    ) -> Self {
        Self {
            key,
            owner,
            earlier,
            newcomers: Newcomers::new(NEWCOMER_EVERY, NEWCOMERS_AT_ONCE, Instant::now()),
            hellos: Hellos::new(),
            released: Vec::new(),
            visitors,
            counts,
        }
    }

    /// The earlier processes that live, with other descriptors of their channels. For one that has ended mostly nothing comes by
    /// which that would be noticed.
    pub(super) fn earlier(&mut self) -> io::Result<Vec<Earlier>> {
        self.earlier.retain(|earlier| !earlier.has_ended());
        self.earlier.iter().map(Earlier::duplicate).collect()
    }

    /// Takes datagrams that go the same way from the front of a message that has come `now`, and gives them if they are for the QUIC
    /// endpoint. Others are handed on, or dropped, and counted.
    pub(super) fn take<'a>(
        &mut self,
        message: &mut &'a [u8],
        meta: &RecvMeta,
        now: Instant,
    ) -> &'a [u8] {
        // Whatever comes, so that a flood that is over is soon forgotten.
        let late = self.hellos.forget_late(now);
        self.counts.hello_late.inc_by(late as u64);
        let length = meta.stride.max(1);
        // The kernel refuses an answer as it does one with a wrong option, and then the socket goes without its options.
        if meta.addr.port() == 0 {
            let nobodys = mem::take(message).chunks(length);
            self.counts.no_port.inc_by(nobodys.count() as u64);
            return &[];
        }
        let mut datagrams = message.chunks(length);
        let Some(first) = datagrams.next() else {
            return &[];
        };
        let whose = self.whose(first);
        if whose.may_be_a_visitors()
            && let Some(visitors) = &self.visitors
        {
            let others = datagrams.clone();
            let others = others.take_while(|datagram| self.whose(datagram).may_be_a_visitors());
            let batch = Batch {
                octets: message,
                size: length,
            };
            let (batch, _) = batch.split(1 + others.count());
            let (visitors_own, _) = batch.split(visitors.take(Sender::of(meta), batch, now));
            if !visitors_own.octets.is_empty() {
                *message = &message[visitors_own.octets.len()..];
                return &[];
            }
            if whose == Whose::Stray && visitors.comes_back(first) {
                *message = &message[first.len()..];
                match self.newcomers.may_come(1, now) {
                    true => visitors.come_back(Sender::of(meta), first, now),
                    false => self.counts.too_many.inc(),
                }
                return &[];
            }
        }
        let others = datagrams.take_while(|datagram| self.whose(datagram) == whose);
        let count = match whose == Whose::Newcomer {
            true => 1, // each may be another's
            false => 1 + others.count(),
        };
        let end = message.len().min(count * length);
        let (taken, rest) = message.split_at(end);
        *message = rest;
        let count = count as u64;
        match whose {
            Whose::Endpoint => return taken,
            Whose::Newcomer if taken.len() > LONGEST_NEWCOMER => self.counts.oversized.inc(),
            Whose::Newcomer if self.newcomers.may_come(1, now) => {
                if self.is_for_the_endpoint(taken, meta, now) {
                    return taken;
                }
            }
            Whose::Newcomer => self.counts.too_many.inc(),
            Whose::Earlier(which) => match self.hand_on(which, meta, taken) {
                Sent::Passed => self.counts.passed.inc_by(count),
                Sent::Dropped => self.counts.full.inc_by(count),
                // Then they are nobody's but ours: who sent them hears that his connection is no more.
                Sent::Gone => return taken,
            },
            // The endpoint would take them for those of a connection that is no more, and end that.
            Whose::Misdirected => self.counts.misdirected.inc_by(count),
            Whose::Stray | Whose::Other => {
                let nobodys = match whose == Whose::Stray {
                    true => self.counts.stray.clone(),
                    false => self.counts.other.clone(),
                };
                // Perhaps of a visitor who came to the process before this one: that one knows, or asks the one before it. Of a
                // visitor who has been told that it may, no bit is fixed (RFC 9287).
                match self
                    .before()
                    .map(|before| self.hand_on(before, meta, taken))
                {
                    Some(Sent::Passed) => self.counts.passed.inc_by(count),
                    Some(Sent::Dropped) => self.counts.full.inc_by(count),
                    Some(Sent::Gone) | None => nobodys.inc_by(count),
                }
            }
        }
        &[]
    }

    /// Looks whom a newcomer asks for, and takes the visitors' own to them.
    fn is_for_the_endpoint(&mut self, datagram: &[u8], meta: &RecvMeta, now: Instant) -> bool {
        let Some(visitors) = &self.visitors else {
            return true;
        };
        match self.hellos.read(datagram, meta, now) {
            Read::Name(name, kept) if !visitors.is_own(&name) => {
                let kept = kept.into_iter().map(|kept| kept.octets);
                let id = wire::datagram::ids(datagram).map(|(id, _)| id.to_vec());
                let arrival = Arrival {
                    from: Sender::of(meta),
                    name,
                    id: id.unwrap_or_default(),
                    datagrams: kept.chain([datagram.to_vec()]).collect(),
                };
                visitors.arrive(arrival, now);
            }
            Read::Name(_, kept) | Read::NoName(kept) => {
                self.released = kept;
                return true;
            }
            Read::More => {
                let gave_way = self.hellos.give_way();
                self.counts.hello_gave_way.inc_by(gave_way as u64);
            }
            Read::Nothing(NoHello::Damaged) => self.counts.damaged.inc(),
            Read::Nothing(NoHello::TooLong) => self.counts.hello_too_long.inc(),
        }
        false
    }

    /// What the endpoint is to have before what was [taken](Self::take) last.
    pub(super) fn released(&mut self) -> Vec<Kept> {
        mem::take(&mut self.released)
    }

    /// The place of the process just before this one, if it may have visitors over QUIC.
    fn before(&self) -> Option<usize> {
        self.visitors.as_ref()?;
        let is_before = |earlier: &Earlier| earlier.generation.next() == self.owner.generation;
        self.earlier.iter().position(is_before)
    }

    fn whose(&self, datagram: &[u8]) -> Whose {
        match Datagram::classify(datagram, &self.key) {
            Datagram::Ours(owner) if owner == self.owner => Whose::Endpoint,
            Datagram::Ours(owner) if owner.worker != self.owner.worker => Whose::Misdirected,
            Datagram::Ours(Owner { generation, .. }) => {
                let mut earlier = self.earlier.iter();
                let holds = earlier.position(|earlier| earlier.generation == generation);
                holds.map_or(Whose::Endpoint, Whose::Earlier)
            }
            Datagram::Initial => Whose::Newcomer,
            Datagram::Stray => Whose::Stray,
            Datagram::Other => Whose::Other,
        }
    }

    fn hand_on(&mut self, which: usize, meta: &RecvMeta, datagrams: &[u8]) -> Sent {
        let Some(earlier) = self.earlier.get(which) else {
            return Sent::Gone;
        };
        let sent = earlier.send(meta, datagrams);
        if sent == Sent::Gone {
            let Earlier { generation, .. } = self.earlier.swap_remove(which);
            tracing::info!(?generation, "a process before this one has ended");
        }
        sent
    }

    /// What counts messages that nobody understands.
    pub(super) fn malformed(&self) -> IntCounter {
        self.counts.malformed.clone()
    }
}

/// Gives the QUIC endpoint connection ids that the demultiplexer recognises.
pub(super) struct ConnectionIds {
    key: ConnectionIdKey,
    owner: Owner,
}

impl ConnectionIds {
    pub(super) fn new(key: ConnectionIdKey, owner: Owner) -> Self {
        Self { key, owner }
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.key.make(self.owner, rand::random()))
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        // Of whatever generation: the endpoint gets packets of others only when nobody holds their connections any more, and
        // says so to who sends them.
        match self.key.owner(id) {
            Some(owner) if owner.worker == self.owner.worker => Ok(()),
            Some(_) | None => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use wire::connection_id::Generation;

    use super::super::channel::{Receiver, channel};
    use super::super::socket::Landing;
    use super::*;

    const LENGTH: usize = 1200;

    fn packet(key: &ConnectionIdKey, worker: u8, generation: Generation) -> [u8; LENGTH] {
        let mut packet = [0x45; LENGTH];
        let id = key.make(Owner { worker, generation }, rand::random());
        packet[1..][..id.len()].copy_from_slice(&id);
        packet
    }

    #[test]
    fn no_id_is_made_twice() {
        // Nobody compares the id in a Retry with those of connections.
        let owner = Owner {
            worker: 0,
            generation: Generation::default(),
        };
        let mut ids = ConnectionIds::new(ConnectionIdKey::new([1; 16]), owner);
        let made: HashSet<_> = (0..20_000).map(|_| ids.generate_cid()).collect();
        assert_eq!(made.len(), 20_000);
    }

    #[test]
    fn newcomers_are_looked_at_so_often_and_no_more() {
        let begun = Instant::now();
        let mut newcomers = Newcomers {
            left: 3,
            ..Newcomers::new(NEWCOMER_EVERY, NEWCOMERS_AT_ONCE, begun)
        };
        let at = |seconds| begun + Duration::from_secs_f64(seconds);
        assert!(newcomers.may_come(3, begun));
        assert!(!newcomers.may_come(1, begun));
        let mut came = 0;
        // A flood of them, a millisecond apart and then much closer.
        for step in 0..1_000 {
            came += u32::from(newcomers.may_come(1, at(f64::from(step) / 1e3)));
        }
        assert_eq!(came, 999, "none of these was too many");
        for step in 0..1_000_000 {
            came += u32::from(newcomers.may_come(1, at(1.0 + f64::from(step) / 1e6)));
        }
        let most = 999 + 10_000 + NEWCOMERS_AT_ONCE;
        assert!((most - 20..=most).contains(&came), "{came}");
        // After a pause there is room for as many as at once, and not for more than that together.
        assert!(newcomers.may_come(NEWCOMERS_AT_ONCE, at(60.0)));
        assert!(!newcomers.may_come(NEWCOMERS_AT_ONCE + 1, at(120.0)));
    }

    #[test]
    fn a_newcomer_that_is_longer_than_any_is_not_read() {
        let counts = DatagramCounts::unregistered();
        let owner = Owner {
            worker: 1,
            generation: Generation(5),
        };
        let key = ConnectionIdKey::new([1; 16]);
        let mut demultiplexer = Demultiplexer::new(key, owner, Vec::new(), None, counts.clone());
        let mut datagram = [0; LONGEST_NEWCOMER + 1];
        datagram[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        for (length, oversized) in [(LONGEST_NEWCOMER, 0), (LONGEST_NEWCOMER + 1, 1)] {
            let meta = RecvMeta {
                addr: (Ipv4Addr::LOCALHOST, 7).into(),
                stride: length,
                len: length,
                ..RecvMeta::default()
            };
            let mut rest = &datagram[..length];
            let taken = demultiplexer.take(&mut rest, &meta, Instant::now());
            assert_eq!(taken.is_empty(), oversized == 1);
            assert!(rest.is_empty());
            assert_eq!(counts.oversized.get(), oversized);
        }
    }

    #[tokio::test]
    async fn of_one_message_everybody_gets_what_is_theirs_in_as_few_as_can_be() {
        let [dead, before, own] = [3, 4, 5].map(Generation);
        let key = ConnectionIdKey::new([1; 16]);
        let counts = DatagramCounts::unregistered();
        let (sending, receiving) = channel().unwrap();
        let owner = Owner {
            worker: 1,
            generation: own,
        };
        let earlier = vec![Earlier {
            generation: before,
            channel: sending,
        }];
        let mut demultiplexer =
            Demultiplexer::new(key.clone(), owner, earlier, None, counts.clone());

        let packets = [
            packet(&key, 1, before),
            packet(&key, 1, before),
            packet(&key, 1, own),
            packet(&key, 1, dead),
            packet(&key, 2, before),
            [0x45; LENGTH],
            [0; LENGTH],
            packet(&key, 1, before),
        ];
        let mut message = packets.concat();
        message.truncate(message.len() - 100);
        let meta = RecvMeta {
            addr: (Ipv4Addr::LOCALHOST, 7).into(),
            stride: LENGTH,
            len: message.len(),
            ..RecvMeta::default()
        };
        let nowhere = RecvMeta {
            addr: (Ipv4Addr::LOCALHOST, 0).into(),
            ..meta
        };
        let mut none = &message[..];
        let taken = demultiplexer.take(&mut none, &nowhere, Instant::now());
        assert!(taken.is_empty() && none.is_empty());
        assert_eq!(counts.no_port.get(), packets.len() as u64);

        let (mut rest, mut ours, mut turns) = (&message[..], Vec::new(), 0);
        while !rest.is_empty() {
            ours.extend_from_slice(demultiplexer.take(&mut rest, &meta, Instant::now()));
            turns += 1;
        }
        assert_eq!(turns, 6);
        assert!(ours == packets[2..4].concat(), "what nobody holds is ours");
        let all = [
            &counts.passed,
            &counts.misdirected,
            &counts.stray,
            &counts.other,
        ];
        assert_eq!(all.map(IntCounter::get), [3, 1, 1, 1]);

        let receiver = Receiver::new(receiving, counts.malformed.clone()).unwrap();
        let mut landing = Landing::new();
        let received = std::future::poll_fn(|cx| receiver.poll_recv(cx, &mut landing)).await;
        received.unwrap();
        let handed_on: Vec<_> = landing.messages().collect();
        assert_eq!(handed_on.len(), 2);
        assert!(handed_on[0].0 == packets[..2].concat());
        assert!(handed_on[1].0 == &packets[7][..LENGTH - 100]);
        assert!(handed_on.iter().all(|(_, meta)| meta.stride == LENGTH));
    }
}
