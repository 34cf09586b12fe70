//! How much the kernel keeps for a UDP socket. With a system's usual 208 KiB a sender of a few hundred Mbit/s loses packets in
//! its own kernel, and nobody says so: what is asked for is looked at again.

use std::io;
use std::os::fd::AsFd;
use std::sync::Once;

use rustix::net::sockopt;

/// Asks for `wanted` octets each way, past the system's limit if this process may. If it gets less, it says once which limit
/// to raise.
pub(crate) fn ask(socket: impl AsFd, wanted: usize) -> io::Result<()> {
    static SAID: Once = Once::new();
    let (receive, send) = given_of(socket, wanted, Limit::PassedIfAllowed)?;
    if receive < wanted || send < wanted {
        SAID.call_once(|| {
            tracing::warn!(
                wanted,
                receive,
                send,
                "UDP sockets have small buffers, and fast transfers will lose packets; raise net.core.rmem_max and net.core.wmem_max"
            );
        });
    }
    Ok(())
}

/// What becomes of the system's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Whoever has `CAP_NET_ADMIN` gets more.
    PassedIfAllowed,
    /// As for somebody who has it not.
    Respected,
}

/// Asks for `wanted` octets each way, and says what the socket has then to receive and to send.
pub(crate) fn given_of(
    socket: impl AsFd,
    wanted: usize,
    limit: Limit,
) -> io::Result<(usize, usize)> {
    let socket = socket.as_fd();
    let passes = limit == Limit::PassedIfAllowed;
    if !passes || sockopt::set_socket_recv_buffer_size_force(socket, wanted).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, wanted)?;
    }
    if !passes || sockopt::set_socket_send_buffer_size_force(socket, wanted).is_err() {
        sockopt::set_socket_send_buffer_size(socket, wanted)?;
    }
    given(socket)
}

/// What the socket has to receive and to send, in octets.
fn given(socket: impl AsFd) -> io::Result<(usize, usize)> {
    // socket(7): Linux doubles what it is asked for, for its own book-keeping, and says the double.
    let receive = sockopt::socket_recv_buffer_size(&socket)? / 2;
    let send = sockopt::socket_send_buffer_size(&socket)? / 2;
    Ok((receive, send))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_is_asked_for_is_given_as_far_as_the_system_allows() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        ask(&socket, 16 * 1024).unwrap();
        let (receive, send) = given(&socket).unwrap();
        assert!(
            receive >= 16 * 1024 && send >= 16 * 1024,
            "{receive} {send}"
        );
        // More than any system gives is no error.
        ask(&socket, usize::try_from(i32::MAX).unwrap() / 4).unwrap();
    }
}
