//! Packets vanish both ways once a connection stands: of an agent at rest, of one with a download under way, and of a visitor in the
//! middle of a download. And a visitor who is there, and reads nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use relay::tls::connect_https;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::beside::Beside;
use super::{BACK, PATIENCE, Stage, known, served_again, tunnels_closed, until};
use crate::entrance::Stream;
use crate::part::link::INTERFACE;
use crate::process::{Dropped, FirewallError, Namespace};
use crate::report::{Column, Round, Table};
use crate::scenario::ScenarioError;
use crate::scenario::download::Download;
use crate::world::{Device, Neighbour, Neighbours, Side, Wish, WorldError};

/// Octets a second of a download.
const RATE: u64 = 1_000_000;

/// How long whoever read nothing has to read on.
const READ_TIME: Duration = Duration::from_secs(10);

/// More than the buffers between him and the service hold.
const READ_ON: usize = 16 << 20;

static REAPED: Column = Column {
    key: "reaped_s",
    heading: "reaped s",
    decimals: 2,
};
static NOT_REAPED: Column = Column {
    key: "not_reaped",
    heading: "not reaped",
    decimals: 0,
};
static TOLD: Column = Column {
    key: "other_end_told_s",
    heading: "other end told s",
    decimals: 2,
};
static MEMORY: Column = Column {
    key: "relay_mib_more",
    heading: "relay MiB more",
    decimals: 1,
};
static READS_ON: Column = Column {
    key: "reads_on_mib",
    heading: "reads on MiB",
    decimals: 0,
};

/// Whose packets vanish, and when.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    AgentAtRest,
    AgentBusy,
    VisitorBusy,
    /// Nobody's: he reads nothing.
    ZeroWindow,
}

impl Case {
    const ALL: [Self; 4] = [
        Self::AgentAtRest,
        Self::AgentBusy,
        Self::VisitorBusy,
        Self::ZeroWindow,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::AgentAtRest => "half_open_agent_at_rest",
            Self::AgentBusy => "half_open_agent_busy",
            Self::VisitorBusy => "half_open_visitor_busy",
            Self::ZeroWindow => "zero_window",
        }
    }
}

pub(super) async fn run(stage: &Stage<'_>, table: &mut Table) -> Result<(), ScenarioError> {
    for case in Case::ALL {
        if case != Case::ZeroWindow && !stage.has_link(case.name(), table) {
            continue;
        }
        stage.begin(case.name());
        let scene = Box::pin(Scene::set(stage)).await?;
        let name = case.name();
        let round = match case {
            Case::AgentAtRest => Box::pin(scene.agent_vanishes(false)).await?,
            Case::AgentBusy => Box::pin(scene.agent_vanishes(true)).await?,
            Case::VisitorBusy => Box::pin(scene.visitor_vanishes()).await?,
            Case::ZeroWindow => Box::pin(scene.nothing_is_read(stage.length())).await?,
        };
        if round
            .iter()
            .any(|(column, value)| *column == &NOT_REAPED && *value > 0.0)
        {
            table.note(format!(
                "{name}: it was waited for {} s",
                PATIENCE.as_secs()
            ));
        }
        table.add(name, round);
    }
    Ok(())
}

/// A victim far away, and a bystander who has had its share. What is first ends first.
struct Scene {
    beside: Beside,
    victim: Neighbour,
    _other: Neighbour,
    neighbours: Neighbours,
}

impl Scene {
    async fn set(stage: &Stage<'_>) -> Result<Self, ScenarioError> {
        let neighbours = Neighbours::apart(stage.plan.carrier, &stage.ends).await?;
        let wish = Wish::plain("bystander", Some(neighbours.front()));
        let other = neighbours.settle(wish, &stage.ends).await?;
        let wish = Wish {
            name: "mynas",
            side: Side::Far,
            ..wish
        };
        Ok(Self {
            victim: neighbours.settle(wish, &stage.ends).await?,
            beside: Beside::start(&other.device, stage.length()).await?,
            _other: other,
            neighbours,
        })
    }

    async fn agent_vanishes(mut self, busy: bool) -> Result<Round, ScenarioError> {
        let octets = Arc::<AtomicU64>::default();
        let download = busy.then(|| {
            let (download, octets) = (download(&self.victim.device), Arc::clone(&octets));
            AbortOnDropHandle::new(tokio::spawn(async move {
                drop(download.once(&octets).await);
                Instant::now()
            }))
        });
        if busy {
            has_begun(&octets).await?;
        }
        let closed = tunnels_closed(&self.neighbours).await?;
        self.beside.begin();
        let vanished = Instant::now();
        let by_link = format!("iifname {INTERFACE}");
        let dropped = [self.victim.namespace(), Namespace::Here]
            .map(|end| Dropped::in_namespace(end, &[&by_link]).map_err(firewall));
        let [there, here] = dropped;
        let dropped = (there?, here?);
        let reaped = until(vanished, PATIENCE, async || {
            let now = tunnels_closed(&self.neighbours).await?;
            Ok((now > closed).then_some(()))
        });
        let reaped = reaped.await?.map(|(seconds, ())| seconds);
        let told = match download {
            Some(download) => match timeout(PATIENCE, download).await {
                Ok(Ok(at)) => Some((at - vanished).as_secs_f64()),
                Ok(Err(_)) | Err(_) => None,
            },
            None => None,
        };
        let mut round = reaped_or_not(reaped);
        round.extend(known([(&TOLD, told)]));
        round.extend(self.beside.figures());
        let mended = Instant::now();
        drop(dropped);
        round.extend(known([(
            &BACK,
            served_again(&self.victim.device, mended).await?,
        )]));
        Ok(round)
    }

