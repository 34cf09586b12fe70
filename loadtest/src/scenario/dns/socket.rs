//! One client's port, with what it has asked.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use super::mail::{BATCH, Mail};
use super::questions::{Expected, Questions};
use crate::question::HEADER_LEN;

/// Answers wait here while the thread that asks is busy with others. The kernel may grant less.
const BUFFER: usize = 4 << 20;

/// A connected socket and its queries. Each has a slot, and its id leads to that: the remainder by the number of slots.
pub(super) struct Socket {
    udp: UdpSocket,
    queries: Box<[Query]>,
}

/// What is or was under way in a slot.
#[derive(Clone, Copy)]
struct Query {
    id: u16,
    expected: Expected,
    /// Whether there is no answer so far.
    waits: bool,
    asked: Instant,
}

/// An answer to what was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) slot: usize,
    pub(super) asked: Instant,
    /// Whether it says what it should.
    pub(super) is_right: bool,
}

impl Socket {
    /// One with `slots`, a power of two up to 65,536.
    pub(super) fn open(server: SocketAddr, slots: usize) -> io::Result<Self> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let udp = UdpSocket::bind(any)?;
        udp.connect(server)?;
        let buffers = SockRef::from(&udp);
        let _ = buffers.set_recv_buffer_size(BUFFER);
        let _ = buffers.set_send_buffer_size(BUFFER);
        let query = Query {
            id: 0,
            expected: Expected::Found,
            waits: false,
            asked: Instant::now(),
        };
        Ok(Self {
            udp,
            queries: vec![query; slots].into(),
        })
    }

    /// Writes the next of `questions` as what is asked in a slot at `asked`, to be sent with others by
    /// [`send`](Self::send). Says whether an earlier query there has remained without an answer.
    pub(super) fn ask(
        &mut self,
        mail: &mut Mail,
        slot: usize,
        questions: &mut Questions,
        asked: Instant,
    ) -> io::Result<bool> {
        if mail.waiting() == BATCH {
            self.send(mail)?;
        }
        let Some((octets, length)) = mail.write() else {
            return Ok(false); // there is room, once they are sent
        };
        let (written, expected) = questions.next(octets);
        *length = written;
        let slots = self.queries.len();
        let query = &mut self.queries[slot];
        // The next of those that lead to the slot.
        let round = usize::from(query.id) / slots + 1;
        query.id = (round * slots + slot) as u16;
        octets[..2].copy_from_slice(&query.id.to_be_bytes());
        query.expected = expected;
        query.asked = asked;
        Ok(std::mem::replace(&mut query.waits, true))
    }

    /// Sends what was written.
    pub(super) fn send(&self, mail: &mut Mail) -> io::Result<()> {
        mail.send(&self.udp)
    }

    /// Takes what has come. Says how many datagrams that were.
    pub(super) fn receive(&self, mail: &mut Mail) -> io::Result<usize> {
        mail.receive(&self.udp)
    }

    /// What a datagram answers; `None` if that has been answered or given up.
    pub(super) fn answered(&mut self, octets: &[u8]) -> Option<Answer> {
        let header: &[u8; HEADER_LEN] = octets.first_chunk()?;
        let id = u16::from_be_bytes([header[0], header[1]]);
        let slot = usize::from(id) % self.queries.len();
        let query = &mut self.queries[slot];
        if query.id != id || !std::mem::take(&mut query.waits) {
            return None;
        }
        Some(Answer {
            slot,
            asked: query.asked,
            is_right: query.expected.is_met_by(header),
        })
    }

    /// The slots whose queries were asked before `moment` and wait.
    pub(super) fn waiting_since(&self, moment: Instant) -> impl Iterator<Item = usize> {
        let queries = self.queries.iter().enumerate();
        queries
            .filter(move |(_, query)| query.waits && query.asked < moment)
            .map(|(slot, _)| slot)
    }
}

/// Those of `sockets` where something has come. Waits for the first no longer than that.
pub(super) fn readable(sockets: &[Socket], wait: Duration) -> io::Result<Vec<usize>> {
    let wait = Timespec {
        tv_sec: wait.as_secs() as _,
        tv_nsec: wait.subsec_nanos().into(),
    };
    let polled = sockets
        .iter()
        .map(|socket| PollFd::from_borrowed_fd(socket.udp.as_fd(), PollFlags::IN));
    let mut polled: Vec<_> = polled.collect();
    match poll(&mut polled, Some(&wait)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let readable = polled.iter().enumerate();
    Ok(readable
        .filter(|(_, polled)| !polled.revents().is_empty())
        .map(|(socket, _)| socket)
        .collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::question::question;

    fn questions() -> Questions {
        Questions::Listed {
            questions: Arc::new([question("a").unwrap()]),
            expected: Expected::Found,
            next: 0,
        }
    }

    #[test]
    fn an_answer_is_known_by_its_id_once_and_a_late_one_is_not() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut socket = Socket::open(server.local_addr().unwrap(), 4).unwrap();
        let (mut mail, mut questions) = (Mail::new(), questions());
        let now = Instant::now();
        assert!(!socket.ask(&mut mail, 2, &mut questions, now).unwrap());
        socket.send(&mut mail).unwrap();
        let mut query = [0; 512];
        let (length, client) = server.recv_from(&mut query).unwrap();
        query[7] = 1; // as if it had an answer
        server.send_to(&query[..length], client).unwrap();
        while socket.receive(&mut mail).unwrap() == 0 {
            thread::yield_now();
        }
        let octets = mail.received(0).to_vec();
        let answer = socket.answered(&octets).unwrap();
        assert_eq!((answer.slot, answer.is_right), (2, true));
        assert!(socket.answered(&octets).is_none(), "said twice");
        socket.ask(&mut mail, 2, &mut questions, now).unwrap();
        assert!(socket.answered(&octets).is_none(), "late");
        assert!(
            socket.ask(&mut mail, 2, &mut questions, now).unwrap(),
            "lost"
        );
        let later = now + std::time::Duration::from_nanos(1);
        assert_eq!(socket.waiting_since(later).collect::<Vec<_>>(), [2]);
        assert_eq!(socket.waiting_since(now).count(), 0);
    }

    #[test]
    fn ids_go_round() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (mut mail, mut questions) = (Mail::new(), questions());
        for (slots, slot) in [(4, 0), (4, 3), (1 << 16, 0xffff)] {
            let mut socket = Socket::open(server.local_addr().unwrap(), slots).unwrap();
            socket.queries[slot].id = (0xffff - (slots - 1) + slot) as u16;
            let now = Instant::now();
            socket.ask(&mut mail, slot, &mut questions, now).unwrap();
            assert_eq!(usize::from(socket.queries[slot].id), slot);
        }
    }
}
