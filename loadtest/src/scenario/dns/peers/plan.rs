//! What is to be done with which name servers.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::super::update::Pipes;
use crate::scenario::Effort;
use crate::world::{FoundNameServer, NameServerKind, find_program};

/// Names in the zone.
const NAMES: u32 = 1_000_000;

/// The same in the signed one, which others sign whenever they start.
const SIGNED_NAMES: u32 = 100_000;

/// What a user wants of it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Wanted {
    /// Names in the zone, each with A and AAAA [default: 1000000, and 100000 where it is signed]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    names: Option<u32>,
    /// Only these, and in this order
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SERVER,…")]
    only: Vec<NameServerKind>,
    /// Only this work, and in this order
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOAD,…")]
    workloads: Vec<DnsWorkload>,
    /// Who asks [default: both, where dnsperf is installed]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "GENERATOR,…")]
    load: Vec<Generator>,
    /// Sockets, each a client of its own
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4000))]
    pub(crate) sockets: u16,
    /// Queries under way on each of them. For many more in all, some servers' buffers are too small
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=4096))]
    window: u16,
    /// Threads that ask [default: half of the cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Queries a second where the rate is fixed, or half of what Knot answers; beside a flood half is 20000
    #[arg(long, default_value = "half", value_parser = Rate::parse)]
    rate: Rate,
    /// Queries a second of a flood [default: as many as the server answers]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    flood: Option<u32>,
    /// Updates a second beside queries
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    updates: u32,
    /// Connections over which our server gets as many updates as it takes. It lets an address have 50
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=50))]
    pipes: u16,
    /// Updates under way on each of them. It takes 256 at a time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=256))]
    pipe_window: u16,
    /// Where programs are looked for first; then where this system keeps them
    #[arg(long, value_name = "DIR")]
    peers_dir: Option<PathBuf>,
}

impl Wanted {
    /// What can be done of it here, by `threads` unless it says how many: with the zone as it is, then with the signed one. `missing`
    /// hears what is not installed, and how to get it.
    pub(crate) fn plans(self, effort: Effort, threads: usize, missing: impl Fn(&str)) -> [Plan; 2] {
        let workloads = all_unless_named(self.workloads.clone());
        let (signed, plain) = workloads.into_iter().partition(|work| work.is_signed());
        let plan = |workloads, is_signed| {
            let wanted = self.clone();
            wanted.plan(workloads, is_signed, effort, threads, &missing)
        };
        [plan(plain, false), plan(signed, true)]
    }

    /// One of them; nothing, if there is no work.
    fn plan(
        self,
        mut workloads: Vec<DnsWorkload>,
        is_signed: bool,
        effort: Effort,
        threads: usize,
        missing: impl Fn(&str),
    ) -> Plan {
        let folder = self.peers_dir.as_deref();
        let mut servers = Vec::new();
        let kinds = match workloads.is_empty() {
            true => Vec::new(),
            false => all_unless_named(self.only),
        };
        for kind in kinds {
            let found = match is_signed {
                true => kind.find_signed(folder),
                false => kind.find(folder).map(|found| vec![found]),
            };
            match found {
                Ok(found) => servers.extend(found),
                Err(sentence) => missing(&sentence),
            }
        }
        let load = all_unless_named(self.load);
        let mut dnsperf = None;
        if load.contains(&Generator::Dnsperf) && workloads.iter().any(|work| work.saturates()) {
            dnsperf = find_program("dnsperf", folder);
            if dnsperf.is_none() {
                missing("dnsperf is not here; to install it: apt-get install dnsperf");
            }
        }
        let mut nsupdate = None;
        if workloads.contains(&DnsWorkload::UpdatesNsupdate) {
            nsupdate = find_program("nsupdate", folder);
            if nsupdate.is_none() {
                missing("nsupdate is not here; to install it: apt-get install bind9-dnsutils");
                workloads.retain(|&workload| workload != DnsWorkload::UpdatesNsupdate);
            }
        }
        Plan {
            servers,
            workloads,
            own: load.contains(&Generator::Own),
            dnsperf,
            names: self.names.unwrap_or(match is_signed {
                true => SIGNED_NAMES,
                false => NAMES,
            }),
            is_signed,
            programs: self.peers_dir,
            window: self.window.into(),
            threads: self.threads.map_or(threads, usize::from),
            rate: self.rate,
            flood: self.flood,
            updates: self.updates,
            pipes: Pipes {
                connections: self.pipes.into(),
                window: self.pipe_window.into(),
            },
            nsupdate,
            effort,
        }
    }
}

