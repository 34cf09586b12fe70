//! How long a packet may be on the way to a relay. Each length is tried by a packet that must not be cut on the way, and to which a
//! relay answers that it has no such version of QUIC: what comes back says which lengths have arrived.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};
use wire::probe::negotiation;

use super::finding::{Finding, Hop};

/// Lengths of whole packets that links and tunnels are known for, beside the shortest that QUIC is content with.
const LENGTHS: [u16; 12] = [
    1240, 1260, 1280, 1300, 1340, 1380, 1400, 1420, 1440, 1460, 1492, 1500,
];

/// With so much the way is as good as any: a tunnel or two may be on it.
const ENOUGH: u16 = 1400;

/// A visitor's HTTP/3, of 1,200 octets, does not fit into a tunnel's packet of less.
const HTTP3: u16 = 1280;

/// A packet may be lost for another reason.
const ROUNDS: usize = 4;

/// How long a round waits for answers: so many round trips of the handshake, and within these bounds.
const ROUND_TRIPS: u32 = 3;
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_millis(700);

/// What is known of the way, in octets of a whole packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathMtu {
    /// The longest that has arrived; `None` if the relay answers to none.
    longest: Option<u16>,
    /// What the device's own interface takes.
    link: u16,
    /// What this kernel takes the way for after all, by what routers have told it.
    told: u16,
}

/// Tries all lengths on the way to `relay`, to which a handshake has taken `handshake`.
pub(super) async fn measure(relay: SocketAddr, handshake: Duration) -> io::Result<PathMtu> {
    let socket = socket_to(relay).await?;
    let headers = if relay.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let shortest = negotiation::SHORTEST as u16 + headers;
    let link = kernels_mtu(&socket, relay)?;
    let wait = (handshake * ROUND_TRIPS).clamp(SHORTEST_WAIT, LONGEST_WAIT);
    let (to, mut id): ([u8; 8], [u8; 8]) = (rand::random(), rand::random());
    let mut longest = None;
    let mut received = [0; 1500];
    for _ in 0..ROUNDS {
        let lengths = [shortest].into_iter().chain(LENGTHS);
        let mut waited_for = None;
        for length in lengths.filter(|length| *length >= shortest && Some(*length) > longest) {
            id[6..].copy_from_slice(&length.to_be_bytes());
            let octets = negotiation::question(to, id, usize::from(length - headers));
            // One that is too long for the interface is as good as lost, and so is one that a firewall of our own refuses.
            if socket.send(&octets).await.is_ok() {
                waited_for = Some(length);
            }
        }
        let until = Instant::now() + wait;
        while longest < waited_for {
            let Ok(heard) = timeout_at(until, socket.recv(&mut received)).await else {
                break;
            };
            // An error is what ICMP says, of one that was too long.
            let answer = heard.map(|length| received.get(..length).and_then(negotiation::answer));
            if let Ok(Some([prefix @ .., high, low])) = answer
                && prefix == id[..6]
            {
                longest = longest.max(Some(u16::from_be_bytes([high, low])));
            }
        }
    }
    Ok(PathMtu {
        longest,
        link,
        told: kernels_mtu(&socket, relay)?,
    })
}

/// A socket whose packets are not cut, whatever the kernel takes the way for.
async fn socket_to(relay: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match relay {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    match relay {
        SocketAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?,
    }
    socket.connect(relay).await?;
    Ok(socket)
}

fn kernels_mtu(socket: &UdpSocket, relay: SocketAddr) -> io::Result<u16> {
    let octets = match relay {
        SocketAddr::V4(_) => sockopt::ip_mtu(socket)?,
        SocketAddr::V6(_) => sockopt::ipv6_mtu(socket)?,
    };
    Ok(u16::try_from(octets).unwrap_or(u16::MAX))
}

impl PathMtu {
    /// Says it of the way to `relay`.
    pub(super) fn judged(self, relay: &str) -> Finding {
        let subject = format!("packet size to {relay}");
        let longest = match self.longest {
            Some(longest) if longest >= ENOUGH => {
                let words = format!("packets of up to {longest} octets pass");
                return Hop::Way.well(subject, words);
            }
            Some(longest) => longest,
            None => {
                let words = "the relay does not answer to what it is measured by";
                return Hop::Way.unknown(subject, words, "nothing, unless large transfers hang");
            }
        };
        let longer = LENGTHS.into_iter().find(|length| *length > longest);
        let longer = longer.unwrap_or(u16::MAX);
        let (why, mend) = if self.link < longer {
            (
                ": this device's own interface takes no longer ones",
                "set its MTU to 1500 (`ip link set dev INTERFACE mtu 1500`), unless it is a VPN that needs it so".to_owned(),
            )
        } else if self.told >= longer {
            (
                ", and nobody on the way says so (a black hole): over TCP large transfers hang",
                format!(
                    "let ICMP \"fragmentation needed\" through every firewall on the way, or set the MTU of this device's interface to \
                     {longest} (`ip link set dev INTERFACE mtu {longest}`)"
                ),
            )
        } else {
            (
                "",
                "see which tunnel or VPN on the way takes so little, and raise its MTU to 1400 at least".to_owned(),
            )
        };
        let too_little = match longest < HTTP3 {
            true => "; it is too little for HTTP/3",
            false => "",
        };
        let words = format!("packets of more than {longest} octets do not pass{why}{too_little}");
        Hop::Way.slow(subject, words, mend)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Health;
    use super::*;

    fn judged(longest: Option<u16>, link: u16, told: u16) -> Finding {
        let path = PathMtu {
            longest,
            link,
            told,
        };
        path.judged("relay:443")
    }

    #[test]
    fn what_keeps_packets_short_is_told_apart() {
        assert_eq!(judged(Some(1492), 1500, 1492).health, Health::Well);
        assert_eq!(judged(Some(1420), 1420, 1420).health, Health::Well);
        assert_eq!(judged(None, 1500, 1500).health, Health::Unknown);
        let hole = judged(Some(1300), 1500, 1500);
        assert_eq!(hole.health, Health::Slow);
        assert!(hole.words.contains("black hole"), "{}", hole.words);
        assert!(!hole.words.contains("HTTP/3"), "{}", hole.words);
        let told = judged(Some(1300), 1500, 1320);
        assert!(!told.words.contains("black hole"), "{}", told.words);
        let link = judged(Some(1228), 1230, 1230);
        assert!(link.words.contains("own interface"), "{}", link.words);
        assert!(link.words.contains("HTTP/3"), "{}", link.words);
    }

    #[tokio::test]
    async fn the_longest_that_is_answered_counts() {
        let relay = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = relay.local_addr().unwrap();
        let measured = tokio::spawn(measure(address, Duration::ZERO));
        // What a path of 1,300 octets leaves of it.
        let mut received = [0; 2000];
        while !measured.is_finished() {
            let heard = timeout_at(
                Instant::now() + SHORTEST_WAIT,
                relay.recv_from(&mut received),
            );
            let Ok(Ok((length, from))) = heard.await else {
                continue;
            };
            if length + 28 <= 1300 {
                let mut answer = vec![0x80, 0, 0, 0, 0, 8];
                answer.extend_from_slice(&received[15..23]);
                relay.send_to(&answer, from).await.unwrap();
            }
        }
        let measured = measured.await.unwrap().unwrap();
        assert_eq!(measured.longest, Some(1300));
    }
}
