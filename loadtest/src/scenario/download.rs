//! A download that takes no more than so many octets a second, and leaves the rest to whoever sends.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};

use crate::entrance::{Entrance, Line};
use crate::world::Device;

/// Portions a second: at one of some octets each, a fast download would be all waking up.
const PORTIONS: u64 = 50;

/// Octets of a portion at least: thousands who read slowly would be all waking up as well.
const LEAST_PORTION: u64 = 500;

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is downloaded, and how fast.
#[derive(Clone, Debug)]
pub(super) struct Download {
    pub(super) entrance: Entrance,
    pub(super) path: String,
    /// Octets a second.
    pub(super) rate: u64,
}

impl Download {
    /// What is much of a device.
    pub(super) fn of(device: &Device, rate: u64) -> Self {
        Self {
            entrance: device.door.entrance(),
            path: device.bulk.clone(),
            rate,
        }
    }

    /// Once, until its end or a failure; counts octets as they come.
    pub(super) async fn once(&self, received: &AtomicU64) -> io::Result<()> {
        let line = timeout(PATIENCE, self.begin()).await;
        self.receive(line.map_err(late)??, received).await
    }

    /// The same by a connection that is there.
    pub(super) async fn once_by(&self, stream: TcpStream, received: &AtomicU64) -> io::Result<()> {
        let line = timeout(PATIENCE, async {
            self.ask(self.entrance.enter_by(stream).await?).await
        });
        self.receive(line.await.map_err(late)??, received).await
    }

    /// Asks for it, and receives nothing yet.
    pub(super) async fn begin(&self) -> io::Result<Line> {
        self.ask(self.entrance.enter().await?).await
    }

    async fn ask(&self, mut line: Line) -> io::Result<Line> {
        let host = self.entrance.tls.as_ref().map_or("", |(host, _)| host);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
            self.path
        );
        line.send(request.as_bytes()).await?;
        Ok(line)
    }

    async fn receive(&self, mut line: Line, received: &AtomicU64) -> io::Result<()> {
        let portion = (self.rate / PORTIONS).max(LEAST_PORTION);
        let (begun, mut taken) = (Instant::now(), 0_u64);
        loop {
            let due = Duration::from_secs_f64(taken as f64 / self.rate as f64);
            sleep_until(begun + due).await;
            let length = timeout(PATIENCE, line.forget(portion))
                .await
                .map_err(late)??;
            if length == 0 {
                return Ok(());
            }
            taken += length as u64;
            received.fetch_add(length as u64, Relaxed);
        }
    }
}

/// Whether it is the other end that has ended a download, and not whoever downloads, for whom nothing has come for too long.
pub(super) fn was_ended(download: &io::Result<()>) -> bool {
    !matches!(download, Err(error) if error.kind() == io::ErrorKind::TimedOut)
}

fn late(_: Elapsed) -> io::Error {
    io::ErrorKind::TimedOut.into()
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_gives_up_by_himself_was_not_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let download = Download {
            entrance: Entrance::plain(listener.local_addr().unwrap()),
            path: "/".to_owned(),
            rate: 1,
        };
        let received = AtomicU64::default();
        let ends = async { drop(listener.accept().await.unwrap()) };
        let (ended, ()) = tokio::join!(download.once(&received), ends);
        assert!(was_ended(&ended), "{ended:?}");
        let given_up = timeout(Duration::ZERO, pending::<()>()).await;
        assert!(!was_ended(&given_up.map_err(late)));
    }
}
