//! What a device may move in a second: changed while it moves, shared by its visitors, and nobody else's loss.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use directory::DeviceLimits;
use relay::agent::{self, State};
use relay::server::{LimitsConfig, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::byte_path::origin;
use crate::world::{SOON, TRANSPORTS, World, eventually};

/// Names demo.nas.localhost.
const HELLO: &[u8] = include_bytes!("../../wire/testdata/chromium.bin");

/// What visitors ask of the origin, in the octet behind their hello.
const DOWNLOAD: u8 = b'd';
const UPLOAD: u8 = b'u';
const PAGE: u8 = b'p';
/// A film, in 20 kB ten times a second.
const FILM: u8 = b'f';

const FILM_PORTION: usize = 20_000;
const FILM_PAUSE: Duration = Duration::from_millis(100);

fn bytes_per_second(rate: u64) -> DeviceLimits {
    DeviceLimits {
        bytes_per_second: NonZeroU64::new(rate),
        visitors: None,
    }
}

/// Serves whoever comes; counts the octets of those who send.
fn serve(listener: TcpListener) -> Arc<AtomicU64> {
    let uploaded = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&uploaded);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_one(stream, Arc::clone(&count)));
        }
    });
    uploaded
}

/// Until the visitor has gone.
async fn serve_one(mut stream: TcpStream, uploaded: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut octets = vec![0; 64 * 1024];
    stream.read_exact(&mut octets[..=HELLO.len()]).await?;
    match octets[HELLO.len()] {
        DOWNLOAD => loop {
            stream.write_all(&octets).await?;
        },
        FILM => {
            let mut ticks = interval(FILM_PAUSE);
            loop {
                ticks.tick().await;
                stream.write_all(&octets[..FILM_PORTION]).await?;
            }
        }
        UPLOAD => loop {
            let length = stream.read(&mut octets).await?;
            if length == 0 {
                return Ok(());
            }
            uploaded.fetch_add(length as u64, Relaxed);
        },
        _ => stream.write_all(&octets[..1000]).await,
    }
}

/// A visitor of `name`, which has as many letters as `demo`.
async fn come(world: &World, name: &str, wish: u8) -> TcpStream {
    come_from([127, 0, 0, 1], world, name, wish).await
}

/// The same, of an address.
async fn come_from(from: [u8; 4], world: &World, name: &str, wish: u8) -> TcpStream {
    let mut hello = HELLO.to_vec();
    let at = hello.windows(5).position(|octets| octets == b"demo.");
    hello[at.unwrap()..][..4].copy_from_slice(name.as_bytes());
    hello.push(wish);
    let visitor = TcpSocket::new_v4().unwrap();
    visitor.bind((from, 0).into()).unwrap();
    let mut visitor = visitor.connect(world.front).await.unwrap();
    visitor.write_all(&hello).await.unwrap();
    visitor
}

/// Counts what a visitor hears, for as long as it does.
fn count(mut visitor: TcpStream, tasks: &mut JoinSet<()>) -> Arc<AtomicU64> {
    let heard = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&heard);
    tasks.spawn(async move {
        let mut octets = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = visitor.read(&mut octets).await {
            count.fetch_add(length as u64, Relaxed);
        }
    });
    heard
}

/// What each of them gains in a second, measured over `time`.
async fn rates(counts: &[Arc<AtomicU64>], time: Duration) -> Vec<f64> {
    let now = || -> Vec<_> { counts.iter().map(|count| count.load(Relaxed)).collect() };
    let (before, start) = (now(), Instant::now());
    sleep(time).await; // the time is what is measured with
    let seconds = start.elapsed().as_secs_f64();
    let gained = now().into_iter().zip(before);
    gained
        .map(|(now, before)| (now - before) as f64 / seconds)
        .collect()
}

