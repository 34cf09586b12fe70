//! The command line: what is measured, and with how much effort.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::Scenario;
use crate::part::Part;
use crate::part::link::Link;
use crate::scenario::Effort;
use crate::scenario::abuse::Attack;
use crate::scenario::dns::peers::Wanted;
use crate::scenario::failures::Failure;
use crate::scenario::peers::Workload;
use crate::scenario::reconnect::Fault;
use crate::world::{Carrier, Peer, Place};

/// Puts a load on Causeway, and says what it carried and what that cost.
///
/// Without an address it starts a server, a device's agent and an origin of its own on loopback, each a process, and ends
/// them again.
#[derive(Parser)]
#[command(name = "causeway-loadtest", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Measure(Measure),
    /// Plays a part for another process of this program
    #[command(hide = true)]
    Part { part: Part },
}

#[derive(Subcommand)]
pub(crate) enum Measure {
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
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) pace: Pace,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args)]
pub(crate) struct PeersOptions {
    /// Visitors at rest; every other workload has as many as it is named after. One device takes 2,000 of one address, and a
    /// few may still be leaving when the next come
    #[arg(long, default_value_t = 1900, value_parser = clap::value_parser!(u16).range(1..=3500))]
    pub(crate) connections: u16,
    /// A link between relay and agent, such as 25ms,0.5%,1gbit: delay and loss each way, and rate; or "wire", for packets of
    /// 1,500 octets. It is made in network namespaces of its own, which takes root [default: loopback]
    #[arg(long)]
    pub(crate) link: Option<Link>,
    /// Only these, and in this order
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEER,…")]
    pub(crate) only: Vec<Peer>,
    /// Only this work, and in this order
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOAD,…")]
    pub(crate) workloads: Vec<Workload>,
    /// The rate of datagrams [default: the highest at which few are lost]
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) datagram_mbit: Option<u32>,
    /// Where programs are looked for first; then where this system keeps them
    #[arg(long, value_name = "DIR")]
    pub(crate) peers_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pace: Pace,
}

#[derive(Args, Clone, Copy)]
pub(crate) struct Pace {
    /// How long each workload is observed, in each round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// How often everything is done; medians are shown
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Writes JSON to standard output, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

impl Pace {
    pub(crate) fn effort(self, connections: u16) -> Effort {
        Effort {
            seconds: self.seconds,
            rounds: self.rounds,
            connections: connections.into(),
        }
    }
}

impl Measure {
    /// Whether all of it is to be in the network namespace that its thread may move to.
    pub(crate) fn is_single_threaded(&self) -> bool {
        matches!(
            self,
            Self::Peers(_) | Self::Failures { .. } | Self::Http3 { .. }
        )
    }

    pub(crate) fn is_for_machines(&self) -> bool {
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
