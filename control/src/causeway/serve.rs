//! `causeway up`, from its start to its end.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use control::apart::{self, ApartError, Ended};
use control::config::Config;
use control::up::{self, Source};
use relay::files::{self, Readers};
use relay::program::{Inherited, Reload, ServiceManager, Termination};
use relay::workers::Workers;

use super::arguments::UpOptions;

/// Runs the server until a signal, or until a part of it ends by itself. The first signal ends it in order, the second at
/// once; a hangup has it read its configuration again.
pub(super) async fn up(options: UpOptions, inherited: Inherited) -> anyhow::Result<()> {
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