    async fn visitor_vanishes(mut self) -> Result<Round, ScenarioError> {
        let (mut stream, port) = self.ask_for_bulk().await?;
        let octets = Arc::<AtomicU64>::default();
        let heard = Arc::clone(&octets);
        let _reading = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut room = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = stream.read(&mut room).await {
                heard.fetch_add(length as u64, Relaxed);
                // Not all that there is: others are to have their share of this machine.
                sleep(Duration::from_secs_f64(length as f64 / RATE as f64)).await;
            }
        }));
        has_begun(&octets).await?;
        // He is the only one the victim has. What the relay counts of all who have gone counts the bystander's newcomers too.
        if self.visitors().await? != 1 {
            return Err(ScenarioError::Nothing {
                workload: Case::VisitorBusy.name(),
                cause: "the relay does not know of the visitor".to_owned(),
            });
        }
        // Others may have the same port towards somebody else.
        let front = self.neighbours.front().port();
        self.beside.begin();
        let vanished = Instant::now();
        let _dropped = Dropped::in_namespace(
            Namespace::Here,
            &[
                &format!("tcp sport {port} tcp dport {front}"),
                &format!("tcp sport {front} tcp dport {port}"),
            ],
        )
        .map_err(firewall)?;
        let reaped = until(vanished, PATIENCE, async || {
            Ok((self.visitors().await? == 0).then_some(()))
        });
        let reaped = reaped.await?.map(|(seconds, ())| seconds);
        let mut round = reaped_or_not(reaped);
        round.extend(self.beside.figures());
        Ok(round)
    }

    async fn nothing_is_read(mut self, length: Duration) -> Result<Round, ScenarioError> {
        let relay = self.neighbours.relay();
        let before = relay.resident()?;
        let (mut stream, _) = self.ask_for_bulk().await?;
        self.beside.begin();
        sleep(length).await;
        let more = relay.resident()?.saturating_sub(before);
        let mut round = self.beside.figures();
        let (mut read, mut room) = (0, vec![0; 64 * 1024]);
        let _ = timeout(READ_TIME, async {
            while read < READ_ON {
                match stream.read(&mut room).await {
                    Ok(0) | Err(_) => break,
                    Ok(length) => read += length,
                }
            }
        })
        .await;
        let mib = f64::from(1 << 20);
        round.extend([(&MEMORY, more as f64 / mib), (&READS_ON, read as f64 / mib)]);
        Ok(round)
    }

    /// A visitor who has asked the victim for much, and the port it has.
    async fn ask_for_bulk(&self) -> Result<(Box<dyn Stream>, u16), ScenarioError> {
        let device = &self.victim.device;
        let entrance = device.door.entrance();
        let stream = TcpStream::connect(entrance.front).await?;
        let port = stream.local_addr()?.port();
        let Some((host, roots)) = entrance.tls else {
            return Err(ScenarioError::Nothing {
                workload: Case::VisitorBusy.name(),
                cause: "the device has no host name".to_owned(),
            });
        };
        let mut stream = connect_https(stream, &host, &roots).await?;
        let request = format!("GET {} HTTP/1.1\r\nHost: {host}\r\n\r\n", device.bulk);
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        Ok((Box::new(stream), port))
    }

    async fn visitors(&self) -> Result<usize, WorldError> {
        self.neighbours.visitors_of(&self.victim).await
    }
}

fn download(device: &Device) -> Download {
    Download {
        entrance: device.door.entrance(),
        path: device.bulk.clone(),
        rate: RATE,
    }
}

async fn has_begun(octets: &AtomicU64) -> Result<(), ScenarioError> {
    /// A while into it, and no more of a beginning.
    const ENOUGH: u64 = RATE / 4;
    let begun = until(Instant::now(), PATIENCE, async || {
        Ok((octets.load(Relaxed) > ENOUGH).then_some(()))
    });
    match begun.await? {
        Some(_) => Ok(()),
        None => Err(ScenarioError::Nothing {
            workload: "download",
            cause: "it has not begun".to_owned(),
        }),
    }
}

fn reaped_or_not(reaped: Option<f64>) -> Round {
    let not = f64::from(u8::from(reaped.is_none()));
    known([(&REAPED, reaped), (&NOT_REAPED, Some(not))])
}

fn firewall(error: FirewallError) -> ScenarioError {
    ScenarioError::Nothing {
        workload: "half-open",
        cause: error.to_string(),
    }
}
