//! What a way over UDP carries: a visitor sends datagrams to its entrance at each of several rates, and the service behind it counts what
//! comes. Both are here, and give the kernel many datagrams at once, so that neither is what is measured.
//!
//! ```text
//! cargo run --release -p loadtest --example udp -- ENTRANCE SERVICE SECONDS MBIT,MBIT,…
//! ```
//!
//! ENTRANCE is the public port, SERVICE where this program is to be the service that it leads to. Of each hundred datagrams one is
//! answered, so that the visitor is one who goes on to talk.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement that cannot go on says so by panicking"
)]

use std::env;
use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};

/// Of a datagram, in octets: what every QUIC connection may send.
const LENGTH: usize = 1200;

/// So many are handed to the kernel at once at most.
const AT_ONCE: usize = 32;

const BUFFER: usize = 8 * 1024 * 1024;

struct Service {
    came: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Service {
    fn start(at: SocketAddr) -> Self {
        let socket = UdpSocket::bind(at).unwrap();
        let state = with_buffers(&socket);
        let (came, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, stopped) = (Arc::clone(&came), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut room = vec![0; 65536 * BATCH_SIZE];
            let mut metas = [RecvMeta::default(); BATCH_SIZE];
            while !stopped.load(Relaxed) {
                let mut parts = room.chunks_exact_mut(65536);
                let mut parts: [IoSliceMut<'_>; BATCH_SIZE] =
                    std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap()));
                let Ok(count) = state.recv((&socket).into(), &mut parts, &mut metas) else {
                    thread::sleep(Duration::from_micros(100));
                    continue;
                };
                for meta in metas.iter().take(count) {
                    let datagrams = meta.len.div_ceil(meta.stride.max(1)) as u64;
                    let before = counted.fetch_add(datagrams, Relaxed);
                    if before / 100 != (before + datagrams) / 100 || before < 8 {
                        let _ = socket.send_to(b"yes", meta.addr);
                    }
                }
            }
        });
        Self { came, stop, thread }
    }
}

fn with_buffers(socket: &UdpSocket) -> UdpSocketState {
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, BUFFER);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(socket, BUFFER);
    UdpSocketState::new(socket.into()).unwrap()
}

/// Sends for so long at a rate, and says how many were sent.
fn send(
    socket: &UdpSocket,
    state: &UdpSocketState,
    to: SocketAddr,
    rate: f64,
    time: Duration,
) -> u64 {
    let octets = vec![7; LENGTH * AT_ONCE];
    let (begun, mut sent) = (Instant::now(), 0_u64);
    while begun.elapsed() < time {
        let due = (begun.elapsed().as_secs_f64() * rate) as u64 - sent;
        if due < 8 {
            thread::sleep(Duration::from_micros(200));
        }
        let count = usize::try_from(due).unwrap().min(AT_ONCE);
        if count == 0 {
            continue;
        }
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: &octets[..count * LENGTH],
            segment_size: (count > 1).then_some(LENGTH),
            src_ip: None,
        };
        if state.try_send(socket.into(), &transmit).is_ok() {
            sent += count as u64;
        }
    }
    sent
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [entrance, service, seconds, rates] = arguments.as_slice() else {
        panic!("udp ENTRANCE SERVICE SECONDS MBIT,MBIT,…");
    };
    let entrance: SocketAddr = entrance.parse().unwrap();
    let time = Duration::from_secs_f64(seconds.parse().unwrap());
    let service = Service::start(service.parse().unwrap());
    let socket = UdpSocket::bind((entrance.ip(), 0)).unwrap();
    let state = with_buffers(&socket);
    // Until it converses.
    let begun = Instant::now();
    let mut room = [0; 2048];
    let mut heard = 0;
    while heard < 4 {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "nothing comes back"
        );
        let _ = socket.send_to(b"are you there?", entrance);
        thread::sleep(Duration::from_millis(50));
        while socket.recv(&mut room).is_ok() {
            heard += 1;
        }
    }
    println!("{:>8} {:>10} {:>8}", "Mbit/s", "came", "lost %");
    for rate in rates.split(',') {
        let megabits: f64 = rate.parse().unwrap();
        let before = service.came.load(Relaxed);
        let begun = Instant::now();
        let sent = send(
            &socket,
            &state,
            entrance,
            megabits * 1e6 / 8.0 / LENGTH as f64,
            time,
        );
        let took = begun.elapsed().as_secs_f64();
        thread::sleep(Duration::from_millis(500)); // what is on its way
        let came = service.came.load(Relaxed) - before;
        let of = |count: u64| count as f64 * LENGTH as f64 * 8.0 / took / 1e6;
        let lost = 100.0 * sent.saturating_sub(came) as f64 / sent.max(1) as f64;
        println!("{:>8.0} {:>10.0} {lost:>8.2}", of(sent), of(came));
    }
    service.stop.store(true, Relaxed);
    service.thread.join().unwrap();
}
