//! `causeway`: runs the server, checks its configuration, and carries the operator's verbs to it.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use control::apart::{self, ApartError, Ended, Revoked};
use control::authority::Authority;
use control::config::{AdminConfig, Config, Overrides};
use control::devices::Devices;
use control::import::{self, List};
use control::operator::{
    self, Answer, AskError, DeviceVerb, KeyDuty, ListedDevice, ListedRelay, RelayVerb, ShownKey,
    ShownLimits, Verb,
};
use control::ready;
use control::records::{self, Wanted};
use control::state::StateDirectory;
use control::store::{DATABASE, Store};
use control::top;
use control::up::{self, Source};
use directory::Zone;
use indicatif::{ProgressBar, ProgressStyle};
use relay::files::{self, Readers};
use relay::octets;
use relay::program::{self, Inherited, Reload, ServiceManager, Termination};
use relay::workers::Workers;
use tokio::runtime::Runtime;

/// What signals do to a server, and what it is handed over, for its manual page.
const SIGNALS: &str = "SIGTERM and SIGINT end the server in order: agents are sent away, and /readyz says so; after `leave` in [relay] \
no new visitors are taken, and those who are there have `drain` to finish. A second one ends it at once. SIGHUP has it read its \
configuration again: [relay.limits], `leave` and `drain` are in force at once, the server's own hosts get new \
certificates, and the log names what has changed beside that and waits for the next start. Where anything is wrong nothing changes.

Listeners that are there before the server are handed over as in sd_listen_fds(3), with the names `front` and `http`, and must be what the \
configuration says. As whoever holds them goes on to listen, nobody is refused while the server is restarted.";

/// How a relay ends that control does not know any more: EX_CONFIG of sysexits(3), after which its unit is not started again.
const REVOKED: u8 = 78;

/// The remote-access cloud of a NAS vendor or a self-hoster.
#[derive(Parser)]
#[command(name = "causeway", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
    /// Makes the key of connection records, and reads them.
    Records {
        #[command(subcommand)]
        verb: RecordsCommand,
    },
    /// Prints a link with which the operator signs in to the pages, once.
    SignIn(StateOption),
    /// Shows what passes for each device, live, the busiest first.
    Top(TopOptions),
}

#[derive(Args)]
struct TopOptions {
    /// For programs: an object a line.
    #[arg(long)]
    json: bool,
    /// Ends after the first measurement, as it does where standard output is no terminal.
    #[arg(long)]
    once: bool,
    /// How long is measured each time, from 100ms to 5s.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    #[command(flatten)]
    state: StateOption,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if !(top::SHORTEST..=top::LONGEST).contains(&interval) {
        return Err("it is measured for 100ms at least and 5s at most".to_owned());
    }
    Ok(interval)
}

