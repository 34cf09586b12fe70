//! One record for each visitor's connection, and nothing of it in the clear.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use directory::DeviceId;
use relay::records::{Found, SecretKey, Setup, day_of, read};
use relay::server::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use wire::record::{Carrier, End, Record, Stream};

use crate::byte_path::origin;
use crate::proxied::{VISITOR, from_proxy, header, proxies};
use crate::raw::{self, payload};
use crate::world::{SOON, TRANSPORTS, World};

const DONE: &str = "causeway_relay_visitors_ended_total{end=\"done\"}";
const CAME: &str = "causeway_relay_raw_connections_total{outcome=\"came\"}";
const WRITTEN: &str = "causeway_relay_records_written_total{stream=\"masked\"}";
const QUEUE_FULL: &str =
    "causeway_relay_records_dropped_total{reason=\"queue_full\",stream=\"masked\"}";
const DISK_ERROR: &str =
    "causeway_relay_records_dropped_total{reason=\"disk_error\",stream=\"masked\"}";
const TO_DEVICE: &str = "causeway_relay_bytes_total{direction=\"to_device\"}";
const TO_VISITOR: &str = "causeway_relay_bytes_total{direction=\"to_visitor\"}";

pub(crate) fn setup(folder: &Path, masked: &SecretKey, full: &SecretKey) -> Setup {
    Setup {
        streams: vec![
            (Stream::Masked, masked.public()),
            (Stream::Full, full.public()),
        ],
        keep: Duration::from_secs(30 * 86_400),
        folder: folder.to_owned(),
    }
}

pub(crate) fn records(folder: &Path, secret: &SecretKey) -> Vec<Record> {
    let mut records = Vec::new();
    let all = read(folder, secret, 0, &mut |found| {
        match found {
            Found::Record(record) => records.push(record),
            Found::Note(note) => panic!("{note}"),
        }
        Ok(())
    });
    all.unwrap();
    records
}

fn ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test]
async fn a_download_yields_one_right_record_and_nothing_of_it_is_in_the_clear() {
    for (transport, length) in [
        (Transport::Quic, 1000),
        (Transport::Tls, 1000),
        (Transport::Quic, 20_000_000),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (masked, full) = [(); 2].map(|()| SecretKey::generate().unwrap()).into();
        let mut world = World::recording(transport, setup(folder.path(), &masked, &full));
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        let before = ms(SystemTime::now());

        let mut visitor = world.visit("photos.mynas.nas.localhost").await;
        let port = visitor.get_ref().0.local_addr().unwrap().port();
        let (mut stream, _) = listener.accept().await.unwrap();
        let octets = payload(length);
        let sending = async {
            stream.write_all(&octets).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let mut heard = Vec::new();
        let both = async { tokio::join!(sending, visitor.read_to_end(&mut heard)) };
        let (_stream, read) = timeout(SOON, both).await.unwrap();
        read.unwrap();
        assert!(heard == octets);
        visitor.shutdown().await.unwrap();
        world.metric_is(DONE, 1).await;
        let after = ms(SystemTime::now());
        let (to_device, to_visitor, came) = (
            world.metric(TO_DEVICE),
            world.metric(TO_VISITOR),
            world.metric(CAME),
        );
        let relay = world.relay.take().unwrap();
        timeout(SOON, relay.shutdown()).await.unwrap();

        let device = world.device_id("mynas");
        for (secret, visitor) in [
            (&masked, "127.0.0.0/24".to_owned()),
            (&full, format!("127.0.0.1:{port}")),
        ] {
            let records = records(folder.path(), secret);
            let [record] = records[..] else {
                panic!("{records:?}");
            };
            assert!(before <= record.started_ms && record.ended_ms() <= after + 1);
            assert_eq!(record.device, device);
            assert_eq!(record.visitor.to_string(), visitor);
            assert_eq!(record.to_device, to_device);
            assert_eq!(record.to_visitor, to_visitor);
            assert!(record.to_visitor > length as u64);
            assert_eq!(record.end, End::Done);
            let carrier = match transport {
                Transport::Quic => Carrier::Quic,
                Transport::Tls => Carrier::Tls,
            };
            assert_eq!((record.carrier, record.raw), (carrier, length > 1000));
            assert_eq!(came, u64::from(record.raw));
        }
        for stream in ["masked", "full"] {
            let written = format!("causeway_relay_records_written_total{{stream=\"{stream}\"}}");
            assert_eq!(world.metric(&written), 1);
        }
        nothing_is_in_the_clear(folder.path(), device);
    }
}

/// Looks through all names and contents for what a record says, as octets and as text.
fn nothing_is_in_the_clear(folder: &Path, device: DeviceId) {
    let mut all = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        all.extend(file.file_name().into_encoded_bytes());
        all.extend(std::fs::read(file.path()).unwrap());
    }
    let today = day_of(SystemTime::now()).to_be_bytes();
    let found = |part: &[u8]| all.windows(part.len()).any(|window| window == part);
    // What stands there is found.
    assert!(found(&today) && found(b".records") && found(b".addresses"));
    let text = device.to_string();
    for part in [
        &device.as_bytes()[..4],
        &device.as_bytes()[12..],
        text.as_bytes(),
        b"mynas",
        b"photos",
        b"localhost",
        b"127.0",
        &[127, 0, 0, 1],
        &[4, 127, 0, 0],
    ] {
        assert!(!found(part), "{part:?}");
    }
}

