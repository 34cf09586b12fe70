//! As many updates as a server takes, one name a message and another name each time.
//!
//! Ours gets them signed over TCP connections, with many under way on each; others as [`Mover`] has them, with as many under way, up
//! to 64. Of a reply the code is looked at, and not its signature.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{AT_ONCE, Mover, PATIENCE, Signer, address, message, wire};
use crate::question::NO_ERROR;
use crate::scenario::{Load, ScenarioError, latencies, microseconds};
use crate::world::million::host;
use crate::world::{NameServer, UpdateDoor};

/// How much is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pipes {
    pub(crate) connections: usize,
    /// On each.
    pub(crate) window: usize,
}

impl Pipes {
    /// For the reader of the figures.
    pub(crate) fn sentence(self) -> String {
        let Self {
            connections,
            window,
        } = self;
        let at_once = self.at_once();
        format!(
            "causeway: signed, {connections} TCP connections with {window} updates under way on each; others: unsigned, over UDP, \
             {at_once} under way"
        )
    }

    /// Of those that take them one by one.
    fn at_once(self) -> usize {
        AT_ONCE.min(self.connections * self.window)
    }
}

/// Updates under way until this is dropped.
pub(crate) struct Flood {
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

/// What those who send them share.
struct Seen {
    names: u32,
    /// What the next one is: it says which name, and which address.
    next: AtomicU32,
    acknowledged: AtomicU64,
    /// Without a reply, with their connection.
    lost: AtomicU64,
    /// Of those that were acknowledged while they were observed.
    latencies: Mutex<Histogram<u64>>,
    load: Arc<Load>,
}

impl Flood {
    /// Begins; `None` where names cannot be moved.
    pub(crate) async fn start(
        server: &NameServer,
        pipes: Pipes,
        names: u32,
        load: &Arc<Load>,
    ) -> Result<Option<Self>, ScenarioError> {
        let seen = Arc::new(Seen {
            names,
            next: AtomicU32::new(rand::random()),
            acknowledged: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            latencies: Mutex::new(latencies()?),
            load: Arc::clone(load),
        });
        let mut tasks = JoinSet::new();
        match &server.updates {
            None => return Ok(None),
            Some(UpdateDoor::Dyn2 { tsig, .. }) => {
                let signer = Signer::new(tsig).ok_or_else(|| io::Error::other("no secret"))?;
                for _ in 0..pipes.connections {
                    let pipe = Pipe {
                        server: server.address,
                        signer: signer.clone(),
                        window: pipes.window,
                        seen: Arc::clone(&seen),
                    };
                    tasks.spawn(pipe.keep_full());
                }
            }
            Some(UpdateDoor::Rfc2136) => {
                let Some(mover) = Mover::at(server).await? else {
                    return Ok(None);
                };
                for _ in 0..pipes.at_once() {
                    tasks.spawn(one_by_one(mover.clone(), Arc::clone(&seen)));
                }
            }
        }
        let _tasks = tasks;
        Ok(Some(Self { seen, _tasks }))
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.seen.acknowledged.load(Relaxed)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.seen.lost.load(Relaxed)
    }

    /// A quantile of the times from sending an update to its reply, in microseconds.
    pub(crate) fn latency(&self, quantile: f64) -> u64 {
        let latencies = self.seen.latencies.lock();
        let latencies = latencies.unwrap_or_else(PoisonError::into_inner);
        latencies.value_at_quantile(quantile)
    }
}

impl Seen {
    /// The next name, and a number for its address.
    fn next(&self) -> (u32, u64) {
        let count = self.next.fetch_add(1, Relaxed);
        (count % self.names, count.into())
    }

    fn acknowledged(&self, sent: impl ExactSizeIterator<Item = Instant>) {
        self.acknowledged.fetch_add(sent.len() as u64, Relaxed);
        if self.load.is_observed() {
            let latencies = self.latencies.lock();
            let mut latencies = latencies.unwrap_or_else(PoisonError::into_inner);
            for sent in sent {
                latencies.saturating_record(microseconds(sent.elapsed()));
            }
        }
    }
}

/// Updates as others take them, one after the other.
async fn one_by_one(mut mover: Mover, seen: Arc<Seen>) {
    loop {
        let (number, count) = seen.next();
        let sent = Instant::now();
        match mover.set(number, address(count)).await {
            Ok(()) => seen.acknowledged([sent].into_iter()),
            Err(why) => seen.load.failed(why).await,
        }
    }
}

/// One connection.
struct Pipe {
    server: SocketAddr,
    signer: Signer,
    window: usize,
    seen: Arc<Seen>,
}

impl Pipe {
    /// Keeps it full; when it breaks, another one.
    async fn keep_full(self) {
        loop {
            let mut sent_by_id = vec![None; self.window];
            if let Err(error) = self.exchange(&mut sent_by_id).await {
                let lost = sent_by_id.iter().flatten().count();
                self.seen.lost.fetch_add(lost as u64, Relaxed);
                self.seen.load.failed(error).await;
            }
        }
    }

    /// Sends an update for each id that is free, and frees those that are answered.
    async fn exchange(&self, sent_by_id: &mut [Option<Instant>]) -> io::Result<()> {
        const LENGTH: usize = 2;
        let mut stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let mut free: Vec<u16> = (0..).take(self.window).collect();
        let (mut out, mut octets) = (Vec::new(), Vec::with_capacity(64 << 10));
        loop {
            out.clear();
            let (now, clock) = (Instant::now(), SystemTime::now());
            for id in free.drain(..) {
                self.write(id, clock, &mut out)?;
                if let Some(sent) = sent_by_id.get_mut(usize::from(id)) {
                    *sent = Some(now);
                }
            }
            stream.write_all(&out).await?;
            match timeout(PATIENCE, stream.read_buf(&mut octets)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
            let (mut rest, mut done) = (&octets[..], Vec::new());
            while let Some((length, behind)) = rest.split_first_chunk::<LENGTH>()
                && let Some((reply, behind)) =
                    behind.split_at_checked(u16::from_be_bytes(*length).into())
            {
                rest = behind;
                let &[high, low, _, code, ..] = reply else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                let id = u16::from_be_bytes([high, low]);
                let sent = sent_by_id.get_mut(usize::from(id)).and_then(Option::take);
                let sent = sent.ok_or_else(|| io::Error::other("a reply to nothing"))?;
                free.push(id);
                match code & 0x0f {
                    NO_ERROR => done.push(sent),
                    code => {
                        let why = format!("the answer was {code}");
                        self.seen.load.failed(why).await;
                    }
                }
            }
            let read = octets.len() - rest.len();
            octets.drain(..read);
            self.seen.acknowledged(done.into_iter());
        }
    }

    fn write(&self, id: u16, clock: SystemTime, out: &mut Vec<u8>) -> io::Result<()> {
        let (number, count) = self.seen.next();
        let written = message(number, address(count)).zip(wire(&host(number)));
        let (mut message, name) = written.ok_or(io::ErrorKind::InvalidInput)?;
        message[..2].copy_from_slice(&id.to_be_bytes());
        self.signer.sign(&mut message, &name, clock);
        out.extend(
            u16::try_from(message.len())
                .unwrap_or_default()
                .to_be_bytes(),
        );
        out.extend(message);
        Ok(())
    }
}
