//! What can be done with devices, whoever asks: the operator on the command line, an agent that pairs, a page.
//!
//! Each change goes to the database first and to the Directory then, under one lock and in a task of its own, so that both
//! always tell the same story, even if whoever asked has left in the middle. When the Directory's write returns, the change is in force: ddns answers by it, the relay has cut who lost the
//! right to a tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ddns::tsig;
use directory::{
    DeviceLimits, DeviceName, Duty, NameError, PairingCode, PublicKey, PublicPort, Reader, Token,
    Writer,
};
use relay::octets;
use relay::server::{LEAST_BYTES_PER_SECOND, MOST_BYTES_PER_SECOND};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

use crate::authority::{Authority, DeviceCertificate, SigningError};
use crate::store::{PairingError, PortError, RegisterError, Store, StoreError};

/// How long a pairing code may be used.
pub const CODE_LIFE: Duration = Duration::from_secs(10 * 60);

/// More addresses than this no agent has to report.
const MAX_REPORTED_ADDRESSES: usize = 16;

/// The devices of the zone.
#[derive(Clone, Debug)]
pub struct Devices {
    store: Store,
    directory: Reader,
    writer: Arc<Mutex<Writer>>,
    changes: TaskTracker,
    authority: Arc<Authority>,
    master: tsig::Master,
}

/// A name that was registered, and the code for its agent.
#[derive(Debug)]
pub struct Added {
    /// The full name.
    pub host: String,
    /// Shown once.
    pub code: PairingCode,
}

/// A device's fresh key for one duty.
#[derive(Debug)]
pub struct DutyKey {
    /// The device's full name.
    pub host: String,
    /// What a client gives as its user.
    pub user: String,
    /// Shown once.
    pub key: Token,
    /// The name of the same key for signed updates.
    pub tsig_name: String,
    /// Shown once.
    pub tsig_secret: tsig::Secret,
}

/// Why something was not done with a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nobody has the name.
    #[error("there is no device named {0}")]
    Unknown(DeviceName),
    /// The name has a holder, or may not be given.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// A port is another device's.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Nobody has the port.
    #[error("{0} is no device's")]
    UnknownPort(PublicPort),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No randomness for a secret.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// A device cannot have such a rate.
    #[error(
        "a device may have from {} to {} a second",
        octets::write(LEAST_BYTES_PER_SECOND),
        octets::write(MOST_BYTES_PER_SECOND)
    )]
    Rate,
    /// An agent reports more addresses than a device has.
    #[error("at most {MAX_REPORTED_ADDRESSES} addresses can be reported")]
    TooManyAddresses,
}