#[tokio::test]
async fn who_comes_by_way_of_a_proxy_is_recorded_as_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (masked, full) = [(); 2].map(|()| SecretKey::generate().unwrap()).into();
    let mut world = World::recording(Transport::Quic, setup(folder.path(), &masked, &full));
    let relay = world.relay.take().unwrap();
    relay.set_proxies(&proxies());
    let (listener, address) = origin("tcp").await;
    let _agent = world.agent("mynas", &address).await;
    let stream = from_proxy(world.front, &header(VISITOR)).await;
    let visitor = world.try_visit_on(stream, "mynas.nas.localhost").await;
    let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    drop((visitor, stream));
    timeout(SOON, relay.shutdown()).await.unwrap();
    for (secret, visitor) in [(&masked, "203.0.113.0/24"), (&full, VISITOR)] {
        let records = records(folder.path(), secret);
        let visitors: Vec<_> = records
            .iter()
            .map(|record| record.visitor.to_string())
            .collect();
        assert_eq!(visitors, [visitor]);
    }
}

#[tokio::test]
async fn whoever_reaches_no_device_is_not_recorded_and_who_is_cut_is() {
    let folder = tempfile::tempdir().unwrap();
    let (masked, full) = [(); 2].map(|()| SecretKey::generate().unwrap()).into();
    for transport in TRANSPORTS {
        let records_folder = folder.path().join(transport.name());
        let mut world = World::recording(transport, setup(&records_folder, &masked, &full));
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        world.try_visit("other.nas.localhost").await.unwrap_err();
        let visitor = world.visit("mynas.nas.localhost").await;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let device = world.device_id("mynas");
        world.remove("mynas");
        let cut = "causeway_relay_visitors_ended_total{end=\"cut\"}";
        world.metric_is(cut, 1).await;
        drop((visitor, stream));
        let relay = world.relay.take().unwrap();
        timeout(SOON, relay.shutdown()).await.unwrap();
        let records = records(&records_folder, &masked);
        let ends: Vec<_> = records
            .iter()
            .map(|record| (record.device, record.end))
            .collect();
        assert_eq!(ends, [(device, End::Cut)]);
    }
}

/// Visitors of `demo`, so many at a time, until `is_enough`; each gets its octet. How many there were.
async fn visitors(world: &World, at_once: usize, is_enough: impl Fn(u64) -> bool) -> u64 {
    let mut count = 0;
    while !is_enough(count) {
        let mut visits = JoinSet::new();
        for _ in 0..at_once {
            let mut visitor = raw::visitor(world).await;
            visits.spawn(async move {
                let mut heard = Vec::new();
                visitor.read_to_end(&mut heard).await.unwrap();
                assert_eq!(heard, b"x");
            });
        }
        timeout(SOON, visits.join_all()).await.unwrap();
        count += at_once as u64;
    }
    count
}

#[tokio::test]
async fn a_disk_that_hangs_fills_the_queue_and_keeps_no_visitor_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let (masked, full) = [(); 2].map(|()| SecretKey::generate().unwrap()).into();
    let mut setup = setup(folder.path(), &masked, &full);
    setup.streams.truncate(1);
    let world = World::recording(Transport::Quic, setup);
    let (listener, address) = origin("tls").await;
    let _agent = world.agent("demo", &address).await;
    let mut origin = JoinSet::new();
    origin.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(b"x").await.unwrap();
                stream.shutdown().await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    let first = visitors(&world, 1, |count| count > 0).await;
    world.metric_is(WRITTEN, first).await;

    // Whoever opens this to write waits until somebody reads.
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap();
    let file = file.unwrap().path();
    std::fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    let hung = visitors(&world, 32, |_| world.metric(QUEUE_FULL) > 0).await;
    let dropped = world.metric(QUEUE_FULL);
    assert!(hung > dropped && world.metric(WRITTEN) == first);
    let more = visitors(&world, 32, |count| count >= 320).await;
    world.until_metric(QUEUE_FULL, dropped + more).await;

    // What waits is written when the disk goes on; what cannot be is counted. The file is another before it goes on: whoever came
    // to this one again would wait for somebody who reads it.
    let aside = folder.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    let reader = std::fs::OpenOptions::new().read(true).open(&aside);
    let reader = reader.unwrap();
    let all = first + hung + more;
    let kept = || world.metric(WRITTEN) + world.metric(QUEUE_FULL) + world.metric(DISK_ERROR);
    let all_are = async {
        while kept() < all {
            sleep(Duration::from_millis(10)).await;
        }
    };
    // Some twenty batches are synced one by one, on a disk that others use as well.
    timeout(6 * SOON, all_are).await.unwrap();
    assert_eq!(kept(), all);
    assert!(world.metric(WRITTEN) > first);
    drop(reader);
}
