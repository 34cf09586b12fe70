//! One server hands over to another, on the same state and the same sockets: nobody is left without an answer, and no update is
//! lost or promised in vain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ddns::update::UpdateError;
use ddns::{Bound, Handle, StartError};
use directory::DeviceName;
use prometheus::Registry;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Barrier, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::dns::{ask_tcp, ask_udp, decode, framed, query, read_framed, resolve};
use crate::dot::{connect_to, dot, good_client};
use crate::signing::{Signer, update};
use crate::world::{self, Before, World, change};

const CONFIG: &str = r#"
    listen = "127.0.0.1:0"
    dot = "127.0.0.1:0"
    updates_per_minute = 0
    private_addresses = true
"#;
const HOST: &str = "mynas.nas.test";
/// For whatever has to happen at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Queries that each client asks in each situation.
const SOME: u64 = 20;

#[derive(Clone, Copy, Debug)]
enum Way {
    Udp,
    Tcp,
    Dot,
}

impl Way {
    /// Asks for the address of `HOST` on a socket of its own. A query that is not answered ends the test.
    async fn ask(self, server: SocketAddr) -> String {
        let message = query(&[HOST, "A"]);
        let reply = match self {
            Self::Udp => ask_udp(server, &message).await,
            Self::Tcp => ask_tcp(server, &message).await.expect("no reply by TCP"),
            Self::Dot => {
                let asked = async {
                    let mut stream = connect_to(server, good_client()).await.unwrap();
                    stream.write_all(&framed(&message)).await.unwrap();
                    stream.flush().await.unwrap();
                    read_framed(&mut stream).await.expect("no reply by TLS")
                };
                timeout(PATIENCE, asked).await.expect("no reply by TLS")
            }
        };
        let lines = decode(&reply);
        assert_eq!(lines[0].split(' ').next(), Some("NOERROR"), "{lines:?}");
        let answer = lines.iter().find(|line| line.starts_with("answer "));
        answer.unwrap().rsplit(' ').next().unwrap().to_owned()
    }
}

/// Somebody who asks again and again, one query after the other, and is always answered.
struct Client {
    way: Way,
    /// How often, and what the last answer was.
    answered: watch::Receiver<(u64, String)>,
    asking: JoinHandle<()>,
}

impl Client {
    fn start(way: Way, server: SocketAddr) -> Self {
        let (tell, answered) = watch::channel((0, String::new()));
        let asking = tokio::spawn(async move {
            while !tell.is_closed() {
                let address = way.ask(server).await;
                tell.send_modify(|(count, last)| {
                    *count += 1;
                    *last = address;
                });
            }
        });
        Self {
            way,
            answered,
            asking,
        }
    }

    /// Waits until it has got some more answers, and returns the last.
    async fn some(&mut self) -> String {
        let begun = self.answered.borrow().0;
        let answered = self.answered.wait_for(|(count, _)| *count >= begun + SOME);
        let told = timeout(PATIENCE, answered).await;
        match told.unwrap_or_else(|_| panic!("{:?} is slow", self.way)) {
            Ok(told) => told.1.clone(),
            Err(_) => panic!("a query by {:?} was not answered", self.way),
        }
    }

    /// Its last answer has come when this returns.
    async fn end(self) {
        drop(self.answered);
        self.asking.await.unwrap();
    }
}

