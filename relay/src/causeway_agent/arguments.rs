//! The command line, and what it leads to: the device's state, and the services that are made reachable.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, ValueEnum};
use relay::agent::{
    ANSWER_TIME, ANSWER_TIMES, Caa, Dns, Gso, Http3Server, Lan, Origin, OriginAddress, OriginTrust,
    Scheme, Services, ServicesFile, State, Steer, VisitorAddress,
};
use relay::tls::Roots;

/// Makes services of this device reachable by name, through the operator's relay.
#[derive(Parser)]
#[command(name = "causeway-agent", version, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Registers this device with a code from its owner (`causeway device add NAME`, or the cloud's page).
    Pair {
        /// The cloud: https://cloud.example.com
        #[arg(long, value_name = "URL")]
        control: String,
        /// The code, like 7X3M-9QKD-2FVA-HT6R; `-` reads it from standard input.
        #[arg(long)]
        code: String,
        /// Certificates to check the cloud against, in PEM; without it, those this system trusts.
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        #[command(flatten)]
        state: StateOption,
    },
    /// Keeps the device reachable until it is stopped.
    Run {
        #[command(flatten)]
        services: ServicesOption,
        /// Whether packets go to the kernel in batches (UDP GSO); without, each costs four times as much.
        #[arg(long, value_enum, default_value_t)]
        gso: GsoOption,
        /// Whether the device's name leads to its own public addresses instead of the relay.
        #[arg(long, value_enum, default_value_t)]
        dns: DnsOption,
        /// Whether lan. in front of the device's name leads to its address in its own network, for those who are there too.
        #[arg(long, value_enum, default_value_t)]
        lan: LanOption,
        /// Who may have certificates for the device's name, as its CAA records tell all authorities.
        #[arg(long, value_enum, default_value_t)]
        caa: CaaOption,
        /// Where visitors may come straight to this device, without a relay: [::]:443 or 192.0.2.7:8443. While they find it there, its
        /// name leads to it, else to the relays
        #[arg(long, value_name = "ADDRESS:PORT")]
        direct: Option<SocketAddr>,
        /// The port at which that is reached from outside, where a router forwards another one [default: the same]
        #[arg(long, value_name = "PORT", requires = "direct", value_parser = clap::value_parser!(u16).range(1..))]
        direct_port: Option<u16>,
        /// How many relays it has a tunnel to, where there are several: 2, so that the device stays reachable when one of them dies,
        /// or 1, which costs half as many packets while nothing happens.
        #[arg(long, value_name = "1|2", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
        tunnels: u8,
        #[command(flatten)]
        state: StateOption,
    },
    /// Says where the device's name is to lead, from now on; the cloud keeps it.
    Steer {
        #[arg(value_enum)]
        to: SteerOption,
        #[command(flatten)]
        state: StateOption,
        /// Says what has come of it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Which certificates somebody else has got for this device's name, as certificate transparency logs show.
    Certificates {
        #[command(subcommand)]
        command: CertificatesCommand,
    },
    /// Says how the running agent is, and why it is so.
    Status {
        #[command(flatten)]
        state: StateOption,
        /// Says it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Looks for what keeps visitors from this device, or makes it slow, hop by hop from the device to its service, and says how to
    /// mend it. It changes nothing, and leaves a running agent alone; it fails if something is bad.
    Doctor {
        #[command(flatten)]
        state: StateOption,
        /// Says it as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub(super) enum CertificatesCommand {
    /// Lists those that have been seen and are not the device's own; it fails if there are any that you have not accepted.
    List {
        #[command(flatten)]
        state: StateOption,
        /// Lists them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Accepts one: it is yours, such as that of another server which you have given the same name.
    Accept {
        /// Its key as it is listed, or how that begins.
        #[arg(value_name = "FINGERPRINT")]
        key: String,
        #[command(flatten)]
        state: StateOption,
    },
}

#[derive(clap::Args)]
pub(super) struct StateOption {
    /// Where this device keeps its keys [default: $XDG_STATE_HOME/causeway-agent or ~/.local/state/causeway-agent]
    #[arg(long = "state", value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// What is made reachable: what a file describes, or one service.
#[derive(clap::Args)]
pub(super) struct ServicesOption {
    /// The file that describes the services, each with a name of its own: it is read again when it changes [default: agent.toml in the
    /// state directory, or /etc/causeway-agent/agent.toml]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["origin", "visitor_address", "origin_ca", "origin_insecure", "http3", "answer_time"])]
    config: Option<PathBuf>,
    /// One service instead, for every name of the device: http://127.0.0.1:80, https://127.0.0.1:443, h2c://127.0.0.1:50051 or
    /// h2://127.0.0.1:443 for one that wants HTTP/2, such as gRPC, tcp://127.0.0.1:22, or tls://127.0.0.1:443 for one whose own
    /// certificate visitors see
    #[arg(long, value_name = "URL")]
    origin: Option<OriginAddress>,
    /// How the service hears the visitor's address; `forwarded` is for HTTP and its default.
    #[arg(long, value_enum, requires = "origin")]
    visitor_address: Option<VisitorAddressOption>,
    /// Certificates to check an https:// or h2:// origin against, in PEM; without it, those this system trusts.
    #[arg(
        long,
        value_name = "FILE",
        requires = "origin",
        conflicts_with = "origin_insecure"
    )]
    origin_ca: Option<PathBuf>,
    /// Do not check the certificate of an https:// or h2:// origin: for one that the device made itself.
    #[arg(long, requires = "origin")]
    origin_insecure: bool,
    /// Who speaks HTTP/3 for the service: `agent`, or, with a certificate of its own, the service at an address such as 127.0.0.1:443:
    /// what visitors send there passes as it is [default: nobody]
    #[arg(long, value_name = "agent|HOST:PORT", requires = "origin")]
    http3: Option<Http3Server>,
    /// How long the service may take to begin its answer to a request, such as 90s or 5m; then the visitor hears that it does
    /// not answer (504)
    #[arg(long, value_name = "TIME", requires = "origin", default_value_t = ANSWER_TIME.into(), value_parser = answer_time)]
    answer_time: humantime::Duration,
}

/// Where the package keeps the configuration.
const CONFIG: &str = "/etc/causeway-agent/agent.toml";

#[derive(Clone, Copy, Default, ValueEnum)]
pub(super) enum GsoOption {
    /// Unless they come out damaged, or get lost
    #[default]
    Auto,
    /// Whatever becomes of them
    On,
    /// Never
    Off,
}

impl From<GsoOption> for Gso {
    fn from(option: GsoOption) -> Self {
        match option {
            GsoOption::Auto => Self::Auto,
            GsoOption::On => Self::On,
            GsoOption::Off => Self::Off,
        }
    }
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(super) enum DnsOption {
    /// It leads to the relay, or where an update client of yours says
    #[default]
    Off,
    /// It does, and follows them; only for a device that others can reach without the relay: to all others its name would be dead
    Report,
}

impl From<DnsOption> for Dns {
    fn from(option: DnsOption) -> Self {
        match option {
            DnsOption::Off => Self::Off,
            DnsOption::Report => Self::Report,
        }
    }
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(super) enum LanOption {
    /// It says nothing of it
    #[default]
    Off,
    /// It does, and follows it; anybody who knows the name can ask for the address
    Report,
    /// It does not any more
    Remove,
}

impl From<LanOption> for Lan {
    fn from(option: LanOption) -> Self {
        match option {
            LanOption::Off => Self::Off,
            LanOption::Report => Self::Report,
            LanOption::Remove => Self::Remove,
        }
    }
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(super) enum CaaOption {
    /// This agent's own accounts with the authorities that the operator has chosen
    #[default]
    Own,
    /// Whoever proves the name; for a device with a certificate client of its own
    Any,
}

impl From<CaaOption> for Caa {
    fn from(option: CaaOption) -> Self {
        match option {
            CaaOption::Own => Self::Own,
            CaaOption::Any => Self::Any,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum SteerOption {
    /// To the device while it is found there, else to the relays
    Auto,
    /// To the device, whether it is found there or not
    Direct,
    /// To the relays
    Relay,
}

impl From<SteerOption> for Steer {
    fn from(option: SteerOption) -> Self {
        match option {
            SteerOption::Auto => Self::Auto,
            SteerOption::Direct => Self::Direct,
            SteerOption::Relay => Self::Relay,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum VisitorAddressOption {
    /// Forwarded, X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host
    Forwarded,
    /// A PROXY protocol v2 header in front of each connection
    ProxyV2,
    /// Not at all
    Hidden,
}

/// A time that an origin may be given.
fn answer_time(text: &str) -> Result<humantime::Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match ANSWER_TIMES.contains(&time) {
        true => Ok(time.into()),
        false => Err("between 1s and 1h makes sense".to_owned()),
    }
}

impl ServicesOption {
    /// What it says, with the file that may say otherwise later.
    pub(super) fn open(self, state: &State) -> anyhow::Result<(Services, Option<ServicesFile>)> {
        let usual = [state.directory().join("agent.toml"), CONFIG.into()];
        let found = usual.iter().find(|file| file.exists()).cloned();
        let Some(origin) = self.origin else {
            let Some(file) = self.config.or(found) else {
                bail!(
                    "nothing says what to make reachable: name one service with --origin http://127.0.0.1:80, or describe \
                     several in {}",
                    usual[0].display()
                );
            };
            let file = ServicesFile::open(file)?;
            return Ok((file.services(), Some(file)));
        };
        if origin.scheme == Scheme::Udp {
            bail!(
                "only a public port leads to a service over UDP: describe it in a file, with `public`"
            );
        }
        if let Some(file) = found {
            let file = file.display();
            tracing::info!(%file, "the file is not read: --origin says what is made reachable");
        }
        let trust = match (self.origin_insecure, self.origin_ca) {
            (true, _) => OriginTrust::Anything,
            (false, Some(file)) => OriginTrust::Roots(read_roots(&file)?),
            (false, None) => OriginTrust::of_system(),
        };
        let visitor_address = self.visitor_address;
        let visitor_address =
            visitor_address.map_or_else(VisitorAddress::default, VisitorAddress::from);
        let origin = Origin::new(origin, visitor_address, &trust)?;
        let origin = origin.answering_within(*self.answer_time);
        Ok((origin.with_http3(self.http3).into(), None))
    }
}

impl StateOption {
    pub(super) fn open(self) -> anyhow::Result<State> {
        Ok(State::open(
            self.directory.unwrap_or_else(State::default_directory),
        )?)
    }
}

impl From<VisitorAddressOption> for VisitorAddress {
    fn from(option: VisitorAddressOption) -> Self {
        match option {
            VisitorAddressOption::Forwarded => Self::Forwarded,
            VisitorAddressOption::ProxyV2 => Self::ProxyV2,
            VisitorAddressOption::Hidden => Self::Hidden,
        }
    }
}

pub(super) fn read_roots(file: &Path) -> anyhow::Result<Roots> {
    let pem = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Roots::from_pem(&pem).with_context(|| file.display().to_string())
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
