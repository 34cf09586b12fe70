//! What the system offers and no safe library does: the only unsafe code of this crate.

#![allow(unsafe_code, reason = "system calls that no library wraps")]

use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

/// The smoothed round-trip time of a TCP connection, as the kernel has measured it (tcp(7), `TCP_INFO`).
pub(crate) fn tcp_round_trip(stream: impl AsFd) -> Option<Duration> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the descriptor is borrowed for the call; the kernel writes at most `length` octets, which `info` has.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: it is made of integers, for which zeros are a value, whatever of it the kernel has written.
    let info = unsafe { info.assume_init() };
    (info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_kernel_knows_how_far_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let round_trip = tcp_round_trip(&stream).unwrap();
        assert!(round_trip < Duration::from_secs(1), "{round_trip:?}");
        let (other, _) = UnixStream::pair().unwrap();
        assert_eq!(tcp_round_trip(&other), None);
    }
}
