//! The operator adds and removes relays.

use std::net::IpAddr;
use std::sync::Arc;

use ddns::addresses::reachable;
use ddns::relays::{MAX_ADDRESSES, MAX_RELAYS};
use directory::{NameError, RelayName};
use relay::agent::Identity;
use tokio::sync::OwnedMutexGuard;
use zeroize::Zeroizing;

use super::join::JoinFile;
use super::{Fleet, Registered};
use crate::devices::now_ms;
use crate::store::{Relay, StoreError};

/// Why a relay was not added or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterRelayError {
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is one of that name.
    #[error("there is a relay named {0} already; `causeway relay remove {0}` makes room")]
    Taken(RelayName),
    /// There is none.
    #[error("there is no relay named {0}")]
    Unknown(RelayName),
    /// Nobody could reach it.
    #[error("a relay needs 1 to {MAX_ADDRESSES} addresses at which it can be reached")]
    Addresses,
    /// There are as many as can be.
    #[error("there can be {MAX_RELAYS} relays, and there are")]
    Full,
    /// Its key could not be made.
    #[error(transparent)]
    Key(#[from] relay::agent::KeyError),
    /// Its file could not be written.
    #[error("its file cannot be written: {0}")]
    File(#[from] toml::ser::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever did it has ended in the middle.
    #[error("it was begun and not finished; look with `causeway relay list`")]
    Unfinished,
}

/// A relay as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayRow {
    pub(crate) name: RelayName,
    pub(crate) host: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) port: u16,
    /// How many devices it holds, if it follows.
    pub(crate) devices: Option<usize>,
}

impl Fleet {
    /// Adds a relay that is reached at `addresses` and `port`; `control` is the address it is to follow. Gives back its full name
    /// and the file it joins with, which is shown once.
    ///
    /// # Errors
    /// If it cannot be one, or the database fails.
    pub(crate) async fn add(
        self: &Arc<Self>,
        name: &str,
        addresses: Vec<IpAddr>,
        port: u16,
        control: String,
    ) -> Result<(String, Zeroizing<String>), RegisterRelayError> {
        let name = RelayName::parse(name)?;
        let unreachable = |ip: &IpAddr| reachable(*ip).is_err();
        if !(1..=MAX_ADDRESSES).contains(&addresses.len()) || addresses.iter().any(unreachable) {
            return Err(RegisterRelayError::Addresses);
        }
        let key = Identity::generate_pem()?;
        let relay = Relay {
            name,
            key: Identity::from_pem(&key)?.public_key(),
            addresses,
            port,
        };
        let zone = self.around.directory.zone();
        let join = JoinFile {
            name: relay.name.to_string(),
            zone: zone.to_string(),
            control,
            port,
            trust_root: self.around.authority.certificate_pem().to_owned(),
            key,
        };
        let (host, join) = (zone.relay_name(&relay.name), join.write()?);
        self.to_its_end(|fleet| async move {
            let _one = fleet.registering.lock().await;
            if fleet.known().relays.len() >= MAX_RELAYS {
                return Err(RegisterRelayError::Full);
            }
            if !fleet.around.store.add_relay(&relay, now_ms()).await? {
                return Err(RegisterRelayError::Taken(relay.name));
            }
            let mut known = fleet.known();
            let (name, following) = (relay.name.clone(), None);
            known.relays.insert(name, Registered { relay, following });
            fleet.registered_changed(&known);
            Ok(())
        })
        .await?;
        Ok((host, join))
    }

    /// Removes a relay: it hears nothing more, no name leads to it, and agents are told to leave it.
    ///
    /// # Errors
    /// If there is none of that name, or the database fails.
    pub(crate) async fn remove(self: &Arc<Self>, name: &str) -> Result<(), RegisterRelayError> {
        let name = RelayName::parse(name)?;
        self.to_its_end(|fleet| async move {
            let _one = fleet.registering.lock().await;
            if !fleet.around.store.remove_relay(&name).await? {
                return Err(RegisterRelayError::Unknown(name));
            }
            let mut known = fleet.known();
            let removed = known.relays.remove(&name);
            if let Some(following) = removed.and_then(|removed| removed.following) {
                fleet.metrics.following.dec();
                fleet.forget(&mut known, &name, following);
            }
            fleet.registered_changed(&known);
            Ok(())
        })
        .await
    }

    /// No relay is added or removed from now on until what this gives is dropped: who asks for it waits.
    pub(crate) async fn hold(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.registering).lock_owned().await
    }

    /// Every relay with a process of its own, by name.
    pub(crate) fn rows(&self) -> Vec<RelayRow> {
        let zone = self.around.directory.zone();
        let known = self.known();
        let rows = known
            .relays
            .values()
            .map(|Registered { relay, following }| RelayRow {
                name: relay.name.clone(),
                host: zone.relay_name(&relay.name),
                addresses: relay.addresses.clone(),
                port: relay.port,
                devices: following.as_ref().map(|following| following.devices()),
            });
        rows.collect()
    }

    /// Makes a change to its end, whether the caller waits for it or not: database and memory tell the same story.
    async fn to_its_end<F>(
        self: &Arc<Self>,
        change: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<(), RegisterRelayError>
    where
        F: Future<Output = Result<(), RegisterRelayError>> + Send + 'static,
    {
        let changed = self.tasks.spawn(change(Arc::clone(self))).await;
        changed.unwrap_or(Err(RegisterRelayError::Unfinished))
    }
}
