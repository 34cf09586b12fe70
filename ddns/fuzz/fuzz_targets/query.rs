//! Any octets, over UDP and TCP: no panic, and a reply that keeps to its rules.

#![no_main]

use std::sync::LazyLock;

use ddns::Config;
use ddns::addresses::Addresses;
use ddns::encode::MAX_REPLY;
use ddns::protocol::UDP_LIMIT;
use ddns::query::{Parsed, parse};
use ddns::server::{Response, Transport, respond};
use ddns::table::{Held, Table};
use ddns::zone::Contents;
use directory::{DeviceName, RegistrationId, Zone};
use libfuzzer_sys::fuzz_target;

/// `nas.test` with a device `home` that has own addresses and one `away` that has none.
static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let zone = Zone::parse("nas.test").unwrap();
    let relay = [
        "192.0.2.250".parse().unwrap(),
        "2001:db8::250".parse().unwrap(),
    ];
    let contents = Contents::new(&zone, &Config::default(), &relay, &relay).unwrap();
    let table = Table::new(contents, 1);
    let own = Addresses {
        v4: Some("192.0.2.7".parse().unwrap()),
        v6: None,
    };
    for (registration, name, addresses) in [(1, "home", own), (2, "away", Addresses::default())] {
        let name = DeviceName::parse(name).unwrap();
        let mut held = Held::default();
        held.own.addresses = addresses;
        table.put(&name, RegistrationId(registration), Some(&held));
    }
    table
});

fuzz_target!(|message: &[u8]| {
    for (transport, size) in [(Transport::Udp, UDP_LIMIT), (Transport::Tcp, MAX_REPLY)] {
        let mut out = vec![0; size];
        let len = match respond(&TABLE, transport, message, &mut out) {
            Response::Reply { len, .. } => len,
            Response::Silence(_) => continue,
            Response::NoRoom => panic!("a reply without room"),
        };
        let reply = &out[..len];
        assert_eq!(reply[..2], message[..2], "another id");
        assert!(reply[2] & 0x80 != 0, "not a reply");
        if transport == Transport::Udp {
            let limit = match parse(message) {
                Parsed::Query(query) => query.head.udp_limit(),
                Parsed::Refuse(head, _) => head.udp_limit(),
                Parsed::Silence(_) => panic!("a reply to what gets none"),
            };
            assert!(len <= limit, "longer than the client takes");
        }
        let mut echo = vec![0; size];
        let answered = respond(&TABLE, transport, reply, &mut echo);
        assert!(
            matches!(answered, Response::Silence(_)),
            "a reply was answered"
        );
    }
});
