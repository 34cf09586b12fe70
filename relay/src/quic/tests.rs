//! Two endpoints over loopback.

mod flows;
mod generations;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime;
use tokio::time::timeout;
use wire::{CloseCode, ResetCode};

use super::*;

const HOST: &str = "relay.test";
const PATIENCE: Duration = Duration::from_secs(5);

/// Both ends of one connection.
pub(crate) struct Pair {
    relay: Endpoint,
    pub(crate) at_relay: Connection,
    agent: Endpoint,
    pub(crate) at_agent: Connection,
}

/// A relay, and what an agent needs to dial it.
struct Ends {
    side: RelaySide,
    endpoint: Endpoint,
    address: SocketAddr,
    roots: Roots,
    identity: AgentCertificate,
}

/// What was lost, and why.
#[derive(Default)]
pub(crate) struct Lost(Mutex<Vec<(Loss, usize)>>);

impl Losses for Lost {
    fn lost(&self, why: Loss, count: usize) {
        self.0.lock().unwrap().push((why, count));
    }
}

const PROFILE: Profile = Profile {
    room: Room::Small,
    batches: true,
};

impl Ends {
    fn new() -> Self {
        Self::losing(Arc::default())
    }

    /// A relay whose losses are heard of.
    fn losing(lost: Arc<Lost>) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        let own = params.self_signed(&key).unwrap().pem();
        let slot = CertificateSlot::from_pem(&own, &key.serialize_pem()).unwrap();
        let counts = DatagramCounts::unregistered();
        let secret = Secret::new([1; Secret::LENGTH].into());
        let side = RelaySide::new(slot, &secret, Gso::On, counts, lost).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let endpoint = side
            .endpoint(socket, 0, Generation::default(), Vec::new(), None)
            .unwrap();
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let identity = CertificateParams::default().self_signed(&key).unwrap();
        Self {
            side,
            endpoint,
            address,
            roots: Roots::from_pem(&own).unwrap(),
            identity: AgentCertificate::from_der(identity.der().to_vec(), key.serialize_der())
                .unwrap(),
        }
    }

    async fn dial(&self) -> io::Result<(Endpoint, Connection)> {
        self.dial_as(&Attempts::default()).await
    }

    async fn dial_as(&self, attempts: &Attempts) -> io::Result<(Endpoint, Connection)> {
        let (roots, identity) = (&self.roots, &self.identity);
        let losses = Arc::<Lost>::default();
        dial(
            self.address,
            HOST,
            roots,
            identity,
            PROFILE,
            attempts,
            losses,
        )
        .await
    }

    async fn connect(self) -> Pair {
        self.connect_to(&self.endpoint).await
    }

    /// Connects an agent, who is to be heard at that endpoint.
    async fn connect_to(&self, endpoint: &Endpoint) -> Pair {
        let accepted = async {
            loop {
                let incoming = endpoint.accept().await.unwrap();
                // The agent of another test, whose relay had this port before, may come by: that one goes again.
                if let Ok(accepted) = self.side.accept(incoming).await {
                    return Ok(accepted);
                }
            }
        };
        let both = async { tokio::try_join!(accepted, self.dial()) };
        let (at_relay, (agent, at_agent)) = both.await.unwrap();
        Pair {
            relay: endpoint.clone(),
            at_relay,
            agent,
            at_agent,
        }
    }
}

pub(crate) async fn pair() -> Pair {
    Ends::new().connect().await
}

/// Waits for the end of a connection.
async fn end_of(connection: &Connection) -> ConnectionError {
    let ended = timeout(PATIENCE, connection.accept_bi());
    ended.await.expect("in time").unwrap_err()
}

