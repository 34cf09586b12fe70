//! Packets on their way to the process that holds their connection, if that is not the one which reads the port. When a
//! successor has been started it alone reads; those before it hold the connections they have, and get their packets over a
//! local channel of each worker, as messages:
//!
//! ```text
//!   sender's family 1 │ destination's family 1 │ mark 1 │ length 2 │ port 2 │ scope 4 │ sender 16 │ destination 16 │ packets
//! ```
//!
//! Families are 4 and 6, and nought where the destination is not known; an IPv4 address has the first four octets of its
//! place. All packets of a message but the last are `length` octets long. The mark is what routers have left on them (ECN).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use prometheus::IntCounter;
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use tokio::io::unix::AsyncFd;
use wire::connection_id::Generation;

use super::socket::Landing;
use super::socket_buffers;
use crate::local;
use crate::sys;

/// What stands before the packets of a message, in octets.
const HEADER: usize = 43;

/// What a channel keeps for a process that is busy elsewhere, in octets: of small packets some three thousand.
const BUFFER: usize = 4 * 1024 * 1024;

/// A process before this one that still lives, and where it takes the packets of its connections: the sending end of a
/// [`channel`].
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) generation: Generation,
    pub(crate) channel: OwnedFd,
}

impl Earlier {
    /// Another descriptor of the same end.
    pub(super) fn duplicate(&self) -> io::Result<Self> {
        Ok(Self {
            generation: self.generation,
            channel: self.channel.try_clone()?,
        })
    }

    /// Whether it has ended. If the system does not say, it has not.
    pub(super) fn has_ended(&self) -> bool {
        local::has_ended(&self.channel).unwrap_or(false)
    }

    /// Sends it packets that came as one message, or some of them.
    pub(super) fn send(&self, meta: &RecvMeta, packets: &[u8]) -> Sent {
        let header = header(meta);
        let message = [IoSlice::new(&header), IoSlice::new(packets)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let nothing = &mut SendAncillaryBuffer::default();
        match sendmsg(&self.channel, &message, nothing, flags) {
            Ok(_) => Sent::Passed,
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR | Errno::MSGSIZE) => {
                Sent::Dropped
            }
            Err(_) => Sent::Gone,
        }
    }
}

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Passed,
    /// There was no room for it just now.
    Dropped,
    /// Nobody is at the other end any more.
    Gone,
}

/// A channel from a process to the one before it: the sending end, and the receiving end, which only the latter may have, so
/// that the former sees it end.
///
/// # Errors
/// If the system gives none.
pub(crate) fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let (sending, receiving) = local::pair()?;
    socket_buffers::ask(&sending, BUFFER)?;
    Ok((sending, receiving))
}

/// The receiving end, in the event queue of a worker.
#[derive(Debug)]
pub(super) struct Receiver {
    channel: AsyncFd<OwnedFd>,
    malformed: IntCounter,
}

impl Receiver {
    /// Puts the end into the event queue of the calling worker. `malformed` counts messages that nobody understands.
    pub(super) fn new(channel: OwnedFd, malformed: IntCounter) -> io::Result<Self> {
        Ok(Self {
            channel: sys::queue(channel)?,
            malformed,
        })
    }

