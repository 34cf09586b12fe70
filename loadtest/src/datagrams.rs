//! What crosses a way for datagrams: how long they are, and sockets that hand the kernel many at a time, so that neither end is what is
//! measured.

use std::io;
use std::net::UdpSocket;

use quinn_udp::UdpSocketState;
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};

/// Of a datagram that is measured, in octets: what every QUIC connection may send.
pub(crate) const LENGTH: usize = 1200;

/// A shorter one asks whether anybody is there, and is answered.
pub(crate) const KNOCK: &[u8] = b"are you there?";

/// Room in the kernel, so that who is not awake for a moment loses nothing; less without the right to it.
const BUFFER: usize = 8 << 20;

/// Its buffers large, its calls returning at once.
pub(crate) fn prepared(socket: &UdpSocket) -> io::Result<UdpSocketState> {
    let _ = set_socket_recv_buffer_size_force(socket, BUFFER);
    let _ = set_socket_send_buffer_size_force(socket, BUFFER);
    UdpSocketState::new(socket.into())
}
