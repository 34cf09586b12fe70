//! What a relay's process is told by its successor, who accepts for both while it still has tunnels: one message for each
//! connection that has come to the successor and is the other's, and one for each device that has moved or whose keys have changed.
//!
//! ```text
//!   kind 1 │ …
//!   1 visitor    device 16 │ octets so far …    and its connection
//!   2 raw        header 50                      and its connection
//!   3 carrier    ticket 16                      and a local stream, on which is what the carrier's TLS has inside
//!   4 attached   device 16 │ instance 16
//!   5 keys       device 16 │ key 32 …
//!   6 proxied    visitor 18 │ where it came to 18 │ as 1, for one who has come by way of a proxy
//! ```
//!
//! An address has 16 octets of IPv6, or of IPv4 as that writes it, and 2 of its port.
//!
//! The channel is a pair of local sockets that keep messages apart (unix(7), `SOCK_SEQPACKET`); connections go along as descriptors
//! (`SCM_RIGHTS`). The successor may be of another version, so what comes is read as a stranger's octets are.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use directory::DeviceId;
use wire::InstanceId;
use wire::client_hello::MAX_READ;
use wire::frame::Ticket;
use wire::proxy_v2::Ends;
use wire::raw::{HEADER, Header};

use super::front::HELLO_PORTION;
use crate::local;

const VISITOR: u8 = 1;
const RAW: u8 = 2;
const CARRIER: u8 = 3;
const ATTACHED: u8 = 4;
const KEYS: u8 = 5;
const PROXIED: u8 = 6;

/// Octets of a key.
const KEY: usize = 32;

/// Octets of an address with its port.
const ADDRESS: usize = 18;

/// The longest message: a hello, as far as one is read, and what came with its last octet.
const LONGEST: usize = 1 + 2 * ADDRESS + 16 + MAX_READ + HELLO_PORTION;

/// A name that no device has is led to this one.
pub(super) const NOBODY: DeviceId = DeviceId::from_bytes([0; 16]);

/// What the successor says.
#[derive(Debug)]
pub(super) enum Message {
    /// This visitor asks for a device that has no tunnel at the successor.
    Visitor {
        /// Whose name it is, as the successor knows it; [`NOBODY`] if it is no device's.
        device: DeviceId,
        /// Both ends of its connection, if the one here is a proxy's.
        proxied: Option<Ends>,
        /// What it has sent so far: its hello, and perhaps more.
        octets: Bytes,
        /// Its connection.
        stream: TcpStream,
    },
    /// This raw connection has a ticket that the successor has not made.
    Raw {
        /// The ticket, under its seal.
        header: Header,
        /// The connection.
        stream: TcpStream,
    },
    /// The same of a tls carrier. Its TLS has ended at the successor, which passes on what is inside.
    Carrier {
        /// The ticket.
        ticket: Ticket,
        /// Where that is passed on.
        stream: UnixStream,
    },
    /// This device has a tunnel at the successor now.
    Attached {
        /// Which.
        device: DeviceId,
        /// Of its agent.
        instance: InstanceId,
    },
    /// The keys of this device have changed.
    Keys {
        /// Which.
        device: DeviceId,
        /// Those that it has now; none if it was removed.
        keys: Vec<[u8; KEY]>,
    },
}

/// Why octets are no message. The successor's fault; what came with them is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoMessage {
    /// Longer than any.
    TooLong,
    /// Of a kind that this version does not know, or of none.
    UnknownKind,
    /// Of a length, or with a value, that its kind does not have.
    Malformed,
    /// Without the connection that it is about, or with more than that; or there was no room for one more descriptor here.
    Descriptors,
}

impl NoMessage {
    pub(super) const ALL: [Self; 4] = [
        Self::TooLong,
        Self::UnknownKind,
        Self::Malformed,
        Self::Descriptors,
    ];

    /// The metric label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::UnknownKind => "unknown_kind",
            Self::Malformed => "malformed",
            Self::Descriptors => "descriptors",
        }
    }
}

impl Message {
    /// Sends it all, or nothing.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if the channel is full; others as the system says.
    pub(super) fn send(&self, channel: impl AsFd) -> io::Result<()> {
        let descriptor = self.descriptor();
        let ends = self.ends();
        let (kind, parts) = self.parts();
        let [first, second] = parts;
        let octets = [
            IoSlice::new(&kind),
            IoSlice::new(&ends),
            IoSlice::new(first),
            IoSlice::new(second),
        ];
        local::send(channel, &octets, descriptor.as_slice())
    }