fn all_unless_named<T: ValueEnum + Clone>(named: Vec<T>) -> Vec<T> {
    match named.is_empty() {
        true => T::value_variants().to_vec(),
        false => named,
    }
}

/// What is done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum DnsWorkload {
    /// A and AAAA of random names, as fast as they are answered
    Hit,
    /// The same for names that do not exist
    Miss,
    /// Nine that exist and one that does not
    Mix,
    /// Those that exist, with the DO bit
    HitDo,
    /// Those that exist, at a fixed rate: latency
    HitPaced,
    /// Those that exist, while names are moved
    HitBesideUpdates,
    /// One name after the other is moved, and asked for as soon as that is acknowledged
    UpdateToVisible,
    /// The same with many at a time, beside queries at a fixed rate
    VisibleUnderLoad,
    /// As many names are moved as the server takes
    Updates,
    /// The same beside queries at a fixed rate
    UpdatesBesideHits,
    /// As many as four processes of nsupdate move
    UpdatesNsupdate,
    /// A of random names of the signed zone with their signatures, which have been made before
    SignedHit,
    /// The same at a fixed rate, alone and beside a flood of names that do not exist
    SignedFlood,
    /// One name after the other is moved in our signed zone, and then asked for
    SignedUpdate,
    /// Every name that exists, and as many that do not, have been asked for: memory
    SignedMemory,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Generator {
    /// Threads of this program
    Own,
    /// dnsperf, where queries are asked as fast as they are answered
    Dnsperf,
}

/// How many queries a second are asked where the rate is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rate {
    /// Half of what Knot answers here; where that is not installed, of what the first server does.
    Half,
    /// So many.
    Fixed(u32),
}

impl Rate {
    /// Reads the option's value.
    fn parse(text: &str) -> Result<Self, String> {
        if text == "half" {
            return Ok(Self::Half);
        }
        let rate = text
            .parse()
            .ok()
            .filter(|rate| (1..=10_000_000).contains(rate));
        let rate = rate.map(Self::Fixed);
        rate.ok_or_else(|| "write half, or queries a second, 10000000 at most".to_owned())
    }
}

impl DnsWorkload {
    pub(super) fn name(self, generator: Generator) -> &'static str {
        match (self, generator) {
            (Self::Hit, Generator::Own) => "hit",
            (Self::Hit, Generator::Dnsperf) => "hit_dnsperf",
            (Self::Miss, Generator::Own) => "miss",
            (Self::Miss, Generator::Dnsperf) => "miss_dnsperf",
            (Self::Mix, Generator::Own) => "mix",
            (Self::Mix, Generator::Dnsperf) => "mix_dnsperf",
            (Self::HitDo, Generator::Own) => "hit_do",
            (Self::HitDo, Generator::Dnsperf) => "hit_do_dnsperf",
            (Self::HitPaced, _) => "hit_paced",
            (Self::HitBesideUpdates, _) => "hit_beside_updates",
            (Self::UpdateToVisible, _) => "update_to_visible",
            (Self::VisibleUnderLoad, _) => "visible_under_load",
            (Self::Updates, _) => "updates",
            (Self::UpdatesBesideHits, _) => "updates_beside_hits",
            (Self::UpdatesNsupdate, _) => "updates_nsupdate",
            (Self::SignedHit, _) => "signed_hit",
            (Self::SignedFlood, _) => "signed_flood",
            (Self::SignedUpdate, _) => "signed_update",
            (Self::SignedMemory, _) => "signed_memory",
        }
    }

    /// Of ten queries.
    pub(super) fn misses(self) -> u32 {
        match self {
            Self::Miss => 10,
            Self::Mix => 1,
            Self::Hit
            | Self::HitDo
            | Self::HitPaced
            | Self::HitBesideUpdates
            | Self::UpdateToVisible
            | Self::VisibleUnderLoad
            | Self::Updates
            | Self::UpdatesBesideHits
            | Self::UpdatesNsupdate
            | Self::SignedHit
            | Self::SignedFlood
            | Self::SignedUpdate
            | Self::SignedMemory => 0,
        }
    }

    /// Whether the zone is signed.
    pub(super) fn is_signed(self) -> bool {
        matches!(
            self,
            Self::SignedHit | Self::SignedFlood | Self::SignedUpdate | Self::SignedMemory
        )
    }

    /// Whether dnsperf asks as well: the zone is as it is, and nothing but the server holds it up.
    pub(super) fn saturates(self) -> bool {
        match self {
            Self::Hit | Self::Miss | Self::Mix | Self::HitDo => true,
            Self::HitPaced
            | Self::HitBesideUpdates
            | Self::UpdateToVisible
            | Self::VisibleUnderLoad
            | Self::Updates
            | Self::UpdatesBesideHits
            | Self::UpdatesNsupdate
            | Self::SignedHit
            | Self::SignedFlood
            | Self::SignedUpdate
            | Self::SignedMemory => false,
        }
    }

    /// Whether as many names are moved as the server takes from this program.
    pub(super) fn floods(self) -> bool {
        matches!(self, Self::Updates | Self::UpdatesBesideHits)
    }

    /// Whether queries come at the fixed rate.
    pub(super) fn is_paced(self) -> bool {
        matches!(
            self,
            Self::HitPaced | Self::VisibleUnderLoad | Self::UpdatesBesideHits
        )
    }

    /// Whether a server can do it at all.
    pub(super) fn fits(self, server: NameServerKind) -> bool {
        match self {
            Self::Miss | Self::Mix => server.looks_up(),
            Self::HitBesideUpdates
            | Self::UpdateToVisible
            | Self::VisibleUnderLoad
            | Self::Updates
            | Self::UpdatesBesideHits
            | Self::UpdatesNsupdate => server.takes_updates(),
            Self::SignedUpdate => server == NameServerKind::Causeway,
            Self::Hit
            | Self::HitDo
            | Self::HitPaced
            | Self::SignedHit
            | Self::SignedFlood
            | Self::SignedMemory => true,
        }
    }
}

