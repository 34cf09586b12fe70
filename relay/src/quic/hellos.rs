//! Whom those ask for who want to connect: their hellos, of which a post-quantum one needs two datagrams, are read as they come,
//! and what has come is kept until the name in it is known. Nothing is said to anybody meanwhile.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn_udp::RecvMeta;
use wire::client_hello::Progress;
use wire::datagram;
use wire::initial::{NotAnInitial, Reader};

/// How long the rest of a hello is waited for: a client that hears nothing sends all of it again after a second or less.
const TIME: Duration = Duration::from_secs(3);

/// Of one hello so much is kept: twice what is sent at once, as it may be sent again.
const DATAGRAMS: usize = 8;
const OCTETS: usize = 16 * 1024;

/// So many are incomplete at a time, of one worker. With one more, the oldest gives way: whoever is no flood has mostly sent all of
/// its own by then.
const MOST: usize = 1024;

/// A datagram that has been kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) octets: Vec<u8>,
    pub(super) meta: RecvMeta,
}

/// What a datagram has brought. Those of the same hello that were kept before it come with it.
#[derive(Debug)]
pub(super) enum Read {
    /// All up to the name.
    Name(String, Vec<Kept>),
    /// No hello that is understood here, or one without a name.
    NoName(Vec<Kept>),
    /// A part, which is kept.
    More,
    /// Nothing, and it is forgotten, with all that was kept.
    Nothing(NoHello),
}

/// Why hellos were forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHello {
    /// It cannot be decrypted: what is kept of others is not.
    Damaged,
    /// More of it came than of any.
    TooLong,
}

/// The hellos that are not complete.
pub(super) struct Hellos {
    /// The oldest first.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    from: SocketAddr,
    /// What the client has made up for the other end's id.
    id: Vec<u8>,
    since: Instant,
    reader: Reader,
    kept: Vec<Kept>,
}

