//! Ports that somebody can come back to.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use rand::RngExt as _;

/// Those that the system gives to nobody who asks for any (ip_local_port_range): a port of these is free again when whoever had it
/// has ended.
const KEPT: std::ops::Range<u16> = 10_000..32_000;

/// How many are tried.
const TRIES: usize = 64;

/// A port of `ip` that nobody has for either. Who is told of it must be quicker than others.
pub(super) fn free(ip: Ipv4Addr) -> io::Result<u16> {
    Ok(listener(ip)?.local_addr()?.port())
}

/// A listener at a port of `ip` that is free for UDP too.
pub(super) fn listener(ip: Ipv4Addr) -> io::Result<TcpListener> {
    let mut tries = 1;
    loop {
        let address: SocketAddr = (ip, rand::rng().random_range(KEPT)).into();
        let free = UdpSocket::bind(address).and_then(|_| TcpListener::bind(address));
        match free {
            Err(_) if tries < TRIES => tries += 1,
            free => return free,
        }
    }
}
