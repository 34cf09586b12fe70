//! What the zone holds apart from its devices, compiled once at the start.
//!
//! ```text
//!  @             SOA, NS ns1, A/AAAA of the relay
//!  ns1           A/AAAA of this server
//!  cloud, relay  A/AAAA of the relay
//!  *.relay       relays with a process of their own, which come and go: see relays.rs
//!  …             the operator's own records
//! ```
//!
//! Where the operator sets an address record, no address of ours is added to that name.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use directory::{OperatorName, Place, Zone};

use crate::config::{Bounded, Config, DeviceRecord, Record, RecordData, RecordName};
use crate::dnssec::{DenialKind, NSEC3_PARAMETERS, TypeSet};
use crate::protocol::{MAX_NAME, POINTER_TO_QUESTION, Type};
use crate::rrset::{MAX_RRSET, Rrset, SoaTemplate};

/// The label of the name server's name.
pub const NAME_SERVER: &str = "ns1";
/// Seconds. The name server's name does not move.
const NS_TTL: u32 = 3600;
/// A character-string's most octets (RFC 1035 section 3.3).
const MAX_STRING: usize = 255;

/// The zone without its devices.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The zone's name on the wire, closing zero included.
    pub(crate) apex: Box<[u8]>,
    pub(crate) soa: SoaTemplate,
    /// By the octets of a name that stand before the apex.
    pub(crate) node_by_name: HashMap<Box<[u8]>, Node>,
    /// What every device has: the relay's addresses, unless it has its own or other relays hold it, and the operator's records
    /// for all.
    pub(crate) device: Node,
    /// The types of the operator's records for all devices.
    pub(crate) device_types: TypeSet,
    /// The addresses of the server's own relay alone.
    pub(crate) relay: Node,
    /// The TTL of addresses, in seconds.
    pub(crate) ttl: u32,
    /// Each device has a name that says why its own leads where it does.
    pub(crate) has_why: bool,
    /// What is not there is proved by the hashes of names.
    pub(crate) has_chain: bool,
}

/// Whether the configured records have a place in `zone`; what a configuration alone cannot say.
///
/// # Errors
/// The first record that has none, and why.
pub fn check(zone: &Zone, config: &Config) -> Result<(), RecordError> {
    Contents::new(zone, config, &[], &[]).map(drop)
}

impl Contents {
    /// Compiles the zone; `relay` and `nameserver` are as in [`Facts`](crate::Facts).
    ///
    /// # Errors
    /// The first record that has no place in the zone.
    pub fn new(
        zone: &Zone,
        config: &Config,
        relay: &[IpAddr],
        nameserver: &[IpAddr],
    ) -> Result<Self, RecordError> {
        let ttl = config.ttl_seconds.get();
        let mut node_by_name = operators_own(zone, &config.record, ttl)?;
        let relay = Node::of_addresses(relay, ttl)?;
        let nameserver = Node::of_addresses(nameserver, ttl)?;

        let mut put = |labels: &[&str], addresses: &Node| {
            let node: &mut Node = node_by_name.entry(octets(labels)).or_default();
            node.add_addresses(addresses);
        };
        put(&[], &relay);
        put(&[NAME_SERVER], &nameserver);
        for host in OperatorName::ALL {
            put(&[host.label()], &relay);
        }
        let every_devices = Node(every_devices(&config.device_record, ttl)?);
        let device_types = every_devices.types();
        let mut device = relay.clone();
        device.0.extend(every_devices.0);
        let apex = node_by_name.entry(octets(&[])).or_default();
        apex.0.extend(name_server().map(|set| (Type::NS, set)));
        let denial = config.dnssec.as_ref().map(|dnssec| dnssec.denial);
        let has_chain = denial == Some(DenialKind::Nsec3);
        if has_chain {
            // RFC 5155 section 4: for secondaries, which no cache is to hold back.
            let parameters = Rrset::compile(Type::NSEC3PARAM, 0, &[NSEC3_PARAMETERS]);
            apex.0.extend(parameters.map(|set| (Type::NSEC3PARAM, set)));
        }
        Ok(Self {
            apex: apex_of(zone),
            soa: SoaTemplate::new(config.negative_ttl_seconds.get()),
            node_by_name,
            device,
            device_types,
            relay,
            ttl,
            has_why: config.why,
            has_chain,
        })
    }
}

