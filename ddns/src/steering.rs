//! Where devices' names lead while somebody checks whether they can be reached at their own addresses.
//!
//! ```text
//!  given     nobody checks: to the device's addresses if it has some, else to the relays that hold it
//!  steered   to those of its addresses at which it is reached, and else to its relays
//! ```
//!
//! Nothing of this lasts: after a start, every name leads where it is given to, until whoever checks says otherwise.

use std::num::NonZeroU16;
use std::sync::Arc;

use directory::{DeviceName, RegistrationId};

use crate::addresses::Addresses;
use crate::protocol::Type;
use crate::rrset::Rrset;
use crate::table::Table;

/// The port that a browser takes for a name alone.
pub const HTTPS_PORT: NonZeroU16 = NonZeroU16::new(443).unwrap();

/// Where a device's name leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lead {
    /// Where the device, or its owner's client, has said.
    #[default]
    Given,
    /// Where it can be reached.
    Steered(Direct),
}

/// At which of its own addresses a device can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// At the IPv4 address.
    pub v4: bool,
    /// At the IPv6 address.
    pub v6: bool,
    /// By which port. If it is not 443, only an HTTPS record can say so, and A and AAAA lead to the relays.
    pub port: NonZeroU16,
}

impl Direct {
    /// Nowhere.
    pub const NOT: Self = Self {
        v4: false,
        v6: false,
        port: HTTPS_PORT,
    };

    /// Of these addresses, those at which it is reached.
    fn those(self, addresses: Addresses) -> Addresses {
        Addresses {
            v4: addresses.v4.filter(|_| self.v4),
            v6: addresses.v6.filter(|_| self.v6),
        }
    }
}

impl Lead {
    /// To which of these addresses A and AAAA lead; to none where they lead to the relays.
    pub(crate) fn addresses(self, own: Addresses) -> Addresses {
        match self {
            Self::Given => own,
            Self::Steered(direct) if direct.port == HTTPS_PORT => direct.those(own),
            Self::Steered(_) => Addresses::default(),
        }
    }

    /// At which of these addresses it is known that the device is reached, and by which port.
    pub(crate) fn direct(self, own: Addresses) -> Option<(Addresses, NonZeroU16)> {
        let Self::Steered(direct) = self else {
            return None;
        };
        let those = direct.those(own);
        (!those.is_empty()).then_some((those, direct.port))
    }

    /// What is still known when the device has these addresses and no more those before.
    pub(crate) fn after_change(self, before: Addresses, after: Addresses) -> Self {
        match self {
            Self::Given => Self::Given,
            Self::Steered(direct) => Self::Steered(Direct {
                v4: direct.v4 && before.v4 == after.v4,
                v6: direct.v6 && before.v6 == after.v6,
                ..direct
            }),
        }
    }

    /// As three bits and a port.
    pub(crate) fn to_bits(self) -> (u8, u16) {
        match self {
            Self::Given => (0, 0),
            Self::Steered(Direct { v4, v6, port }) => {
                (1 | (u8::from(v4) << 1) | (u8::from(v6) << 2), port.get())
            }
        }
    }

    /// What [`to_bits`](Self::to_bits) has made.
    pub(crate) fn from_bits(bits: u8, port: u16) -> Self {
        match (bits & 1, NonZeroU16::new(port)) {
            (1, Some(port)) => Self::Steered(Direct {
                v4: bits & 2 != 0,
                v6: bits & 4 != 0,
                port,
            }),
            _ => Self::Given,
        }
    }
}

/// What the direct listener of an agent speaks (RFC 9460 section 7.1.1), each with its length in front.
const ALPN: &[u8] = b"\x02h2\x08http/1.1";

/// The HTTPS records of a name (RFC 9460 section 9) that leads to a device at these addresses and this port, and if that fails to relays,
/// whose names on the wire these are. `None` if they are too long.
pub(crate) fn https_records(
    direct: Addresses,
    port: NonZeroU16,
    relays: &[Vec<u8>],
    ttl: u32,
) -> Option<Rrset> {
    const ALPN_KEY: u16 = 1;
    const PORT_KEY: u16 = 3;
    const IPV4_HINT_KEY: u16 = 4;
    const IPV6_HINT_KEY: u16 = 6;
    // Priority 1, and the name itself as the target.
    let mut own = vec![0, 1, 0];
    let mut put = |key: u16, value: &[u8]| {
        own.extend(key.to_be_bytes());
        own.extend((value.len() as u16).to_be_bytes()); // sixteen octets at most
        own.extend(value);
    };
    put(ALPN_KEY, ALPN);
    if port != HTTPS_PORT {
        put(PORT_KEY, &port.get().to_be_bytes());
    }
    if let Some(v4) = direct.v4 {
        put(IPV4_HINT_KEY, &v4.octets());
    }
    if let Some(v6) = direct.v6 {
        put(IPV6_HINT_KEY, &v6.octets());
    }
    let mut records = vec![own];
    for (priority, relay) in (2_u16..).zip(relays) {
        let alpn = [&ALPN_KEY.to_be_bytes()[..], &[0, ALPN.len() as u8], ALPN].concat();
        records.push([&priority.to_be_bytes()[..], relay, &alpn].concat());
    }
    Rrset::compile(Type::HTTPS, ttl, &records)
}

/// Says where names lead.
#[derive(Clone, Debug)]
pub struct Steering {
    table: Arc<Table>,
}

impl Steering {
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self { table }
    }

    /// From now on the name leads there, if this registration holds it. Says whether it does. Addresses that the device gets later are none
    /// at which it is known to be reached.
    pub fn lead(&self, device: &DeviceName, registration: RegistrationId, lead: Lead) -> bool {
        // As with relays, the zone's serial stays.
        self.table.lead(device, registration, lead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lead_is_three_bits_and_a_port() {
        let leads = [
            Lead::Given,
            Lead::Steered(Direct::NOT),
            Lead::Steered(Direct {
                v4: true,
                v6: false,
                port: NonZeroU16::new(8443).unwrap(),
            }),
            Lead::Steered(Direct {
                v4: false,
                v6: true,
                port: NonZeroU16::MAX,
            }),
        ];
        for lead in leads {
            let (bits, port) = lead.to_bits();
            assert_eq!(Lead::from_bits(bits, port), lead);
        }
        assert_eq!(Lead::from_bits(7, 0), Lead::Given);
    }
}
