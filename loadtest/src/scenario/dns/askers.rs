//! Threads that ask, each over sockets of its own, until they are told to stop.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Workload;
use super::mail::{BATCH, Mail};
use crate::scenario::{Load, ScenarioError, latencies, microseconds};

/// Queries under way on each socket: what a server's buffers have room for, and enough of them for whole batches.
const WINDOW: usize = 16;

/// A query without an answer for this long is lost.
const LOST: Duration = Duration::from_secs(1);

/// How long a thread waits for any answer before it looks at the clock.
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// The longest question: a header, a name of 255 octets (RFC 1035 section 2.3.4), and what stands behind it.
const MAX_QUESTION: usize = 512;

/// The threads that ask. They end when this is dropped.
pub(super) struct Askers {
    /// How many answers have come, all threads together.
    pub(super) answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<Tally>>>,
}

/// What one of them saw while it was observed.
pub(super) struct Tally {
    pub(super) latencies: Histogram<u64>,
    pub(super) lost: u64,
    pub(super) wrong: u64,
}

impl Askers {
    pub(super) fn start(
        server: SocketAddr,
        workload: &Workload,
        sockets: usize,
        threads: usize,
        load: &Arc<Load>,
    ) -> Result<Self, ScenarioError> {
        let mut askers = Self {
            answered: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let threads = threads.min(sockets);
        for thread in 0..threads {
            // What does not divide evenly goes to the first ones.
            let share = sockets / threads + usize::from(thread < sockets % threads);
            let sockets: io::Result<Vec<_>> = (0..share).map(|_| Socket::open(server)).collect();
            let asker = Asker {
                sockets: sockets?,
                questions: Arc::clone(&workload.questions),
                next: thread * workload.questions.len() / threads,
                rcode: workload.rcode,
                answered: Arc::clone(&askers.answered),
                load: Arc::clone(load),
                tally: Tally {
                    latencies: latencies()?,
                    lost: 0,
                    wrong: 0,
                },
            };
            let stop = Arc::clone(&askers.stop);
            let spawned = thread::Builder::new()
                .name("asker".to_owned())
                .spawn(move || asker.ask(&stop))?;
            askers.threads.push(spawned);
        }
        Ok(askers)
    }

    pub(super) fn finish(mut self) -> Result<Tally, ScenarioError> {
        self.stop.store(true, Relaxed);
        let mut all = Tally {
            latencies: latencies()?,
            lost: 0,
            wrong: 0,
        };
        for thread in self.threads.drain(..) {
            let ended = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread broke")));
            let tally = ended?;
            // They have the same bounds.
            let _ = all.latencies.add(&tally.latencies);
            all.lost += tally.lost;
            all.wrong += tally.wrong;
        }
        Ok(all)
    }
}

impl Drop for Askers {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // within WAIT
        }
    }
}

/// One thread.
struct Asker {
    sockets: Vec<Socket>,
    questions: Arc<[Box<[u8]>]>,
    /// Which question is asked next.
    next: usize,
    rcode: u8,
    answered: Arc<AtomicU64>,
    load: Arc<Load>,
    tally: Tally,
}

impl Asker {
    fn ask(mut self, stop: &AtomicBool) -> io::Result<Tally> {
        let mut mail = Mail::new();
        for socket in 0..self.sockets.len() {
            self.send(&mut mail, socket, 0..WINDOW)?;
        }
        while !stop.load(Relaxed) {
            for socket in self.readable()? {
                self.receive(&mut mail, socket)?;
            }
            self.give_up(&mut mail)?;
        }
        Ok(self.tally)
    }

