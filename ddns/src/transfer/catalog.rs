//! The catalog (RFC 9432): a zone beside ours that says that there is ours, so that a secondary which follows catalogs serves ours
//! without having it in its configuration.
//!
//! ```text
//!  _catalog.<zone>.             SOA  invalid. invalid. 1 …
//!  _catalog.<zone>.             NS   invalid.
//!  version._catalog.<zone>.     TXT  "2"
//!  zone.zones._catalog.<zone>.  PTR  <zone>.
//! ```
//!
//! It is no part of the zone: there is no such name for anybody who asks, and only its secondaries can transfer it.

use std::sync::Arc;

use super::records::Gathering;
use super::versions::{Part, Published, Version, Whose};
use crate::protocol::Type;

/// What stands in front of the zone's name.
const LABEL: &[u8] = b"\x08_catalog";
const INVALID: &[u8] = b"\x07invalid\0";
/// To be raised with every change of the records here: a secondary that knows this serial asks for nothing.
const SERIAL: u32 = 1;
/// As the example of RFC 9432 has it: a zone goes from a secondary when its catalog does, and this one does not expire.
const TIMES: [u32; 4] = [3600, 600, 2_147_483_646, 0];
/// Section 4.1: nobody is to keep any of it.
const TTL: u32 = 0;

/// The catalog's name on the wire; `apex` is the zone's.
pub(super) fn name(apex: &[u8]) -> Box<[u8]> {
    [LABEL, apex].concat().into()
}

/// All of it.
pub(super) fn published(apex: &[u8]) -> Published {
    let mut soa = Gathering::default();
    let numbers = [SERIAL].into_iter().chain(TIMES).map(u32::to_be_bytes);
    let numbers: Vec<_> = numbers.flatten().collect();
    soa.put(b"", Type::SOA, TTL, &[INVALID, INVALID, &numbers].concat());
    let mut others = Gathering::default();
    others.put(b"", Type::NS, TTL, INVALID);
    others.put(b"\x07version", Type::TXT, TTL, b"\x012");
    others.put(b"\x04zone\x05zones", Type::PTR, TTL, apex);
    let part = Part::from([(Whose::Node([].into()), others.sorted())]);
    Published::only(Version {
        serial: SERIAL,
        soa: soa.listed(),
        parts: [Arc::new(part)].into(),
    })
}
