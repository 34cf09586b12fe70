//! What can be done with devices, whoever asks: the operator on the command line, an agent that pairs, a page.
//!
//! Each change goes to the database first and to the Directory then, under one lock, so that both always tell the same
//! story. When the Directory's write returns, the change is in force: ddns answers by it, the relay has cut who lost the
//! right to a tunnel.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use directory::{DeviceName, NameError, PairingCode, PublicKey, Reader, Token, Writer};
use tokio::sync::Mutex;

use crate::authority::{Authority, DeviceCertificate, SigningError};
use crate::store::{PairingError, RegisterError, Store, StoreError};

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
    authority: Arc<Authority>,
}

/// A name that was registered, and the code for its agent.
#[derive(Debug)]
pub struct Added {
    /// The full name.
    pub host: String,
    /// Shown once.
    pub code: PairingCode,
}

/// A device's fresh DDNS key.
#[derive(Debug)]
pub struct DdnsKey {
    /// What a DDNS client gives as its user.
    pub user: String,
    /// Shown once.
    pub key: Token,
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
    /// The name has a holder.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No randomness for a secret.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
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
    ) -> Result<Self, StoreError> {
        for device in store.devices().await? {
            writer.put(device);
        }
        Ok(Self {
            store,
            directory,
            writer: Arc::new(Mutex::new(writer)),
            authority,
        })
    }

    /// Who is who now.
    pub fn directory(&self) -> &Reader {
        &self.directory
    }

    /// Registers `name` and makes a code for its agent. A name that nobody has paired under yet gets a new code, and its
    /// old one is worthless.
    ///
    /// # Errors
    /// If the name cannot be one or is taken.
    pub async fn add(&self, name: &str) -> Result<Added, DeviceError> {
        let name = DeviceName::parse(name)?;
        let code = PairingCode::generate()?;
        let now = now_ms();
        let expires_at = now + i64::try_from(CODE_LIFE.as_millis()).unwrap_or(i64::MAX);
        let mut writer = self.writer.lock().await;
        let device = self
            .store
            .register(&name, &code.hash(), now, expires_at)
            .await?;
        writer.put(device);
        Ok(Added {
            host: self.directory.zone().name_of(&name),
            code,
        })
    }

    /// Makes a fresh DDNS key for `name`; an earlier one stops working.
    ///
    /// # Errors
    /// If nobody has the name.
    pub async fn new_ddns_key(&self, name: &str) -> Result<DdnsKey, DeviceError> {
        let name = DeviceName::parse(name)?;
        let key = Token::generate()?;
        let mut writer = self.writer.lock().await;
        let device = self.store.set_ddns_key(&name, &key.hash()).await?;
        writer.put(device.ok_or_else(|| DeviceError::Unknown(name.clone()))?);
        Ok(DdnsKey {
            user: name.to_string(),
            key,
        })
    }

    /// Removes `name`: its tunnel is cut, its name stops resolving, nothing of it is kept.
    ///
    /// # Errors
    /// If nobody has the name.
    pub async fn remove(&self, name: &str) -> Result<(), DeviceError> {
        let name = DeviceName::parse(name)?;
        let mut writer = self.writer.lock().await;
        if !self.store.remove(&name).await? {
            return Err(DeviceError::Unknown(name));
        }
        writer.remove(&name);
        Ok(())
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
        let mut writer = self.writer.lock().await;
        let device = self.store.pair(&code.hash(), key, now_ms()).await?;
        writer.put(device.clone());
        Ok(device)
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

fn now_ms() -> i64 {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}
