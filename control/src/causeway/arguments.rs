//! What stands on the command line.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use control::config::{AdminConfig, Overrides};
use control::operator::KeyDuty;
use control::steering::Mode;
use control::top;
use control::up::Source;
use ddns::dnssec::keys::MOST_DAYS;
use directory::{PublicPort, Zone};
use relay::octets;

/// What signals do to a server, and what it is handed over, for its manual page.
const SIGNALS: &str = "SIGTERM and SIGINT end the server in order: agents are sent away, and /readyz says so; after `leave` in [relay] \
no new visitors are taken, and those who are there have `drain` to finish. A second one ends it at once. SIGHUP has it read its \
configuration again: [relay.limits], `proxy_from`, `leave` and `drain` are in force at once, the server's own hosts get new \
certificates, and the log names what has changed beside that and waits for the next start. Where anything is wrong nothing changes.

SIGUSR2 has it start its successor: the program as it is on the disk now, with the same arguments and the configuration as it is now. That \
takes over the sockets, refuses nobody, and serves; this process ends when its last visitor has gone, or when `leave` (20 s at least) and `drain` have \
passed. A successor that cannot start leaves everything as it was, and the log says why. Addresses and the number of workers stay as they are.

Listeners that are there before the server are handed over as in sd_listen_fds(3), with the names `front` and `http`, and must be what the \
configuration says. As whoever holds them goes on to listen, nobody is refused while the server is restarted.";

/// The remote-access cloud of a NAS vendor or a self-hoster.
#[derive(Parser)]
#[command(name = "causeway", version, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Runs the server: control, relay and ddns in one process; with `join` in [relay], a relay of another server.
    #[command(after_long_help = SIGNALS)]
    Up(Box<UpOptions>),
    /// Checks a configuration file and says what is wrong with it.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Asks the server that runs on this host whether it works; the exit code says it too.
    Health {
        /// Its admin listener.
        #[arg(long, value_name = "ADDR", default_value_t = AdminConfig::default().listen)]
        admin: SocketAddr,
    },
    /// Registers, lists and removes devices.
    Device {
        #[command(subcommand)]
        verb: DeviceCommand,
    },
    /// Adds, lists and removes relays that have a process of their own, beside the server's.
    Relay {
        #[command(subcommand)]
        verb: RelayCommand,
    },
    /// Gives ports of the relays to devices, for services that are not reached by name.
    Port {
        #[command(subcommand)]
        verb: PortCommand,
    },
    /// Shows and rolls the keys of a signed zone ([ddns.dnssec]), and tells what its parent needs.
    Dnssec {
        #[command(subcommand)]
        verb: DnssecCommand,
    },
    /// Writes the zone into a file, for another name server or to look at.
    Zone {
        #[command(subcommand)]
        verb: ZoneCommand,
    },
    /// Makes the key of connection records, and reads them.
    Records {
        #[command(subcommand)]
        verb: RecordsCommand,
    },
    /// Lists the certificate logs that are followed ([certificate_watch]), and certificates in them that are in question: those that devices
    /// say are not their own, and those for the operator's own hosts or for all devices.
    Certificates {
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Prints a link with which the operator signs in to the pages, once.
    SignIn(StateOption),
    /// Shows what passes for each device, live, the busiest first.
    Top(TopOptions),
}

#[derive(Args)]
pub(super) struct TopOptions {
    /// For programs: an object a line.
    #[arg(long)]
    pub(super) json: bool,
    /// Ends after the first measurement, as it does where standard output is no terminal.
    #[arg(long)]
    pub(super) once: bool,
    /// How long is measured each time, from 100ms to 5s.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub(super) interval: Duration,
    #[command(flatten)]
    pub(super) state: StateOption,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if !(top::SHORTEST..=top::LONGEST).contains(&interval) {
        return Err("it is measured for 100ms at least and 5s at most".to_owned());
    }
    Ok(interval)
}

#[derive(Args)]
pub(super) struct UpOptions {
    /// A demo on loopback, with a device of its own and no file at all.
    #[arg(long, conflicts_with = "config", required_unless_present = "config")]
    pub(super) demo: bool,
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The zone, such as nas.example.com.
    #[arg(long, value_name = "NAME")]
    pub(super) zone: Option<String>,
    /// Where visitors and agents arrive, TCP and UDP [demo: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR")]
    pub(super) front: Option<SocketAddr>,
    /// Where plain HTTP is redirected to the front [demo: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(super) http: Option<SocketAddr>,
    /// Where DNS is spoken, UDP and TCP [demo: 127.0.0.1:5300]
    #[arg(long, value_name = "ADDR")]
    pub(super) dns: Option<SocketAddr>,
    /// Where DNS is spoken over TLS [demo: 127.0.0.1:8853]
    #[arg(long, value_name = "ADDR")]
    pub(super) dot: Option<SocketAddr>,
    /// Where metrics and health are answered [default: 127.0.0.1:9400]
    #[arg(long, value_name = "ADDR")]
    pub(super) admin: Option<SocketAddr>,
    /// Take no tunnels over QUIC; agents fall back to TLS.
    #[arg(long)]
    pub(super) no_udp: bool,
    /// Writes a JSON object with the addresses really bound, once everything answers.
    #[arg(long, value_name = "PATH")]
    pub(super) ready_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) state: StateOption,
}

