//! `causeway-loadtest`: puts a load on the product and says what it carried and what that cost.
//!
//! ```text
//!   world.rs      what the load is put on: given, or processes (process.rs) that play a part (part.rs)
//!   scenario.rs   the loads; visitor.rs is who visits
//!   report.rs     rounds ─► medians ─► table or JSON
//! ```

#![forbid(unsafe_code)]

mod admin;
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
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Parser, Subcommand, ValueEnum as _};
use relay::program::{self, Inherited, Termination};
use tokio::runtime;

use part::Part;
use part::link::Link;
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
use world::{Carrier, Peer, Place, WorldError};

/// Puts a load on Causeway, and says what it carried and what that cost.
///
/// Without an address it starts a server, a device's agent and an origin of its own on loopback, each a process, and ends
/// them again.
#[derive(Parser)]
#[command(name = "causeway-loadtest", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Measure(Measure),
    /// Plays a part for another process of this program
    #[command(hide = true)]
    Part { part: Part },
}

#[derive(Subcommand)]
enum Measure {
    /// Bulk downloads and uploads: Gbit/s, and processor time for each gigabyte
    Throughput {
        /// Transfers at a time
        #[arg(long, default_value_t = Scenario::TRANSFERS, value_parser = clap::value_parser!(u16).range(1..=4000))]
        connections: u16,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Small HTTPS requests, on kept connections and with a new one for each: rate, latency, processor time
    Requests {
        /// Visitors at a time
        #[arg(long, default_value_t = Scenario::VISITORS, value_parser = clap::value_parser!(u16).range(1..=4000))]
        connections: u16,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Devices at rest: how fast they come, what they cost, and whether they stay
    IdleTunnels {
        /// Devices, each with a tunnel
        #[arg(long, default_value_t = Scenario::TUNNELS, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        connections: u16,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// WebSockets at rest, over TLS: what each costs, and whether all are still answered afterwards
    WebSockets {
        /// How many there are; a device of a server started here takes 3,900, so that there may be several
        #[arg(long, default_value_t = Scenario::WEB_SOCKETS, value_parser = clap::value_parser!(u16).range(1..=15_000))]
        connections: u16,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// DNS queries: rate, latency, processor time, losses
    Dns {
        /// Sockets; each has sixteen queries under way
        #[arg(long, default_value_t = Scenario::SOCKETS, value_parser = clap::value_parser!(u16).range(1..=4000))]
        connections: u16,
        /// Threads that ask [default: half of the cores]
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
        threads: Option<u16>,
        /// Devices in the zone of a server started here
        #[arg(long, default_value_t = Scenario::DEVICES, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        devices: u32,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Floods and slow attacks on the relay, and what they leave to a bystander who downloads 200 Mbit/s and asks 200 times a second
    Abuse {
        /// Attackers at a time; for QUIC packets, addresses
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..=15_000))]
        connections: u16,
        /// New attackers a second, or packets where an attack has no connections
        #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
        rate: u32,
        /// Attackers in all, in each round of each attack
        #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        attempts: u64,
        /// Only these, and in this order
        #[arg(long, value_enum, value_delimiter = ',', value_name = "ATTACK,…")]
        only: Vec<Attack>,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// A relay dies, falls silent or starts anew: how soon its agents are back, and what that leaves to a bystander and to visitors
    Reconnect {
        /// Agents; where there are several relays, every other keeps a tunnel to two of them
        #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        connections: u16,
        /// Relays with a process of their own, beside the server's, of which the first dies or falls silent
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
        relays: u8,
        /// Only these, and in this order
        #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULT,…")]
        only: Vec<Fault>,
        #[command(flatten)]
        pace: Pace,
    },
    /// What fails, one thing after the other, and what becomes of visitors and of a bystander
    Failures {
        /// Downloads that an agent has when it dies
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
        connections: u16,
        /// New visitors a second while control is away
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
        rate: u32,
        /// Only these, and in this order
        #[arg(long, value_enum, value_delimiter = ',', value_name = "FAILURE,…")]
        only: Vec<Failure>,
        /// How long agents wait until their service begins an answer [default: as they do by themselves]
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=120))]
        answer_seconds: Option<u64>,
        /// How bytes cross the tunnels
        #[arg(long, value_enum, default_value_t)]
        carrier: Carrier,
        #[command(flatten)]
        pace: Pace,
    },
    /// ssh and scp by way of causeway-connect, and without it: how fast a file goes, and how soon a key comes back
    Apps {
        /// causeway-connect [default: beside this program, or where this system keeps programs]
        #[arg(long, value_name = "FILE")]
        connect: Option<PathBuf>,
        /// How large the file is
        #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=65_536))]
        mebibytes: u64,
        /// How many keys are pressed
        #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
        keys: u64,
        /// How often everything is done; medians are shown
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Writes JSON to standard output, and nothing else
        #[arg(long)]
        json: bool,
    },
    /// A body that a visitor checks octet by octet: over HTTP/3 through the tunnel, in its quic carrier, and both without a relay
    Http3 {
        /// How much of it, in each round
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65_536))]
        mebibytes: u64,
        /// How often everything is done; medians are shown
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// A link between relay and agent, as of the peers [default: loopback]
        #[arg(long)]
        link: Option<Link>,
        /// Writes JSON to standard output, and nothing else
        #[arg(long)]
        json: bool,
    },
    /// The same work through Causeway and through every peer that is installed, in turn
    Peers(PeersOptions),
    /// Our name server and every other one that is installed, with the same zone and the same load, in turn
    DnsPeers {
        #[command(flatten)]
        wanted: Box<Wanted>,
        #[command(flatten)]
        pace: Pace,
    },
    /// All but the peers in turn, each with its default number of connections
    All {
        #[command(flatten)]
        options: Box<Options>,
    },
}