/// What there is at one name. Without any RRset it is an empty non-terminal (RFC 8499 section 7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node(Vec<(Type, Rrset)>);

impl Node {
    pub(crate) fn find(&self, qtype: Type) -> Option<&Rrset> {
        let (_, rrset) = self.0.iter().find(|(rtype, _)| *rtype == qtype)?;
        Some(rrset)
    }

    /// As many records as there are addresses.
    pub(crate) fn of_addresses(addresses: &[IpAddr], ttl: u32) -> Result<Self, RecordError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address.to_canonical() {
                IpAddr::V4(address) => v4.push(address.octets()),
                IpAddr::V6(address) => v6.push(address.octets()),
            }
        }
        let mut node = Self::default();
        let too_many = RecordError::TooManyAddresses;
        if !v4.is_empty() {
            let set = Rrset::compile(Type::A, ttl, &v4).ok_or(too_many.clone())?;
            node.0.push((Type::A, set));
        }
        if !v6.is_empty() {
            let set = Rrset::compile(Type::AAAA, ttl, &v6).ok_or(too_many)?;
            node.0.push((Type::AAAA, set));
        }
        Ok(node)
    }

    /// The types of its records.
    pub(crate) fn types(&self) -> TypeSet {
        let types = self.0.iter().map(|(rtype, _)| *rtype);
        types.fold(TypeSet::default(), TypeSet::with)
    }

    fn add_addresses(&mut self, addresses: &Self) {
        if !self.has_addresses() {
            self.0.extend(addresses.0.iter().cloned());
        }
    }

    pub(crate) fn has_addresses(&self) -> bool {
        self.find(Type::A).is_some() || self.find(Type::AAAA).is_some()
    }
}

/// A record of the configuration has no place in the zone. The operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A device may hold this name, now or later, or the one it stands below.
    #[error(
        "the record `{0}` stands where a device can be: take a reserved name (www, mail, status, static …) \
         or one that begins with an underscore"
    )]
    DevicesPlace(RecordName),
    /// Longer than 255 octets with the zone's name behind it (RFC 1035 section 3.1).
    #[error("the name of the record `{0}` is too long in this zone: shorten it")]
    NameTooLong(RecordName),
    /// Some cannot stand together.
    #[error("the records of one type at `{0}` {1}")]
    Set(RecordName, SetError),
    /// The same, of those that every device has.
    #[error("the records of one type for every device {0} (in [[ddns.device_record]])")]
    DeviceSet(SetError),
    /// The same, of addresses that no record has set.
    #[error("there are too many public addresses of the relay or the name server")]
    TooManyAddresses,
}

impl RecordError {
    /// The name of the record, if it is about one.
    pub fn name(&self) -> Option<&RecordName> {
        match self {
            Self::DevicesPlace(name) | Self::NameTooLong(name) | Self::Set(name, _) => Some(name),
            Self::DeviceSet(_) | Self::TooManyAddresses => None,
        }
    }
}

/// Why records of one type cannot stand at one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// RFC 2181 section 5.2.
    #[error("have different TTLs: give them the same")]
    DifferentTtls,
    /// RFC 2181 section 5.
    #[error("are there twice: remove one")]
    Twice,
    /// See [`MAX_RRSET`].
    #[error("have more than {MAX_RRSET} octets: make them fewer or shorter")]
    TooLarge,
}

/// Compiles the operator's own records, and the empty names above them (RFC 4592 section 2.2.2).
fn operators_own(
    zone: &Zone,
    records: &[Record],
    ttl: u32,
) -> Result<HashMap<Box<[u8]>, Node>, RecordError> {
    let mut records_by_place: BTreeMap<(&RecordName, Type), Vec<&Record>> = BTreeMap::new();
    for record in records {
        let place = (&record.name, record.data.rtype());
        records_by_place.entry(place).or_default().push(record);
    }
    let mut node_by_name: HashMap<_, Node> = HashMap::new();
    for ((name, rtype), records) in records_by_place {
        check_place(name, zone)?;
        let labels: Vec<_> = name.labels().collect();
        for above in 1..labels.len() {
            node_by_name.entry(octets(&labels[above..])).or_default();
        }
        let node = node_by_name.entry(octets(&labels)).or_default();
        let records = records
            .iter()
            .map(|record| (&record.data, record.ttl_seconds));
        let set = compile(rtype, records, ttl);
        let set = set.map_err(|error| RecordError::Set(name.clone(), error))?;
        node.0.push((rtype, set));
    }
    Ok(node_by_name)
}

