//! Devices at rest: so many agents come, all at once as after a relay's restart, and stay without a visitor.

use std::time::Duration;

use tokio::time::sleep;

use super::{Effort, Load, ScenarioError};
use crate::part::agents::Status;
use crate::process::ProcessId;
use crate::progress::Progress;
use crate::report::{Column, Round, Table};
use crate::world::{Fleet, Place, Watched};

pub(crate) const NAME: &str = "idle-tunnels";

/// What each round consists of.
const WORKLOAD: &str = "attach_and_rest";

/// What a server does after its start is over by then, and its memory is that of one at rest.
const SETTLE: Duration = Duration::from_secs(1);

static ATTACHED: Column = Column::new("attached", "attached", 0);
static RATE: Column = Column::new("attached_per_s", "attached/s", 0);
static ATTACH_CPU: Column = Column::new("relay_cpu_us_per_attach", "relay CPU µs/attach", 0);
static STILL: Column = Column::new("still_attached", "still attached", 0);
static MEMORY: Column = Column::new("relay_kib_per_tunnel", "relay KiB/tunnel", 1);
static REST_CPU: Column = Column::new("relay_cpu_us_per_tunnel_s", "relay CPU µs/tunnel/s", 0);

pub(crate) async fn run(
    place: &Place,
    effort: Effort,
    progress: &Progress,
) -> Result<Table, ScenarioError> {
    let mut fleet = Fleet::gather(place, NAME, effort.connections, progress).await?;
    let carrier = place.carrier().map(|carrier| carrier.to_string());
    let mut table = Table::new(
        NAME,
        (effort.connections, "tunnels"),
        effort.seconds,
        carrier,
    );
    for round in 0..effort.rounds {
        let relay = fleet.quiet_server().await?;
        let figures = measure(&fleet, relay, effort, round, progress).await?;
        table.add(WORKLOAD, figures);
    }
    Ok(table)
}

async fn measure(
    fleet: &Fleet,
    relay: Option<ProcessId>,
    effort: Effort,
    round: u32,
    progress: &Progress,
) -> Result<Round, ScenarioError> {
    sleep(SETTLE).await;
    let memory = relay.map(ProcessId::resident).transpose()?;
    let cpu = relay.map(ProcessId::cpu).transpose()?;
    progress.begin(
        effort.title(NAME, "attaching", round),
        effort.connections as u64,
    );
    let agents = fleet.attach(progress).await?;
    let came: Status = agents.said()?.unwrap_or_default();
    let attached = came.attached() as f64;
    if attached == 0.0 {
        return Err(ScenarioError::Nothing {
            workload: WORKLOAD,
            cause: "no agent has been attached".to_owned(),
        });
    }
    let attach_cpu = spent(cpu, relay.map(ProcessId::cpu).transpose()?);

    progress.begin(effort.title(NAME, "at rest", round), effort.seconds * 1000);
    let watched = Watched { relay, agent: None };
    let at_rest = Load::default()
        .observe(effort.length(), watched, progress, || 0)
        .await?;
    let memory = relay
        .map(ProcessId::resident)
        .transpose()?
        .zip(memory)
        .map(|(now, before)| now.saturating_sub(before) as f64 / 1024.0);
    let still: Status = agents.said()?.unwrap_or_default();

    let mut figures = vec![(&ATTACHED, attached)];
    figures.push((&RATE, attached / came.seconds));
    figures.extend(attach_cpu.map(|cpu| (&ATTACH_CPU, cpu * 1e6 / attached)));
    figures.push((&STILL, still.attached() as f64));
    figures.extend(memory.map(|memory| (&MEMORY, memory / attached)));
    let rest_cpu = at_rest
        .relay_cpu
        .map(|cpu| cpu * 1e6 / attached / at_rest.seconds);
    figures.extend(rest_cpu.map(|cpu| (&REST_CPU, cpu)));
    Ok(figures)
}

fn spent(before: Option<Duration>, after: Option<Duration>) -> Option<f64> {
    Some(after?.saturating_sub(before?).as_secs_f64())
}
