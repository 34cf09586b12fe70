//! Packets vanish both ways once a connection stands: of an agent at rest, of one with a download under way, and of a visitor in the
//! middle of a download. And a visitor who is there, and reads nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::scene::Scene;
use super::{BACK, PATIENCE, Stage, has_begun, known, served_again, tunnels_closed, until};
use crate::part::link::INTERFACE;
use crate::process::{Dropped, FirewallError, Namespace};
use crate::report::{Column, Round, Table};
use crate::scenario::ScenarioError;
use crate::scenario::download::{Download, was_ended};
use crate::world::WorldError;

/// Octets a second of a download.
const RATE: u64 = 1_000_000;

/// Octets of it, a while into it: no more of a beginning.
const BEGUN: u64 = RATE / 4;

/// How long whoever read nothing has to read on.
const READ_TIME: Duration = Duration::from_secs(10);

/// How much of it he takes at a time, and in all: more than the buffers between him and the service hold.
const PORTION: u64 = 64 * 1024;
const READ_ON: usize = 16 << 20;

static REAPED: Column = Column::new("reaped_s", "reaped s", 2);
static NOT_REAPED: Column = Column::new("not_reaped", "not reaped", 0);
static TOLD: Column = Column::new("other_end_told_s", "other end told s", 2);
static MEMORY: Column = Column::new("relay_mib_more", "relay MiB more", 1);
static READS_ON: Column = Column::new("reads_on_mib", "reads on MiB", 0);

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
        let scene = Box::pin(Scene::with_a_far_victim(stage)).await?;
        let name = case.name();
        let round = match case {
            Case::AgentAtRest => Box::pin(agent_vanishes(scene, false)).await?,
            Case::AgentBusy => Box::pin(agent_vanishes(scene, true)).await?,
            Case::VisitorBusy => Box::pin(visitor_vanishes(scene)).await?,
            Case::ZeroWindow => Box::pin(nothing_is_read(scene, stage.length())).await?,
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

async fn agent_vanishes(mut scene: Scene, busy: bool) -> Result<Round, ScenarioError> {
    let octets = Arc::<AtomicU64>::default();
    let download = busy.then(|| {
        let download = Download::of(&scene.victim.device, RATE);
        let octets = Arc::clone(&octets);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let ended = download.once(&octets).await;
            was_ended(&ended).then(Instant::now)
        }))
    });
    if busy {
        has_begun(&octets, BEGUN).await?;
    }
    let closed = tunnels_closed(&scene.neighbours).await?;
    scene.beside.begin();
    let vanished = Instant::now();
    let by_link = format!("iifname {INTERFACE}");
    let dropped = [scene.victim.namespace(), Namespace::Here]
        .map(|end| Dropped::in_namespace(end, &[&by_link]).map_err(firewall));
    let [there, here] = dropped;
    let dropped = (there?, here?);
    let reaped = until(vanished, PATIENCE, async || {
        let now = tunnels_closed(&scene.neighbours).await?;
        Ok((now > closed).then_some(()))
    });
    let reaped = reaped.await?.map(|(seconds, ())| seconds);
    let told = match download {
        Some(download) => match timeout(PATIENCE, download).await {
            Ok(Ok(at)) => at.map(|at| (at - vanished).as_secs_f64()),
            Ok(Err(_)) | Err(_) => None,
        },
        None => None,
    };
    let mut round = reaped_or_not(reaped);
    round.extend(known([(&TOLD, told)]));
    round.extend(scene.beside.figures());
    let mended = Instant::now();
    drop(dropped);
    round.extend(known([(
        &BACK,
        served_again(&scene.victim.device, mended).await?,
    )]));
    Ok(round)
}

async fn visitor_vanishes(mut scene: Scene) -> Result<Round, ScenarioError> {
    let front = scene.neighbours.front();
    let stream = TcpStream::connect(front).await?;
    let port = stream.local_addr()?.port();
    let download = Download::of(&scene.victim.device, RATE);
    let octets = Arc::<AtomicU64>::default();
    let received = Arc::clone(&octets);
    let download = async move { download.once_by(stream, &received).await };
    let _download = AbortOnDropHandle::new(tokio::spawn(download));
    has_begun(&octets, BEGUN).await?;
    // He is the only one the victim has. What the relay counts of all who have gone counts the bystander's newcomers too.
    if visitors(&scene).await? != 1 {
        return Err(ScenarioError::Nothing {
            workload: Case::VisitorBusy.name(),
            cause: "the relay does not know of the visitor".to_owned(),
        });
    }
    // Others may have the same port towards somebody else.
    let front = front.port();
    scene.beside.begin();
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
        Ok((visitors(&scene).await? == 0).then_some(()))
    });
    let reaped = reaped.await?.map(|(seconds, ())| seconds);
    let mut round = reaped_or_not(reaped);
    round.extend(scene.beside.figures());
    Ok(round)
}

async fn nothing_is_read(mut scene: Scene, length: Duration) -> Result<Round, ScenarioError> {
    let relay = scene.neighbours.relay();
    let before = relay.resident()?;
    let mut line = Download::of(&scene.victim.device, RATE).begin().await?;
    scene.beside.begin();
    sleep(length).await;
    let more = relay.resident()?.saturating_sub(before);
    let mut round = scene.beside.figures();
    let mut read = 0;
    let _ = timeout(READ_TIME, async {
        while read < READ_ON {
            match line.forget(PORTION).await {
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

async fn visitors(scene: &Scene) -> Result<usize, WorldError> {
    scene.neighbours.visitors_of(&scene.victim).await
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
