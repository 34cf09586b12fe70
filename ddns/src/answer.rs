//! (Query, Table) → [`Answer`]: whether the name exists, and what it has.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use crate::protocol::{Ede, Rcode, Refusal, Type};
use crate::query::Query;
use crate::rrset::{Records, Soa};
use crate::table::{Found, Table};

/// What to say; [`encode`](crate::encode::encode) says it.
#[derive(Debug)]
pub enum Answer<'t> {
    /// One RRset. Nothing is added to it: who wants the name servers' addresses asks for them.
    Records(Records<'t>),
    /// The zone's SOA, because it was asked for.
    Soa(Soa<'t>),
    /// The name exists, without such a record (RFC 2308 section 2.2).
    NoData(Soa<'t>),
    /// The name does not exist (RFC 2308 section 2.1).
    NoName(Soa<'t>),
    /// Nothing but what proves it, because that was asked for.
    ProofAlone,
    /// No answer from the zone, but a code.
    Refusal(Refusal),
    /// Nothing here and now; it is to be had over TCP (RFC 1035 section 4.1.1, TC).
    Elsewhere,
}

/// Decides what `query` is told.
pub fn answer<'t>(query: &Query<'_>, table: &'t Table) -> Answer<'t> {
    let Some(below) = table.below_apex(query.name.as_wire()) else {
        return Answer::Refusal(Refusal::because(Rcode::Refused, Ede::NotAuthoritative));
    };
    // Before the look-up: what is said is never older than the serial that it is said with.
    let soa = table.soa();
    let found = match query.qtype {
        Type::ANY => one_of_any(below, table).1,
        qtype => table.find(below, qtype),
    };
    match found {
        Found::Records(records) => Answer::Records(records),
        Found::Soa => Answer::Soa(soa),
        Found::NoData => Answer::NoData(soa),
        Found::NoName => Answer::NoName(soa),
    }
}

/// RFC 8482 section 4.1: one RRset that exists, a small one, is answer enough to ANY. Says of which type it is.
pub(crate) fn one_of_any<'t>(below: &[u8], table: &'t Table) -> (Type, Found<'t>) {
    const SMALL_FIRST: [Type; 5] = [Type::A, Type::AAAA, Type::SOA, Type::NS, Type::TXT];
    SMALL_FIRST
        .into_iter()
        .map(|qtype| (qtype, table.find(below, qtype)))
        .find(|(_, found)| !matches!(found, Found::NoData))
        .unwrap_or((Type::ANY, Found::NoData))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::query::{Parsed, parse};
    use crate::table::tests::{self as tables, wire};

    fn ask(table: &Table, name: &str, qtype: Type) -> String {
        let mut message = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(wire(name));
        message.extend(qtype.0.to_be_bytes());
        message.extend([0, 1]);
        let Parsed::Query(query) = parse(&message) else {
            panic!("not a query");
        };
        match answer(&query, table) {
            Answer::Records(records) => {
                let count = records.octets().count();
                let octets = records.octets().to_vec();
                format!(
                    "{count} of type {} ending in {}",
                    octets[3],
                    octets[octets.len() - 1]
                )
            }
            Answer::Soa(_) => "soa".into(),
            Answer::NoData(_) => "nodata".into(),
            Answer::NoName(_) => "nxdomain".into(),
            Answer::Refusal(refusal) => format!("{:?}", refusal.rcode),
            Answer::ProofAlone | Answer::Elsewhere => panic!("no answer is so by itself"),
        }
    }

    #[test]
    fn a_device_answers_with_its_own_address_or_else_with_the_relays() {
        let table = tables::with_devices();
        // The relay is at 192.0.2.250 and 2001:db8::250.
        assert_eq!(
            ask(&table, "away.nas.test", Type::A),
            "1 of type 1 ending in 250"
        );
        assert_eq!(
            ask(&table, "away.nas.test", Type::AAAA),
            "1 of type 28 ending in 80"
        );
        assert_eq!(
            ask(&table, "home.nas.test", Type::A),
            "1 of type 1 ending in 7"
        );
        assert_eq!(ask(&table, "home.nas.test", Type::AAAA), "nodata");
    }

    #[test]
    fn whatever_stands_below_a_device_exists() {
        let table = tables::with_devices();
        for name in ["x.home.nas.test", "a.b.c.home.nas.test", "*.home.nas.test"] {
            assert_eq!(ask(&table, name, Type::A), "1 of type 1 ending in 7");
            assert_eq!(ask(&table, name, Type::TXT), "nodata");
        }
        assert_eq!(
            ask(&table, "_acme-challenge.away.nas.test", Type::TXT),
            "nodata"
        );
        assert_eq!(ask(&table, "nobody.nas.test", Type::A), "nxdomain");
        assert_eq!(ask(&table, "x.nobody.nas.test", Type::A), "nxdomain");
        assert_eq!(ask(&table, "x.cloud.nas.test", Type::A), "nxdomain");
    }

    #[test]
    fn the_apex_and_what_is_outside_of_it() {
        let table = tables::with_devices();
        assert_eq!(ask(&table, "nas.test", Type::SOA), "soa");
        assert_eq!(
            ask(&table, "nas.test", Type::NS),
            "1 of type 2 ending in 12"
        );
        assert_eq!(ask(&table, "nas.test", Type(1000)), "nodata");
        assert_eq!(ask(&table, "home.nas.test", Type::SOA), "nodata");
        for outside in ["", "test", "xnas.test", "example.com"] {
            assert_eq!(ask(&table, outside, Type::A), "Refused", "{outside}");
        }
    }

    #[test]
    fn any_gets_one_small_rrset() {
        let table = tables::with_devices();
        assert_eq!(
            ask(&table, "nas.test", Type::ANY),
            "1 of type 1 ending in 250"
        );
        assert_eq!(
            ask(&table, "home.nas.test", Type::ANY),
            "1 of type 1 ending in 7"
        );
        assert_eq!(ask(&table, "nobody.nas.test", Type::ANY), "nxdomain");
    }
}
