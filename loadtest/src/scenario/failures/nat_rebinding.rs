//! A NAT before the agent forgets it again and again while a download passes through the tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::nat::Nat;
use super::scene::Scene;
use super::{PATIENCE, Stage, TUNNELS_LOST, has_begun, known, tunnels_closed};
use crate::report::{Column, Table};
use crate::scenario::ScenarioError;
use crate::scenario::download::Download;
use crate::world::{Carrier, Neighbours, Wish};

const ROW: &str = "nat_rebinding";

/// How often the agent gets another port.
const CHANGES: u32 = 100;

/// Octets a second of the download, and how many are to come between two changes: so that the tunnel is in use.
const RATE: u64 = 5_000_000;
const BETWEEN: u64 = 64 * 1024;

/// How often it is looked what has come.
const LOOK: Duration = Duration::from_millis(2);

static CHANGED: Column = Column::new("changes", "changes", 0);
static STREAMS_LOST: Column = Column::new("streams_lost", "streams lost", 0);
static STALL: Column = Column::new("longest_stall_ms", "longest stall ms", 0);
static MEGABYTES: Column = Column::new("received_mb", "received MB", 0);

pub(super) async fn run(stage: &Stage<'_>, table: &mut Table) -> Result<(), ScenarioError> {
    stage.begin(ROW);
    // Bulk stays in the tunnel, or nothing of it would pass the NAT as datagrams.
    let neighbours = Neighbours::together(Carrier::QuicOnly).await?;
    let nat = Nat::before(neighbours.front()).await?;
    let victim = Wish {
        front: Some(nat.inside),
        ..Scene::victim(&neighbours)
    };
    let mut scene = Scene::set(stage, neighbours, victim).await?;

    let octets = Arc::<AtomicU64>::default();
    let download = Download::of(&scene.victim.device, RATE);
    let received = Arc::clone(&octets);
    let download = tokio::spawn(async move { download.once(&received).await });
    let download = AbortOnDropHandle::new(download);
    has_begun(&octets, BETWEEN).await?;
    let closed = tunnels_closed(&scene.neighbours).await?;
    scene.beside.begin();
    let first = octets.load(Relaxed);
    let (mut changes, mut stall) = (0, Duration::ZERO);
    let pause = stage.length() / CHANGES;
    'changes: while changes < CHANGES {
        nat.forget().await;
        changes += 1;
        let changed = Instant::now();
        let (at_change, mut last) = (octets.load(Relaxed), octets.load(Relaxed));
        let mut last_at = changed;
        while last < at_change + BETWEEN || changed.elapsed() < pause {
            if download.is_finished() || last_at.elapsed() > PATIENCE {
                break 'changes;
            }
            sleep(LOOK).await;
            let now = octets.load(Relaxed);
            if now > last {
                stall = stall.max(last_at.elapsed());
                (last, last_at) = (now, Instant::now());
            }
        }
    }
    let lost = tunnels_closed(&scene.neighbours).await? - closed;
    let received = octets.load(Relaxed) - first;
    let mut round = known([
        (&CHANGED, Some(f64::from(changes))),
        (&TUNNELS_LOST, Some(lost)),
        (
            &STREAMS_LOST,
            Some(f64::from(u8::from(download.is_finished()))),
        ),
        (&STALL, Some(stall.as_secs_f64() * 1e3)),
        (&MEGABYTES, Some(received as f64 / 1e6)),
    ]);
    round.extend(scene.beside.figures());
    if let Some(why) = scene.beside.why() {
        table.note(format!("{ROW}, bystander's first failure: {why}"));
    }
    table.add(ROW, round);
    Ok(())
}
