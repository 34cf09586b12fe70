//! Endpoints that follow each other on one socket, as those of a server and its successors do.

use std::os::fd::OwnedFd;
use std::thread;

use quinn_udp::RecvMeta;
use rustix::net::{SendFlags, send};
use wire::connection_id::{LENGTH, NONCE};

use super::super::channel::{Sent, channel};
use super::*;

/// Others have the machine too.
const PATIENCE: Duration = Duration::from_secs(30);

const FIRST: Generation = Generation(0);
const SECOND: Generation = Generation(1);
const THIRD: Generation = Generation(2);

impl Ends {
    /// Opens the endpoint of a successor on the socket of `before`.
    fn endpoint_after(
        &self,
        before: &Endpoint,
        generation: Generation,
        earlier: Vec<Earlier>,
    ) -> Endpoint {
        let socket = before.socket().unwrap();
        self.side
            .endpoint(socket, 0, generation, earlier, None)
            .unwrap()
    }

    /// Connects an agent, and exchanges so much that nothing of its handshake is under way any more, which a successor would take
    /// for a newcomer.
    async fn settle_at(&self, endpoint: &Endpoint) -> Pair {
        let pair = timeout(PATIENCE, self.connect_to(endpoint));
        let pair = pair.await.expect("in time");
        let (mut send, _recv) = pair.at_agent.open_bi().await.unwrap();
        send.write_all(b"!").await.unwrap();
        let heard = timeout(PATIENCE, pair.at_relay.accept_bi()).await;
        let (_send, mut recv) = heard.expect("in time").unwrap();
        recv.read_exact(&mut [0]).await.unwrap();
        pair
    }

    /// Has a successor take over from `before`, which is of that generation.
    fn successor_of(&self, before: &Endpoint, generation: Generation) -> Endpoint {
        let (channel, receiving) = channel().unwrap();
        // Whoever says so need not be on the endpoint's worker.
        let said = thread::scope(|scope| scope.spawn(|| before.read_from(receiving)).join());
        said.unwrap().unwrap();
        let mut earlier = before.earlier().unwrap();
        earlier.push(Earlier {
            generation,
            channel,
        });
        self.endpoint_after(before, generation.next(), earlier)
    }
}

/// Has an endpoint read a channel that is silent. It is for as long as somebody has the end that is given.
fn deafen(endpoint: &Endpoint) -> OwnedFd {
    let (silent, receiving) = channel().unwrap();
    endpoint.read_from(receiving).unwrap();
    silent
}

/// Sends octets to the agent, who sends them back. Does `meanwhile` when some have come and more are under way.
async fn echo_and(pair: &Pair, meanwhile: impl FnOnce()) {
    let payload: Vec<u8> = (0..4_000_000_u32)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect();
    let answer = async {
        let (mut send, mut recv) = pair.at_agent.accept_bi().await.unwrap();
        tokio::io::copy(&mut recv, &mut send).await.unwrap();
        send.finish();
    };
    let (mut send, mut recv) = pair.at_relay.open_bi().await.unwrap();
    let say = async {
        send.write_all(&payload).await.unwrap();
        send.finish();
    };
    let hear = async {
        let mut heard = vec![0; 1_000_000];
        recv.read_exact(&mut heard).await.unwrap();
        meanwhile();
        recv.read_to_end(&mut heard).await.unwrap();
        assert!(heard == payload, "{} octets are not the same", heard.len());
    };
    let all = async { tokio::join!(answer, say, hear) };
    timeout(PATIENCE, all).await.expect("in time");
}

async fn echo(pair: &Pair) {
    echo_and(pair, || ()).await;
}

async fn until(what: impl Fn() -> bool) {
    let reached = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("in time");
}

