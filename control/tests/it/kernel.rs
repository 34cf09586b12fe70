//! Kernels that refuse what makes bulk fast: it is slower then, and as whole as ever.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use crate::memory::{HELLO, hello};
use crate::process::run;
use crate::world::{Place, Server, causeway_agent};

/// Enough to be called bulk long before its end.
const BULK: usize = 30_000_000;

/// Sends bulk to a visitor of `server`, whose agent passes TLS on, and back, and compares.
fn bulk_is_whole(server: &Server, agent_options: &[&str]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("tls://{}", listener.local_addr().unwrap());
    let _agent = server.pair("disk").run_with(&origin, agent_options);
    let (mut visitor, mut origin) = visit(server, &listener);
    passes_whole(&mut origin, &mut visitor);
    passes_whole(&mut visitor, &mut origin);
}

/// Both ends of a visitor's connection, once the origin has its hello.
fn visit(server: &Server, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut visitor = TcpStream::connect(server.ready.front).unwrap();
    visitor.write_all(&hello("disk")).unwrap();
    let (mut origin, _) = listener.accept().unwrap();
    origin.read_exact(&mut vec![0; HELLO.len()]).unwrap();
    (visitor, origin)
}

fn passes_whole(from: &mut TcpStream, to: &mut TcpStream) {
    let octets: Vec<u8> = (0..BULK).map(|at| (at % 251) as u8).collect();
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            from.write_all(&octets).unwrap();
            from.shutdown(Shutdown::Write).unwrap();
        });
        to.read_to_end(&mut received).unwrap();
    });
    assert!(received == octets);
}

#[test]
fn without_splice_bulk_is_copied() {
    for refusal in [
        "splice:error=ENOSYS",
        "splice:error=EINVAL",
        "splice:error=EPERM",
    ] {
        let server = Server::start_with(Place::Refusing(refusal), &[]);
        bulk_is_whole(&server, &[]);
        let came = "causeway_relay_raw_connections_total{outcome=\"came\"}";
        assert_eq!(server.metric(came), 1, "{refusal}");
        assert!(
            server.metric("causeway_relay_splice_fallback_total") > 0,
            "{refusal}"
        );
    }
}

#[test]
fn without_pipes_bulk_is_copied() {
    let server = Server::start_with(Place::Refusing("pipe2:error=EMFILE"), &[]);
    bulk_is_whole(&server, &[]);
    assert!(server.metric("causeway_relay_splice_fallback_total") > 0);
}

#[test]
fn a_kernel_that_fails_at_batches_of_packets_loses_none() {
    // EIO is what a driver says that cannot. What goes to the agent takes several packets and no bulk, which would leave QUIC;
    // what comes back takes one, as a visitor gets several in one call of the same name.
    let place = Place::Refusing("sendmsg:error=EIO:when=50..60");
    let server = Server::start_with(place, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("tls://{}", listener.local_addr().unwrap());
    let device = server.pair("disk").at(Place::Host);
    let _agent = device.run(&origin);
    let (mut visitor, mut origin) = visit(&server, &listener);
    for number in 0..200 {
        let (request, answer) = ([number; 40_000], [number; 1000]);
        visitor.write_all(&request).unwrap();
        expect(&mut origin, &request);
        origin.write_all(&answer).unwrap();
        expect(&mut visitor, &answer);
    }
}

#[test]
fn a_kernel_that_is_short_of_memory_for_a_while_costs_no_tunnel() {
    let place = Place::Refusing("recvmmsg:error=ENOMEM:when=40..60");
    let server = Server::start_with(place, &[]);
    bulk_is_whole(&server, &[]);
    assert_eq!(attached(&server), 1);
}

/// How many tunnels over QUIC there have been, beside the demo's.
fn attached(server: &Server) -> u64 {
    let tunnels = "causeway_relay_tunnels_attached_total{transport=\"quic\"}";
    server.metric(tunnels) - 1
}

fn expect(from: &mut TcpStream, octets: &[u8]) {
    let mut received = vec![0; octets.len()];
    from.read_exact(&mut received).unwrap();
    assert!(received == octets);
}

#[test]
fn an_owner_can_switch_batches_off() {
    let server = Server::start();
    bulk_is_whole(&server, &["--gso", "off"]);
}

#[test]
fn without_bbr_the_doctor_says_what_to_do() {
    let server = Server::start();
    let device = server.pair("disk");
    for (refusal, said) in [
        (
            "setsockopt:error=EPERM",
            "BBR is not permitted to this user",
        ),
        ("setsockopt:error=ENOENT", "the kernel has no BBR"),
    ] {
        let mut doctor = Place::Refusing(refusal).command(causeway_agent());
        doctor
            .args(["doctor", "--json", "--state"])
            .arg(&device.state);
        let found = run(doctor).stdout;
        let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
        let mut findings = found.as_array().unwrap().iter();
        let finding = findings.find(|finding| finding["subject"] == "congestion control");
        let finding = finding.unwrap();
        let words = finding["words"].as_str().unwrap();
        assert!(words.contains(said), "{words}");
        let mend = finding["mend"].as_str().unwrap();
        assert!(
            mend.contains("net.ipv4.tcp_allowed_congestion_control"),
            "{mend}"
        );
    }
}
