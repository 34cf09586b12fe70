//! A zone `nas.test`, a Directory, and a server started on a free port.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use ddns::addresses::ChangeSet;
use ddns::caa::{Issuer, Issuers};
use ddns::challenges::{ChallengeChange, ChallengeHost, ChallengeValue};
use ddns::lan::LanChange;
use ddns::steering::Lead;
use ddns::tsig::Master;
use ddns::update::{NotProved, Outcome, ProofHost, UpdateError};
use ddns::{Bound, Config, Facts, Handle, StartError, Storage};
use directory::{Device, DeviceName, Reader, RegistrationId, Token, Writer, Zone};
use prometheus::Registry;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::dot::certificate;

/// A running server and everything around it.
pub(crate) struct World {
    pub(crate) directory: Directory,
    pub(crate) server: Handle,
    pub(crate) registry: Registry,
    pub(crate) stop: CancellationToken,
    pub(crate) state: TempDir,
}

/// Whoever tests updates makes many, and comes over loopback.
const CONFIG: &str = r#"
    listen = "[::]:0"
    updates_per_minute = 0
    private_addresses = true
"#;

impl World {
    /// On all addresses, IPv4 and IPv6.
    pub(crate) async fn start() -> Self {
        Self::with_config(CONFIG).await
    }

    pub(crate) async fn with_config(config: &str) -> Self {
        Self::with_directory(Directory::new(), config).await
    }

    /// The same with devices, or another zone, from the start.
    pub(crate) async fn with_directory(directory: Directory, config: &str) -> Self {
        let state = TempDir::new().unwrap();
        Self::on(state, directory, config).await
    }

    /// Ends the server and starts another with the same Directory and state.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(CONFIG).await
    }

    /// The same with another configuration.
    pub(crate) async fn restart_with(self, config: &str) -> Self {
        self.server.shutdown().await.unwrap();
        Self::on(self.state, self.directory, config).await
    }

    /// Starts another server with the same Directory, state and sockets, and returns the one before, which goes on.
    pub(crate) async fn succeed(&mut self, config: &str) -> Handle {
        let before = Before {
            bound: self.server.hand_over().sockets().unwrap(),
            alone: None,
        };
        self.succeed_to(before, config).await
    }

    /// The same when the successor is told of the one before.
    pub(crate) async fn succeed_to(&mut self, before: Before, config: &str) -> Handle {
        let registry = Registry::new();
        let (reader, state) = (&self.directory.reader, self.state.path());
        let next = succeed(reader, state, config, &registry, &self.stop, before)
            .await
            .unwrap();
        self.registry = registry;
        std::mem::replace(&mut self.server, next)
    }

    async fn on(state: TempDir, directory: Directory, config: &str) -> Self {
        let registry = Registry::new();
        let stop = CancellationToken::new();
        let server = start(&directory.reader, state.path(), config, &registry, &stop)
            .await
            .unwrap();
        Self {
            directory,
            server,
            registry,
            stop,
            state,
        }
    }

    /// The server by IPv4 loopback.
    pub(crate) fn v4(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.server.addr().port()).into()
    }

    /// Updates the device `name` by its registration.
    pub(crate) async fn set(&self, name: &str, addresses: &[&str]) -> Result<Outcome, UpdateError> {
        let name = DeviceName::parse(name).unwrap();
        let device = self.directory.reader.device_by_name(&name).unwrap();
        let updater = self.server.updater();
        updater
            .update(device.registration, &name, change(addresses))
            .await
    }

    /// Says where the device `name` is in its own network, and nowhere else there.
    pub(crate) async fn set_lan(
        &self,
        name: &str,
        addresses: &[&str],
    ) -> Result<Outcome, UpdateError> {
        let name = DeviceName::parse(name).unwrap();
        let device = self.directory.reader.device_by_name(&name).unwrap();
        let nothing = LanChange::default().forget_v4().forget_v6();
        let mut addresses = addresses.iter().map(|text| ip(text));
        let change = addresses.try_fold(nothing, LanChange::set).unwrap();
        let updater = self.server.updater();
        updater.update(device.registration, &name, change).await
    }

    /// Says which accounts alone may have certificates for the device `name`: an authority and an account each.
    pub(crate) async fn set_issuers(
        &self,
        name: &str,
        accounts: &[(&str, &str)],
    ) -> Result<Outcome, UpdateError> {
        let name = DeviceName::parse(name).unwrap();
        let device = self.directory.reader.device_by_name(&name).unwrap();
        let issuer = |&(issuer, account)| Issuer { issuer, account };
        let accounts: Vec<_> = accounts.iter().map(issuer).collect();
        let issuers = Issuers::new(&accounts).unwrap();
        let updater = self.server.updater();
        updater.update(device.registration, &name, issuers).await
    }

    /// Says where the name of the device `name` leads.
    pub(crate) fn lead(&self, name: &str, lead: Lead) {
        let name = DeviceName::parse(name).unwrap();
        let device = self.directory.reader.device_by_name(&name).unwrap();
        let steering = self.server.steering();
        assert!(steering.lead(&name, device.registration, lead));
    }

    /// Adds a challenge of the device `name`, at itself or at a host of it.
    pub(crate) async fn challenge(
        &self,
        name: &str,
        host: &str,
        value: &[u8],
    ) -> Result<Outcome, UpdateError> {
        let name = DeviceName::parse(name).unwrap();
        let device = self.directory.reader.device_by_name(&name).unwrap();
        let host = ChallengeHost::parse(host).unwrap();
        let add = ChallengeChange::Add(host, ChallengeValue::new(value).unwrap());
        let updater = self.server.updater();
        updater.update(device.registration, &name, add).await
    }

    /// Adds a challenge of a host of the operator's own.
    pub(crate) async fn prove(&self, host: &str, value: &[u8]) -> Result<(), NotProved> {
        let host = ProofHost::locate(host, self.directory.reader.zone()).unwrap();
        let value = ChallengeValue::new(value).unwrap();
        self.server.updater().prove(&[(host, value)]).await
    }

    /// Takes it away.
    pub(crate) fn withdraw(&self, value: &[u8]) {
        let value = ChallengeValue::new(value).unwrap();
        self.server.updater().withdraw_proofs(&[value]);
    }

    /// The value of a metric, its labels in braces as the text format has them.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let mut text = String::new();
        prometheus::TextEncoder::new()
            .encode_utf8(&self.registry.gather(), &mut text)
            .unwrap();
        let prefix = format!("causeway_ddns_{series} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or("0").parse().unwrap()
    }
}

