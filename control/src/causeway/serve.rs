//! `causeway up`, from its start to its end.

use std::fs;
use std::future::pending;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use control::apart::{self, ApartError, Ended};
use control::config::Config;
use control::up::{self, Source};
use relay::files::{self, Readers};
use relay::program::succession::{self, Ask, Inheritance, Succession, SuccessionError, Successor};
use relay::program::{Inherited, Reload, ServiceManager, Termination};
use relay::workers::Workers;

use super::arguments::UpOptions;

/// Runs the server until a signal, or until a part of it ends by itself, or until another process has taken over. The first signal
/// ends it in order, the second at once; a hangup has it read its configuration again; SIGUSR2 has it start its successor.
pub(super) async fn up(options: UpOptions, inherited: Inherited) -> anyhow::Result<()> {
    let (mut termination, mut reload) = (Termination::new()?, Reload::new()?);
    let mut succession = Succession::new()?;
    let program = succession::own_program()?; // before another can have its place
    let (demo, ready_file) = (options.demo, options.ready_file.clone());
    let inheritance = Inheritance::new(inherited)?;
    if let Some(file) = &ready_file
        && !inheritance.is_succession()
    {
        forget(file)?; // an earlier server's, which nobody should take for this one's
    }
    let source = options.source()?;
    let config = source.read()?;
    let mut running = tokio::select! {
        () = termination.received() => return Ok(()),
        started = Box::pin(Running::start(config, demo, inheritance)) => started?,
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
    let mut successor = None;
    let end = loop {
        tokio::select! {
            () = termination.received() => {
                // Standard error may be a terminal that has gone.
                let _ = writeln!(io::stderr(), "stopping; a second signal ends at once");
                break End::Asked;
            }
            ended = running.failed() => {
                tracing::error!("{ended}");
                break End::Failed(ended);
            }
            () = reload.asked() => {
                manager.reloading();
                running.reload(&source);
                manager.ready();
            }
            () = succession.asked() => match successor {
                Some(_) => tracing::warn!("a successor is starting already"),
                None => successor = start_successor(&program),
            },
            asked = asks(&mut successor) => {
                let Some(mut newer) = successor.take() else { continue };
                let given = match asked {
                    Ok(ask) => running.give(ask, &mut newer).await.map(|()| ask),
                    Err(error) => Err(error),
                };
                match given {
                    Ok(Ask::Serving) => {
                        manager.succeeded_by(newer.id());
                        break End::Succeeded(newer);
                    }
                    Ok(Ask::State | Ask::Names | Ask::Front) => successor = Some(newer),
                    Err(error) => {
                        newer.end().await;
                        tracing::error!(%error, "the successor came to nothing");
                        match running.has_given() {
                            None => {
                                tracing::info!("this process goes on");
                                running.takes_back();
                            }
                            Some(Ask::Front | Ask::Serving) => bail!("nobody would come to this process any more, and its successor has ended: {error}"),
                            Some(Ask::State | Ask::Names) => break End::Failed(error.into()),
                        }
                    }
                }
            }
        }
    };
    if let Some(newer) = successor {
        newer.end().await;
    }
    let forgotten = match (&end, ready_file) {
        (End::Succeeded(_), _) | (_, None) => Ok(()), // it is the successor's now
        (_, Some(file)) => forget(&file),
    };
    let stopped = match end {
        End::Succeeded(newer) => {
            tracing::info!(
                "another process has taken over; this one serves whom it has until they have gone"
            );
            return tokio::select! {
                () = Box::pin(running.leave_to_successor()) => Ok(()),
                () = termination.received() => bail!("ended before every visitor had left"),
                // What comes to the sockets that are still open here would wait for nobody.
                status = newer.crashed() => bail!("the process that has taken over has ended: {status}"),
            };
        }
        End::Asked => Ok(()),
        End::Failed(error) => Err(error),
    };
    manager.stopping();
    tokio::select! {
        () = Box::pin(running.shutdown()) => stopped.and(forgotten),
        () = termination.received() => bail!("ended before every visitor had left"),
    }
}

/// Why a server ends.
enum End {
    /// By a signal.
    Asked,
    /// A part of it has ended, or its successor has with what it had been given.
    Failed(anyhow::Error),
    /// Another process has taken over.
    Succeeded(Successor),
}

fn start_successor(program: &Path) -> Option<Successor> {
    match Successor::start(program) {
        Ok(successor) => {
            tracing::info!(process = successor.id(), "a successor is starting");
            Some(successor)
        }
        Err(error) => {
            tracing::error!(program = %program.display(), %error, "no successor can be started");
            None
        }
    }
}

/// What the successor asks for next, once there is one.
async fn asks(successor: &mut Option<Successor>) -> Result<Ask, SuccessionError> {
    match successor {
        Some(successor) => successor.asks().await,
        None => pending().await,
    }
}

/// What runs: a whole server, or a relay of another one.
enum Running {
    Whole(Box<up::Running>),
    Apart(Box<apart::Running>),
}

impl Running {
    async fn start(config: Config, demo: bool, inheritance: Inheritance) -> anyhow::Result<Self> {
        match config.relay.join {
            None => {
                let whole = Box::pin(up::start(config, demo, inheritance)).await?;
                Ok(Self::Whole(whole.into()))
            }
            Some(_) if demo => bail!("the demo is a whole server: it cannot join another"),
            Some(_) => match apart::start(config, inheritance).await {
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

    /// Gives the successor what it asks for.
    async fn give(&mut self, ask: Ask, successor: &mut Successor) -> Result<(), SuccessionError> {
        let (named, facts) = match self {
            Self::Whole(whole) => whole.give(ask).await?,
            Self::Apart(apart) => apart.give(ask).await?,
        };
        successor.give(named, &facts).await
    }

    /// The last that a successor has been given and that cannot be taken back.
    fn has_given(&self) -> Option<Ask> {
        match self {
            Self::Whole(whole) => whole.has_given(),
            Self::Apart(apart) => apart.has_given(),
        }
    }

    /// After a successor that came to nothing in time.
    fn takes_back(&mut self) {
        match self {
            Self::Whole(whole) => whole.takes_back(),
            Self::Apart(_) => {}
        }
    }

    async fn leave_to_successor(self) {
        match self {
            Self::Whole(whole) => whole.leave_to_successor().await,
            Self::Apart(apart) => apart.leave_to_successor().await,
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