#[tokio::test]
async fn a_ping_is_acknowledged_by_a_relay_that_has_nothing_to_say() {
    /// Nothing that a new connection does by itself takes so long.
    const STILL: Duration = Duration::from_millis(500);
    let pair = pair().await;
    let until_heard = async |since: u64| {
        while heard(&pair.at_agent) == since {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut last = heard(&pair.at_agent);
    while timeout(STILL, until_heard(last)).await.is_ok() {
        last = heard(&pair.at_agent);
    }
    pair.at_agent.ping();
    let acknowledged = timeout(PATIENCE, until_heard(last)).await;
    acknowledged.expect("the relay is there");
}

#[tokio::test]
async fn megabytes_come_whole_and_in_order_both_ways() {
    let pair = pair().await;
    let payload: Vec<u8> = (0..8_000_000_u32)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect();
    let echo = async {
        let (mut send, mut recv) = pair.at_agent.accept_bi().await.unwrap();
        tokio::io::copy(&mut recv, &mut send).await.unwrap();
        send.finish();
    };
    let ask = async {
        let (mut send, mut recv) = pair.at_relay.open_bi().await.unwrap();
        let mut heard = Vec::new();
        let say = async {
            send.write_all(&payload).await.unwrap();
            send.finish();
        };
        let (_, read) = tokio::join!(say, recv.read_to_end(&mut heard));
        read.unwrap();
        heard
    };
    let ((), heard) = timeout(PATIENCE, async { tokio::join!(echo, ask) })
        .await
        .expect("in time");
    assert!(heard == payload, "{} of {}", heard.len(), payload.len());
}

/// Sends bulk to the agent. Says how many packets it took, and how many messages to the kernel.
async fn packets_and_messages(pair: &Pair) -> (u64, u64) {
    let before = pair.at_relay.stats().udp_tx;
    let (mut send, _recv) = pair.at_relay.open_bi().await.unwrap();
    let say = async {
        send.write_all(&vec![7; 1_000_000]).await.unwrap();
        send.finish();
    };
    let hear = async {
        let (_send, mut recv) = pair.at_agent.accept_bi().await.unwrap();
        let heard = tokio::io::copy(&mut recv, &mut tokio::io::sink()).await;
        assert_eq!(heard.unwrap(), 1_000_000);
    };
    let both = async { tokio::join!(say, hear) };
    timeout(PATIENCE, both).await.expect("in time");
    let after = pair.at_relay.stats().udp_tx;
    (after.datagrams - before.datagrams, after.ios - before.ios)
}

#[tokio::test]
async fn once_a_batch_was_refused_each_packet_is_sent_by_itself() {
    let pair = pair().await;
    let (packets, messages) = packets_and_messages(&pair).await;
    assert!(packets > 4 * messages, "{packets} in {messages}");
    pair.relay.have_a_batch_refused();
    let (packets, messages) = packets_and_messages(&pair).await;
    assert!(
        packets > 500 && packets == messages,
        "{packets} in {messages}"
    );
}

#[tokio::test]
async fn chunks_are_what_was_written() {
    let pair = pair().await;
    let (mut send, _recv) = pair.at_relay.open_bi().await.unwrap();
    let payload = Bytes::from(vec![7; 100_000]);
    let mut rest = payload.clone();
    let say = async {
        while !rest.is_empty() {
            let sent = std::future::poll_fn(|cx| send.poll_write_bytes(cx, &rest)).await;
            let _ = rest.split_to(sent.unwrap());
        }
        send.finish();
    };
    let hear = async {
        let (_send, mut recv) = pair.at_agent.accept_bi().await.unwrap();
        let mut heard = Vec::new();
        let mut chunks = [const { Bytes::new() }; 8];
        while let Some(count) = std::future::poll_fn(|cx| recv.poll_chunks(cx, &mut chunks))
            .await
            .unwrap()
        {
            assert!(count > 0);
            heard.extend(chunks[..count].iter().flatten());
        }
        heard
    };
    let ((), heard) = timeout(PATIENCE, async { tokio::join!(say, hear) })
        .await
        .expect("in time");
    let digest = |octets: &[u8]| digest::digest(&digest::SHA256, octets);
    assert_eq!(digest(&heard).as_ref(), digest(&payload).as_ref());
}

#[tokio::test]
async fn a_stream_dropped_before_its_end_is_reset() {
    let pair = pair().await;
    let (mut send, recv) = pair.at_relay.open_bi().await.unwrap();
    send.write_all(b"half of it").await.unwrap();
    let (mut answer, mut question) = pair.at_agent.accept_bi().await.unwrap();
    let mut heard = [0; 10];
    question.read_exact(&mut heard).await.unwrap();
    drop((send, recv));
    let error = timeout(PATIENCE, question.read(&mut heard)).await.unwrap();
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    // Nobody reads the answer any more, and the other end is told.
    let deaf = timeout(PATIENCE, async {
        loop {
            if let Err(error) = answer.write_all(&[0; 1000]).await {
                return error;
            }
        }
    });
    let deaf = deaf.await.unwrap();
    assert_eq!(deaf.kind(), io::ErrorKind::ConnectionReset);
    answer.finish();
}

#[tokio::test]
async fn a_reset_says_why_and_a_finished_stream_takes_none() {
    let pair = pair().await;
    let (mut send, _recv) = pair.at_relay.open_bi().await.unwrap();
    send.write_all(b"?").await.unwrap();
    send.reset(ResetCode::Idle);
    let (_send, mut recv) = pair.at_agent.accept_bi().await.unwrap();
    let mut heard = Vec::new();
    let error = recv.read_to_end(&mut heard).await.unwrap_err();
    let code = ResetCode::Idle.number().to_string();
    assert!(error.to_string().contains(&code), "{error}");

    let (mut send, _recv) = pair.at_relay.open_bi().await.unwrap();
    send.write_all(b"all").await.unwrap();
    send.finish();
    send.reset(ResetCode::Cut);
    drop(send);
    let (_send, mut recv) = pair.at_agent.accept_bi().await.unwrap();
    let mut heard = Vec::new();
    recv.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"all");
    assert_eq!(recv.read(&mut [0; 8]).await.unwrap(), 0, "an end stays one");
}

#[tokio::test]
async fn more_streams_than_there_is_room_for_wait_for_one_to_end() {
    let pair = pair().await;
    // The relay lets an agent open few.
    let mut open = Vec::new();
    for _ in 0..RELAY_STREAMS {
        open.push(pair.at_agent.open_bi().await.unwrap());
    }
    let mut next = Box::pin(pair.at_agent.open_bi());
    let waits = timeout(Duration::from_millis(50), &mut next).await;
    waits.expect_err("there is no room");
    let (mut send, recv) = open.remove(0);
    send.write_all(b"!").await.unwrap();
    send.finish();
    drop((send, recv));
    let (mut answer, mut question) = pair.at_relay.accept_bi().await.unwrap();
    let mut heard = Vec::new();
    question.read_to_end(&mut heard).await.unwrap();
    answer.finish();
    drop((answer, question));
    timeout(PATIENCE, next).await.expect("in time").unwrap();
}

#[tokio::test]
async fn whoever_does_not_wait_any_more_is_forgotten() {
    let pair = pair().await;
    for _ in 0..100 {
        let soon = timeout(Duration::ZERO, pair.at_relay.accept_bi()).await;
        assert!(soon.is_err(), "nobody has opened any");
    }
    assert_eq!(pair.at_relay.waiters(), 0);
    let waits = pair.at_relay.accept_bi();
    let opens = async {
        let (mut send, recv) = pair.at_agent.open_bi().await.unwrap();
        send.write_all(b"?").await.unwrap();
        (send, recv)
    };
    let both = async { tokio::join!(waits, opens) };
    let (accepted, _opened) = timeout(PATIENCE, both).await.expect("in time");
    accepted.unwrap();
    assert_eq!(pair.at_relay.waiters(), 0);
}

#[tokio::test]
async fn the_code_of_a_close_arrives() {
    let pair = pair().await;
    close(&pair.at_relay, CloseCode::Displaced);
    end_of(&pair.at_agent).await;
    assert_eq!(close_code(&pair.at_agent), Ok(CloseCode::Displaced));
    timeout(PATIENCE, pair.agent.wait_idle()).await.unwrap();
    timeout(PATIENCE, pair.relay.wait_idle()).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_nobody_has_any_more_is_closed() {
    let pair = pair().await;
    let clone = pair.at_relay.clone();
    drop(pair.at_relay);
    assert!(clone.close_reason().is_none());
    drop(clone);
    let ended = end_of(&pair.at_agent).await;
    assert!(
        matches!(ended, ConnectionError::ApplicationClosed(_)),
        "{ended}"
    );
}

#[tokio::test]
async fn an_endpoint_that_nobody_has_any_more_ends_with_its_last_connection() {
    let pair = pair().await;
    let driven = pair.agent.driven();
    drop(pair.agent);
    let (mut send, _recv) = pair.at_agent.open_bi().await.unwrap();
    send.write_all(b"still here").await.unwrap();
    pair.at_relay.accept_bi().await.unwrap();
    assert!(driven.upgrade().is_some());
    drop((send, _recv, pair.at_agent));
    end_of(&pair.at_relay).await;
    let gone = async {
        while driven.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("in time");
}

#[tokio::test]
async fn who_is_refused_hears_so_at_once() {
    let ends = Ends::new();
    let refuse = async { ends.endpoint.accept().await.unwrap().refuse() };
    let (dialled, ()) = tokio::join!(timeout(PATIENCE, ends.dial()), refuse);
    assert!(is_refusal(&dialled.expect("in time").unwrap_err()));
    assert!(!is_refusal(&io::ErrorKind::TimedOut.into()));
    // Without a word it is the same.
    let forget = async { drop(ends.endpoint.accept().await.unwrap()) };
    let (dialled, ()) = tokio::join!(timeout(PATIENCE, ends.dial()), forget);
    dialled.expect("in time").unwrap_err();
    ends.endpoint.close(VarInt::from_u32(0), b"");
    let dialled = timeout(PATIENCE, ends.dial()).await;
    dialled.expect("in time").unwrap_err();
}

#[tokio::test]
async fn a_retry_is_an_answer_and_silence_is_none() {
    let ends = Ends::new();
    let attempts = Attempts::default();
    let mut dial = std::pin::pin!(ends.dial_as(&attempts));
    let silent = timeout(Duration::from_millis(500), &mut dial).await;
    assert!(silent.is_err() && !attempts.are_answered());
    ends.endpoint.accept().await.unwrap().retry();
    let _ = timeout(PATIENCE / 10, dial).await; // nobody takes what comes then
    assert!(attempts.are_answered());
}

#[tokio::test]
async fn who_is_asked_for_its_address_comes_again_with_it() {
    let ends = Ends::new();
    let accept = async {
        let incoming = ends.endpoint.accept().await.unwrap();
        assert!(incoming.may_retry);
        incoming.retry();
        let incoming = ends.endpoint.accept().await.unwrap();
        assert!(!incoming.may_retry);
        ends.side.accept(incoming).await.unwrap()
    };
    let attempts = Attempts::default();
    assert!(!attempts.are_answered());
    let (accepted, dialled) = tokio::join!(accept, timeout(PATIENCE, ends.dial_as(&attempts)));
    assert!(attempts.are_answered());
    dialled.expect("in time").unwrap();
    drop(accepted);
}

#[tokio::test]
async fn a_closed_endpoint_takes_nobody_and_says_so() {
    let ends = Ends::new();
    let endpoint = ends.endpoint.clone();
    let pair = ends.connect().await;
    close_all(&endpoint, CloseCode::Draining);
    assert!(endpoint.accept().await.is_none());
    end_of(&pair.at_agent).await;
    assert_eq!(close_code(&pair.at_agent), Ok(CloseCode::Draining));
    timeout(PATIENCE, endpoint.wait_idle()).await.unwrap();
}

#[test]
fn whoever_waits_when_the_worker_ends_hears_so() {
    let here = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let there = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let ends = there.block_on(async { Ends::new() });
    let endpoint = ends.endpoint.clone();
    let pair = there.block_on(ends.connect());
    let waiting = here.spawn(async move {
        let connection = pair.at_relay.accept_bi().await.map(|_| ());
        (connection, endpoint.accept().await.is_none())
    });
    there.shutdown_timeout(PATIENCE);
    let heard = here.block_on(async { timeout(PATIENCE, waiting).await });
    let (connection, nobody) = heard.expect("in time").unwrap();
    connection.unwrap_err();
    assert!(nobody);
}
