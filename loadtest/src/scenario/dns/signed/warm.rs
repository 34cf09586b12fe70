//! Every name asked for once.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use domain::base::{Message, Rtype};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use crate::question::{A, AAAA, TXT, signed_question};
use crate::scenario::ScenarioError;
use crate::world::million::ZONE;

/// Queries under way.
const WINDOW: usize = 100;

/// What has not been answered then is asked again.
const LOST: Duration = Duration::from_millis(200);

/// A server that has made as many signatures as it makes in a second is given a moment.
const REST: Duration = Duration::from_millis(2);

/// How long all of them may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Which names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scenario::dns) enum Those {
    /// That exist, for their first address.
    Exist,
    /// The same for the other one.
    ExistIpv6,
    /// Below those that exist, for what none has.
    Lacking,
    /// That do not exist.
    Missing,
}

/// Asks for the names of these numbers until each has been answered with signatures, over UDP.
pub(in crate::scenario::dns) async fn warm(
    server: SocketAddr,
    numbers: Range<u32>,
    those: Those,
) -> Result<(), ScenarioError> {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    client.connect(server).await?;
    let mut left: Vec<_> = numbers.collect();
    let (begun, mut next_id) = (Instant::now(), 0_u16);
    while !left.is_empty() {
        if begun.elapsed() > PATIENCE {
            return Err(ScenarioError::Nothing {
                workload: "all names of the signed zone",
                cause: format!("{} had no signatures in time", left.len()),
            });
        }
        let mut asked = left.split_off(left.len().saturating_sub(WINDOW));
        let first_id = next_id;
        for number in &asked {
            let question = signed_question(&those.host(*number), those.rtype());
            let mut question = question.unwrap_or_default();
            question[..2].copy_from_slice(&next_id.to_be_bytes());
            client.send(&question).await?;
            next_id = next_id.wrapping_add(1);
        }
        let mut signed = HashSet::new();
        // What comes late is asked again.
        let _ = timeout(LOST, async {
            let mut octets = [0; 1500];
            let mut answered = 0;
            while answered < asked.len() {
                let length = client.recv(&mut octets).await.unwrap_or(0);
                let octets = octets.get(..length).unwrap_or_default();
                let Some((id, is_signed)) = those.judge(octets) else {
                    continue;
                };
                let at = usize::from(id.wrapping_sub(first_id));
                answered += usize::from(at < asked.len());
                if is_signed {
                    signed.insert(at);
                }
            }
        })
        .await;
        let mut at = 0..;
        asked.retain(|_| at.next().is_some_and(|at| !signed.contains(&at)));
        if !asked.is_empty() {
            sleep(REST).await;
        }
        left.append(&mut asked);
    }
    Ok(())
}

impl Those {
    fn host(self, number: u32) -> String {
        let before = match self {
            Self::Exist | Self::ExistIpv6 => "h",
            Self::Lacking => "x.h",
            Self::Missing => "x",
        };
        format!("{before}{number:07}.{ZONE}")
    }

    fn rtype(self) -> u8 {
        match self {
            Self::Exist | Self::Missing => A,
            Self::ExistIpv6 => AAAA,
            Self::Lacking => TXT,
        }
    }

    /// The id of an answer, and whether it has the signatures that it should.
    fn judge(self, octets: &[u8]) -> Option<(u16, bool)> {
        let message = Message::from_octets(octets).ok()?;
        let (_, answer, authority, _) = message.sections().ok()?;
        let section = match self {
            Self::Exist | Self::ExistIpv6 => answer,
            Self::Lacking | Self::Missing => authority,
        };
        let signatures = section
            .filter_map(Result::ok)
            .filter(|record| record.rtype() == Rtype::RRSIG)
            .count();
        let least = match self {
            Self::Exist | Self::ExistIpv6 => 1,
            Self::Lacking | Self::Missing => 2, // of the SOA and of what denies
        };
        Some((message.header().id(), signatures >= least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_the_signatures_in_its_section() {
        const RRSIG: &[u8] = &[0, 0, 46, 0, 1, 0, 0, 0, 60, 0, 0];
        let answer = |answers: u8, authorities: u8| {
            let header = [0, 9, 0x84, 0, 0, 0, 0, answers, 0, authorities, 0, 0];
            [
                &header[..],
                &RRSIG.repeat(usize::from(answers + authorities)),
            ]
            .concat()
        };
        for (octets, exists, is_missing) in [
            (answer(0, 0), false, false),
            (answer(1, 0), true, false),
            (answer(0, 1), false, false),
            (answer(0, 2), false, true),
        ] {
            assert_eq!(Those::Exist.judge(&octets), Some((9, exists)));
            assert_eq!(Those::Missing.judge(&octets), Some((9, is_missing)));
        }
        assert_eq!(Those::Exist.judge(&[0; 11]), None);
    }
}
