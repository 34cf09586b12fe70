//! The raw connection beside a visitor's stream: the relay makes a ticket and waits, the agent dials and shows it under a
//! seal, the door at the front checks both and hands the connection to whoever waits.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use dashmap::DashMap;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wire::frame::Ticket;
use wire::raw::{self, Header};
use zeroize::Zeroizing;

use crate::congestion;
use crate::held;
use crate::liveness::SignsOfLife;
use crate::resolve;

/// How long a ticket is good, and how long an agent may take to dial.
pub(crate) const TICKET_TIME: Duration = Duration::from_secs(10);

/// A raw connection at rest shows signs of life this often, for the sake of the NATs on its way.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The key of one tunnel's seals, drawn from its TLS session at both ends. What is computed from it for a seal is thirty times
/// as large, and most tunnels never need one.
#[derive(Clone)]
pub(crate) struct SealKey(Arc<Zeroizing<[u8; Self::LENGTH]>>);

impl SealKey {
    pub(crate) const LENGTH: usize = 32;

    /// The key from the octets that the TLS session gave out under [`raw::EXPORTER_LABEL`].
    pub(crate) fn new(exported: Zeroizing<[u8; Self::LENGTH]>) -> Self {
        Self(Arc::new(exported))
    }

    fn header(&self, ticket: &Ticket) -> [u8; raw::HEADER] {
        let sealed = raw::to_seal(ticket);
        let mut header = [0; raw::HEADER];
        let (to_sealed, to_seal) = header.split_at_mut(raw::SEALED);
        to_sealed.copy_from_slice(&sealed);
        to_seal.copy_from_slice(hmac::sign(&self.hmac(), &sealed).as_ref());
        header
    }

    fn sealed(&self, header: &Header) -> bool {
        hmac::verify(&self.hmac(), &header.sealed, &header.seal).is_ok()
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &**self.0)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(…)")
    }
}

/// Where raw connections arrive at the relay. Clones are the same door.
#[derive(Clone, Debug, Default)]
pub(crate) struct Door(Arc<DashMap<Ticket, Awaited>>);

/// A raw connection that somebody waits for.
#[derive(Debug)]
struct Awaited {
    key: SealKey,
    opener: oneshot::Sender<StdTcpStream>,
}

/// Why a raw connection was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    /// The ticket was never made, has been used, or nobody waits any more.
    UnknownTicket,
    /// The seal is not that of the ticket's tunnel. The ticket is used up all the same.
    BadSeal,
    /// There is more or less than a header of this version, or it did not come in time.
    BadHeader,
}

impl TurnedAway {
    pub(crate) const ALL: [Self; 3] = [Self::UnknownTicket, Self::BadSeal, Self::BadHeader];

    /// The metric label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::UnknownTicket => "unknown_ticket",
            Self::BadSeal => "bad_seal",
            Self::BadHeader => "bad_header",
        }
    }
}

impl Door {
    /// Lets in the connection whose first octets were `header`. A ticket works once.
    pub(crate) fn admit(&self, header: &Header, stream: StdTcpStream) -> Result<(), TurnedAway> {
        let (_, awaited) = self
            .0
            .remove(&header.ticket)
            .ok_or(TurnedAway::UnknownTicket)?;
        if !awaited.key.sealed(header) {
            return Err(TurnedAway::BadSeal);
        }
        awaited
            .opener
            .send(stream)
            .map_err(|_| TurnedAway::UnknownTicket)
    }

    /// Whether somebody waits for the connection with this ticket.
    pub(crate) fn expects(&self, ticket: &Ticket) -> bool {
        self.0.contains_key(ticket)
    }

    /// Makes a ticket for one visitor of the tunnel whose key this is.
    pub(crate) fn expect(&self, key: SealKey) -> Expected {
        let ticket = Ticket(rand::random());
        let (opener, opened) = oneshot::channel();
        self.0.insert(ticket, Awaited { key, opener });
        Expected {
            ticket,
            opened,
            door: self.clone(),
        }
    }
}

/// A raw connection that is expected at the door. Its ticket is worthless once this is dropped.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) ticket: Ticket,
    opened: oneshot::Receiver<StdTcpStream>,
    door: Door,
}

impl Expected {
    /// Waits for it; `None` if it does not come in time. Its receive buffer is [kept small](held::keep_small).
    pub(crate) async fn arrived(mut self) -> Option<TcpStream> {
        let stream = timeout(TICKET_TIME, &mut self.opened).await.ok()?.ok()?;
        let stream = TcpStream::from_std(stream).ok()?;
        prepare(&stream);
        held::keep_small(&stream);
        Some(stream)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.door.0.remove(&self.ticket);
    }
}

/// Dials raw connections for the visitors of one tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Dialler {
    /// The front that the tunnel reached.
    pub(crate) front: SocketAddr,
    pub(crate) key: SealKey,
    /// Hears what passes over them.
    pub(crate) signs: Arc<SignsOfLife>,
    /// Hears of each whether it reached the relay.
    pub(crate) outcomes: mpsc::Sender<bool>,
}

impl Dialler {
    /// Brings the connection for `ticket`.
    pub(crate) async fn dial(self, ticket: Ticket) -> io::Result<TcpStream> {
        let dialled = timeout(TICKET_TIME, async {
            let mut stream = resolve::connect_to(self.front).await?;
            prepare(&stream);
            held::limit_unsent(&stream, held::UNSENT);
            stream.write_all(&self.key.header(&ticket)).await?;
            Ok(stream)
        });
        let dialled = dialled.await.unwrap_or_else(|late| Err(late.into()));
        let _ = self.outcomes.try_send(dialled.is_ok()); // if there are too many, so many are enough
        dialled
    }
}

fn prepare(stream: &TcpStream) {
    // Neither is worth losing the connection over.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    congestion::choose(stream);
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn connection() -> StdTcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
        stream.unwrap().into_std().unwrap()
    }

    fn key(number: u8) -> SealKey {
        SealKey::new([number; SealKey::LENGTH].into())
    }

    fn header(key: &SealKey, ticket: &Ticket) -> Header {
        Header::read(&key.header(ticket)).unwrap()
    }

    #[tokio::test]
    async fn a_ticket_works_once() {
        let door = Door::default();
        let expected = door.expect(key(1));
        let header = header(&key(1), &expected.ticket);
        door.admit(&header, connection().await).unwrap();
        let again = door.admit(&header, connection().await);
        assert_eq!(again, Err(TurnedAway::UnknownTicket));
        expected.arrived().await.unwrap();
    }

    #[tokio::test]
    async fn another_tunnels_seal_does_not_open_and_uses_the_ticket_up() {
        let door = Door::default();
        let expected = door.expect(key(1));
        let foreign = header(&key(2), &expected.ticket);
        let turned_away = door.admit(&foreign, connection().await);
        assert_eq!(turned_away, Err(TurnedAway::BadSeal));
        assert!(expected.arrived().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_worthless_when_nobody_waits_any_more() {
        let door = Door::default();
        let expected = door.expect(key(1));
        let header = header(&key(1), &expected.ticket);
        assert!(expected.arrived().await.is_none(), "time is up");
        let late = door.admit(&header, connection().await);
        assert_eq!(late, Err(TurnedAway::UnknownTicket));
        assert!(door.0.is_empty());
    }
}
