//! What single devices may have at most.

use std::num::{NonZeroU32, NonZeroU64};

use directory::{DeviceLimits, DeviceName};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError};

impl Store {
    /// Keeps what the device of `name` may have at most; says whether anybody has the name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_limits(
        &self,
        name: &DeviceName,
        limits: DeviceLimits,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let registration: Option<i64> =
            sqlx::query_scalar("SELECT registration FROM devices WHERE name = $1")
                .bind(name.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
        let Some(registration) = registration else {
            return Ok(false);
        };
        sqlx::query("DELETE FROM device_limits WHERE registration = $1")
            .bind(registration)
            .execute(&mut *transaction)
            .await?;
        if limits != DeviceLimits::default() {
            let insert = "INSERT INTO device_limits (registration, bytes_per_second, visitors) VALUES ($1, $2, $3)";
            let bytes = limits.bytes_per_second.map(NonZeroU64::get);
            let bytes = bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
            sqlx::query(insert)
                .bind(registration)
                .bind(bytes)
                .bind(limits.visitors.map(NonZeroU32::get).map(i64::from))
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Every device that has limits of its own, and these.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn limits(&self) -> Result<Vec<(DeviceName, DeviceLimits)>, StoreError> {
        let select = "SELECT name, bytes_per_second, visitors FROM device_limits JOIN devices USING (registration)";
        let rows = sqlx::query(select).fetch_all(&self.pool).await?;
        rows.iter().map(limits).collect()
    }
}

fn limits(row: &SqliteRow) -> Result<(DeviceName, DeviceLimits), StoreError> {
    let name = DeviceName::parse(row.try_get("name")?);
    let name = name.map_err(|_| StoreError::Damaged("device name"))?;
    let damaged = || StoreError::Damaged("limit of a device");
    let bytes = row.try_get::<Option<i64>, _>("bytes_per_second")?;
    let bytes = bytes.map(|bytes| u64::try_from(bytes).ok().and_then(NonZeroU64::new));
    let visitors = row.try_get::<Option<i64>, _>("visitors")?;
    let visitors = visitors.map(|visitors| u32::try_from(visitors).ok().and_then(NonZeroU32::new));
    Ok((
        name,
        DeviceLimits {
            bytes_per_second: bytes.map(|bytes| bytes.ok_or_else(damaged)).transpose()?,
            visitors: visitors
                .map(|visitors| visitors.ok_or_else(damaged))
                .transpose()?,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LATER, NOW, code, name, store};
    use super::*;

    fn some(bytes: u64, visitors: u32) -> DeviceLimits {
        DeviceLimits {
            bytes_per_second: NonZeroU64::new(bytes),
            visitors: NonZeroU32::new(visitors),
        }
    }

    #[tokio::test]
    async fn limits_are_kept_replaced_and_gone_with_their_device() {
        let (_directory, store) = store().await;
        let mynas = name("mynas");
        assert!(!store.set_limits(&mynas, some(1, 1)).await.unwrap());
        let registered = store.register(&mynas, &code("a"), NOW, LATER).await;
        registered.unwrap();
        assert_eq!(store.limits().await.unwrap(), []);
        for limits in [some(10_000_000, 50), some(10_000_000, 0), some(0, 50)] {
            assert!(store.set_limits(&mynas, limits).await.unwrap());
            assert_eq!(store.limits().await.unwrap(), [(mynas.clone(), limits)]);
        }
        assert!(store.set_limits(&mynas, some(0, 0)).await.unwrap());
        assert_eq!(store.limits().await.unwrap(), []);

        store.set_limits(&mynas, some(1, 1)).await.unwrap();
        store.remove(&mynas, NOW).await.unwrap();
        store.reclaim(&mynas, &code("b"), NOW, LATER).await.unwrap();
        assert_eq!(store.limits().await.unwrap(), []);
    }
}
