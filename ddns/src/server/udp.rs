//! One worker: receive a batch, have what it asks for brought near, answer it in place, send the batch. No allocation, no await, no lock but the table's.
//!
//! The functions stand in the order in which a datagram passes them.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use crate::Moment;
use crate::dnssec::Signer;
use crate::metrics::{Dropped, Limited, Metrics, Tally};
use crate::query::Silence;
use crate::server::rate::Limiter;
use crate::server::signed::Datagram;
use crate::server::{Context, Identity, Kind, Response, Transport, respond, respond_in_short};
use crate::sys::{Batch, Exchange};
use crate::table::Table;

/// Answers what comes to `socket` until `stopping`.
///
/// # Errors
/// If the socket does not work.
pub(crate) fn work(
    socket: &Arc<UdpSocket>,
    signed: &mpsc::Sender<Datagram>,
    table: &Table,
    identity: &Identity,
    signer: Option<&Signer>,
    limiter: Option<&Limiter>,
    metrics: &Metrics,
    stopping: &AtomicBool,
) -> io::Result<()> {
    let mut batch = Batch::new();
    let mut worker = Worker {
        socket,
        signed,
        table,
        identity,
        signer,
        limiter,
        moment: Moment::default(),
        limited: 0,
        tally: Tally::default(),
    };
    while !stopping.load(Ordering::Relaxed) {
        let received = match batch.receive(socket.as_fd()) {
            Ok(received) => received,
            Err(error) if is_pause(&error) => continue,
            Err(error) => return Err(error),
        };
        worker.moment = Moment::coarse();
        table.bring_near(batch.messages());
        for i in 0..received {
            worker.answer(batch.exchange(i));
        }
        let not_sent = batch.send(socket.as_fd());
        worker.tally.dropped(Dropped::NotSent, not_sent);
        metrics.add(Transport::Udp, &mut worker.tally);
    }
    Ok(())
}

/// Nothing has come for a while, or a signal did.
fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

struct Worker<'s> {
    socket: &'s Arc<UdpSocket>,
    signed: &'s mpsc::Sender<Datagram>,
    table: &'s Table,
    identity: &'s Identity,
    signer: Option<&'s Signer>,
    limiter: Option<&'s Limiter>,
    /// When the batch was received.
    moment: Moment,
    /// How many queries were limited, wrapping.
    limited: u32,
    tally: Tally,
}

impl Worker<'_> {
    fn answer(&mut self, mut exchange: Exchange<'_>) {
        if exchange.is_cut() {
            return self.tally.dropped(Dropped::TooLong, 1);
        }
        let Some(source) = exchange.source().filter(|source| source.port() != 0) else {
            return self.tally.dropped(Dropped::PortZero, 1);
        };
        let context = Context {
            transport: Transport::Udp,
            client: source.ip(),
            moment: self.moment,
            identity: self.identity,
            signer: self.signer,
            limiter: self.limiter,
        };
        let (message, out) = exchange.parts();
        let mut response = respond(self.table, &context, message, out);
        if response == Response::Over && self.slips() {
            response = self.in_short(&context, message, out);
        }
        match response {
            Response::Reply {
                len,
                kind,
                truncated,
                client,
            } => {
                exchange.reply(len);
                self.tally.reply(kind, truncated, client);
            }
            Response::Over => {
                self.tally.limited(Limited::Dropped);
                self.tally.dropped(Dropped::Limited, 1);
            }
            Response::Signed => self.hand_over(exchange, source.ip()),
            Response::Silence(Silence::Short) => self.tally.dropped(Dropped::Short, 1),
            Response::Silence(Silence::Response) => self.tally.dropped(Dropped::Response, 1),
            Response::NoRoom => self.tally.dropped(Dropped::NotWritten, 1),
        }
    }

    /// Whether this one of those that are limited gets a short answer.
    fn slips(&mut self) -> bool {
        self.limited = self.limited.wrapping_add(1);
        let limiter = self.limiter;
        limiter.is_some_and(|limiter| limiter.slips(self.limited))
    }

    fn in_short(&mut self, context: &Context<'_>, message: &[u8], out: &mut [u8]) -> Response {
        let response = respond_in_short(context, message, out);
        let is_cookie = matches!(
            response,
            Response::Reply {
                kind: Kind::BadCookie,
                ..
            }
        );
        self.tally.limited(if is_cookie {
            Limited::BadCookie
        } else {
            Limited::Slipped
        });
        response
    }

    /// The only allocation on this way, which a query never takes.
    fn hand_over(&mut self, mut exchange: Exchange<'_>, client: IpAddr) {
        let datagram = Datagram {
            socket: Arc::clone(self.socket),
            origin: exchange.origin(),
            client,
            message: exchange.parts().0.into(),
        };
        if self.signed.try_send(datagram).is_err() {
            self.tally.dropped(Dropped::TooManySigned, 1);
        }
    }
}
