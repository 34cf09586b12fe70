//! The `[ddns]` section of the configuration.

mod record;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::record::{DeviceRecord, Record, RecordData, RecordName, RecordNameError, ValueError};
use crate::dnssec;
use crate::server::Nsid;
use crate::server::bound::Bound;
use crate::server::tls::Certificate;
use crate::start::Storage;
use crate::transfer::Secondary;
use crate::tsig::Master;
use crate::update::AddressChange;

/// Settings of the DNS server. Unknown keys are errors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where DNS is spoken, UDP and TCP on one port. `[::]` takes IPv4 as well; port 0 takes a free port.
    /// Default `[::]:53`.
    pub listen: SocketAddr,
    /// Where DNS is spoken over TLS (RFC 7858), by the certificate of `ns1`; 853 is the usual port, 0 takes a free one. Default:
    /// nowhere.
    pub dot: Option<SocketAddr>,
    /// Threads that answer over UDP, 1 to 64. Default: one for each core, but two at most.
    pub threads: Option<Bounded<1, 64>>,
    /// How long others may keep an address of a device or of ours, 1 to 86400. Default 60: an address that has moved is
    /// wrong for a minute at most.
    pub ttl_seconds: Bounded<1, 86_400>,
    /// How long others may keep that a name or record does not exist, 1 to 60. Default 60. More would hold up the first
    /// certificate of a device, whose challenge has just been asked for in vain.
    pub negative_ttl_seconds: Bounded<1, 60>,
    /// TCP connections in all, those with TLS among them, 1 to 100000; each needs up to 30 KiB, and 60 KiB with TLS. Default 1000.
    pub tcp_connections: Bounded<1, 100_000>,
    /// TCP connections from one address (IPv4) or one /56 (IPv6, what a home is given), 1 to 100000. Default 50.
    pub tcp_connections_per_address: Bounded<1, 100_000>,
    /// Changes of addresses that one device may make in a minute, 0 to 3600, after ten at once; 0 is without a limit. Challenges may
    /// change ten times as often. Saying again what is so already is no change. Default 6.
    pub updates_per_minute: Bounded<0, 3600>,
    /// Whether a device's name may lead to a private or reserved address; only for a zone that nobody outside asks for. Default
    /// no.
    pub private_addresses: bool,
    /// Whether `_why` in front of a device's name says why that leads where it does, as TXT, to everybody who asks. Default no.
    pub why: bool,
    /// Answers of one kind (records, no such thing, refusals) that one /24 (IPv4) or /56 (IPv6) gets over UDP in a second,
    /// unless it shows a cookie of ours; 0 to 1000000, 0 is no limit. Default 500: a resolver that keeps answers for a
    /// minute reaches it with 30,000 names in use, and what is sent to a victim in its name is half a megabit at most, or five where
    /// the zone is signed.
    pub responses_per_second: Bounded<0, 1_000_000>,
    /// Of the queries beyond that limit, each how many-th gets a short reply, so that a client which does not forge
    /// addresses can come over TCP; 0 to 10, 0 is none. Default 2. With 1, a flood of client cookies can get back more
    /// octets than it sends.
    pub slip: Bounded<0, 10>,
    /// What this server calls itself to those who ask which one has answered (NSID), 1 to 64 octets. Default: nothing.
    pub nsid: Option<Nsid>,
    /// Files with a secret of 32 hexadecimal digits each, which everybody may not read: cookies are made by the first and
    /// those made by the second are good too. Servers that stand in for each other need the same ones. Default: a secret
    /// of this run alone.
    pub cookie_secret_files: SecretFiles,
    /// How the zone is signed: `[ddns.dnssec]`, which may be empty. Default: it is not.
    pub dnssec: Option<dnssec::Config>,
    /// Secondary servers of the zone: `[[ddns.secondary]]`. Default none.
    pub secondary: Vec<Secondary>,
    /// The operator's own records in the zone: `[[ddns.record]]`. Default none.
    pub record: Vec<Record>,
    /// Records that every device has, and every name below one: `[[ddns.device_record]]`, as CAA. Default none.
    pub device_record: Vec<DeviceRecord>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 53)),
            dot: None,
            threads: None,
            ttl_seconds: Bounded(60),
            negative_ttl_seconds: Bounded(60),
            tcp_connections: Bounded(1000),
            tcp_connections_per_address: Bounded(50),
            updates_per_minute: Bounded(6),
            private_addresses: false,
            why: false,
            responses_per_second: Bounded(500),
            slip: Bounded(2),
            nsid: None,
            cookie_secret_files: SecretFiles::default(),
            dnssec: None,
            secondary: Vec::new(),
            record: Vec::new(),
            device_record: Vec::new(),
        }
    }
}

