//! `causeway-agent`: pairs a device and keeps it reachable.

mod arguments;
mod certificates;
mod shown;

use std::io::{Read as _, stdin};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use directory::PairingCode;
use relay::agent::{self, Cloud, Direct, ServicesFile, Tunnels};
use relay::program::{self, Reload, ServiceManager, Termination};
use relay::resolve::Resolver;
use relay::tls::Roots;
use relay::workers::WorkerThreads;
use tokio::runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use arguments::{Arguments, StateOption, Verb, read_roots};
use shown::{examine, steer, tell};

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
        Verb::Steer { to, state, json } => steer(to.into(), state, json).await,
        Verb::Certificates { command } => certificates::act(command),
        Verb::Doctor { state, json } => examine(state, json).await,
        Verb::Run {
            services,
            gso,
            dns,
            lan,
            caa,
            direct,
            direct_port,
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
                lan: lan.into(),
                caa: caa.into(),
                direct: direct.map(|listen| Direct {
                    listen,
                    port: direct_port.unwrap_or(listen.port()),
                }),
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
