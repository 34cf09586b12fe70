//! The relay's part in a succession: what its successor begins with, and how this process gives way to it.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use directory::{Device, Reader};
use tokio::time::sleep;
use wire::Frame;

use super::listen::Bound;
use super::predecessor::Predecessor;
use super::{Handle, keys_changed, successor};
use crate::local;
use crate::quic;

/// How long a session that is told to go may take to come back elsewhere after the others: told so, agents do not all dial at once.
const APART: Duration = Duration::from_millis(1);

/// The last of them is to come after this time at most.
const ALL_APART: Duration = Duration::from_secs(10);

/// How long agents may take to come to the successor, at least: to wait until it is their turn, and to dial more than once.
pub(super) const MOVE_TIME: Duration = Duration::from_secs(20);

impl Handle {
    /// How many processes there have been before this one, one after the other, modulo 256.
    pub fn generation(&self) -> u8 {
        self.generation.0
    }

    /// What a successor of this process begins with. From then on the packets of this one come by way of that; visitors may come here
    /// until this one [gives way](Self::give_way).
    ///
    /// # Errors
    /// If there are no descriptors, or this relay accepts no more.
    pub fn hand_over(&self) -> io::Result<Bound> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let mut front = Vec::new();
        for listener in &self.sockets.front {
            front.push(listener.upgrade().ok_or_else(gone)?.get_ref().try_clone()?);
        }
        let http = match &self.sockets.http {
            Some(http) => {
                let http = http.upgrade().ok_or_else(gone)?;
                Some(http.as_fd().try_clone_to_owned()?.into())
            }
            None => None,
        };
        let mut predecessor = Vec::new();
        for front in &self.fronts {
            let (theirs, ours) = local::pair()?;
            let attended = successor::attend(Arc::clone(front), ours, self.hear_no_more.clone());
            self.visitors.spawn_on(attended, front.worker.runtime());
            predecessor.push(theirs);
        }
        let (mut udp, mut earlier) = (Vec::new(), Vec::new());
        for endpoint in &self.endpoints {
            udp.push(endpoint.socket()?);
            let before = endpoint.earlier()?.into_iter();
            let mut holders: Vec<_> = before.map(|one| (one.generation.0, one.channel)).collect();
            let (theirs, ours) = quic::channel()?;
            endpoint.read_from(ours)?;
            holders.push((self.generation.0, theirs));
            earlier.push(holders);
        }
        let present = self.presence.all().into_iter();
        let present = present.filter_map(|device| Some((device, self.presence.of(&device)?)));
        let ports = self.fronts.first().map(|front| &front.register.ports);
        Ok(Bound {
            front,
            http,
            udp,
            ports: ports.map_or_else(Vec::new, |ports| ports.hand_over()),
            generation: self.generation.next().0,
            earlier,
            predecessor,
            present: present.collect(),
        })
    }

    /// The successor accepts from now on, and this process no more. Agents are sent to it, one after the other, and visitors served as
    /// long as they have tunnels here: [`shutdown`](Self::shutdown) waits for both.
    pub fn give_way(&self) {
        self.stop.cancel();
        self.send_agents_away(APART);
    }

    /// Has each agent wait so much longer than the one before.
    pub(super) fn send_agents_away(&self, apart: Duration) {
        self.draining.set(1);
        self.leaving.cancel();
        let sessions = self.sessions.all();
        let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX).max(1);
        let apart = apart.min(ALL_APART / count);
        let mut reconnect_after = Duration::ZERO;
        for session in sessions {
            session.tell(Frame::Drain { reconnect_after });
            reconnect_after += apart;
        }
    }

    /// Waits until no agent has a tunnel here any more.
    pub(super) async fn all_have_moved(&self) {
        /// Nobody is told when the last session ends; whoever waits for it is in no hurry.
        const LOOK: Duration = Duration::from_millis(250);
        while !self.sessions.are_none() {
            sleep(LOOK).await;
        }
    }
}

/// How long agents may take to come to a successor.
pub(super) fn move_time(leave: Duration) -> Duration {
    leave.max(MOVE_TIME)
}

/// Ends the tunnels of devices that lose their right to them at the process before too, whose Directory hears of nothing any more.
pub(super) fn pass_on_keys(directory: &Reader, predecessor: &Arc<Predecessor>) {
    let predecessor = Arc::downgrade(predecessor);
    directory.watch(move |change| {
        if let Some((device, now)) = keys_changed(change)
            && let Some(predecessor) = predecessor.upgrade()
        {
            let keys = now.map_or(&[][..], Device::keys);
            let keys = keys.iter().map(|key| *key.as_bytes()).collect();
            predecessor.keys(device, keys);
        }
    });
}
