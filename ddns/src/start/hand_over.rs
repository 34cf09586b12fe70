//! What a running server hands over to its successor, in this order: sockets and log, and at last the answering.
//!
//! ```text
//!  this server                                     its successor
//!  sockets()            ── duplicates ──►
//!  give_up_updates()    ── lock, log ───►          Storage::read, start
//!    answers from memory,                          begins to answer as well; what has been acknowledged
//!    updates are put off                           is in its answers, updates are put off
//!  shutdown()
//!  left()               ──────────────►            Facts::alone: it takes updates
//! ```
//!
//! Who is told of an update finds it in the answer to the next query, since nobody answers then who does not know of it; but for
//! those who ask on a TCP connection that they have had since before, until the old server's end.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::server::bound::Bound;
use crate::update::Queue;

/// Longer than any disk that still works takes for what waits, and for a snapshot of a million devices that has just been begun.
const DEADLINE: Duration = Duration::from_secs(10);

/// The way to what a running server has to give; cheap to clone. It holds no socket itself.
#[derive(Clone, Debug)]
pub struct HandOver {
    pub(super) sockets: WhileOpen,
    pub(super) left: CancellationToken,
    pub(super) queue: Queue,
    pub(super) writer_ended: CancellationToken,
    /// Those who are connected when the server is told to end have time to ask.
    pub(super) has_successor: Arc<AtomicBool>,
}

/// What the server listens on, as long as it does.
#[derive(Clone, Debug)]
pub(super) struct WhileOpen {
    pub(super) udp: Vec<Weak<std::net::UdpSocket>>,
    pub(super) tcp: Weak<TcpListener>,
    pub(super) dot: Option<Weak<TcpListener>>,
}

/// The log of updates is still in use: the disk does not answer. Updates are refused all the same, and the log is given up when it
/// does; that can be waited for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk does not answer, and the log of updates cannot be given up before it does")]
pub struct StillHeld;

impl HandOver {
    /// Duplicates of all sockets that the server listens on.
    ///
    /// # Errors
    /// If the server has ended, or descriptors are lacking.
    pub fn sockets(&self) -> io::Result<Bound> {
        let WhileOpen { udp, tcp, dot } = &self.sockets;
        let udp = udp.iter().map(|socket| living(socket)?.try_clone());
        Ok(Bound {
            udp: udp.collect::<io::Result<_>>()?,
            tcp: Some(duplicate(tcp)?),
            dot: dot.as_ref().map(duplicate).transpose()?,
        })
    }

    /// Gives the updates up: those that wait are stored and answered, all others are put off
    /// ([`UpdateError::Stopped`](crate::update::UpdateError::Stopped)), and the state directory is free for another server when this
    /// returns. Queries are answered on, from memory, by what was acknowledged until then. There is no way back. From now on the
    /// server's end leaves those who are connected ten seconds to ask. Takes as long at most; whoever stops waiting does not keep
    /// it from happening.
    ///
    /// # Errors
    /// If the disk does not answer. To be called again.
    pub async fn give_up_updates(&self) -> Result<(), StillHeld> {
        self.has_successor.store(true, Ordering::Relaxed);
        self.queue.stop();
        timeout(DEADLINE, self.writer_ended.cancelled())
            .await
            .map_err(|_| StillHeld)?;
        tracing::info!("the updates are given up to another server; queries are answered on");
        Ok(())
    }

    /// Waits until the server, which has been told to end, takes no query more but on the connections that it has.
    pub async fn left(&self) {
        self.left.cancelled().await;
    }
}

fn duplicate(listener: &Weak<TcpListener>) -> io::Result<std::net::TcpListener> {
    Ok(living(listener)?.as_fd().try_clone_to_owned()?.into())
}

fn living<S>(socket: &Weak<S>) -> io::Result<Arc<S>> {
    socket
        .upgrade()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the server has ended"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::Writer;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_told_of_and_can_be_waited_for_again() {
        let (_writer, queue) = Writer::new(None);
        let hand_over = HandOver {
            sockets: WhileOpen {
                udp: Vec::new(),
                tcp: Weak::new(),
                dot: None,
            },
            left: CancellationToken::new(),
            queue,
            writer_ended: CancellationToken::new(),
            has_successor: Arc::default(),
        };
        assert_eq!(hand_over.give_up_updates().await, Err(StillHeld));
        hand_over.writer_ended.cancel();
        assert_eq!(hand_over.give_up_updates().await, Ok(()));
        let error = hand_over.sockets().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    }
}
