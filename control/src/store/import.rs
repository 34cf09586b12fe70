//! Many names at once, as they come from another system: all of them or none.

use std::collections::HashSet;

use directory::{DeviceName, TokenHash};
use sqlx::SqliteConnection;

use super::{Store, StoreError};

/// Names that one statement registers, three values each; the database takes 32,766 values. More gain nothing.
const NAMES_AT_ONCE: usize = 1000;

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A name is registered already, or stands in the list twice.
    #[error("name {} of the list is registered already", at + 1)]
    Taken {
        /// Its place in the list, from 0.
        at: usize,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ImportError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Registers every one of `devices` with its DDNS key, in their order, none of them paired and without a code.
    /// `progress` hears how many are done so far.
    ///
    /// # Errors
    /// [`ImportError::Taken`] for the first name that a device has, paired or not. Nothing is registered then.
    pub async fn register_many(
        &self,
        devices: &[(DeviceName, TokenHash)],
        now_ms: i64,
        mut progress: impl FnMut(usize),
    ) -> Result<(), ImportError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let mut done = 0;
        for some in devices.chunks(NAMES_AT_ONCE) {
            match insert(&mut transaction, some, now_ms).await {
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                    let taken = first_taken(&mut transaction, some).await?;
                    let at = taken.ok_or(StoreError::Database(sqlx::Error::Database(error)))?;
                    return Err(ImportError::Taken { at: done + at });
                }
                inserted => inserted?,
            }
            done += some.len();
            progress(done);
        }
        Ok(transaction.commit().await?)
    }
}

/// Registers some by one statement, which is prepared once for all of the same number.
async fn insert(
    connection: &mut SqliteConnection,
    devices: &[(DeviceName, TokenHash)],
    now_ms: i64,
) -> Result<(), sqlx::Error> {
    let mut insert =
        sqlx::QueryBuilder::new("INSERT INTO devices (name, ddns_key_hash, registered_at) ");
    insert.push_values(devices, |mut row, (name, key)| {
        row.push_bind(name.as_str());
        row.push_bind(key.as_bytes().as_slice());
        row.push_bind(now_ms);
    });
    insert.build().execute(connection).await?;
    Ok(())
}

/// Which of them is the first that is registered, or that stands here a second time.
async fn first_taken(
    connection: &mut SqliteConnection,
    devices: &[(DeviceName, TokenHash)],
) -> Result<Option<usize>, sqlx::Error> {
    let mut seen = HashSet::new();
    for (at, (name, _)) in devices.iter().enumerate() {
        let kept: Option<i64> = sqlx::query_scalar("SELECT 1 FROM devices WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(&mut *connection)
            .await?;
        if kept.is_some() || !seen.insert(name) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LATER, NOW, code, key, name, store};
    use super::*;

    fn list(count: usize) -> Vec<(DeviceName, TokenHash)> {
        let entry = |number: usize| {
            let name = name(&format!("h{number:07}"));
            (name, code(&number.to_string()))
        };
        (0..count).map(entry).collect()
    }

    #[tokio::test]
    async fn many_are_registered_each_with_its_own_key() {
        let (_directory, store) = store().await;
        let list = list(2 * NAMES_AT_ONCE + 1);
        let mut heard = Vec::new();
        let hear = |done| heard.push(done);
        store.register_many(&list, NOW, hear).await.unwrap();
        assert_eq!(heard, [1000, 2000, 2001]);
        let kept = store.devices().await.unwrap();
        assert_eq!(kept.len(), list.len());
        for (device, (name, key)) in kept.iter().zip(&list) {
            assert_eq!((&device.name, device.ddns_key), (name, Some(*key)));
            assert_eq!(device.identity, None);
        }
        // As any other that is not paired: it can get a code.
        let (first, _) = &list[0];
        store.register(first, &code("a"), NOW, LATER).await.unwrap();
        let paired = store.pair(&code("a"), &key(1), NOW).await.unwrap();
        assert_eq!((&paired.name, paired.ddns_key), (first, Some(list[0].1)));
    }

    #[tokio::test]
    async fn with_one_name_taken_nothing_is_registered() {
        let (_directory, store) = store().await;
        let mut list = list(NAMES_AT_ONCE + 20);
        let (taken, _) = &list[NAMES_AT_ONCE + 7];
        store.register(taken, &code("a"), NOW, LATER).await.unwrap();
        let refused = store.register_many(&list, NOW, |_| {}).await.unwrap_err();
        assert!(
            matches!(refused, ImportError::Taken { at: 1007 }),
            "{refused}"
        );
        assert_eq!(store.devices().await.unwrap().len(), 1);

        store.remove(&list[NAMES_AT_ONCE + 7].0).await.unwrap();
        for (twice, again) in [(3, 5), (4, NAMES_AT_ONCE + 2)] {
            let other = list[twice].clone();
            let before = std::mem::replace(&mut list[again], other);
            let refused = store.register_many(&list, NOW, |_| {}).await.unwrap_err();
            assert!(matches!(refused, ImportError::Taken { at } if at == again));
            list[again] = before;
        }
        assert!(store.devices().await.unwrap().is_empty());
        store.register_many(&list, NOW, |_| {}).await.unwrap();
    }
}
