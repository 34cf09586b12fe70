//! Any octets, over UDP and TCP, to a zone that is signed in either way, and to one that is not: no panic, and a reply that keeps to
//! its rules; also the short one of a network that has had its share.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use ddns::Moment;
use ddns::Config;
use ddns::addresses::Addresses;
use ddns::cookie::{Secret, Secrets};
use ddns::dnssec::keys::{InForce, Key, Role};
use ddns::dnssec::{self, DenialKind, Signer};
use ddns::encode::MAX_REPLY;
use ddns::lan::LanChange;
use ddns::protocol::UDP_LIMIT;
use ddns::query::{Head, Parsed, parse};
use ddns::server::{
    Client, Context, Identity, Response, Transport, respond, respond_in_short,
};
use ddns::table::{Held, Table};
use ddns::zone::Contents;
use directory::{DeviceName, RegistrationId, RelayName, Zone};
use libfuzzer_sys::fuzz_target;
use prometheus::Registry;

/// A zone, and who signs it.
struct Signed {
    table: Table,
    signer: Option<Signer>,
}

static ZONES: LazyLock<[Signed; 3]> = LazyLock::new(|| {
    let denials = [None, Some(DenialKind::Compact), Some(DenialKind::Nsec3)];
    denials.map(|denial| {
        let dnssec = denial.map(|denial| dnssec::Config {
            denial,
            ..dnssec::Config::default()
        });
        let table = table(dnssec.clone());
        let signer = dnssec.map(|dnssec| {
            let [ksk, zsk] = [Role::Ksk, Role::Zsk].map(|role| Arc::new(Key::generate(role).unwrap()));
            let in_force = InForce {
                dnskeys: vec![Arc::clone(&ksk), Arc::clone(&zsk)],
                zsk,
                ksks: vec![Arc::clone(&ksk)],
                cds: vec![ksk],
                premade: Vec::new(),
                next_change: None,
            };
            Signer::for_table(&table, &dnssec, &in_force, NOW, &Registry::new()).unwrap()
        });
        Signed { table, signer }
    })
});

const NOW: u32 = 1_800_000_000;

/// `nas.test` with a device `home` that has own addresses, and one at `lan`, one `away` that has none, and one `abroad` that two relays hold.
fn table(dnssec: Option<dnssec::Config>) -> Table {
    let zone = Zone::parse("nas.test").unwrap();
    let relay = [
        "192.0.2.250".parse().unwrap(),
        "2001:db8::250".parse().unwrap(),
    ];
    let config = Config {
        dnssec,
        ..Config::default()
    };
    let contents = Contents::new(&zone, &config, &relay, &relay).unwrap();
    let table = Table::new(contents, 1);
    let own = Addresses {
        v4: Some("192.0.2.7".parse().unwrap()),
        v6: None,
    };
    let none = Addresses::default();
    for (registration, name, addresses) in
        [(1, "home", own), (2, "away", none), (3, "abroad", none)]
    {
        let name = DeviceName::parse(name).unwrap();
        let mut held = Held::default();
        held.own.addresses = addresses;
        if registration == 1 {
            let lan = LanChange::default().set([192, 168, 1, 7].into()).unwrap();
            held.own.lan = lan.apply(held.own.lan);
        }
        table.put(&name, RegistrationId(registration), Some(&held));
    }
    let [eu1, eu2] = ["eu1", "eu2"].map(|name| RelayName::parse(name).unwrap());
    let another = ["192.0.2.250", "192.0.2.251"].map(|text| text.parse().unwrap());
    let relays = [
        (eu1.clone(), relay.to_vec()),
        (eu2.clone(), another.to_vec()),
    ];
    table.set_relays(&relays).unwrap();
    table.hold(
        &DeviceName::parse("abroad").unwrap(),
        &[Some(eu1), Some(eu2)],
    );
    table
}

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity {
    secrets: Secrets::new(Secret::random().unwrap(), Some(Secret::random().unwrap())),
    nsid: Some("fuzz".to_owned().try_into().unwrap()),
});

/// A cookie of ours has so many octets more than the client's alone.
const OURS: usize = 16;

fuzz_target!(|message: &[u8]| {
    let ways = [(Transport::Udp, UDP_LIMIT), (Transport::Tcp, MAX_REPLY)];
    let zones = ZONES.iter().flat_map(|zone| ways.map(|way| (zone, way)));
    for (Signed { table, signer }, (transport, size)) in zones {
        let context = Context {
            transport,
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            moment: Moment {
                unix_seconds: NOW,
                nanoseconds: 0,
            },
            identity: &IDENTITY,
            signer: signer.as_ref(),
            limiter: None,
        };
        let mut out = vec![0; size];
        let Some((len, _)) = replied(respond(table, &context, message, &mut out)) else {
            continue;
        };
        let reply = &out[..len];
        check(table, &context, message, reply);

        let mut echo = vec![0; size];
        let answered = respond(table, &context, reply, &mut echo);
        assert!(
            matches!(answered, Response::Silence(_)),
            "a reply was answered"
        );

        let mut short = vec![0; size];
        let (len, _) = replied(respond_in_short(&context, message, &mut short)).unwrap();
        check(table, &context, message, &short[..len]);
        let ours = head(message).cookie().map_or(0, |_| OURS);
        assert!(len <= message.len() + ours, "more than was sent");
    }
});

fn replied(response: Response) -> Option<(usize, Client)> {
    match response {
        Response::Reply { len, client, .. } => Some((len, client)),
        Response::Signed | Response::Silence(_) => None,
        Response::NoRoom => panic!("a reply without room"),
        Response::Over => panic!("limited without a limit"),
    }
}

fn head(message: &[u8]) -> Head<'_> {
    match parse(message) {
        Parsed::Query(query) => query.head,
        Parsed::CookieOnly(head, _) | Parsed::Refuse(head, _) => head,
        Parsed::Signed | Parsed::Silence(_) => panic!("a reply to what gets none here"),
    }
}

/// What is true of every reply to `message`.
fn check(table: &Table, context: &Context<'_>, message: &[u8], reply: &[u8]) {
    let head = head(message);
    assert_eq!(reply[..2], message[..2], "another id");
    assert!(reply[2] & 0x80 != 0, "not a reply");
    assert_eq!(
        reply[11],
        u8::from(head.edns.is_some()),
        "EDNS of one side alone"
    );
    if context.transport == Transport::Udp {
        assert!(
            reply.len() <= head.udp_limit(),
            "longer than the client takes"
        );
    }
    // What the client has learnt is good, and comes back as it is.
    if let Some(cookie) = head.cookie() {
        let option = [&[0, 10, 0, 24][..], &cookie.client].concat();
        let at = reply
            .windows(option.len())
            .rposition(|octets| octets == option);
        let cookie = &reply[at.expect("no cookie")..][..28];
        let again = [
            &[
                1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 28,
            ],
            cookie,
        ];
        let mut out = vec![0; MAX_REPLY];
        let response = respond(table, context, &again.concat(), &mut out);
        let (len, client) = replied(response).expect("no reply to a cookie");
        assert_eq!(client, Client::Proven);
        assert!(out[..len].ends_with(cookie) && out[3] == 0, "not as it was");
    }
}
