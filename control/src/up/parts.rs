//! The parts that a relay with a process of its own has too.

use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::path::Path;

use relay::program::succession::Facts;
use relay::records;
use relay::workers::WorkerThreads;
use tokio_util::sync::CancellationToken;

use super::UpError;
use crate::admin::{Admin, Watched};
use crate::config::Config;
use crate::http::ClientsRefused;
use crate::state::StateDirectory;
use crate::supervise::Supervisor;

/// The threads that carry bytes: after an older process as many as it has, because its sockets are made for so many.
pub(crate) fn start_workers(
    config: &Config,
    older: Option<&Facts>,
) -> Result<WorkerThreads, UpError> {
    let as_many = older.and_then(|older| NonZeroUsize::new(older.workers));
    let workers = match as_many.or(config.relay.workers) {
        Some(count) => WorkerThreads::start(count),
        None => WorkerThreads::per_core_but_one(),
    };
    workers.map_err(UpError::Workers)
}

/// How connections are recorded, if at all.
pub(crate) fn records_of(config: &Config, state: &StateDirectory) -> Option<records::Setup> {
    let records = config.records.as_ref();
    let setup = records.map(|records| records.setup(state.path()));
    tell_of_old_records(setup.as_ref(), state.path());
    setup
}

/// Starts the admin listener as one of `parts`, on what is `bound` already.
pub(crate) fn start_admin(
    config: &Config,
    bound: Option<TcpListener>,
    watched: Watched,
    refused: &ClientsRefused,
    end: &CancellationToken,
    parts: &mut Supervisor,
) -> Result<Admin, UpError> {
    let (address, stop) = (config.admin.listen, end.child_token());
    let started = Admin::start(address, bound, watched, refused.at("admin"), stop);
    let (admin, ended) = started.map_err(|cause| UpError::Admin { address, cause })?;
    parts.run("the admin listener", ended);
    Ok(admin)
}

/// Without [records], or with another folder, nothing removes what was kept before: nobody says any more how long it is wanted.
fn tell_of_old_records(kept_now: Option<&records::Setup>, state: &Path) {
    let folder = records::Config::default_folder(state);
    if kept_now.is_some_and(|setup| setup.folder == folder) {
        return;
    }
    let files = records::count(&folder);
    if files > 0 {
        tracing::warn!(
            folder = %folder.display(),
            files,
            "records of an earlier configuration are still here and do not expire: remove the folder, or have [records] keep them there again"
        );
    }
}