impl Devices {
    /// Reads every device from `store` into the Directory and takes over its writing end.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn load(
        store: Store,
        mut writer: Writer,
        directory: Reader,
        authority: Arc<Authority>,
        master: tsig::Master,
    ) -> Result<Self, StoreError> {
        store.each_device(|device| writer.put(device)).await?;
        for (name, limits) in store.limits().await? {
            writer.limit(&name, limits);
        }
        let mut ports = BTreeMap::<_, BTreeSet<_>>::new();
        for (port, name) in store.ports().await? {
            ports.entry(name).or_default().insert(port);
        }
        for (name, ports) in ports {
            writer.set_ports(&name, ports);
        }
        Ok(Self {
            store,
            directory,
            writer: Arc::new(Mutex::new(writer)),
            changes: TaskTracker::new(),
            authority,
            master,
        })
    }

    /// Nothing changes from now on until what this gives is dropped: who asks for a change waits.
    pub(crate) async fn hold(&self) -> OwnedMutexGuard<Writer> {
        Arc::clone(&self.writer).lock_owned().await
    }

    /// Who is who now.
    pub fn directory(&self) -> &Reader {
        &self.directory
    }

    /// Registers `name` and makes a code for its agent. A name that nobody has paired under yet gets a new code, and its
    /// old one is worthless.
    ///
    /// # Errors
    /// If the name cannot be one, is taken, or may not be given.
    pub async fn add(&self, name: &str) -> Result<Added, DeviceError> {
        self.give(name, false).await
    }

    /// The same, and a name that rests after its last holder is given back at once. For the operator, who knows that
    /// holder or answers for the next.
    ///
    /// # Errors
    /// As [`Self::add`], but for the rest.
    pub async fn reclaim(&self, name: &str) -> Result<Added, DeviceError> {
        self.give(name, true).await
    }

    async fn give(&self, name: &str, reclaim: bool) -> Result<Added, DeviceError> {
        let name = DeviceName::parse(name)?;
        let code = PairingCode::generate()?;
        let now = now_ms();
        let expires_at = now + i64::try_from(CODE_LIFE.as_millis()).unwrap_or(i64::MAX);
        let host = self.directory.zone().name_of(&name);
        let hash = code.hash();
        let devices = self.clone();
        self.to_its_end(async move {
            let mut writer = devices.writer.lock().await;
            let device = if reclaim {
                devices.store.reclaim(&name, &hash, now, expires_at).await?
            } else {
                devices
                    .store
                    .register(&name, &hash, now, expires_at)
                    .await?
            };
            writer.put(device);
            Ok(Added { host, code })
        })
        .await
    }

    /// Makes a fresh key of `name` for `duty`; an earlier one of that duty stops working.
    ///
    /// # Errors
    /// If nobody has the name.
    pub async fn new_key(&self, name: &str, duty: Duty) -> Result<DutyKey, DeviceError> {
        let name = DeviceName::parse(name)?;
        let host = self.directory.zone().name_of(&name);
        let key = Token::generate()?;
        let hash = key.hash();
        let tsig_name = tsig::key::name_of(&name, duty, self.directory.zone());
        let tsig_secret = self.master.secret(&hash);
        let devices = self.clone();
        self.to_its_end(async move {
            let mut writer = devices.writer.lock().await;
            let user = name.to_string();
            let device = devices.store.set_key(&name, duty, &hash).await?;
            writer.put(device.ok_or(DeviceError::Unknown(name))?);
            Ok(DutyKey {
                host,
                user,
                key,
                tsig_name,
                tsig_secret,
            })
        })
        .await
    }

    /// From now on the device of `name` has these limits instead of what all have, `change` being told those it has had. Gives
    /// back what is in force now.
    ///
    /// # Errors
    /// If nobody has the name, or a limit cannot be one.
    pub async fn limit(
        &self,
        name: &str,
        change: impl FnOnce(DeviceLimits) -> DeviceLimits + Send + 'static,
    ) -> Result<DeviceLimits, DeviceError> {
        let name = DeviceName::parse(name)?;
        let devices = self.clone();
        self.to_its_end(async move {
            let mut writer = devices.writer.lock().await;
            let limits = change(devices.directory.limits(&name));
            if let Some(bytes) = limits.bytes_per_second
                && !(LEAST_BYTES_PER_SECOND..=MOST_BYTES_PER_SECOND).contains(&bytes.get())
            {
                return Err(DeviceError::Rate);
            }
            if !devices.store.set_limits(&name, limits).await? {
                return Err(DeviceError::Unknown(name));
            }
            writer.limit(&name, limits);
            Ok(limits)
        })
        .await
    }

    /// From now on a port of the relays leads to whichever service the device of `name` has for it.
    ///
    /// # Errors
    /// If nobody has the name, or another device has the port.
    pub async fn give_port(&self, name: &str, port: PublicPort) -> Result<String, DeviceError> {
        let name = DeviceName::parse(name)?;
        let host = self.directory.zone().name_of(&name);
        let devices = self.clone();
        self.to_its_end(async move {
            let mut writer = devices.writer.lock().await;
            devices.store.give_port(&name, port).await?;
            let mut ports = devices.directory.ports(&name);
            ports.insert(port);
            writer.set_ports(&name, ports);
            Ok(host)
        })
        .await
    }

    /// Takes a port back from whoever has it: nobody comes there any more, and who is there has to leave.
    ///
    /// # Errors
    /// If it is no device's.
    pub async fn take_port(&self, port: PublicPort) -> Result<(), DeviceError> {
        let devices = self.clone();
        self.to_its_end(async move {
            let mut writer = devices.writer.lock().await;
            if !devices.store.take_port(port).await? {
                return Err(DeviceError::UnknownPort(port));
            }
            if let Some(name) = devices.directory.port_holder(port) {
                let mut ports = devices.directory.ports(&name);
                ports.remove(&port);
                writer.set_ports(&name, ports);
            }
            Ok(())
        })
        .await
    }

    /// Every port that is a device's, and whose.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ports(&self) -> Result<Vec<(PublicPort, DeviceName)>, DeviceError> {
        Ok(self.store.ports().await?)
    }

    /// Removes `name`: its tunnel is cut, its name stops resolving and rests, nothing else of it is kept.
    ///
    /// # Errors
    /// If nobody has the name.
    pub async fn remove(&self, name: &str) -> Result<(), DeviceError> {
        let name = DeviceName::parse(name)?;
        let devices = self.clone();
        self.to_its_end(async move {
            let mut writer = devices.writer.lock().await;
            if !devices.store.remove(&name, now_ms()).await? {
                return Err(DeviceError::Unknown(name));
            }
            writer.remove(&name);
            Ok(())
        })
        .await
    }

    /// Makes the holder of `key` the device that `code` was made for, and says its name.
    ///
    /// # Errors
    /// If the code is wrong, expired or used, or the key has a name already.
    pub async fn pair(
        &self,
        code: &PairingCode,
        key: &PublicKey,
    ) -> Result<directory::Device, PairingError> {
        let (code, key) = (code.hash(), *key);
        let devices = self.clone();
        self.to_its_end(async move {
            let mut writer = devices.writer.lock().await;
            let device = devices.store.pair(&code, &key, now_ms()).await?;
            writer.put(device.clone());
            Ok(device)
        })
        .await
    }

    /// Makes a change of database and Directory to its end, whether the caller waits for it or not.
    async fn to_its_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.changes.spawn(change).await {
            Ok(made) => made,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => pending().await, // the runtime has ended, and with it whoever waits here
            },
        }
    }

    /// Waits until every change that was begun has been made, and closes the database.
    pub async fn close(&self) {
        self.changes.close();
        self.changes.wait().await;
        self.store.close().await;
    }

    /// Signs a certificate for a device's own key.
    ///
    /// # Errors
    /// If the request is not one for the device's own names.
    pub fn sign(
        &self,
        device: &DeviceName,
        request: &str,
    ) -> Result<DeviceCertificate, SigningError> {
        self.authority.sign_for_device(device, request)
    }

    /// Keeps the addresses that an agent reports of its device.
    ///
    /// # Errors
    /// If they are too many, or the database fails.
    pub async fn report_addresses(
        &self,
        device: &directory::Device,
        addresses: &[IpAddr],
    ) -> Result<(), DeviceError> {
        if addresses.len() > MAX_REPORTED_ADDRESSES {
            return Err(DeviceError::TooManyAddresses);
        }
        Ok(self
            .store
            .set_addresses(device.registration, addresses)
            .await?)
    }

    /// The addresses that the device's agent has reported.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn reported_addresses(
        &self,
        device: &directory::Device,
    ) -> Result<Vec<IpAddr>, DeviceError> {
        Ok(self.store.addresses(device.registration).await?)
    }
}

