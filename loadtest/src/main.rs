//! `causeway-loadtest`: puts a load on the product and says what it carried and what that cost.
//!
//! ```text
//!   arguments.rs  what is asked for
//!   world.rs      what the load is put on: given, or processes (process.rs) that play a part (part.rs)
//!   scenario.rs   the loads; visitor.rs is who visits
//!   report.rs     rounds ─► medians ─► table or JSON
//! ```

#![forbid(unsafe_code)]

mod admin;
mod arguments;
mod datagrams;
mod entrance;
mod part;
mod pattern;
mod plain;
mod process;
mod progress;
mod question;
mod report;
mod scenario;
mod visitor;
mod web_socket;
mod world;
mod zeros;

use std::io::{Write as _, stdout};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser as _, ValueEnum as _};
use relay::program::{self, Inherited, Termination};
use tokio::runtime;

use arguments::{Arguments, Command, Measure, Options, Pace, PeersOptions};
use part::Part;
use progress::Progress;
use report::{Machine, Table};
use scenario::abuse::{Attack, Force};
use scenario::dns::peers::Wanted;
use scenario::failures::{Failure, Plan};
use scenario::peers::Workload;
use scenario::reconnect::Fault;
use scenario::{
    Effort, ScenarioError, abuse, apps, dns, failures, http3, idle_tunnels, peers, reconnect,
    requests, throughput, web_sockets,
};
use world::{Peer, WorldError};

/// One load.
#[derive(Clone, Copy)]
enum Scenario {
    Throughput,
    Requests,
    IdleTunnels,
    WebSockets,
    Dns { threads: Option<u16>, devices: u32 },
}

impl Scenario {
    const TRANSFERS: u16 = 4;
    const VISITORS: u16 = 64;
    const TUNNELS: u16 = 1000;
    const WEB_SOCKETS: u16 = 1000;
    const SOCKETS: u16 = 32;
    const DEVICES: u32 = 1000;

    /// All of them, each with its default number of connections.
    const ALL: [(Self, u16); 5] = [
        (Self::Throughput, Self::TRANSFERS),
        (Self::Requests, Self::VISITORS),
        (Self::IdleTunnels, Self::TUNNELS),
        (Self::WebSockets, Self::WEB_SOCKETS),
        (
            Self::Dns {
                threads: None,
                devices: Self::DEVICES,
            },
            Self::SOCKETS,
        ),
    ];

    async fn run(
        self,
        connections: u16,
        options: &Options,
        progress: &Progress,
    ) -> Result<Table, ScenarioError> {
        let place = &options.place;
        let effort = options.pace.effort(connections);
        match self {
            Self::Throughput => throughput::run(place, effort, progress).await,
            Self::Requests => requests::run(place, effort, progress).await,
            Self::IdleTunnels => idle_tunnels::run(place, effort, progress).await,
            Self::WebSockets => web_sockets::run(place, effort, progress).await,
            Self::Dns { threads, devices } => {
                let threads = threads.map_or_else(half_of_the_cores, usize::from);
                let devices = usize::try_from(devices).unwrap_or(usize::MAX);
                dns::run(place, effort, devices, threads, progress).await
            }
        }
    }
}

/// The other half is for the server.
fn half_of_the_cores() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).max(1)
}

