//! The relays that have a process of their own.

use std::net::IpAddr;

use directory::{PublicKey, RelayName};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError};

/// A relay as it was registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// What the operator calls it.
    pub name: RelayName,
    /// Who it is.
    pub key: PublicKey,
    /// Where its front is reached from outside.
    pub addresses: Vec<IpAddr>,
    /// And at which port, TCP and UDP.
    pub port: u16,
}

impl Store {
    /// Keeps `relay`; says whether its name was free. `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_relay(&self, relay: &Relay, now: i64) -> Result<bool, StoreError> {
        let insert = "INSERT INTO relays (name, public_key, addresses, port, added_at) VALUES ($1, $2, $3, $4, $5) \
                      ON CONFLICT (name) DO NOTHING";
        let addresses: Vec<_> = relay.addresses.iter().map(ToString::to_string).collect();
        let added = sqlx::query(insert)
            .bind(relay.name.as_str())
            .bind(relay.key.as_bytes().as_slice())
            .bind(serde_json::to_string(&addresses).unwrap_or_default()) // a list of texts
            .bind(i64::from(relay.port))
            .bind(now)
            .execute(&self.pool)
            .await?;
        Ok(added.rows_affected() > 0)
    }

    /// Forgets the relay `name`; says whether there was one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn remove_relay(&self, name: &RelayName) -> Result<bool, StoreError> {
        let removed = sqlx::query("DELETE FROM relays WHERE name = $1")
            .bind(name.as_str())
            .execute(&self.pool)
            .await?;
        Ok(removed.rows_affected() > 0)
    }

    /// Every relay, by name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn relays(&self) -> Result<Vec<Relay>, StoreError> {
        let select = "SELECT name, public_key, addresses, port FROM relays ORDER BY name";
        let rows = sqlx::query(select).fetch_all(&self.pool).await?;
        rows.iter().map(relay).collect()
    }
}

fn relay(row: &SqliteRow) -> Result<Relay, StoreError> {
    let damaged = || StoreError::Damaged("relay");
    let key: [u8; 32] = row
        .try_get::<&[u8], _>("public_key")?
        .try_into()
        .map_err(|_| damaged())?;
    let addresses = serde_json::from_str(row.try_get("addresses")?);
    Ok(Relay {
        name: RelayName::parse(row.try_get("name")?).map_err(|_| damaged())?,
        key: PublicKey::from_bytes(key),
        addresses: addresses.map_err(|_| damaged())?,
        port: u16::try_from(row.try_get::<i64, _>("port")?).map_err(|_| damaged())?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, store};
    use super::*;

    #[tokio::test]
    async fn relays_are_kept_until_they_are_removed() {
        let (_directory, store) = store().await;
        let relay = |name: &str, key| Relay {
            name: RelayName::parse(name).unwrap(),
            key: PublicKey::from_bytes([key; 32]),
            addresses: vec![[192, 0, 2, 9].into(), "2001:db8::9".parse().unwrap()],
            port: 8443,
        };
        let (eu, us) = (relay("eu1", 1), relay("us1", 2));
        assert!(store.add_relay(&us, NOW).await.unwrap());
        assert!(store.add_relay(&eu, NOW).await.unwrap());
        assert!(!store.add_relay(&relay("eu1", 3), NOW).await.unwrap());
        assert_eq!(store.relays().await.unwrap(), [eu.clone(), us.clone()]);
        assert!(store.remove_relay(&eu.name).await.unwrap());
        assert!(!store.remove_relay(&eu.name).await.unwrap());
        assert_eq!(store.relays().await.unwrap(), [us]);
    }
}
