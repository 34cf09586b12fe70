//! What is asked over the operator's socket, and what is answered: a line of JSON each.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use clap::ValueEnum;
use ddns::dnssec::keys::{Delegation, Request, Response, Role, Status};
use ddns::transfer::Page;
use ddns::transfer::import::{DeviceInFile, Taken};
use directory::{DeviceLimits, Duty};
use relay::octets;
use serde::{Deserialize, Serialize};

use crate::certificate_watch::Watched;
use crate::steering::{Mode, SteeringState};
use crate::top::Top;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Change something about a device.
    Device(DeviceVerb),
    /// List the devices.
    ListDevices,
    /// Change something about a relay with a process of its own.
    Relay(RelayVerb),
    /// List these relays.
    ListRelays,
    /// Change whose a port of the relays is.
    Port(PortVerb),
    /// List these ports.
    ListPorts,
    /// Ask something about the keys of the zone, or change them.
    Dnssec(DnssecVerb),
    /// Write the zone down, a page at a time.
    ExportZone {
        /// Behind which device, if it is not the first page.
        behind: Option<String>,
    },
    /// Give devices the addresses that they have in a zone's file, a part at a time.
    ImportZone {
        /// Of which zone the file is.
        zone: String,
        /// This part of it.
        devices: Vec<DeviceInFile>,
        /// Nothing is changed; what would be is said.
        is_trial: bool,
    },
    /// List the certificate logs, and what they have shown that is in question.
    ListCertificates,
    /// Make a link to sign in with.
    SignIn,
    /// Measure what passes for each device.
    Top {
        /// For how long, in milliseconds.
        interval_ms: u64,
        /// How many of the busiest devices are wanted.
        most: usize,
    },
}

/// What can be changed about the relay of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayVerb {
    /// Register it and make its key.
    Add {
        /// What it is called.
        name: String,
        /// Where its front is reached from outside.
        addresses: Vec<IpAddr>,
        /// And at which port, TCP and UDP.
        port: u16,
    },
    /// Remove it.
    Remove(String),
}

/// What can be changed about a port of the relays, such as `20022/tcp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortVerb {
    /// Give it to a device.
    Add {
        /// Which device.
        device: String,
        /// Which port.
        port: String,
    },
    /// Take it back.
    Remove(String),
}

/// What can be asked of the keys of a signed zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnssecVerb {
    /// How it stands with them.
    Status,
    /// What the parent is to be told.
    Ds,
    /// Begin to roll one.
    Roll(Role),
    /// The parent has the DS of the newest KSK, and no other.
    DsPublished {
        /// How long others may keep what the parent had before.
        ttl: Duration,
    },
    /// Write down what a KSK elsewhere has to sign.
    Request {
        /// With a change of the keys.
        plan: Option<DnssecPlan>,
        /// Which is to begin after so long.
        begin: Duration,
        /// For how many days.
        days: u32,
    },
    /// Take what it has signed.
    Import(Response),
}

/// A change of the keys that a KSK elsewhere has to sign first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnssecPlan {
    /// To a new ZSK.
    RollZsk,
    /// To another KSK.
    RollKsk {
        /// Its DNSKEY record.
        public: String,
    },
    /// The parent has the DS of the newest KSK, and no other.
    DsPublished {
        /// How long others may keep what the parent had before.
        ttl: Duration,
    },
}

/// What can be changed about the device of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceVerb {
    /// Register the name and make a code for its agent.
    Add {
        /// Which.
        name: String,
        /// Whether it is given back even if it rests after its last holder.
        reclaim: bool,
    },
    /// Make a fresh key.
    Key {
        /// Whose.
        name: String,
        /// What for.
        duty: KeyDuty,
    },
    /// Change what it may have at most; what is absent stays as it is.
    Limit {
        /// Whose.
        name: String,
        /// Octets a second of all its visitors, both ways.
        bytes_per_second: Option<NonZeroU64>,
        /// Visitors at a time.
        visitors: Option<NonZeroU32>,
        /// Whether it has none of its own any more.
        none: bool,
    },
    /// Say which way its name leads.
    Steer {
        /// Whose.
        name: String,
        /// Which.
        mode: Mode,
    },
    /// Remove it.
    Remove(String),
}

/// What a key is for, as the command line and the socket say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum KeyDuty {
    /// The device's addresses, for DDNS clients.
    Addresses,
    /// Its ACME challenges, for certificate clients.
    Challenges,
}

impl From<KeyDuty> for Duty {
    fn from(duty: KeyDuty) -> Self {
        match duty {
            KeyDuty::Addresses => Self::Addresses,
            KeyDuty::Challenges => Self::Challenges,
        }
    }
}

impl From<DeviceVerb> for Verb {
    fn from(verb: DeviceVerb) -> Self {
        Self::Device(verb)
    }
}

