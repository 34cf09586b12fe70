//! A zone of numbered names, each with an address of both families: as a file for those that read one, and as the state
//! directory of our server.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::iter::repeat;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use control::state::StateDirectory;
use control::store::{DATABASE, Store, StoreError};
use ddns::addresses::Addresses;
use ddns::own::Own;
use ddns::store::{DirectoryDisk, Log, Record};
use ddns::table::Held;
use directory::{DeviceName, RegistrationId, Token, Zone};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::WorldError;
use super::name_server::signed_zone;
use crate::progress::Progress;

/// The zone's name.
pub(crate) const ZONE: &str = "example.test";

/// Other people's questions are for so many names at most, one after the other and then from the beginning.
const MAX_QUERIES: u32 = 1_000_000;

/// The zone, in a folder of its own.
#[derive(Debug)]
pub(crate) struct Million {
    pub(crate) names: u32,
    folder: TempDir,
    /// With which every name of our server may be updated.
    key: Token,
    /// What signs updates of every name, as its owner would be told it.
    tsig: Zeroizing<String>,
}

impl Million {
    /// Writes the zone with so many names; for our server too, if it is `with_ours`.
    pub(crate) async fn make(
        names: u32,
        with_ours: bool,
        progress: &Progress,
    ) -> Result<Self, WorldError> {
        let mut million = Self {
            names,
            folder: tempfile::tempdir()?,
            key: Token::generate().map_err(io::Error::from)?,
            tsig: Zeroizing::default(),
        };
        progress.begin("writing the zone".to_owned(), names.into());
        write_zone(&million.zone_file(), names)?;
        if with_ours {
            progress.begin("registering devices".to_owned(), names.into());
            let state = million.state();
            million.tsig = fill(&state, names, &million.key, progress)
                .await
                .map_err(|error| WorldError::Filled {
                    state,
                    cause: error.to_string(),
                })?;
        }
        Ok(million)
    }

    /// The zone as RFC 1035 section 5 has it.
    pub(crate) fn zone_file(&self) -> PathBuf {
        self.folder.path().join("zone")
    }

    /// The same zone signed, once [`sign`](Self::sign) has done so.
    pub(crate) fn signed_zone_file(&self) -> PathBuf {
        self.folder.path().join("zone.signed")
    }

    /// Signs the zone for servers that do not do so themselves.
    pub(crate) async fn sign(&self, programs: Option<&Path>) -> Result<(), WorldError> {
        signed_zone::sign(&self.zone_file(), &self.signed_zone_file(), programs).await
    }

    /// The state directory of our server.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Where other things of the same life can be kept.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether all this is in a file system that is gone when the power is: tmpfs(5).
    pub(crate) fn is_in_memory(&self) -> io::Result<bool> {
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        let found = rustix::fs::statfs(self.folder.path())?;
        Ok(found.f_type == TMPFS_MAGIC)
    }

    /// What our server knows of the key.
    pub(super) fn key(&self) -> &Token {
        &self.key
    }

    /// The secret of the keys that sign updates, in base64.
    pub(super) fn tsig(&self) -> &Zeroizing<String> {
        &self.tsig
    }

    /// A file of questions for dnsperf: names at random, of both families, so many of ten for names that do not exist.
    pub(crate) fn queries(&self, misses: u32) -> io::Result<PathBuf> {
        let path = self.folder.path().join(format!("queries-{misses}"));
        if path.exists() {
            return Ok(path);
        }
        let mut file = BufWriter::new(File::create(&path)?);
        for _ in 0..self.names.clamp(1000, MAX_QUERIES) {
            let number = rand::random_range(0..self.names);
            let exists = rand::random_range(0..10) >= misses;
            let letter = if exists { 'h' } else { 'x' };
            let family = if rand::random() { "AAAA" } else { "A" };
            writeln!(file, "{letter}{number:07}.{ZONE} {family}")?;
        }
        file.flush()?;
        Ok(path)
    }
}

/// The label of a name.
pub(crate) fn label(number: u32) -> String {
    format!("h{number:07}")
}

/// The full name.
pub(crate) fn host(number: u32) -> String {
    format!("h{number:07}.{ZONE}")
}

/// Its address, one of those for documentation and what stands beside them.
pub(crate) fn address(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(198, 51, high, low)
}

