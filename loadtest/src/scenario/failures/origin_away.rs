//! A device's service goes away, in four ways; the agent stays, and says why there is no answer.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use relay::agent::{State, ask};
use socket2::{Domain, Socket, Type};
use tokio::time::{sleep, timeout};

use super::scene::Scene;
use super::{BACK, Stage, TUNNELS_LOST, known, served_again, tunnels_closed};
use crate::part::failing_origin::{BREAK, HANG};
use crate::report::{Column, Table};
use crate::scenario::ScenarioError;
use crate::visitor::{Door, VisitError};
use crate::world::{Neighbour, Neighbours, Wish};

/// Longer than the agent waits for an answer, which is what is measured.
const MOST: Duration = Duration::from_secs(180);

/// Between two tries to fill a queue: what is on its way to it has arrived by then.
const FILL: Duration = Duration::from_millis(50);

/// Connections that are enough to fill a queue for one.
const FILLERS: usize = 8;

static STATUS: Column = Column::new("status", "status", 0);
static ANSWERED: Column = Column::new("answered_s", "answered s", 2);
static BROKEN_OFF: Column = Column::new("broken_off", "broken off", 0);
static NOTED: Column = Column::new("noted_by_agent", "noted by the agent", 0);

/// How the service fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Nobody listens.
    Stopped,
    /// Whoever connects hears nothing.
    Blackholed,
    /// It accepts, and does not answer.
    Hangs,
    /// It resets the connection in the middle of the answer.
    BreaksOff,
}

impl Manner {
    const ALL: [Self; 4] = [
        Self::Stopped,
        Self::Blackholed,
        Self::Hangs,
        Self::BreaksOff,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Stopped => "origin_stopped",
            Self::Blackholed => "origin_blackholed",
            Self::Hangs => "origin_hangs",
            Self::BreaksOff => "origin_breaks_off",
        }
    }

    /// What is asked for.
    fn path(self) -> &'static str {
        match self {
            Self::Stopped | Self::Blackholed => "/",
            Self::Hangs => HANG,
            Self::BreaksOff => BREAK,
        }
    }

    /// What the agent is to have noted.
    fn reason(self) -> &'static str {
        match self {
            Self::Stopped => "refused",
            Self::Blackholed => "unreachable",
            Self::Hangs => "no_answer",
            Self::BreaksOff => "broke_off",
        }
    }
}

pub(super) async fn run(stage: &Stage<'_>, table: &mut Table) -> Result<(), ScenarioError> {
    let neighbours = Neighbours::together(stage.plan.carrier).await?;
    let victim = Wish {
        fails: true,
        answer_seconds: stage.plan.answer_seconds,
        ..Scene::victim(&neighbours)
    };
    let mut scene = Scene::set(stage, neighbours, victim).await?;
    for manner in Manner::ALL {
        stage.begin(manner.name());
        let closed = tunnels_closed(&scene.neighbours).await?;
        let noted = noted(&scene.victim, manner).await?;
        scene.beside.begin();
        let blackhole = manner.strike(&mut scene.victim).await?;
        let began = Instant::now();
        let answered = timeout(MOST, visited(&scene.victim.device.door, manner.path())).await;
        let took = began.elapsed().as_secs_f64();
        let (status, broken) = answered.unwrap_or((None, false));
        let more = self::noted(&scene.victim, manner).await? - noted;
        let lost = tunnels_closed(&scene.neighbours).await? - closed;
        // Who is answered at once leaves nothing to see of the bystander.
        sleep(stage.length().saturating_sub(began.elapsed())).await;
        let mut round = known([
            (&STATUS, status),
            (&ANSWERED, Some(took)),
            (&BROKEN_OFF, Some(f64::from(u8::from(broken)))),
            (&NOTED, Some(more)),
            (&TUNNELS_LOST, Some(lost)),
        ]);
        round.extend(scene.beside.figures());
        let mended = Instant::now();
        drop(blackhole);
        manner.mend(&mut scene.victim).await?;
        round.extend(known([(
            &BACK,
            served_again(&scene.victim.device, mended).await?,
        )]));
        table.add(manner.name(), round);
    }
    if let Some(why) = scene.beside.why() {
        table.note(format!("origin, bystander's first failure: {why}"));
    }
    Ok(())
}

impl Manner {
    async fn strike(self, victim: &mut Neighbour) -> io::Result<Option<Blackhole>> {
        match self {
            Self::Stopped => victim.kill_origin(),
            Self::Blackholed => {
                victim.kill_origin();
                return Blackhole::at(victim.origin_at()).await.map(Some);
            }
            Self::Hangs | Self::BreaksOff => {}
        }
        Ok(None)
    }

    async fn mend(self, victim: &mut Neighbour) -> Result<(), ScenarioError> {
        match self {
            Self::Stopped | Self::Blackholed => victim.start_failing_origin().await?,
            Self::Hangs | Self::BreaksOff => {}
        }
        Ok(())
    }
}

/// The status that the visitor hears, if any, and whether the answer was broken off after that.
async fn visited(door: &Door, path: &str) -> (Option<f64>, bool) {
    const OK: f64 = 200.0;
    let Ok(mut visit) = door.enter().await else {
        return (None, false);
    };
    let mut octets = 0;
    let exchanged = visit.exchange(door.get_once(path), |length| octets += length);
    match exchanged.await {
        Ok(()) => (Some(OK), false),
        Err(VisitError::Status(status)) => (Some(f64::from(status.as_u16())), false),
        Err(_) => ((octets > 0).then_some(OK), true),
    }
}

/// How often the agent has noted the reason of this manner.
async fn noted(victim: &Neighbour, manner: Manner) -> Result<f64, ScenarioError> {
    let wrong = |cause: String| ScenarioError::Nothing {
        workload: manner.name(),
        cause,
    };
    let state = State::open(&victim.state).map_err(|error| wrong(error.to_string()))?;
    let status = ask(&state)
        .await
        .map_err(|error| wrong(error.to_string()))?;
    let noted = status.origin.failures.get(manner.reason());
    Ok(noted.copied().unwrap_or_default() as f64)
}

/// A listener whose queue is full: the kernel drops whatever else comes to it, as a firewall would.
struct Blackhole {
    _listener: Socket,
    _fillers: Vec<Socket>,
}

impl Blackhole {
    async fn at(address: SocketAddr) -> io::Result<Self> {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        listener.set_reuse_address(true)?;
        listener.bind(&address.into())?;
        listener.listen(1)?;
        let mut fillers = Vec::new();
        for _ in 0..FILLERS {
            let filler = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            filler.set_nonblocking(true)?;
            let _ = filler.connect(&address.into()); // under way, or for ever
            fillers.push(filler);
        }
        sleep(FILL).await;
        Ok(Self {
            _listener: listener,
            _fillers: fillers,
        })
    }
}
