//! DNS over TCP (RFC 7766): many queries on a connection, pipelined, each behind two octets of length. Queries are answered at once,
//! and updates when they are on the disk: neither waits for the other. DNS over TLS (RFC 7858) is the same behind a handshake.
//!
//! The functions stand in the order in which a connection passes them.

mod incoming;
mod under_way;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::incoming::Incoming;
use self::under_way::UnderWay;
use crate::Moment;
use crate::dnssec::Signer;
use crate::dynamic::{Door, Reply, Taken};
use crate::encode::MAX_REPLY;
use crate::metrics::{Dropped, Metrics, Tally};
use crate::query::Silence;
use crate::server::admission::{Admission, Admitted};
use crate::server::tls::{self, Acceptor};
use crate::server::{Client, Context, Identity, Response, Transport, respond};
use crate::table::Table;
use crate::transfer::Transfer;
use crate::unix_seconds;

/// RFC 7766 section 6.2.3 asks for "the order of seconds"; resolvers that have more to ask do so at once.
const IDLE: Duration = Duration::from_secs(10);
/// A whole message comes so soon after its first octet, or never.
const WHOLE_MESSAGE: Duration = Duration::from_secs(5);
/// So long a client may take to read what it has asked for.
const WRITE: Duration = Duration::from_secs(5);
/// The longest message taken. No query comes near it, whose question has 259 octets at most, nor an update of all that a device
/// may have.
const MAX_MESSAGE: usize = 4096;
/// Octets of length in front of a message (RFC 1035 section 4.2.2).
const LENGTH: usize = 2;
/// Replies are gathered up to this much before they are written.
const MAX_GATHERED: usize = 16 << 10;
/// After an error of accept, which tends to be a lack of descriptors: others may be given back meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// TLS handshakes under way at a time: they cost more than all that follows, and whoever is silent holds one for five seconds.
const MAX_HANDSHAKES: usize = 256;
/// The same of one address, so that it takes several to shut others out.
const MAX_HANDSHAKES_OF_ONE: usize = 32;

/// What is asked over connections, and how many there may be.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) table: Arc<Table>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) signer: Option<Arc<Signer>>,
    pub(crate) door: Arc<Door>,
    pub(crate) metrics: Arc<Metrics>,
    /// Of all listeners together.
    pub(crate) admission: Admission,
}

/// Takes connections until `stop`, then ends them; but if the server `has_successor`, whoever came in here has as long to ask as a
/// connection may be idle: the successor takes only those who come later. With an `acceptor` they begin with its handshake.
pub(crate) async fn serve(
    (listener, listening): (Arc<TcpListener>, Arc<DropGuard>),
    acceptor: Option<Acceptor>,
    service: Service,
    stop: CancellationToken,
    has_successor: Arc<AtomicBool>,
) {
    let gate = Gate {
        handshakes: acceptor
            .as_ref()
            .map(|_| Admission::new(MAX_HANDSHAKES, MAX_HANDSHAKES_OF_ONE)),
        service,
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Stopping first, so that a flood of connections cannot put it off.
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    if let Some(connection) = gate.admit(client.ip()) {
                        match acceptor.clone() {
                            None => connections.spawn(connection.run(stream)),
                            Some(acceptor) => connections.spawn(connection.run_tls(stream, acceptor)),
                        };
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no DNS connection can be taken for a moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, listening));
    if has_successor.load(Ordering::Relaxed) {
        let all_ended = async { while connections.join_next().await.is_some() {} };
        // Whoever asks on and on asks the successor next, on another connection (RFC 7766 section 6.2.4).
        let _ = timeout(IDLE, all_ended).await;
    }
    connections.shutdown().await;
}

struct Gate {
    service: Service,
    /// Of a listener for TLS.
    handshakes: Option<Admission>,
}

impl Gate {
    /// A connection that is not admitted is closed without a word: DNS has none for it.
    fn admit(&self, client: IpAddr) -> Option<Connection> {
        let transport = match self.handshakes {
            Some(_) => Transport::Dot,
            None => Transport::Tcp,
        };
        let refused = |limit| self.service.metrics.tcp_refused(transport, limit);
        let handshake = match &self.handshakes {
            Some(handshakes) => handshakes
                .admit(client)
                .inspect_err(|_| refused("handshakes"))
                .ok()
                .map(Some)?,
            None => None,
        };
        let admitted = self.service.admission.admit(client);
        let admitted = admitted.inspect_err(|full| refused(full.label())).ok()?;
        Some(Connection {
            client,
            transport,
            service: self.service.clone(),
            handshake,
            _admitted: admitted,
        })
    }
}

