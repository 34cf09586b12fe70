//! Who is calling, and what both ends can do.

use std::fmt;

use crate::close::CloseCode;

/// The newest protocol version spoken here.
pub const VERSION: u32 = 1;

/// The oldest protocol version still spoken here.
pub const OLDEST_VERSION: u32 = 1;

/// The first frame of a tunnel, from the agent. Who the device is has been proved by its certificate already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The newest protocol version the agent speaks.
    pub version: u32,
    /// What the agent can do.
    pub features: Features,
    /// Which run of the agent this is.
    pub instance: InstanceId,
    /// Program and version, for the operator's eyes only.
    pub software: String,
}

/// What both ends of a tunnel do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The protocol version of this tunnel.
    pub version: u32,
    /// The features both ends have.
    pub features: Features,
}

impl Hello {
    /// What this relay, with `ours`, will do with this agent.
    ///
    /// # Errors
    /// [`CloseCode::Version`] if the agent is older than [`OLDEST_VERSION`].
    pub fn agree(&self, ours: Features) -> Result<Agreed, CloseCode> {
        if self.version < OLDEST_VERSION {
            return Err(CloseCode::Version);
        }
        Ok(Agreed {
            version: self.version.min(VERSION),
            features: self.features.both(ours),
        })
    }
}

/// A set of feature bits. Bits that this version does not know are carried and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// The agent dials a TLS connection for a visitor when it is sent a ticket.
    pub const TLS_CARRIER: Self = Self(1);

    /// The agent dials a raw TCP connection for a visitor's bulk when it is sent a ticket.
    pub const RAW_CARRIER: Self = Self(2);

    /// The agent takes visitors' flows over QUIC: their UDP datagrams, in DATAGRAM frames of the tunnel.
    pub const DATAGRAMS: Self = Self(4);

    /// The agent says at which public ports it has services, and takes their visitors.
    pub const PORTS: Self = Self(8);

    /// The features in both sets.
    pub fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The features in either set.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every feature of `other` is here.
    pub fn has(self, other: Self) -> bool {
        self.both(other) == other
    }
}

/// A random number that an agent draws when it starts: tells a reconnect from a second agent with the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct InstanceId(pub [u8; 16]);

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "InstanceId({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version: u32, features: u64) -> Hello {
        Hello {
            version,
            features: Features(features),
            instance: InstanceId([0; 16]),
            software: String::new(),
        }
    }

    #[test]
    fn a_newer_agent_is_answered_with_our_version_and_the_features_both_have() {
        let agreed = hello(VERSION + 5, u64::MAX).agree(Features::TLS_CARRIER);
        assert_eq!(
            agreed,
            Ok(Agreed {
                version: VERSION,
                features: Features::TLS_CARRIER
            })
        );
    }

    #[test]
    fn an_agent_without_features_is_welcome_and_one_without_a_version_is_not() {
        let agreed = hello(OLDEST_VERSION, 0)
            .agree(Features::TLS_CARRIER)
            .unwrap();
        assert!(!agreed.features.has(Features::TLS_CARRIER));
        assert_eq!(
            hello(0, 0).agree(Features::TLS_CARRIER),
            Err(CloseCode::Version)
        );
    }
}
