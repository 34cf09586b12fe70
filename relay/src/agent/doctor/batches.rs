//! Whether batches of packets (GSO) get to a relay as well as single packets do. What cuts them may be the driver of a network
//! interface, and what damages them a firewall: within the device nothing is to be seen of it.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use wire::probe::negotiation;

use crate::quic;

use super::finding::{Finding, Hop};

/// Packets of a batch, each of which a relay answers.
const PACKETS: u8 = 8;

/// Tries of a batch, and of as many packets by themselves if no batch has arrived as a whole.
const TRIES: usize = 3;

/// How long the answers may take.
const WAIT: Duration = Duration::from_millis(600);

/// How the packets are handed to the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handed {
    Together,
    OneByOne,
}

/// How many packets have been answered when it went best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batches {
    /// This system sends none.
    None,
    Answered {
        together: usize,
        one_by_one: usize,
    },
}

/// Sends batches to `relay`, and single packets if those do not arrive as a whole.
pub(super) async fn measure(relay: SocketAddr) -> io::Result<Batches> {
    let Some(together) = best_of(relay, Handed::Together).await? else {
        return Ok(Batches::None);
    };
    let one_by_one = match together == usize::from(PACKETS) {
        true => together,
        false => best_of(relay, Handed::OneByOne).await?.unwrap_or_default(),
    };
    Ok(Batches::Answered {
        together,
        one_by_one,
    })
}

/// `None` if they cannot be sent so.
async fn best_of(relay: SocketAddr, handed: Handed) -> io::Result<Option<usize>> {
    let mut best = 0;
    for _ in 0..TRIES {
        match answered(relay, handed).await? {
            Some(answered) => best = best.max(answered),
            None => return Ok(None),
        }
        if best == usize::from(PACKETS) {
            break;
        }
    }
    Ok(Some(best))
}

async fn answered(relay: SocketAddr, handed: Handed) -> io::Result<Option<usize>> {
    let any: SocketAddr = match relay {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    let (to, id): ([u8; 8], [u8; 7]) = (rand::random(), rand::random());
    let question = |number: u8| {
        let mut its = [number; negotiation::ID_LENGTH];
        its[..id.len()].copy_from_slice(&id);
        negotiation::question(to, its, negotiation::SHORTEST)
    };
    let questions: Vec<_> = (0..PACKETS).map(question).collect();
    match handed {
        Handed::Together => {
            // What a firewall of this device refuses is as good as lost.
            let sent = quic::send_batch(&socket, relay, &questions.concat(), negotiation::SHORTEST);
            if let Ok(false) = sent {
                return Ok(None);
            }
        }
        Handed::OneByOne => {
            for question in &questions {
                let _ = socket.send_to(question, relay); // the same
            }
        }
    }
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let (until, mut received) = (Instant::now() + WAIT, [0; 1500]);
    let mut numbers = HashSet::new();
    while numbers.len() < questions.len() {
        let Ok(heard) = timeout_at(until, socket.recv_from(&mut received)).await else {
            break;
        };
        let answer = heard.map(|(length, _)| received.get(..length).and_then(negotiation::answer));
        if let Ok(Some([prefix @ .., number])) = answer
            && prefix == id
        {
            numbers.insert(number);
        }
    }
    Ok(Some(numbers.len()))
}

impl Batches {
    /// Says it of the way to `relay`.
    pub(super) fn judged(self, relay: &str) -> Finding {
        let subject = format!("batches to {relay}");
        let all = usize::from(PACKETS);
        match self {
            Self::None => Hop::Way.well(subject, "this kernel sends none"),
            Self::Answered { together, .. } if together == all => {
                Hop::Way.well(subject, "packets sent together arrive")
            }
            Self::Answered {
                together,
                one_by_one,
            } if one_by_one > together => Hop::Way.slow(
                subject,
                format!(
                    "of {all} packets sent together (UDP GSO) {together} are answered, of as many sent by themselves {one_by_one}"
                ),
                "run the agent with `--gso off`, which costs more of the processor; to mend it, update the driver of the network \
                 interface or switch that off (`ethtool -K INTERFACE tx-udp-segmentation off`), and see whether a firewall rule of \
                 this device drops packets that are longer than 1,500 octets",
            ),
            Self::Answered { one_by_one, .. } => Hop::Way.unknown(
                subject,
                format!("of {all} packets at once {one_by_one} at most are answered, together or by themselves"),
                "nothing, unless transfers are slow: then the way loses packets",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Health;
    use super::*;

    #[test]
    fn only_what_goes_better_one_by_one_is_the_batches_fault() {
        let health = |together, one_by_one| {
            let batches = Batches::Answered {
                together,
                one_by_one,
            };
            batches.judged("relay:443").health
        };
        assert_eq!(health(8, 8), Health::Well);
        assert_eq!(health(0, 8), Health::Slow);
        assert_eq!(health(7, 8), Health::Slow);
        assert_eq!(health(0, 0), Health::Unknown);
        assert_eq!(Batches::None.judged("relay:443").health, Health::Well);
    }
}
