//! Names under the operator's zone. What is lower-case and valid is decided here and nowhere else; what may be given to a
//! new holder, in `giving`.

use std::fmt;

/// The operator's zone, such as `nas.example.com`: lower-case, without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Zone(Box<str>);

impl Zone {
    /// Leaves room below the zone for a device label and a service label of 63 octets each (RFC 1035 section 2.3.4).
    const MAX_LENGTH: usize = 253 - 2 * (DeviceName::MAX_LENGTH + 1);

    /// Reads a zone in any case, with or without its trailing dot.
    ///
    /// # Errors
    /// If a label is empty, too long or not letters, digits and inner hyphens, or the whole leaves no room for devices.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = normalised(text);
        if text.len() > Self::MAX_LENGTH {
            return Err(NameError::TooLong {
                max: Self::MAX_LENGTH,
            });
        }
        for label in text.split('.') {
            check_label(label)?;
        }
        Ok(Self(text.into()))
    }

    /// The zone's own name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full name of `device`: `mynas.nas.example.com`.
    pub fn name_of(&self, device: &DeviceName) -> String {
        format!("{device}.{self}")
    }

    /// The full name of one of the operator's own hosts: `cloud.nas.example.com`.
    pub fn operator_name(&self, name: OperatorName) -> String {
        format!("{}.{self}", name.label())
    }

    /// The full name of the relay `name`, which has a process of its own: `eu1.relay.nas.example.com`.
    pub fn relay_name(&self, name: &RelayName) -> String {
        format!("{name}.{}", self.operator_name(OperatorName::Relay))
    }

    /// Says whose `host` is. Takes any case and one trailing dot; takes no port.
    pub fn locate(&self, host: &str) -> Place {
        let host = normalised(host);
        let Some(rest) = host.strip_suffix(&*self.0) else {
            return Place::Outside;
        };
        if rest.is_empty() {
            return Place::Apex;
        }
        let Some(below) = rest.strip_suffix('.') else {
            return Place::Outside; // "notnas.localhost" ends with the zone's letters only
        };
        let (services, label) = last_label(below);
        if services.is_some_and(|services| !are_service_labels(services)) {
            return Place::Nobody;
        }
        if let Some(operator) = OperatorName::from_label(label) {
            return match services {
                None => Place::Operator(operator),
                Some(name) if operator == OperatorName::Relay => {
                    RelayName::parse(name).map_or(Place::Nobody, Place::Relay)
                }
                Some(_) => Place::Nobody,
            };
        }
        match DeviceName::parse(label) {
            Ok(name) => Place::Device(name),
            Err(_) => Place::Nobody,
        }
    }

    /// What stands before the name of `device` in `host`, in lower case: `photos` of `photos.mynas.nas.example.com`, and nothing of
    /// the device's own name. `None` if `host` is no host of this device, as [`locate`](Self::locate) says.
    pub fn below(&self, device: &DeviceName, host: &str) -> Option<String> {
        let mut host = normalised(host);
        let below = host.strip_suffix(&*self.0)?.strip_suffix('.')?;
        let (services, label) = last_label(below);
        if label != device.as_str()
            || services.is_some_and(|services| !are_service_labels(services))
        {
            return None;
        }
        let length = services.map_or(0, str::len);
        host.truncate(length);
        Some(host)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose a host name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The zone itself.
    Apex,
    /// One of the operator's own hosts.
    Operator(OperatorName),
    /// A relay with a process of its own. Whether there is such a one is control's to say.
    Relay(RelayName),
    /// A device's name, or a service's name below it. Whether the device exists is the Directory's to say.
    Device(DeviceName),
    /// In the zone, but no device can have it.
    Nobody,
    /// Not in this zone.
    Outside,
}

/// The operator's own hosts, which end in the server process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperatorName {
    /// The API, the pages and the DDNS door.
    Cloud,
    /// Where agents bring their tunnels.
    Relay,
}

impl OperatorName {
    /// Every operator name, for certificates and zone contents.
    pub const ALL: [Self; 2] = [Self::Cloud, Self::Relay];

    /// The DNS label under the zone.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::Relay => "relay",
        }
    }

    fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.label() == label)
    }
}

/// What the operator calls a relay that has a process of its own, such as `eu1`: a label, lower-case and valid by
/// construction.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayName(Box<str>);

