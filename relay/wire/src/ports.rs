//! Public ports of the relay that lead to services of a device: what an agent has for them, and what becomes of each.

use directory::PublicPort;

/// So many an agent may have: as many as it may have services.
pub const MAX_PORTS: usize = 64;

/// What becomes of a port that an agent has a service for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortState {
    /// The relay listens there for the device.
    Open,
    /// This relay has no public ports.
    NotOffered,
    /// It has others.
    OutOfRange,
    /// The operator has not given it to the device.
    NotGiven,
    /// The operator has given it to another device.
    Taken,
    /// It is the device's, and the relay cannot listen there.
    Unavailable,
    /// It is the device's, and datagrams do not cross this tunnel.
    NoDatagrams,
}

impl PortState {
    /// Each, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::NotOffered,
        Self::OutOfRange,
        Self::NotGiven,
        Self::Taken,
        Self::Unavailable,
        Self::NoDatagrams,
    ];

    /// On the wire. Never changed and never reused.
    pub fn number(self) -> u32 {
        match self {
            Self::Open => 1,
            Self::NotOffered => 2,
            Self::OutOfRange => 3,
            Self::NotGiven => 4,
            Self::Taken => 5,
            Self::Unavailable => 6,
            Self::NoDatagrams => 7,
        }
    }

    /// That of a number; `None` if this version does not know it.
    pub fn from_number(number: u32) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|state| state.number() == number)
    }

    /// The word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::NotOffered => "not_offered",
            Self::OutOfRange => "out_of_range",
            Self::NotGiven => "not_given",
            Self::Taken => "taken",
            Self::Unavailable => "unavailable",
            Self::NoDatagrams => "no_datagrams",
        }
    }
}

/// A port, and what has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// Which.
    pub port: PublicPort,
    /// A number that this version does not know is kept.
    pub state: Result<PortState, u32>,
}
