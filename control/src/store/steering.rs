//! Where the names of single devices lead, as far as that is anybody's wish.

use std::num::NonZeroU16;

use directory::{DeviceName, RegistrationId};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError};
use crate::steering::{Mode, Wish};

impl Store {
    /// Keeps the wish of the device that has `name` by this registration; says whether it does.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn set_steering(
        &self,
        name: &DeviceName,
        registration: RegistrationId,
        wish: Wish,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let holder: Option<i64> =
            sqlx::query_scalar("SELECT registration FROM devices WHERE name = $1")
                .bind(name.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
        let holder = holder.filter(|holder| u64::try_from(*holder) == Ok(registration.0));
        let Some(registration) = holder else {
            return Ok(false);
        };
        sqlx::query("DELETE FROM steering WHERE registration = $1")
            .bind(registration)
            .execute(&mut *transaction)
            .await?;
        if wish != Wish::default() {
            sqlx::query("INSERT INTO steering (registration, port, mode) VALUES ($1, $2, $3)")
                .bind(registration)
                .bind(wish.port.map(NonZeroU16::get).map(i64::from))
                .bind(wish.mode.name())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Every device that has a wish, and which.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn steering(
        &self,
    ) -> Result<Vec<(DeviceName, RegistrationId, Wish)>, StoreError> {
        let select =
            "SELECT name, registration, port, mode FROM steering JOIN devices USING (registration)";
        let rows = sqlx::query(select).fetch_all(&self.pool).await?;
        rows.iter().map(wish).collect()
    }
}

fn wish(row: &SqliteRow) -> Result<(DeviceName, RegistrationId, Wish), StoreError> {
    let name = DeviceName::parse(row.try_get("name")?);
    let name = name.map_err(|_| StoreError::Damaged("device name"))?;
    let registration = u64::try_from(row.try_get::<i64, _>("registration")?);
    let registration = registration.map_err(|_| StoreError::Damaged("registration"))?;
    let damaged = || StoreError::Damaged("wish where a name leads");
    let port = row.try_get::<Option<i64>, _>("port")?;
    let port = port.map(|port| u16::try_from(port).ok().and_then(NonZeroU16::new));
    let mode = row.try_get::<&str, _>("mode")?;
    let wish = Wish {
        port: port.map(|port| port.ok_or_else(damaged)).transpose()?,
        mode: Mode::from_name(mode).ok_or_else(damaged)?,
    };
    Ok((name, RegistrationId(registration), wish))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LATER, NOW, code, name, store};
    use super::*;

    #[tokio::test]
    async fn wishes_are_kept_replaced_and_gone_with_their_device() {
        let (_directory, store) = store().await;
        let mynas = name("mynas");
        let port = NonZeroU16::new(8443);
        let wish = |port, mode| Wish { port, mode };
        let auto = wish(port, Mode::Auto);
        let nobody = RegistrationId(1);
        assert!(!store.set_steering(&mynas, nobody, auto).await.unwrap());
        let device = store.register(&mynas, &code("a"), NOW, LATER).await;
        let holder = device.unwrap().registration;
        let other = RegistrationId(holder.0 + 1);
        assert!(!store.set_steering(&mynas, other, auto).await.unwrap());
        assert!(store.steering().await.unwrap().is_empty());
        for wish in [auto, wish(None, Mode::Relay), wish(port, Mode::Direct)] {
            assert!(store.set_steering(&mynas, holder, wish).await.unwrap());
            let [(name, _, kept)] = &store.steering().await.unwrap()[..] else {
                panic!("one row");
            };
            assert_eq!((name, *kept), (&mynas, wish));
        }
        assert!(
            store
                .set_steering(&mynas, holder, Wish::default())
                .await
                .unwrap()
        );
        assert!(store.steering().await.unwrap().is_empty());
        assert!(store.set_steering(&mynas, holder, auto).await.unwrap());
        assert!(store.remove(&mynas, LATER).await.unwrap());
        assert!(store.steering().await.unwrap().is_empty());
    }
}