#[tokio::test]
async fn a_transfer_goes_on_while_a_successor_takes_over_and_newcomers_are_the_successors() {
    let ends = Ends::new();
    let pair = ends.settle_at(&ends.endpoint).await;
    let counts = &ends.side.counts;
    let mut second = None;
    echo_and(&pair, || {
        assert_eq!(counts.passed.get(), 0);
        second = Some(ends.successor_of(&ends.endpoint, FIRST));
    })
    .await;
    let passed = counts.passed.get();
    assert!(passed > 1000, "{passed} packets handed on");
    let second = second.unwrap();
    let newcomer = ends.settle_at(&second).await;
    let passed = counts.passed.get();
    echo(&newcomer).await;
    assert!(
        counts.passed.get() < passed + 100,
        "the newcomer's packets are not handed on"
    );
    echo(&pair).await;
    assert_eq!((counts.malformed.get(), counts.misdirected.get()), (0, 0));
    close(&pair.at_agent, CloseCode::Draining);
    timeout(PATIENCE, pair.relay.wait_idle()).await.unwrap();
}

#[tokio::test]
async fn a_third_process_hands_on_to_both_before_it() {
    let ends = Ends::new();
    let of_first = ends.settle_at(&ends.endpoint).await;
    let second = ends.successor_of(&ends.endpoint, FIRST);
    let of_second = ends.settle_at(&second).await;
    let third = ends.successor_of(&second, SECOND);
    let generations: Vec<_> = third.earlier().unwrap();
    let generations = generations.iter().map(|earlier| earlier.generation);
    assert_eq!(generations.collect::<Vec<_>>(), [FIRST, SECOND]);
    let of_third = ends.settle_at(&third).await;
    for pair in [&of_first, &of_second, &of_third] {
        echo(pair).await;
    }
}

#[tokio::test]
async fn what_comes_over_a_channel_for_a_still_earlier_process_is_handed_on() {
    let ends = Ends::new();
    let pair = ends.settle_at(&ends.endpoint).await;
    let second = ends.successor_of(&ends.endpoint, FIRST);
    let (sending, receiving) = channel().unwrap();
    second.read_from(receiving).unwrap();
    // The third knows of the second only, and takes the first for it.
    let only_one = Earlier {
        generation: FIRST,
        channel: sending,
    };
    let _third = ends.endpoint_after(&second, THIRD, vec![only_one]);
    echo(&pair).await;
}

#[tokio::test]
async fn a_full_channel_drops_and_counts_and_holds_up_nobody_else() {
    let ends = Ends::new();
    let pair = ends.settle_at(&ends.endpoint).await;
    let _silent = deafen(&ends.endpoint);
    let (channel, receiving) = channel().unwrap();
    let earlier = Earlier {
        generation: FIRST,
        channel,
    };
    let meta = RecvMeta {
        stride: 60_000,
        ..RecvMeta::default()
    };
    while earlier.send(&meta, &[0; 60_000]) == Sent::Passed {}
    while earlier.send(&meta, &[0; 1]) == Sent::Passed {}
    let second = ends.endpoint_after(&ends.endpoint, SECOND, vec![earlier]);
    let (mut send, _recv) = pair.at_agent.open_bi().await.unwrap();
    send.write_all(b"is anybody there?").await.unwrap();
    let counts = &ends.side.counts;
    until(|| counts.full.get() > 0).await;
    assert_eq!(counts.passed.get(), 0);
    echo(&ends.settle_at(&second).await).await;
    // Once it is read again, what was lost is said again.
    ends.endpoint.read_from(receiving).unwrap();
    echo(&pair).await;
    assert!(counts.passed.get() > 0);
}

#[tokio::test]
async fn messages_that_nobody_understands_are_counted_and_harm_nobody() {
    let ends = Ends::new();
    let pair = ends.settle_at(&ends.endpoint).await;
    let second = ends.successor_of(&ends.endpoint, FIRST);
    let [earlier] = <[Earlier; 1]>::try_from(second.earlier().unwrap()).unwrap();
    let say = |message: &[u8]| {
        send(&earlier.channel, message, SendFlags::empty()).unwrap();
    };
    let counts = &ends.side.counts;
    echo_and(&pair, || {
        say(&[]);
        say(&[6]);
        say(&[0; 43]);
        say(&[0xff; 1200]);
        say(&vec![6; 70_000]); // longer than packets can be
    })
    .await;
    until(|| counts.malformed.get() == 5).await;
    // More than is looked at in one turn.
    for _ in 0..300 {
        say(&[]);
    }
    until(|| counts.malformed.get() == 305).await;
    // And packets that are none, for nobody, or for who is not there.
    let meta = RecvMeta {
        addr: (Ipv4Addr::LOCALHOST, 9).into(),
        stride: 100,
        ..RecvMeta::default()
    };
    let stranger = Owner {
        worker: 0,
        generation: FIRST,
    };
    let mut unknown = [0x45; 100];
    unknown[1..=LENGTH].copy_from_slice(&ends.side.ids.make(stranger, [9; NONCE]));
    for packet in [[0; 100], [0x45; 100], [0xc5; 100], unknown] {
        assert_eq!(earlier.send(&meta, &packet), Sent::Passed);
    }
    until(|| counts.other.get() == 2 && counts.stray.get() == 1).await;
    echo(&pair).await;
    assert_eq!(counts.malformed.get(), 305);
}