async fn some(clients: &mut [Client]) -> Vec<String> {
    let mut last = Vec::new();
    for client in clients {
        last.push(client.some().await);
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn no_query_goes_unanswered_and_no_update_is_lost() {
    let mut world = World::with_config(CONFIG).await;
    world.directory.add("mynas");
    let signer = Signer::of("mynas", &world.directory);
    world.set("mynas", &["192.0.2.1"]).await.unwrap();
    let mut clients = vec![
        Client::start(Way::Udp, world.v4()),
        Client::start(Way::Tcp, world.v4()),
        Client::start(Way::Dot, dot(&world)),
    ];
    some(&mut clients).await;

    world.server.hand_over().give_up_updates().await.unwrap();
    for address in ["192.0.2.9", "192.0.2.1"] {
        let put_off = world.set("mynas", &[address]).await;
        assert_eq!(put_off, Err(UpdateError::Stopped), "{address}");
    }
    assert_eq!(
        by_message(world.v4(), &signer, "192.0.2.9").await,
        "SERVFAIL"
    );
    assert!(world.server.updater().is_ready(), "not the disk's fault");
    assert!(
        some(&mut clients)
            .await
            .iter()
            .all(|last| last == "192.0.2.1")
    );

    let (hand_over, alone) = (world.server.hand_over(), CancellationToken::new());
    let both = Before {
        bound: hand_over.sockets().unwrap(),
        alone: Some(alone.clone()),
    };
    let before = world.succeed_to(both, CONFIG).await;
    assert_eq!(before.addr(), world.server.addr());
    some(&mut clients).await;
    for address in ["192.0.2.9", "192.0.2.1"] {
        let put_off = world.set("mynas", &[address]).await;
        assert_eq!(put_off, Err(UpdateError::Stopped), "not alone: {address}");
    }
    let before = tokio::spawn(before.shutdown());
    timeout(PATIENCE, hand_over.left()).await.unwrap();
    alone.cancel();
    world.set("mynas", &["192.0.2.2"]).await.unwrap();
    for _ in 0..SOME {
        assert_eq!(
            Way::Udp.ask(world.v4()).await,
            "192.0.2.2",
            "the next query"
        );
    }
    some(&mut clients).await;
    timeout(PATIENCE, before).await.unwrap().unwrap().unwrap();
    assert!(
        some(&mut clients)
            .await
            .iter()
            .all(|last| last == "192.0.2.2")
    );
    assert_eq!(
        by_message(world.v4(), &signer, "192.0.2.3").await,
        "NOERROR"
    );
    assert!(
        some(&mut clients)
            .await
            .iter()
            .all(|last| last == "192.0.2.3")
    );
    for client in clients {
        client.end().await;
    }
    for way in ["udp", "tcp", "dot"] {
        let answered = format!(r#"queries_total{{rcode="noerror",transport="{way}"}}"#);
        assert!(world.metric(&answered) >= SOME as f64, "{way}");
    }
    let world = world.restart().await;
    assert_eq!(resolve(world.v4(), HOST, "A").await, "192.0.2.3");
}

/// Its code.
async fn by_message(server: SocketAddr, signer: &Signer, address: &str) -> String {
    let statements = format!("delete {HOST} A; add {HOST} A {address}");
    let message = signer.sign(&update("nas.test", &statements));
    let reply = ask_udp(server, &message.octets).await;
    assert!(signer.is_signed(&message, &reply));
    let head = decode(&reply).swap_remove(0);
    head.split(' ').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_in_before_the_end_may_still_ask() {
    let mut world = World::with_config(CONFIG).await;
    let message = framed(&query(&["nas.test", "SOA"]));
    let mut plain = TcpStream::connect(world.v4()).await.unwrap();
    plain.write_all(&message).await.unwrap();
    read_framed(&mut plain).await.unwrap();
    // Nothing has come of its handshake yet, but it was the first in the queue.
    let mut silent = TcpStream::connect(dot(&world)).await.unwrap();
    drop(connect_to(dot(&world), good_client()).await.unwrap());

    let hand_over = world.server.hand_over();
    hand_over.give_up_updates().await.unwrap();
    let before = world.succeed(CONFIG).await;
    let ending = tokio::spawn(before.shutdown());
    timeout(PATIENCE, hand_over.left()).await.unwrap();
    assert!(hand_over.sockets().is_err(), "it still listens");
    plain.write_all(&message).await.unwrap();
    let reply = timeout(PATIENCE, read_framed(&mut plain)).await.unwrap();
    assert!(reply.is_some(), "cut off");
    assert!(!ending.is_finished());
    // Another comes to the successor.
    assert!(
        ask_tcp(world.v4(), &query(&["nas.test", "SOA"]))
            .await
            .is_some()
    );
    drop(plain);
    silent.shutdown().await.unwrap();
    timeout(PATIENCE, ending).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn the_state_is_free_when_the_updates_are_given_up_and_not_before() {
    let mut world = World::with_config(CONFIG).await;
    let hand_over = world.server.hand_over();
    let early = start_beside(&world, CONFIG, hand_over.sockets().unwrap()).await;
    assert!(matches!(early, Err(StartError::State { .. })), "{early:?}");
    // Twice is as good as once.
    hand_over.give_up_updates().await.unwrap();
    hand_over.give_up_updates().await.unwrap();
    let before = world.succeed(CONFIG).await;
    // The second is a server like the first, and hands over in its turn.
    world.server.hand_over().give_up_updates().await.unwrap();
    let second = world.succeed(CONFIG).await;
    for ended in [before, second] {
        ended.shutdown().await.unwrap();
    }
    assert!(hand_over.sockets().is_err(), "it holds nothing itself");
    assert_eq!(resolve(world.v4(), "nas.test", "A").await, "192.0.2.250");
}

/// Every update that was taken while the log was given up is in the successor's answers, and every other was told so.
#[tokio::test(flavor = "multi_thread")]
async fn updates_on_their_way_are_stored_or_put_off() {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let mut world = World::with_config(CONFIG).await;
    for name in NAMES {
        world.directory.add(name);
    }
    let barrier = Arc::new(Barrier::new(NAMES.len() + 1));
    let mut tasks = Vec::new();
    for name in NAMES {
        let updater = world.server.updater();
        let name = DeviceName::parse(name).unwrap();
        let device = world.directory.reader.device_by_name(&name).unwrap();
        let barrier = Arc::clone(&barrier);
        tasks.push(tokio::spawn(async move {
            let mut last = None;
            for count in 1_u16.. {
                if count == 10 {
                    barrier.wait().await;
                }
                let [high, low] = count.to_be_bytes();
                let address = format!("10.0.{high}.{low}");
                let update = updater.update(device.registration, &name, change(&[&address]));
                match update.await {
                    Ok(_) => last = Some(address),
                    Err(error) => {
                        assert_eq!(error, UpdateError::Stopped);
                        break;
                    }
                }
            }
            (name, last.unwrap())
        }));
    }
    barrier.wait().await;
    world.server.hand_over().give_up_updates().await.unwrap();
    let before = world.succeed(CONFIG).await;
    before.shutdown().await.unwrap();
    for task in tasks {
        let (name, address) = task.await.unwrap();
        let found = resolve(world.v4(), &format!("{name}.nas.test"), "A").await;
        assert_eq!(found, address, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_socket_gets_a_thread_whatever_the_configuration_says() {
    let mut world = World::with_config(&format!("{CONFIG}\nthreads = 4")).await;
    let hand_over = world.server.hand_over();
    hand_over.give_up_updates().await.unwrap();
    // Else a socket that nobody reads would be closed, and the kernel would deal nothing out to it.
    let kept_open = hand_over.sockets().unwrap();
    assert_eq!(kept_open.udp.len(), 4);
    let before = world.succeed(&format!("{CONFIG}\nthreads = 1")).await;
    before.shutdown().await.unwrap();
    for _ in 0..100 {
        assert_eq!(resolve(world.v4(), "nas.test", "A").await, "192.0.2.250");
    }
}

#[tokio::test]
async fn sockets_that_do_not_fit_are_refused_in_a_sentence_and_the_first_server_goes_on() {
    let world = World::with_config(CONFIG).await;
    let hand_over = world.server.hand_over();
    let sockets = || hand_over.sockets().unwrap();
    hand_over.give_up_updates().await.unwrap();
    let port = world.server.addr().port();
    let elsewhere = CONFIG.replacen("127.0.0.1:0", "127.0.0.2:0", 1);
    let half = Bound {
        tcp: None,
        ..sockets()
    };
    let without_dot = CONFIG.replace("dot =", "# dot =");
    for (config, bound, words) in [
        (
            &*elsewhere,
            sockets(),
            ["127.0.0.2:0", &format!("127.0.0.1:{port}")],
        ),
        (CONFIG, half, ["only UDP", "one port"]),
        (&without_dot, sockets(), ["over TLS", "no `dot`"]),
    ] {
        let refused = start_beside(&world, config, bound).await.unwrap_err();
        assert!(matches!(refused, StartError::Bound(_)));
        let sentence = refused.to_string();
        assert!(
            words.iter().all(|word| sentence.contains(word)),
            "{sentence}"
        );
    }
    let message = query(&["nas.test", "A"]);
    ask_udp(world.v4(), &message).await;
    assert!(ask_tcp(world.v4(), &message).await.is_some());
}

async fn start_beside(world: &World, config: &str, bound: Bound) -> Result<Handle, StartError> {
    let (reader, state) = (&world.directory.reader, world.state.path());
    let before = Before { bound, alone: None };
    world::succeed(reader, state, config, &Registry::new(), &world.stop, before).await
}
