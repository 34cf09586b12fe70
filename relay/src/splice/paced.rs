//! How fast a visitor's bytes go: at the pace of its device, if that has one. Without, each portion costs one look at one number.

use std::io;

use bytes::Bytes;

use crate::pace::{Pace, Paced};

use super::{Observer, Pump};

/// How many octets may be moved now.
pub(super) struct Room<'a> {
    pub(super) octets: usize,
    /// Whose they are, if anybody counts them.
    pace: Option<&'a Pace>,
}

impl Room<'_> {
    /// So many have been moved, and another may have the rest.
    pub(super) fn used(self, moved: usize) {
        if let Some(pace) = self.pace {
            pace.give_back(self.octets.saturating_sub(moved));
        }
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
                let mut left = room.octets;
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
                let (part, after) = rest.split_at(room.octets);
                self.send_octets(part).await?;
                rest = after;
            }
            Ok(())
        };
        Box::pin(in_parts).await
    }
}