#[tokio::test]
async fn one_of_a_hundred_busy_devices_is_limited_and_freed_and_the_others_notice_nothing() {
    const RATE: f64 = 50_000.0;
    let full = FILM_PORTION as f64 / FILM_PAUSE.as_secs_f64();
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("tls").await;
    serve(listener);
    let (mut agents, mut tasks, mut heard) = (Vec::new(), JoinSet::new(), Vec::new());
    for number in 0..100 {
        let name = format!("d{number:03}");
        agents.push(world.agent(&name, &address).await);
        heard.push(count(come(&world, &name, FILM).await, &mut tasks));
    }
    eventually(|| {
        heard
            .iter()
            .all(|count| count.load(Relaxed) > 2 * FILM_PORTION as u64)
    })
    .await;
    let window = Duration::from_secs(2);
    let before = rates(&heard, window).await;

    world.limit("d050", bytes_per_second(RATE as u64));
    sleep(Duration::from_secs(1)).await; // by when it is to be in force
    let limited = rates(&heard, window).await;
    world.limit("d050", DeviceLimits::default());
    sleep(Duration::from_secs(1)).await;
    let freed = rates(&heard, window).await;

    let others = |rates: &[f64]| rates.iter().sum::<f64>() - rates[50];
    println!(
        "limited device {:.0} → {:.0} → {:.0} B/s; all others {:.0} → {:.0} → {:.0} B/s",
        before[50],
        limited[50],
        freed[50],
        others(&before),
        others(&limited),
        others(&freed)
    );
    assert!((limited[50] / RATE - 1.0).abs() < 0.2, "{}", limited[50]);
    assert!(freed[50] > 0.8 * full, "{}", freed[50]);
    let ratio = others(&limited) / others(&before);
    assert!((ratio - 1.0).abs() < 0.1, "{ratio}");
    // Nor does any single one of them pay for it.
    for (number, rate) in limited.iter().enumerate() {
        assert!(number == 50 || *rate > 0.7 * full, "{number}: {rate}");
    }
}

#[tokio::test]
async fn visitors_of_a_limited_device_share_what_it_has_whatever_carries_them() {
    const RATE: u64 = 1_000_000;
    let worlds = [
        ("quic, stream", World::without_raw()),
        ("quic, raw", World::start(Transport::Quic)),
        ("tls, raw", World::start(Transport::Tls)),
    ];
    for (what, world) in worlds {
        let (listener, address) = origin("tls").await;
        let uploaded = serve(listener);
        let _agent = world.agent("demo", &address).await;
        let mut tasks = JoinSet::new();
        let downloaded = count(come(&world, "demo", DOWNLOAD).await, &mut tasks);
        let mut up = come(&world, "demo", UPLOAD).await;
        tasks.spawn(async move { while up.write_all(&[7; 64 * 1024]).await.is_ok() {} });
        let moving = || downloaded.load(Relaxed).min(uploaded.load(Relaxed)) > 1_000_000;
        eventually(moving).await;

        world.limit("demo", bytes_per_second(RATE));
        // What had been passed on before is still on its way upwards.
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        let mut page = come(&world, "demo", PAGE).await;
        let mut octets = Vec::new();
        timeout(SOON, page.read_to_end(&mut octets))
            .await
            .unwrap()
            .unwrap();
        let page_took = start.elapsed();
        let moved = rates(
            &[Arc::clone(&downloaded), Arc::clone(&uploaded)],
            Duration::from_secs(3),
        )
        .await;
        println!("{what}: {moved:.0?} B/s of {RATE}, a page in {page_took:?}");
        let all: f64 = moved.iter().sum();
        assert!((all / RATE as f64 - 1.0).abs() < 0.2, "{what}: {moved:?}");
        for part in &moved {
            assert!((0.35..0.65).contains(&(part / all)), "{what}: {moved:?}");
        }
        assert!(page_took < Duration::from_secs(1), "{what}: {page_took:?}");
        assert_eq!(octets.len(), 1000);
    }
}

