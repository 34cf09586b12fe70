//! The ACME challenges of a device (RFC 8555 section 8.4): what a CA looks for in TXT records at `_acme-challenge`, in front
//! of the device's name or of one below it.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use directory::{DeviceName, Place, Zone};

use crate::protocol::{MAX_LABEL, MAX_NAME};

/// The label at which a CA looks, in lower case.
pub const CHALLENGE_LABEL: &[u8] = b"_acme-challenge";
/// The most values at one name. Every certificate that is being ordered needs one for each of its names, and a name and its
/// wildcard share theirs; what exceeds it has been left behind by clients that do not tidy up.
pub const MAX_VALUES: usize = 8;
/// The most names of one device that have challenges at a time.
pub const MAX_HOSTS: usize = 16;

/// The challenges of one device. There is no name without a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenges(BTreeMap<ChallengeHost, Vec<ChallengeValue>>);

impl Challenges {
    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values at a name, oldest first.
    pub fn at(&self, host: &ChallengeHost) -> &[ChallengeValue] {
        self.0.get(host).map_or(&[], Vec::as_slice)
    }

    /// Every name that has some, with its values.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ChallengeHost, &[ChallengeValue])> {
        self.0
            .iter()
            .map(|(host, values)| (host, values.as_slice()))
    }

    /// Adds a value, if it is not there. One too many pushes out the oldest.
    ///
    /// # Errors
    /// If so many other names have challenges already.
    pub fn add(
        &mut self,
        host: &ChallengeHost,
        value: &ChallengeValue,
    ) -> Result<(), TooManyHosts> {
        if !self.0.contains_key(host) && self.0.len() == MAX_HOSTS {
            return Err(TooManyHosts);
        }
        let values = self.0.entry(host.clone()).or_default();
        if values.contains(value) {
            return Ok(());
        }
        if values.len() == MAX_VALUES {
            values.remove(0);
        }
        values.push(value.clone());
        Ok(())
    }

    /// Takes a value away, if it is there.
    pub fn remove(&mut self, host: &ChallengeHost, value: &ChallengeValue) {
        if let Some(values) = self.0.get_mut(host) {
            values.retain(|there| there != value);
            if values.is_empty() {
                self.0.remove(host);
            }
        }
    }

    /// Takes all values at a name away.
    pub fn clear(&mut self, host: &ChallengeHost) {
        self.0.remove(host);
    }
}

/// More names of one device have challenges than [`MAX_HOSTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_HOSTS} names of the device have challenges already")]
pub struct TooManyHosts;

/// What stands between `_acme-challenge` and the device's own label: labels on the wire in lower case, without a closing
/// zero. Empty for the device itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChallengeHost(Box<[u8]>);

impl ChallengeHost {
    /// The device itself.
    pub fn device() -> Self {
        Self::default()
    }

    /// Takes whole labels; upper case becomes lower case. `None` if they are no labels.
    pub fn from_wire(labels: &[u8]) -> Option<Self> {
        let mut rest = labels;
        while let Some((&length, behind)) = rest.split_first() {
            let length = usize::from(length);
            if length == 0 || length > MAX_LABEL {
                return None;
            }
            rest = behind.get(length..)?;
        }
        (labels.len() < MAX_NAME).then(|| Self(labels.to_ascii_lowercase().into()))
    }

    /// Reads labels with dots between them, in any case; nothing is the device itself. `None` if they are no labels of letters,
    /// digits, hyphens and underscores.
    pub fn parse(text: &str) -> Option<Self> {
        let mut labels = Vec::new();
        for label in text.split('.').filter(|_| !text.is_empty()) {
            let is_label =
                |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
            if !label.bytes().all(is_label) {
                return None;
            }
            labels.push(u8::try_from(label.len()).ok()?);
            labels.extend_from_slice(label.as_bytes());
        }
        Self::from_wire(&labels)
    }

    /// The device and the host that a challenge at `name` is for: `_acme-challenge.photos.mynas.nas.example.com`, in any case and
    /// with or without its trailing dot. `None` if no device can have a challenge there; whether the device exists is not asked.
    pub fn locate(name: &str, zone: &Zone) -> Option<(DeviceName, Self)> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let (first, host) = name.split_once('.')?;
        let Place::Device(device) = zone.locate(host) else {
            return None;
        };
        if first.as_bytes() != CHALLENGE_LABEL {
            return None;
        }
        let below = host.strip_suffix(&zone.name_of(&device))?;
        let host = Self::parse(below.strip_suffix('.').unwrap_or(below))?;
        Some((device, host))
    }

    /// The labels.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }
}

/// With dots between the labels.
impl fmt::Display for ChallengeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.as_wire();
        while let Some((&length, behind)) = rest.split_first() {
            let (label, behind) = behind.split_at(usize::from(length).min(behind.len()));
            write!(f, "{}", label.escape_ascii())?;
            if !behind.is_empty() {
                f.write_char('.')?;
            }
            rest = behind;
        }
        Ok(())
    }
}

/// The host under which the TXT records at `below` (labels in front of a device's own, in lower case) are kept: what stands behind
/// `_acme-challenge`. `None` if that is not the first label.
pub(crate) fn challenge_host(below: &[u8]) -> Option<&[u8]> {
    let (&length, behind) = below.split_first()?;
    let (label, host) = behind.split_at_checked(length.into())?;
    (label == CHALLENGE_LABEL).then_some(host)
}

/// The value of one TXT record: one string of 1 to 255 octets (RFC 1035 section 3.3). A CA looks for 43 characters of base64url.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeValue(Box<[u8]>);