    /// Waits until there is something to read, and says where.
    fn readable(&self) -> io::Result<Vec<usize>> {
        let mut waiting: Vec<_> = self
            .sockets
            .iter()
            .map(|socket| PollFd::from_borrowed_fd(socket.udp.as_fd(), PollFlags::IN))
            .collect();
        match poll(&mut waiting, Some(&WAIT)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let readable = waiting.iter().enumerate();
        Ok(readable
            .filter(|(_, waited)| !waited.revents().is_empty())
            .map(|(socket, _)| socket)
            .collect())
    }

    /// Takes the answers that have come to a socket, and asks again for each. Those that come meanwhile wait for the next
    /// turn, so that no socket has to wait for another.
    fn receive(&mut self, mail: &mut Mail, socket: usize) -> io::Result<()> {
        let received = mail.receive(&self.sockets[socket].udp)?;
        let now = Instant::now();
        let mut answered = Vec::with_capacity(BATCH);
        for at in 0..received {
            let answer = mail.received(at);
            let Some((slot, asked)) = self.sockets[socket].slot_of(answer) else {
                continue; // too late: it has been given up
            };
            if answered.contains(&slot) {
                continue; // said twice
            }
            if self.load.is_observed() {
                self.tally
                    .latencies
                    .saturating_record(microseconds(now - asked));
                let rcode = answer[3] & 0x0f;
                self.tally.wrong += u64::from(rcode != self.rcode);
            }
            answered.push(slot);
        }
        self.answered.fetch_add(answered.len() as u64, Relaxed);
        self.send(mail, socket, answered)
    }

    /// Counts what has been without an answer for too long, and asks again.
    fn give_up(&mut self, mail: &mut Mail) -> io::Result<()> {
        let now = Instant::now();
        for socket in 0..self.sockets.len() {
            let under_way = self.sockets[socket].under_way.iter().enumerate();
            let lost: Vec<_> = under_way
                .filter(|(_, query)| now - query.asked > LOST)
                .map(|(slot, _)| slot)
                .collect();
            if !lost.is_empty() {
                self.tally.lost += lost.len() as u64 * u64::from(self.load.is_observed());
                self.send(mail, socket, lost)?;
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        mail: &mut Mail,
        socket: usize,
        slots: impl IntoIterator<Item = usize>,
    ) -> io::Result<()> {
        let socket = &mut self.sockets[socket];
        let slots: Vec<_> = slots.into_iter().collect();
        for &slot in &slots {
            self.next = (self.next + 1) % self.questions.len();
            socket.ask(slot, &self.questions[self.next]);
        }
        for slots in slots.chunks(BATCH) {
            let queries: Vec<_> = slots.iter().map(|&slot| socket.query(slot)).collect();
            mail.send(&socket.udp, &queries)?;
        }
        Ok(())
    }
}

/// One client's port, with what it has asked.
struct Socket {
    udp: UdpSocket,
    under_way: [UnderWay; WINDOW],
}

/// A query without an answer so far.
#[derive(Clone, Copy)]
struct UnderWay {
    id: u16,
    asked: Instant,
    octets: [u8; MAX_QUESTION],
    length: usize,
}

impl Socket {
    fn open(server: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let udp = UdpSocket::bind(any)?;
        udp.connect(server)?;
        let nothing = UnderWay {
            id: 0,
            asked: Instant::now(),
            octets: [0; MAX_QUESTION],
            length: 0,
        };
        Ok(Self {
            udp,
            under_way: [nothing; WINDOW],
        })
    }

    /// What is asked next in a slot; an earlier query there is forgotten. Ids of a slot are those that it is the remainder of.
    fn ask(&mut self, slot: usize, question: &[u8]) {
        let query = &mut self.under_way[slot];
        let next = query.id / WINDOW as u16 * WINDOW as u16;
        query.id = next.wrapping_add(WINDOW as u16) + slot as u16;
        query.asked = Instant::now();
        query.length = question.len();
        query.octets[..question.len()].copy_from_slice(question);
        query.octets[..2].copy_from_slice(&query.id.to_be_bytes());
    }

    fn query(&self, slot: usize) -> &[u8] {
        let query = &self.under_way[slot];
        &query.octets[..query.length]
    }

    /// Which query this answers, and when that was asked.
    fn slot_of(&self, answer: &[u8]) -> Option<(usize, Instant)> {
        let (id, _) = answer.split_first_chunk::<2>()?;
        let id = u16::from_be_bytes(*id);
        let slot = usize::from(id) % WINDOW;
        let under_way = &self.under_way[slot];
        (under_way.id == id && answer.len() >= 12).then_some((slot, under_way.asked))
    }
}

#[cfg(test)]
mod tests {
    use super::super::question::question;
    use super::*;

    #[test]
    fn an_answer_is_known_by_its_id_and_a_late_one_is_not() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut socket = Socket::open(server.local_addr().unwrap()).unwrap();
        let mut mail = Mail::new();
        let mut query = [0; 512];
        socket.ask(2, &question("a").unwrap());
        mail.send(&socket.udp, &[socket.query(2)]).unwrap();
        let (length, client) = server.recv_from(&mut query).unwrap();
        server.send_to(&query[..length], client).unwrap();
        let received = loop {
            match mail.receive(&socket.udp).unwrap() {
                0 => thread::yield_now(),
                received => break received,
            }
        };
        assert_eq!(received, 1);
        assert_eq!(socket.slot_of(mail.received(0)).unwrap().0, 2);
        socket.ask(2, &question("a").unwrap());
        assert_eq!(socket.slot_of(mail.received(0)), None);
    }

    #[test]
    fn ids_go_round() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut socket = Socket::open(server.local_addr().unwrap()).unwrap();
        let window = WINDOW as u16;
        for (slot, last) in [(0, u16::MAX - window + 1), (3, u16::MAX - window + 4)] {
            socket.under_way[slot].id = last;
            socket.ask(slot, &question("a").unwrap());
            assert_eq!(usize::from(socket.under_way[slot].id), slot);
        }
    }
}
