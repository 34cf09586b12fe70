//! Control is killed, with the relay that is part of it. A relay with a process of its own goes on, and is even restarted meanwhile;
//! visitors of its devices come all the time. Then control comes back, and what changes there reaches the relay.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::beside::Beside;
use super::visits::{Visited, Visits};
use super::{PATIENCE, Stage, known, until};
use crate::admin::Metrics;
use crate::report::{Column, Table};
use crate::scenario::ScenarioError;
use crate::world::{Device, Neighbour, Neighbours, RelayApart, Wish, WorldError};

const ROW: &str = "control_away";

/// The devices that are visited, and the one whose bystander is not to notice more than the relay's restart.
const VISITED: [&str; 2] = ["mynas", "yournas"];
const BYSTANDER: &str = "bystander";

/// The device that control hears of when it is back.
const NEWCOMER: &str = "newcomer";

static VISITS: Column = Column::new("visits", "visits", 0);
static FAILED: Column = Column::new("failed", "failed", 0);
static LONGEST: Column = Column::new("longest_visit_s", "longest visit s", 2);
static AWAY: Column = Column::new("control_away_s", "control away s", 0);
static RESTART: Column = Column::new("relay_restart_s", "relay's restart s", 2);
static KNOWN_AT_START: Column = Column::new("devices_known_at_start", "devices known then", 0);
static REACHED: Column = Column::new("change_reached_s", "change reached s", 2);

pub(super) async fn run(stage: &Stage<'_>, table: &mut Table) -> Result<(), ScenarioError> {
    stage.begin(ROW);
    let mut neighbours = Neighbours::together(stage.plan.carrier).await?;
    let mut relay = neighbours.relay_apart().await?;
    let mut settled = Vec::new();
    for name in VISITED.into_iter().chain([BYSTANDER]) {
        settled.push(settle(&neighbours, name, stage).await?);
    }
    let mut devices = Vec::new();
    for neighbour in &settled {
        let device = neighbours.device_at(&relay, neighbour)?;
        is_served(&device).await?;
        devices.push(device);
    }
    let Some(bystander) = devices.pop() else {
        return Ok(()); // there always is one
    };
    let mut beside = Beside::start(&bystander, Duration::from_secs(1)).await?;
    let targets = devices
        .iter()
        .map(|device| (device.door.clone(), device.small.clone()));
    let visits = Visits::start(targets.collect(), stage.plan.rate);

    beside.begin();
    let away = Instant::now();
    neighbours.kill_server();
    sleep_until((away + stage.length() / 3).into()).await;
    let told = Instant::now();
    relay.restart().await?;
    let restart = told.elapsed();
    let known_at_start = devices_known(&relay).await?;
    sleep_until((away + stage.length()).into()).await;
    let figures = beside.figures();
    let back = Instant::now();
    neighbours.restart_server().await?;
    let control_away = away.elapsed();

    neighbours.add(NEWCOMER).await?;
    let reached = until(back, PATIENCE, async || {
        let devices = devices_known(&relay).await?;
        Ok((devices > known_at_start).then_some(()))
    });
    let reached = reached.await?.map(|(seconds, ())| seconds);
    let visits = visits.finish().await;
    let failed: Vec<&Visited> = visits
        .iter()
        .filter(|visit| visit.failure.is_some())
        .collect();
    if let Some(first) = failed.iter().min_by_key(|visit| visit.began) {
        table.note(format!(
            "{ROW}, first failure {:.1} s after control went, the relay's restart being at {:.1} s: {}",
            first.began.saturating_duration_since(away).as_secs_f64(),
            (told - away).as_secs_f64(),
            first.failure.as_deref().unwrap_or_default()
        ));
    }
    let longest = visits.iter().map(|visit| visit.took).max();
    let mut round = known([
        (&VISITS, Some(visits.len() as f64)),
        (&FAILED, Some(failed.len() as f64)),
        (&LONGEST, longest.map(|longest| longest.as_secs_f64())),
        (&AWAY, Some(control_away.as_secs_f64())),
        (&RESTART, Some(restart.as_secs_f64())),
        (&KNOWN_AT_START, Some(known_at_start)),
        (&REACHED, reached),
    ]);
    round.extend(figures);
    table.add(ROW, round);
    Ok(())
}

/// What a relay apart knows.
const DEVICES: &str = "causeway_follow_devices";

async fn devices_known(relay: &RelayApart) -> Result<f64, WorldError> {
    match relay.running() {
        Some((admin, _)) => Ok(Metrics::ask(admin).await?.sum(DEVICES)),
        None => Ok(0.0),
    }
}

/// A device whose agent goes wherever control's names lead: to the server's own relay, and to the one apart.
async fn settle(
    neighbours: &Neighbours,
    name: &'static str,
    stage: &Stage<'_>,
) -> Result<Neighbour, WorldError> {
    neighbours
        .settle(Wish::plain(name, None), &stage.ends)
        .await
}

/// Its agent has a tunnel to the relay apart too.
async fn is_served(device: &Device) -> Result<(), ScenarioError> {
    match super::served_again(device, Instant::now()).await? {
        Some(_) => Ok(()),
        None => Err(ScenarioError::Nothing {
            workload: ROW,
            cause: "a device is not reached through the relay apart".to_owned(),
        }),
    }
}
