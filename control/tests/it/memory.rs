//! Bulk that leaves its stream never enters a process: neither the server's nor, where TLS passes through, the agent's.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;

use crate::process::Process;
use crate::world::{Place, Server};

/// A hello that names demo.nas.localhost.
pub(crate) const HELLO: &[u8] = include_bytes!("../../../relay/wire/testdata/chromium.bin");

const MIB: usize = 1024 * 1024;

/// Stands in the memory of both programs.
const KNOWN: &[u8] = b"EXPORTER-causeway-raw/1";

/// Both directions' bulk behind the first mebibyte.
const BULK: usize = 64 * MIB;

#[test]
fn no_octet_of_moved_bulk_is_in_the_memory_of_server_or_agent() {
    let server = Server::start_with(Place::Host, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("tls://{}", listener.local_addr().unwrap());
    let agent = server.pair("disk").run(&origin);

    let mut visitor = TcpStream::connect(server.ready.front).unwrap();
    visitor.write_all(&hello("disk")).unwrap();
    let (mut origin, _) = listener.accept().unwrap();
    let mut heard = vec![0; HELLO.len()];
    origin.read_exact(&mut heard).unwrap();

    for direction in ["down", "up"] {
        let (from, to) = match direction {
            "down" => (&mut origin, &mut visitor),
            _ => (&mut visitor, &mut origin),
        };
        pass(from, to, &vec![0; MIB], MIB);
        // Each portion is sent when the one before has come: long enough for both ends to have said that it moves.
        for _ in 0..500 {
            pass(from, to, &[0; 1024], 1024);
        }
        let canary = random();
        let octets = canary.repeat(MIB / canary.len());
        pass(from, to, &octets, BULK);
        // In the middle of it: much has been sent, and not all of it has been taken.
        from.set_nonblocking(true).unwrap();
        let sent = std::iter::from_fn(|| from.write(&octets).ok()).sum::<usize>();
        from.set_nonblocking(false).unwrap();
        assert!(sent > 0);
        for (process, name) in [(&server.process, "server"), (&agent, "agent")] {
            assert!(searched(process, KNOWN), "what is there is found");
            assert!(
                !searched(process, &canary),
                "{direction}: a canary is in the {name}'s memory"
            );
        }
        to.read_exact(&mut vec![0; sent]).unwrap();
    }
    assert_eq!(
        server.metric("causeway_relay_raw_connections_total{outcome=\"came\"}"),
        1
    );
    assert_eq!(server.metric("causeway_relay_splice_fallback_total"), 0);
}

/// Sends `octets` over and over until `length` have been sent and taken.
fn pass(from: &mut TcpStream, to: &mut TcpStream, octets: &[u8], length: usize) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..length / octets.len() {
                from.write_all(octets).unwrap();
            }
        });
        let mut buffer = vec![0; 256 * 1024];
        let mut left = length;
        while left > 0 {
            let portion = buffer.len().min(left);
            left -= to.read(&mut buffer[..portion]).unwrap();
        }
    });
}

/// Whether a process has `pattern` anywhere in its memory.
fn searched(process: &Process, pattern: &[u8]) -> bool {
    let id = process.id();
    let memory = File::open(format!("/proc/{id}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{id}/maps")).unwrap();
    maps.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        rights.starts_with('r') && !line.contains("[v") && is_in(&memory, start, end, pattern)
    })
}

/// Whether `pattern` stands between two addresses, in any position. It is repeated where it is, so that it is enough to find
/// it behind one of its own first octets.
fn is_in(memory: &File, start: u64, end: u64, pattern: &[u8]) -> bool {
    let mut octets = vec![0; usize::try_from(end - start).unwrap()];
    // What cannot be read (a guard page, a mapping that has just gone) holds nothing.
    if memory.read_exact_at(&mut octets, start).is_err() {
        return false;
    }
    let mut at = 0;
    while let Some(found) = octets[at..].iter().position(|octet| *octet == pattern[0]) {
        at += found;
        if octets[at..].starts_with(pattern) {
            return true;
        }
        at += 1;
    }
    false
}

/// The hello with another name of the same length.
pub(crate) fn hello(device: &str) -> Vec<u8> {
    let mut hello = HELLO.to_vec();
    let name = b"demo.nas.localhost";
    let at = hello
        .windows(name.len())
        .position(|part| part == name)
        .unwrap();
    hello[at..at + device.len()].copy_from_slice(device.as_bytes());
    hello
}

fn random() -> [u8; 32] {
    let mut octets = [0; 32];
    let mut source = File::open("/dev/urandom").unwrap();
    source.read_exact(&mut octets).unwrap();
    octets
}
