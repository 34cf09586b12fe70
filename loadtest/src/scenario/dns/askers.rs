//! Threads that ask, each over sockets of its own, until they are told to stop: as fast as answers come, or so many a second
//! whatever comes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::mail::{BATCH, Mail};
use super::questions::Questions;
use super::socket::{Socket, readable};
use crate::scenario::{Load, ScenarioError, latencies, microseconds};

/// A query without an answer for this long is lost.
const LOST: Duration = Duration::from_secs(1);

/// How often it is looked for those.
const LOOK: Duration = Duration::from_millis(100);

/// A thread that keeps a window full looks at its sockets so often. Were it woken by every answer, the server would pay for
/// that, and each call would move a few datagrams only. What is under way meanwhile keeps a server busy.
const PAUSE: Duration = Duration::from_micros(100);

/// Queries at a fixed rate are sent so often, those of one tick together.
const TICK: Duration = Duration::from_millis(1);

/// Slots of a socket whose queries do not wait for others: every id there is.
const ALL_IDS: usize = 1 << 16;

/// How fast is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// So many queries are under way on each socket, and another one is asked as soon as one is answered.
    Window(usize),
    /// So many a second, all sockets together. Latencies count from when a query should have been sent: one that the server,
    /// or this thread, has kept waiting shows it.
    Rate(u32),
    /// The same, but the threads sleep between: others need the core, and that they have to be woken counts.
    RateAsleep(u32),
}

/// What is asked, of whom, over how many sockets and by how many threads.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) server: SocketAddr,
    pub(super) questions: &'a Questions,
    pub(super) sockets: usize,
    pub(super) threads: usize,
    pub(super) pace: Pace,
}

/// The threads that ask. They end when this is dropped.
pub(super) struct Askers {
    /// How many answers have come, all threads together.
    pub(super) answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<Tally>>>,
}

/// What one of them saw while it was observed.
pub(super) struct Tally {
    /// Of the queries that were answered, in microseconds.
    pub(super) latencies: Histogram<u64>,
    pub(super) lost: u64,
    pub(super) wrong: u64,
}

impl Tally {
    /// How late, in microseconds, the answer came for which this share of all queries did not wait longer. One that was lost has
    /// been waited for as long as any is.
    pub(super) fn latency(&self, quantile: f64) -> u64 {
        let answered = self.latencies.len() as f64;
        let quantile = quantile * (answered + self.lost as f64) / answered.max(1.0);
        match quantile > 1.0 {
            true => microseconds(LOST),
            false => self.latencies.value_at_quantile(quantile),
        }
    }
}

