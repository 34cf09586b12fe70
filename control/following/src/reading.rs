//! What a line of control may say, and when: lines go in, what is to be done comes out. Knows no socket, no clock and no disk; the
//! last good snapshot is read from the disk by the same rules.

use std::collections::HashSet;

use directory::DeviceName;

use crate::message::{Checksum, Facts, FollowedDevice, Known, Token16, Told};

/// Why what control says is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No line of ours, or with fields that nobody knows.
    #[error("a line cannot be understood")]
    Malformed,
    /// Something that must not come now.
    #[error("a line comes at the wrong time")]
    Order,
    /// What is told as new is older than what is known.
    #[error("a version does not follow that before it")]
    Version,
    /// A device that cannot be.
    #[error("a device makes no sense")]
    Device,
    /// Two devices of one name.
    #[error("a snapshot holds a name twice")]
    Twice,
    /// Fewer or more than were announced.
    #[error("a snapshot holds another number of devices than it says")]
    Count,
    /// Not what control has sent.
    #[error("a snapshot's digest is wrong")]
    Digest,
    /// Nothing, where something is known.
    #[error("a snapshot is empty, and devices are known")]
    Empty,
    /// Most known devices are missing.
    #[error("a snapshot lacks most of the devices that are known")]
    Loss,
    /// Far more than are known.
    #[error("a snapshot has more than ten times as many devices as are known")]
    Growth,
    /// Too many changes that remove.
    #[error("too many devices are removed within ten minutes")]
    Removals,
}

impl Refusal {
    /// Each, for the metrics.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Order,
        Self::Version,
        Self::Device,
        Self::Twice,
        Self::Count,
        Self::Digest,
        Self::Empty,
        Self::Loss,
        Self::Growth,
        Self::Removals,
    ];

    /// The label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Order => "order",
            Self::Version => "version",
            Self::Device => "device",
            Self::Twice => "twice",
            Self::Count => "count",
            Self::Digest => "digest",
            Self::Empty => "empty",
            Self::Loss => "loss",
            Self::Growth => "growth",
            Self::Removals => "removals",
        }
    }

    /// Whether a person who means it can have it taken all the same.
    pub fn can_be_accepted(self) -> bool {
        matches!(
            self,
            Self::Empty | Self::Loss | Self::Growth | Self::Removals
        )
    }
}

/// What a line asks for.
#[derive(Debug)]
pub enum Step {
    /// Nothing yet, or nothing at all.
    Nothing,
    /// Reports may begin.
    Welcome(Token16),
    /// All that is to be known.
    Snapshot(Box<Snapshot>),
    Put(Box<Facts>, Known),
    Removed(DeviceName, Known),
    /// Nothing is new up to here.
    UpTo(Known),
}

/// A snapshot that is complete and sound. Its devices are kept as their lines: they take the least room so.
#[derive(Debug)]
pub struct Snapshot {
    pub known: Known,
    pub names: HashSet<DeviceName>,
    lines: Vec<u8>,
}

impl Snapshot {
    /// Its devices, in the order they came.
    pub fn devices(&self) -> impl Iterator<Item = Facts> {
        self.lines
            .split(|octet| *octet == b'\n')
            .filter_map(|line| match serde_json::from_slice(line) {
                Ok(Told::Device(device)) => device.read(),
                Ok(_) | Err(_) => None, // none but good ones were taken
            })
    }
}

/// A snapshot as far as it has come.
#[derive(Debug)]
struct Coming {
    snapshot: Snapshot,
    checksum: Checksum,
}

/// What has been said on one connection.
#[derive(Debug)]
pub struct Reading {
    welcomed: bool,
    known: Option<Known>,
    most_devices: u64,
    coming: Option<Box<Coming>>,
}

impl Reading {
    /// Of control, which has been told what is `known`. A snapshot of more than `most_devices` is not read.
    pub fn of_control(known: Option<Known>, most_devices: u64) -> Self {
        Self {
            welcomed: false,
            known,
            most_devices,
            coming: None,
        }
    }

