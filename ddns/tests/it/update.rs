//! Updates and what lasts of them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ddns::StartError;
use ddns::update::{Outcome, UpdateError};
use directory::{DeviceName, RegistrationId};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::dns::resolve;
use crate::world::{self, World, change};

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_update_is_in_the_very_next_answer() {
    let mut world = World::start().await;
    for name in ["a", "b", "c", "d"] {
        world.directory.add(name);
    }
    let world = Arc::new(world);
    let tasks = ["a", "b", "c", "d"].map(|name| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let host = format!("{name}.nas.test");
            for last in 1..=150 {
                let address = format!("192.0.2.{last}");
                let outcome = world.set(name, &[&address]).await.unwrap();
                assert!(matches!(outcome, Outcome::Changed(_)));
                assert_eq!(resolve(world.v4(), &host, "A").await, address);
            }
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn updates_outlive_the_server() {
    let mut world = World::start().await;
    for name in ["home", "away", "never"] {
        world.directory.add(name);
    }
    world
        .set("home", &["192.0.2.7", "2001:db8::7"])
        .await
        .unwrap();
    world.set("away", &["192.0.2.8"]).await.unwrap();

    let world = world.restart().await;
    let server = world.v4();
    assert_eq!(resolve(server, "home.nas.test", "A").await, "192.0.2.7");
    assert_eq!(
        resolve(server, "home.nas.test", "AAAA").await,
        "2001:db8::7"
    );
    assert_eq!(resolve(server, "away.nas.test", "A").await, "192.0.2.8");
    assert_eq!(resolve(server, "never.nas.test", "A").await, "192.0.2.250");
    assert_eq!(world.metric("names"), 3.0);
    assert_eq!(world.metric("names_with_addresses"), 2.0);
}

/// What a `kill -9` leaves is the file as it is when the update is acknowledged.
#[tokio::test]
async fn an_update_is_in_the_file_when_it_is_acknowledged() {
    let mut world = World::start().await;
    world.directory.add("mynas");
    for last in 1..=20 {
        let address = format!("192.0.2.{last}");
        world.set("mynas", &[&address]).await.unwrap();

        let copy = tempfile::tempdir().unwrap();
        for file in ["ddns.snapshot", "ddns.log.1"] {
            std::fs::copy(world.state.path().join(file), copy.path().join(file)).unwrap();
        }
        let (registry, stop) = (Registry::new(), CancellationToken::new());
        let config = "listen = \"127.0.0.1:0\"";
        let other = world::start(
            &world.directory.reader,
            copy.path(),
            config,
            &registry,
            &stop,
        )
        .await
        .unwrap();
        assert_eq!(resolve(other.addr(), "mynas.nas.test", "A").await, address);
        other.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_torn_tail_is_dropped_and_the_rest_kept() {
    let mut world = World::start().await;
    world.directory.add("mynas");
    world.set("mynas", &["192.0.2.7"]).await.unwrap();
    world.server.shutdown().await.unwrap();

    let path = world.state.path().join("ddns.log.1");
    let mut octets = std::fs::read(&path).unwrap();
    octets.extend([0, 30, 1, 2, 3]);
    std::fs::write(&path, octets).unwrap();

    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let config = "listen = \"127.0.0.1:0\"";
    let server = world::start(
        &world.directory.reader,
        world.state.path(),
        config,
        &registry,
        &stop,
    )
    .await
    .unwrap();
    assert_eq!(
        resolve(server.addr(), "mynas.nas.test", "A").await,
        "192.0.2.7"
    );
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_left_alone() {
    let world = World::start().await;
    world.server.shutdown().await.unwrap();
    let path = world.state.path().join("ddns.log.1");
    std::fs::write(&path, "my diary").unwrap();

    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let config = "listen = \"127.0.0.1:0\"";
    let refused = world::start(
        &world.directory.reader,
        world.state.path(),
        config,
        &registry,
        &stop,
    )
    .await
    .unwrap_err();
    assert!(matches!(refused, StartError::Log { .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), b"my diary");
}

/// A directory in the way of the next snapshot stands for a disk that cannot be written to, and a torn log wants one.
#[tokio::test]
async fn without_a_disk_answers_go_on_and_updates_wait_for_it() {
    let mut world = World::start().await;
    world.directory.add("mynas");
    world.set("mynas", &["192.0.2.7"]).await.unwrap();
    let obstacle = world.state.path().join("ddns.snapshot.new");
    std::fs::create_dir(&obstacle).unwrap();
    let log = world.state.path().join("ddns.log.1");
    let mut log = OpenOptions::new().append(true).open(log).unwrap();
    log.write_all(&[0, 30, 1, 2, 3]).unwrap();

    let world = world.restart().await;
    let server = world.v4();
    assert_eq!(resolve(server, "mynas.nas.test", "A").await, "192.0.2.7");
    for address in ["192.0.2.8", "192.0.2.7"] {
        let refused = world.set("mynas", &[address]).await;
        assert_eq!(refused, Err(UpdateError::Storage), "{address}");
    }
    assert_eq!(resolve(server, "mynas.nas.test", "A").await, "192.0.2.7");

    std::fs::remove_dir(&obstacle).unwrap();
    let began = Instant::now();
    while let Err(error) = world.set("mynas", &["192.0.2.9"]).await {
        assert_eq!(error, UpdateError::Storage);
        assert!(began.elapsed() < Duration::from_secs(10), "still refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(resolve(server, "mynas.nas.test", "A").await, "192.0.2.9");
    let world = world.restart().await;
    let found = resolve(world.v4(), "mynas.nas.test", "A").await;
    assert_eq!(found, "192.0.2.9");
}

#[tokio::test]
async fn a_new_server_without_a_disk_does_not_start() {
    let world = World::start().await;
    let state = tempfile::tempdir().unwrap();
    std::fs::create_dir(state.path().join("ddns.snapshot.new")).unwrap();
    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let config = "listen = \"127.0.0.1:0\"";
    let refused = world::start(
        &world.directory.reader,
        state.path(),
        config,
        &registry,
        &stop,
    )
    .await
    .unwrap_err();
    assert!(matches!(refused, StartError::NewLog { .. }), "{refused}");
}

#[tokio::test]
async fn two_servers_do_not_share_a_state() {
    let world = World::start().await;
    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let config = "listen = \"127.0.0.1:0\"";
    let refused = world::start(
        &world.directory.reader,
        world.state.path(),
        config,
        &registry,
        &stop,
    )
    .await
    .unwrap_err();
    assert!(matches!(refused, StartError::State { .. }), "{refused}");
}

/// Whether 192.0.2.7 is in any file.
fn has_address(state: &Path) -> bool {
    std::fs::read_dir(state).unwrap().any(|file| {
        // It may be gone between two looks.
        let octets = std::fs::read(file.unwrap().path()).unwrap_or_default();
        octets.windows(4).any(|window| window == [192, 0, 2, 7])
    })
}

#[tokio::test]
async fn what_a_removed_device_said_leaves_the_disk_while_the_server_runs() {
    let mut world = World::start().await;
    world.directory.add("mynas");
    world.set("mynas", &["192.0.2.7"]).await.unwrap();
    assert!(has_address(world.state.path()));
    world.directory.remove("mynas");
    eventually("the address leaves the disk", || {
        !has_address(world.state.path())
    })
    .await;
}

#[tokio::test]
async fn what_a_removed_device_said_leaves_the_disk_at_the_next_start() {
    let mut world = World::start().await;
    world.directory.add("mynas");
    world.set("mynas", &["192.0.2.7"]).await.unwrap();
    let before = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(world.state.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), before.path().join(file.file_name())).unwrap();
    }
    world.directory.remove("mynas");
    // As if the server had not come to it any more.
    let state = before.path();
    assert!(has_address(state));

    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let config = "listen = \"127.0.0.1:0\"";
    let server = world::start(&world.directory.reader, state, config, &registry, &stop)
        .await
        .unwrap();
    assert!(!has_address(state));
    world.directory.add("mynas");
    assert_eq!(
        resolve(server.addr(), "mynas.nas.test", "A").await,
        "192.0.2.250"
    );
}

#[tokio::test]
async fn only_the_holder_of_a_name_moves_it() {
    let mut world = World::start().await;
    world.directory.add("mynas");
    let updater = world.server.updater();
    let change = change(&["192.0.2.7"]);
    for (registration, name) in [(2, "mynas"), (1, "other")] {
        let name = DeviceName::parse(name).unwrap();
        let refused = updater
            .update(RegistrationId(registration), &name, change)
            .await;
        assert_eq!(refused, Err(UpdateError::NotHeld));
    }
    assert_eq!(
        world.metric(r#"updates_refused_total{door="api",reason="not_held"}"#),
        2.0
    );
}

/// A device is removed and its name given away while updates of it are on their way: none of them may show, neither
/// under nobody nor under the next holder.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_races_a_removal_does_not_raise_the_dead() {
    let mut world = World::start().await;
    let server = world.v4();
    let name = DeviceName::parse("mynas").unwrap();
    let mut taken = 0;
    for round in 0..100 {
        world.directory.add("mynas");
        let device = world.directory.reader.device_by_name(&name).unwrap();
        let updater = world.server.updater();
        let updates = tokio::spawn(async move {
            // The last octet of the last address that was taken.
            for last in 1..=255 {
                let change = change(&[&format!("192.0.2.{last}")]);
                let update = updater.update(device.registration, &device.name, change);
                if let Err(error) = update.await {
                    assert_eq!(error, UpdateError::NotHeld);
                    return last - 1;
                }
            }
            255
        });
        tokio::time::sleep(Duration::from_micros(100 * (round % 20))).await;
        world.directory.remove("mynas");
        assert_eq!(resolve(server, "mynas.nas.test", "A").await, "NXDOMAIN");
        if round % 2 == 0 {
            taken += updates.await.unwrap();
            assert_eq!(resolve(server, "mynas.nas.test", "A").await, "NXDOMAIN");
        } else {
            world.directory.add("mynas");
            taken += updates.await.unwrap();
            assert_eq!(resolve(server, "mynas.nas.test", "A").await, "192.0.2.250");
            world.directory.remove("mynas");
        }
    }
    assert!(taken > 0, "no update ever raced");
}

/// Looks again and again until `happened`, ten seconds at most.
async fn eventually(what: &str, happened: impl Fn() -> bool) {
    let began = Instant::now();
    while !happened() {
        assert!(began.elapsed() < Duration::from_secs(10), "not: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
