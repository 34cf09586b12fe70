//! How fast a visitor's bytes go: at the pace of its device, if that has one. Without, each portion costs one look at one number.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;

use crate::pace::{Pace, Paced};

use super::{Observer, Pump};

/// How many octets may be moved now. Another may have those that are not, also of a pump that is cut meanwhile.
pub(super) struct Room<'a> {
    pub(super) octets: usize,
    /// Whose they are, if anybody counts them.
    pace: Option<&'a Pace>,
}

impl Room<'_> {
    /// So many have been moved.
    pub(super) fn used(&mut self, moved: usize) {
        self.octets = self.octets.saturating_sub(moved);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some(pace) = self.pace {
            pace.give_back(self.octets);
        }
    }
}

/// Room for what goes to the near end, where it is counted what has gone.
struct Going<'a> {
    room: Room<'a>,
    count: &'a AtomicU64,
    before: u64,
}

impl<'a> Going<'a> {
    fn new(room: Room<'a>, count: &'a AtomicU64) -> Self {
        let before = count.load(Relaxed);
        Self {
            room,
            count,
            before,
        }
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let gone = self.count.load(Relaxed).saturating_sub(self.before);
        self.room.used(usize::try_from(gone).unwrap_or(usize::MAX));
    }
}

impl<'a, O: Observer> Pump<'a, O> {
    /// The device's pace, if it has one now.
    fn limited(&self) -> Option<Paced<'a>> {
        self.paced.filter(|paced| paced.pace.is_limited())
    }

    /// Room for what is wanted, or for a part of it; waits for it where the device has a limit.
    pub(super) async fn room(&self, wanted: usize) -> Room<'a> {
        let paced = self.limited();
        let octets = match paced {
            Some(paced) => Box::pin(paced.pace.grant(paced.address, wanted)).await,
            None => wanted,
        };
        let pace = paced.map(|paced| paced.pace);
        Room { octets, pace }
    }

    /// Sends what is in hand, in as many parts as its pace makes of it.
    pub(super) async fn send_chunks_paced(
        &self,
        chunks: &mut [Bytes],
        last: bool,
    ) -> io::Result<()> {
        if self.limited().is_none() {
            return self.send_chunks(chunks, last).await;
        }
        let in_parts = async {
            let mut rest = chunks;
            while !rest.is_empty() {
                // For all of it: a grant for each packet would be a small one beside those of others.
                let room = self.room(rest.iter().map(Bytes::len).sum()).await;
                let going = Going::new(room, &self.inwards.octets);
                let mut left = going.room.octets;
                let fits = |chunk: &&mut Bytes| {
                    let fits = chunk.len() <= left;
                    left -= if fits { chunk.len() } else { 0 };
                    fits
                };
                let whole = rest.iter_mut().take_while(fits).count();
                let (now, later) = rest.split_at_mut(whole);
                self.send_chunks(now, last && later.is_empty()).await?;
                if left > 0
                    && let Some(next) = later.first_mut()
                {
                    self.send_chunks(&mut [next.split_to(left)], false).await?;
                }
                rest = later;
            }
            Ok(())
        };
        Box::pin(in_parts).await
    }

    /// The same.
    pub(super) async fn send_octets_paced(&self, octets: &[u8]) -> io::Result<()> {
        if self.limited().is_none() {
            return self.send_octets(octets).await;
        }
        let in_parts = async {
            let mut rest = octets;
            while !rest.is_empty() {
                let room = self.room(rest.len()).await;
                let going = Going::new(room, &self.inwards.octets);
                let (part, after) = rest.split_at(going.room.octets);
                self.send_octets(part).await?;
                rest = after;
            }
            Ok(())
        };
        Box::pin(in_parts).await
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::{Duration, Instant};

    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::super::{Orders, RawWay};
    use super::*;
    use crate::liveness::SignsOfLife;

    #[tokio::test]
    async fn a_grant_that_was_not_used_is_somebody_elses() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (near, _reads_nothing) = (near.unwrap(), listener.accept().await.unwrap());
        // An octet a second: nothing comes into the bucket while this runs, which has rested and has a first grant.
        let rested = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let (pace, signs, cut) = (
            Pace::new(1, rested),
            SignsOfLife::default(),
            CancellationToken::new(),
        );
        let orders = Orders {
            cut: &cut,
            shed: None,
        };
        let paced = Some(Paced {
            pace: &pace,
            address: Ipv4Addr::LOCALHOST.into(),
        });
        let pump = Pump::new(&near, RawWay::Never, paced, orders, &signs);
        let mut nobody = Context::from_waker(Waker::noop());
        let mut room = || match pin!(pump.room(usize::MAX)).poll(&mut nobody) {
            std::task::Poll::Ready(room) => Some(room),
            std::task::Poll::Pending => None,
        };
        let mut first = room().unwrap();
        let all = first.octets;
        assert!(room().is_none());
        first.used(96);
        drop(first);
        assert!(
            room().is_some_and(|room| room.octets == all),
            "a debt of 96"
        );
    }
}