    /// Receives into `landing`, which then says what. It is an error if nothing more can come.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        landing: &mut Landing,
    ) -> Poll<io::Result<()>> {
        landing.clear();
        loop {
            let mut readable = ready!(self.channel.poll_read_ready(cx))?;
            let filled = readable.try_io(|channel| self.fill(channel.get_ref(), landing));
            if let Ok(filled) = filled {
                return Poll::Ready(filled);
            }
        }
    }

    fn fill(&self, channel: &OwnedFd, landing: &mut Landing) -> io::Result<()> {
        for received in 0..BATCH_SIZE {
            let Some((room, meta)) = landing.free() else {
                break;
            };
            match receive(channel, room) {
                Ok(Some(message)) => {
                    *meta = message;
                    landing.landed();
                }
                Ok(None) => self.malformed.inc(),
                // Whatever it is, it will be the same again, after what came before it.
                Err(_) if received > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Receives one message: its packets into `room`, and what is known of them; `None` if it is malformed.
fn receive(channel: &OwnedFd, room: &mut [u8]) -> io::Result<Option<RecvMeta>> {
    let mut header = [0; HEADER];
    let mut message = [IoSliceMut::new(&mut header), IoSliceMut::new(room)];
    let nothing = &mut RecvAncillaryBuffer::default();
    let received = recvmsg(channel, &mut message, nothing, RecvFlags::DONTWAIT)?;
    // An empty message looks like the end.
    if received.bytes == 0 && local::has_ended(channel)? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Ok(None);
    }
    let packets = received.bytes.checked_sub(HEADER);
    Ok(packets.and_then(|packets| parse(&header, packets)))
}

fn header(meta: &RecvMeta) -> [u8; HEADER] {
    let (sender_family, sender) = family_and_place(Some(meta.addr.ip()));
    let (destination_family, destination) = family_and_place(meta.dst_ip);
    let scope = match meta.addr {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(sender) => sender.scope_id(),
    };
    let length = u16::try_from(meta.stride.max(1)).unwrap_or(u16::MAX);
    let mut header = [0; HEADER];
    let fields: [&[u8]; 8] = [
        &[sender_family],
        &[destination_family],
        &[meta.ecn.map_or(0, |mark| mark as u8)],
        &length.to_be_bytes(),
        &meta.addr.port().to_be_bytes(),
        &scope.to_be_bytes(),
        &sender,
        &destination,
    ];
    let octets = fields.into_iter().flatten();
    header
        .iter_mut()
        .zip(octets)
        .for_each(|(to, octet)| *to = *octet);
    header
}

/// What is known of `packets` octets of packets; `None` if that makes no sense.
fn parse(header: &[u8; HEADER], packets: usize) -> Option<RecvMeta> {
    let (&[sender_family, destination_family, mark], rest) = header.split_first_chunk()?;
    let (&length, rest) = rest.split_first_chunk()?;
    let (&port, rest) = rest.split_first_chunk()?;
    let (&scope, rest) = rest.split_first_chunk()?;
    let (&sender, rest) = rest.split_first_chunk()?;
    let &destination = rest.first_chunk()?;
    let port = u16::from_be_bytes(port);
    let addr = match address(sender_family, sender)? {
        IpAddr::V4(address) => (address, port).into(),
        IpAddr::V6(address) => {
            SocketAddrV6::new(address, port, 0, u32::from_be_bytes(scope)).into()
        }
    };
    let dst_ip = match destination_family {
        0 => None,
        family => Some(address(family, destination)?),
    };
    let ecn = match mark {
        0 => None,
        1..=3 => EcnCodepoint::from_bits(mark),
        _ => return None,
    };
    let stride = usize::from(u16::from_be_bytes(length));
    (stride > 0 && packets > 0).then_some(RecvMeta {
        addr,
        len: packets,
        stride,
        ecn,
        dst_ip,
    })
}

fn family_and_place(address: Option<IpAddr>) -> (u8, [u8; 16]) {
    match address {
        None => (0, [0; 16]),
        Some(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            (4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        Some(IpAddr::V6(address)) => (6, address.octets()),
    }
}

fn address(family: u8, place: [u8; 16]) -> Option<IpAddr> {
    match family {
        4 => place
            .first_chunk()
            .map(|&address: &[u8; 4]| Ipv4Addr::from(address).into()),
        6 => Some(Ipv6Addr::from(place).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address_of_either_family() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ]
    }

    proptest! {
        #[test]
        fn what_is_known_of_packets_arrives(
            sender in address_of_either_family(),
            destination in prop::option::of(address_of_either_family()),
            port: u16,
            scope: u32,
            mark in 0..=3_u8,
            stride in 1..=usize::from(u16::MAX),
            len in 1..=64 * 1024_usize,
        ) {
            let addr = match sender {
                IpAddr::V4(sender) => (sender, port).into(),
                IpAddr::V6(sender) => SocketAddrV6::new(sender, port, 0, scope).into(),
            };
            let ecn = EcnCodepoint::from_bits(mark);
            let meta = RecvMeta { addr, len, stride, ecn, dst_ip: destination };
            let parsed = parse(&header(&meta), len).unwrap();
            prop_assert_eq!(parsed.addr, addr);
            prop_assert_eq!((parsed.len, parsed.stride), (len, stride));
            prop_assert_eq!((parsed.ecn, parsed.dst_ip), (ecn, destination));
        }

        #[test]
        fn any_header_makes_sense_or_none(
            header in prop::collection::vec(prop_oneof![0..8_u8, any::<u8>()], HEADER),
            packets in 0..=64 * 1024_usize,
        ) {
            if let Some(meta) = parse(header.first_chunk().unwrap(), packets) {
                prop_assert!(meta.len == packets && packets > 0 && meta.stride > 0);
            }
        }
    }

    #[test]
    fn a_message_without_sense_is_none() {
        let whole = header(&RecvMeta {
            stride: 1200,
            ..RecvMeta::default()
        });
        assert!(parse(&whole, 1200).is_some());
        assert!(parse(&whole, 0).is_none(), "no packet");
        for (at, wrong, what) in [
            (0, 0, "no sender"),
            (0, 5, "the sender's family"),
            (1, 7, "the destination's family"),
            (2, 4, "the mark"),
        ] {
            let mut header = whole;
            header[at] = wrong;
            assert!(parse(&header, 1200).is_none(), "{what}");
        }
        let mut header = whole;
        header[3..5].fill(0);
        assert!(parse(&header, 1200).is_none(), "packets of no length");
    }

    #[test]
    fn who_sends_hears_that_there_is_no_room_and_that_nobody_is_there() {
        let (channel, receiving) = channel().unwrap();
        let earlier = Earlier {
            generation: Generation::default(),
            channel,
        };
        let meta = RecvMeta {
            stride: 1200,
            ..RecvMeta::default()
        };
        let mut passed = 0;
        while earlier.send(&meta, &[7; 1200]) == Sent::Passed {
            passed += 1;
        }
        assert!(passed > 50, "{passed}");
        assert_eq!(earlier.send(&meta, &[7; 1200]), Sent::Dropped);
        assert!(!local::has_ended(&receiving).unwrap());
        let mut room = [0; 2000];
        let first = receive(&receiving, &mut room).unwrap().unwrap();
        assert_eq!(
            (first.len, &room[..1201]),
            (1200, &[&[7; 1200][..], &[0]].concat()[..])
        );
        drop(receiving);
        assert_eq!(earlier.send(&meta, &[7; 1200]), Sent::Gone);
    }

    #[test]
    fn an_empty_message_is_no_end() {
        let (sending, receiving) = channel().unwrap();
        let room = &mut [0; 2000][..];
        rustix::net::send(&sending, &[], SendFlags::empty()).unwrap();
        assert!(receive(&receiving, room).unwrap().is_none());
        let nothing = receive(&receiving, room).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(sending);
        let end = receive(&receiving, room).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }
}