    /// Of the disk, where nothing but a snapshot stands.
    pub fn of_disk() -> Self {
        Self {
            welcomed: true,
            ..Self::of_control(None, u64::MAX)
        }
    }

    /// Takes the next line, without its end.
    pub fn take(&mut self, line: &[u8]) -> Result<Step, Refusal> {
        let told = serde_json::from_slice(line).map_err(|_| Refusal::Malformed)?;
        match (told, self.welcomed) {
            (Told::Welcome { session }, false) => {
                self.welcomed = true;
                Ok(Step::Welcome(session))
            }
            (Told::Welcome { .. }, true) | (_, false) => Err(Refusal::Order),
            (
                Told::Snapshot {
                    epoch,
                    version,
                    devices,
                },
                true,
            ) => self.begin(Known { epoch, version }, devices),
            (Told::Device(device), true) => self.device(&device, line),
            (Told::Complete { devices, digest }, true) => self.complete(devices, &digest),
            (Told::Put { version, device }, true) => {
                let known = self.follows(version)?;
                let facts = device.read().ok_or(Refusal::Device)?;
                Ok(Step::Put(Box::new(facts), known))
            }
            (Told::Removed { version, name }, true) => {
                let known = self.follows(version)?;
                let name = DeviceName::parse(&name).map_err(|_| Refusal::Device)?;
                Ok(Step::Removed(name, known))
            }
            (Told::Beat { version }, true) => self.beat(version),
        }
    }

    fn begin(&mut self, begun: Known, devices: u64) -> Result<Step, Refusal> {
        if self.coming.is_some() {
            return Err(Refusal::Order);
        }
        let is_older = |known: Known| known.epoch == begun.epoch && begun.version < known.version;
        if self.known.is_some_and(is_older) {
            return Err(Refusal::Version);
        }
        if devices > self.most_devices {
            return Err(Refusal::Growth);
        }
        self.coming = Some(Box::new(Coming {
            snapshot: Snapshot {
                known: begun,
                names: HashSet::new(),
                lines: Vec::new(),
            },
            checksum: Checksum::default(),
        }));
        Ok(Step::Nothing)
    }

    fn device(&mut self, device: &FollowedDevice, line: &[u8]) -> Result<Step, Refusal> {
        let coming = self.coming.as_mut().ok_or(Refusal::Order)?;
        let Facts { device, .. } = device.read().ok_or(Refusal::Device)?;
        if coming.snapshot.names.len() as u64 >= self.most_devices {
            return Err(Refusal::Growth);
        }
        if !coming.snapshot.names.insert(device.name) {
            return Err(Refusal::Twice);
        }
        coming.checksum.take(line);
        coming.snapshot.lines.extend_from_slice(line);
        coming.snapshot.lines.push(b'\n');
        Ok(Step::Nothing)
    }

    fn complete(&mut self, devices: u64, digest: &str) -> Result<Step, Refusal> {
        let Coming { snapshot, checksum } = *self.coming.take().ok_or(Refusal::Order)?;
        if snapshot.names.len() as u64 != devices {
            return Err(Refusal::Count);
        }
        if checksum.finish() != digest {
            return Err(Refusal::Digest);
        }
        self.known = Some(snapshot.known);
        Ok(Step::Snapshot(Box::new(snapshot)))
    }

    /// A change must be newer than everything before it.
    fn follows(&mut self, version: u64) -> Result<Known, Refusal> {
        let (Some(known), None) = (&mut self.known, &self.coming) else {
            return Err(Refusal::Order);
        };
        if version <= known.version {
            return Err(Refusal::Version);
        }
        known.version = version;
        Ok(*known)
    }