#[derive(Args)]
pub(super) struct StateOption {
    /// Where the server keeps what must last [default: $XDG_STATE_HOME/causeway or ~/.local/state/causeway]
    #[arg(long = "state", value_name = "DIR")]
    pub(super) directory: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(super) enum DeviceCommand {
    /// Registers a name and prints a code for its agent: it works once, within ten minutes.
    Add {
        /// One DNS label, such as mynas.
        name: String,
        /// Gives the name back even if it still rests after its last holder, whose certificates may be good for up to 90
        /// days more.
        #[arg(long)]
        reclaim: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Registers all names of a list, or none, each with a fresh DDNS key, and prints them as `name,key`. No server may be
    /// running.
    Import {
        /// One name a line; blank lines and those that begin with # are passed over. - is standard input.
        file: PathBuf,
        /// Writes names and keys into a new file that only its owner can read, and not to standard output.
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Says which way a device's name leads: to the device itself while it is found there, and else to its relay (auto); to the device
    /// whatever is known of it (direct); or to its relay.
    Steer {
        /// The device's name.
        name: String,
        /// Which way.
        #[arg(value_enum)]
        mode: Mode,
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Prints a fresh key for a device; an earlier one for the same duty stops working.
    Key {
        /// The device's name.
        name: String,
        /// What it may change, and nothing else.
        #[arg(long = "for", value_name = "DUTY", value_enum, default_value_t = KeyDuty::Addresses)]
        duty: KeyDuty,
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Says what a device may have at most, instead of what all may ([relay.limits]); in force at once, for visitors who are
    /// there too.
    Limit {
        /// The device's name.
        name: String,
        /// Octets a second, of all its visitors and both ways, such as 10MB.
        #[arg(long, value_name = "AMOUNT", value_parser = rate)]
        bytes_per_second: Option<NonZeroU64>,
        /// Visitors at a time.
        #[arg(long, value_name = "COUNT")]
        visitors: Option<NonZeroU32>,
        /// No limits of its own any more.
        #[arg(long, conflicts_with_all = ["bytes_per_second", "visitors"], required_unless_present_any = ["bytes_per_second", "visitors"])]
        none: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Lists the devices.
    List {
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Removes a device: its tunnel is cut, nothing of it is kept, and its name stops resolving and rests for 90 days.
    Remove {
        /// The device's name.
        name: String,
        #[command(flatten)]
        state: StateOption,
    },
}

#[derive(Subcommand)]
pub(super) enum RelayCommand {
    /// Registers a relay and writes the file with which it joins: `join` in [relay] names it on that machine.
    Add {
        /// What it is called, one DNS label such as eu1.
        name: String,
        /// A new file that only its owner can read. Whoever has it is that relay.
        file: PathBuf,
        /// Where its front is reached from outside; up to four times.
        #[arg(long, value_name = "IP", required = true)]
        public: Vec<IpAddr>,
        /// And at which port, TCP and UDP.
        #[arg(long, default_value_t = 443, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        #[command(flatten)]
        state: StateOption,
    },
    /// Lists them, and who of them follows the server now.
    List {
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Removes a relay: it hears nothing more, no name leads to it, and its agents leave it.
    Remove {
        /// What it is called.
        name: String,
        #[command(flatten)]
        state: StateOption,
    },
}

#[derive(Subcommand)]
pub(super) enum PortCommand {
    /// Gives a device a port, one of `ports` in [relay]: each relay listens there while the device is attached and its agent's file has a
    /// service with `public` for it. What passes there is encrypted by nobody but the service.
    Add {
        /// The device's name.
        device: String,
        /// Such as 20022/tcp or 20053/udp.
        port: PublicPort,
        #[command(flatten)]
        state: StateOption,
    },
    /// Lists the ports that devices have.
    List {
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Takes a port back: nobody comes there any more, and who is there has to leave.
    Remove {
        /// Such as 20022/tcp.
        port: PublicPort,
        #[command(flatten)]
        state: StateOption,
    },
}

/// Which key is rolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RolledKey {
    /// What signs the zone. It ends by itself within two days.
    Zsk,
    /// What signs the set of keys. Its parent has to be given another DS record, and that has to be said.
    Ksk,
}

#[derive(Subcommand)]
pub(super) enum DnssecCommand {
    /// Shows the keys, what each does, and what is to be done next.
    Status {
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Prints the DS records that the parent of the zone should have.
    Ds {
        /// The DNSKEY records instead, for a parent that makes the DS itself.
        #[arg(long)]
        dnskey: bool,
        /// For programs: both.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Begins to replace a key by a new one, while both are served; or says that the parent has the new DS.
    Roll {
        /// Which key.
        key: RolledKey,
        /// The parent has the DS of the newest KSK, and no other. Ask the parent's name servers before: the older KSK goes by this.
        #[arg(long)]
        ds_published: bool,
        /// How long others may keep what the parent had before: the TTL of the DS record there.
        #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration, requires = "ds_published")]
        ds_ttl: Duration,
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Makes a KSK for another machine, and prints its public half.
    Key {
        /// Where the private half goes: a new file, not to be kept on the server.
        file: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Prints what a KSK that is not on the server has to sign, as JSON for `sign`.
    Request {
        /// For how many days; have it sign again two weeks before they end.
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=MOST_DAYS as i64))]
        days: u32,
        /// Plans to replace the ZSK.
        #[arg(long, group = "plan")]
        roll_zsk: bool,
        /// Plans to replace the KSK by one whose public half is in this file.
        #[arg(long, value_name = "FILE", group = "plan")]
        roll_ksk: Option<PathBuf>,
        /// The parent has the DS of the newest KSK, and no other: plans that the older one goes.
        #[arg(long, group = "plan")]
        ds_published: bool,
        /// How long others may keep what the parent had before: the TTL of the DS record there.
        #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration, requires = "ds_published")]
        ds_ttl: Duration,
        /// What is planned begins after so long; until then its signatures have to be imported.
        #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration, requires = "plan")]
        begin: Duration,
        /// For programs, as always.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
    /// Signs a request on the machine that has the KSK, which needs no network, and prints the response.
    Sign {
        /// The file with the private half.
        #[arg(long, value_name = "FILE")]
        ksk: PathBuf,
        /// The request; - is standard input.
        request: PathBuf,
        /// For programs, as always.
        #[arg(long)]
        json: bool,
    },
    /// Checks what a KSK has signed, and takes it into use.
    Import {
        /// The response; - is standard input.
        response: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
}

#[derive(Subcommand)]
pub(super) enum ZoneCommand {
    /// Prints the zone as a master file (RFC 1035), without signatures, from the running server.
    ///
    /// A name that changes meanwhile is there as it was before or after, all records of it of one moment; the serial is that of the
    /// beginning. A file that ends early is not whole: then this fails and says why.
    Export {
        #[command(flatten)]
        state: StateOption,
    },
    /// Gives devices the addresses that they have in a master file (RFC 1035): one that `zone export` or another server has written.
    ///
    /// All of it is tried first; if a name is no device's here, or an address can be no device's, nothing is changed, and it is said which.
    /// Records that are no device's addresses are passed over: they follow from the configuration. A device that leads to the file's relays
    /// in it needs nothing.
    Import {
        /// The file; - is standard input.
        file: PathBuf,
        /// Changes nothing, and says what would be.
        #[arg(long)]
        dry_run: bool,
        /// Passes over names that are no devices' here, and addresses that are not taken.
        #[arg(long)]
        skip: bool,
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOption,
    },
}

#[derive(Subcommand)]
pub(super) enum RecordsCommand {
    /// Makes a key, and prints the line with its public half for the configuration.
    Key {
        /// Where the secret half goes: a new file, not to be kept on the server.
        file: PathBuf,
    },
    /// Prints records, one a line, the newest last; what is damaged is said and passed over.
    Show {
        /// The file with the secret half of the key they are sealed to.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Of connections that had not ended before: 2026-11-27, 2026-11-27T20:15:00Z, or 2h before now.
        #[arg(long, value_name = "MOMENT")]
        since: Option<String>,
        /// Of connections that had begun by then.
        #[arg(long, value_name = "MOMENT")]
        until: Option<String>,
        /// Of one device.
        #[arg(long, value_name = "NAME|ID")]
        device: Option<String>,
        /// For programs: an object a line.
        #[arg(long)]
        json: bool,
        /// Where they are [default: records in the state directory]
        folder: Option<PathBuf>,
        #[command(flatten)]
        state: StateOption,
    },
}

impl UpOptions {
    pub(super) fn source(self) -> anyhow::Result<Source> {
        let zone = self
            .zone
            .map(|zone| Zone::parse(&zone).with_context(|| format!("--zone {zone}")));
        let overrides = Overrides {
            zone: zone.transpose()?,
            state: self.state.directory,
            front: self.front,
            http: self.http,
            dns: self.dns,
            dot: self.dot,
            admin: self.admin,
            no_udp: self.no_udp,
        };
        Ok(Source {
            file: self.config,
            overrides,
        })
    }
}

fn rate(text: &str) -> Result<NonZeroU64, String> {
    let octets = octets::parse(text).map_err(|error| error.to_string())?;
    NonZeroU64::new(octets)
        .ok_or_else(|| "a device that may move nothing is better removed".to_owned())
}
