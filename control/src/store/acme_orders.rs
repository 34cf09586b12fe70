//! What has been ordered of authorities that take so many orders and no more.

use directory::RegistrationId;
use sqlx::Row as _;

use super::{Store, StoreError};

impl Store {
    /// Notes an order by a device, or the operator's own. `now` is in seconds since 1970; what was ordered until `counts_from` of the same
    /// authority is forgotten.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn add_acme_order(
        &self,
        directory: &str,
        by: Option<RegistrationId>,
        now: u64,
        counts_from: u64,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("DELETE FROM acme_orders WHERE directory = $1 AND ordered_at <= $2")
            .bind(directory)
            .bind(counts_from.cast_signed())
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO acme_orders (directory, registration, ordered_at) VALUES ($1, $2, $3)",
        )
        .bind(directory)
        .bind(by.map(|device| device.0.cast_signed()))
        .bind(now.cast_signed())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// What has been ordered of an authority after `since`, in seconds since 1970, the oldest first: when, and by which device.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn acme_orders(
        &self,
        directory: &str,
        since: u64,
    ) -> Result<Vec<(u64, Option<RegistrationId>)>, StoreError> {
        let select = "SELECT ordered_at, registration FROM acme_orders \
                      WHERE directory = $1 AND ordered_at > $2 ORDER BY ordered_at";
        let rows = sqlx::query(select)
            .bind(directory)
            .bind(since.cast_signed())
            .fetch_all(&self.pool)
            .await?;
        let damaged = |_| StoreError::Damaged("order of a certificate");
        rows.iter()
            .map(|row| {
                let at = u64::try_from(row.try_get::<i64, _>("ordered_at")?).map_err(damaged)?;
                let by = row.try_get::<Option<i64>, _>("registration")?;
                let by = by.map(u64::try_from).transpose().map_err(damaged)?;
                Ok((at, by.map(RegistrationId)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;

    #[tokio::test]
    async fn orders_count_for_their_time_and_their_authority() {
        let (_directory, store) = store().await;
        let device = Some(RegistrationId(7));
        store.add_acme_order("a", device, 100, 0).await.unwrap();
        store.add_acme_order("b", device, 101, 0).await.unwrap();
        store.add_acme_order("a", None, 150, 0).await.unwrap();
        let all = vec![(100, device), (150, None)];
        assert_eq!(store.acme_orders("a", 0).await.unwrap(), all);
        assert_eq!(store.acme_orders("a", 100).await.unwrap(), all[1..]);
        store.add_acme_order("a", device, 200, 100).await.unwrap();
        let left = [(150, None), (200, device)];
        assert_eq!(store.acme_orders("a", 0).await.unwrap(), left);
        assert_eq!(store.acme_orders("b", 0).await.unwrap().len(), 1);
    }
}
