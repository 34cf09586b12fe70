//! Names, and what is known of their holders.

use std::net::IpAddr;

use directory::{
    Device, DeviceId, DeviceName, Duty, Identity, PublicKey, RegistrationId, TokenHash, Withheld,
};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use time::UtcDateTime;

use super::names::{self, Resting};
use super::{Store, StoreError, pairing};

/// Why a name was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// A device has it already.
    #[error("the name is taken by a paired device; remove that first")]
    Taken,
    /// It may not be given.
    #[error("{}", sentence(.0))]
    Withheld(#[from] Withheld),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A date says more than a number of milliseconds, and what the operator can do is control's to say.
fn sentence(withheld: &Withheld) -> String {
    match withheld {
        Withheld::Reserved { .. } | Withheld::LooksReserved { .. } | Withheld::LooksHeld => {
            withheld.to_string()
        }
        Withheld::Resting { until_ms } => {
            let until = UtcDateTime::from_unix_timestamp(until_ms.div_euclid(1000))
                .unwrap_or(UtcDateTime::MAX);
            format!(
                "{withheld} until {} (UTC); `device add --reclaim` gives it back before",
                until.date()
            )
        }
    }
}

impl From<sqlx::Error> for RegisterError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Registers `name`, or takes it again if nobody has paired under it, with a new code that replaces any earlier one.
    ///
    /// # Errors
    /// [`RegisterError::Taken`] if a paired device has the name, [`RegisterError::Withheld`] if it may not be given.
    pub async fn register(
        &self,
        name: &DeviceName,
        code: &TokenHash,
        now_ms: i64,
        expires_at_ms: i64,
    ) -> Result<Device, RegisterError> {
        self.give(name, Resting::Withheld, code, now_ms, expires_at_ms)
            .await
    }

    /// The same for a name that rests: the operator wants it back before its time.
    ///
    /// # Errors
    /// As [`Self::register`], but for the rest.
    pub async fn reclaim(
        &self,
        name: &DeviceName,
        code: &TokenHash,
        now_ms: i64,
        expires_at_ms: i64,
    ) -> Result<Device, RegisterError> {
        self.give(name, Resting::Reclaimed, code, now_ms, expires_at_ms)
            .await
    }

    async fn give(
        &self,
        name: &DeviceName,
        resting: Resting,
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
            None => {
                let skeleton = names::give(&mut transaction, name, resting, now_ms).await?;
                sqlx::query_scalar(
                    "INSERT INTO devices (name, skeleton, registered_at) VALUES ($1, $2, $3) RETURNING registration",
                )
                .bind(name.as_str())
                .bind(skeleton.as_str())
                .bind(now_ms)
                .fetch_one(&mut *transaction)
                .await?
            }
        };
        pairing::replace_code(&mut transaction, registration, code, now_ms, expires_at_ms).await?;
        let device = device(&mut transaction, registration).await?;
        transaction.commit().await?;
        device.ok_or(RegisterError::Store(StoreError::Damaged("registration")))
    }

    /// Replaces the key of `name` for `duty`; `None` if nobody has the name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_key(
        &self,
        name: &DeviceName,
        duty: Duty,
        key: &TokenHash,
    ) -> Result<Option<Device>, StoreError> {
        let statement = match duty {
            Duty::Addresses => {
                "UPDATE devices SET ddns_key_hash = $1 WHERE name = $2 RETURNING registration"
            }
            Duty::Challenges => {
                "UPDATE devices SET challenge_key_hash = $1 WHERE name = $2 RETURNING registration"
            }
        };
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let registration: Option<i64> = sqlx::query_scalar(statement)
            .bind(key.as_bytes().as_slice())
            .bind(name.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        let device = match registration {
            Some(registration) => device(&mut transaction, registration).await?,
            None => None,
        };
        transaction.commit().await?;
        Ok(device)
    }

    /// Removes `name` with everything that hangs on it, and lets it rest. Says whether anybody had it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn remove(&self, name: &DeviceName, now_ms: i64) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let removed = sqlx::query("DELETE FROM devices WHERE name = $1")
            .bind(name.as_str())
            .execute(&mut *transaction)
            .await?;
        if removed.rows_affected() == 0 {
            return Ok(false);
        }
        names::free(&mut transaction, name, now_ms).await?;
        transaction.commit().await?;
        Ok(true)
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
}

