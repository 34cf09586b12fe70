//! One worker: receive a batch, answer it in place, send the batch. No allocation, no await, no lock but the table's.
//!
//! The functions stand in the order in which a datagram passes them.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::metrics::{Dropped, Metrics, Tally};
use crate::query::Silence;
use crate::server::{Response, Transport, respond};
use crate::sys::{Batch, Exchange};
use crate::table::Table;

/// Answers what comes to `socket` until `stopping`.
///
/// # Errors
/// If the socket does not work.
pub(crate) fn work(
    socket: &UdpSocket,
    table: &Table,
    metrics: &Metrics,
    stopping: &AtomicBool,
) -> io::Result<()> {
    let mut batch = Batch::new();
    let mut tally = Tally::default();
    while !stopping.load(Ordering::Relaxed) {
        let received = match batch.receive(socket.as_fd()) {
            Ok(received) => received,
            Err(error) if is_pause(&error) => continue,
            Err(error) => return Err(error),
        };
        for i in 0..received {
            answer(batch.exchange(i), table, &mut tally);
        }
        let not_sent = batch.send(socket.as_fd());
        tally.dropped(Dropped::NotSent, not_sent);
        metrics.add(Transport::Udp, &mut tally);
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

fn answer(mut exchange: Exchange<'_>, table: &Table, tally: &mut Tally) {
    if exchange.is_cut() {
        return tally.dropped(Dropped::TooLong, 1);
    }
    if exchange.source_port() == 0 {
        return tally.dropped(Dropped::PortZero, 1);
    }
    let (message, out) = exchange.parts();
    match respond(table, Transport::Udp, message, out) {
        Response::Reply {
            len,
            kind,
            truncated,
        } => {
            exchange.reply(len);
            tally.reply(kind, truncated);
        }
        Response::Silence(Silence::Short) => tally.dropped(Dropped::Short, 1),
        Response::Silence(Silence::Response) => tally.dropped(Dropped::Response, 1),
        Response::NoRoom => tally.dropped(Dropped::NotWritten, 1),
    }
}