#[derive(Args)]
struct UpOptions {
    /// A demo on loopback, with a device of its own and no file at all.
    #[arg(long, conflicts_with = "config", required_unless_present = "config")]
    demo: bool,
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The zone, such as nas.example.com.
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Where visitors and agents arrive, TCP and UDP [demo: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR")]
    front: Option<SocketAddr>,
    /// Where plain HTTP is redirected to the front [demo: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Where DNS is spoken, UDP and TCP [demo: 127.0.0.1:5300]
    #[arg(long, value_name = "ADDR")]
    dns: Option<SocketAddr>,
    /// Where DNS is spoken over TLS [demo: 127.0.0.1:8853]
    #[arg(long, value_name = "ADDR")]
    dot: Option<SocketAddr>,
    /// Where metrics and health are answered [default: 127.0.0.1:9400]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Take no tunnels over QUIC; agents fall back to TLS.
    #[arg(long)]
    no_udp: bool,
    /// Writes a JSON object with the addresses really bound, once everything answers.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    state: StateOption,
}

#[derive(Args)]
struct StateOption {
    /// Where the server keeps what must last [default: $XDG_STATE_HOME/causeway or ~/.local/state/causeway]
    #[arg(long = "state", value_name = "DIR")]
    directory: Option<PathBuf>,
}

#[derive(Subcommand)]
enum DeviceCommand {
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
enum RelayCommand {
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
enum RecordsCommand {
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

fn main() -> ExitCode {
    program::start_log();
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway: {error:#}");
            match error.is::<Revoked>() {
                true => ExitCode::from(REVOKED),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let mut inherited = Inherited::default();
    if let Command::Up(_) = command {
        inherited = Inherited::of_environment()?; // before there are other threads
    }
    Runtime::new()?.block_on(Box::pin(act(command, inherited)))
}

async fn act(command: Command, inherited: Inherited) -> anyhow::Result<()> {
    match command {
        Command::Up(options) => up(*options, inherited).await,
        Command::Check { file } => {
            Config::read(&file, &Overrides::default())?;
            println!("{}: good", file.display());
            Ok(())
        }
        Command::Health { admin } => {
            ready::ask(admin).await?;
            println!("ready");
            Ok(())
        }
        Command::Device { verb } => device(verb).await,
        Command::Relay { verb } => relay(verb).await,
        Command::Records { verb } => records(verb).await,
        Command::SignIn(state) => show(ask(state, Verb::SignIn).await?, false),
        Command::Top(TopOptions {
            json,
            once,
            interval,
            state,
        }) => {
            let state = state.directory.unwrap_or_else(StateDirectory::default_path);
            let wish = top::Wish {
                json,
                once,
                interval,
            };
            Ok(top::show(&state, wish).await?)
        }
    }
}

/// Runs the server until a signal, or until a part of it ends by itself. The first signal ends it in order, the second at
/// once; a hangup has it read its configuration again.
async fn up(options: UpOptions, inherited: Inherited) -> anyhow::Result<()> {
    let (mut termination, mut reload) = (Termination::new()?, Reload::new()?);
    let (demo, ready_file) = (options.demo, options.ready_file.clone());
    if let Some(file) = &ready_file {
        forget(file)?; // an earlier server's, which nobody should take for this one's
    }
    let source = options.source()?;
    let config = source.read()?;
    let mut running = tokio::select! {
        () = termination.received() => return Ok(()),
        started = Box::pin(Running::start(config, demo, inherited)) => started?,
    };
    if let Some(file) = &ready_file {
        files::replace(file, &running.addresses()?, Readers::All)
            .with_context(|| file.display().to_string())?;
    }
    print!("{}", running.overview()?);
    println!("ready");
    let manager = ServiceManager::of_environment();
    manager.ready();
    let _watch = manager.watch(running.workers());
    let end = loop {
        tokio::select! {
            () = termination.received() => {
                // Standard error may be a terminal that has gone.
                let _ = writeln!(io::stderr(), "stopping; a second signal ends at once");
                break Ok(());
            }
            ended = running.failed() => {
                tracing::error!("{ended}");
                break Err(ended);
            }
            () = reload.asked() => {
                manager.reloading();
                running.reload(&source);
                manager.ready();
            }
        }
    };
    manager.stopping();
    let forgotten = ready_file.map_or(Ok(()), |file| forget(&file));
    tokio::select! {
        () = Box::pin(running.shutdown()) => end.and(forgotten),
        () = termination.received() => bail!("ended before every visitor had left"),
    }
}

/// What runs: a whole server, or a relay of another one.
enum Running {
    Whole(Box<up::Running>),
    Apart(Box<apart::Running>),
}

impl Running {
    async fn start(config: Config, demo: bool, inherited: Inherited) -> anyhow::Result<Self> {
        match config.relay.join {
            None => {
                let whole = Box::pin(up::start(config, demo, inherited)).await?;
                Ok(Self::Whole(whole.into()))
            }
            Some(_) if demo => bail!("the demo is a whole server: it cannot join another"),
            Some(_) => match apart::start(config, inherited).await {
                Ok(running) => Ok(Self::Apart(running.into())),
                Err(ApartError::Revoked(revoked)) => Err(revoked.into()),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// What is where, for programs.
    fn addresses(&self) -> serde_json::Result<Vec<u8>> {
        match self {
            Self::Whole(whole) => serde_json::to_vec_pretty(&whole.addresses()),
            Self::Apart(apart) => serde_json::to_vec_pretty(&apart.addresses()),
        }
    }

    /// The same for a person.
    fn overview(&self) -> anyhow::Result<String> {
        match self {
            Self::Whole(whole) => Ok(whole.overview()?),
            Self::Apart(apart) => Ok(apart.overview()),
        }
    }

    fn workers(&self) -> Workers {
        match self {
            Self::Whole(whole) => whole.workers(),
            Self::Apart(apart) => apart.workers(),
        }
    }

    async fn failed(&mut self) -> anyhow::Error {
        match self {
            Self::Whole(whole) => whole.failed().await.into(),
            Self::Apart(apart) => match apart.failed().await {
                Ended::Revoked(revoked) => revoked.into(),
                Ended::Part(ended) => ended.into(),
            },
        }
    }

    fn reload(&mut self, source: &Source) {
        match self {
            Self::Whole(whole) => whole.reload(source),
            Self::Apart(apart) => apart.reload(source),
        }
    }

    async fn shutdown(self) {
        match self {
            Self::Whole(whole) => whole.shutdown().await,
            Self::Apart(apart) => apart.shutdown().await,
        }
    }
}

/// Removes a file that may not be there.
fn forget(file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| file.display().to_string())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

impl UpOptions {
    fn source(self) -> anyhow::Result<Source> {
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

async fn device(command: DeviceCommand) -> anyhow::Result<()> {
    let (verb, state, json) = match command {
        DeviceCommand::Add {
            name,
            reclaim,
            state,
        } => (DeviceVerb::Add { name, reclaim }.into(), state, false),
        DeviceCommand::Key {
            name,
            duty,
            json,
            state,
        } => (DeviceVerb::Key { name, duty }.into(), state, json),
        DeviceCommand::Limit {
            name,
            bytes_per_second,
            visitors,
            none,
            state,
        } => {
            let verb = DeviceVerb::Limit {
                name,
                bytes_per_second,
                visitors,
                none,
            };
            (verb.into(), state, false)
        }
        DeviceCommand::Remove { name, state } => (DeviceVerb::Remove(name).into(), state, false),
        DeviceCommand::List { json, state } => (Verb::ListDevices, state, json),
        DeviceCommand::Import {
            file,
            keys,
            json,
            state,
        } => return import(&file, keys.as_deref(), json, state).await,
    };
    show(ask(state, verb).await?, json)
}

async fn relay(command: RelayCommand) -> anyhow::Result<()> {
    match command {
        RelayCommand::Add {
            name,
            file,
            public,
            port,
            state,
        } => {
            let verb = RelayVerb::Add {
                name,
                addresses: public,
                port,
            };
            // Before anything is registered: its key is shown once.
            let mut kept = files::new_private(&file).with_context(|| file.display().to_string())?;
            let answer = ask(state, Verb::Relay(verb)).await;
            let Ok(Answer::RelayAdded { host, join }) = answer else {
                let _ = fs::remove_file(&file); // empty, and made a moment ago
                return show(answer?, false);
            };
            let written = kept.write_all(join.reveal().as_bytes());
            written
                .and_then(|()| kept.sync_all())
                .with_context(|| file.display().to_string())?;
            println!("relay: {host}");
            eprintln!(
                "Move {} to that machine; its configuration has the zone, and in [relay] `front` and `join`.",
                file.display()
            );
            Ok(())
        }
        RelayCommand::List { json, state } => show(ask(state, Verb::ListRelays).await?, json),
        RelayCommand::Remove { name, state } => {
            let verb = Verb::Relay(RelayVerb::Remove(name));
            show(ask(state, verb).await?, false)
        }
    }
}

async fn records(command: RecordsCommand) -> anyhow::Result<()> {
    let (key, since, until, device, json, folder, state) = match command {
        RecordsCommand::Key { file } => {
            let key = records::make_key(&file)?;
            println!("[records]\nkey = \"{key}\"");
            eprintln!(
                "This belongs into the configuration. Keep {} away from the server: whoever has it reads the records, and without it \
                 nobody does.",
                file.display()
            );
            return Ok(());
        }
        RecordsCommand::Show {
            key,
            since,
            until,
            device,
            json,
            folder,
            state,
        } => (key, since, until, device, json, folder, state),
    };
    let now = SystemTime::now();
    let moment = |text: Option<String>| {
        text.map(|text| records::parse_moment(&text, now))
            .transpose()
    };
    let wanted = Wanted {
        since: moment(since)?,
        until: moment(until)?,
        device,
        json,
    };
    let directory = state.directory.clone();
    let directory = directory.unwrap_or_else(StateDirectory::default_path);
    let folder = folder.unwrap_or_else(|| relay::records::Config::default_folder(&directory));
    // Away from the server there are no names, and ids do as well.
    let names = match ask(state, Verb::ListDevices).await {
        Ok(Answer::Devices(devices)) => devices
            .into_iter()
            .filter_map(|device| Some((device.id?, device.name)))
            .collect(),
        Ok(_) | Err(_) => HashMap::new(),
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    records::show(
        &folder,
        &key,
        &wanted,
        &names,
        &mut out,
        &mut io::stderr().lock(),
    )?;
    Ok(())
}

/// Registers the names in `file`, and shows their keys or keeps them in the file `keys`.
async fn import(
    file: &Path,
    keys: Option<&Path>,
    json: bool,
    state: StateOption,
) -> anyhow::Result<()> {
    let text = if file == Path::new("-") {
        io::read_to_string(io::stdin()).context("standard input")?
    } else {
        fs::read_to_string(file).with_context(|| file.display().to_string())?
    };
    let list = List::parse(&text).with_context(|| file.display().to_string())?;
    let state = state.directory.unwrap_or_else(StateDirectory::default_path);
    let done = ProgressBar::new(list.len() as u64); // on a terminal only
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos} of {len} {elapsed}") {
        done.set_style(style);
    }
    let keys = keys.map(|file| (file, json));
    let imported = import::import(&state, &list, keys, |count| done.set_position(count as u64));
    let imported = imported.await;
    done.finish_and_clear();
    let imported = imported.with_context(|| file.display().to_string())?;
    match keys {
        Some((keys, _)) => println!("{} devices; their keys: {}", imported.len(), keys.display()),
        None => io::stdout().write_all(imported.reveal(json).as_bytes())?,
    }
    Ok(())
}

/// Facts go to standard output, one to a line; advice goes beside it.
fn show(answer: Answer, json: bool) -> anyhow::Result<()> {
    match answer {
        Answer::Added {
            host,
            code,
            control,
        } => {
            println!("name: {host}");
            println!("code: {}", code.reveal());
            let control = control.unwrap_or_else(|| "https://cloud.ZONE".to_owned());
            eprintln!(
                "Within ten minutes, on the device: causeway-agent pair --control {control} --code CODE"
            );
        }
        Answer::Key(key) if json => println!("{}", serde_json::to_string_pretty(&key)?),
        Answer::Key(ShownKey {
            duty,
            host,
            user,
            key,
            tsig,
        }) => {
            println!("host: {host}");
            println!("user: {user}");
            println!("key: {}", key.reveal());
            println!(
                "tsig: {}:{} {}",
                tsig.algorithm,
                tsig.name,
                tsig.secret.reveal()
            );
            eprintln!("{}", advice(duty, &host));
        }
        Answer::Devices(devices) if json => println!("{}", serde_json::to_string_pretty(&devices)?),
        Answer::Devices(devices) => print!("{}", table(&devices)),
        Answer::Limited(limits) => println!("limits: {limits}"),
        Answer::Removed => {
            println!("removed");
            eprintln!("The name rests for 90 days; `device add --reclaim` gives it back before.");
        }
        Answer::Relays(relays) if json => println!("{}", serde_json::to_string_pretty(&relays)?),
        Answer::Relays(relays) => print!("{}", table_of_relays(&relays)),
        Answer::RelayRemoved => {
            println!("removed");
            eprintln!("Its agents leave it within minutes; the file it joined with is worthless.");
        }
        Answer::Link { url, good_for } => {
            println!("{}", url.reveal());
            eprintln!("It works once, within {} minutes.", good_for / 60);
        }
        Answer::Top(_) | Answer::RelayAdded { .. } => bail!("the answer is to another question"),
        Answer::Refused(sentence) => bail!(sentence),
    }
    Ok(())
}

/// What to do with a key that was just made.
fn advice(duty: KeyDuty, host: &str) -> String {
    match duty {
        KeyDuty::Addresses => format!(
            "It changes the addresses of {host} and nothing else. Give it to a DDNS client that speaks dyndns2, as the \
             password of that user; or to nsupdate, as the key after `tsig:`."
        ),
        KeyDuty::Challenges => format!(
            "It sets the ACME challenges of {host} and nothing else. Give it to a certificate client as the password \
             of that user: lego's httpreq (HTTPREQ_USERNAME, HTTPREQ_PASSWORD), or acme-dns where it asks /register. Clients \
             that speak RFC 2136 (certbot's dns-rfc2136, lego's rfc2136) want the algorithm, name and secret after `tsig:`; \
             certbot the algorithm in capitals."
        ),
    }
}

fn table(devices: &[ListedDevice]) -> String {
    if devices.is_empty() {
        return "no devices yet; `causeway device add NAME` registers one\n".to_owned();
    }
    let width = devices
        .iter()
        .map(|device| device.host.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for device in devices {
        let transport = device
            .transport
            .as_deref()
            .map(|transport| format!(" ({transport})"))
            .unwrap_or_default();
        let limits = match device.limits == ShownLimits::default() {
            true => String::new(),
            false => format!("  at most {}", device.limits),
        };
        text.push_str(&format!(
            "{:<width$}  {}{transport}{limits}\n",
            device.host, device.state
        ));
    }
    text
}

fn table_of_relays(relays: &[ListedRelay]) -> String {
    if relays.is_empty() {
        return "no relay but the server's own; `causeway relay add NAME FILE --public IP` registers one\n".to_owned();
    }
    let width = relays.iter().map(|relay| relay.host.len()).max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for relay in relays {
        let state = match relay.following {
            true if relay.devices == 1 => "follows, 1 device".to_owned(),
            true => format!("follows, {} devices", relay.devices),
            false => "away".to_owned(),
        };
        let addresses: Vec<_> = relay.addresses.iter().map(ToString::to_string).collect();
        text.push_str(&format!(
            "{:<width$}  {state}  at {} port {}\n",
            relay.host,
            addresses.join(", "),
            relay.port
        ));
    }
    text
}

/// Asks the running server, or does it on the database when none runs.
async fn ask(state: StateOption, verb: Verb) -> anyhow::Result<Answer> {
    let path = state.directory.unwrap_or_else(StateDirectory::default_path);
    match operator::ask(&path, &verb).await {
        Err(AskError::NotRunning) => offline(&path, verb).await,
        asked => Ok(asked?),
    }
}

async fn offline(path: &Path, verb: Verb) -> anyhow::Result<Answer> {
    let database = path.join(DATABASE);
    if !database.exists() {
        bail!(
            "{} holds no causeway state; name its directory with --state",
            path.display()
        );
    }
    let state = StateDirectory::open(path)?;
    let _lock = state.lock()?; // a server that is just starting must not be raced
    let store = Store::open_existing(&database).await?;
    let zone = store.zone().await?;
    let authority = Arc::new(Authority::open(&state, &zone)?);
    let (writer, directory) = directory::directory(zone);
    let master = state.tsig_master()?;
    let devices = Devices::load(store, writer, directory, authority, master).await?;
    let answer = operator::act_offline(&devices, verb).await;
    devices.close().await;
    Ok(answer)
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
