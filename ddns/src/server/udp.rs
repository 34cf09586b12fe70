//! One worker: receive a batch, answer it in place, send the batch. No allocation, no await, no lock but the table's.
//!
//! The functions stand in the order in which a datagram passes them.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::metrics::{Dropped, Metrics, Tally};
use crate::query::Silence;
use crate::server::{Context, Identity, Response, Transport, respond};
use crate::sys::{Batch, Exchange, coarse_unix_seconds};
use crate::table::Table;

/// Answers what comes to `socket` until `stopping`.
///
/// # Errors
/// If the socket does not work.
pub(crate) fn work(
    socket: &UdpSocket,
    table: &Table,
    identity: &Identity,
    metrics: &Metrics,
    stopping: &AtomicBool,
) -> io::Result<()> {
    let mut batch = Batch::new();
    let mut worker = Worker {
        table,
        identity,
        unix_seconds: 0,
        tally: Tally::default(),
    };
    while !stopping.load(Ordering::Relaxed) {
        let received = match batch.receive(socket.as_fd()) {
            Ok(received) => received,
            Err(error) if is_pause(&error) => continue,
            Err(error) => return Err(error),
        };
        worker.unix_seconds = coarse_unix_seconds();
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
    table: &'s Table,
    identity: &'s Identity,
    /// When the batch was received.
    unix_seconds: u32,
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
            now: self.unix_seconds,
            identity: self.identity,
        };
        let (message, out) = exchange.parts();
        match respond(self.table, &context, message, out) {
            Response::Reply {
                len,
                kind,
                truncated,
                client,
            } => {
                exchange.reply(len);
                self.tally.reply(kind, truncated, client);
            }
            Response::Silence(Silence::Short) => self.tally.dropped(Dropped::Short, 1),
            Response::Silence(Silence::Response) => self.tally.dropped(Dropped::Response, 1),
            Response::NoRoom => self.tally.dropped(Dropped::NotWritten, 1),
        }
    }
}