pub(crate) fn now_ms() -> i64 {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use directory::Zone;

    use super::*;
    use crate::state::StateDirectory;
    use crate::store::DATABASE;

    /// Polls `future` so many times at most, as it asks to be, and drops it.
    async fn polled(mut times: usize, future: impl Future) {
        let mut future = pin!(future);
        poll_fn(|context| {
            if times == 0 {
                return Poll::Ready(());
            }
            times -= 1;
            future.as_mut().poll(context).map(drop)
        })
        .await;
    }

    #[tokio::test]
    async fn database_and_directory_agree_whenever_who_asked_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path()).unwrap();
        let zone = Zone::parse("nas.localhost").unwrap();
        let store = Store::open(&state.file(DATABASE), &zone).await.unwrap();
        let authority = Arc::new(Authority::open(&state, &zone).unwrap());
        let (writer, directory) = directory::directory(zone.clone());
        let master = state.tsig_master().unwrap();
        let devices = Devices::load(store, writer, directory.clone(), authority, master)
            .await
            .unwrap();
        for times in 1..40 {
            polled(times, devices.add(&format!("nas{times}"))).await;
        }
        devices.close().await;

        let again = Store::open(&state.file(DATABASE), &zone).await.unwrap();
        let mut told: Vec<_> = directory.devices().iter().map(|d| d.name.clone()).collect();
        told.sort();
        let mut kept: Vec<_> = again
            .devices()
            .await
            .unwrap()
            .into_iter()
            .map(|d| d.name)
            .collect();
        kept.sort();
        assert_eq!(told, kept);
    }
}