struct Connection {
    client: IpAddr,
    transport: Transport,
    service: Service,
    /// Until the handshake is done.
    handshake: Option<Admitted>,
    _admitted: Admitted,
}

/// Counts a connection as closed however its task ends.
struct Closing {
    metrics: Arc<Metrics>,
    transport: Transport,
    reason: &'static str,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.metrics.tcp_closed(self.transport, self.reason);
    }
}

impl Connection {
    async fn run(self, mut stream: TcpStream) {
        let mut closing = self.open(&stream);
        closing.reason = converse(&mut stream, &self.asker()).await.label();
    }

    async fn run_tls(mut self, stream: TcpStream, acceptor: Acceptor) {
        let mut closing = self.open(&stream);
        let mut stream = match acceptor.accept(stream).await {
            Ok(stream) => stream,
            Err(failure) => {
                self.service.metrics.handshake_failed(failure.label());
                closing.reason = "handshake";
                return;
            }
        };
        self.handshake = None;
        let end = converse(&mut stream, &self.asker()).await;
        closing.reason = end.label();
        if end.is_heard() {
            tls::say_goodbye(&mut stream).await;
        }
    }

    fn open(&self, stream: &TcpStream) -> Closing {
        self.service.metrics.tcp_opened(self.transport);
        // Replies are whole when they are written; to wait for more would only delay them.
        let _ = stream.set_nodelay(true);
        Closing {
            metrics: Arc::clone(&self.service.metrics),
            transport: self.transport,
            reason: "stopped",
        }
    }

    fn asker(&self) -> Asker<'_> {
        Asker {
            client: self.client,
            transport: self.transport,
            table: &self.service.table,
            identity: &self.service.identity,
            signer: self.service.signer.as_deref(),
            door: &self.service.door,
            metrics: &self.service.metrics,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client has closed it.
    Closed,
    /// Nothing was asked for too long.
    Idle,
    /// A message did not arrive in time.
    SlowSender,
    /// The replies were not read in time.
    SlowReader,
    /// A message was longer than any query.
    TooLong,
    /// A message was no query at all.
    NoQuery,
    /// The network says so.
    Broken,
    /// A reply could not be written: a fault of ours.
    NotWritten,
}

impl End {
    fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::SlowSender => "slow_sender",
            Self::SlowReader => "slow_reader",
            Self::TooLong => "too_long",
            Self::NoQuery => "no_query",
            Self::Broken => "broken",
            Self::NotWritten => "not_written",
        }
    }

    /// Whether the client may still listen.
    fn is_heard(self) -> bool {
        !matches!(self, Self::SlowReader | Self::Broken)
    }
}

/// Who asks, and what of.
struct Asker<'c> {
    client: IpAddr,
    transport: Transport,
    table: &'c Table,
    identity: &'c Identity,
    signer: Option<&'c Signer>,
    door: &'c Arc<Door>,
    metrics: &'c Metrics,
}

/// Answers one client until either side has had enough.
async fn converse<S>(stream: &mut S, asker: &Asker<'_>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut incoming = Incoming::new();
    let mut under_way = UnderWay::new();
    let mut replies = Vec::new();
    loop {
        let mut transferring = None;
        let end = answer_all(
            &mut incoming,
            &mut under_way,
            &mut transferring,
            &mut replies,
            asker,
        );
        gather(&mut under_way, &mut replies, asker);
        if let Err(end) = write(stream, &mut replies).await {
            return end;
        }
        if let Some(transfer) = transferring
            && let Err(end) = transfer_all(stream, *transfer, &mut replies).await
        {
            return end;
        }
        if let Some(end) = end {
            return end;
        }
        let is_waiting = incoming.has_whole_message();
        if is_waiting && !under_way.is_full() {
            continue;
        }
        tokio::select! {
            // What is done first: it makes room.
            biased;
            reply = under_way.next() => put(&reply, &mut replies, asker),
            received = incoming.receive(stream), if !is_waiting => match received {
                Ok(()) => {}
                Err(End::Closed) => return finish(stream, &mut under_way, asker).await,
                Err(end) => return end,
            },
        }
    }
}

