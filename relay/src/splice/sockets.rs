//! One read and one write of a socket at rest, without holding a buffer for either.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads what is there, 0 being the end. Where there is less than room for, there is no more: that spares the next look.
pub(super) fn read_some(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut short = None;
    let read = stream.try_io(Interest::READABLE, || {
        let length = rustix::io::read(stream, &mut *buffer)?;
        if (1..buffer.len()).contains(&length) {
            short = Some(length);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(length)
    });
    short.map_or(read, Ok)
}

/// Writes as soon as that is possible. With `try_first` it is tried before anybody has said so.
pub(super) fn when_writable(
    stream: &TcpStream,
    mut try_first: bool,
    mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> impl Future<Output = io::Result<usize>> {
    poll_fn(move |cx| {
        loop {
            let written = match std::mem::take(&mut try_first) {
                true => write(stream),
                false => stream.try_io(Interest::WRITABLE, || write(stream)),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_write_ready(cx))?;
                }
                done => return Poll::Ready(done),
            }
        }
    })
}
