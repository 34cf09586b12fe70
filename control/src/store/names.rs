//! Which names may be given: the facts behind the Directory's rule, and the names that rest.

use directory::{DeviceName, NameFacts, REST, Skeleton};
use sqlx::{Row as _, SqliteConnection};

use super::{RegisterError, Store, StoreError};

/// Whether a name that rests is given all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resting {
    /// It is not.
    Withheld,
    /// The operator wants it back.
    Reclaimed,
}

/// Rows that are filled in at a time.
const BATCH: usize = 1000;

/// Names that have rested long enough.
const RESTED: &str = "DELETE FROM freed_names WHERE freed_at <= $1";

/// Whether a name in use looks like it.
const LOOKALIKE: &str = "SELECT EXISTS (SELECT 1 FROM devices WHERE skeleton = $1)";

/// When it, or one like it, was given up.
const FREED: &str = "SELECT MAX(freed_at) FROM freed_names WHERE skeleton = $1";

/// Rows whose skeletons nobody has computed, from a registration on.
const UNFILLED: &str = "SELECT registration, name FROM devices WHERE skeleton IS NULL AND registration > $1 \
                        ORDER BY registration LIMIT $2";

/// Whether `name`, which nobody holds, may be given now; what to keep beside it. It rests no longer then.
///
/// # Errors
/// If something speaks against it.
pub(super) async fn give(
    connection: &mut SqliteConnection,
    name: &DeviceName,
    resting: Resting,
    now_ms: i64,
) -> Result<Skeleton, RegisterError> {
    forget_rested(connection, now_ms).await?;
    let skeleton = Skeleton::of(name);
    let has_lookalike = sqlx::query_scalar(LOOKALIKE)
        .bind(skeleton.as_str())
        .fetch_one(&mut *connection)
        .await?;
    let freed_at_ms = match resting {
        Resting::Withheld => {
            sqlx::query_scalar(FREED)
                .bind(skeleton.as_str())
                .fetch_one(&mut *connection)
                .await?
        }
        Resting::Reclaimed => None,
    };
    let facts = NameFacts {
        has_lookalike,
        freed_at_ms,
    };
    directory::may_be_given(name, facts, now_ms)?;
    sqlx::query("DELETE FROM freed_names WHERE name = $1")
        .bind(name.as_str())
        .execute(connection)
        .await?;
    Ok(skeleton)
}

/// Lets `name` rest, which its holder has given up.
pub(super) async fn free(
    connection: &mut SqliteConnection,
    name: &DeviceName,
    now_ms: i64,
) -> Result<(), StoreError> {
    forget_rested(connection, now_ms).await?;
    sqlx::query(
        "INSERT OR REPLACE INTO freed_names (name, skeleton, freed_at) VALUES ($1, $2, $3)",
    )
    .bind(name.as_str())
    .bind(Skeleton::of(name).as_str())
    .bind(now_ms)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether any name rests at all.
pub(super) async fn some_rest(
    connection: &mut SqliteConnection,
    now_ms: i64,
) -> Result<bool, sqlx::Error> {
    forget_rested(connection, now_ms).await?;
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM freed_names)")
        .fetch_one(connection)
        .await
}