fn main() -> ExitCode {
    program::raise_descriptor_limit();
    let done = match Arguments::parse().command {
        Command::Part { part } => play(part),
        Command::Measure(measure) => {
            let single_threaded = measure.is_single_threaded();
            runtime(single_threaded).and_then(|runtime| runtime.block_on(Box::pin(measure.run())))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Plays a part for the process that has started this one, which reads in a file what is logged.
fn play(part: Part) -> anyhow::Result<()> {
    let inherited = Inherited::of_environment()?; // before there are other threads
    program::start_log();
    runtime(part.is_single_threaded())?.block_on(Box::pin(part.play(inherited)))
}

fn runtime(single_threaded: bool) -> anyhow::Result<runtime::Runtime> {
    let mut builder = if single_threaded {
        runtime::Builder::new_current_thread()
    } else {
        runtime::Builder::new_multi_thread()
    };
    Ok(builder.enable_all().build()?)
}

impl Measure {
    /// Runs until everything is measured or a signal comes. Either way nothing is left running.
    async fn run(self) -> anyhow::Result<()> {
        let mut termination = Termination::new()?;
        let progress = Progress::new();
        let json = self.is_for_machines();
        let tables = tokio::select! {
            biased;
            () = termination.received() => bail!("interrupted before everything was measured"),
            tables = self.tables(&progress) => tables?,
        };
        drop(progress);
        show(&tables, json)
    }

    async fn tables(self, progress: &Progress) -> anyhow::Result<Vec<Table>> {
        let (scenarios, options) = match self {
            Self::Throughput {
                connections,
                options,
            } => (vec![(Scenario::Throughput, connections)], options),
            Self::Requests {
                connections,
                options,
            } => (vec![(Scenario::Requests, connections)], options),
            Self::IdleTunnels {
                connections,
                options,
            } => (vec![(Scenario::IdleTunnels, connections)], options),
            Self::WebSockets {
                connections,
                options,
            } => (vec![(Scenario::WebSockets, connections)], options),
            Self::Dns {
                connections,
                threads,
                devices,
                options,
            } => (
                vec![(Scenario::Dns { threads, devices }, connections)],
                options,
            ),
            Self::All { options } => (Scenario::ALL.into(), options),
            Self::Abuse {
                connections,
                rate,
                attempts,
                only,
                options,
            } => {
                let mut attacks = only;
                if attacks.is_empty() {
                    attacks.extend(Attack::value_variants());
                    attacks.retain(|attack| attack.goes_anywhere() || !options.place.is_given());
                }
                let force = Force { rate, attempts };
                let effort = options.pace.effort(connections);
                let table = abuse::run(&options.place, &attacks, force, effort, progress).await?;
                return Ok(vec![table]);
            }
            Self::Reconnect {
                connections,
                relays,
                only,
                pace,
            } => {
                let faults = match only.is_empty() {
                    true => Fault::value_variants(),
                    false => &only,
                };
                let wanted = reconnect::Wanted { faults, relays };
                let effort = pace.effort(connections);
                return Ok(vec![reconnect::run(wanted, effort, progress).await?]);
            }
            Self::Failures {
                connections,
                rate,
                only,
                answer_seconds,
                carrier,
                pace,
            } => {
                let plan = Plan {
                    failures: match only.is_empty() {
                        true => Failure::value_variants(),
                        false => &only,
                    },
                    carrier,
                    rate,
                    answer_seconds,
                    effort: pace.effort(connections),
                };
                return Ok(failures::run(&plan, progress).await?);
            }
            Self::Apps {
                connect,
                mebibytes,
                keys,
                rounds,
                json: _,
            } => {
                let amount = apps::Amount {
                    mebibytes,
                    keys,
                    rounds,
                };
                return Ok(apps::run(connect, amount, progress).await?);
            }
            Self::Http3 {
                mebibytes,
                rounds,
                link,
                json: _,
            } => {
                let effort = Effort {
                    seconds: 0, // as long as it takes
                    rounds,
                    connections: 1,
                };
                return Ok(vec![http3::run(link, mebibytes, effort, progress).await?]);
            }
            Self::Peers(options) => return compare(options, progress).await,
            Self::DnsPeers { wanted, pace } => {
                return compare_name_servers(*wanted, pace, progress).await;
            }
        };
        measure(&scenarios, &options, progress).await
    }
}

/// Measures those peers that are here, and says how to install the others.
async fn compare(options: PeersOptions, progress: &Progress) -> anyhow::Result<Vec<Table>> {
    let mut wanted = options.only;
    if wanted.is_empty() {
        wanted.extend(Peer::value_variants());
        // Without a link it shows nothing that direct does not.
        wanted.retain(|&peer| peer != Peer::DirectBbr || options.link.is_some());
    }
    let mut found = Vec::new();
    for peer in wanted {
        match peer.find(options.peers_dir.as_deref()) {
            Ok(peer) => found.push(peer),
            Err(missing) => progress.note(&missing.to_string()),
        }
    }
    if found.is_empty() {
        bail!("none of the peers asked for is here");
    }
    let workloads = match options.workloads.is_empty() {
        true => Workload::value_variants(),
        false => &options.workloads,
    };
    let effort = options.pace.effort(options.connections);
    let datagrams = options.datagram_mbit.map(f64::from);
    let measured = peers::run(&found, options.link, workloads, datagrams, effort, progress);
    Ok(measured.await?)
}

/// Measures those name servers that are here, and says how to install the others.
async fn compare_name_servers(
    wanted: Wanted,
    pace: Pace,
    progress: &Progress,
) -> anyhow::Result<Vec<Table>> {
    let effort = pace.effort(wanted.sockets);
    let mut plans = Vec::from(wanted.plans(effort, half_of_the_cores(), |missing| {
        progress.note(missing)
    }));
    plans.retain(|plan| !plan.servers.is_empty());
    if plans.is_empty() {
        bail!("none of the name servers asked for is here");
    }
    let mut tables = Vec::new();
    for plan in plans {
        tables.extend(plan.run(progress).await?);
    }
    Ok(tables)
}

/// Runs one after the other. Of several, those whose addresses are not given are left out.
async fn measure(
    scenarios: &[(Scenario, u16)],
    options: &Options,
    progress: &Progress,
) -> anyhow::Result<Vec<Table>> {
    let mut tables = Vec::new();
    for (scenario, connections) in scenarios {
        match scenario.run(*connections, options, progress).await {
            Ok(table) => tables.push(table),
            Err(ScenarioError::World(error @ WorldError::NotGiven { .. }))
                if scenarios.len() > 1 =>
            {
                progress.note(&format!("left out: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if tables.is_empty() {
        bail!("the addresses given are enough for none of the scenarios");
    }
    Ok(tables)
}

fn show(tables: &[Table], json: bool) -> anyhow::Result<()> {
    let machine = Machine::here();
    let mut text = String::new();
    if json {
        text.push_str(&report::json(&machine, tables)?);
    } else {
        for table in tables {
            text.push_str(&format!("{}\n", table.text()));
        }
        text.push_str(&machine.text());
    }
    text.push('\n');
    Ok(stdout().write_all(text.as_bytes())?)
}
