//! The TLS carriers of one session: visitors who wait for one, and carriers that wait for a visitor.
//!
//! ```text
//!   visitor ─► take ─► one is at hand                                     ─► it is the visitor's
//!                 └──► none: the agent dials, and the first that comes    ─► is the first visitor's who waits
//!              each time as many more are asked for as visitors come while one is dialled
//! ```
//!
//! A dial takes three round trips, which nobody has to wait for whose carrier is at hand. A device that nobody visits has none.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use prometheus::IntGauge;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::sync::oneshot;
use wire::frame::Ticket;

use crate::carrier::dialled::Dialled;

/// Spare carriers of one device, at most.
const MOST: usize = 128;

/// How long a carrier waits for a visitor. Its agent gives it up after ten seconds.
const SPARE_LIFE: Duration = Duration::from_secs(7);

/// After this long without the carrier a ticket is worth nothing. An agent dials for four seconds.
const TICKET_LIFE: Duration = Duration::from_secs(5);

/// The sessions whose carriers are being dialled.
#[derive(Clone, Debug, Default)]
pub(super) struct Tickets(Arc<DashMap<Ticket, Weak<Carriers>>>);

/// The ticket was never made, is used up or too old, or its session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownTicket;

impl Tickets {
    /// Whether the ticket was made here, and nobody has come with it.
    pub(super) fn know(&self, ticket: &Ticket) -> bool {
        self.0.contains_key(ticket)
    }

    /// Hands a carrier to the session that its ticket was made for. A ticket works once.
    pub(super) fn redeem(&self, ticket: &Ticket, stream: Dialled) -> Result<(), UnknownTicket> {
        let (_, carriers) = self.0.remove(ticket).ok_or(UnknownTicket)?;
        let carriers = carriers.upgrade().ok_or(UnknownTicket)?;
        carriers.arrived(ticket, stream, Instant::now())
    }
}

/// The carriers of one session.
#[derive(Debug)]
pub(crate) struct Carriers {
    tickets: Tickets,
    /// Spare ones of all sessions.
    spares: IntGauge,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Visitors, the first at the front. Some may have stopped waiting.
    waiting: VecDeque<oneshot::Sender<Dialled>>,
    /// Being dialled; the oldest at the front.
    asked: VecDeque<(Ticket, Instant)>,
    /// Without a visitor; the newest last.
    spare: Vec<(Dialled, Instant)>,
    demand: Demand,
    closed: bool,
}

/// What a visitor gets.
pub(super) enum Taken {
    AtHand(Dialled),
    Awaited(oneshot::Receiver<Dialled>),
}

impl Carriers {
    pub(super) fn new(tickets: Tickets, spares: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            tickets,
            spares,
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                asked: VecDeque::new(),
                spare: Vec::new(),
                demand: Demand::new(Instant::now()),
                closed: false,
            }),
        })
    }

    /// A carrier for a visitor who has come, and the tickets with which the agent is to dial others.
    pub(super) fn take(self: &Arc<Self>, now: Instant) -> (Taken, Vec<Ticket>) {
        let mut state = self.state();
        state.demand.arrival(now);
        let taken = loop {
            match state.spare.pop() {
                Some((mut stream, since)) => {
                    self.spares.dec();
                    if now.saturating_duration_since(since) < SPARE_LIFE && is_open(&mut stream) {
                        break Taken::AtHand(stream);
                    }
                }
                None => {
                    let (sender, receiver) = oneshot::channel();
                    if state.closed {
                        return (Taken::Awaited(receiver), Vec::new()); // which will not come
                    }
                    while state
                        .waiting
                        .pop_front_if(|visitor| visitor.is_closed())
                        .is_some()
                    {}
                    state.waiting.push_back(sender);
                    break Taken::Awaited(receiver);
                }
            }
        };
        let wanted = state.waiting.len() + state.demand.spares();
        let missing = wanted.saturating_sub(state.spare.len() + state.asked.len());
        let tickets: Vec<_> = (0..missing).map(|_| Ticket(rand::random())).collect();
        for ticket in &tickets {
            state.asked.push_back((*ticket, now));
            self.tickets.0.insert(*ticket, Arc::downgrade(self));
        }
        (taken, tickets)
    }

    fn arrived(&self, ticket: &Ticket, stream: Dialled, now: Instant) -> Result<(), UnknownTicket> {
        let mut state = self.state();
        let place = state.asked.iter().position(|(asked, _)| asked == ticket);
        let asked = place.and_then(|place| state.asked.remove(place));
        let (_, asked_at) = asked.ok_or(UnknownTicket)?;
        state
            .demand
            .dialled(now.saturating_duration_since(asked_at));
        let mut stream = stream;
        while let Some(visitor) = state.waiting.pop_front() {
            match visitor.send(stream) {
                Ok(()) => return Ok(()),
                Err(back) => stream = back, // has stopped waiting
            }
        }
        if state.closed {
            return Err(UnknownTicket);
        }
        state.spare.push((stream, now));
        self.spares.inc();
        Ok(())
    }

    /// Forgets what is too old.
    pub(super) fn sweep(&self, now: Instant) {
        let mut state = self.state();
        while let Some((ticket, asked_at)) = state.asked.front()
            && now.saturating_duration_since(*asked_at) >= TICKET_LIFE
        {
            self.tickets.0.remove(ticket);
            state.asked.pop_front();
        }
        let before = state.spare.len();
        state
            .spare
            .retain(|(_, since)| now.saturating_duration_since(*since) < SPARE_LIFE);
        self.spares.sub((before - state.spare.len()) as i64);
    }

    /// The session takes no visitors any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for (ticket, _) in state.asked.drain(..) {
            self.tickets.0.remove(&ticket);
        }
        self.spares.sub(state.spare.len() as i64);
        state.spare.clear();
        state.waiting.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing has come on a carrier on which nothing may come yet, not even its end.
