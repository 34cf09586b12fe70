//! Which secondaries serve what has been published. A challenge is acknowledged when all in rotation do: a CA asks any of them, and one
//! that does not know it yet would cost the device its certificate.
//!
//! Each is asked for its serial, by DNS as anybody would, until it has the published one. One that has not in time is out of rotation:
//! nobody waits for it until it is up to date again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ask::Ask;
use super::publisher::Desk;
use super::stream::serial_of;
use crate::message::{Header, Reader};
use crate::protocol::{CLASS_IN, Type};

/// A secondary that has not what is published after this time is not waited for any more.
const LAG: Duration = Duration::from_secs(8);
/// The first question comes so soon after a version is there, and each following one twice as late.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MOST_PAUSE: Duration = Duration::from_secs(1);
/// One that is up to date is asked so often whether it is still there.
const IDLE: Duration = Duration::from_secs(30);
/// A reply takes no longer.
const REPLY: Duration = Duration::from_secs(1);

/// How a secondary stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    /// The serial that it has answered with last.
    serial: Option<u32>,
    /// It is waited for.
    in_rotation: bool,
}

/// All secondaries. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    desk: Arc<Desk>,
    members: Arc<[Member]>,
}

#[derive(Debug)]
struct Member {
    address: SocketAddr,
    standing: watch::Sender<Standing>,
}

impl Rotation {
    /// All of these, in rotation until one of them is found to lag.
    pub(crate) fn new(desk: Arc<Desk>) -> Self {
        let members = desk.secondaries().map(|(_, secondary)| Member {
            address: secondary.address,
            standing: watch::Sender::new(Standing {
                serial: None,
                in_rotation: true,
            }),
        });
        Self {
            members: members.collect(),
            desk,
        }
    }

    /// Waits until all in rotation serve what has changed before this is called; not longer than a secondary may lag.
    pub(crate) async fn wait(&self) {
        let all = async {
            let Some(target) = self.desk.next_version().await else {
                return;
            };
            for member in &*self.members {
                let mut standing = member.standing.subscribe();
                let is_done = |standing: &Standing| {
                    !standing.in_rotation
                        || standing.serial.is_some_and(|serial| is_at(serial, target))
                };
                // An error is a server that ends.
                let _ = standing.wait_for(is_done).await;
            }
        };
        // Who lags is found to do so before.
        let _ = timeout(LAG + 2 * MOST_PAUSE + REPLY, all).await;
    }

    /// Looks after all of them until `stop`.
    pub(crate) async fn follow(self, apex: Box<[u8]>, stop: CancellationToken) {
        let members = (0..self.members.len()).map(|at| {
            let (rotation, apex) = (self.clone(), apex.clone());
            async move {
                if let Some(member) = rotation.members.get(at) {
                    rotation.follow_one(member, &apex).await;
                }
            }
        });
        let mut following = tokio::task::JoinSet::new();
        members.for_each(|member| _ = following.spawn(member));
        stop.cancelled().await;
        following.shutdown().await;
    }

    async fn follow_one(&self, member: &Member, apex: &[u8]) {
        let mut published = self.desk.serial();
        let mut pause = FIRST_PAUSE;
        let mut behind_since = Instant::now();
        loop {
            let target = *published.borrow_and_update();
            let serial = match timeout(REPLY, ask(member.address, apex)).await {
                Ok(Ok(serial)) => Some(serial),
                Ok(Err(_)) | Err(_) => None,
            };
            let is_current = serial.is_some_and(|serial| is_at(serial, target));
            if is_current {
                behind_since = Instant::now();
            }
            self.note(member, serial, is_current || behind_since.elapsed() < LAG);
            let wait = match is_current {
                true => {
                    pause = FIRST_PAUSE;
                    IDLE
                }
                false => {
                    pause = (pause * 2).min(MOST_PAUSE);
                    pause
                }
            };
            tokio::select! {
                biased;
                changed = published.changed(), if is_current => {
                    if changed.is_err() {
                        return;
                    }
                    behind_since = Instant::now();
                }
                () = sleep(wait) => {}
            }
        }
    }

    /// Tells how a secondary stands, in the log if that has changed.
    fn note(&self, member: &Member, serial: Option<u32>, in_rotation: bool) {
        let after = Standing {
            serial,
            in_rotation,
        };
        // Whoever is woken finds it counted.
        let others = self
            .members
            .iter()
            .filter(|other| other.address != member.address);
        let behind = others.filter(|other| !other.standing.borrow().in_rotation);
        self.desk.behind(behind.count() + usize::from(!in_rotation));
        let before = member.standing.send_replace(after);
        let address = member.address;
        match (before.in_rotation, in_rotation) {
            (true, false) => tracing::warn!(
                %address,
                "a secondary does not have what was published {} s ago: challenges are acknowledged without it until it has",
                LAG.as_secs()
            ),
            (false, true) => tracing::info!(%address, "a secondary is up to date again"),
            (true, true) | (false, false) => {}
        }
    }
}

/// Whether a serial is this one or a later one (RFC 1982 section 3.2).
fn is_at(serial: u32, target: u32) -> bool {
    serial.wrapping_sub(target) <= u32::MAX / 2
}

/// The serial that a server answers with.
async fn ask(address: SocketAddr, apex: &[u8]) -> io::Result<u32> {
    let Ask { socket, id } = Ask::of(address).await?;
    let mut question = [&id[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0], apex].concat();
    question.extend(Type::SOA.0.to_be_bytes());
    question.extend(CLASS_IN.to_be_bytes());
    socket.send(&question).await?;
    let mut reply = [0; 1232];
    loop {
        let len = socket.recv(&mut reply).await?;
        if let Some(serial) = reply.get(..len).and_then(|reply| read(reply, id)) {
            return Ok(serial);
        }
    }
}

/// The serial in a reply to the question with this id; `None` if it is none, or has no SOA.
fn read(reply: &[u8], id: [u8; 2]) -> Option<u32> {
    let [questions, answers, ..] = Header::read(reply)?.counts;
    if reply.first_chunk() != Some(&id) || questions != 1 || answers == 0 {
        return None;
    }
    let mut reader = Reader::new(reply);
    reader.skip_question()?;
    serial_of(&reader.record()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_go_around() {
        assert!(is_at(7, 7) && is_at(8, 7) && !is_at(6, 7));
        assert!(is_at(3, u32::MAX) && !is_at(u32::MAX, 3));
    }

    #[test]
    fn a_serial_is_read_from_a_reply_to_the_question_alone() {
        let mut reply = vec![1, 2, 0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        reply.extend(b"\x02nz\0\0\x06\0\x01");
        reply.extend(b"\xC0\x0C\0\x06\0\x01\0\0\0\x3C\0\x18\xC0\x0C\xC0\x0C");
        for number in [0x0102_0304_u32, 1, 2, 3, 4] {
            reply.extend(number.to_be_bytes());
        }
        assert_eq!(read(&reply, [1, 2]), Some(0x0102_0304));
        assert_eq!(read(&reply, [2, 2]), None);
        for cut in 0..reply.len() {
            assert_eq!(read(&reply[..cut], [1, 2]), None);
        }
        let mut other = reply.clone();
        other[23] = 1; // A
        assert_eq!(read(&other, [1, 2]), None);
    }
}
