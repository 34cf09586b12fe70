//! Visitors of devices at a relay that is lost. Each asks the name server where the device is, goes there, and asks again until it
//! is served.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::seq::SliceRandom as _;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::question::{question, shows};
use crate::visitor::Door;
use crate::world::several::{Habit, Visited, Way};

/// How often one comes to each device.
const EVERY: Duration = Duration::from_millis(500);

/// How long a visitor waits for one address until it tries the next, and for the name server.
const ATTEMPT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_millis(500);

/// Between two tries of one visitor.
const PAUSE: Duration = Duration::from_millis(50);

/// After this long a visitor leaves, and that is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Those who come.
pub(super) struct Visitors {
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    coming: AbortOnDropHandle<()>,
}

/// How they fared.
#[derive(Debug, Default)]
pub(super) struct Seen {
    waits: Vec<(Habit, Duration)>,
    /// Who was not served at all.
    pub(super) failures: u64,
    /// Of the first of them.
    pub(super) why: Option<String>,
}

impl Seen {
    pub(super) fn longest_wait(&self, habit: Habit) -> Option<Duration> {
        let waits = self.waits.iter().filter(|(of, _)| *of == habit);
        waits.map(|(_, wait)| *wait).max()
    }
}

impl Visitors {
    /// From now on they come to each of `devices`, the first at once.
    pub(super) fn come(way: Way, devices: Vec<Visited>) -> Self {
        let (seen, stop) = (Arc::default(), CancellationToken::new());
        let coming = come(Arc::new(way), devices, Arc::clone(&seen), stop.clone());
        Self {
            seen,
            stop,
            coming: AbortOnDropHandle::new(tokio::spawn(coming)),
        }
    }

    /// No more come; returns once those who are there have been served or have left.
    pub(super) async fn stop(self) -> Seen {
        self.stop.cancel();
        let _ = self.coming.await;
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn come(
    way: Arc<Way>,
    devices: Vec<Visited>,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
) {
    let mut visitors = JoinSet::new(); // dropped with this future, and every visitor with it
    let mut ticks = interval(EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        for device in &devices {
            let (way, device, seen) = (Arc::clone(&way), device.clone(), Arc::clone(&seen));
            visitors.spawn(async move {
                let came = Instant::now();
                let served = visit(&way, &device.host).await;
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.waits.push((device.habit, came.elapsed()));
                if let Err(why) = served {
                    seen.failures += 1;
                    seen.why.get_or_insert(why);
                }
            });
        }
    }
    while visitors.join_next().await.is_some() {}
}

/// Until the device's service has answered; the last reason why it has not, once patience ends.
async fn visit(way: &Way, host: &str) -> Result<(), String> {
    let came = Instant::now();
    loop {
        let why = match once(way, host).await {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        if came.elapsed() > PATIENCE {
            return Err(why);
        }
        sleep(PAUSE).await;
    }
}

/// At each of the addresses that the name has now, in any order, as resolvers give them.
async fn once(way: &Way, host: &str) -> Result<(), String> {
    let mut fronts = addresses(way, host).await?;
    fronts.shuffle(&mut rand::rng());
    let mut why = format!("{host} leads nowhere");
    for front in fronts {
        let Some(door) = Door::new(front, host, way.roots.clone()) else {
            return Err(format!("{host} is no host name"));
        };
        let visited = timeout(ATTEMPT, async {
            door.enter().await?.exchange_soon(door.get_once("/")).await
        });
        match visited.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("{front} says nothing"),
        }
    }
    Err(why)
}

async fn addresses(way: &Way, host: &str) -> Result<Vec<SocketAddr>, String> {
    let words = |error: std::io::Error| format!("the name server: {error}");
    let mut asked = question(host).ok_or_else(|| format!("{host} is no name"))?;
    let id = rand::random::<u16>().to_be_bytes();
    asked[..2].copy_from_slice(&id);
    let socket = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(words)?;
    socket.set_nonblocking(true).map_err(words)?;
    let socket = UdpSocket::from_std(socket).map_err(words)?;
    socket.connect(way.dns).await.map_err(words)?;
    socket.send(&asked).await.map_err(words)?;
    let mut room = [0; 1232];
    let heard = timeout(ANSWER, socket.recv(&mut room)).await;
    let length = heard.map_err(|_| "the name server says nothing".to_owned())?;
    let answer = &room[..length.map_err(words)?];
    let mut fronts = Vec::new();
    if answer.starts_with(&id) {
        let found = way
            .fronts
            .iter()
            .filter(|(address, _)| shows(answer, **address));
        fronts.extend(found.map(|(_, front)| *front));
    }
    Ok(fronts)
}
