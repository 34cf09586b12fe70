//! How long one DNS query takes from its octets to those of its answer, with 100,000 devices in the table. The names are
//! asked for in scattered order, so that the table's memory is as cold as it is on a real server.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on says so by panicking"
)]

use std::net::{Ipv4Addr, Ipv6Addr};

use ddns::Config;
use ddns::addresses::Addresses;
use ddns::own::Own;
use ddns::protocol::{CLASS_IN, Type, UDP_LIMIT};
use ddns::server::{Kind, Response, Transport, respond};
use ddns::table::{Held, Table};
use ddns::zone::Contents;
use directory::{DeviceName, RegistrationId, Zone};
use divan::{Bencher, black_box};

const ZONE: &str = "nas.example.com";
const DEVICES: u32 = 100_000;

/// How far the next name is from the last one, in the order of registration: prime, so that every name has its turn.
const STRIDE: usize = 61_813;

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 4000, sample_size = 250)]
fn a_of_a_device(bencher: Bencher<'_, '_>) {
    let table = table();
    let queries: Vec<_> = (0..DEVICES).map(query).collect();
    let mut out = [0; UDP_LIMIT];
    for query in &queries {
        let response = respond(&table, Transport::Udp, query, &mut out);
        let good = matches!(
            response,
            Response::Reply {
                kind: Kind::NoError,
                ..
            }
        );
        assert!(good, "what is measured must be right: {response:?}");
    }
    let mut next = 0;
    bencher
        .with_inputs(|| {
            next = (next + STRIDE) % queries.len();
            queries[next].clone() // warm, as if just received
        })
        .bench_local_refs(|query| respond(&table, Transport::Udp, query, black_box(&mut out)));
}

/// A zone whose devices all have an address of their own in both families.
fn table() -> Table {
    let zone = Zone::parse(ZONE).unwrap();
    let public = [Ipv4Addr::new(203, 0, 113, 10).into()];
    let contents = Contents::new(&zone, &Config::default(), &public, &public).unwrap();
    let table = Table::new(contents, 1);
    for number in 0..DEVICES {
        let addresses = Addresses {
            v4: Some(Ipv4Addr::from_bits(0xc633_0000 + number)),
            v6: Some(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number))),
        };
        let name = DeviceName::parse(&name(number)).unwrap();
        let held = Held {
            own: Own {
                addresses,
                ..Own::default()
            },
            version: 1,
        };
        table.put(&name, RegistrationId(number.into()), Some(&held));
    }
    table
}

/// A query as a resolver sends it: with EDNS (RFC 6891), for 1232 octets at most.
fn query(number: u32) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in format!("{}.{ZONE}", name(number)).split('.') {
        query.push(label.len().try_into().unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&Type::A.0.to_be_bytes());
    query.extend_from_slice(&CLASS_IN.to_be_bytes());
    query.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    query
}

fn name(number: u32) -> String {
    format!("nas-{number}")
}