    fn beat(&mut self, version: u64) -> Result<Step, Refusal> {
        match (&mut self.known, &self.coming) {
            (_, Some(_)) | (None, None) => Ok(Step::Nothing),
            (Some(known), None) if version < known.version => Err(Refusal::Version),
            (Some(known), None) => {
                known.version = version;
                Ok(Step::UpTo(*known))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = "00112233445566778899aabbccddeeff";
    const WELCOME: &str = r#"{"welcome":{"session":"00112233445566778899aabbccddeeff"}}"#;

    fn begin(version: u64, devices: usize) -> String {
        format!(r#"{{"snapshot":{{"epoch":"{EPOCH}","version":{version},"devices":{devices}}}}}"#)
    }

    fn device(name: &str) -> String {
        format!(r#"{{"device":{{"name":"{name}","registration":1}}}}"#)
    }

    fn complete(names: &[&str]) -> String {
        let mut checksum = Checksum::default();
        for name in names {
            checksum.take(device(name).as_bytes());
        }
        let devices = names.len();
        format!(
            r#"{{"complete":{{"devices":{devices},"digest":"{}"}}}}"#,
            checksum.finish()
        )
    }

    /// What comes of the last of these lines.
    fn last(lines: &[String]) -> Result<Step, Refusal> {
        let mut reading = Reading::of_control(None, 3);
        let mut step = Ok(Step::Nothing);
        for (at, line) in lines.iter().enumerate() {
            step = reading.take(line.as_bytes());
            assert!(step.is_ok() || at + 1 == lines.len(), "{line}: {step:?}");
        }
        step
    }

    #[test]
    fn a_snapshot_is_complete_when_its_count_and_its_digest_say_so() {
        let lines = [
            WELCOME.to_owned(),
            begin(7, 2),
            device("a"),
            device("b"),
            complete(&["a", "b"]),
        ];
        let Ok(Step::Snapshot(snapshot)) = last(&lines) else {
            panic!("no snapshot");
        };
        assert_eq!(snapshot.known.version, 7);
        let names = snapshot
            .devices()
            .map(|facts| facts.device.name.to_string());
        assert_eq!(names.collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_reason() {
        let welcome = || WELCOME.to_owned();
        let whole = || vec![welcome(), begin(7, 1), device("a"), complete(&["a"])];
        let after = |line: &str| [whole(), vec![line.to_owned()]].concat();
        let put = |version| {
            format!(r#"{{"put":{{"version":{version},"device":{{"name":"b","registration":2}}}}}}"#)
        };
        for (lines, refusal) in [
            (vec!["{".to_owned()], Refusal::Malformed),
            (vec![begin(1, 1)], Refusal::Order),
            (vec![welcome(), welcome()], Refusal::Order),
            (vec![welcome(), device("a")], Refusal::Order),
            (vec![welcome(), complete(&[])], Refusal::Order),
            (vec![welcome(), put(1)], Refusal::Order),
            (vec![welcome(), begin(1, 2), begin(1, 2)], Refusal::Order),
            (vec![welcome(), begin(1, 2), put(2)], Refusal::Order),
            (vec![welcome(), begin(1, 4)], Refusal::Growth),
            (vec![welcome(), begin(1, 1), device("a.b")], Refusal::Device),
            (
                vec![welcome(), begin(1, 2), device("a"), device("A")],
                Refusal::Twice,
            ),
            (
                vec![
                    welcome(),
                    begin(1, 1),
                    device("a"),
                    device("b"),
                    device("c"),
                    device("d"),
                ],
                Refusal::Growth,
            ),
            (
                vec![welcome(), begin(1, 2), device("a"), complete(&["a", "b"])],
                Refusal::Count,
            ),
            (
                vec![welcome(), begin(1, 1), device("a"), complete(&["b"])],
                Refusal::Digest,
            ),
            (after(&put(7)), Refusal::Version),
            (after(&begin(6, 1)), Refusal::Version),
            (after(r#"{"beat":{"version":6}}"#), Refusal::Version),
            (after(&device("b")), Refusal::Order),
            (
                after(r#"{"beat":{"version":7,"more":1}}"#),
                Refusal::Malformed,
            ),
        ] {
            assert_eq!(last(&lines).err(), Some(refusal), "{lines:?}");
        }
        assert!(matches!(last(&after(&put(8))), Ok(Step::Put(..))));
        assert!(matches!(
            last(&after(r#"{"beat":{"version":7}}"#)),
            Ok(Step::UpTo(_))
        ));
    }
}
