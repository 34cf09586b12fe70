//! A relay is followed by another in its place, as if that were another process: nobody is refused, and nothing is cut.

use std::fs::File;
use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use relay::server::{Bound, Handle, StartError, Transport};
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use wire::frame::{Frame, Ticket};
use wire::segment::Notice;
use wire::{ALPN_CARRIER, CloseCode, InstanceId};

use crate::by_hand::{connect, hear};
use crate::byte_path::origin;
use crate::raw::{self, ByHand, CAME, heard, payload};
use crate::world::{SOON, World, eventually};

const HANDED_OVER: &str = "causeway_relay_visitors_handed_over_total{to=\"predecessor\"}";
const TUNNELS: &str = "causeway_relay_tunnels{transport=\"tls\"}";

const INSTANCE: InstanceId = InstanceId([7; 16]);

fn refused(reason: &str) -> String {
    format!("causeway_relay_visitors_refused_total{{reason=\"{reason}\"}}")
}

fn untold(reason: &str) -> String {
    format!("causeway_relay_predecessor_untold_total{{reason=\"{reason}\"}}")
}

/// What the front answers to somebody who asks for `demo`, until it closes.
async fn answer(world: &World) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut visitor = raw::visitor(world).await;
    let read = timeout(SOON, visitor.read_to_end(&mut answer)).await;
    read.unwrap().unwrap();
    answer
}

/// One visitor who says something to the origin and hears it again.
async fn echoed(world: &World, origin: &TcpListener) {
    let visited = async {
        let mut visitor = world.visit("mynas.nas.localhost").await;
        visitor.write_all(b"here").await.unwrap();
        let (mut stream, _) = origin.accept().await.unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
        visitor.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"here");
    };
    timeout(SOON, visited).await.unwrap();
}

#[tokio::test]
async fn a_device_that_has_not_moved_is_visited_by_way_of_its_tunnel_however_many_follow() {
    for followers in 1..=2 {
        let mut world = World::start(Transport::Tls);
        world.device("demo");
        let mut tunnel = raw::tunnel(&world, INSTANCE).await;
        let mut before = Vec::new();
        for _ in 0..followers {
            let relay = world.take_over();
            relay.relay.give_way();
            before.push(relay);
        }
        assert!(matches!(hear(&mut tunnel).await, Frame::Drain { .. }));

        // The visitor, its carrier and its raw connection all come to the last.
        let (mut agent, visitor) = ByHand::visited_over(tunnel, &world).await;
        let mut bulk = agent.switched(&world).await;
        agent.say(Notice::Moved { at: agent.sent }).await;
        let octets = payload(3_000_000);
        let begun = usize::try_from(agent.sent).unwrap();
        let sending = async {
            bulk.write_all(&octets).await.unwrap();
            bulk.shutdown().await.unwrap();
            let total = agent.sent + octets.len() as u64;
            agent.say(Notice::End { total }).await;
        };
        let (_, (came, cut)) = tokio::join!(sending, heard(visitor));
        assert!(!cut && came[begun..] == octets);
        assert_eq!(before[0].metric(CAME), 1);
        world.metric_is(HANDED_OVER, 2).await;
        drop((agent, bulk));
        assert_eq!(world.metric(TUNNELS), 0);
        before[0].metric_becomes(TUNNELS, 0).await;
    }
}

#[tokio::test]
async fn who_has_no_tunnel_anywhere_hears_it_where_the_others_are_served() {
    let mut world = World::start(Transport::Tls);
    let before = world.take_over();
    before.relay.give_way();
    // First nobody has the name, then a device without a tunnel, then again nobody: the one before does not know that better.
    let alert = [21, 3, 3, 0, 2, 2, 112];
    assert_eq!(answer(&world).await, alert);
    before.metric_becomes(&refused("unknown_name"), 1).await;
    world.device("demo");
    assert_eq!(answer(&world).await, alert);
    before.metric_becomes(&refused("not_attached"), 1).await;
    world.metric_is(HANDED_OVER, 2).await;
    for reason in ["unknown_name", "not_attached"] {
        assert_eq!(world.metric(&refused(reason)), 0, "{reason}");
    }
}

