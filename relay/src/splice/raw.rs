//! The raw connection beside a carrier: had when it is wanted, and what passes over it.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::net::Shutdown;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, send};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use wire::ResetCode;
use wire::frame::Ticket;
use wire::segment::Notice;

use crate::buffers;
use crate::carrier::raw::{Dialler, TICKET_TIME};
use crate::carrier::{Received, Receiver, Sender, pipes};
use crate::held;
use crate::turns::{self, Turn};

use super::paced::Room;
use super::sockets::when_writable;
use super::{Direction, End, LINGER, Observer, Pump, RawWay, end, lock};

/// How often it is looked whether a near end that takes no more has said all it had to say.
const DEAF_LOOK: Duration = Duration::from_millis(50);

/// What is passed on at a time, in octets, to a near end that has not shown yet that it reads: so much is in hand while it does not,
/// and no pipe, of which there are few.
const UNPROVED: usize = 16 * 1024;

/// Which of two connections broke while bytes passed from one to the other.
enum Broke {
    From,
    To,
}

impl<O: Observer> Pump<'_, O> {
    pub(super) fn dial(&self, ticket: Ticket) -> io::Result<()> {
        lock(&self.ticket).get_or_insert(ticket);
        self.tell(&self.raw_told);
        Ok(())
    }

    pub(super) fn switch(&self) -> io::Result<()> {
        self.outwards.moves.store(true, Relaxed);
        self.tell(&self.outwards_told);
        Ok(())
    }

    /// The raw connection, which the other end uses already.
    async fn raw(&self) -> Option<&TcpStream> {
        if self.raw.get().is_none() {
            let _ = timeout(TICKET_TIME, self.raw_here.heard()).await;
        }
        self.raw.get()
    }

    /// Has the raw connection as soon as it is wanted, and sees to it that both ends use it.
    pub(super) async fn bring_raw(&self) -> Infallible {
        self.raw_told.heard().await;
        Box::pin(self.bring_wanted_raw()).await
    }

    async fn bring_wanted_raw(&self) -> Infallible {
        let stream = match &self.raw_way {
            RawWay::Expect(door, key) if self.observer.takes_raw() => {
                let expected = door.expect(key.clone());
                self.queue(Notice::Dial(expected.ticket));
                let arrived = expected.arrived().await;
                self.observer.raw(arrived.is_some());
                arrived
            }
            RawWay::Dial(dialler) => {
                let ticket = lock(&self.ticket).take();
                match ticket {
                    Some(ticket) => Dialler::clone(dialler).dial(ticket).await.ok(),
                    None => None,
                }
            }
            RawWay::Expect(..) | RawWay::Never => None,
        };
        let Some(stream) = stream else {
            return pending().await; // the stream goes on
        };
        let _ = self.raw.set(stream);
        self.tell(&self.raw_here);
        self.tell(&self.outwards_told);
        if let RawWay::Expect(..) = self.raw_way {
            while !self.inwards.moves.load(Relaxed) {
                self.raw_told.heard().await;
            }
            self.queue(Notice::Switch);
        }
        pending().await
    }

    fn queue(&self, notice: Notice) {
        lock(&self.notices).push_back(notice);
        self.tell(&self.outwards_told);
    }

    pub(super) async fn outwards_raw(&self, sender: &mut Sender, raw: &TcpStream) -> Direction {
        let moved = sender.outgoing.moves();
        if sender.notify(moved).await.is_err() {
            return Direction::Unwanted;
        }
        let mut turn = Turn::default();
        loop {
            turn.next().await;
            if self.send_notices(sender).await.is_err() {
                return Direction::Unwanted;
            }
            tokio::select! {
                biased;
                () = self.outwards_told.heard() => continue,
                ready = poll_fn(|cx| self.near.poll_read_ready(cx)) => if ready.is_err() {
                    return Direction::Broken(End::NearGone);
                },
            }
            match self.pass(self.near, raw, turns::length()).await {
                Ok(Some(0)) => {
                    // Fails only if the raw connection has gone, which the far end then sees.
                    let _ = SockRef::from(raw).shutdown(Shutdown::Write);
                    return end(sender).await;
                }
                Ok(Some(length)) => {
                    sender.outgoing.sent(length);
                    turn.moved(length);
                    self.moved_outwards(length);
                }
                Ok(None) => {}
                Err(Broke::From) => return Direction::Broken(End::NearGone),
                Err(Broke::To) => {
                    // The far end may have gone, or have heard enough: then it has more to say than this.
                    sender.abandon(ResetCode::PeerGone).await;
                    return Direction::Unwanted;
                }
            }
        }
    }

    pub(super) async fn inwards_raw(&self, receiver: &mut Receiver) -> Direction {
        let Some(raw) = self.raw().await else {
            return Direction::Broken(End::FarGone);
        };
        let (mut stream_ended, mut raw_ended, mut near_deaf) = (false, false, false);
        let mut near_reads = false;
        let mut nobody_since = None;
        let mut turn = Turn::default();
        while !receiver.incoming.is_complete() {
            turn.next().await;
            if near_deaf && self.half_closed.load(Relaxed) {
                // Nobody is there any more. What an origin has said last is still on its way, and closing with octets unread
                // would reset it.
                let since = nobody_since.get_or_insert_with(Instant::now);
                if !self.is_agent() || since.elapsed() >= LINGER {
                    return Direction::Unwanted;
                }
            }
            if raw_ended && receiver.incoming.raw_ends().is_err() {
                return Direction::Broken(End::FarGone);
            }
            tokio::select! {
                biased; // what is said first, what passes then
                received = receiver.receive(), if !stream_ended => match received {
                    Ok(Received::End) => stream_ended = true,
                    Ok(Received::Switch) => {
                        let _ = self.switch();
                    }
                    Ok(Received::Chunks(_) | Received::Octets(_) | Received::Moved | Received::Dial(_))
                    | Err(_) => return Direction::Broken(End::FarGone),
                },
                ready = poll_fn(|cx| raw.poll_read_ready(cx)), if !raw_ended && !near_deaf => {
                    if ready.is_err() {
                        return Direction::Broken(End::FarGone);
                    }
                    let most = match near_reads {
                        true => turns::length(),
                        false => UNPROVED,
                    };
                    let passed = tokio::select! {
                        biased;
                        passed = self.pass(raw, self.near, most) => passed,
                        () = poll_fn(|cx| receiver.poll_reset(cx)) => return Direction::Broken(End::FarGone),
                    };
                    match passed {
                        Ok(Some(0)) => raw_ended = true,
                        Ok(Some(length)) => {
                            if receiver.incoming.on_raw(length).is_err() {
                                return Direction::Broken(End::FarGone);
                            }
                            self.moved_inwards(length);
                            turn.moved(length);
                            if !near_reads && held::reads(self.near, self.inwards.octets.load(Relaxed)) {
                                near_reads = true;
                                held::let_grow(raw);
                            }
                        }
                        Ok(None) => {}
                        Err(Broke::From) => return Direction::Broken(End::FarGone),
                        Err(Broke::To) => near_deaf = true,
                    }
                }
                () = sleep(DEAF_LOOK), if near_deaf => {}
            }
        }
        if near_deaf {
            return Direction::Unwanted;
        }
        self.end_near()
    }

    /// Passes on what `from` has and the pace allows, at most so many octets, 0 being its end. `None` if it has nothing after all.
    async fn pass(
        &self,
        from: &TcpStream,
        to: &TcpStream,
        most: usize,
    ) -> Result<Option<usize>, Broke> {
        let mut room = self.room(most).await;
        match most > UNPROVED {
            true => self.pass_some(from, to, &mut room).await,
            false => self.copy_some(from, to, &mut room).await,
        }
    }

    async fn pass_some(
        &self,
        from: &TcpStream,
        to: &TcpStream,
        room: &mut Room<'_>,
    ) -> Result<Option<usize>, Broke> {
        if let Some(mut pipe) = pipes::lend() {
            match from.try_io(Interest::READABLE, || pipe.fill(from, room.octets)) {
                Ok(length) => {
                    room.used(length); // who read it has had it, whatever becomes of it
                    while !pipe.is_empty() {
                        let drained = to.async_io(Interest::WRITABLE, || pipe.drain(to)).await;
                        if drained.is_err() {
                            return Err(Broke::To);
                        }
                    }
                    return Ok(Some(length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if pipes::is_refusal(&error) => {}
                Err(_) => return Err(Broke::From),
            }
        }
        self.observer.copied();
        self.copy_some(from, to, room).await
    }

    async fn copy_some(
        &self,
        from: &TcpStream,
        to: &TcpStream,
        room: &mut Room<'_>,
    ) -> Result<Option<usize>, Broke> {
        let mut lent = buffers::lend();
        let most = room.octets.min(lent.len());
        match from.try_read(&mut lent[..most]) {
            Ok(length) => {
                room.used(length);
                let flags = SendFlags::NOSIGNAL;
                let sent = to.try_io(Interest::WRITABLE, || Ok(send(to, &lent[..length], flags)?));
                let sent = match sent {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    sent => sent.map_err(|_| Broke::To)?,
                };
                if sent < length {
                    // Who waits for long holds no more than what is left.
                    let left: Box<[u8]> = lent[sent..length].into();
                    drop(lent);
                    let mut octets = &left[..];
                    while !octets.is_empty() {
                        let sent = when_writable(to, false, |to| Ok(send(to, octets, flags)?));
                        octets = &octets[sent.await.map_err(|_| Broke::To)?..];
                    }
                }
                Ok(Some(length))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(Broke::From),
        }
    }
}