impl Askers {
    pub(super) fn start(order: &Order<'_>, load: &Arc<Load>) -> Result<Self, ScenarioError> {
        let mut askers = Self {
            answered: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let threads = order.threads.min(order.sockets);
        for thread in 0..threads {
            // What does not divide evenly goes to the first ones.
            let share = |all: usize| all / threads + usize::from(thread < all % threads);
            let share_of_rate = |rate: u32| share(rate as usize) as u32; // no more than all
            let (slots, pace) = match order.pace {
                Pace::Window(window) => (window.next_power_of_two(), order.pace),
                Pace::Rate(rate) => (ALL_IDS, Pace::Rate(share_of_rate(rate))),
                Pace::RateAsleep(rate) => (ALL_IDS, Pace::RateAsleep(share_of_rate(rate))),
            };
            let sockets = (0..share(order.sockets)).map(|_| Socket::open(order.server, slots));
            let asker = Asker {
                sockets: sockets.collect::<io::Result<_>>()?,
                questions: order.questions.of_thread(thread, threads),
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
                .spawn(move || asker.ask(pace, &stop))?;
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
            let _ = thread.join(); // within a pause, or LOST
        }
    }
}

/// One thread.
struct Asker {
    sockets: Vec<Socket>,
    questions: Questions,
    answered: Arc<AtomicU64>,
    load: Arc<Load>,
    tally: Tally,
}

impl Asker {
    fn ask(mut self, pace: Pace, stop: &AtomicBool) -> io::Result<Tally> {
        match pace {
            Pace::Window(window) => self.keep_full(window, stop)?,
            Pace::Rate(rate) => self.keep_pace(rate, false, stop)?,
            Pace::RateAsleep(rate) => self.keep_pace(rate, true, stop)?,
        }
        Ok(self.tally)
    }

    fn keep_full(&mut self, window: usize, stop: &AtomicBool) -> io::Result<()> {
        let mut mail = Mail::new();
        for socket in 0..self.sockets.len() {
            self.ask_in(&mut mail, socket, 0..window)?;
        }
        let mut answered = Vec::with_capacity(BATCH);
        let mut looked = Instant::now();
        while !stop.load(Relaxed) {
            let mut is_busy = false;
            for socket in readable(&self.sockets, Duration::ZERO)? {
                is_busy |= self.receive(&mut mail, socket, &mut answered)? == BATCH;
                // What comes meanwhile waits for the next turn, so that no socket has to wait for another.
                self.ask_in(&mut mail, socket, answered.drain(..))?;
            }
            if looked.elapsed() > LOOK {
                self.give_up(&mut mail)?;
                looked = Instant::now();
            }
            if !is_busy {
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Takes a batch of answers that have come to a socket, and adds their slots to `answered`. Says how many datagrams that
    /// were.
    fn receive(
        &mut self,
        mail: &mut Mail,
        socket: usize,
        answered: &mut Vec<usize>,
    ) -> io::Result<usize> {
        let socket = &mut self.sockets[socket];
        let received = socket.receive(mail)?;
        let (now, is_observed) = (Instant::now(), self.load.is_observed());
        let before = answered.len();
        for at in 0..received {
            let Some(answer) = socket.answered(mail.received(at)) else {
                continue;
            };
            answered.push(answer.slot);
            if is_observed {
                let latency = microseconds(now.saturating_duration_since(answer.asked));
                self.tally.latencies.saturating_record(latency);
                self.tally.wrong += u64::from(!answer.is_right);
            }
        }
        let count = answered.len() - before;
        self.answered.fetch_add(count as u64, Relaxed);
        Ok(received)
    }

    fn ask_in(
        &mut self,
        mail: &mut Mail,
        socket: usize,
        slots: impl IntoIterator<Item = usize>,
    ) -> io::Result<()> {
        let socket = &mut self.sockets[socket];
        let now = Instant::now();
        for slot in slots {
            socket.ask(mail, slot, &mut self.questions, now)?;
        }
        socket.send(mail)
    }

    /// Counts what has been without an answer for too long, and asks again.
    fn give_up(&mut self, mail: &mut Mail) -> io::Result<()> {
        let Some(moment) = Instant::now().checked_sub(LOST) else {
            return Ok(()); // the machine has just started
        };
        for socket in 0..self.sockets.len() {
            let lost: Vec<_> = self.sockets[socket].waiting_since(moment).collect();
            self.tally.lost += lost.len() as u64 * u64::from(self.load.is_observed());
            self.ask_in(mail, socket, lost)?;
        }
        Ok(())
    }

    /// Unless it `sleeps`, the time to wake up does not count as the server's.
    fn keep_pace(&mut self, rate: u32, sleeps: bool, stop: &AtomicBool) -> io::Result<()> {
        let mut mail = Mail::new();
        let mut answered = Vec::with_capacity(BATCH);
        let (mut ticks, mut asked) = (0_u32, 0_u64);
        let begun = Instant::now();
        while !stop.load(Relaxed) {
            // The slots of all sockets are taken in turn, some by some.
            let intended = begun + TICK * ticks;
            if Instant::now() >= intended {
                ticks += 1;
                let due = u64::from(rate) * u64::from(ticks) * TICK.as_micros() as u64 / 1_000_000;
                self.ask_at(&mut mail, intended, asked..due)?;
                asked = due;
            }
            let rest = match sleeps {
                true => (begun + TICK * ticks).saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            for socket in readable(&self.sockets, rest)? {
                self.receive(&mut mail, socket, &mut answered)?;
                answered.clear();
            }
        }
        self.wait_for_the_last(&mut mail)
    }

    /// Asks the queries of these numbers, each socket some of them.
    fn ask_at(
        &mut self,
        mail: &mut Mail,
        intended: Instant,
        numbers: std::ops::Range<u64>,
    ) -> io::Result<()> {
        let sockets = self.sockets.len() as u64;
        let is_observed = self.load.is_observed();
        for (at, socket) in (0_u64..).zip(&mut self.sockets) {
            // Number n is the socket's n / sockets-th.
            let of_socket = |below: u64| (below + sockets - 1 - at) / sockets;
            for number in of_socket(numbers.start)..of_socket(numbers.end) {
                let slot = (number % ALL_IDS as u64) as usize;
                let is_lost = socket.ask(mail, slot, &mut self.questions, intended)?;
                self.tally.lost += u64::from(is_lost && is_observed);
            }
            socket.send(mail)?;
        }
        Ok(())
    }

    /// Those that are on their way when it ends are not lost, unless they stay away.
    fn wait_for_the_last(&mut self, mail: &mut Mail) -> io::Result<()> {
        let mut answered = Vec::new();
        let end = Instant::now();
        let waiting = |sockets: &[Socket]| -> usize {
            let of_socket = sockets
                .iter()
                .map(|socket| socket.waiting_since(end).count());
            of_socket.sum()
        };
        while end.elapsed() < LOST && waiting(&self.sockets) > 0 {
            for socket in readable(&self.sockets, Duration::ZERO)? {
                self.receive(mail, socket, &mut answered)?;
            }
        }
        self.tally.lost += waiting(&self.sockets) as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_query_is_later_than_all_that_were_answered() {
        let mut tally = Tally {
            latencies: latencies().unwrap(),
            lost: 0,
            wrong: 0,
        };
        for latency in 1..=100 {
            tally.latencies.record(latency).unwrap();
        }
        assert_eq!([0.5, 0.99].map(|share| tally.latency(share)), [50, 99]);
        tally.lost = 1;
        assert_eq!(tally.latency(0.99), 100);
        tally.lost = 2;
        assert_eq!(tally.latency(0.99), microseconds(LOST));
        tally.lost = 100;
        assert_eq!(tally.latency(0.5), 100);
    }
}
