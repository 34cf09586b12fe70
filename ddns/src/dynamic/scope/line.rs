//! What one line of an UPDATE asks, by its class: add, delete a record, delete all (RFC 2136 section 2.5).

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addresses::ChangeSet;
use crate::challenges::{ChallengeChange, ChallengeHost, ChallengeValue};
use crate::dynamic::change::{Family, Operation};
use crate::dynamic::message::Line;
use crate::message::labels_below;
use crate::protocol::{CLASS_ANY, CLASS_IN, CLASS_NONE, Rcode, Type};

/// Whether it is well formed, and in the zone (section 3.4.1).
pub(super) fn prescan(line: &Line<'_>, zone: &[u8]) -> Result<(), Rcode> {
    labels_below(&line.name, zone).ok_or(Rcode::NotZone)?;
    let is_well_formed = match line.class {
        CLASS_IN => !line.rtype.is_meta(),
        CLASS_ANY => {
            let is_of_records = !line.rtype.is_meta() || line.rtype == Type::ANY;
            line.ttl == 0 && line.data.is_empty() && is_of_records
        }
        CLASS_NONE => line.ttl == 0 && !line.rtype.is_meta(),
        _ => false,
    };
    if is_well_formed {
        Ok(())
    } else {
        Err(Rcode::FormErr)
    }
}

/// What it asks at a device's own name.
pub(super) fn on_addresses(line: &Line<'_>) -> Result<Operation, Rcode> {
    let family = match line.rtype {
        Type::A => Family::V4,
        Type::AAAA => Family::V6,
        Type::ANY => return Ok(Operation::ForgetAddresses), // of class ANY, as the prescan has seen
        _ => return Err(Rcode::Refused),
    };
    if line.class == CLASS_ANY {
        return Ok(Operation::ForgetFamily(family));
    }
    let address = address(family, line.data).ok_or(Rcode::FormErr)?;
    if line.class == CLASS_NONE {
        return Ok(Operation::ForgetAddress(address));
    }
    // An IPv4 address in IPv6 clothes would be of the other family.
    let is_of_family = address == address.to_canonical();
    if is_of_family && ChangeSet::default().set(address).is_ok() {
        Ok(Operation::SetAddress(address))
    } else {
        Err(Rcode::Refused)
    }
}

fn address(family: Family, data: &[u8]) -> Option<IpAddr> {
    match family {
        Family::V4 => <[u8; 4]>::try_from(data)
            .ok()
            .map(|v4| Ipv4Addr::from(v4).into()),
        Family::V6 => <[u8; 16]>::try_from(data)
            .ok()
            .map(|v6| Ipv6Addr::from(v6).into()),
    }
}

/// What it asks at a name of challenges; `None` if nothing is to be done.
pub(super) fn on_challenges(
    line: &Line<'_>,
    host: ChallengeHost,
) -> Result<Option<Operation>, Rcode> {
    let change = match (line.class, line.rtype) {
        (CLASS_ANY, Type::ANY | Type::TXT) => ChallengeChange::Clear(host),
        (_, Type::TXT) => {
            let value = only_string(line.data)?;
            match (line.class == CLASS_NONE, value) {
                (true, Some(value)) => ChallengeChange::Remove(host, value),
                // No record here has other data, so none is to be deleted.
                (true, None) => return Ok(None),
                (false, Some(value)) => ChallengeChange::Add(host, value),
                (false, None) => return Err(Rcode::Refused),
            }
        }
        _ => return Err(Rcode::Refused),
    };
    Ok(Some(Operation::Challenge(change)))
}

/// The value of a TXT record that is one string; `None` if it is an empty one, or several.
fn only_string(data: &[u8]) -> Result<Option<ChallengeValue>, Rcode> {
    let mut rest = data;
    let mut strings = Vec::new();
    while let Some((&length, behind)) = rest.split_first() {
        let (string, behind) = behind
            .split_at_checked(length.into())
            .ok_or(Rcode::FormErr)?;
        strings.push(string);
        rest = behind;
    }
    match strings[..] {
        // RFC 1035 section 3.3.14: "One or more".
        [] => Err(Rcode::FormErr),
        [string] => Ok(ChallengeValue::new(string)),
        _ => Ok(None),
    }
}