impl ChallengeValue {
    /// `None` if it is empty or longer than a string can be.
    pub fn new(octets: &[u8]) -> Option<Self> {
        let is_string = (1..=usize::from(u8::MAX)).contains(&octets.len());
        is_string.then(|| Self(octets.into()))
    }

    /// The string.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What an update asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChallengeChange {
    /// See [`Challenges::add`].
    Add(ChallengeHost, ChallengeValue),
    /// See [`Challenges::remove`].
    Remove(ChallengeHost, ChallengeValue),
    /// See [`Challenges::clear`].
    Clear(ChallengeHost),
}

impl ChallengeChange {
    /// Makes it.
    ///
    /// # Errors
    /// If there would be too many; nothing has changed then.
    pub fn apply(&self, challenges: &mut Challenges) -> Result<(), TooManyHosts> {
        match self {
            Self::Add(host, value) => return challenges.add(host, value),
            Self::Remove(host, value) => challenges.remove(host, value),
            Self::Clear(host) => challenges.clear(host),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(labels: &[u8]) -> ChallengeHost {
        ChallengeHost::from_wire(labels).unwrap()
    }

    fn value(number: usize) -> ChallengeValue {
        ChallengeValue::new(number.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn one_too_many_pushes_out_the_oldest() {
        let mut challenges = Challenges::default();
        for number in 0..=MAX_VALUES {
            challenges
                .add(&ChallengeHost::device(), &value(number))
                .unwrap();
            challenges
                .add(&ChallengeHost::device(), &value(number))
                .unwrap();
        }
        let values = challenges.at(&ChallengeHost::device());
        assert_eq!(values.len(), MAX_VALUES);
        assert_eq!((&values[0], &values[7]), (&value(1), &value(8)));
    }

    #[test]
    fn a_name_without_values_is_gone_and_makes_room() {
        let mut challenges = Challenges::default();
        let hosts: Vec<_> = (0..=MAX_HOSTS as u8)
            .map(|at| host(&[1, b'a' + at]))
            .collect();
        for host in &hosts[..MAX_HOSTS] {
            challenges.add(host, &value(1)).unwrap();
        }
        assert_eq!(
            challenges.add(&hosts[MAX_HOSTS], &value(1)),
            Err(TooManyHosts)
        );
        challenges.add(&hosts[0], &value(2)).unwrap();
        challenges.clear(&hosts[0]);
        challenges.remove(&hosts[1], &value(2));
        challenges.remove(&hosts[1], &value(1));
        assert_eq!(challenges.iter().len(), MAX_HOSTS - 2);
        assert_eq!(challenges.add(&hosts[MAX_HOSTS], &value(1)), Ok(()));
    }

    #[test]
    fn a_host_is_made_of_labels() {
        assert_eq!(host(b"\x06PHOTOS").as_wire(), b"\x06photos");
        assert_eq!(host(b"").as_wire(), b"");
        for bad in [&b"\x00"[..], b"\x02a", b"\x01a\x00", b"\x40", b"\xC0\x0C"] {
            assert_eq!(ChallengeHost::from_wire(bad), None);
        }
        let long = [&[63; 64][..], &[63; 64], &[63; 64], &[63; 64]].concat();
        assert_eq!(ChallengeHost::from_wire(&long), None, "longer than a name");
    }

    #[test]
    fn a_host_is_read_as_it_is_shown() {
        for text in ["", "photos", "a.b-c.d_e"] {
            let host = ChallengeHost::parse(text).unwrap();
            assert_eq!(host.to_string(), text);
        }
        assert_eq!(ChallengeHost::parse("A.b"), ChallengeHost::parse("a.B"));
        let long = "a".repeat(64);
        for bad in [".", "a.", ".a", "a..b", "a b", "*", "\u{e4}", &long] {
            assert_eq!(ChallengeHost::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_challenge_belongs_to_the_device_below_which_it_stands() {
        let zone = Zone::parse("nas.test").unwrap();
        let locate = |name: &str| {
            let (device, host) = ChallengeHost::locate(name, &zone)?;
            Some((device.to_string(), host.to_string()))
        };
        let at = |host: &str| Some(("mynas".to_owned(), host.to_owned()));
        assert_eq!(locate("_acme-challenge.mynas.nas.test"), at(""));
        assert_eq!(locate("_ACME-challenge.MyNas.nas.TEST."), at(""));
        assert_eq!(locate("_acme-challenge.a.b.mynas.nas.test."), at("a.b"));
        for nobodys in [
            "",
            "_acme-challenge",
            "mynas.nas.test",
            "_acme-challenge.nas.test",
            "_acme-challenge.cloud.nas.test",
            "_acme-challenge.mynas.other.test",
            "_acme-challenge.a b.mynas.nas.test",
            "_acme-challenge.*.mynas.nas.test",
            "_acme-challenge.mynas.nas.test..",
            "photos._acme-challenge.mynas.nas.test",
        ] {
            assert_eq!(locate(nobodys), None, "{nobodys}");
        }
    }

    #[test]
    fn only_the_first_label_makes_a_challenge() {
        assert_eq!(challenge_host(b"\x0f_acme-challenge"), Some(&b""[..]));
        assert_eq!(
            challenge_host(b"\x0f_acme-challenge\x01a"),
            Some(&b"\x01a"[..])
        );
        assert_eq!(challenge_host(b"\x01a\x0f_acme-challenge"), None);
        assert_eq!(challenge_host(b""), None);
        assert_eq!(challenge_host(b"\x0f_acme"), None);
    }
}
