//! Why a device's name leads where it does, in words for whoever wonders: TXT at `_why.<device>`, if the operator wants that. Made from
//! what the answers themselves are made from, so they never disagree. No address stands in it.

use crate::addresses::Addresses;
use crate::protocol::Type;
use crate::rrset::Rrset;
use crate::steering::{HTTPS_PORT, Lead};

/// The label in front of a device's own, as it is on the wire in lower case.
pub const WHY_LABEL: &[u8] = b"\x04_why";

/// Seconds. Who asks wants to know how it is now.
const TTL: u32 = 5;

/// What a name has that leads there, and is held by relays with these names; the server's own has none.
pub(crate) fn compile(lead: Lead, own: Addresses, relays: &[&[u8]]) -> Option<Rrset> {
    let why = why(lead, own, relays);
    let length = u8::try_from(why.len()).ok()?; // two names of relays, of 63 octets each at most
    Rrset::compile(Type::TXT, TTL, &[[&[length], why.as_bytes()].concat()])
}

fn why(lead: Lead, own: Addresses, relays: &[&[u8]]) -> String {
    let mut relay = "relay".to_owned();
    for name in relays {
        relay += " ";
        relay += &String::from_utf8_lossy(name);
    }
    match lead {
        Lead::Given if own.is_empty() => format!("{relay}: the device has said no address"),
        Lead::Given => "given: the device or its owner has said this address".to_owned(),
        Lead::Steered(_) => match lead.direct(own) {
            Some((_, HTTPS_PORT)) => "direct: the device is found at its own address".to_owned(),
            Some((_, port)) => format!(
                "{relay}: the device is found at its own address, but at port {port}, which only HTTPS records tell"
            ),
            None => format!(
                "{relay}: the device is not found at an address of its own, or its owner wants it so"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::steering::Direct;

    #[test]
    fn it_is_said_in_one_string_whatever_the_relays_are_called() {
        let own = Addresses {
            v4: Some([192, 0, 2, 7].into()),
            v6: None,
        };
        let none = Addresses::default();
        let found = |port| {
            Lead::Steered(Direct {
                v4: true,
                v6: false,
                port: NonZeroU16::new(port).unwrap(),
            })
        };
        let longest = [b'r'; 63];
        for (lead, own, relays, begins) in [
            (Lead::Given, none, &[][..], "relay: "),
            (Lead::Given, own, &[], "given: "),
            (found(443), own, &[&b"eu1"[..]], "direct: "),
            (found(443), none, &[b"eu1"], "relay eu1: "),
            (found(8443), own, &[b"eu1", b"eu2"], "relay eu1 eu2: "),
            (Lead::Steered(Direct::NOT), own, &[b"eu1"], "relay eu1: "),
            (found(65535), own, &[&longest, &longest], "relay rrr"),
        ] {
            let why = why(lead, own, relays);
            assert!(why.starts_with(begins), "{why}");
            assert!(!why.contains("192.0.2"), "{why}");
            assert!(compile(lead, own, relays).is_some(), "{why}");
        }
    }
}