impl Config {
    /// The keys that `next` has otherwise. Only a start puts them in force: queries are answered from tables that are made there.
    pub fn changed_for_the_next_start(&self, next: &Self) -> Vec<&'static str> {
        let Self {
            listen,
            dot,
            threads,
            ttl_seconds,
            negative_ttl_seconds,
            tcp_connections,
            tcp_connections_per_address,
            updates_per_minute,
            private_addresses,
            why,
            responses_per_second,
            slip,
            nsid,
            cookie_secret_files,
            dnssec,
            secondary,
            record,
            device_record,
        } = self;
        let differ = [
            ("listen", *listen != next.listen),
            ("dot", *dot != next.dot),
            ("threads", *threads != next.threads),
            ("ttl_seconds", *ttl_seconds != next.ttl_seconds),
            (
                "negative_ttl_seconds",
                *negative_ttl_seconds != next.negative_ttl_seconds,
            ),
            ("tcp_connections", *tcp_connections != next.tcp_connections),
            (
                "tcp_connections_per_address",
                *tcp_connections_per_address != next.tcp_connections_per_address,
            ),
            (
                "updates_per_minute",
                *updates_per_minute != next.updates_per_minute,
            ),
            (
                "private_addresses",
                *private_addresses != next.private_addresses,
            ),
            ("why", *why != next.why),
            (
                "responses_per_second",
                *responses_per_second != next.responses_per_second,
            ),
            ("slip", *slip != next.slip),
            ("nsid", *nsid != next.nsid),
            (
                "cookie_secret_files",
                *cookie_secret_files != next.cookie_secret_files,
            ),
            ("dnssec", *dnssec != next.dnssec),
            ("secondary", *secondary != next.secondary),
            ("record", *record != next.record),
            ("device_record", *device_record != next.device_record),
        ];
        let differ = differ.into_iter().filter(|(_, differs)| *differs);
        differ.map(|(key, _)| key).collect()
    }
}

/// The files of none, one or two secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<PathBuf>")]
pub struct SecretFiles {
    /// The secret that cookies are made by.
    pub(crate) made_by: Option<PathBuf>,
    /// Another one that makes them good.
    pub(crate) known_too: Option<PathBuf>,
}

impl TryFrom<Vec<PathBuf>> for SecretFiles {
    type Error = TooManySecrets;

    fn try_from(files: Vec<PathBuf>) -> Result<Self, TooManySecrets> {
        let mut files = files.into_iter();
        let (made_by, known_too) = (files.next(), files.next());
        match files.next() {
            None => Ok(Self { made_by, known_too }),
            Some(_) => Err(TooManySecrets),
        }
    }
}

/// There are more secrets than a change from one to another needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are more than two files: name the one that makes cookies, and the one before or after it"
)]
pub struct TooManySecrets;

/// What only the composition root knows.
#[derive(Debug)]
pub struct Facts {
    /// The updates of earlier runs.
    pub storage: Storage,
    /// Where visitors find the relay: the addresses of the zone's name, of the operator's hosts, and of every device
    /// without its own.
    pub relay: Vec<IpAddr>,
    /// Where this server is found by others: the addresses of `ns1`.
    pub nameserver: Vec<IpAddr>,
    /// What the secrets of keys for signed updates are made of.
    pub master: Master,
    /// What `ns1` proves over TLS that it is. Needed where `dot` is set.
    pub certificate: Option<Certificate>,
    /// The sockets of the server before this one, if it has a successor in this one.
    pub bound: Bound,
    /// To be cancelled when that server has left them ([`HandOver::left`](crate::HandOver::left)). Until then it may still answer by
    /// what it knows, and updates are put off. `None` if there is no such server.
    pub alone: Option<CancellationToken>,
    /// Where it is told that a device has other addresses, for whoever [steers](crate::steering).
    pub address_changes: Option<mpsc::Sender<AddressChange>>,
}

/// A whole number that the configuration may set between two limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Bounded<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> Bounded<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The same as a count of things in memory.
    pub fn count(self) -> usize {
        self.0.try_into().unwrap_or(usize::MAX)
    }
}