fn address6(number: u32) -> Ipv6Addr {
    let [a, b, c, d] = number.to_be_bytes().map(u16::from);
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, a << 8 | b, c << 8 | d)
}

fn write_zone(path: &Path, names: u32) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(
        file,
        "$ORIGIN {ZONE}.\n$TTL 60\n\
         @ 3600 IN SOA ns1 hostmaster 1 3600 600 86400 60\n\
         @ 3600 IN NS ns1\n\
         ns1 3600 IN A 192.0.2.1"
    )?;
    for number in 0..names {
        let (label, v4, v6) = (label(number), address(number), address6(number));
        writeln!(file, "{label} IN A {v4}\n{label} IN AAAA {v6}")?;
    }
    file.flush()
}

/// What can go wrong with our own state.
#[derive(Debug, thiserror::Error)]
enum FillError {
    #[error(transparent)]
    State(#[from] control::state::StateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Import(#[from] control::store::ImportError),
    #[error(transparent)]
    Name(#[from] directory::NameError),
    #[error(transparent)]
    Log(#[from] io::Error),
}

/// Makes the state directory of a server that has all names, each with its addresses and one key. Returns what signs for all of
/// them.
async fn fill(
    state: &Path,
    names: u32,
    key: &Token,
    progress: &Progress,
) -> Result<Zeroizing<String>, FillError> {
    let state = StateDirectory::open(state)?;
    let store = Store::open(&state.file(DATABASE), &Zone::parse(ZONE)?).await?;
    let names = (0..names).map(|number| DeviceName::parse(&label(number)));
    let names = names.zip(repeat(key.hash()));
    let devices: Vec<_> = names
        .map(|(name, key)| Ok((name?, key)))
        .collect::<Result<_, directory::NameError>>()?;
    // As in 1970: nobody looks at when.
    let registered = store.register_many(&devices, 0, |done| progress.at(done as u64));
    registered.await?;
    let mut registrations = Vec::with_capacity(devices.len());
    let numbered = store.each_device(|device| registrations.push(device.registration));
    numbered.await?;
    store.close().await;
    // Both are in the order in which they were registered.
    keep_addresses(state.path(), (0..).zip(registrations))?;
    Ok(state.tsig_master()?.secret(&key.hash()).reveal())
}

/// Writes the log of updates as if each registration had set its name's addresses.
fn keep_addresses(
    state: &Path,
    names: impl Iterator<Item = (u32, RegistrationId)>,
) -> io::Result<()> {
    let disk = DirectoryDisk::open(state).map_err(io::Error::other)?;
    let (mut log, _) = Log::open(disk).map_err(io::Error::other)?;
    log.begin_anew(names.map(|(number, registration)| {
        let addresses = Addresses {
            v4: Some(address(number)),
            v6: Some(address6(number)),
        };
        let own = Own {
            addresses,
            ..Own::default()
        };
        Record {
            registration,
            held: Held { own, version: 1 },
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_zone_has_every_name_with_both_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zone");
        write_zone(&path, 300).unwrap();
        let zone = fs::read_to_string(path).unwrap();
        assert!(zone.contains("\nh0000299 IN A 198.51.1.43\nh0000299 IN AAAA 2001:db8::12b\n"));
        assert_eq!(zone.lines().count(), 5 + 2 * 300);
        assert_eq!(address6(999_999).to_string(), "2001:db8::f:423f");
    }

    #[tokio::test]
    async fn the_state_has_every_name_with_its_addresses_and_the_key() {
        let progress = Progress::new();
        let million = Million::make(3, true, &progress).await.unwrap();
        let database = million.state().join(DATABASE);
        let store = Store::open_existing(&database).await.unwrap();
        let devices = store.devices().await.unwrap();
        assert_eq!(devices.len(), 3);
        let disk = DirectoryDisk::open(&million.state()).unwrap();
        let (_, recovered) = Log::open(disk).unwrap();
        let kept = recovered.held_by_registration;
        for (number, device) in (0..).zip(devices) {
            assert_eq!(device.name.as_str(), label(number));
            let own = &kept[&device.registration].own;
            assert_eq!(own.addresses.v4, Some(address(number)));
            assert_eq!(device.ddns_key, Some(million.key.hash()));
        }
    }
}
