//! No acknowledged update is lost when the process is killed, and every start finds a log that can be read.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::child::{DEVICES, Server, directory, on_disk};
use crate::dns::{framed, read_framed, resolve};
use crate::fake_disk::Dice;
use crate::signing::{Signer, update};
use crate::world::Directory;

const LIVES: u64 = 200;
/// Of so many, one is killed while it starts.
const STARTS: u64 = 8;
/// The moments are the same in every run; what happens at them is not.
const SEED: u64 = 0x9C0F_FEE0;
/// Microseconds that a server is given at most, under load and while it starts.
const UNDER_LOAD: u64 = 40_000;
const STARTING: u64 = 15_000;
const CONNECTIONS: usize = 2;

/// A device that moves from 10.0.0.0 to 10.0.0.1 and so on, one step after the other.
struct Mover {
    host: String,
    signer: Signer,
    /// The last step that was asked for.
    asked: AtomicU32,
    /// The last that is known to be done.
    done: AtomicU32,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_under_load_loses_an_acknowledged_update_or_spoils_the_log() {
    let state = on_disk();
    let directory = directory();
    let movers: Arc<[Mover]> = (0..DEVICES).map(|n| Mover::new(n, &directory)).collect();
    let (mut dice, began) = (Dice(SEED), Instant::now());
    let (mut acknowledged, mut answers, mut under_way, mut done_unheard) = (0, 0, 0, 0);
    for life in 0..LIVES {
        let mut server = Server::spawn(state.path(), &[]);
        if life % STARTS == STARTS - 1 {
            tokio::time::sleep(Duration::from_micros(dice.roll(STARTING))).await;
            server.kill();
            continue;
        }
        let address = server.ready().dns;
        for mover in &*movers {
            done_unheard += u64::from(mover.is_where_it_was_told(address).await);
        }

        let heard = Arc::<AtomicUsize>::default();
        let moving: Vec<_> = (0..CONNECTIONS)
            .map(|first| tokio::spawn(go_on(address, Arc::clone(&movers), first, heard.clone())))
            .collect();
        let stop = CancellationToken::new();
        let asking = tokio::spawn(ask(address, Arc::clone(&movers), stop.clone()));
        tokio::time::sleep(Duration::from_micros(dice.roll(UNDER_LOAD))).await;
        // Who asks ends just before, so as not to miss the answers of a server that is no more.
        stop.cancel();
        answers += asking.await.unwrap();
        server.kill();
        for task in moving {
            task.await.unwrap();
        }
        acknowledged += heard.load(SeqCst);
        under_way += u64::from(movers.iter().any(|mover| mover.is_under_way()));
    }
    let mut server = Server::spawn(state.path(), &[]);
    let address = server.ready().dns;
    for mover in &*movers {
        mover.is_where_it_was_told(address).await;
    }
    println!(
        "{LIVES} kills by seed {SEED:#x} in {:?}: {acknowledged} updates acknowledged, {answers} answers meanwhile; {under_way} kills \
         with updates under way, of which {done_unheard} were done",
        began.elapsed()
    );
    assert!(acknowledged > LIVES as usize && answers > LIVES);
    assert!(
        under_way > LIVES / 2,
        "no load: {under_way} kills have hit an update"
    );
}

impl Mover {
    fn new(number: usize, directory: &Directory) -> Self {
        let name = format!("d{number}");
        Self {
            host: format!("{name}.nas.test"),
            signer: Signer::of(&name, directory),
            asked: AtomicU32::new(0),
            done: AtomicU32::new(0),
        }
    }

    fn is_under_way(&self) -> bool {
        self.asked.load(SeqCst) != self.done.load(SeqCst)
    }

    /// Asks where it is; that is where it was told last, or on the way from there. Says whether it has got further than that.
    async fn is_where_it_was_told(&self, server: SocketAddr) -> bool {
        let step = self.step(server).await;
        let (done, asked) = (self.done.load(SeqCst), self.asked.load(SeqCst));
        assert!(
            (done..=asked).contains(&step),
            "{} is at step {step}, and {done} was acknowledged of {asked}",
            self.host
        );
        self.done.store(step, SeqCst);
        step > done
    }

    async fn step(&self, server: SocketAddr) -> u32 {
        match resolve(server, &self.host, "A").await.as_str() {
            "192.0.2.250" => 0, // the relay's: it has not moved yet
            address => {
                let parsed = address.parse::<Ipv4Addr>();
                let at = parsed.unwrap_or_else(|_| panic!("{} is at {address:?}", self.host));
                at.to_bits() - FROM
            }
        }
    }
}

const FROM: u32 = Ipv4Addr::new(10, 0, 0, 0).to_bits();

/// Moves those of one connection on, each as soon as its last step is acknowledged, until the connection ends.
async fn go_on(
    server: SocketAddr,
    movers: Arc<[Mover]>,
    connection: usize,
    heard: Arc<AtomicUsize>,
) {
    let Ok(stream) = TcpStream::connect(server).await else {
        return;
    };
    let (mut read, mut write) = stream.into_split();
    let next = |number: usize| {
        let mover = &movers[number];
        let to = Ipv4Addr::from_bits(FROM + mover.asked.fetch_add(1, SeqCst) + 1);
        let host = &mover.host;
        let statements = format!("delete {host} A; add {host} A {to}");
        let mut message = update("nas.test", &statements);
        message[..2].copy_from_slice(&(number as u16).to_be_bytes());
        mover.signer.sign(&message)
    };
    let mut requests: Vec<_> = (0..movers.len()).map(|_| None).collect();
    let mut pipe = Vec::new();
    for number in (connection..movers.len()).step_by(CONNECTIONS) {
        let message = next(number);
        pipe.extend(framed(&message.octets));
        requests[number] = Some(message);
    }
    // Where it cannot be written any more, there may yet be something to read.
    let _ = write.write_all(&pipe).await;
    while let Some(reply) = read_framed(&mut read).await {
        let number = usize::from(u16::from_be_bytes([reply[0], reply[1]]));
        let mover = &movers[number];
        let request = requests[number].take().expect("answered twice");
        assert_eq!(reply[2..4], [0xA8, 0], "{}", mover.host);
        assert!(mover.signer.is_signed(&request, &reply));
        mover.done.store(mover.asked.load(SeqCst), SeqCst);
        heard.fetch_add(1, SeqCst);
        let message = next(number);
        let _ = write.write_all(&framed(&message.octets)).await;
        requests[number] = Some(message);
    }
}

/// Asks where the movers are, again and again: never behind what was acknowledged before the question. Says how often.
async fn ask(server: SocketAddr, movers: Arc<[Mover]>, stop: CancellationToken) -> u64 {
    let mut answers = 0;
    for mover in movers.iter().cycle() {
        let done = mover.done.load(SeqCst);
        tokio::select! {
            // Stopping first, as answers come all the time.
            biased;
            () = stop.cancelled() => break,
            step = mover.step(server) => {
                assert!((done..=mover.asked.load(SeqCst)).contains(&step), "{}", mover.host);
                answers += 1;
            }
        }
    }
    answers
}