impl Hellos {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
        }
    }

    /// Forgets those that have waited too long, and says how many.
    pub(super) fn forget_late(&mut self, now: Instant) -> usize {
        let is_late = |waiting: &mut Waiting| now.saturating_duration_since(waiting.since) >= TIME;
        let before = self.waiting.len();
        while self.waiting.pop_front_if(is_late).is_some() {}
        before - self.waiting.len()
    }

    /// Forgets the oldest if there are too many. Says how many that were.
    pub(super) fn give_way(&mut self) -> usize {
        let too_many = self.waiting.len().saturating_sub(MOST);
        self.waiting.drain(..too_many);
        too_many
    }

    /// Reads one datagram of somebody who wants to connect.
    pub(super) fn read(&mut self, octets: &[u8], meta: &RecvMeta, now: Instant) -> Read {
        let Some((id, _)) = datagram::ids(octets) else {
            return Read::NoName(Vec::new());
        };
        let known = |waiting: &Waiting| waiting.from == meta.addr && waiting.id == id;
        let place = self.waiting.iter().position(known);
        let mut waiting = match place.and_then(|place| self.waiting.remove(place)) {
            Some(waiting) => waiting,
            None => match Reader::new(octets) {
                Ok(reader) => Waiting {
                    from: meta.addr,
                    id: id.to_vec(),
                    since: now,
                    reader,
                    kept: Vec::new(),
                },
                Err(_) => return Read::NoName(Vec::new()),
            },
        };
        let read = waiting.reader.push(octets);
        match read {
            Ok(Progress::Name(name)) => return Read::Name(name, waiting.kept),
            Ok(Progress::NoName) => return Read::NoName(waiting.kept),
            // Behind the first part come packets of other kinds, if the client has been here before.
            Ok(Progress::NeedMore) | Err(NotAnInitial::OtherPacket) => {
                waiting.kept.push(Kept {
                    octets: octets.to_vec(),
                    meta: RecvMeta {
                        len: octets.len(),
                        stride: octets.len(),
                        ..*meta
                    },
                });
                let kept = waiting.kept.iter().map(|kept| kept.octets.len());
                if waiting.kept.len() > DATAGRAMS || kept.sum::<usize>() > OCTETS {
                    return Read::Nothing(NoHello::TooLong);
                }
            }
            Err(NotAnInitial::Undecryptable) if waiting.kept.is_empty() => {
                return Read::Nothing(NoHello::Damaged);
            }
            Err(NotAnInitial::Undecryptable) => {}
            // The endpoint has words for what is wrong with it.
            Err(
                NotAnInitial::Malformed
                | NotAnInitial::TooLong
                | NotAnInitial::Closed
                | NotAnInitial::Hello(_),
            ) => return Read::NoName(waiting.kept),
        }
        // Back to its place by age.
        let place = self
            .waiting
            .iter()
            .rposition(|other| other.since <= waiting.since);
        self.waiting
            .insert(place.map_or(0, |place| place + 1), waiting);
        match read {
            Err(NotAnInitial::Undecryptable) => Read::Nothing(NoHello::Damaged),
            Ok(_) | Err(_) => Read::More,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytes::BytesMut;
    use quinn_proto::crypto::rustls::QuicClientConfig;
    use quinn_proto::{ClientConfig, Endpoint, EndpointConfig};
    use std::sync::Arc;

    use super::*;

    const NAME: &str = "mynas.nas.localhost";

    /// The datagrams with which a post-quantum client begins.
    fn begins() -> Vec<Vec<u8>> {
        let crypto =
            rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let crypto = QuicClientConfig::try_from(crypto).unwrap();
        let config = ClientConfig::new(Arc::new(crypto));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let now = Instant::now();
        let to = (Ipv4Addr::LOCALHOST, 443).into();
        let (_, mut connection) = endpoint.connect(now, config, to, NAME).unwrap();
        let mut datagrams = Vec::new();
        let mut octets = Vec::new();
        while connection.poll_transmit(now, 1, &mut octets).is_some() {
            datagrams.push(std::mem::take(&mut octets));
        }
        datagrams
    }

    fn meta(port: u16) -> RecvMeta {
        RecvMeta {
            addr: (Ipv4Addr::LOCALHOST, port).into(),
            ..RecvMeta::default()
        }
    }

    #[test]
    fn a_hello_of_two_datagrams_is_read_in_either_order_and_given_back_whole() {
        let datagrams = begins();
        assert_eq!(datagrams.len(), 2, "a post-quantum hello");
        for order in [[0, 1], [1, 0]] {
            let mut hellos = Hellos::new();
            let now = Instant::now();
            let [first, second] = order.map(|at| &datagrams[at]);
            assert!(matches!(hellos.read(first, &meta(1), now), Read::More));
            // The same of another address is another's.
            assert!(matches!(hellos.read(first, &meta(2), now), Read::More));
            let Read::Name(name, kept) = hellos.read(second, &meta(1), now) else {
                panic!("no name")
            };
            assert_eq!(name, NAME);
            assert_eq!(kept.len(), 1);
            assert_eq!((&kept[0].octets, kept[0].meta.stride), (first, first.len()));
            assert_eq!(hellos.waiting.len(), 1);
        }
    }

    #[test]
    fn what_is_no_hello_goes_on_and_what_is_damaged_ends_nothing() {
        let datagrams = begins();
        let mut hellos = Hellos::new();
        let now = Instant::now();
        let mut other_version = BytesMut::from(&datagrams[0][..]);
        other_version[4] ^= 0x55;
        let read = hellos.read(&other_version, &meta(1), now);
        assert!(matches!(read, Read::NoName(kept) if kept.is_empty()));
        assert!(matches!(
            hellos.read(&datagrams[0], &meta(1), now),
            Read::More
        ));
        let mut damaged = datagrams[1].clone();
        damaged[600] ^= 1;
        let read = hellos.read(&damaged, &meta(1), now);
        assert!(matches!(read, Read::Nothing(NoHello::Damaged)));
        let read = hellos.read(&datagrams[1], &meta(1), now);
        assert!(matches!(read, Read::Name(..)), "{read:?}");
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let first = &begins()[0];
        let mut hellos = Hellos::new();
        let begun = Instant::now();
        for _ in 0..DATAGRAMS {
            assert!(matches!(hellos.read(first, &meta(1), begun), Read::More));
        }
        let read = hellos.read(first, &meta(1), begun);
        assert!(matches!(read, Read::Nothing(NoHello::TooLong)));
        assert!(hellos.waiting.is_empty());
        for port in 0..=MOST {
            let now = begun + Duration::from_micros(port as u64);
            let read = hellos.read(first, &meta(port as u16), now);
            assert!(matches!(read, Read::More));
        }
        assert_eq!(hellos.give_way(), 1);
        assert_eq!(hellos.waiting[0].from.port(), 1, "the oldest");
        // One that has had more of its own since is no younger for it.
        assert!(matches!(
            hellos.read(first, &meta(7), begun + TIME / 2),
            Read::More
        ));
        assert_eq!(hellos.waiting[6].from.port(), 7);
        assert_eq!(hellos.forget_late(begun + TIME), 0);
        assert_eq!(
            hellos.forget_late(begun + TIME + Duration::from_micros(9)),
            9
        );
        assert_eq!(hellos.forget_late(begun + TIME * 2), MOST - 9);
    }
}