impl<const MIN: u32, const MAX: u32> TryFrom<i64> for Bounded<MIN, MAX> {
    type Error = OutOfBounds;

    fn try_from(value: i64) -> Result<Self, OutOfBounds> {
        let refusal = OutOfBounds {
            value,
            min: MIN,
            max: MAX,
        };
        let value = u32::try_from(value).map_err(|_| refusal)?;
        (MIN..=MAX)
            .contains(&value)
            .then_some(Self(value))
            .ok_or(refusal)
    }
}

/// A number outside its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not between {min} and {max}")]
pub struct OutOfBounds {
    value: i64,
    min: u32,
    max: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_section_is_the_defaults() {
        let config = read("").unwrap();
        assert_eq!(config.listen.to_string(), "[::]:53");
        assert_eq!(config.ttl_seconds.get(), 60);
        assert!(config.threads.is_none());
    }

    #[test]
    fn every_key_is_read() {
        let config = read(
            r#"
            listen = "127.0.0.1:5300"
            dot = "127.0.0.1:8530"
            threads = 4
            ttl_seconds = 30
            negative_ttl_seconds = 15
            tcp_connections = 10
            tcp_connections_per_address = 2
            responses_per_second = 0
            slip = 1
            nsid = "ns1.example.net"
            cookie_secret_files = ["/etc/causeway/cookie", "/etc/causeway/cookie.before"]
            record = [
              { name = "@", type = "TXT", value = "v=spf1 -all" },
              { name = "WWW", type = "A", value = "192.0.2.1", ttl_seconds = 300 },
              { name = "_a.www", type = "AAAA", value = "2001:db8::1" },
            ]
            device_record = [{ type = "CAA", value = '0 issue "ca.test"' }]
            "#,
        )
        .unwrap();
        assert_eq!(config.dot.map(|dot| dot.port()), Some(8530));
        assert_eq!(config.threads.map(Bounded::get), Some(4));
        assert_eq!(config.responses_per_second.get(), 0);
        assert_eq!(config.slip.get(), 1);
        assert_eq!(config.nsid.unwrap().octets(), b"ns1.example.net");
        let files = config.cookie_secret_files;
        assert_eq!(files.made_by, Some("/etc/causeway/cookie".into()));
        assert!(files.known_too.is_some());
        assert_eq!(config.record[0].data, RecordData::Txt("v=spf1 -all".into()));
        assert_eq!(config.record[1].name.to_string(), "www");
        assert_eq!(config.record[2].name.labels().count(), 2);
        assert_eq!(config.record[0].name.labels().count(), 0);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, sentence) in [
            ("\nlisten_on = 1", "unknown field `listen_on`"),
            ("\nlisten = \"localhost\"", "invalid socket address"),
            ("\nttl_seconds = 0", "0 is not between 1 and 86400"),
            ("\nnegative_ttl_seconds = 61", "61 is not between 1 and 60"),
            ("\nslip = 11", "11 is not between 0 and 10"),
            (
                "\nnsid = \"\"",
                "a name of 0 octets is not between 1 and 64",
            ),
            (
                "\ncookie_secret_files = [\"a\", \"b\", \"c\"]",
                "more than two files",
            ),
            ("\nthreads = -1", "-1 is not between 1 and 64"),
            (
                "\nrecord = [{ name = \"*\", type = \"A\", value = \"192.0.2.1\" }]",
                "`*` is not a name relative to the zone",
            ),
            (
                "\nrecord = [{ name = \"www\", type = \"A\", value = \"::1\" }]",
                "`::1` is not an IPv4 address",
            ),
            (
                "\nrecord = [{ name = \"www\", type = \"CNAME\", value = \"a\" }]",
                "unknown variant `CNAME`, expected one of `A`, `AAAA`, `TXT`",
            ),
            (
                "\nrecord = [{ name = \"www\", type = \"CAA\", value = \"issue ca.test\" }]",
                "`issue ca.test` is not the value of a CAA record",
            ),
            (
                "\ndevice_record = [{ type = \"A\", value = \"192.0.2.1\" }]",
                "a device's addresses are its own",
            ),
            (
                "\nrecord = [{ name = \"www\", type = \"A\", value = \"192.0.2.1\", ttl = 1 }]",
                "unknown field `ttl`",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(sentence), "{error}");
            assert!(error.contains("line 2"), "{error}");
        }
    }
}
