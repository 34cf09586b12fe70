//! A disk without room: updates are refused in the words of their door, queries are answered, and when there is room again all is
//! well.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::child::{Server, directory, on_disk, password};
use crate::dns::{ask_tcp, resolve};
use crate::http::dyn2;
use crate::signing::{Signer, update};

/// Starts a program with its state directory on a small disk of its own, which goes with it.
const ON_A_SMALL_DISK: [&str; 5] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs -o size=256k none \"$DDNS_TEST_STATE\" && exec \"$0\" \"$@\"",
];
/// A log is tried to be begun anew once a second.
const SOON: Duration = Duration::from_secs(5);

const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_updates_and_answers_queries_until_there_is_room_again() {
    let state = on_disk();
    let mut server = Server::spawn(state.path(), &ON_A_SMALL_DISK);
    let at = server.ready();
    let directory = directory();
    let signer = Signer::of("d1", &directory);
    assert_eq!(by_dyn2(at.http, 1).await, "good 192.0.2.1\n");
    assert_eq!(by_update(at.dns, &signer, 1).await, NOERROR);

    // In the process's own view of the file system.
    let filler = format!(
        "/proc/{}/root{}/filler",
        server.id(),
        state.path().display()
    );
    let mut file = File::create(&filler).unwrap();
    let full = std::iter::repeat_with(|| file.write_all(&[0; 4096]))
        .take(256)
        .find_map(Result::err);
    assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::StorageFull));

    // The last page that the log has begun takes some more.
    let mut last = 1;
    let refusal = loop {
        let octet = last % 250 + 1;
        let told = by_dyn2(at.http, octet).await;
        if told != format!("good 192.0.2.{octet}\n") {
            break told;
        }
        last = octet;
    };
    assert_eq!(refusal, "911\n");
    let before = Instant::now();
    // Longer than from one try to the next.
    while before.elapsed() < Duration::from_millis(1500) {
        assert_eq!(by_dyn2(at.http, 251).await, "911\n");
        assert_eq!(by_update(at.dns, &signer, 251).await, SERVFAIL);
        let [of_dyn2, of_update] = [
            resolve(at.dns, "d0.nas.test", "A").await,
            resolve(at.dns, "d1.nas.test", "A").await,
        ];
        assert_eq!(of_dyn2, format!("192.0.2.{last}"), "what was acknowledged");
        assert_eq!(of_update, "192.0.2.1", "what was acknowledged");
    }

    std::fs::remove_file(&filler).unwrap();
    drop(file);
    let room = Instant::now();
    while by_update(at.dns, &signer, 252).await != NOERROR {
        assert!(room.elapsed() < SOON, "it does not find the room");
    }
    assert_eq!(by_dyn2(at.http, 252).await, "good 192.0.2.252\n");
    for name in ["d0.nas.test", "d1.nas.test"] {
        assert_eq!(resolve(at.dns, name, "A").await, "192.0.2.252");
    }
    server.end();
}

async fn by_dyn2(server: SocketAddr, octet: u8) -> String {
    let query = format!("hostname=d0.nas.test&myip=192.0.2.{octet}");
    dyn2(server, "d0", &password(0), &query).await
}

/// The code of the reply.
async fn by_update(server: SocketAddr, signer: &Signer, octet: u8) -> u8 {
    let host = "d1.nas.test";
    let statements = format!("delete {host} A; add {host} A 192.0.2.{octet}");
    let message = signer.sign(&update("nas.test", &statements));
    let reply = ask_tcp(server, &message.octets).await.unwrap();
    assert!(signer.is_signed(&message, &reply));
    reply[3] & 0xF
}
