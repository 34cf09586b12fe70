//! Visitors of the agent's own HTTP/3 who move to another network, or of whom somebody else says so.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Buf as _, Bytes};
use hyper::{Method, Request, StatusCode};
use relay::server::Transport;
use tokio::time::timeout;

use crate::agent_http3::{HOST, Visitor, device, endpoint, payload, said};
use crate::http3::{Tap, has_heard_nothing};
use crate::world::{SOON, World, eventually};

const CAME_BACK: &str = "causeway_relay_flows_came_back_total";

#[tokio::test]
async fn an_upload_goes_on_from_a_wholly_different_address() {
    let world = World::start(Transport::Quic);
    let (_agent, _echo) = device(&world, "mynas").await;
    let client = endpoint(&world, Ipv4Addr::new(127, 0, 0, 2));
    let mut visitor = Visitor::come(&client, world.front, HOST).await;
    let request = Request::post(format!("https://{HOST}/")).body(()).unwrap();
    let stream = visitor.requests.send_request(request).await.unwrap();
    let (mut sent, mut received) = stream.split();
    let piece = payload(3 << 20);
    let elsewhere = [[127, 0, 7, 7], [127, 9, 9, 9]];
    let uploaded = async {
        sent.send_data(piece.clone()).await.unwrap();
        for (moves, address) in elsewhere.into_iter().enumerate() {
            // From here on nothing more comes to where it was.
            let socket = UdpSocket::bind((Ipv4Addr::from(address), 0)).unwrap();
            client.rebind(socket).unwrap();
            sent.send_data(piece.clone()).await.unwrap();
            world.until_metric(CAME_BACK, moves as u64 + 1).await;
        }
        sent.finish().await.unwrap();
        // There is room for some of the answer at the client, and it is far more than three times of what is said from there.
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 3, 3, 3), 0)).unwrap();
        client.rebind(socket).unwrap();
    };
    timeout(SOON, uploaded).await.expect("in time");
    let answered = async {
        let head = received.recv_response().await.unwrap();
        assert_eq!(head.status(), StatusCode::OK);
        let mut heard = Vec::new();
        while let Some(part) = received.recv_data().await.unwrap() {
            heard.extend_from_slice(part.chunk());
        }
        heard
    };
    let heard = timeout(SOON, answered).await.expect("in time");
    assert!(
        heard == piece.repeat(1 + elsewhere.len()),
        "{}",
        heard.len()
    );
    assert_eq!(world.metric(CAME_BACK), 3, "one flow for each address");
}

#[tokio::test]
async fn a_service_hears_from_where_its_visitor_asks_now_once_it_is_known_to_hear_there() {
    let world = World::start(Transport::Quic);
    let (_agent, _echo) = device(&world, "mynas").await;
    let client = endpoint(&world, Ipv4Addr::new(127, 0, 0, 2));
    let mut visitor = Visitor::come(&client, world.front, HOST).await;
    let nothing = Bytes::new();
    let mut was = "127.0.0.2";
    for (moves, now) in ["127.7.7.7", "127.9.9.9"].into_iter().enumerate() {
        let (head, _) = visitor.ask(Method::GET, HOST, &nothing).await;
        assert_eq!(said(&head, "x-visitor"), was);
        let socket = UdpSocket::bind((now, 0)).unwrap();
        client.rebind(socket).unwrap();
        let moved = async {
            loop {
                let (head, _) = visitor.ask(Method::GET, HOST, &nothing).await;
                match said(&head, "x-visitor") {
                    heard if heard == now => break,
                    heard => assert_eq!(heard, was, "it is not known to have moved"),
                }
            }
        };
        timeout(SOON, moved).await.expect("in time");
        assert_eq!(world.metric(CAME_BACK), moves as u64 + 1);
        was = now;
    }
}

#[tokio::test]
async fn who_sends_a_visitors_packets_from_elsewhere_does_not_have_the_service_hear_another_address()
 {
    let world = World::start(Transport::Quic);
    let (_agent, echo) = device(&world, "mynas").await;
    let tap = Tap::before(world.front).await;
    let client = endpoint(&world, Ipv4Addr::LOCALHOST);
    let mut visitor = Visitor::come(&client, tap.inside, HOST).await;
    let nothing = Bytes::new();
    visitor.ask(Method::GET, HOST, &nothing).await;
    // As in `ids_that_are_made_up_or_seen_lead_nobody_to_an_answer`.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.rebind(socket).unwrap();
    visitor.ask(Method::GET, HOST, &nothing).await;
    let asked = echo.asked.load(Relaxed);
    let came_back = world.metric(CAME_BACK);
    tap.is_diverted.store(true, Relaxed);
    let stolen = async {
        let has_come = async {
            eventually(|| echo.asked.load(Relaxed) > asked).await;
            assert!(world.metric(CAME_BACK) > came_back, "from elsewhere");
            tap.is_diverted.store(false, Relaxed);
        };
        tokio::join!(visitor.ask(Method::GET, HOST, &nothing), has_come).0
    };
    let (head, _) = stolen.await;
    assert_eq!(said(&head, "x-visitor"), "127.0.0.1");
    let (head, _) = visitor.ask(Method::GET, HOST, &nothing).await;
    assert_eq!(said(&head, "x-visitor"), "127.0.0.1");
}

#[tokio::test]
async fn ids_that_are_made_up_or_seen_lead_nobody_to_an_answer() {
    const THIEVES: u8 = 200;
    let world = World::start(Transport::Quic);
    let (_agent, _echo) = device(&world, "mynas").await;
    let tap = Tap::before(world.front).await;
    let client = endpoint(&world, Ipv4Addr::LOCALHOST);
    let mut visitor = Visitor::come(&client, tap.inside, HOST).await;
    visitor.ask(Method::POST, HOST, &payload(100_000)).await;
    // Behind another port it has to take an id that was given to it in private.
    client
        .rebind(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        .unwrap();
    visitor.ask(Method::POST, HOST, &payload(100_000)).await;
    let seen = tap.seen.lock().unwrap().clone();
    let stray = "causeway_relay_datagrams_dropped_total{reason=\"stray\"}";
    let (strays, mut thieves) = (world.metric(stray), Vec::new());
    for number in 0..THIEVES {
        let thief = UdpSocket::bind((Ipv4Addr::new(127, 1, number, 1), 0)).unwrap();
        let mut made_up = seen.clone();
        made_up[9] ^= number | 1;
        thief.send_to(&made_up, world.front).unwrap();
        thieves.push(thief);
    }
    world.until_metric(stray, strays + u64::from(THIEVES)).await;
    assert_eq!(world.metric(CAME_BACK), 0);
    for thief in &thieves {
        thief.send_to(&seen, world.front).unwrap();
    }
    world.until_metric(CAME_BACK, THIEVES.into()).await;
    let (head, _) = visitor.ask(Method::POST, HOST, &payload(1_000_000)).await;
    assert_eq!(head.status(), StatusCode::OK, "it is still served");
    let gave_way = "causeway_relay_visitors_refused_total{reason=\"gave_way\"}";
    let idle = "causeway_relay_visitors_ended_total{end=\"idle\"}";
    // All go before long, most of them for others.
    let gone = || {
        let left = world.metric("causeway_relay_visitors_ended_total{end=\"visitor_gone\"}");
        world.metric(gave_way) + world.metric(idle) + left >= THIEVES.into()
    };
    eventually(gone).await;
    thieves.iter().for_each(has_heard_nothing);
}
