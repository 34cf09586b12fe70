//! Many names at once, as they come from another system: all of them or none.

use directory::{DeviceName, NameFacts, Skeleton, TokenHash, Withheld, may_be_given};
use sqlx::SqliteConnection;

use super::names::{self, Resting};
use super::{RegisterError, Store, StoreError};

/// Names that one statement registers, four values each; the database takes 32,766 values. More gain nothing.
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
    /// A name may not be given, perhaps because of another in the list.
    #[error("name {} of the list: {reason}", at + 1)]
    Withheld {
        /// Its place in the list, from 0.
        at: usize,
        /// Why.
        reason: Withheld,
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
    /// [`ImportError::Taken`] for the first name that a device has, paired or not, and [`ImportError::Withheld`] for one that may
    /// not be given. Nothing is registered then.
    pub async fn register_many(
        &self,
        devices: &[(DeviceName, TokenHash)],
        now_ms: i64,
        mut progress: impl FnMut(usize),
    ) -> Result<(), ImportError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let some_rest = names::some_rest(&mut transaction, now_ms).await?;
        let mut done = 0;
        for some in devices.chunks(NAMES_AT_ONCE) {
            for (at, (name, _)) in some.iter().enumerate() {
                let at = done + at;
                may_be_given(name, NameFacts::default(), now_ms)
                    .map_err(|reason| ImportError::Withheld { at, reason })?;
            }
            let inserted = match some_rest {
                true => Err(None),
                false => insert(&mut transaction, some, now_ms).await.map_err(Some),
            };
            if let Err(error) = inserted {
                match error {
                    Some(sqlx::Error::Database(error)) if error.is_unique_violation() => {}
                    Some(error) => return Err(error.into()),
                    None => {}
                }
                // One by one it is known which of them is refused, and why.
                for (at, one) in some.iter().enumerate() {
                    insert_one(&mut transaction, one, done + at, now_ms).await?;
                }
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
    let mut insert = sqlx::QueryBuilder::new(
        "INSERT INTO devices (name, skeleton, ddns_key_hash, registered_at) ",
    );
    insert.push_values(devices, |mut row, (name, key)| {
        row.push_bind(name.as_str());
        row.push_bind(Skeleton::of(name).as_str().to_owned());
        row.push_bind(key.as_bytes().as_slice());
        row.push_bind(now_ms);
    });
    insert.build().execute(connection).await?;
    Ok(())
}

/// Registers one, the `at`-th of the list.
async fn insert_one(
    connection: &mut SqliteConnection,
    device: &(DeviceName, TokenHash),
    at: usize,
    now_ms: i64,
) -> Result<(), ImportError> {
    let (name, _) = device;
    let held: Option<i64> = sqlx::query_scalar("SELECT 1 FROM devices WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    if held.is_some() {
        return Err(ImportError::Taken { at });
    }
    match names::give(connection, name, Resting::Withheld, now_ms).await {
        Ok(_) => {}
        Err(RegisterError::Withheld(reason)) => return Err(ImportError::Withheld { at, reason }),
        Err(RegisterError::Taken) => return Err(ImportError::Taken { at }),
        Err(RegisterError::Store(error)) => return Err(error.into()),
    }
    Ok(insert(connection, std::slice::from_ref(device), now_ms).await?)
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

        let removed = store.remove(&list[NAMES_AT_ONCE + 7].0, NOW).await;
        removed.unwrap();
        let refused = store.register_many(&list, NOW, |_| {}).await.unwrap_err();
        assert!(
            matches!(
                refused,
                ImportError::Withheld {
                    at: 1007,
                    reason: Withheld::Resting { .. }
                }
            ),
            "{refused}"
        );
        store
            .reclaim(&list[NAMES_AT_ONCE + 7].0, &code("a"), NOW, LATER)
            .await
            .unwrap();
        let removed = store.remove(&list[NAMES_AT_ONCE + 7].0, NOW).await;
        removed.unwrap();
        for (twice, again) in [(3, 5), (4, NAMES_AT_ONCE + 2)] {
            let other = list[twice].clone();
            let before = std::mem::replace(&mut list[again], other);
            let refused = store.register_many(&list, NOW, |_| {}).await.unwrap_err();
            assert!(matches!(refused, ImportError::Taken { at } if at == again));
            list[again] = before;
        }
        assert!(store.devices().await.unwrap().is_empty());
        let rested = NOW + 91 * 24 * 60 * 60 * 1000;
        store.register_many(&list, rested, |_| {}).await.unwrap();
    }

    #[tokio::test]
    async fn names_that_mislead_are_refused_in_a_list_too() {
        let (_directory, store) = store().await;
        for (bad, reason) in [
            ("postmaster", "reserved"),
            ("re1ay", "reserved"),
            ("h000000i", "in use"),
        ] {
            let mut list = list(5);
            list[3].0 = name(bad);
            list[0].0 = name("h0000001");
            list[1].0 = name("free");
            let refused = store.register_many(&list, NOW, |_| {}).await.unwrap_err();
            assert!(refused.to_string().contains(reason), "{refused}");
            assert!(matches!(refused, ImportError::Withheld { at: 3, .. }));
            assert!(store.devices().await.unwrap().is_empty());
        }
    }
}
