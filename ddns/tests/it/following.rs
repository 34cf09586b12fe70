//! The table and the Directory agree, always.

use std::sync::atomic::{AtomicBool, Ordering};

use directory::{Device, DeviceName, RegistrationId, Writer};
use prometheus::Registry;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::dns::{decode, query, receive, resolve, udp_socket};
use crate::world::{self, Directory, World};

#[tokio::test]
async fn a_change_is_in_force_when_the_writer_returns() {
    let mut world = World::start().await;
    let server = world.v4();
    for _ in 0..100 {
        world.directory.add("mynas");
        assert_eq!(resolve(server, "mynas.nas.test", "A").await, "192.0.2.250");
        world.directory.remove("mynas");
        assert_eq!(resolve(server, "mynas.nas.test", "A").await, "NXDOMAIN");
    }
}

#[tokio::test]
async fn a_new_key_changes_no_address() {
    let mut world = World::start().await;
    world.directory.add("mynas");
    world.set("mynas", &["192.0.2.7"]).await.unwrap();
    let name = DeviceName::parse("mynas").unwrap();
    let device = world.directory.reader.device_by_name(&name).unwrap();
    world.directory.writer.put(Device {
        ddns_key: None,
        ..Device::clone(&device)
    });
    assert_eq!(
        resolve(world.v4(), "mynas.nas.test", "A").await,
        "192.0.2.7"
    );
}

/// Devices come and go while the server starts: whoever is there at the end answers, and nobody else. There are so many
/// names that none has its turn a second time soon, which would cover up a change that was missed.
#[tokio::test(flavor = "multi_thread")]
async fn changes_during_the_start_are_not_missed() {
    const NAMES: u64 = 20_000;
    for _ in 0..3 {
        let state = TempDir::new().unwrap();
        let Directory {
            mut writer, reader, ..
        } = Directory::new();
        (0..NAMES).for_each(|i| toggle(&mut writer, i));
        let done = AtomicBool::new(false);
        let (registry, stop) = (Registry::new(), CancellationToken::new());
        let config = "listen = \"127.0.0.1:0\"";
        let server = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut turns = (0..NAMES).cycle();
                while !done.load(Ordering::Relaxed) {
                    toggle(&mut writer, turns.next().unwrap());
                }
            });
            let starting = world::start(&reader, state.path(), config, &registry, &stop);
            let runtime = tokio::runtime::Handle::current();
            let server = tokio::task::block_in_place(|| runtime.block_on(starting));
            done.store(true, Ordering::Relaxed);
            server.unwrap()
        });
        let socket = udp_socket(server.addr()).await;
        for i in 0..NAMES {
            let is_there = reader.device_by_name(&name(i)).is_some();
            let expected = if is_there {
                "NOERROR aa"
            } else {
                "NXDOMAIN aa"
            };
            let host = format!("{}.nas.test", name(i));
            socket.send(&query(&[&host, "A"])).await.unwrap();
            assert_eq!(decode(&receive(&socket).await)[0], expected, "{host}");
        }
        server.shutdown().await.unwrap();
    }
}

/// Removes the device if it is there, and registers it if not.
fn toggle(writer: &mut Writer, i: u64) {
    if writer.remove(&name(i)).is_none() {
        writer.put(Device {
            registration: RegistrationId(i),
            name: name(i),
            identity: None,
            ddns_key: None,
            challenge_key: None,
        });
    }
}

fn name(i: u64) -> DeviceName {
    DeviceName::parse(&format!("d{i}")).unwrap()
}