impl RelayName {
    /// Reads a label in any case.
    ///
    /// # Errors
    /// If it is empty, too long, or not letters, digits and inner hyphens.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Ok(Self(read_label(text)?.into()))
    }

    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayName({self})")
    }
}

/// A device's DNS label: lower-case, valid and not one of the operator's hosts, by construction.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceName(Box<str>);

impl DeviceName {
    /// RFC 1035 section 2.3.4.
    pub const MAX_LENGTH: usize = 63;

    /// Reads a label in any case.
    ///
    /// # Errors
    /// If it is empty, too long, not letters, digits and inner hyphens, in Punycode form, or the
    /// operator's.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let label = read_label(text)?;
        // "xn--" would show look-alike letters; other uses of "??--" are reserved by RFC 5891 section 4.2.3.1.
        if label.get(2..4) == Some("--") {
            return Err(NameError::Punycode);
        }
        let name_server = label
            .strip_prefix("ns")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        let operator = OperatorName::from_label(&label).is_some();
        if operator || name_server {
            return Err(NameError::Reserved);
        }
        Ok(Self(label.into()))
    }

    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name from the octets of a `DeviceName`.
    pub(crate) fn from_kept(octets: &[u8]) -> Self {
        Self(str::from_utf8(octets).unwrap_or_default().into()) // they are ASCII
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceName({self})")
    }
}

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing between two dots, or nothing at all.
    #[error("a name needs at least one letter or digit")]
    Empty,
    /// Longer than the DNS or this product allows.
    #[error("a name has at most {max} characters here")]
    TooLong {
        /// The limit, in octets.
        max: usize,
    },
    /// Something other than a letter, a digit or a hyphen.
    #[error("a name has only the letters a to z, digits and hyphens, not {0:?}")]
    BadCharacter(char),
    /// RFC 1123 section 2.1.
    #[error("a name neither begins nor ends with a hyphen")]
    HyphenAtEdge,
    /// A label with hyphens in third and fourth place.
    #[error("a name has no two hyphens in third and fourth place")]
    Punycode,
    /// One of the operator's own hosts.
    #[error("this name is reserved for the operator's own hosts; choose another")]
    Reserved,
}

/// The host of `host[:port]`, as requests name where they go.
pub fn host_of(authority: &str) -> &str {
    authority
        .rsplit_once(':')
        .map_or(authority, |(host, _port)| host)
}

/// Reads one label in any case, and gives it in lower case: what a service is called below its device's name.
///
/// # Errors
/// If it is empty, too long, or not letters, digits and inner hyphens.
pub fn read_label(text: &str) -> Result<String, NameError> {
    let label = text.to_ascii_lowercase();
    check_label(&label)?;
    Ok(label)
}

fn normalised(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn check_label(label: &str) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::Empty);
    }
    if label.len() > DeviceName::MAX_LENGTH {
        return Err(NameError::TooLong {
            max: DeviceName::MAX_LENGTH,
        });
    }
    if let Some(bad) = label
        .chars()
        .find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'))
    {
        return Err(NameError::BadCharacter(bad));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(NameError::HyphenAtEdge);
    }
    Ok(())
}

/// The last label of a name, and what stands before it.
fn last_label(name: &str) -> (Option<&str>, &str) {
    match name.rsplit_once('.') {
        Some((before, label)) => (Some(before), label),
        None => (None, name),
    }
}

fn are_service_labels(labels: &str) -> bool {
    labels.split('.').all(is_service_label)
}