fn is_open(stream: &mut Dialled) -> bool {
    let mut octet = [0];
    let mut buffer = ReadBuf::new(&mut octet);
    let mut nobody = Context::from_waker(Waker::noop());
    let read = Pin::new(stream).poll_read(&mut nobody, &mut buffer);
    matches!(read, Poll::Pending)
}

/// How often visitors come, and how long a carrier takes.
#[derive(Debug)]
struct Demand {
    /// When the present period has begun.
    since: Instant,
    /// Visitors of this period, and of the one before.
    now: u32,
    before: u32,
    /// Smoothed as round trips are (RFC 6298).
    dial_time: Duration,
}

impl Demand {
    const PERIOD: Duration = Duration::from_secs(1);

    /// Visitors come in crowds: half as many again as on average.
    const MARGIN: f64 = 1.5;

    fn new(now: Instant) -> Self {
        Self {
            since: now,
            now: 0,
            before: 0,
            dial_time: Duration::ZERO,
        }
    }

    fn arrival(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= Self::PERIOD {
            let follows = elapsed < Self::PERIOD * 2;
            self.before = if follows { self.now } else { 0 };
            self.now = 0;
            self.since = now;
        }
        self.now = self.now.saturating_add(1);
    }

    fn dialled(&mut self, took: Duration) {
        self.dial_time = match self.dial_time.is_zero() {
            true => took,
            false => (self.dial_time * 7 + took) / 8,
        };
    }

    /// How many carriers are to be there or on their way beyond those that are waited for, just after a visitor has come.
    fn spares(&self) -> usize {
        let each_second = f64::from(self.now.max(self.before)) / Self::PERIOD.as_secs_f64();
        let meanwhile = each_second * self.dial_time.as_secs_f64() * Self::MARGIN;
        (meanwhile.ceil() as usize).clamp(1, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second of visitors at even distances.
    fn come(demand: &mut Demand, from: Instant, visitors: u32) {
        for visitor in 0..visitors {
            demand.arrival(from + Demand::PERIOD * visitor / visitors);
        }
    }

    #[test]
    fn as_many_are_spare_as_come_while_one_is_dialled() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        demand.dialled(Duration::from_millis(150));
        for (second, visitors, spares) in [(0, 1, 1), (1, 100, 23), (2, 100, 23), (3, 10_000, MOST)]
        {
            come(&mut demand, start + Demand::PERIOD * second, visitors);
            assert_eq!(demand.spares(), spares, "{visitors} in a second");
        }
    }

    #[test]
    fn a_lull_is_noticed() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        demand.dialled(Duration::from_millis(150));
        come(&mut demand, start, 100);
        demand.arrival(start + Demand::PERIOD);
        assert_eq!(demand.spares(), 23, "the second before counts");
        demand.arrival(start + Demand::PERIOD * 3);
        assert_eq!(demand.spares(), 1);
    }

    #[test]
    fn one_slow_dial_is_not_taken_for_the_rule() {
        let mut demand = Demand::new(Instant::now());
        demand.dialled(Duration::from_millis(100));
        demand.dialled(Duration::from_millis(900));
        assert_eq!(demand.dial_time, Duration::from_millis(200));
    }
}