#[tokio::test]
async fn agents_move_while_visitors_come_and_go_and_the_relay_before_empties_by_itself() {
    let mut world = World::start(Transport::Tls);
    let (listener, address) = origin("tcp").await;
    let agent = world.agent("mynas", &address).await;
    let mut running = world.visit("mynas.nas.localhost").await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let octets = payload(20_000_000);
    let (first, rest) = octets.split_at(1000);
    stream.write_all(first).await.unwrap();
    let mut begun = vec![0; first.len()];
    running.read_exact(&mut begun).await.unwrap();
    assert!(begun == first);

    let before = world.take_over();
    // Whoever of the two accepts.
    let begin = Instant::now();
    while world.metric(HANDED_OVER) < 3 {
        assert!(begin.elapsed() < SOON, "the successor accepts nobody");
        echoed(&world, &listener).await;
    }
    before.relay.give_way();
    let begin = Instant::now();
    while world.metric(TUNNELS) == 0 {
        assert!(begin.elapsed() < SOON, "the agent does not move");
        echoed(&world, &listener).await;
    }
    // It has moved: nobody needs the other any more.
    let handed_over = world.metric(HANDED_OVER);
    for _ in 0..5 {
        echoed(&world, &listener).await;
    }
    assert_eq!(world.metric(HANDED_OVER), handed_over);

    // What is under way goes on where it has begun.
    assert_eq!(before.metric(TUNNELS), 1);
    let sending = async {
        stream.write_all(rest).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let mut came = Vec::new();
    let (_, read) = timeout(SOON, async {
        tokio::join!(sending, running.read_to_end(&mut came))
    })
    .await
    .unwrap();
    read.unwrap();
    assert!(came == rest);
    running.shutdown().await.unwrap();
    drop((running, stream));
    before.metric_becomes(TUNNELS, 0).await;
    let superseded = "causeway_relay_tunnels_closed_total{code=\"superseded\"}";
    assert_eq!(before.metric(superseded), 1);
    stops_soon(before.relay).await;
    echoed(&world, &listener).await;
    for reason in ["gone", "busy"] {
        assert_eq!(world.metric(&untold(reason)), 0, "{reason}");
    }
    agent.stop().await;
}

/// Without waiting for anybody.
async fn stops_soon(relay: Handle) {
    let begin = Instant::now();
    timeout(SOON, relay.shutdown()).await.unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn a_relay_that_has_given_way_waits_for_agents_before_it_stops() {
    let mut world = World::start(Transport::Tls);
    world.device("demo");
    let mut tunnel = raw::tunnel(&world, INSTANCE).await;
    let before = world.take_over();
    before.relay.give_way();
    assert!(matches!(hear(&mut tunnel).await, Frame::Drain { .. }));
    let stopping = tokio::spawn(before.relay.shutdown());
    let (mut agent, visitor) = ByHand::visited_over(tunnel, &world).await;
    assert!(!stopping.is_finished());
    agent.say(Notice::End { total: 0 }).await;
    assert_eq!(heard(visitor).await, (Vec::new(), false));
    drop(agent);
    timeout(SOON, stopping).await.unwrap().unwrap();
    // And nobody is handed over any more.
    assert_eq!(answer(&world).await.len(), 7);
    world.metric_is(&refused("not_attached"), 1).await;
}

#[tokio::test]
async fn a_carrier_that_nobody_expects_is_not_kept() {
    let mut world = World::start(Transport::Tls);
    world.device("demo");
    let before = world.take_over();
    before.relay.give_way();
    let mut carrier = connect(&world, "demo", ALPN_CARRIER).await;
    let ticket = Ticket([9; 16]);
    let carry = Frame::Carry { ticket }.encode().unwrap();
    carrier.write_all(&carry).await.unwrap();
    let refused = "causeway_relay_tunnels_refused_total{reason=\"unknown_ticket\"}";
    before.metric_becomes(refused, 1).await;
    // Whoever has brought it says nothing and stays: a relay that had him yet would wait for him.
    let mut relay = world.relay.take().unwrap();
    relay.set_end(Duration::ZERO, 3 * SOON);
    stops_soon(relay).await;
    drop(carrier);
}

#[tokio::test]
async fn the_tunnel_before_ends_when_its_device_has_one_at_the_successor() {
    for (instance, code) in [
        (INSTANCE, CloseCode::Superseded),
        (InstanceId([8; 16]), CloseCode::Displaced),
    ] {
        let mut world = World::start(Transport::Tls);
        world.device("demo");
        let mut tunnel = raw::tunnel(&world, INSTANCE).await;
        let before = world.take_over();
        before.relay.give_way();
        let _newer = raw::tunnel(&world, instance).await;
        let mut closed = hear(&mut tunnel).await;
        while matches!(closed, Frame::Drain { .. }) {
            closed = hear(&mut tunnel).await;
        }
        assert_eq!(closed, Frame::Close { code: Ok(code) });
        before.metric_becomes(TUNNELS, 0).await;
    }
}

#[tokio::test]
async fn a_visitor_who_is_under_way_when_its_device_moves_is_served() {
    let world = World::start(Transport::Tls);
    world.device("demo");
    let mut tunnel = raw::tunnel(&world, INSTANCE).await;
    let relay = world.relay.as_ref().unwrap();
    let ways = relay.hand_over().unwrap().predecessor;
    let device = world.device_id("demo");
    let attached = [&[4][..], device.as_bytes(), &INSTANCE.0].concat();
    send(&ways[0], &attached, &[]).unwrap();
    assert!(matches!(hear(&mut tunnel).await, Frame::Drain { .. }));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _visitor = TcpStream::connect(listener.local_addr().unwrap()).await;
    let (accepted, _) = listener.accept().await.unwrap();
    let hello = include_bytes!("../../wire/testdata/chromium.bin");
    let handed = [&[1][..], device.as_bytes(), hello].concat();
    send(&ways[1], &handed, &[accepted.as_fd()]).unwrap();
    assert!(matches!(hear(&mut tunnel).await, Frame::Dial { .. }));
}

#[tokio::test]
async fn a_device_that_loses_its_key_loses_its_tunnel_before() {
    let world = World::start(Transport::Tls);
    let key = world.device("demo").identity().unwrap().public_key();
    let mut tunnel = raw::tunnel(&world, INSTANCE).await;
    let ways = world
        .relay
        .as_ref()
        .unwrap()
        .hand_over()
        .unwrap()
        .predecessor;
    let device = world.device_id("demo");
    let keys = [&[5][..], device.as_bytes()].concat();
    send(
        &ways[0],
        &[&keys[..], &[9; 32], key.as_bytes()].concat(),
        &[],
    )
    .unwrap();
    assert_eq!(world.metric(TUNNELS), 1);
    send(&ways[0], &[&keys[..], &[9; 32]].concat(), &[]).unwrap();
    let code = Ok(CloseCode::Removed);
    assert_eq!(hear(&mut tunnel).await, Frame::Close { code });

    // And that is what a successor says.
    let mut world = World::start(Transport::Tls);
    let (state, other) = (world.device("demo"), world.device("other"));
    let devices = ["demo", "other"].map(|name| world.device_id(name));
    let [first, second] = devices.map(|device| [&[5][..], device.as_bytes()].concat());
    let key = other.identity().unwrap().public_key();
    world.crash();
    let (way, mut there) = channel();
    world.start_on(Bound {
        predecessor: vec![way],
        ..Bound::default()
    });
    world.put("demo", &other);
    world.remove("demo");
    world.put("demo", &state);
    let said = tokio::task::spawn_blocking(move || {
        there.set_read_timeout(Some(SOON)).unwrap();
        [(); 2].map(|()| {
            let mut heard = [0; 200];
            let length = there.read(&mut heard).unwrap();
            heard[..length].to_vec()
        })
    });
    assert_eq!(
        said.await.unwrap(),
        [[&first[..], key.as_bytes()].concat(), second]
    );
}

/// A channel, the far end of which gives a message at a time.
fn channel() -> (OwnedFd, UnixStream) {
    let (unix, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let (way, there) = socketpair(unix, SocketType::SEQPACKET, flags, None).unwrap();
    (way, there.into())
}

#[tokio::test]
async fn plain_http_is_answered_by_the_successor() {
    let mut world = World::start(Transport::Tls);
    let before = world.take_over();
    before.relay.give_way();
    stops_soon(before.relay).await;
    let mut visitor = TcpStream::connect(world.http).await.unwrap();
    let request = b"GET /x HTTP/1.1\r\nHost: demo.nas.localhost\r\n\r\n";
    visitor.write_all(request).await.unwrap();
    let mut answer = String::new();
    let read = timeout(SOON, visitor.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
}

#[tokio::test]
async fn nonsense_from_the_successor_harms_nobody() {
    let mut world = World::start(Transport::Tls);
    let (listener, address) = origin("tcp").await;
    let _agent = world.agent("mynas", &address).await;
    let relay = world.relay.take().unwrap();
    let ways = relay.hand_over().unwrap().predecessor;
    let null = File::open("/dev/null").unwrap();
    let nonsense = |reason: &str| {
        let name = "causeway_relay_successor_nonsense_total";
        world.metric(&format!("{name}{{reason=\"{reason}\"}}"))
    };
    let hello = include_bytes!("../../wire/testdata/chromium.bin");
    let visitor = [&[1][..], &[0; 16], hello].concat();
    for way in &ways {
        send(way, &[], &[]).unwrap();
        send(way, &[0xff; 9], &[null.as_fd()]).unwrap();
        send(way, &visitor, &[]).unwrap();
        send(way, &visitor, &[null.as_fd(); 3]).unwrap();
        send(way, &[1; 60_000], &[null.as_fd()]).unwrap();
        send(way, &visitor[..300], &[null.as_fd()]).unwrap();
        send(way, &[3; 17], &[null.as_fd()]).unwrap();
        send(way, &[4; 33], &[]).unwrap(); // a device that nobody knows
        send(way, &visitor, &[null.as_fd()]).unwrap(); // who has left by now
        let (kept, mut closed) = UnixStream::pair().unwrap();
        send(way, &[9], &[kept.as_fd()]).unwrap();
        drop(kept);
        closed.set_read_timeout(Some(SOON)).unwrap();
        let read = tokio::task::spawn_blocking(move || closed.read(&mut [0]));
        assert_eq!(read.await.unwrap().unwrap(), 0);
    }
    let each = ways.len() as u64;
    eventually(|| nonsense("unknown_kind") == 3 * each).await;
    eventually(|| nonsense("descriptors") == 3 * each).await;
    eventually(|| nonsense("malformed") == each).await;
    assert_eq!(nonsense("too_long"), each);
    world.metric_is(&refused("left_early"), each).await;
    echoed(&world, &listener).await;

    // A successor that ends is no reason to stop.
    drop(ways);
    echoed(&world, &listener).await;
    let another = relay.hand_over().unwrap();
    assert_eq!(another.front.len(), another.predecessor.len());
    drop(another);
    let agents = "causeway_relay_tunnels_closed_total{code=\"draining\"}";
    stops_soon(relay).await;
    world.metric_is(agents, 1).await;
}

#[tokio::test]
async fn a_relay_before_that_is_behind_costs_its_visitors_a_second_and_one_that_has_gone_nothing() {
    let mut world = World::start(Transport::Tls);
    world.crash();
    let (way, nobody) = channel();
    let full = loop {
        if let Err(full) = send(&way, &[9; 64], &[]) {
            break full;
        }
    };
    assert_eq!(full, Errno::AGAIN);
    world.start_on(Bound {
        predecessor: vec![way],
        ..Bound::default()
    });
    let alert = answer(&world).await;
    assert_eq!(alert.len(), 7);
    world.metric_is(&refused("predecessor_busy"), 1).await;
    world.metric_is(&untold("busy"), 1).await;

    drop(nobody);
    for visitors in 1..=20 {
        assert_eq!(answer(&world).await, alert);
        world.metric_is(&refused("unknown_name"), visitors).await;
    }
    // Each worker has noticed it at most once.
    assert!((1..=2).contains(&world.metric(&untold("gone"))));
    assert_eq!(world.metric(HANDED_OVER), 0);
}

#[tokio::test]
async fn sockets_that_nobody_would_attend_to_are_refused() {
    let mut world = World::start(Transport::Tls);
    let relay = world.relay.take().unwrap();
    let mut front = relay.hand_over().unwrap().front;
    front.extend(relay.hand_over().unwrap().front);
    let fault = world.try_start_on(Bound {
        front,
        ..Bound::default()
    });
    let fault = fault.unwrap_err();
    let StartError::Workers { sockets, workers } = fault else {
        panic!("{fault}");
    };
    assert_eq!((sockets, workers), (4, 2));
}

/// Sends octets as a successor would.
fn send(way: &OwnedFd, octets: &[u8], beside: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(beside.is_empty() || control.push(SendAncillaryMessage::ScmRights(beside)));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(way, &[IoSlice::new(octets)], &mut control, flags)?;
    Ok(())
}
