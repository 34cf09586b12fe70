//! An agent dies without a word, by its process or by its link, while downloads pass and visitors come.

use std::io;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::scene::Scene;
use super::visits::Visits;
use super::{BACK, PATIENCE, Stage, has_begun, known, served_again, tunnels_closed, until};
use crate::part::link::INTERFACE;
use crate::process::Namespace;
use crate::report::{Column, Round, Table};
use crate::scenario::ScenarioError;
use crate::scenario::download::{Download, was_ended};
use crate::world::{Device, Neighbour};

/// Octets a second of each download.
const RATE: u64 = 1_000_000;

/// Visitors that come in a second.
const VISITS: u32 = 20;

/// How long the relay is looked at after everybody knows.
const AFTER: Duration = Duration::from_secs(1);

static DETECTED: Column = Column::new("detected_s", "detected s", 2);
static RESET: Column = Column::new("streams_reset_s", "streams reset s", 2);
static LEFT: Column = Column::new("streams_left", "streams left", 0);
static WAITED: Column = Column::new("visit_before_detection_s", "longest visit before s", 2);
static ALERTED: Column = Column::new("visit_after_detection_s", "longest visit after s", 3);
static SERVED_AFTER: Column = Column::new("served_after_detection", "served after", 0);
static MEMORY: Column = Column::new("relay_mib_left", "relay MiB left", 1);
static PRESENT: Column = Column::new("tunnels_left", "tunnels left", 0);

/// How the agent is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// `kill -9`
    Killed,
    /// Its host has no network any more.
    LinkDown,
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "agent_killed",
            Self::LinkDown => "agent_link_down",
        }
    }

    fn strike(self, victim: &mut Neighbour) -> io::Result<()> {
        match self {
            Self::Killed => victim.kill_agent(),
            Self::LinkDown => set_link(victim.namespace(), "down")?,
        }
        Ok(())
    }

    async fn mend(self, victim: &mut Neighbour) -> Result<(), ScenarioError> {
        match self {
            Self::Killed => victim.start_agent().await?,
            Self::LinkDown => set_link(victim.namespace(), "up")?,
        }
        Ok(())
    }
}

fn set_link(namespace: Namespace, state: &str) -> io::Result<()> {
    let mut ip: Command = namespace.command("ip");
    let status = ip.args(["link", "set", INTERFACE, state]).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "the link cannot be set {state}: {status}"
        ))),
    }
}

pub(super) async fn run(stage: &Stage<'_>, table: &mut Table) -> Result<(), ScenarioError> {
    for loss in [Loss::Killed, Loss::LinkDown] {
        if loss == Loss::LinkDown && !stage.has_link(loss.name(), table) {
            continue;
        }
        stage.begin(loss.name());
        let round = Box::pin(lose(loss, stage, table)).await?;
        table.add(loss.name(), round);
    }
    Ok(())
}

async fn lose(loss: Loss, stage: &Stage<'_>, table: &mut Table) -> Result<Round, ScenarioError> {
    let mut scene = Scene::with_a_far_victim(stage).await?;
    let memory = scene.neighbours.relay().resident()?;
    let mut streams = downloads(&scene.victim.device, stage.plan.effort.connections).await?;
    let device = &scene.victim.device;
    let target = (device.door.clone(), device.small.clone());
    let visits = Visits::start(vec![target], VISITS);
    let served = async || {
        let visits = visits.past();
        Ok(visits
            .iter()
            .any(|visit| visit.failure.is_none())
            .then_some(()))
    };
    until(Instant::now(), PATIENCE, served).await?;

    let closed = tunnels_closed(&scene.neighbours).await?;
    scene.beside.begin();
    let lost = Instant::now();
    loss.strike(&mut scene.victim)?;
    let detected = until(lost, PATIENCE, async || {
        let now = tunnels_closed(&scene.neighbours).await?;
        Ok((now > closed).then(Instant::now))
    });
    let detected = detected.await?;
    let (mut reset, mut left) = (None, streams.len());
    let _ = timeout(PATIENCE, async {
        while let Some(ended) = streams.join_next().await {
            if ended.is_ok_and(|ended| was_ended(&ended)) {
                reset = Some(lost.elapsed().as_secs_f64());
                left -= 1;
            }
        }
    })
    .await;
    drop(streams);
    sleep(AFTER).await;
    let visits = visits.finish().await;
    let of = |after: bool| {
        let detected = detected.map(|(_, at)| at);
        let came = visits.iter().filter(move |visit| {
            visit.began >= lost && detected.is_some_and(|at| (visit.began >= at) == after)
        });
        came.map(|visit| (visit.took.as_secs_f64(), visit.failure.is_none()))
    };
    let longest = |after| of(after).map(|(took, _)| took).reduce(f64::max);
    let after = scene.neighbours.relay().resident()?;
    let tunnels = scene
        .neighbours
        .metrics()
        .await?
        .sum("causeway_relay_tunnels");
    let mut round = known([
        (&DETECTED, detected.map(|(seconds, _)| seconds)),
        (&RESET, reset),
        (&LEFT, Some(left as f64)),
        (&WAITED, longest(false)),
        (&ALERTED, longest(true)),
        (
            &SERVED_AFTER,
            Some(of(true).filter(|(_, served)| *served).count() as f64),
        ),
        (
            &MEMORY,
            Some(after.saturating_sub(memory) as f64 / f64::from(1 << 20)),
        ),
        (&PRESENT, Some(tunnels - 1.0)), // the bystander's stays
    ]);
    round.extend(scene.beside.figures());
    if let Some(why) = scene.beside.why() {
        table.note(format!("{}, bystander's first failure: {why}", loss.name()));
    }
    let mended = Instant::now();
    loss.mend(&mut scene.victim).await?;
    let back = served_again(&scene.victim.device, mended).await?;
    round.extend(known([(&BACK, back)]));
    Ok(round)
}

/// So many downloads of the device, under way.
async fn downloads(
    device: &Device,
    count: usize,
) -> Result<JoinSet<io::Result<()>>, ScenarioError> {
    let mut streams = JoinSet::new();
    let mut received = Vec::new();
    for _ in 0..count {
        let download = Download::of(device, RATE);
        let octets = Arc::<AtomicU64>::default();
        received.push(Arc::clone(&octets));
        streams.spawn(async move { download.once(&octets).await });
    }
    for octets in &received {
        has_begun(octets, 0).await?;
    }
    Ok(streams)
}
