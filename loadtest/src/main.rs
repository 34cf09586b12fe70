//! `causeway-loadtest`: puts a load on the product and says what it carried and what that cost.
//!
//! ```text
//!   world.rs      what the load is put on: given, or processes (process.rs) that play a part (part.rs)
//!   scenario.rs   the loads; visitor.rs is who visits
//!   report.rs     rounds ─► medians ─► table or JSON
//! ```

#![forbid(unsafe_code)]

mod part;
mod process;
mod progress;
mod report;
mod scenario;
mod visitor;
mod world;
mod zeros;

use std::io::{Write as _, stdout};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use relay::program::{self, Termination};

use part::Part;
use progress::Progress;
use report::{Machine, Table};
use scenario::{Effort, ScenarioError, dns, idle_tunnels, requests, throughput};
use world::{Place, WorldError};

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
    /// DNS queries: rate, latency, processor time, losses
    Dns {
        /// Sockets; each has four queries under way
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
    /// All of them in turn, each with its default number of connections
    All {
        #[command(flatten)]
        options: Box<Options>,
    },
}

#[derive(Args)]
struct Options {
    /// How long each workload is observed, in each round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How often everything is done; medians are shown
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Writes JSON to standard output, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// One load.
#[derive(Clone, Copy)]
enum Scenario {
    Throughput,
    Requests,
    IdleTunnels,
    Dns { threads: Option<u16>, devices: u32 },
}

impl Scenario {
    const TRANSFERS: u16 = 4;
    const VISITORS: u16 = 64;
    const TUNNELS: u16 = 1000;
    const SOCKETS: u16 = 32;
    const DEVICES: u32 = 1000;

    /// All of them, each with its default number of connections.
    const ALL: [(Self, u16); 4] = [
        (Self::Throughput, Self::TRANSFERS),
        (Self::Requests, Self::VISITORS),
        (Self::IdleTunnels, Self::TUNNELS),
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
        let effort = Effort {
            seconds: options.seconds,
            rounds: options.rounds,
            connections: connections.into(),
        };
        match self {
            Self::Throughput => throughput::run(place, effort, progress).await,
            Self::Requests => requests::run(place, effort, progress).await,
            Self::IdleTunnels => idle_tunnels::run(place, effort, progress).await,
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

#[tokio::main]
async fn main() -> ExitCode {
    program::raise_descriptor_limit();
    let done = match Arguments::parse().command {
        Command::Part { part } => {
            program::start_log(); // into a file of the process that started this one
            Box::pin(part.play()).await
        }
        Command::Measure(measure) => Box::pin(measure.run()).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Measure {
    /// Runs until everything is measured or a signal comes. Either way nothing is left running.
    async fn run(self) -> anyhow::Result<()> {
        let mut termination = Termination::new()?;
        let (scenarios, options) = self.parts();
        let progress = Progress::new();
        let tables = tokio::select! {
            biased;
            () = termination.received() => bail!("interrupted before everything was measured"),
            tables = measure(&scenarios, &options, &progress) => tables?,
        };
        drop(progress);
        show(&tables, options.json)
    }

    fn parts(self) -> (Vec<(Scenario, u16)>, Box<Options>) {
        match self {
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
        }
    }
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