    /// What stands before the parts: addresses, if there are any.
    fn ends(&self) -> Vec<u8> {
        match self {
            Self::Visitor {
                proxied: Some(ends),
                ..
            } => [write_address(ends.source), write_address(ends.destination)].concat(),
            Self::Visitor { proxied: None, .. }
            | Self::Raw { .. }
            | Self::Carrier { .. }
            | Self::Attached { .. }
            | Self::Keys { .. } => Vec::new(),
        }
    }

    fn parts(&self) -> ([u8; 1], [&[u8]; 2]) {
        match self {
            Self::Visitor {
                device,
                proxied,
                octets,
                ..
            } => {
                let kind = if proxied.is_some() { PROXIED } else { VISITOR };
                ([kind], [device.as_bytes(), octets])
            }
            Self::Raw { header, .. } => ([RAW], [&header.sealed, &header.seal]),
            Self::Carrier { ticket, .. } => ([CARRIER], [&ticket.0, &[]]),
            Self::Attached { device, instance } => ([ATTACHED], [device.as_bytes(), &instance.0]),
            Self::Keys { device, keys } => ([KEYS], [device.as_bytes(), keys.as_flattened()]),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Visitor { stream, .. } | Self::Raw { stream, .. } => Some(stream.as_fd()),
            Self::Carrier { stream, .. } => Some(stream.as_fd()),
            Self::Attached { .. } | Self::Keys { .. } => None,
        }
    }

    /// Reads one message with what came beside it.
    fn read(octets: &[u8], mut beside: Vec<OwnedFd>) -> Result<Self, NoMessage> {
        let (kind, rest) = octets.split_first().ok_or(NoMessage::UnknownKind)?;
        let expected = match *kind {
            VISITOR | RAW | CARRIER | PROXIED => 1,
            ATTACHED | KEYS => 0,
            _ => return Err(NoMessage::UnknownKind),
        };
        if beside.len() != expected {
            return Err(NoMessage::Descriptors);
        }
        let message = match (*kind, beside.pop()) {
            (VISITOR, Some(stream)) => visitor(rest, None, stream),
            (PROXIED, Some(stream)) => proxied(rest, stream),
            (RAW, Some(stream)) => raw(rest, stream),
            (CARRIER, Some(stream)) => carrier(rest, stream),
            (KEYS, _) => keys(rest),
            (_, _) => attached(rest),
        };
        message.ok_or(NoMessage::Malformed)
    }
}

fn proxied(octets: &[u8], stream: OwnedFd) -> Option<Message> {
    let (source, octets) = octets.split_first_chunk()?;
    let (destination, octets) = octets.split_first_chunk()?;
    let ends = Ends {
        source: read_address(*source),
        destination: read_address(*destination),
    };
    visitor(octets, Some(ends), stream)
}

fn write_address(address: SocketAddr) -> [u8; ADDRESS] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut octets = [0; ADDRESS];
    octets[..16].copy_from_slice(&ip.octets());
    octets[16..].copy_from_slice(&address.port().to_be_bytes());
    octets
}

fn read_address(octets: [u8; ADDRESS]) -> SocketAddr {
    let [ip @ .., high, low] = octets;
    let ip = IpAddr::from(Ipv6Addr::from(ip)).to_canonical();
    SocketAddr::new(ip, u16::from_be_bytes([high, low]))
}

fn visitor(octets: &[u8], proxied: Option<Ends>, stream: OwnedFd) -> Option<Message> {
    let (device, octets) = octets.split_first_chunk()?;
    Some(Message::Visitor {
        device: DeviceId::from_bytes(*device),
        proxied,
        octets: Bytes::copy_from_slice(octets),
        stream: stream.into(),
    })
}

fn raw(octets: &[u8], stream: OwnedFd) -> Option<Message> {
    let octets: &[u8; HEADER] = octets.try_into().ok()?;
    Some(Message::Raw {
        header: Header::read(octets)?,
        stream: stream.into(),
    })
}

fn carrier(octets: &[u8], stream: OwnedFd) -> Option<Message> {
    Some(Message::Carrier {
        ticket: Ticket(octets.try_into().ok()?),
        stream: stream.into(),
    })
}

fn attached(octets: &[u8]) -> Option<Message> {
    let (device, instance) = octets.split_first_chunk()?;
    Some(Message::Attached {
        device: DeviceId::from_bytes(*device),
        instance: InstanceId(instance.try_into().ok()?),
    })
}

fn keys(octets: &[u8]) -> Option<Message> {
    let (device, octets) = octets.split_first_chunk()?;
    let (keys, rest) = octets.as_chunks();
    rest.is_empty().then(|| Message::Keys {
        device: DeviceId::from_bytes(*device),
        keys: keys.to_vec(),
    })
}

/// What was in the channel.
#[derive(Debug)]
pub(super) enum Heard {
    Message(Message),
    /// Something else.
    Nonsense(NoMessage),
    /// That there is nothing more.
    End,
}

