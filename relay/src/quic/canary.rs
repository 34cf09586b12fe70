//! Whether packets handed to the kernel in one batch (GSO, udp(7)) come out as they went in. Kernels and drivers have got that
//! wrong; then each packet is handed over by itself, which costs four times as much.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use quinn_udp::{Transmit, UdpSocketState};

/// Packets of a batch, as long as a path takes them; the last is shorter.
const PACKETS: usize = 10;
const LENGTH: usize = 1452;
const LAST: usize = 700;

/// Nothing is between the two sockets.
const PATIENCE: Duration = Duration::from_millis(200);

/// Sends a batch to a socket of its own and compares. A system that cannot do batches, or has no loopback, has nothing to lie
/// about: the library then sends one by one.
pub(super) fn batches_are_whole() -> bool {
    try_one().unwrap_or(true)
}

fn try_one() -> io::Result<bool> {
    let [from, to] = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
    let (from, to) = (from?, to?);
    let contents: Vec<u8> = (0..(PACKETS - 1) * LENGTH + LAST)
        .map(|at| (at % 251) as u8)
        .collect();
    if !send_batch(&from, to.local_addr()?, &contents, LENGTH)? {
        return Ok(true);
    }
    to.set_read_timeout(Some(PATIENCE))?;
    let mut received = [0; 2 * LENGTH];
    for expected in contents.chunks(LENGTH) {
        match to.recv(&mut received) {
            Ok(length) if received[..length] == *expected => {}
            Ok(_) | Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// Sends `contents` as one batch of packets of `length` octets, of which the last may be shorter; `false` if this system cannot.
pub(crate) fn send_batch(
    socket: &UdpSocket,
    to: SocketAddr,
    contents: &[u8],
    length: usize,
) -> io::Result<bool> {
    let state = UdpSocketState::new(socket.into())?;
    if state.max_gso_segments() < contents.len().div_ceil(length) {
        return Ok(false);
    }
    let batch = Transmit {
        destination: to,
        ecn: None,
        contents,
        segment_size: Some(length),
        src_ip: None,
    };
    state.try_send(socket.into(), &batch)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_tried() {
        assert!(try_one().unwrap(), "batches are damaged here");
    }
}
