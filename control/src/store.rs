//! The database: who holds which name, with which keys. The only file that names the database library.
//!
//! What a function here returns `Ok` for is on disk.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use directory::{
    Device, DeviceId, DeviceName, Identity, PublicKey, RegistrationId, TokenHash, Zone,
};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row as _, SqliteConnection};

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

/// Why a name was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// A device has it already.
    #[error("the name is taken by a paired device; remove that first")]
    Taken,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a code did not pair.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    /// There is no such code, or it has been removed with its name.
    #[error("this code is wrong")]
    UnknownCode,
    /// Its ten minutes are over.
    #[error("this code has expired")]
    Expired,
    /// Another key has used it.
    #[error("this code has been used already")]
    Used,
    /// The key belongs to another name.
    #[error("this device is paired under another name already; remove that first")]
    KeyTaken,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for PairingError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<sqlx::Error> for RegisterError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
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
        Ok(Self { pool })
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

    /// Every device, for the Directory.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn devices(&self) -> Result<Vec<Device>, StoreError> {
        let rows = sqlx::query("SELECT registration FROM devices ORDER BY name")
            .fetch_all(&self.pool)
            .await?;
        let mut connection = self.pool.acquire().await?;
        let mut devices = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(device) = device(&mut connection, row.try_get("registration")?).await? {
                devices.push(device);
            }
        }
        Ok(devices)
    }

    /// Registers `name`, or takes it again if nobody has paired under it, with a new code that replaces any earlier one.
    ///
    /// # Errors
    /// [`RegisterError::Taken`] if a paired device has the name.
    pub async fn register(
        &self,
        name: &DeviceName,
        code: &TokenHash,
        now_ms: i64,
        expires_at_ms: i64,
    ) -> Result<Device, RegisterError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let kept = sqlx::query("SELECT registration, device_id FROM devices WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        let registration: i64 = match kept {
            Some(row) => {
                if row.try_get::<Option<Vec<u8>>, _>("device_id")?.is_some() {
                    return Err(RegisterError::Taken);
                }
                row.try_get("registration")?
            }
            None => sqlx::query_scalar(
                "INSERT INTO devices (name, registered_at) VALUES ($1, $2) RETURNING registration",
            )
            .bind(name.as_str())
            .bind(now_ms)
            .fetch_one(&mut *transaction)
            .await?,
        };
        sqlx::query("DELETE FROM pairing_codes WHERE registration = $1")
            .bind(registration)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO pairing_codes (code_hash, registration, expires_at) VALUES ($1, $2, $3)",
        )
        .bind(code.as_bytes().as_slice())
        .bind(registration)
        .bind(expires_at_ms)
        .execute(&mut *transaction)
        .await?;
        let device = device(&mut transaction, registration).await?;
        transaction.commit().await?;
        device.ok_or(RegisterError::Store(StoreError::Damaged("registration")))
    }

    /// Makes the holder of `key` the device that `code` was made for. The same key with the same code is answered again.
    ///
    /// # Errors
    /// If the code is wrong, expired or used by another, or the key has a name already.
    pub async fn pair(
        &self,
        code: &TokenHash,
        key: &PublicKey,
        now_ms: i64,
    ) -> Result<Device, PairingError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let row = sqlx::query(
            "SELECT registration, expires_at, used_by FROM pairing_codes WHERE code_hash = $1",
        )
        .bind(code.as_bytes().as_slice())
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or(PairingError::UnknownCode)?;
        let registration: i64 = row.try_get("registration")?;
        if now_ms >= row.try_get::<i64, _>("expires_at")? {
            return Err(PairingError::Expired);
        }
        match row.try_get::<Option<Vec<u8>>, _>("used_by")? {
            None => redeem(&mut transaction, code, registration, key).await?,
            Some(user) if user == key.as_bytes() => {}
            Some(_) => return Err(PairingError::Used),
        }
        let device = device(&mut transaction, registration).await?;
        transaction.commit().await?;
        device.ok_or(PairingError::Store(StoreError::Damaged("registration")))
    }

    /// Replaces the DDNS key of `name`; `None` if nobody has the name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_ddns_key(
        &self,
        name: &DeviceName,
        key: &TokenHash,
    ) -> Result<Option<Device>, StoreError> {
        let registration: Option<i64> = sqlx::query_scalar(
            "UPDATE devices SET ddns_key_hash = $1 WHERE name = $2 RETURNING registration",
        )
        .bind(key.as_bytes().as_slice())
        .bind(name.as_str())
        .fetch_optional(&self.pool)
        .await?;
        match registration {
            Some(registration) => device(&mut *self.pool.acquire().await?, registration).await,
            None => Ok(None),
        }
    }

    /// Removes `name` with everything that hangs on it. Says whether anybody had it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn remove(&self, name: &DeviceName) -> Result<bool, StoreError> {
        let removed = sqlx::query("DELETE FROM devices WHERE name = $1")
            .bind(name.as_str())
            .execute(&self.pool)
            .await?;
        Ok(removed.rows_affected() > 0)
    }

    /// Keeps what an agent reports of its own addresses.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_addresses(
        &self,
        registration: RegistrationId,
        addresses: &[IpAddr],
    ) -> Result<(), StoreError> {
        let json = serde_json::to_string(addresses).unwrap_or_default(); // a list of addresses
        sqlx::query("UPDATE devices SET addresses = $1 WHERE registration = $2")
            .bind(json)
            .bind(number(registration)?)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// What the agent has reported of its own addresses.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn addresses(&self, registration: RegistrationId) -> Result<Vec<IpAddr>, StoreError> {
        let json: Option<String> =
            sqlx::query_scalar("SELECT addresses FROM devices WHERE registration = $1")
                .bind(number(registration)?)
                .fetch_optional(&self.pool)
                .await?;
        let Some(json) = json else {
            return Ok(Vec::new());
        };
        serde_json::from_str(&json).map_err(|_| StoreError::Damaged("list of addresses"))
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

/// Marks the code as used and gives its name to the key.
async fn redeem(
    connection: &mut SqliteConnection,
    code: &TokenHash,
    registration: i64,
    key: &PublicKey,
) -> Result<(), PairingError> {
    let added = sqlx::query("INSERT INTO device_keys (public_key, registration) VALUES ($1, $2)")
        .bind(key.as_bytes().as_slice())
        .bind(registration)
        .execute(&mut *connection)
        .await;
    match added {
        Ok(_) => {}
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            return Err(PairingError::KeyTaken);
        }
        Err(error) => return Err(error.into()),
    }
    sqlx::query("UPDATE pairing_codes SET used_by = $1 WHERE code_hash = $2")
        .bind(key.as_bytes().as_slice())
        .bind(code.as_bytes().as_slice())
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE devices SET device_id = $1 WHERE registration = $2")
        .bind(DeviceId::of(key).as_bytes().as_slice())
        .bind(registration)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

async fn device(
    connection: &mut SqliteConnection,
    registration: i64,
) -> Result<Option<Device>, StoreError> {
    let row =
        sqlx::query("SELECT name, device_id, ddns_key_hash FROM devices WHERE registration = $1")
            .bind(registration)
            .fetch_optional(&mut *connection)
            .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let keys: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT public_key FROM device_keys WHERE registration = $1")
            .bind(registration)
            .fetch_all(connection)
            .await?;
    let keys: Result<Vec<_>, _> = keys
        .into_iter()
        .map(|key| octets(key, "public key").map(PublicKey::from_bytes))
        .collect();
    let identity = match octets_of(&row, "device_id")? {
        Some(id) => Some(Identity {
            id: DeviceId::from_bytes(id),
            keys: keys?,
        }),
        None => None,
    };
    Ok(Some(Device {
        registration: RegistrationId(
            registration
                .try_into()
                .map_err(|_| StoreError::Damaged("registration number"))?,
        ),
        name: DeviceName::parse(row.try_get("name")?)
            .map_err(|_| StoreError::Damaged("device name"))?,
        identity,
        ddns_key: octets_of(&row, "ddns_key_hash")?.map(TokenHash::from_bytes),
    }))
}

fn octets_of<const N: usize>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<[u8; N]>, StoreError> {
    row.try_get::<Option<Vec<u8>>, _>(column)?
        .map(|value| octets(value, column))
        .transpose()
}

fn octets<const N: usize>(value: Vec<u8>, what: &'static str) -> Result<[u8; N], StoreError> {
    value.try_into().map_err(|_| StoreError::Damaged(what))
}

fn number(registration: RegistrationId) -> Result<i64, StoreError> {
    registration
        .0
        .try_into()
        .map_err(|_| StoreError::Damaged("registration number"))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const NOW: i64 = 1_700_000_000_000;
    const LATER: i64 = NOW + 600_000;

    async fn store() -> (TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(
            &directory.path().join("causeway.db"),
            &zone("nas.localhost"),
        )
        .await
        .unwrap();
        (directory, store)
    }

    fn zone(text: &str) -> Zone {
        Zone::parse(text).unwrap()
    }

    fn name(text: &str) -> DeviceName {
        DeviceName::parse(text).unwrap()
    }

    fn code(text: &str) -> TokenHash {
        TokenHash::of(text)
    }

    fn key(octet: u8) -> PublicKey {
        PublicKey::from_bytes([octet; 32])
    }

    #[tokio::test]
    async fn a_code_pairs_one_key_and_is_answered_again_to_it_alone() {
        let (_directory, store) = store().await;
        let registered = store
            .register(&name("mynas"), &code("c"), NOW, LATER)
            .await
            .unwrap();
        assert_eq!(registered.identity, None);

        let paired = store.pair(&code("c"), &key(1), NOW).await.unwrap();
        assert_eq!(paired.registration, registered.registration);
        assert_eq!(paired.identity, Some(Identity::first(key(1))));
        assert_eq!(
            store.pair(&code("c"), &key(1), NOW + 1).await.unwrap(),
            paired
        );
        assert!(matches!(
            store.pair(&code("c"), &key(2), NOW).await,
            Err(PairingError::Used)
        ));
        assert_eq!(store.devices().await.unwrap(), [paired]);
    }

    #[tokio::test]
    async fn wrong_expired_and_replaced_codes_are_refused() {
        let (_directory, store) = store().await;
        store
            .register(&name("mynas"), &code("old"), NOW, LATER)
            .await
            .unwrap();
        store
            .register(&name("mynas"), &code("new"), NOW, LATER)
            .await
            .unwrap();
        for wrong in ["old", "other"] {
            assert!(matches!(
                store.pair(&code(wrong), &key(1), NOW).await,
                Err(PairingError::UnknownCode)
            ));
        }
        assert!(matches!(
            store.pair(&code("new"), &key(1), LATER).await,
            Err(PairingError::Expired)
        ));
    }

    #[tokio::test]
    async fn a_paired_name_is_taken_and_a_key_has_one_name() {
        let (_directory, store) = store().await;
        store
            .register(&name("a"), &code("a"), NOW, LATER)
            .await
            .unwrap();
        store.pair(&code("a"), &key(1), NOW).await.unwrap();
        assert!(matches!(
            store.register(&name("a"), &code("x"), NOW, LATER).await,
            Err(RegisterError::Taken)
        ));
        store
            .register(&name("b"), &code("b"), NOW, LATER)
            .await
            .unwrap();
        assert!(matches!(
            store.pair(&code("b"), &key(1), NOW).await,
            Err(PairingError::KeyTaken)
        ));
        // The refused attempt left the code as it was.
        assert!(store.pair(&code("b"), &key(2), NOW).await.is_ok());
    }

    #[tokio::test]
    async fn a_name_that_comes_back_is_another_registration_with_nothing_of_the_first() {
        let (_directory, store) = store().await;
        let first = store
            .register(&name("mynas"), &code("a"), NOW, LATER)
            .await
            .unwrap();
        store.pair(&code("a"), &key(1), NOW).await.unwrap();
        store
            .set_ddns_key(&name("mynas"), &code("k"))
            .await
            .unwrap()
            .unwrap();
        store
            .set_addresses(first.registration, &["192.0.2.1".parse().unwrap()])
            .await
            .unwrap();
        assert!(store.remove(&name("mynas")).await.unwrap());
        assert!(!store.remove(&name("mynas")).await.unwrap());

        let second = store
            .register(&name("mynas"), &code("b"), NOW, LATER)
            .await
            .unwrap();
        assert_ne!(second.registration, first.registration);
        assert_eq!((second.ddns_key, &second.identity), (None, &None));
        assert_eq!(
            store.addresses(second.registration).await.unwrap(),
            Vec::<IpAddr>::new()
        );
        assert!(matches!(
            store.pair(&code("a"), &key(1), NOW).await,
            Err(PairingError::UnknownCode)
        ));
        // The removed device's key may pair again.
        assert!(store.pair(&code("b"), &key(1), NOW).await.is_ok());
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
        let path = directory.path().join("causeway.db");
        let again = Store::open(&path, &zone("nas.localhost")).await.unwrap();
        assert_eq!(again.devices().await.unwrap(), [paired]);
        assert!(matches!(
            Store::open(&path, &zone("other.example")).await,
            Err(StoreError::OtherZone { .. })
        ));
    }
}
