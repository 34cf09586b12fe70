//! Codes, and how a name gets its holder.

use directory::{Device, DeviceId, PublicKey, TokenHash};
use sqlx::{Row as _, SqliteConnection};

use super::devices::device;
use super::{Store, StoreError};

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

impl Store {
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
}

/// Forgets the codes of a registration, and those whose time is over.
const REPLACED_AND_EXPIRED: &str =
    "DELETE FROM pairing_codes WHERE registration = $1 OR expires_at <= $2";

/// Puts a code for a registration in place of any earlier one. Codes whose time is over go with it, so that they do not
/// pile up.
pub(super) async fn replace_code(
    connection: &mut SqliteConnection,
    registration: i64,
    code: &TokenHash,
    now_ms: i64,
    expires_at_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query(REPLACED_AND_EXPIRED)
        .bind(registration)
        .bind(now_ms)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO pairing_codes (code_hash, registration, expires_at) VALUES ($1, $2, $3)",
    )
    .bind(code.as_bytes().as_slice())
    .bind(registration)
    .bind(expires_at_ms)
    .execute(&mut *connection)
    .await?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use directory::Identity;

    use super::super::RegisterError;
    use super::super::devices::KEYS_OF_A_DEVICE;
    use super::super::tests::{LATER, NOW, code, key, name, store};
    use super::*;

    #[tokio::test]
    async fn no_code_and_no_key_is_looked_for_among_all() {
        let (_directory, store) = store().await;
        for statement in [
            REPLACED_AND_EXPIRED,
            KEYS_OF_A_DEVICE,
            // What a device that is removed takes with it.
            "DELETE FROM pairing_codes WHERE registration = $1",
            "DELETE FROM device_keys WHERE registration = $1",
        ] {
            let plan = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let steps = sqlx::query(plan).fetch_all(&store.pool).await.unwrap();
            for step in steps {
                let step: String = step.get("detail");
                assert!(!step.starts_with("SCAN"), "{statement}: {step}");
            }
        }
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
        // The next code, for whatever name, sweeps it away.
        store
            .register(&name("other"), &code("other"), LATER, LATER + 1)
            .await
            .unwrap();
        assert!(matches!(
            store.pair(&code("new"), &key(1), LATER).await,
            Err(PairingError::UnknownCode)
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
}