/// What is answered. Secrets in it are shown once, to whoever may open the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The name is registered.
    Added {
        /// The full name.
        host: String,
        /// The code for its agent.
        code: Secret,
        /// Where its agent pairs; absent when no server is running.
        control: Option<String>,
    },
    /// The key is made.
    Key(ShownKey),
    /// The devices.
    Devices(Vec<ListedDevice>),
    /// The limits are in force.
    Limited(ShownLimits),
    /// The name leads that way from now on.
    Steered(SteeringState),
    /// The device is gone.
    Removed,
    /// The relay is registered.
    RelayAdded {
        /// The full name.
        host: String,
        /// What stands in the file with which it joins.
        join: Secret,
    },
    /// The relays.
    Relays(Vec<ListedRelay>),
    /// The relay is gone.
    RelayRemoved,
    /// The port is the device's.
    PortAdded {
        /// The device's full name.
        host: String,
        /// Which port.
        port: String,
    },
    /// The ports that are devices'.
    Ports(Vec<ListedPort>),
    /// The port is no device's any more.
    PortRemoved,
    /// How it stands with the keys of the zone, after the change if there was one.
    Keys(Status),
    /// What the parent is to be told.
    Delegation(Delegation),
    /// What a KSK elsewhere has to sign.
    Request(Request),
    /// A part of the zone's file.
    ZonePage(Page),
    /// What was done for a part of a zone's file, or would be.
    ZoneTaken(Taken),
    /// The certificate logs, and what they have shown.
    Certificates(Watched),
    /// The link is made.
    Link {
        /// Opens the pages, once.
        url: Secret,
        /// For how long, in seconds.
        good_for: u64,
    },
    /// What passes.
    Top(Top),
    /// It was not done.
    Refused(String),
}

/// What a device may have at most, where that is not what all may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownLimits {
    /// Octets a second of all its visitors, both ways.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Visitors at a time.
    pub visitors: Option<NonZeroU32>,
}

impl From<DeviceLimits> for ShownLimits {
    fn from(limits: DeviceLimits) -> Self {
        let DeviceLimits {
            bytes_per_second,
            visitors,
        } = limits;
        Self {
            bytes_per_second,
            visitors,
        }
    }
}

impl std::fmt::Display for ShownLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self
            .bytes_per_second
            .map(|bytes| octets::write(bytes.get()));
        let bytes = bytes.map(|bytes| format!("{bytes}/s"));
        let visitors = self.visitors.map(|visitors| format!("{visitors} visitors"));
        let limits: Vec<_> = bytes.into_iter().chain(visitors).collect();
        match limits.is_empty() {
            true => f.write_str("as all devices"),
            false => f.write_str(&limits.join(", ")),
        }
    }
}

/// A key on its way to the one who may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownKey {
    /// What it is for.
    pub duty: KeyDuty,
    /// The device's full name.
    pub host: String,
    /// What a client gives as its user.
    pub user: String,
    /// And as its password.
    pub key: Secret,
    /// The same right, for clients that sign (RFC 2136, RFC 8945).
    pub tsig: ShownTsig,
}

/// What a client that signs is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownTsig {
    /// `hmac-sha256`; 384 and 512 work as well.
    pub algorithm: String,
    /// The name of the key.
    pub name: String,
    /// Its secret, in base64.
    pub secret: Secret,
}

/// A secret on its way to the one who may see it; never in a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(super) String);

impl Secret {
    /// The secret itself, for the one place that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A device as the command line lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedDevice {
    /// Its name under the zone.
    pub name: String,
    /// Its full name.
    pub host: String,
    /// What it is called where its name does not stand; once it has paired.
    #[serde(default)]
    pub id: Option<String>,
    /// `attached`, `away` or `not_paired`; instead of the first two `unknown` when no server is running.
    pub state: String,
    /// What its tunnel runs over, while it is attached.
    pub transport: Option<String>,
    /// The addresses that its agent reports of itself.
    pub addresses: Vec<IpAddr>,
    /// What it may have at most, where that is not what all may.
    pub limits: ShownLimits,
}

/// A relay as the command line lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRelay {
    /// What the operator calls it.
    pub name: String,
    /// Its full name.
    pub host: String,
    /// Where its front is reached from outside.
    pub addresses: Vec<IpAddr>,
    /// And at which port.
    pub port: u16,
    /// Whether it follows this server now.
    pub following: bool,
    /// How many devices it holds.
    pub devices: usize,
}

/// A port of the relays as the command line lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedPort {
    /// Which: `20022/tcp`.
    pub port: String,
    /// The name of the device that has it.
    pub device: String,
    /// Where it is reached, if it is open: the device's full name.
    pub host: String,
}