/// Starts a server for `directory`.
pub(crate) async fn start(
    directory: &Reader,
    state: &Path,
    config: &str,
    registry: &Registry,
    stop: &CancellationToken,
) -> Result<Handle, StartError> {
    succeed(directory, state, config, registry, stop, Before::default()).await
}

/// What a server has of the one before it.
#[derive(Debug, Default)]
pub(crate) struct Before {
    pub(crate) bound: Bound,
    pub(crate) alone: Option<CancellationToken>,
}

/// Starts a server for `directory` on the sockets of another.
pub(crate) async fn succeed(
    directory: &Reader,
    state: &Path,
    config: &str,
    registry: &Registry,
    stop: &CancellationToken,
    before: Before,
) -> Result<Handle, StartError> {
    // Tests ask more of one address than a network may; those of the limit itself set it.
    let config = if config.contains("responses_per_second") {
        config.to_owned()
    } else {
        format!("responses_per_second = 0\n{config}")
    };
    let config: Config = toml::from_str(&config).unwrap();
    let facts = Facts {
        storage: Storage::read(state.into()),
        relay: vec![ip("192.0.2.250"), ip("2001:db8::250")],
        nameserver: vec![ip("192.0.2.53"), ip("2001:db8::53")],
        master: master(),
        certificate: Some(certificate()),
        bound: before.bound,
        alone: before.alone,
        address_changes: None,
    };
    ddns::start(config, facts, directory.clone(), registry, stop.clone()).await
}

/// What the secrets of all keys are made of.
pub(crate) fn master() -> Master {
    Master::new(Zeroizing::new([7; Master::LEN]))
}

/// Who holds which name.
pub(crate) struct Directory {
    pub(crate) writer: Writer,
    pub(crate) reader: Reader,
    last_registration: u64,
}

impl Directory {
    pub(crate) fn new() -> Self {
        Self::of("nas.test")
    }

    /// Of another zone.
    pub(crate) fn of(zone: &str) -> Self {
        let (writer, reader) = directory::directory(Zone::parse(zone).unwrap());
        Self {
            writer,
            reader,
            last_registration: 0,
        }
    }

    /// Registers `name` anew and returns its key.
    pub(crate) fn add(&mut self, name: &str) -> Token {
        self.last_registration += 1;
        self.put(name, RegistrationId(self.last_registration))
    }

    /// Makes new keys for a device, which ends the old ones.
    pub(crate) fn new_keys(&mut self, name: &str) -> Token {
        let parsed = DeviceName::parse(name).unwrap();
        let device = self.reader.device_by_name(&parsed).unwrap();
        self.put(name, device.registration)
    }

    fn put(&mut self, name: &str, registration: RegistrationId) -> Token {
        let (key, challenge_key) = (Token::generate().unwrap(), Token::generate().unwrap());
        self.writer.put(Device {
            registration,
            name: DeviceName::parse(name).unwrap(),
            identity: None,
            ddns_key: Some(key.hash()),
            challenge_key: Some(challenge_key.hash()),
        });
        key
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let name = DeviceName::parse(name).unwrap();
        self.writer.remove(&name).unwrap();
    }
}

pub(crate) fn change(addresses: &[&str]) -> ChangeSet {
    addresses
        .iter()
        .map(|text| ip(text))
        .try_fold(ChangeSet::default(), ChangeSet::set)
        .unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
