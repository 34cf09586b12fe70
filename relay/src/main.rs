//! `causeway-agent`: pairs a device and keeps it reachable.

use std::fmt;
use std::fs;
use std::io::{IsTerminal as _, Read as _, stderr, stdin};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, ValueEnum};
use directory::PairingCode;
use relay::agent::{
    self, ANSWER_TIME, ANSWER_TIMES, Cloud, ConfigurationStatus, Dns, DnsStatus, Finding,
    FlowsStatus, Gso, Health, Http3Server, LimitsStatus, Origin, OriginAddress, OriginTrust,
    PortStatus, Scheme, ServiceStatus, Services, ServicesFile, State, Status, TunnelStatus,
    Tunnels, VisitorAddress,
};
use relay::octets;
use relay::program::{self, Reload, ServiceManager, Termination};
use relay::resolve::Resolver;
use relay::tls::Roots;
use relay::workers::WorkerThreads;
use serde::Serialize;
use tokio::runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Makes services of this device reachable by name, through the operator's relay.
#[derive(Parser)]
#[command(name = "causeway-agent", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
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
        /// How many relays it has a tunnel to, where there are several: 2, so that the device stays reachable when one of them dies,
        /// or 1, which costs half as many packets while nothing happens.
        #[arg(long, value_name = "1|2", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
        tunnels: u8,
        #[command(flatten)]
        state: StateOption,
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

