//! Which ports of the relays are whose.

use directory::{DeviceName, PublicPort};
use following::MAX_PORTS;
use sqlx::Row as _;

use super::{Store, StoreError};

/// Why a port was not given.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Nobody has the name.
    #[error("there is no device named {0}")]
    NoDevice(DeviceName),
    /// It is a device's already.
    #[error("{0} is {1}'s already; `causeway port remove {0}` takes it back")]
    Taken(PublicPort, DeviceName),
    /// Relays with a process of their own are told no more.
    #[error(
        "{0} has {MAX_PORTS} ports, and no device can have more; `causeway port remove` takes one back"
    )]
    TooMany(DeviceName),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for PortError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Gives a port to the device of `name`. It may have it already.
    ///
    /// # Errors
    /// If nobody has the name, or another device the port, or the device has as many as may be.
    pub async fn give_port(&self, name: &DeviceName, port: PublicPort) -> Result<(), PortError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let registration: Option<i64> =
            sqlx::query_scalar("SELECT registration FROM devices WHERE name = $1")
                .bind(name.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
        let registration = registration.ok_or_else(|| PortError::NoDevice(name.clone()))?;
        let holder = "SELECT name FROM ports JOIN devices USING (registration) WHERE number = $1 AND protocol = $2";
        let holder: Option<String> = sqlx::query_scalar(holder)
            .bind(i64::from(port.number.get()))
            .bind(port.protocol.name())
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(holder) = holder {
            let holder = DeviceName::parse(&holder);
            let holder = holder.map_err(|_| StoreError::Damaged("device name"))?;
            return match holder == *name {
                true => Ok(()),
                false => Err(PortError::Taken(port, holder)),
            };
        }
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM ports WHERE registration = $1")
            .bind(registration)
            .fetch_one(&mut *transaction)
            .await?;
        if usize::try_from(count).unwrap_or(usize::MAX) >= MAX_PORTS {
            return Err(PortError::TooMany(name.clone()));
        }
        sqlx::query("INSERT INTO ports (number, protocol, registration) VALUES ($1, $2, $3)")
            .bind(i64::from(port.number.get()))
            .bind(port.protocol.name())
            .bind(registration)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Takes a port back; says whether anybody had it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn take_port(&self, port: PublicPort) -> Result<bool, StoreError> {
        let taken = sqlx::query("DELETE FROM ports WHERE number = $1 AND protocol = $2")
            .bind(i64::from(port.number.get()))
            .bind(port.protocol.name())
            .execute(&self.pool)
            .await?;
        Ok(taken.rows_affected() > 0)
    }

    /// Every port that is a device's, and whose.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ports(&self) -> Result<Vec<(PublicPort, DeviceName)>, StoreError> {
        let select = "SELECT number || '/' || protocol AS port, name FROM ports JOIN devices USING (registration) ORDER BY number, protocol";
        let rows = sqlx::query(select).fetch_all(&self.pool).await?;
        let each = rows.iter().map(|row| {
            let port: &str = row.try_get("port")?;
            let port = port.parse();
            let name = DeviceName::parse(row.try_get("name")?);
            Ok((
                port.map_err(|_| StoreError::Damaged("public port"))?,
                name.map_err(|_| StoreError::Damaged("device name"))?,
            ))
        });
        each.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LATER, NOW, code, name, store};
    use super::*;

    #[tokio::test]
    async fn a_device_has_no_more_ports_than_every_relay_is_told_of() {
        let (_directory, store) = store().await;
        let mynas = name("mynas");
        store
            .register(&mynas, &code("a"), NOW, LATER)
            .await
            .unwrap();
        let port = |number: usize| format!("{}/udp", 20_000 + number).parse().unwrap();
        for number in 0..MAX_PORTS {
            store.give_port(&mynas, port(number)).await.unwrap();
        }
        let more = store.give_port(&mynas, port(MAX_PORTS)).await.unwrap_err();
        assert!(matches!(more, PortError::TooMany(_)), "{more:?}");
        assert!(
            more.to_string().starts_with("mynas has 256 ports"),
            "{more}"
        );
        store.give_port(&mynas, port(0)).await.unwrap();
        assert!(store.take_port(port(0)).await.unwrap());
        store.give_port(&mynas, port(MAX_PORTS)).await.unwrap();
    }

    #[tokio::test]
    async fn a_port_is_one_devices_until_it_is_taken_back_or_the_device_is_gone() {
        let (_directory, store) = store().await;
        let [mynas, other] = ["mynas", "other"].map(name);
        let [tcp, udp]: [PublicPort; 2] =
            ["20022/tcp", "20022/udp"].map(|port| port.parse().unwrap());
        let nobody = store.give_port(&mynas, tcp).await;
        assert!(matches!(nobody, Err(PortError::NoDevice(_))), "{nobody:?}");
        for (device, secret) in [(&mynas, "a"), (&other, "b")] {
            let registered = store.register(device, &code(secret), NOW, LATER).await;
            registered.unwrap();
        }
        store.give_port(&mynas, tcp).await.unwrap();
        store.give_port(&mynas, tcp).await.unwrap();
        store.give_port(&other, udp).await.unwrap();
        let stolen = store.give_port(&other, tcp).await;
        assert!(matches!(stolen, Err(PortError::Taken(..))), "{stolen:?}");
        let both = [(tcp, mynas.clone()), (udp, other.clone())];
        assert_eq!(store.ports().await.unwrap(), both);

        assert!(store.take_port(tcp).await.unwrap());
        assert!(!store.take_port(tcp).await.unwrap());
        store.give_port(&other, tcp).await.unwrap();
        store.remove(&other, NOW).await.unwrap();
        assert_eq!(store.ports().await.unwrap(), []);
    }
}
