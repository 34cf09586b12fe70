//! Updates that move names: at a fixed rate beside queries, or one after the other, each looked for as soon as it is
//! acknowledged; and as many as a server takes, by this program or by nsupdate.

mod line;
pub(super) mod nsupdate;
pub(super) mod pipes;
mod signature;
mod signed;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::BASE64;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use relay::tls::connect_http2;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{interval, timeout};

use self::line::Line;
pub(super) use self::pipes::{Flood, Pipes};
use self::signature::Signer;
pub(super) use self::signed::{SIGNATURES_MADE, signed_update};
use super::{Column, P50, P99};
use crate::question::{NO_ERROR, question, shows};
use crate::report::Round;
use crate::scenario::{FAILURES, Load, ScenarioError, latencies, microseconds};
use crate::world::million::{ZONE, host, label};
use crate::world::{NameServer, UpdateDoor};

/// How long an update may take until it is acknowledged, and then until it is seen.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a query waits for its answer.
const ANSWER: Duration = Duration::from_millis(500);

/// Updates under way at a time beside queries; more wait for a server that takes fewer than are wanted.
const AT_ONCE: usize = 64;

/// Names that are moved and looked for at a time. Our server lets an address have 50 connections.
const FOLLOWED_AT_ONCE: u32 = 32;

pub(super) static UPDATES: Column = Column::new("updates_per_s", "updates/s", 0);
/// Beside queries, without what those cost.
pub(super) static UPDATE_CPU: Column =
    Column::new("server_cpu_us_per_update", "server CPU µs an update", 1);
pub(super) static UPDATE_P99: Column = Column::new("update_p99_us", "update p99 µs", 0);
static TRIES: Column = Column::new("tries", "tries", 0);
static STALE: Column = Column::new("stale", "stale", 0);

/// Who moves names at one server; cheap to clone.
#[derive(Clone)]
enum Mover {
    Dyn2 {
        sender: SendRequest<Empty<Bytes>>,
        cloud: String,
        key: directory::Token,
    },
    Rfc2136 {
        server: SocketAddr,
    },
    Signed(Box<Line>),
}

impl Mover {
    /// `None` where names cannot be moved.
    async fn at(server: &NameServer) -> Result<Option<Self>, ScenarioError> {
        let (front, roots, key) = match &server.updates {
            None => return Ok(None),
            Some(UpdateDoor::Rfc2136) => {
                let server = server.address;
                return Ok(Some(Self::Rfc2136 { server }));
            }
            Some(UpdateDoor::Dyn2 {
                front, roots, key, ..
            }) => (*front, roots, key.clone()),
        };
        let host = format!("cloud.{ZONE}");
        let stream = TcpStream::connect(front).await?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(connect_http2(stream, &host, roots).await?);
        let (sender, connection) = handshake(TokioExecutor::new(), stream)
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection); // ends when the last sender does
        Ok(Some(Self::Dyn2 {
            sender,
            cloud: format!("https://{host}:{}/nic/update", front.port()),
            key,
        }))
    }

    /// The same with the quickest that our server takes one after the other.
    async fn quick_at(server: &NameServer) -> Result<Option<Self>, ScenarioError> {
        let Some(UpdateDoor::Dyn2 { tsig, .. }) = &server.updates else {
            return Self::at(server).await;
        };
        let signer = Signer::new(tsig).ok_or_else(|| std::io::Error::other("no secret"))?;
        let line = Line::to(server.address, signer);
        Ok(Some(Self::Signed(Box::new(line))))
    }

    /// Gives a name another address. When this returns `Ok`, the server has acknowledged it; otherwise, why it has not.
    async fn set(&mut self, number: u32, address: Ipv4Addr) -> Result<(), String> {
        let set = async {
            match self {
                Self::Dyn2 { sender, cloud, key } => {
                    let user = format!("{}:{}", label(number), key.reveal());
                    let query = format!("hostname={}&myip={address}", host(number));
                    let request = Request::get(format!("{cloud}?{query}"))
                        .header(
                            AUTHORIZATION,
                            format!("Basic {}", BASE64.encode(user.as_bytes())),
                        )
                        .body(Empty::new())
                        .map_err(|error| error.to_string())?;
                    let answer = sender.send_request(request).await;
                    let answer = answer.map_err(|error| error.to_string())?;
                    let status = answer.status();
                    let body = answer.into_body().collect().await;
                    let body = body.map_err(|error| error.to_string())?.to_bytes();
                    let is_done = body.starts_with(b"good ") || body.starts_with(b"nochg ");
                    if status == StatusCode::OK && is_done {
                        Ok(())
                    } else {
                        let word = String::from_utf8_lossy(&body);
                        Err(format!("the answer was {status}, {word:?}"))
                    }
                }
                Self::Rfc2136 { server } => {
                    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
                    let client = client.map_err(|error| error.to_string())?;
                    let update = message(number, address).ok_or("that is no name")?;
                    let mut answer = [0; 512];
                    let exchanged = async {
                        client.connect(*server).await?;
                        client.send(&update).await?;
                        client.recv(&mut answer).await
                    };
                    let length = exchanged.await.map_err(|error| error.to_string())?;
                    match answer.get(3).map(|octet| octet & 0x0f) {
                        Some(NO_ERROR) if length >= 12 => Ok(()),
                        rcode => Err(format!("the answer was {rcode:?}")),
                    }
                }
                Self::Signed(line) => {
                    let update = message(number, address).zip(wire(&host(number)));
                    let (update, name) = update.ok_or("that is no name")?;
                    line.exchange(update, &name).await
                }
            }
        };
        let set = timeout(PATIENCE, set).await;
        set.unwrap_or_else(|_| Err("it was not acknowledged in time".to_owned()))
    }
}