/// What is done: all there is to know of it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) servers: Vec<FoundNameServer>,
    pub(super) workloads: Vec<DnsWorkload>,
    /// Whether this program's threads ask.
    pub(super) own: bool,
    /// And where dnsperf is, if that does.
    pub(super) dnsperf: Option<PathBuf>,
    pub(super) names: u32,
    /// Whether the zone is.
    pub(super) is_signed: bool,
    /// Where programs are looked for first.
    pub(super) programs: Option<PathBuf>,
    /// Queries under way on each socket.
    pub(super) window: usize,
    pub(super) threads: usize,
    pub(super) rate: Rate,
    pub(super) flood: Option<u32>,
    /// Updates a second.
    pub(super) updates: u32,
    /// Of workloads that move as many names as a server takes.
    pub(super) pipes: Pipes,
    /// Where that program is, if it is wanted.
    pub(super) nsupdate: Option<PathBuf>,
    /// Its connections are sockets.
    pub(super) effort: Effort,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_or_half() {
        assert_eq!(Rate::parse("half"), Ok(Rate::Half));
        assert_eq!(Rate::parse("60000"), Ok(Rate::Fixed(60_000)));
        for wrong in ["0", "-1", "fast", "10000001"] {
            assert!(Rate::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_that_is_not_here_is_told_and_left_out() {
        let wanted = Wanted {
            names: Some(1),
            only: vec![NameServerKind::Empty, NameServerKind::Pdns],
            workloads: Vec::new(),
            load: vec![Generator::Own],
            sockets: 1,
            window: 1,
            threads: None,
            rate: Rate::Half,
            flood: None,
            updates: 1,
            pipes: 1,
            pipe_window: 1,
            peers_dir: None,
        };
        let effort = Effort {
            seconds: 1,
            rounds: 1,
            connections: 1,
        };
        let missing = std::cell::Cell::new(0);
        let [plan, signed] = wanted.plans(effort, 3, |_| missing.set(missing.get() + 1));
        let found = plan.servers.len() + usize::from(plan.nsupdate.is_some());
        assert_eq!(found + missing.get(), 3);
        assert_eq!(plan.servers[0].kind, NameServerKind::Empty);
        let mut all = DnsWorkload::value_variants().to_vec();
        all.retain(|&work| !work.is_signed());
        all.retain(|&work| work != DnsWorkload::UpdatesNsupdate || plan.nsupdate.is_some());
        assert_eq!(plan.workloads, all);
        assert_eq!((plan.own, plan.dnsperf, plan.threads), (true, None, 3));
        assert!(signed.servers.is_empty(), "neither has a signed zone");
        assert_eq!(plan.workloads.len() + signed.workloads.len(), all.len() + 4);
    }
}