/// Reads messages from a channel.
pub(super) struct Reader(Box<[u8]>);

impl Reader {
    pub(super) fn new() -> Self {
        Self(vec![0; LONGEST].into_boxed_slice())
    }

    /// Takes the next thing from `channel`.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is none now; others as the system says.
    pub(super) fn read(&mut self, channel: impl AsFd) -> io::Result<Heard> {
        let received = local::receive(&channel, &mut self.0)?;
        if received.length == 0 && local::has_ended(&channel)? {
            return Ok(Heard::End);
        }
        if received.lacks_descriptors {
            return Ok(Heard::Nonsense(NoMessage::Descriptors));
        }
        if received.is_cut {
            return Ok(Heard::Nonsense(NoMessage::TooLong));
        }
        let octets = self.0.get(..received.length).unwrap_or_default();
        Ok(match Message::read(octets, received.descriptors) {
            Ok(message) => Heard::Message(message),
            Err(fault) => Heard::Nonsense(fault),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _};
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    const DEVICE: DeviceId = DeviceId::from_bytes([7; 16]);

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn sealed() -> Header {
        let mut octets = [9; HEADER];
        let to_seal = wire::raw::to_seal(&Ticket([3; 16]));
        octets[..to_seal.len()].copy_from_slice(&to_seal);
        Header::read(&octets).unwrap()
    }

    /// Sends octets that need not be a message.
    fn send(channel: &OwnedFd, octets: &[u8], beside: &[BorrowedFd<'_>]) {
        local::send(channel, &[IoSlice::new(octets)], beside).unwrap();
    }

    fn nonsense(channel: &OwnedFd) -> NoMessage {
        match Reader::new().read(channel).unwrap() {
            Heard::Nonsense(fault) => fault,
            heard @ (Heard::Message(_) | Heard::End) => panic!("{heard:?}"),
        }
    }

    #[test]
    fn what_was_sent_is_heard_in_order_and_connections_with_it() {
        let (there, here) = local::pair().unwrap();
        let (visitor, mut its) = connection();
        let (raw, mut agents) = connection();
        let (carrier, mut passed_on) = UnixStream::pair().unwrap();
        let hello = Bytes::from(vec![5; MAX_READ + HELLO_PORTION]);
        let (by_proxy, _far) = connection();
        let ends = Ends {
            source: "[2001:db8::7]:50000".parse().unwrap(),
            destination: "198.51.100.1:443".parse().unwrap(),
        };
        for message in [
            Message::Visitor {
                device: DEVICE,
                proxied: Some(ends),
                octets: hello.clone(),
                stream: by_proxy,
            },
            Message::Visitor {
                device: DEVICE,
                proxied: None,
                octets: hello.clone(),
                stream: visitor,
            },
            Message::Raw {
                header: sealed(),
                stream: raw,
            },
            Message::Carrier {
                ticket: Ticket([4; 16]),
                stream: carrier,
            },
            Message::Attached {
                device: DEVICE,
                instance: InstanceId([2; 16]),
            },
            Message::Keys {
                device: DEVICE,
                keys: vec![[1; KEY], [2; KEY]],
            },
        ] {
            message.send(&there).unwrap();
        }
        let mut reader = Reader::new();
        let mut heard = || match reader.read(&here).unwrap() {
            Heard::Message(message) => message,
            heard @ (Heard::Nonsense(_) | Heard::End) => panic!("{heard:?}"),
        };
        let Message::Visitor {
            device,
            proxied,
            octets,
            ..
        } = heard()
        else {
            panic!("another message was heard");
        };
        assert_eq!((device, proxied, &octets), (DEVICE, Some(ends), &hello));
        let (
            Message::Visitor {
                device,
                proxied: None,
                octets,
                stream,
            },
            Message::Raw {
                header,
                stream: raw,
            },
        ) = (heard(), heard())
        else {
            panic!("another message was heard");
        };
        assert_eq!((device, octets, header), (DEVICE, hello, sealed()));
        let same = |near: &TcpStream, far: &TcpStream| {
            near.peer_addr().unwrap() == far.local_addr().unwrap()
        };
        assert!(same(&stream, &its) && same(&raw, &agents));
        let Message::Carrier {
            ticket,
            stream: carrier,
        } = heard()
        else {
            panic!("another message was heard");
        };
        assert_eq!(ticket, Ticket([4; 16]));
        let Message::Attached { device, instance } = heard() else {
            panic!("another message was heard");
        };
        assert_eq!((device, instance), (DEVICE, InstanceId([2; 16])));
        let Message::Keys { device, keys } = heard() else {
            panic!("another message was heard");
        };
        assert_eq!((device, keys), (DEVICE, vec![[1; KEY], [2; KEY]]));
        let nothing = reader.read(&here).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);

        // And nobody else holds the connections.
        drop((stream, raw, carrier));
        assert_eq!(its.read(&mut [0]).unwrap(), 0);
        assert_eq!(agents.read(&mut [0]).unwrap(), 0);
        assert_eq!(passed_on.read(&mut [0]).unwrap(), 0);
        drop(there);
        assert!(matches!(reader.read(&here), Ok(Heard::End)));
    }

    #[test]
    fn what_comes_with_nonsense_is_closed() {
        use NoMessage::{Descriptors, Malformed, TooLong, UnknownKind};
        let header = [&[RAW][..], &sealed().sealed, &sealed().seal].concat();
        let too_long = [&[VISITOR][..], &[0; LONGEST]].concat();
        for (octets, descriptors, fault) in [
            (&[9, 1, 2][..], 1, UnknownKind),
            (&[0], 1, UnknownKind),
            (&[VISITOR; 16], 1, Malformed),
            (&[VISITOR; 17], 0, Descriptors),
            (&[PROXIED; 52], 1, Malformed),
            (&[PROXIED; 53], 0, Descriptors),
            (&[VISITOR; 17], 2, Descriptors),
            (&[VISITOR; 17], 3, Descriptors),
            (&too_long, 1, TooLong),
            (&header[..HEADER], 1, Malformed),
            (&[RAW; HEADER + 1], 1, Malformed),
            (&header, 0, Descriptors),
            (&[CARRIER; 16], 1, Malformed),
            (&[CARRIER; 18], 1, Malformed),
            (&[ATTACHED; 33], 1, Descriptors),
            (&[ATTACHED; 32], 0, Malformed),
            (&[ATTACHED; 34], 0, Malformed),
            (&[KEYS; 16], 0, Malformed),
            (&[KEYS; 18], 0, Malformed),
            (&[KEYS; 49], 1, Descriptors),
        ] {
            let (there, here) = local::pair().unwrap();
            let (sent, mut kept): (Vec<_>, Vec<_>) = (0..descriptors)
                .map(|_| UnixStream::pair().unwrap())
                .unzip();
            let beside: Vec<_> = sent.iter().map(AsFd::as_fd).collect();
            send(&there, octets, &beside);
            drop(sent);
            assert_eq!(nonsense(&here), fault, "{octets:?} with {descriptors}");
            for stream in &mut kept {
                stream.set_nonblocking(true).unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is still open");
            }
        }
    }

    #[test]
    fn a_channel_that_is_full_says_so_and_one_that_nobody_hears_too() {
        let (there, here) = local::pair().unwrap();
        let message = Message::Attached {
            device: DEVICE,
            instance: InstanceId([2; 16]),
        };
        let full = loop {
            if let Err(full) = message.send(&there) {
                break full;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        drop(here);
        let broken = message.send(&there).unwrap_err();
        let ends = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
        assert!(ends.contains(&broken.kind()), "{broken}");
    }

    proptest! {
        #[test]
        fn any_octets_are_a_message_or_none(
            kind in 0..8_u8,
            length in prop_oneof![Just(16), Just(32), Just(48), Just(52), Just(HEADER), 0..200_usize],
            mut rest in prop::collection::vec(any::<u8>(), 200),
            descriptors in 0..3_usize,
        ) {
            rest.truncate(length);
            let octets = [&[kind][..], &rest].concat();
            let is_known = match (kind, descriptors) {
                (VISITOR, 1) => length >= 16,
                (PROXIED, 1) => length >= 52,
                (RAW, 1) => length == HEADER && rest.starts_with(&[wire::raw::FIRST_OCTET, 1]),
                (CARRIER, 1) => length == 16,
                (ATTACHED, 0) => length == 32,
                (KEYS, 0) => length >= 16 && (length - 16).is_multiple_of(KEY),
                _ => false,
            };
            let (near, mut far): (Vec<_>, Vec<_>) =
                (0..descriptors).map(|_| UnixStream::pair().unwrap()).unzip();
            let beside = near.into_iter().map(OwnedFd::from).collect();
            match Message::read(&octets, beside) {
                // What was understood is what was there.
                Ok(message) => {
                    prop_assert!(is_known);
                    let (kind, parts) = message.parts();
                    prop_assert_eq!([&kind[..], &message.ends(), parts[0], parts[1]].concat(), octets);
                    prop_assert_eq!(message.descriptor().iter().count(), descriptors);
                }
                Err(_) => {
                    prop_assert!(!is_known);
                    for stream in &mut far {
                        stream.set_nonblocking(true).unwrap();
                        prop_assert_eq!(stream.read(&mut [0]).unwrap(), 0);
                    }
                }
            }
        }
    }
}