#[tokio::test]
async fn an_address_with_many_connections_has_no_more_of_a_device_than_one_with_one() {
    const RATE: u64 = 1_000_000;
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("tls").await;
    serve(listener);
    let _agent = world.agent("demo", &address).await;
    world.limit("demo", bytes_per_second(RATE));
    let (mut tasks, mut heard) = (JoinSet::new(), Vec::new());
    for _ in 0..20 {
        let visitor = come_from([127, 0, 0, 2], &world, "demo", DOWNLOAD).await;
        heard.push(count(visitor, &mut tasks));
    }
    heard.push(count(come(&world, "demo", DOWNLOAD).await, &mut tasks));
    eventually(|| heard.iter().all(|count| count.load(Relaxed) > 20_000)).await;
    let moved = rates(&heard, Duration::from_secs(5)).await;
    let (alone, all) = (moved[20], moved.iter().sum::<f64>());
    println!("{alone:.0} of {all:.0} B/s");
    assert!((all / RATE as f64 - 1.0).abs() < 0.2, "{moved:?}");
    assert!((0.35..0.65).contains(&(alone / all)), "{moved:?}");
}

#[tokio::test]
async fn the_agent_is_told_what_its_device_may_have_and_again_when_that_changes() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tls").await;
        serve(listener);
        let mut agent = world.agent("demo", &address).await;
        let state = State::open(world.state_of("demo")).unwrap();
        let limits = async || {
            let status = agent::ask(&state).await.unwrap();
            let limits = status.tunnel.unwrap().limits?;
            Some((
                limits.bytes_per_second.map(NonZeroU64::get),
                limits.visitors,
            ))
        };
        let told = async |expected| {
            let until = async {
                while limits().await != expected {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(SOON, until).await.expect("it is not told in time");
        };
        assert_eq!(limits().await, None, "nobody has limits");
        let own = DeviceLimits {
            bytes_per_second: NonZeroU64::new(2_000_000),
            visitors: NonZeroU32::new(1),
        };
        world.limit("demo", own);
        told(Some((Some(2_000_000), 1))).await;

        // A second visitor is one too many, until there is no limit any more.
        let first = come(&world, "demo", UPLOAD).await;
        let full = "causeway_relay_visitors_refused_total{reason=\"device_full\"}";
        let second = async || {
            let mut second = come(&world, "demo", PAGE).await;
            let mut octets = Vec::new();
            timeout(SOON, second.read_to_end(&mut octets))
                .await
                .unwrap()
                .unwrap();
            octets.len()
        };
        world
            .until_metric("causeway_relay_visitors_accepted_total", 1)
            .await;
        eventually(|| {
            world.metric("causeway_relay_carriers_opened_total{kind=\"quic\"}")
                + world.metric("causeway_relay_carriers_opened_total{kind=\"tls\"}")
                == 1
        })
        .await;
        assert_eq!(second().await, 7, "an alert");
        world.metric_is(full, 1).await;
        world.limit("demo", DeviceLimits::default());
        told(Some((None, 4000))).await;
        assert_eq!(second().await, 1000);
        drop(first);

        // What all may have holds for a device without limits of its own.
        world.relay.as_ref().unwrap().set_limits(&LimitsConfig {
            bytes_per_second_per_device: Some(3_000_000),
            visitors_per_device: Some(10),
            ..LimitsConfig::default()
        });
        told(Some((Some(3_000_000), 10))).await;
        world.limit("demo", own);
        told(Some((Some(2_000_000), 1))).await;

        // One that comes again is told again.
        agent.is_attached().await;
        agent.stop().await;
        let agent = world.agent("demo", &address).await;
        let state = State::open(world.state_of("demo")).unwrap();
        let status = async || agent::ask(&state).await.ok()?.tunnel?.limits;
        let until = async {
            while status().await.map(|limits| limits.visitors) != Some(1) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, until).await.expect("it is not told in time");
        drop(agent);
    }
}
