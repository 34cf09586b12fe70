//! The database: who holds which name, with which keys. Only this file and those below it name the database library.
//!
//! ```text
//!   acme_orders.rs   certificates that were ordered where only so many may be
//!   certificates.rs  which certificates logs have shown, and how far the logs were followed
//!   devices.rs       names, and what is known of their holders
//!   import.rs        many names at once
//!   limits.rs        what single devices may have at most
//!   load.rs          all that is known of all devices
//!   names.rs         which names may be given, and those that rest
//!   pairing.rs       codes, and how a name gets its holder
//!   ports.rs         which ports of the relays are whose
//!   relays.rs        the relays that have a process of their own
//!   steering.rs      where names of single devices lead
//! ```
//!
//! What a function here returns `Ok` for is on disk.

mod acme_orders;
mod certificates;
mod devices;
mod import;
mod limits;
mod load;
mod names;
mod pairing;
mod ports;
mod relays;
mod steering;

use std::path::Path;
use std::time::Duration;

use directory::Zone;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

pub(crate) use certificates::KnownLog;
pub use devices::RegisterError;
pub use import::ImportError;
pub use pairing::PairingError;
pub use ports::PortError;
pub use relays::Relay;

/// The database's file in the state directory.
pub const DATABASE: &str = "causeway.db";

/// How long a query waits for another process's lock, and for a free connection.
const BUSY_TIME: Duration = Duration::from_secs(5);

/// Readers beside the one writer that the database allows.
const CONNECTIONS: u32 = 4;

/// A database of one zone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: SqlitePool,
}

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// Its tables could not be brought up to date.
    #[error("the database could not be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A row holds what no version of this program writes.
    #[error("the database holds a {0} that makes no sense")]
    Damaged(&'static str),
    /// It belongs to another zone.
    #[error(
        "this state belongs to the zone {kept}, not to {asked}; choose another directory with --state"
    )]
    OtherZone {
        /// The zone it was made for.
        kept: String,
        /// The zone it was opened for.
        asked: String,
    },
}

impl Store {
    /// Opens the database of `zone` at `path`, making it if needed, and brings its tables up to date.
    ///
    /// # Errors
    /// If it cannot be opened, or belongs to another zone.
    pub async fn open(path: &Path, zone: &Zone) -> Result<Self, StoreError> {
        let store = Self::connect(path, true).await?;
        store.claim(zone).await?;
        Ok(store)
    }

    /// Opens the database at `path`, which must be there.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open_existing(path: &Path) -> Result<Self, StoreError> {
        Self::connect(path, false).await
    }

    async fn connect(path: &Path, create: bool) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIME)
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged pairing survives a power cut: every commit is synced.
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(BUSY_TIME)
            .connect_with(options)
            .await?;
        sqlx::migrate!().run(&pool).await?;
        let store = Self { pool };
        store.fill_in_skeletons().await?;
        Ok(store)
    }

    /// The zone that the database belongs to.
    ///
    /// # Errors
    /// If it belongs to none yet.
    pub async fn zone(&self) -> Result<Zone, StoreError> {
        let kept: String = sqlx::query_scalar("SELECT name FROM zone")
            .fetch_one(&self.pool)
            .await?;
        Zone::parse(&kept).map_err(|_| StoreError::Damaged("zone"))
    }

    async fn claim(&self, zone: &Zone) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let kept: Option<String> = sqlx::query_scalar("SELECT name FROM zone")
            .fetch_optional(&mut *transaction)
            .await?;
        match kept {
            Some(kept) if kept == zone.as_str() => {}
            Some(kept) => {
                return Err(StoreError::OtherZone {
                    kept,
                    asked: zone.to_string(),
                });
            }
            None => {
                sqlx::query("INSERT INTO zone (name) VALUES ($1)")
                    .bind(zone.as_str())
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        Ok(transaction.commit().await?)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn check(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Closes every connection; what was written is in the main file then.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

#[cfg(test)]
mod tests {
    use directory::{DeviceName, PublicKey, TokenHash};
    use tempfile::TempDir;

    use super::*;

    pub(super) const NOW: i64 = 1_700_000_000_000;
    pub(super) const LATER: i64 = NOW + 600_000;

    pub(super) async fn store() -> (TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join(DATABASE), &zone("nas.localhost"))
            .await
            .unwrap();
        (directory, store)
    }

    pub(super) fn zone(text: &str) -> Zone {
        Zone::parse(text).unwrap()
    }

    pub(super) fn name(text: &str) -> DeviceName {
        DeviceName::parse(text).unwrap()
    }

    pub(super) fn code(text: &str) -> TokenHash {
        TokenHash::of(text)
    }

    pub(super) fn key(octet: u8) -> PublicKey {
        PublicKey::from_bytes([octet; 32])
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_reopening() {
        let (directory, store) = store().await;
        store
            .register(&name("mynas"), &code("a"), NOW, LATER)
            .await
            .unwrap();
        let paired = store.pair(&code("a"), &key(1), NOW).await.unwrap();
        store.close().await;
        let path = directory.path().join(DATABASE);
        let again = Store::open(&path, &zone("nas.localhost")).await.unwrap();
        assert_eq!(again.devices().await.unwrap(), [paired]);
        assert!(matches!(
            Store::open(&path, &zone("other.example")).await,
            Err(StoreError::OtherZone { .. })
        ));
    }

    #[tokio::test]
    async fn keys_and_codes_of_a_database_with_whole_hashes_still_open_what_they_opened() {
        let (directory, store) = store().await;
        store
            .register(&name("mynas"), &code("a"), NOW, LATER)
            .await
            .unwrap();
        let whole = [code("a").as_bytes().as_slice(), &[7; 16]].concat();
        for statement in [
            "UPDATE devices SET ddns_key_hash = ?",
            "UPDATE pairing_codes SET code_hash = ?",
            "DELETE FROM _sqlx_migrations WHERE version = 5 AND length(?) = 32",
        ] {
            let change = sqlx::query(statement).bind(whole.as_slice());
            change.execute(&store.pool).await.unwrap();
        }
        store.close().await;
        let path = directory.path().join(DATABASE);
        let again = Store::open(&path, &zone("nas.localhost")).await.unwrap();
        let paired = again.pair(&code("a"), &key(1), NOW).await.unwrap();
        assert_eq!(paired.ddns_key, Some(code("a")));
        assert_eq!(paired.challenge_key, None);
    }
}