/// Below a device its owner may also use underscores (`_acme-challenge`, `_dmarc`).
fn is_service_label(label: &str) -> bool {
    (1..=DeviceName::MAX_LENGTH).contains(&label.len())
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone() -> Zone {
        Zone::parse("nas.localhost").unwrap()
    }

    fn device(name: &str) -> Place {
        Place::Device(DeviceName::parse(name).unwrap())
    }

    #[test]
    fn a_host_belongs_to_the_device_whose_label_stands_before_the_zone() {
        assert_eq!(zone().locate("mynas.nas.localhost"), device("mynas"));
        assert_eq!(zone().locate("MyNAS.Nas.LocalHost."), device("mynas"));
        assert_eq!(zone().locate("photos.mynas.nas.localhost"), device("mynas"));
        assert_eq!(
            zone().locate("_acme-challenge.a.mynas.nas.localhost"),
            device("mynas")
        );
    }

    #[test]
    fn what_stands_below_a_device_is_told_in_lower_case() {
        let mynas = DeviceName::parse("mynas").unwrap();
        let below = |host: &str| zone().below(&mynas, host);
        assert_eq!(below("mynas.nas.localhost").as_deref(), Some(""));
        assert_eq!(
            below("Photos.MyNAS.nas.localhost.").as_deref(),
            Some("photos")
        );
        assert_eq!(below("_a.b.mynas.nas.localhost").as_deref(), Some("_a.b"));
        for other in [
            "",
            "nas.localhost",
            "other.nas.localhost",
            "mynas.other.nas.localhost",
            "notmynas.nas.localhost",
            ".mynas.nas.localhost",
            "a b.mynas.nas.localhost",
            "mynas.nas.example",
        ] {
            assert_eq!(below(other), None, "{other}");
        }
    }

    #[test]
    fn the_operators_hosts_are_nobodys_device() {
        assert_eq!(
            zone().locate("cloud.nas.localhost"),
            Place::Operator(OperatorName::Cloud)
        );
        assert_eq!(
            zone().locate("RELAY.nas.localhost"),
            Place::Operator(OperatorName::Relay)
        );
        assert_eq!(zone().locate("x.cloud.nas.localhost"), Place::Nobody);
        let relay = RelayName::parse("EU1").unwrap();
        assert_eq!(zone().relay_name(&relay), "eu1.relay.nas.localhost");
        assert_eq!(
            zone().locate("eu1.Relay.nas.localhost"),
            Place::Relay(relay)
        );
        for host in ["x.eu1.relay.nas.localhost", "_eu.relay.nas.localhost"] {
            assert_eq!(zone().locate(host), Place::Nobody, "{host}");
        }
        assert_eq!(zone().locate("nas.localhost"), Place::Apex);
    }

    #[test]
    fn what_only_looks_like_the_zone_is_outside() {
        for host in [
            "",
            ".",
            "localhost",
            "notnas.localhost",
            "nas.localhost.evil",
            "mynas.nas.localhost..",
        ] {
            assert_eq!(zone().locate(host), Place::Outside, "{host}");
        }
        for host in [
            ".nas.localhost",
            "a..nas.localhost",
            "..nas.localhost",
            "a b.nas.localhost",
            "é.nas.localhost",
        ] {
            assert_eq!(zone().locate(host), Place::Nobody, "{host}");
        }
    }

    #[test]
    fn device_names_are_plain_labels() {
        assert_eq!(DeviceName::parse("MyNAS-2").unwrap().as_str(), "mynas-2");
        assert!(DeviceName::parse(&"a".repeat(63)).is_ok());
        let refused = [
            ("", NameError::Empty),
            (&"a".repeat(64), NameError::TooLong { max: 63 }),
            ("a.b", NameError::BadCharacter('.')),
            ("a_b", NameError::BadCharacter('_')),
            ("née", NameError::BadCharacter('é')),
            ("-a", NameError::HyphenAtEdge),
            ("a-", NameError::HyphenAtEdge),
            ("xn--abc", NameError::Punycode),
            ("cloud", NameError::Reserved),
            ("RELAY", NameError::Reserved),
            ("ns", NameError::Reserved),
            ("ns12", NameError::Reserved),
        ];
        for (text, error) in refused {
            assert_eq!(DeviceName::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_zone_leaves_room_for_its_devices() {
        assert_eq!(
            Zone::parse("Nas.Example.COM.").unwrap().as_str(),
            "nas.example.com"
        );
        assert_eq!(
            Zone::parse(&"abcdefg.".repeat(16)),
            Err(NameError::TooLong { max: 125 })
        );
        for bad in ["", ".", "a..b", "*.a", "a b"] {
            assert!(Zone::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_place_and_full_names_come_back(text in "\\PC{0,80}", label in "[a-z][a-z0-9]{0,20}") {
            let zone = zone();
            zone.locate(&text);
            if let Ok(name) = DeviceName::parse(&label) {
                let host = format!("{text}.{label}.{zone}");
                let is_below = zone.locate(&host) == Place::Device(name.clone());
                prop_assert_eq!(zone.below(&name, &host).is_some(), is_below);
                prop_assert_eq!(zone.locate(&zone.name_of(&name).to_uppercase()), Place::Device(name));
            }
        }
    }
}