#[derive(clap::Args)]
struct StateOption {
    /// Where this device keeps its keys [default: $XDG_STATE_HOME/causeway-agent or ~/.local/state/causeway-agent]
    #[arg(long = "state", value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// What is made reachable: what a file describes, or one service.
#[derive(clap::Args)]
struct ServicesOption {
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
enum GsoOption {
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
enum DnsOption {
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

#[derive(Clone, Copy, ValueEnum)]
enum VisitorAddressOption {
    /// Forwarded, X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host
    Forwarded,
    /// A PROXY protocol v2 header in front of each connection
    ProxyV2,
    /// Not at all
    Hidden,
}

fn main() -> ExitCode {
    program::start_log();
    program::raise_descriptor_limit();
    match run_to_end(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_to_end(verb: Verb) -> anyhow::Result<()> {
    let mut runtime = runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build()?;
    let acted = runtime.block_on(act(verb));
    // The C library may still wait for a name server that does not answer, half a minute long: nobody else waits for that.
    runtime.shutdown_background();
    acted
}

async fn act(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Pair {
            control,
            code,
            ca,
            state,
        } => pair(control, code, ca, state).await,
        Verb::Status { state, json } => tell(state, json).await,
        Verb::Doctor { state, json } => examine(state, json).await,
        Verb::Run {
            services,
            gso,
            dns,
            tunnels,
            state,
        } => {
            let state = state.open()?;
            let (services, file) = services.open(&state)?;
            let threads = WorkerThreads::per_core()?;
            let config = agent::Config {
                state,
                services,
                resolver: Resolver::System,
                workers: threads.workers(),
                gso: gso.into(),
                dns: dns.into(),
                retire: CancellationToken::new(),
                tunnels: match tunnels {
                    1 => Tunnels::One,
                    _ => Tunnels::Two,
                },
            };
            run(config, file).await
        }
    }
}

impl ServicesOption {
    /// What it says, with the file that may say otherwise later.
    fn open(self, state: &State) -> anyhow::Result<(Services, Option<ServicesFile>)> {
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

/// Says how the agent is. It is a failure if nobody can reach the device.
async fn tell(state: StateOption, json: bool) -> anyhow::Result<()> {
    let status = agent::ask(&state.open()?).await?;
    let complaints = agent::complaints(&status);
    if json {
        let (status, complaints) = (&status, &complaints);
        let told = serde_json::to_string_pretty(&Told { status, complaints })?;
        println!("{told}");
    } else {
        println!("{}", printable(&in_words(&status)));
        for complaint in &complaints {
            println!("{}", printable(&to_mend(complaint)));
        }
    }
    match status.tunnel {
        Some(_) => Ok(()),
        None => bail!("the device cannot be reached: it has no tunnel"),
    }
}

/// A status, and what is amiss by it.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    status: &'a Status,
    complaints: &'a [Finding],
}

/// What it is has been said above.
/// The same without what a terminal would obey: some of it is what others have said, such as whoever answers in the relay's place.
fn printable(text: &str) -> String {
    let is_obeyed = |letter: char| letter.is_control() && letter != '\n';
    text.replace(is_obeyed, "\u{fffd}")
}

fn to_mend(complaint: &Finding) -> String {
    let Finding {
        hop, subject, mend, ..
    } = complaint;
    let mend = mend.as_deref().unwrap_or("nothing can be done");
    format!("to mend     {hop} ({subject}): {mend}")
}

fn in_words(status: &Status) -> String {
    let mut lines = vec![format!("device      {}", status.device)];
    lines.extend(status.tunnels.iter().flat_map(tunnel_in_words));
    lines.push(format!("visitors    {}", status.visitors));
    lines.extend(services_in_words(&status.services));
    let configuration = status.configuration.as_ref();
    if let Some(ConfigurationStatus {
        file,
        problem: Some(problem),
    }) = configuration
    {
        lines.push(format!(
            "not read    {file}, so what it said before is in force:"
        ));
        lines.extend(problem.lines().map(because));
    }
    lines.extend(flows_in_words(&status.flows));
    let limits = status.tunnel.as_ref().and_then(|tunnel| tunnel.limits);
    lines.extend(limits.map(limits_in_words));
    lines.extend(status.dns.as_ref().map(dns_in_words));
    if status.tunnels.is_empty() {
        lines.extend(status.why.iter().map(because));
    }
    lines.join("\n")
}

/// Those of which there is something to say. Where there is one for all names, it needs none.
fn services_in_words(services: &[ServiceStatus]) -> Vec<String> {
    let width = services.iter().map(|service| service.name.len()).max();
    let is_named = services.iter().any(|service| service.name != "*");
    let mut lines = Vec::new();
    for service in services {
        let ServiceStatus {
            name,
            origin,
            reach,
            public,
            health,
            problem,
            ..
        } = service;
        let name = match is_named {
            true => format!("{name:<width$}  ", width = width.unwrap_or_default()),
            false => String::new(),
        };
        let state = match (health.as_deref(), problem) {
            (Some("ill"), Some(problem)) => format!(": not well, {problem}"),
            (_, Some(problem)) => format!(": {problem}"),
            (Some(health), None) => format!(": {health}"),
            (None, None) if is_named => String::new(),
            (None, None) => continue,
        };
        let reach = match reach.as_str() {
            "name" => String::new(),
            "both" => ", for apps too".to_owned(),
            "port" => String::new(),
            _ => ", for apps".to_owned(),
        };
        let public = public.as_ref().map(|port| format!(", at port {port}"));
        let public = public.unwrap_or_default();
        lines.push(format!("service     {name}{origin}{reach}{public}{state}"));
    }
    lines
}

/// A time that an origin may be given.
fn answer_time(text: &str) -> Result<humantime::Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match ANSWER_TIMES.contains(&time) {
        true => Ok(time.into()),
        false => Err("between 1s and 1h makes sense".to_owned()),
    }
}

fn tunnel_in_words(tunnel: &TunnelStatus) -> Vec<String> {
    let since = Duration::from_secs(tunnel.seconds);
    let mut lines = vec![
        format!(
            "tunnel      {} to {}, for {}",
            tunnel.transport.to_uppercase(),
            tunnel.relay,
            humantime::format_duration(since)
        ),
        format!("seen as     {}", tunnel.seen_as),
    ];
    if let Some(path) = &tunnel.path {
        lines.push(format!(
            "path        {:.1} ms round trip, {} of {} packets lost, {}",
            path.round_trip_ms,
            path.packets_lost,
            path.packets_sent,
            path.congestion_control.to_uppercase()
        ));
    }
    lines.push(match tunnel.bulk.as_str() {
        "raw" => format!(
            "bulk        over TCP beside the tunnel ({} came, {} did not)",
            tunnel.raw_came, tunnel.raw_missed
        ),
        _ => "bulk        in the tunnel".to_owned(),
    });
    lines.extend(tunnel.why.iter().map(because));
    for PortStatus { port, problem, .. } in &tunnel.ports {
        lines.push(match problem {
            None => format!("port        {port} is open"),
            Some(problem) => format!("port        {port} is not open: {problem}"),
        });
    }
    lines
}

fn because(why: &(impl fmt::Display + ?Sized)) -> String {
    format!("because     {why}")
}

fn flows_in_words(flows: &FlowsStatus) -> Option<String> {
    let refused: u64 = flows.refused.values().sum();
    let lost: u64 = flows.lost.values().sum();
    (flows.taken + refused > 0).then(|| {
        format!(
            "datagrams   {} visitors ({} came, {refused} were refused; {lost} datagrams lost here)",
            flows.visitors, flows.taken
        )
    })
}

fn limits_in_words(limits: LimitsStatus) -> String {
    let rate = limits.bytes_per_second.map_or_else(
        || "any number of bytes".to_owned(),
        |rate| octets::write(rate.get()),
    );
    format!("at most     {rate} a second, {} visitors", limits.visitors)
}

fn dns_in_words(dns: &DnsStatus) -> String {
    let addresses: Vec<_> = dns.addresses.iter().map(ToString::to_string).collect();
    let addresses = addresses.join(", ");
    match (&dns.problem, dns.version) {
        (Some(problem), _) => format!("name        not led here: {problem}"),
        (None, Some(version)) if addresses.is_empty() => {
            format!("name        led back to the relay (version {version})")
        }
        (None, version) => format!(
            "name        leads to {addresses} (version {})",
            version.unwrap_or_default()
        ),
    }
}

/// Says what was found. It is a failure if something is bad.
async fn examine(state: StateOption, json: bool) -> anyhow::Result<()> {
    let state = state.open()?;
    let is_watched = stderr().is_terminal();
    let progress = |done: usize, of: usize| {
        if is_watched {
            // Each over the one before; the last is gone.
            match done == of {
                true => eprint!("\r\x1b[K"),
                false => eprint!("\rlooking: {done} of {of} done"),
            }
        }
    };
    let findings = agent::examine(&state, Resolver::System, &progress).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        println!("{}", printable(&findings_in_words(&findings)));
    }
    let bad = findings
        .iter()
        .filter(|finding| finding.health == Health::Ill);
    match bad.count() {
        0 => Ok(()),
        count => bail!("{count} of {} things are bad", findings.len()),
    }
}

/// A line for each, a second one for what to do about it, and one at the end for where to begin.
fn findings_in_words(findings: &[Finding]) -> String {
    let widths = findings
        .iter()
        .map(|finding| finding.subject.chars().count());
    let width = widths.max().unwrap_or_default();
    let mut lines = Vec::new();
    for Finding {
        subject,
        health,
        words,
        mend,
        ..
    } in findings
    {
        lines.push(format!("{health:<4}  {subject:<width$}  {words}"));
        let mend = mend.as_ref();
        lines.extend(mend.map(|mend| format!("      {:<width$}  to mend: {mend}", "")));
    }
    lines.push(String::new());
    lines.push(match agent::worst(findings) {
        None => "all that could be looked at is well".to_owned(),
        Some(Finding {
            hop,
            subject,
            health,
            ..
        }) => format!("begin with {hop}: {subject} is {health}"),
    });
    lines.join("\n")
}

async fn pair(
    control: String,
    code: String,
    ca: Option<PathBuf>,
    state: StateOption,
) -> anyhow::Result<()> {
    let code = if code == "-" { read_code()? } else { code };
    let code = PairingCode::parse(&code)?;
    let roots = match ca {
        Some(file) => read_roots(&file)?,
        None => Roots::of_system()?,
    };
    let cloud = Cloud::new(&control, roots, Resolver::System)?;
    let pairing = agent::pair(&state.open()?, &cloud, &code).await?;
    println!("paired: {}.{}", pairing.name, pairing.zone);
    println!("next: causeway-agent run --origin http://127.0.0.1:80");
    Ok(())
}

/// Runs the agent until it is told to stop. What `file` describes is in force as soon as that has changed.
async fn run(config: agent::Config, mut file: Option<ServicesFile>) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let (mut termination, mut reload) = (Termination::new()?, Reload::new()?);
    config.state.pairing()?; // without it there is nothing to wait for
    let manager = ServiceManager::of_environment();
    // Not only once it is attached: the device itself must come up whether there is an Internet or not.
    manager.ready();
    let _watch = manager.watch(config.workers.clone());
    let (attached, _) = watch::channel(None);
    let mut run = Box::pin(agent::run(config, attached, stop.clone()));
    loop {
        tokio::select! {
            ended = &mut run => return Ok(ended?),
            () = termination.received() => break,
            () = reload.asked() => match &mut file {
                Some(file) => {
                    manager.reloading();
                    file.reload();
                    manager.ready();
                }
                None => tracing::warn!(
                    "there is no configuration file, so there is nothing to reload: options take effect at a start"
                ),
            },
            () = changed(&mut file) => if let Some(file) = &mut file {
                file.reload();
            },
        }
    }
    manager.stopping();
    stop.cancel();
    tokio::select! {
        ended = &mut run => Ok(ended?),
        () = termination.received() => Ok(()),
    }
}

async fn changed(file: &mut Option<ServicesFile>) {
    match file {
        Some(file) => file.changed().await,
        None => std::future::pending().await,
    }
}

fn read_code() -> anyhow::Result<String> {
    const LONGEST: u64 = 256;
    let mut code = String::new();
    stdin()
        .take(LONGEST)
        .read_to_string(&mut code)
        .context("the code cannot be read")?;
    Ok(code)
}

fn read_roots(file: &PathBuf) -> anyhow::Result<Roots> {
    let pem = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Roots::from_pem(&pem).with_context(|| file.display().to_string())
}

impl StateOption {
    fn open(self) -> anyhow::Result<State> {
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_terminal_obeys_nobody_who_was_asked() {
        let said = "closed: \u{1b}[2J\u{9b}all is well\r\nbad";
        let shown = "closed: \u{fffd}[2J\u{fffd}all is well\u{fffd}\nbad";
        assert_eq!(printable(said), shown);
    }

    #[test]
    fn the_command_line_is_sound_and_its_manual_is_left_in_target_manual() {
        Arguments::command().debug_assert();
        manual::leave(Arguments::command()).unwrap();
    }
}
