//! The service behind every peer that carries datagrams: it counts what comes. Of each hundred one is answered, so that the visitor is
//! one who goes on to talk.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use quinn_udp::{BATCH_SIZE, RecvMeta};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use crate::datagrams::{LENGTH, prepared};

/// How often it is said how many have come, if that has changed.
const PACE: Duration = Duration::from_millis(10);

/// The longest that the kernel gives at a time: as many of one sender as fit.
const ROOM: usize = 65_535;

const ANSWERED: u64 = 100;

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where it listens; port 0 for any.
    pub(crate) listen: SocketAddr,
}

/// Where it listens, and how many have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) address: SocketAddr,
    pub(crate) came: u64,
}

static CAME: AtomicU64 = AtomicU64::new(0);

pub(super) fn play(order: Order) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(order.listen)?;
    let mut status = Status {
        address: socket.local_addr()?,
        came: 0,
    };
    super::say(&status)?;
    let counting = thread::spawn(move || count(&socket));
    while !counting.is_finished() {
        thread::sleep(PACE);
        let came = CAME.load(Relaxed);
        if came != status.came {
            status.came = came;
            super::say(&status)?;
        }
    }
    match counting.join() {
        Ok(ended) => Ok(ended?),
        Err(_) => anyhow::bail!("whoever counts has panicked"),
    }
}

/// Returns only if the socket is of no use.
fn count(socket: &UdpSocket) -> io::Result<()> {
    let state = prepared(socket)?;
    let mut rooms = vec![[0; ROOM]; BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    loop {
        let mut slices: Vec<_> = rooms.iter_mut().map(|room| IoSliceMut::new(room)).collect();
        let received = match state.recv(socket.into(), &mut slices, &mut metas) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(socket, PollFlags::IN)], None)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        for meta in metas.iter().take(received) {
            if meta.len < LENGTH {
                let _ = socket.send_to(b"yes", meta.addr);
                continue;
            }
            let datagrams = meta.len.div_ceil(meta.stride.max(1)) as u64;
            let before = CAME.fetch_add(datagrams, Relaxed);
            if before / ANSWERED != (before + datagrams) / ANSWERED {
                let _ = socket.send_to(b"yes", meta.addr); // if there is no room, another one will be
            }
        }
    }
}
