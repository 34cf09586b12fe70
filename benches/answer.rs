//! How long one DNS query takes from its octets to those of its answer, with 100,000 devices in the table. The names are
//! asked for in scattered order, so that the table's memory is as cold as it is on a real server. With a cookie (RFC 9018),
//! the server also checks that it is one of its own.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on says so by panicking"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ddns::Config;
use ddns::Moment;
use ddns::addresses::Addresses;
use ddns::cookie::{Secret, Secrets};
use ddns::dnssec::keys::{Keys, Leads};
use ddns::dnssec::{self, DenialKind, Signer};
use ddns::own::Own;
use ddns::protocol::{CLASS_IN, Type, UDP_LIMIT};
use ddns::server::{Client, Context, Identity, Kind, Response, Transport, respond};
use ddns::table::{Held, Table};
use ddns::zone::Contents;
use directory::{DeviceName, RegistrationId, Zone};
use divan::{Bencher, black_box};
use prometheus::Registry;

const ZONE: &str = "nas.example.com";
const DEVICES: u32 = 100_000;

/// Seconds since 1970.
const NOW: u32 = 1_800_000_000;

/// How far the next name is from the last one, in the order of registration: prime, so that every name has its turn.
const STRIDE: usize = 61_813;

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 4000, sample_size = 250)]
fn a_of_a_device(bencher: Bencher<'_, '_>) {
    let queries = (0..DEVICES).map(query).collect();
    measure(bencher, &identity(), Kind::NoError, queries);
}

/// What a flood of random names asks for.
#[divan::bench(sample_count = 4000, sample_size = 250)]
fn no_such_name(bencher: Bencher<'_, '_>) {
    let queries = (DEVICES..2 * DEVICES).map(query).collect();
    measure(bencher, &identity(), Kind::NxDomain, queries);
}

#[divan::bench(sample_count = 4000, sample_size = 250)]
fn with_a_cookie(bencher: Bencher<'_, '_>) {
    let identity = identity();
    let cookie = learnt(&identity);
    let queries = (0..DEVICES).map(|number| with_cookie(&query(number), &cookie));
    measure(bencher, &identity, Kind::NoError, queries.collect());
}

/// Signed, and every signature made before.
#[divan::bench(sample_count = 4000, sample_size = 250, args = [DenialKind::Compact, DenialKind::Nsec3])]
fn with_do(bencher: Bencher<'_, '_>, denial: DenialKind) {
    let dnssec = dnssec::Config {
        denial,
        ..dnssec::Config::default()
    };
    let table = table(Some(dnssec.clone()));
    let folder = tempfile::tempdir().unwrap();
    let zone = Zone::parse(ZONE).unwrap();
    let keys = Keys::open(folder.path().join("keys"), &zone, Leads::default(), NOW).unwrap();
    let registry = Registry::new();
    let signer = Signer::for_table(&table, &dnssec, &keys.in_force(), NOW, &registry).unwrap();
    let queries = (0..DEVICES).map(|number| with_do_bit(query(number)));
    let expected = Expected {
        kind: Kind::NoError,
        is_signed: true,
    };
    measure_signed(
        bencher,
        &table,
        Some(&signer),
        &identity(),
        &expected,
        queries.collect(),
    );
}

fn measure(bencher: Bencher<'_, '_>, identity: &Identity, kind: Kind, queries: Vec<Vec<u8>>) {
    let expected = Expected {
        kind,
        is_signed: false,
    };
    measure_signed(bencher, &table(None), None, identity, &expected, queries);
}

/// What is answered.
struct Expected {
    kind: Kind,
    is_signed: bool,
}

fn measure_signed(
    bencher: Bencher<'_, '_>,
    table: &Table,
    signer: Option<&Signer>,
    identity: &Identity,
    expected: &Expected,
    queries: Vec<Vec<u8>>,
) {
    let mut context = context(identity);
    context.signer = signer;
    let mut out = [0; UDP_LIMIT];
    for (query, second) in queries.iter().zip(0..) {
        // So slowly that none is too much for one second.
        context.moment.nanoseconds = second * 1_000_000_000;
        let response = respond(table, &context, query, &mut out);
        let good = matches!(
            response,
            Response::Reply {
                kind,
                client: Client::Unknown | Client::Proven,
                ..
            } if kind == expected.kind && (out[7] == 2) == expected.is_signed
        );
        assert!(good, "what is measured must be right: {response:?}");
    }
    let mut next = 0;
    bencher
        .with_inputs(|| {
            next = (next + STRIDE) % queries.len();
            queries[next].clone() // warm, as if just received
        })
        .bench_local_refs(|query| respond(table, &context, query, black_box(&mut out)));
}

fn identity() -> Identity {
    Identity {
        secrets: Secrets::new(Secret::random().unwrap(), None),
        nsid: None,
    }
}

fn context(identity: &Identity) -> Context<'_> {
    Context {
        transport: Transport::Udp,
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        moment: Moment {
            unix_seconds: NOW,
            nanoseconds: 0,
        },
        identity,
        signer: None,
        limiter: None,
    }
}

/// The cookie that a client gets with its first answer, which it ends.
fn learnt(identity: &Identity) -> Vec<u8> {
    let first = with_cookie(&query(0), &[7; 8]);
    let mut out = [0; UDP_LIMIT];
    let Response::Reply { len, .. } = respond(&table(None), &context(identity), &first, &mut out)
    else {
        unreachable!("a query is answered");
    };
    out[len - 24..len].to_vec()
}

/// The query with a COOKIE option (RFC 7873) in its OPT record.
fn with_cookie(query: &[u8], cookie: &[u8]) -> Vec<u8> {
    let length: u8 = cookie.len().try_into().unwrap();
    let head = query.strip_suffix(&[0, 0]).unwrap();
    [head, &[0, length + 4, 0, 10, 0, length], cookie].concat()
}

/// A zone whose devices all have an address of their own in both families.
fn table(dnssec: Option<dnssec::Config>) -> Table {
    let zone = Zone::parse(ZONE).unwrap();
    let public = [Ipv4Addr::new(203, 0, 113, 10).into()];
    let config = Config {
        dnssec,
        ..Config::default()
    };
    let contents = Contents::new(&zone, &config, &public, &public).unwrap();
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

/// The query with the DO bit (RFC 3225) in its OPT record.
fn with_do_bit(mut query: Vec<u8>) -> Vec<u8> {
    let flags = query.len() - 4;
    query[flags] |= 0x80;
    query
}

fn name(number: u32) -> String {
    format!("nas-{number}")
}
