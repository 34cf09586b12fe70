//! Datagrams of one visitor, at a pace: the highest rate at which few are lost is looked for, then held, and then half of what arrived.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use quinn_udp::{Transmit, UdpSocketState};
use tokio::time::sleep;

use super::super::{Effort, Observed, Reading, ScenarioError, TICK, throughput};
use crate::datagrams::LENGTH;
use crate::report::{Column, Round};
use crate::world::DatagramWay;

/// So many are handed to the kernel at once at most.
const AT_ONCE: usize = 32;

/// Fewer are waited for: who sends each by itself is what would be measured.
const FEW: u64 = 8;

const PAUSE: Duration = Duration::from_micros(200);

/// The first rate that is tried, in Mbit/s, how much more the next one is, and how long each is held.
const FIRST: f64 = 100.0;
const FASTER: f64 = 1.4;
const TRIAL: Duration = Duration::from_secs(1);

/// A rate at which more are lost is too high, and after two of those no higher one is tried.
const FEW_LOST_PERCENT: f64 = 5.0;
const TOO_HIGH: u32 = 2;

/// What is on its way has come when nothing has for so long; and it is waited for no longer than that.
const QUIET: Duration = Duration::from_millis(300);
const LAST: Duration = Duration::from_secs(10);

static OFFERED: Column = Column::new("offered_mbit_per_s", "offered Mbit/s", 0);
static RATE: Column = Column::new("mbit_per_s", "Mbit/s", 0);
static LOST: Column = Column::new("lost_percent", "lost %", 2);
static WHOLE: Column = Column::new("whole_again_s", "whole again s", 2);
static HALF: Column = Column::new("half_mbit_per_s", "half: Mbit/s", 0);
static HALF_LOST: Column = Column::new("half_lost_percent", "half: lost %", 2);

/// A way that has had too much may carry nothing of that length for a while. It is whole again when so many have come, one after the
/// other; who sends more than that before is measured by what he has done before.
const WHOLE_AGAIN: u64 = 20;
const RECOVERS: Duration = Duration::from_secs(30);

/// What became of what was sent at one rate.
struct Passed {
    sent: u64,
    /// How long it was sent for.
    sending: Duration,
    /// What arrived, from the first that was sent to the last that came, and what it cost.
    observed: Observed,
}

impl Passed {
    fn offered(&self) -> f64 {
        megabits(self.sent as f64) / self.sending.as_secs_f64()
    }

    fn arrived(&self) -> f64 {
        megabits(self.observed.count) / self.observed.seconds
    }

    fn lost_percent(&self) -> f64 {
        100.0 * (1.0 - self.observed.count / self.sent.max(1) as f64)
    }
}

fn megabits(datagrams: f64) -> f64 {
    datagrams * LENGTH as f64 * 8.0 / 1e6
}

/// At `megabits` a second, or at the highest rate at which few are lost. `None` if nothing arrives.
pub(super) async fn measure(
    way: &DatagramWay,
    megabits: Option<f64>,
    effort: Effort,
) -> Result<Option<Round>, ScenarioError> {
    let rate = match megabits {
        Some(megabits) => megabits,
        None => best(way).await?,
    };
    let passed = pass(way, rate, effort.length()).await?;
    if passed.observed.count == 0.0 {
        return Ok(None);
    }
    let mut figures = vec![
        (&OFFERED, passed.offered()),
        (&RATE, passed.arrived()),
        (&LOST, passed.lost_percent()),
    ];
    let gigabytes = passed.observed.count * LENGTH as f64 / 1e9;
    figures.extend(throughput::costs(&passed.observed, gigabytes));
    figures.push((&WHOLE, until_whole(way).await?.as_secs_f64()));
    let half = pass(way, passed.arrived() / 2.0, effort.length()).await?;
    figures.push((&HALF, half.arrived()));
    figures.push((&HALF_LOST, half.lost_percent()));
    Ok(Some(figures))
}

/// The highest rate at which few are lost, in Mbit/s. No rate is higher than what whoever sends can do.
async fn best(way: &DatagramWay) -> Result<f64, ScenarioError> {
    let (mut rate, mut too_high) = (FIRST, 0);
    let mut best = FIRST;
    while too_high < TOO_HIGH {
        let passed = pass(way, rate, TRIAL).await?;
        until_whole(way).await?;
        if passed.offered() < rate * 0.9 {
            break;
        }
        if passed.lost_percent() > FEW_LOST_PERCENT {
            too_high += 1;
        } else {
            (best, too_high) = (rate, 0);
        }
        rate *= FASTER;
    }
    Ok(best)
}

/// How long it takes until what was too much is forgotten.
async fn until_whole(way: &DatagramWay) -> Result<Duration, ScenarioError> {
    let begun = Instant::now();
    let mut whole = 0;
    while whole < WHOLE_AGAIN && begun.elapsed() < RECOVERS {
        let before = way.came()?;
        let _ = way.socket.send_to(&[7; LENGTH], way.entrance); // if there is no room, another one will be
        sleep(TICK / 4).await;
        whole = match way.came()? > before {
            true => whole + 1,
            false => 0,
        };
    }
    Ok(begun.elapsed())
}

async fn pass(way: &DatagramWay, megabits: f64, time: Duration) -> Result<Passed, ScenarioError> {
    let rate = megabits * 1e6 / 8.0 / LENGTH as f64;
    let sender = Sender {
        socket: way.socket.try_clone()?,
        state: UdpSocketState::new((&way.socket).into())?,
        to: way.entrance,
    };
    let before = Reading::take(way.watched, way.came()?)?;
    let sending = tokio::task::spawn_blocking(move || sender.send(rate, time));
    let (sent, sending) = sending.await.map_err(io::Error::other)?;
    let mut came = way.came()?;
    let (mut last, ended) = (Instant::now(), Instant::now());
    while last.elapsed() < QUIET && ended.elapsed() < LAST {
        sleep(QUIET / 30).await;
        let now = way.came()?;
        if now != came {
            (came, last) = (now, Instant::now());
        }
    }
    let mut after = Reading::take(way.watched, came)?;
    after.at = last;
    Ok(Passed {
        sent,
        sending,
        observed: before.until(after),
    })
}

struct Sender {
    socket: UdpSocket,
    state: UdpSocketState,
    to: SocketAddr,
}

impl Sender {
    /// So many a second for so long. How many there were, and how long it took.
    fn send(&self, rate: f64, time: Duration) -> (u64, Duration) {
        let octets = vec![7; LENGTH * AT_ONCE];
        let (begun, mut sent) = (Instant::now(), 0_u64);
        while begun.elapsed() < time {
            let due = (begun.elapsed().as_secs_f64() * rate) as u64;
            let due = due.saturating_sub(sent);
            if due < FEW {
                std::thread::sleep(PAUSE);
                continue;
            }
            let count = usize::try_from(due).unwrap_or(AT_ONCE).min(AT_ONCE);
            let transmit = Transmit {
                destination: self.to,
                ecn: None,
                contents: &octets[..count * LENGTH],
                segment_size: Some(LENGTH),
                src_ip: None,
            };
            // Where the kernel has no room, there is another try.
            if self
                .state
                .try_send((&self.socket).into(), &transmit)
                .is_ok()
            {
                sent += count as u64;
            }
        }
        (sent, begun.elapsed())
    }
}