/// An update (RFC 2136 section 2) that replaces the A records of a name by one.
fn message(number: u32, address: Ipv4Addr) -> Option<Vec<u8>> {
    /// Opcode 5; one zone, no prerequisites, two updates.
    const HEADER: [u8; 12] = [0, 0, 5 << 3, 0, 0, 1, 0, 0, 0, 2, 0, 0];
    let (zone, name) = (wire(ZONE)?, wire(&host(number))?);
    let soa_in = [0, 6, 0, 1];
    let all_a = [0, 1, 0, 255, 0, 0, 0, 0, 0, 0]; // section 2.5.2
    let a_in = [0, 1, 0, 1, 0, 0, 0, 60, 0, 4];
    let id = rand::random::<[u8; 2]>();
    let parts: [&[u8]; 9] = [
        &id,
        &HEADER[2..],
        &zone,
        &soa_in,
        &name,
        &all_a,
        &name,
        &a_in,
        &address.octets(),
    ];
    Some(parts.concat())
}

/// A name as it is written in messages.
fn wire(host: &str) -> Option<Vec<u8>> {
    const NAME: usize = 12;
    let question = question(host)?;
    let end = question.len() - 15; // type, class and OPT
    Some(question.get(NAME..end)?.to_vec())
}

/// Another address each time, a public one. There are more of them than names, so that no name gets the one that it has.
fn address(count: u64) -> Ipv4Addr {
    let [.., high, middle, low] = count.to_be_bytes();
    Ipv4Addr::new(11, high, middle, low)
}