/// Sends a copy of the zone. A secondary that does not read in time is left, as any client.
async fn transfer_all<S>(
    stream: &mut S,
    mut transfer: Transfer,
    replies: &mut Vec<u8>,
) -> Result<(), End>
where
    S: AsyncWrite + Unpin,
{
    while let Some(message) = transfer.next_message(unix_seconds().into()) {
        replies.extend((message.len() as u16).to_be_bytes());
        replies.extend_from_slice(&message);
        write(stream, replies).await?;
    }
    Ok(())
}

/// The client asks no more, but may still listen.
async fn finish<S>(stream: &mut S, under_way: &mut UnderWay, asker: &Asker<'_>) -> End
where
    S: AsyncWrite + Unpin,
{
    let mut replies = Vec::new();
    while !under_way.is_empty() {
        let Ok(reply) = timeout(IDLE, under_way.next()).await else {
            return End::NotWritten;
        };
        put(&reply, &mut replies, asker);
        gather(under_way, &mut replies, asker);
        if let Err(end) = write(stream, &mut replies).await {
            return end;
        }
    }
    End::Closed
}

/// Writes the replies that there are.
async fn write<S: AsyncWrite + Unpin>(stream: &mut S, replies: &mut Vec<u8>) -> Result<(), End> {
    if replies.is_empty() {
        return Ok(());
    }
    let written = async {
        stream.write_all(replies).await?;
        // TLS may have taken what the system has not.
        stream.flush().await
    };
    match timeout(WRITE, written).await {
        Err(_) => Err(End::SlowReader),
        Ok(Err(_)) => Err(End::Broken),
        Ok(Ok(())) => {
            replies.clear();
            Ok(())
        }
    }
}

/// Adds the replies to updates that are done, as far as there is room.
fn gather(under_way: &mut UnderWay, replies: &mut Vec<u8>, asker: &Asker<'_>) {
    while replies.len() < MAX_GATHERED {
        let Some(reply) = under_way.try_next() else {
            return;
        };
        put(&reply, replies, asker);
    }
}

/// Adds the reply to an update.
fn put(reply: &Reply, replies: &mut Vec<u8>, asker: &Asker<'_>) {
    let mut tally = Tally::default();
    put_one(reply, replies, &mut tally);
    asker.metrics.add(asker.transport, &mut tally);
}

fn put_one(reply: &Reply, replies: &mut Vec<u8>, tally: &mut Tally) {
    replies.extend((reply.octets.len() as u16).to_be_bytes());
    replies.extend_from_slice(&reply.octets);
    tally.reply(reply.kind, false, Client::Unknown);
}

/// Answers the whole messages there are, as far as there is room for the replies. Says if the connection should end.
fn answer_all(
    incoming: &mut Incoming,
    under_way: &mut UnderWay,
    transferring: &mut Option<Box<Transfer>>,
    replies: &mut Vec<u8>,
    asker: &Asker<'_>,
) -> Option<End> {
    let context = Context {
        transport: asker.transport,
        client: asker.client,
        moment: Moment::coarse(),
        identity: asker.identity,
        signer: asker.signer,
        limiter: None, // who asks is where it says
    };
    let mut tally = Tally::default();
    let mut end = None;
    let may_answer = |replies: &[u8], under_way: &UnderWay, transferring: &Option<_>| {
        replies.len() < MAX_GATHERED && !under_way.is_full() && transferring.is_none()
    };
    while end.is_none() && may_answer(replies, under_way, transferring) {
        let Some(message) = incoming.next_message() else {
            break;
        };
        end = answer_one(
            message,
            under_way,
            transferring,
            replies,
            asker,
            &context,
            &mut tally,
        );
    }
    if incoming.is_too_long() {
        tally.dropped(Dropped::TooLong, 1);
        end = end.or(Some(End::TooLong));
    }
    asker.metrics.add(asker.transport, &mut tally);
    end
}

fn answer_one(
    message: &[u8],
    under_way: &mut UnderWay,
    transferring: &mut Option<Box<Transfer>>,
    replies: &mut Vec<u8>,
    asker: &Asker<'_>,
    context: &Context<'_>,
    tally: &mut Tally,
) -> Option<End> {
    let start = replies.len();
    replies.resize(start + LENGTH + MAX_REPLY, 0);
    let (length, out) = replies[start..].split_at_mut(LENGTH);
    match respond(asker.table, context, message, out) {
        Response::Reply {
            len,
            kind,
            truncated,
            client,
        } => {
            length.copy_from_slice(&(len as u16).to_be_bytes());
            replies.truncate(start + LENGTH + len);
            tally.reply(kind, truncated, client);
            None
        }
        Response::Signed => {
            replies.truncate(start);
            match asker.door.take(context, message) {
                Taken::Reply(reply) => put_one(&reply, replies, tally),
                Taken::Waits(waiting) => under_way.add(*waiting, asker.door.tasks()),
                Taken::Transfer(transfer) => *transferring = Some(transfer),
                Taken::Nothing => tally.dropped(Dropped::UnderWay, 1),
            }
            None
        }
        Response::Silence(why) => {
            replies.truncate(start);
            let reason = match why {
                Silence::Short => Dropped::Short,
                Silence::Response => Dropped::Response,
            };
            tally.dropped(reason, 1);
            Some(End::NoQuery)
        }
        Response::Over | Response::NoRoom => {
            replies.truncate(start);
            tally.dropped(Dropped::NotWritten, 1);
            Some(End::NotWritten)
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::io::{AsyncReadExt as _, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::cookie::{Secret, Secrets};
    use crate::dynamic::door::tests as doors;
    use crate::table::tests::with_devices;

    fn message() -> Vec<u8> {
        let mut message = vec![0xAB, 0xCD, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(b"\x04home\x03nas\x04test\0\0\x01\0\x01");
        [&(message.len() as u16).to_be_bytes()[..], &message].concat()
    }

    const REPLY: usize = LENGTH + 12 + 19 + 16;

    /// Talks to a server on a clock that jumps; returns what the client got and how the connection ended.
    async fn talk<F>(client: impl FnOnce(tokio::io::DuplexStream) -> F) -> (F::Output, End)
    where
        F: Future,
    {
        let (ours, mut theirs) = duplex(64 << 10);
        let table = Arc::new(with_devices());
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        let door = doors::door(&table, &metrics);
        let identity = Identity {
            secrets: Secrets::new(Secret::random().unwrap(), None),
            nsid: None,
        };
        let server = async {
            let asker = Asker {
                client: std::net::Ipv4Addr::LOCALHOST.into(),
                transport: Transport::Tcp,
                table: &table,
                identity: &identity,
                signer: None,
                door: &door,
                metrics: &metrics,
            };
            let end = converse(&mut theirs, &asker).await;
            drop(theirs);
            end
        };
        tokio::join!(client(ours), server)
    }

    #[tokio::test(start_paused = true)]
    async fn pipelined_queries_are_answered_in_order() {
        let (replies, end) = talk(|mut stream| async move {
            stream.write_all(&message().repeat(1000)).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut replies = Vec::new();
            stream.read_to_end(&mut replies).await.unwrap();
            replies
        })
        .await;
        assert_eq!(replies.len(), 1000 * REPLY);
        assert_eq!(end, End::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_may_come_octet_by_octet() {
        let (reply, _) = talk(|mut stream| async move {
            for octet in message() {
                stream.write_all(&[octet]).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut reply = [0; REPLY];
            stream.read_exact(&mut reply).await.unwrap();
            reply
        })
        .await;
        assert_eq!(reply[2..4], [0xAB, 0xCD]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_after_ten_seconds() {
        let began = Instant::now();
        let (_, end) = talk(|mut stream| async move {
            let mut octet = [0];
            stream.read(&mut octet).await.unwrap()
        })
        .await;
        assert_eq!((end, began.elapsed().as_secs()), (End::Idle, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_trickles_in_ends_the_connection_after_five() {
        let began = Instant::now();
        let (_, end) = talk(|mut stream| async move {
            for octet in message() {
                if stream.write_all(&[octet]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })
        .await;
        assert_eq!(end, End::SlowSender);
        assert!(began.elapsed() < Duration::from_secs(8));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_left() {
        let (_, end) = talk(|mut stream| async move {
            let flood = message().repeat(10_000);
            let _ = stream.write_all(&flood).await;
        })
        .await;
        assert!(matches!(end, End::SlowReader | End::Broken), "{end:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_query_ends_the_connection() {
        for (octets, expected) in [
            (&[0, 0][..], End::NoQuery),
            (&[0, 3, 1, 2, 3], End::NoQuery),
            (
                &[0, 12, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                End::NoQuery,
            ),
            (&[0x10, 0x01], End::TooLong),
            (&[0xFF, 0xFF, 0, 0], End::TooLong),
        ] {
            let octets = octets.to_vec();
            let (_, end) = talk(|mut stream| async move {
                stream.write_all(&octets).await.unwrap();
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();
                assert!(rest.is_empty());
            })
            .await;
            assert_eq!(end, expected);
        }
    }
}