#[derive(Args)]
struct Options {
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct PeersOptions {
    /// Visitors at rest; every other workload has as many as it is named after. One device takes 2,000 of one address, and a
    /// few may still be leaving when the next come
    #[arg(long, default_value_t = 1900, value_parser = clap::value_parser!(u16).range(1..=3500))]
    connections: u16,
    /// A link between relay and agent, such as 25ms,0.5%,1gbit: delay and loss each way, and rate; or "wire", for packets of
    /// 1,500 octets. It is made in network namespaces of its own, which takes root [default: loopback]
    #[arg(long)]
    link: Option<Link>,
    /// Only these, and in this order
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEER,…")]
    only: Vec<Peer>,
    /// Only this work, and in this order
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOAD,…")]
    workloads: Vec<Workload>,
    /// The rate of datagrams [default: the highest at which few are lost]
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    datagram_mbit: Option<u32>,
    /// Where programs are looked for first; then where this system keeps them
    #[arg(long, value_name = "DIR")]
    peers_dir: Option<PathBuf>,
    #[command(flatten)]
    pace: Pace,
}

#[derive(Args, Clone, Copy)]
struct Pace {
    /// How long each workload is observed, in each round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How often everything is done; medians are shown
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Writes JSON to standard output, and nothing else
    #[arg(long)]
    json: bool,
}

impl Pace {
    fn effort(self, connections: u16) -> Effort {
        Effort {
            seconds: self.seconds,
            rounds: self.rounds,
            connections: connections.into(),
        }
    }
}

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

    /// Whether all of it is to be in the network namespace that its thread may move to.
    fn is_single_threaded(&self) -> bool {
        matches!(
            self,
            Self::Peers(_) | Self::Failures { .. } | Self::Http3 { .. }
        )
    }

    fn is_for_machines(&self) -> bool {
        match self {
            Self::Throughput { options, .. }
            | Self::Requests { options, .. }
            | Self::IdleTunnels { options, .. }
            | Self::WebSockets { options, .. }
            | Self::Dns { options, .. }
            | Self::Abuse { options, .. }
            | Self::All { options } => options.pace.json,
            Self::Peers(options) => options.pace.json,
            Self::Reconnect { pace, .. }
            | Self::Failures { pace, .. }
            | Self::DnsPeers { pace, .. } => pace.json,
            Self::Apps { json, .. } | Self::Http3 { json, .. } => *json,
        }
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
    let plan = wanted.plan(effort, half_of_the_cores(), |missing| {
        progress.note(missing)
    });
    if plan.servers.is_empty() {
        bail!("none of the name servers asked for is here");
    }
    Ok(plan.run(progress).await?)
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_its_manual_is_left_in_target_manual() {
        Arguments::command().debug_assert();
        manual::leave(Arguments::command()).unwrap();
    }
}