#[tokio::test]
async fn when_a_process_has_ended_its_agents_are_told_by_the_next_packet() {
    let ends = Ends::new();
    let pair = ends.settle_at(&ends.endpoint).await;
    let _silent = deafen(&ends.endpoint);
    let (channel, receiving) = channel().unwrap();
    let earlier = Earlier {
        generation: FIRST,
        channel,
    };
    let second = ends.endpoint_after(&ends.endpoint, SECOND, vec![earlier]);
    assert_eq!(second.earlier().unwrap().len(), 1);
    drop(receiving);
    let (mut send, _recv) = pair.at_agent.open_bi().await.unwrap();
    send.write_all(b"is anybody there?").await.unwrap();
    let ended = timeout(PATIENCE, pair.at_agent.accept_bi()).await;
    let ended = ended.expect("in time").unwrap_err();
    assert!(matches!(ended, ConnectionError::Reset), "{ended}");
    assert!(second.earlier().unwrap().is_empty());
}

#[tokio::test]
async fn a_process_that_has_ended_is_not_handed_on_to_those_that_follow() {
    let ends = Ends::new();
    let second = ends.successor_of(&ends.endpoint, FIRST);
    let third = ends.successor_of(&second, SECOND);
    assert_eq!(third.earlier().unwrap().len(), 2);
    drop(deafen(&second)); // as if nobody had its end any more
    let left = third.earlier().unwrap();
    let left = left.iter().map(|earlier| earlier.generation);
    assert_eq!(left.collect::<Vec<_>>(), [FIRST]);
}

#[tokio::test]
async fn when_a_successor_has_ended_nothing_comes_until_there_is_another() {
    let ends = Ends::new();
    let pair = ends.settle_at(&ends.endpoint).await;
    drop(deafen(&ends.endpoint));
    until(|| ends.endpoint.hears_nobody()).await;
    let (mut send, _recv) = pair.at_agent.open_bi().await.unwrap();
    send.write_all(b"is anybody there?").await.unwrap();
    let heard = timeout(Duration::from_millis(50), pair.at_relay.accept_bi());
    heard.await.expect_err("nobody reads the socket");
    assert!(!ends.endpoint.sees_packets(), "they wake another process");
    let _second = ends.successor_of(&ends.endpoint, FIRST);
    echo(&pair).await;
}

#[tokio::test]
async fn a_driver_that_has_nothing_to_do_hears_of_a_successor() {
    let ends = Ends::new();
    tokio::task::yield_now().await; // the driver begins to wait
    drop(deafen(&ends.endpoint));
    until(|| ends.endpoint.hears_nobody()).await;
}

#[test]
fn only_an_endpoint_of_a_relay_that_is_driven_can_have_a_successor() {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let pair = runtime.block_on(pair());
    let refused = |endpoint: &Endpoint| {
        let (_sending, receiving) = channel().unwrap();
        endpoint.read_from(receiving).unwrap_err().kind()
    };
    assert_eq!(refused(&pair.agent), io::ErrorKind::Unsupported);
    let earlier = Earlier {
        generation: FIRST,
        channel: deafen(&pair.relay),
    };
    let meta = RecvMeta::default();
    assert_eq!(earlier.send(&meta, &[0; 100]), Sent::Passed);
    runtime.shutdown_timeout(PATIENCE);
    assert_eq!(earlier.send(&meta, &[0; 100]), Sent::Gone);
    assert_eq!(refused(&pair.relay), io::ErrorKind::NotConnected);
}
