//! First packets of QUIC from many addresses, of agents that never come: as they should be, or broken in one way each.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering::Relaxed;

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use rand::RngExt as _;
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use wire::ALPN_TUNNEL;

use super::hello::Hello;
use super::initial::{self, Ids};
use super::target::Target;
use super::{Counts, Pace, address_here};

/// Octets of a datagram: more than RFC 9000 section 14.1 demands, as an agent's has.
const SIZE: usize = 1232;

/// One octet less than RFC 9000 section 14.1 demands.
const TOO_SHORT: usize = 1199;

/// Answers that are not counted yet wait here.
const BUFFER: usize = 4 << 20;

/// Transport parameters (RFC 9000 section 18.2): `initial_source_connection_id`, and `max_udp_payload_size`.
const SOURCE_ID: u8 = 0x0f;
const MAX_PAYLOAD: u8 = 0x03;

/// What is wrong with a packet. Of eight, four have nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Its seal does not fit.
    Seal,
    /// There is no ClientHello in its frames, but noise.
    Noise,
    /// Its transport parameters contradict each other.
    Parameters,
    /// It is shorter than any.
    Short,
}

impl Fault {
    fn of(number: u64) -> Self {
        match number % 8 {
            1 => Self::Seal,
            3 => Self::Noise,
            5 => Self::Parameters,
            7 => Self::Short,
            _ => Self::None,
        }
    }
}

/// Sends them as fast as they are due, from `addresses` addresses, and counts what comes back.
pub(super) async fn flood(
    target: &Target,
    counts: &Counts,
    mut pace: Pace,
    addresses: u64,
) -> io::Result<()> {
    let SocketAddr::V4(front) = target.front else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    // Every address of loopback is its own.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let _ = SockRef::from(&socket).set_recv_buffer_size(BUFFER); // the kernel may grant less
    let host = format!("relay.{}", target.zone);
    loop {
        for number in pace.due().await {
            let packet = packet(&host, Fault::of(number));
            let packet = packet.map_err(|_| io::Error::other("a packet cannot be sealed"))?;
            let from = address_here(number % addresses);
            match send(&socket, &packet, from, front) {
                Ok(()) => {
                    counts.attempted.fetch_add(1, Relaxed);
                    counts.sent.fetch_add(packet.len() as u64, Relaxed);
                }
                // The kernel's queue is full, or an earlier one was turned away by whoever has not the port.
                Err(_) => {
                    counts.turned_away.fetch_add(1, Relaxed);
                }
            }
            receive(&socket, counts);
        }
        receive(&socket, counts);
    }
}

fn packet(host: &str, fault: Fault) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
    let mut ids = Ids {
        destination: [0; 20],
        source: [0; 8],
    };
    rand::rng().fill(&mut ids.destination);
    rand::rng().fill(&mut ids.source);
    let mut parameters = [&[SOURCE_ID, 8][..], &ids.source].concat();
    if fault == Fault::Parameters {
        parameters.extend([MAX_PAYLOAD, 1, 1, SOURCE_ID, 63]); // less than there may be, one twice, and one cut short
    }
    let hello = Hello {
        host,
        alpn: ALPN_TUNNEL,
        transport_parameters: Some(&parameters),
    };
    let mut message = hello.message();
    if fault == Fault::Noise {
        rand::rng().fill(&mut message[..]);
    }
    let size = match fault {
        Fault::Short => TOO_SHORT,
        Fault::None | Fault::Seal | Fault::Noise | Fault::Parameters => SIZE,
    };
    let mut packet = initial::datagram(&ids, &initial::frames_of(&message), size)?;
    if fault == Fault::Seal
        && let Some(octet) = packet.last_mut()
    {
        *octet ^= 1;
    }
    Ok(packet)
}

/// From `from`, which is one of this host's addresses but not the socket's (ip(7), `IP_PKTINFO`).
fn send(socket: &UdpSocket, packet: &[u8], from: Ipv4Addr, to: SocketAddrV4) -> io::Result<()> {
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr {
            s_addr: u32::from_ne_bytes(from.octets()),
        },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let parts = [IoSlice::new(packet)];
    let from = [ControlMessage::Ipv4PacketInfo(&info)];
    let to = SockaddrIn::from(to);
    let flags = MsgFlags::MSG_DONTWAIT;
    sendmsg(socket.as_raw_fd(), &parts, &from, flags, Some(&to))?;
    Ok(())
}

/// Counts all that has come.
fn receive(socket: &UdpSocket, counts: &Counts) {
    let mut nowhere = [0; 1];
    // With MSG_TRUNC a datagram's whole length is told (udp(7)).
    let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    while let Ok((_, length)) = socket.try_io(Interest::READABLE, || {
        Ok(recv(socket, &mut nowhere[..], flags)?)
    }) {
        counts.answered.fetch_add(length as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_them_have_nothing_wrong_and_each_fault_its_turn() {
        let faults: Vec<_> = (0..8).map(Fault::of).collect();
        let sound = faults.iter().filter(|fault| **fault == Fault::None);
        assert_eq!(sound.count(), 4);
        for (fault, size) in [
            (Fault::None, SIZE),
            (Fault::Seal, SIZE),
            (Fault::Noise, SIZE),
            (Fault::Parameters, SIZE),
            (Fault::Short, TOO_SHORT),
        ] {
            assert!(faults.contains(&fault));
            let packet = packet("relay.nas.localhost", fault).unwrap();
            assert_eq!(packet.len(), size);
        }
    }
}