/// Who holds a name is the Directory's to say, so no record may stand where a device can come to be. A reserved name is
/// given to none; one that held it before it was reserved is answered instead of the record.
fn check_place(name: &RecordName, zone: &Zone) -> Result<(), RecordError> {
    let full = name.in_zone(zone);
    if full.len() + 2 > MAX_NAME {
        return Err(RecordError::NameTooLong(name.clone()));
    }
    match zone.locate(&full) {
        Place::Device(device) if device.is_reserved() => Ok(()),
        Place::Device(_) | Place::Outside => Err(RecordError::DevicesPlace(name.clone())),
        Place::Apex | Place::Operator(_) | Place::Relay(_) | Place::Nobody => Ok(()),
    }
}

/// Compiles the records that every device has.
fn every_devices(records: &[DeviceRecord], ttl: u32) -> Result<Vec<(Type, Rrset)>, RecordError> {
    let mut records_by_type: BTreeMap<Type, Vec<&DeviceRecord>> = BTreeMap::new();
    for record in records {
        records_by_type
            .entry(record.data.rtype())
            .or_default()
            .push(record);
    }
    let compiled = records_by_type.into_iter().map(|(rtype, records)| {
        let records = records
            .iter()
            .map(|record| (&record.data, record.ttl_seconds));
        let set = compile(rtype, records, ttl).map_err(RecordError::DeviceSet)?;
        Ok((rtype, set))
    });
    compiled.collect()
}

/// Compiles records of one type at one name; `ttl` is that of those that have none of their own.
fn compile<'r>(
    rtype: Type,
    records: impl Iterator<Item = (&'r RecordData, Option<Bounded<1, 86_400>>)>,
    ttl: u32,
) -> Result<Rrset, SetError> {
    let (mut data, ttls): (Vec<_>, Vec<_>) = records
        .map(|(data, own)| (data.octets(), own.map_or(ttl, Bounded::get)))
        .unzip();
    let ttl = ttls.first().copied().unwrap_or(ttl);
    if ttls.iter().any(|other| *other != ttl) {
        return Err(SetError::DifferentTtls);
    }
    data.sort();
    if data.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(SetError::Twice);
    }
    Rrset::compile(rtype, ttl, &data).ok_or(SetError::TooLarge)
}

impl RecordData {
    fn rtype(&self) -> Type {
        match self {
            Self::A(_) => Type::A,
            Self::Aaaa(_) => Type::AAAA,
            Self::Txt(_) => Type::TXT,
            Self::Other(rtype, _) => *rtype,
        }
    }

    /// The data on the wire (RFC 1035 sections 3.4.1 and 3.3.14, RFC 3596 section 2.2).
    fn octets(&self) -> Vec<u8> {
        match self {
            Self::A(address) => address.octets().into(),
            Self::Aaaa(address) => address.octets().into(),
            Self::Other(_, octets) => octets.to_vec(),
            Self::Txt(text) if text.is_empty() => vec![0],
            Self::Txt(text) => text
                .as_bytes()
                .chunks(MAX_STRING)
                .flat_map(|string| [&[string.len() as u8], string].concat())
                .collect(),
        }
    }
}

/// The only name server record; its owner is the zone, so the pointer in it is to the question's name.
fn name_server() -> Option<Rrset> {
    let data = [&octets(&[NAME_SERVER]), &POINTER_TO_QUESTION[..]].concat();
    Rrset::compile(Type::NS, NS_TTL, &[data])
}

/// The zone's name on the wire, in lower case.
pub(crate) fn apex_of(zone: &Zone) -> Box<[u8]> {
    let labels: Vec<_> = zone.as_str().split('.').collect();
    [&octets(&labels)[..], &[0]].concat().into()
}

