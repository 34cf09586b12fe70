//! What signs the zone: its keys, opened or made, and whoever signs by them, told when they change.

use std::sync::Arc;
use std::time::Duration;

use directory::Zone;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{StartError, Storage};
use crate::config::Config;
use crate::dnssec::Signer;
use crate::dnssec::keys::{Keys, Leads};
use crate::metrics::Metrics;
use crate::table::Table;
use crate::unix_seconds;

/// The folder of keys in the state directory.
const FOLDER: &str = "dnssec";
/// So often it is looked whether the set of keys is to be signed anew, and signatures are counted.
const LOOK: Duration = Duration::from_secs(60);

/// The keys of a zone that is signed, and who signs.
#[derive(Clone)]
pub(super) struct Signing {
    pub(super) keys: Keys,
    pub(super) signer: Arc<Signer>,
}

impl Signing {
    /// Begins to sign, if the zone is to be signed.
    pub(super) fn begin(
        config: &Config,
        storage: &Storage,
        zone: &Zone,
        table: &Table,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, StartError> {
        let Some(config) = &config.dnssec else {
            return Ok(None);
        };
        let now = unix_seconds();
        let folder = storage.path().join(FOLDER);
        let keys = Keys::open(folder, zone, Leads::default(), now)?;
        let signer = Signer::new(table, config, &keys.in_force(), now, Arc::clone(metrics))?;
        let signer = Arc::new(signer);
        Ok(Some(Self { keys, signer }))
    }

    /// Signs by the keys that are in force, whichever these become, until `stop`.
    pub(super) async fn follow(self, table: Arc<Table>, stop: CancellationToken) {
        let mut told = self.keys.watch();
        loop {
            let in_force = Arc::clone(&told.borrow_and_update());
            // Those before go on signing then, as long as others keep them.
            if let Err(error) = self.signer.use_keys(&in_force, &table, unix_seconds()) {
                tracing::error!(%error, "the keys of the zone cannot be taken into use");
            }
            self.signer.count();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = told.changed() => if changed.is_err() { return },
                () = sleep(LOOK) => {}
            }
        }
    }
}