/// Updates of random names beside other work, until this is dropped.
pub(super) struct Updates {
    /// How many have been acknowledged while they were observed.
    pub(super) acknowledged: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Updates {
    /// So many a second. Those that fail are the load's failures.
    pub(super) async fn start(
        server: &NameServer,
        rate: u32,
        names: u32,
        load: &Arc<Load>,
    ) -> Result<Option<Self>, ScenarioError> {
        let Some(mover) = Mover::at(server).await? else {
            return Ok(None);
        };
        let acknowledged = Arc::<AtomicU64>::default();
        let (load, counted) = (Arc::clone(load), Arc::clone(&acknowledged));
        let task = tokio::spawn(async move {
            let mut due = interval(Duration::from_secs(1) / rate);
            let mut under_way = JoinSet::new();
            for count in 0.. {
                due.tick().await;
                while under_way.try_join_next().is_some() {}
                if under_way.len() >= AT_ONCE {
                    under_way.join_next().await;
                }
                let (mut mover, load) = (mover.clone(), Arc::clone(&load));
                let counted = Arc::clone(&counted);
                under_way.spawn(async move {
                    let number = rand::random_range(0..names);
                    match mover.set(number, address(count)).await {
                        Ok(()) => {
                            counted.fetch_add(u64::from(load.is_observed()), Relaxed);
                        }
                        Err(why) => load.failed(why).await,
                    }
                });
            }
        });
        Ok(Some(Self {
            acknowledged,
            task: task.abort_handle(),
        }))
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Moves names for so long, and asks for each as soon as that is acknowledged: how many answers did not show it, and how long it
/// took from sending the update to the answer that did. One after the other; `None` where names cannot be moved.
pub(super) async fn update_to_visible(
    server: &NameServer,
    names: u32,
    length: Duration,
) -> Result<Option<(Round, Option<String>)>, ScenarioError> {
    match Mover::at(server).await? {
        Some(mover) => follow(mover, 1, server, names, length).await.map(Some),
        None => Ok(None),
    }
}

/// The same with many at a time, each another name.
pub(super) async fn many_to_visible(
    server: &NameServer,
    names: u32,
    length: Duration,
) -> Result<Option<(Round, Option<String>)>, ScenarioError> {
    match Mover::quick_at(server).await? {
        Some(mover) => follow(mover, FOLLOWED_AT_ONCE, server, names, length)
            .await
            .map(Some),
        None => Ok(None),
    }
}

async fn follow(
    mover: Mover,
    at_once: u32,
    server: &NameServer,
    names: u32,
    length: Duration,
) -> Result<(Round, Option<String>), ScenarioError> {
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(rand::random_range(0..1 << 16)));
    let mut followers = JoinSet::new();
    for _ in 0..at_once {
        let follower = Follower {
            mover: mover.clone(),
            server: server.address,
            names,
            next: Arc::clone(&next),
            until: begun + length,
        };
        followers.spawn(follower.follow());
    }
    let mut all = Followed::new()?;
    while let Some(followed) = followers.join_next().await {
        let followed = followed.map_err(std::io::Error::other)??;
        // They have the same bounds.
        let _ = all.times.add(&followed.times);
        all.stale += followed.stale;
        all.failures += followed.failures;
        all.why = all.why.or(followed.why);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let quantile = |quantile| all.times.value_at_quantile(quantile) as f64;
    let round = vec![
        (&TRIES, all.times.len() as f64),
        (&UPDATES, all.times.len() as f64 / seconds),
        (&P50, quantile(0.5)),
        (&P99, quantile(0.99)),
        (&STALE, all.stale as f64),
        (&FAILURES, all.failures as f64),
    ];
    Ok((round, all.why))
}

/// Moves one name after the other, and looks.
struct Follower {
    mover: Mover,
    server: SocketAddr,
    names: u32,
    /// Counts the moves of all: no two have the same name or address at a time.
    next: Arc<AtomicU64>,
    until: Instant,
}

/// What has come of it.
struct Followed {
    times: Histogram<u64>,
    stale: u64,
    failures: u64,
    /// The first failure.
    why: Option<String>,
}

impl Followed {
    fn new() -> Result<Self, ScenarioError> {
        Ok(Self {
            times: latencies()?,
            stale: 0,
            failures: 0,
            why: None,
        })
    }
}

impl Follower {
    async fn follow(mut self) -> Result<Followed, ScenarioError> {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        client.connect(self.server).await?;
        let mut followed = Followed::new()?;
        while Instant::now() < self.until {
            let count = self.next.fetch_add(1, Relaxed);
            let number = (count % u64::from(self.names)) as u32;
            let address = address(count);
            let sent = Instant::now();
            if let Err(error) = self.mover.set(number, address).await {
                followed.failures += 1;
                followed.why.get_or_insert(error);
                continue;
            }
            match seen(&client, number, address).await? {
                Some(before) => {
                    followed
                        .times
                        .saturating_record(microseconds(sent.elapsed()));
                    followed.stale += before;
                }
                None => {
                    followed.failures += 1;
                    let why = "an acknowledged update was not seen in time";
                    followed.why.get_or_insert(why.to_owned());
                }
            }
        }
        Ok(followed)
    }
}

/// Asks for a name until the answer shows `address`. Says how many did not; `None` if none does in time.
async fn seen(
    client: &UdpSocket,
    number: u32,
    address: Ipv4Addr,
) -> Result<Option<u64>, ScenarioError> {
    let mut question = question(&host(number)).unwrap_or_default();
    let mut octets = [0; 1500];
    let mut stale = 0;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let id = rand::random::<[u8; 2]>();
        question[..2].copy_from_slice(&id);
        client.send(&question).await?;
        let answer = timeout(ANSWER, async {
            loop {
                let length = client.recv(&mut octets).await?;
                // Not one that comes late.
                if octets.starts_with(&id) {
                    return Ok::<_, std::io::Error>(length);
                }
            }
        });
        // A query may be lost: neither stale nor seen.
        let Ok(length) = answer.await else { continue };
        if shows(octets.get(..length?).unwrap_or_default(), address) {
            return Ok(Some(stale));
        }
        stale += 1;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_written_as_rfc_2136_has_it() {
        let octets = message(7, Ipv4Addr::new(203, 0, 1, 2)).unwrap();
        let zone = b"\x07example\x04test\0";
        let name = [b"\x08h0000007", &zone[..]].concat();
        let expected = [
            &[40, 0, 0, 1, 0, 0, 0, 2, 0, 0][..],
            zone,
            &[0, 6, 0, 1],
            &name,
            &[0, 1, 0, 255, 0, 0, 0, 0, 0, 0],
            &name,
            &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 1, 2],
        ];
        assert_eq!(octets[2..], expected.concat());
    }
}