/// The public keys that stand for it.
pub(super) const KEYS_OF_A_DEVICE: &str =
    "SELECT public_key FROM device_keys WHERE registration = $1";

/// The device of a registration.
pub(super) async fn device(
    connection: &mut SqliteConnection,
    registration: i64,
) -> Result<Option<Device>, StoreError> {
    let row = sqlx::query(
        "SELECT name, device_id, ddns_key_hash, challenge_key_hash FROM devices WHERE registration = $1",
    )
    .bind(registration)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let keys: Vec<Vec<u8>> = sqlx::query_scalar(KEYS_OF_A_DEVICE)
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
        challenge_key: octets_of(&row, "challenge_key_hash")?.map(TokenHash::from_bytes),
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
    use super::super::PairingError;
    use super::super::tests::{LATER, NOW, code, key, name, store};
    use super::*;

    #[tokio::test]
    async fn a_name_that_comes_back_is_another_registration_with_nothing_of_the_first() {
        let (_directory, store) = store().await;
        let first = store
            .register(&name("mynas"), &code("a"), NOW, LATER)
            .await
            .unwrap();
        store.pair(&code("a"), &key(1), NOW).await.unwrap();
        for duty in [Duty::Addresses, Duty::Challenges] {
            let made = store.set_key(&name("mynas"), duty, &code("k")).await;
            assert!(made.unwrap().is_some());
        }
        store
            .set_addresses(first.registration, &["192.0.2.1".parse().unwrap()])
            .await
            .unwrap();
        assert!(store.remove(&name("mynas"), NOW).await.unwrap());
        assert!(!store.remove(&name("mynas"), NOW).await.unwrap());

        let second = store
            .reclaim(&name("mynas"), &code("b"), NOW, LATER)
            .await
            .unwrap();
        assert_ne!(second.registration, first.registration);
        assert_eq!((second.ddns_key, second.challenge_key), (None, None));
        assert_eq!(second.identity, None);
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
    async fn a_fresh_key_replaces_the_one_of_its_own_duty_only() {
        let (_directory, store) = store().await;
        store
            .register(&name("mynas"), &code("a"), NOW, LATER)
            .await
            .unwrap();
        for (duty, key, addresses, challenges) in [
            (Duty::Addresses, "1", Some("1"), None),
            (Duty::Challenges, "2", Some("1"), Some("2")),
            (Duty::Addresses, "3", Some("3"), Some("2")),
            (Duty::Challenges, "4", Some("3"), Some("4")),
        ] {
            let made = store.set_key(&name("mynas"), duty, &code(key)).await;
            let device = made.unwrap().unwrap();
            assert_eq!(device.key_for(Duty::Addresses), addresses.map(code));
            assert_eq!(device.key_for(Duty::Challenges), challenges.map(code));
            assert_eq!(store.devices().await.unwrap(), [device]);
        }
        let nobodys = store
            .set_key(&name("other"), Duty::Challenges, &code("k"))
            .await;
        assert_eq!(nobodys.unwrap(), None);
    }

    #[tokio::test]
    async fn a_name_that_rests_is_refused_with_the_day_on_which_it_is_free() {
        let (_directory, store) = store().await;
        let (mynas, code) = (name("mynas"), code("a"));
        let register = || store.register(&mynas, &code, NOW, LATER);
        register().await.unwrap();
        store.remove(&mynas, NOW).await.unwrap();
        let sentence = register().await.unwrap_err().to_string();
        // Ninety days after 2023-11-14.
        assert!(
            sentence.contains("rests until 2024-02-12 (UTC)"),
            "{sentence}"
        );
        assert!(sentence.contains("--reclaim"), "{sentence}");
    }
}