async fn forget_rested(connection: &mut SqliteConnection, now_ms: i64) -> Result<(), sqlx::Error> {
    sqlx::query(RESTED)
        .bind(now_ms.saturating_sub(REST.as_millis() as i64))
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// Fills in what the names of earlier versions look like. Where two look alike, the first has the skeleton, which is
    /// enough to withhold a third. When the first has gone its rest withholds it, until the next start gives the skeleton
    /// to the other.
    pub(super) async fn fill_in_skeletons(&self) -> Result<(), StoreError> {
        let mut last = 0;
        loop {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            let rows = sqlx::query(UNFILLED)
                .bind(last)
                .bind(BATCH as i64)
                .fetch_all(&mut *transaction)
                .await?;
            for row in &rows {
                last = row.try_get("registration")?;
                let name = DeviceName::parse(row.try_get("name")?)
                    .map_err(|_| StoreError::Damaged("device name"))?;
                sqlx::query("UPDATE OR IGNORE devices SET skeleton = $1 WHERE registration = $2")
                    .bind(Skeleton::of(&name).as_str())
                    .bind(last)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            if rows.len() < BATCH {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use directory::Withheld;

    use super::super::DATABASE;
    use super::super::tests::{LATER, NOW, code, name, store, zone};
    use super::*;

    const DAY: i64 = 24 * 60 * 60 * 1000;

    async fn registered(store: &Store, text: &str, now_ms: i64) -> Result<(), Withheld> {
        let (name, code) = (name(text), code(text));
        match store.register(&name, &code, now_ms, now_ms + 1).await {
            Ok(_) => Ok(()),
            Err(RegisterError::Withheld(reason)) => Err(reason),
            Err(error @ (RegisterError::Taken | RegisterError::Store(_))) => panic!("{error}"),
        }
    }

    async fn resting(store: &Store) -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM freed_names")
            .fetch_one(&store.pool)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_name_that_was_given_up_rests_and_so_does_one_like_it() {
        let (_directory, store) = store().await;
        assert_eq!(registered(&store, "mynas", NOW).await, Ok(()));
        assert!(store.remove(&name("mynas"), NOW).await.unwrap());
        let until_ms = NOW + 90 * DAY;
        for asked in ["mynas", "my-nas"] {
            assert_eq!(
                registered(&store, asked, until_ms - 1).await,
                Err(Withheld::Resting { until_ms })
            );
        }
        assert_eq!(registered(&store, "mynas", until_ms).await, Ok(()));
        assert_eq!(resting(&store).await, 0, "it is forgotten then");
    }

    #[tokio::test]
    async fn the_operator_has_a_resting_name_back_at_once() {
        let (_directory, store) = store().await;
        assert_eq!(registered(&store, "mynas", NOW).await, Ok(()));
        store.remove(&name("mynas"), NOW).await.unwrap();
        let again = store.reclaim(&name("mynas"), &code("c"), NOW, LATER).await;
        assert!(again.is_ok());
        assert_eq!(resting(&store).await, 0);
        // Reclaiming ends a rest and nothing else.
        for (asked, withheld) in [
            ("my-nas", Withheld::LooksHeld),
            ("1ogin", Withheld::LooksReserved { reserved: "login" }),
        ] {
            match store.reclaim(&name(asked), &code("d"), NOW, LATER).await {
                Err(RegisterError::Withheld(reason)) => assert_eq!(reason, withheld),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn names_that_have_rested_are_forgotten_when_another_is_freed() {
        let (_directory, store) = store().await;
        for (text, now) in [("a", NOW), ("b", NOW + 90 * DAY)] {
            assert_eq!(registered(&store, text, now).await, Ok(()));
            store.remove(&name(text), now).await.unwrap();
            assert_eq!(resting(&store).await, 1);
        }
    }

    #[tokio::test]
    async fn names_of_earlier_versions_are_protected_and_keep_their_lookalikes() {
        let (directory, store) = store().await;
        // As the versions before this rule wrote them: more than a batch, and two that look alike.
        let mut transaction = store.pool.begin().await.unwrap();
        for number in 0..2 * BATCH {
            sqlx::query("INSERT INTO devices (name, registered_at) VALUES ($1, 0)")
                .bind(format!("nas-{number}"))
                .execute(&mut *transaction)
                .await
                .unwrap();
        }
        sqlx::query("INSERT INTO devices (name, registered_at) VALUES ('nas1', 0), ('wpad', 0)")
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        store.close().await;

        let path = directory.path().join(DATABASE);
        let store = Store::open(&path, &zone("nas.localhost")).await.unwrap();
        let unfilled: Vec<String> =
            sqlx::query_scalar("SELECT name FROM devices WHERE skeleton IS NULL")
                .fetch_all(&store.pool)
                .await
                .unwrap();
        assert_eq!(unfilled, ["nas1"]);
        assert_eq!(store.devices().await.unwrap().len(), 2 * BATCH + 2);
        for asked in ["nasl", "nas-l999", "vvpad"] {
            assert!(registered(&store, asked, NOW).await.is_err(), "{asked}");
        }
        // Whoever has a name may have a new code for it, whatever the rule says today.
        for asked in ["nas1", "nas-1", "wpad"] {
            assert_eq!(registered(&store, asked, NOW).await, Ok(()), "{asked}");
        }
        store.remove(&name("nas-1"), NOW).await.unwrap();
        store.close().await;
        let store = Store::open(&path, &zone("nas.localhost")).await.unwrap();
        assert_eq!(
            registered(&store, "nasl", NOW).await,
            Err(Withheld::LooksHeld)
        );
    }

    #[tokio::test]
    async fn no_name_is_looked_for_among_all() {
        let (_directory, store) = store().await;
        for statement in [RESTED, LOOKALIKE, FREED, UNFILLED] {
            let plan = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let steps = sqlx::query(plan).fetch_all(&store.pool).await.unwrap();
            for step in steps {
                let step: String = step.get("detail");
                let looks_at_all = step.starts_with("SCAN") && step != "SCAN CONSTANT ROW";
                assert!(!looks_at_all, "{statement}: {step}");
            }
        }
    }
}
