//! The `[ddns.dnssec]` section of the configuration.

use serde::Deserialize;

use crate::config::Bounded;

/// How the zone is signed. Without this section it is not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How it is proved that something does not exist. Default `compact`.
    pub denial: DenialKind,
    /// Signatures a second of names that somebody has made up, 1 to 1000000, over UDP and over TCP each; what the zone has gets four
    /// times as many. One takes about 15 µs of a processor. Who asks for more over UDP is sent to TCP. Default 5000.
    pub signatures_per_second: Bounded<1, 1_000_000>,
    /// Signatures that are kept in memory, 10000 to 100000000, of about 130 octets each. Default 1000000.
    pub signatures: Bounded<10_000, 100_000_000>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            denial: DenialKind::default(),
            signatures_per_second: Bounded(5000),
            signatures: Bounded(1_000_000),
        }
    }
}

/// How it is proved that a name or a record does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DenialKind {
    /// By a record made for the name that was asked for (RFC 9824): small, and nobody learns of other names; but each name that
    /// somebody makes up costs a signature.
    #[default]
    Compact,
    /// By records between the hashes of the names that exist (RFC 5155, without salt and further iterations, as RFC 9276 has
    /// it): a finite number of signatures, which secondaries can have too; but who collects them can guess names.
    Nsec3,
}
