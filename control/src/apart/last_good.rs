//! What was known last, on disk: the lines of a snapshot, as control says them. In force at a start before control is asked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use directory::Reader;
use following::{
    Checksum, Facts, FollowedDevice, Known, MAX_LINE, Reading, Refusal, Snapshot, Step, Told,
};

use crate::state::StateDirectory;

const FILE: &str = "last-good";

/// The file, and that beside it which becomes it.
#[derive(Clone, Debug)]
pub(super) struct LastGood {
    file: PathBuf,
    next: PathBuf,
    directory: PathBuf,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damaged {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Line(#[from] Refusal),
    #[error("it is not complete")]
    Torn,
}

impl LastGood {
    pub(super) fn in_state(state: &StateDirectory) -> Self {
        Self {
            file: state.file(FILE),
            next: state.file(&format!("{FILE}.new")),
            directory: state.path().to_owned(),
        }
    }

    /// What it holds; `None` if there is none.
    pub(super) fn read(&self) -> Result<Option<Snapshot>, Damaged> {
        let file = match File::open(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut file = BufReader::new(file);
        let mut reading = Reading::of_disk();
        let mut line = Vec::new();
        loop {
            line.clear();
            let most = MAX_LINE as u64 + 1;
            (&mut file).take(most).read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                return Err(Damaged::Torn);
            }
            match reading.take(&line)? {
                Step::Nothing => {}
                Step::Snapshot(snapshot) if file.fill_buf()?.is_empty() => {
                    return Ok(Some(*snapshot));
                }
                Step::Snapshot(_)
                | Step::Welcome(_)
                | Step::Put(..)
                | Step::Removed(..)
                | Step::UpTo(_) => return Err(Refusal::Order.into()),
            }
        }
    }

    /// Replaces it durably by what `directory` holds, which nobody changes meanwhile.
    pub(super) fn write(&self, known: Known, directory: &Reader) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.next)?;
        let mut file = BufWriter::new(file);
        let Known { epoch, version } = known;
        let devices = directory.len() as u64;
        let begin = Told::Snapshot {
            epoch,
            version,
            devices,
        };
        write_line(&mut file, &begin)?;
        let mut checksum = Checksum::default();
        let mut written = Ok(());
        directory.for_each(|device| {
            if written.is_ok() {
                let told = Told::Device(FollowedDevice::of(&Facts::of(device, directory)));
                written = write_line(&mut file, &told).map(|line| checksum.take(&line));
            }
        });
        written?;
        let digest = checksum.finish();
        write_line(&mut file, &Told::Complete { devices, digest })?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&self.next, &self.file)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Removes it, if there is one.
    pub(super) fn remove(&self) {
        for file in [&self.file, &self.next] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(%error, file = %file.display(), "it cannot be removed");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}

/// Writes a line, and gives it without its end.
fn write_line(file: &mut impl io::Write, told: &Told) -> io::Result<Vec<u8>> {
    let line = serde_json::to_vec(told)?;
    file.write_all(&line)?;
    file.write_all(b"\n")?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use directory::{Device, DeviceLimits, DeviceName, Identity, PublicKey, RegistrationId, Zone};

    use super::*;
    use following::Token16;

    const KNOWN: Known = Known {
        epoch: Token16([7; 16]),
        version: 42,
    };

    /// A state directory with two devices in its last good snapshot.
    fn kept() -> (tempfile::TempDir, LastGood) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path()).unwrap();
        let (mut writer, reader) = directory::directory(Zone::parse("nas.test").unwrap());
        for (name, octet) in [("a", 1), ("b", 2)] {
            writer.put(Device {
                registration: RegistrationId(octet.into()),
                name: DeviceName::parse(name).unwrap(),
                identity: Some(Identity::first(PublicKey::from_bytes([octet; 32]))),
                ddns_key: None,
                challenge_key: None,
            });
        }
        let limits = DeviceLimits {
            visitors: std::num::NonZeroU32::new(3),
            ..DeviceLimits::default()
        };
        let b = DeviceName::parse("b").unwrap();
        writer.limit(&b, limits);
        writer.set_ports(&b, ["20022/tcp".parse().unwrap()].into());
        let last_good = LastGood::in_state(&state);
        assert!(last_good.read().unwrap().is_none());
        last_good.write(KNOWN, &reader).unwrap();
        (folder, last_good)
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let (_folder, last_good) = kept();
        let snapshot = last_good.read().unwrap().unwrap();
        assert_eq!(snapshot.known, KNOWN);
        let mut devices: Vec<_> = snapshot.devices().collect();
        devices.sort_by(|a, b| a.device.name.cmp(&b.device.name));
        assert_eq!(devices.len(), 2);
        assert_eq!(devices[1].device.registration, RegistrationId(2));
        assert_eq!(devices[1].limits.visitors, std::num::NonZeroU32::new(3));
        assert_eq!(devices[1].ports, ["20022/tcp".parse().unwrap()].into());
        last_good.remove();
        assert!(last_good.read().unwrap().is_none());
    }

    #[test]
    fn torn_anywhere_it_is_no_snapshot() {
        let (_folder, last_good) = kept();
        let whole = fs::read(&last_good.file).unwrap();
        for length in 0..whole.len() {
            fs::write(&last_good.file, &whole[..length]).unwrap();
            assert!(last_good.read().is_err(), "{length}");
        }
    }

    #[test]
    fn with_one_octet_changed_it_is_no_snapshot() {
        let (_folder, last_good) = kept();
        let whole = fs::read_to_string(&last_good.file).unwrap();
        let changed = |from: &str, to: &str| {
            assert!(whole.contains(from), "{from} in {whole}");
            fs::write(&last_good.file, whole.replacen(from, to, 1)).unwrap();
            last_good.read().err().unwrap().to_string()
        };
        let digest = Refusal::Digest.to_string();
        assert_eq!(changed("\"registration\":1", "\"registration\":3"), digest);
        assert_eq!(
            changed("\"complete\":{\"devices\":2", "\"complete\":{\"devices\":3"),
            Refusal::Count.to_string()
        );
        fs::write(&last_good.file, whole.clone() + "more\n").unwrap();
        assert!(last_good.read().is_err());
    }
}