/// Labels on the wire, without the closing zero.
pub(crate) fn octets(labels: &[&str]) -> Box<[u8]> {
    labels
        .iter()
        .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rrset::Records;

    fn compiled(records: &str) -> Result<Contents, RecordError> {
        let config: Config = toml::from_str(records).unwrap();
        let relay = [
            "192.0.2.250".parse().unwrap(),
            "2001:db8::250".parse().unwrap(),
        ];
        let nameserver = ["192.0.2.53".parse().unwrap()];
        Contents::new(
            &Zone::parse("nas.test").unwrap(),
            &config,
            &relay,
            &nameserver,
        )
    }

    /// The data octets of every record there.
    fn data(contents: &Contents, labels: &[&str], rtype: Type) -> Option<Vec<u8>> {
        let set = contents.node_by_name.get(&octets(labels))?.find(rtype)?;
        Some(Records::Fixed(set).octets().to_vec()[12..].to_vec())
    }

    #[test]
    fn a_zone_without_records_has_what_it_needs() {
        let zone = compiled("").unwrap();
        assert_eq!(&*zone.apex, b"\x03nas\x04test\0");
        let relay = Some(vec![192, 0, 2, 250]);
        for labels in [&[][..], &["cloud"], &["relay"]] {
            assert_eq!(data(&zone, labels, Type::A), relay, "{labels:?}");
            assert!(data(&zone, labels, Type::AAAA).is_some());
        }
        assert_eq!(data(&zone, &["ns1"], Type::A), Some(vec![192, 0, 2, 53]));
        assert_eq!(data(&zone, &["ns1"], Type::AAAA), None);
        assert_eq!(
            data(&zone, &[], Type::NS),
            Some(b"\x03ns1\xC0\x0C".to_vec())
        );
    }

    #[test]
    fn the_operators_addresses_stand_alone() {
        let zone = compiled(
            r#"record = [
                { name = "@", type = "A", value = "192.0.2.80" },
                { name = "cloud", type = "TXT", value = "hello" },
            ]"#,
        )
        .unwrap();
        assert_eq!(data(&zone, &[], Type::A), Some(vec![192, 0, 2, 80]));
        assert_eq!(data(&zone, &[], Type::AAAA), None);
        assert_eq!(data(&zone, &["cloud"], Type::A), Some(vec![192, 0, 2, 250]));
        assert_eq!(
            data(&zone, &["cloud"], Type::TXT),
            Some(b"\x05hello".to_vec())
        );
    }

    #[test]
    fn a_long_text_becomes_strings_and_a_deep_name_has_empty_ones_above() {
        let long = "x".repeat(300);
        let zone = compiled(&format!(
            r#"record = [{{ name = "a._b.www", type = "TXT", value = "{long}" }}]"#
        ))
        .unwrap();
        let text = data(&zone, &["a", "_b", "www"], Type::TXT).unwrap();
        assert_eq!((text.len(), text[0], text[256]), (302, 255, 45));
        for above in [&["_b", "www"][..], &["www"]] {
            assert!(zone.node_by_name.contains_key(&octets(above)));
        }
    }

    #[test]
    fn records_without_a_place_are_refused() {
        let name = |name: &str| RecordName::try_from(name.to_owned()).unwrap();
        let one =
            |name: &str| format!(r#"{{ name = "{name}", type = "A", value = "192.0.2.1" }},"#);
        let deep = vec!["a".repeat(60); 5].join(".") + "._x";
        let large = "x".repeat(MAX_RRSET);
        for (records, error) in [
            (one("blog"), RecordError::DevicesPlace(name("blog"))),
            (one("_x.blog"), RecordError::DevicesPlace(name("_x.blog"))),
            (one(&deep), RecordError::NameTooLong(name(&deep))),
            (
                one("www") + &one("WWW"),
                RecordError::Set(name("www"), SetError::Twice),
            ),
            (
                one("www")
                    + r#"{ name = "www", type = "A", value = "192.0.2.2", ttl_seconds = 5 }"#,
                RecordError::Set(name("www"), SetError::DifferentTtls),
            ),
            (
                format!(r#"{{ name = "www", type = "TXT", value = "{large}" }}"#),
                RecordError::Set(name("www"), SetError::TooLarge),
            ),
        ] {
            let refused = compiled(&format!("record = [{records}]")).unwrap_err();
            assert_eq!(refused, error);
        }
    }
}
