//! Whether a device is where it is said to be: it is asked there, and proves it with its key.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use directory::PublicKey;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tls;

/// Why a device was not found at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotThere {
    /// Nobody listens there.
    #[error("nobody listens there")]
    Refused,
    /// There is no way to it.
    #[error("there is no way to it")]
    Unreachable,
    /// It did not answer in time.
    #[error("no answer came in time")]
    Silent,
    /// Somebody is there, and it is not the device.
    #[error("whoever is there did not prove to be the device")]
    Unproved,
}

impl NotThere {
    /// Every reason, for counters.
    pub const ALL: [Self; 4] = [
        Self::Refused,
        Self::Unreachable,
        Self::Silent,
        Self::Unproved,
    ];

    /// The word for logs and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Unproved => "unproved",
        }
    }
}

/// Asks whoever is at `address` to prove that it is the device `host`, whose key is `key`: one TLS handshake
/// ([`wire::ALPN_REACH`]), within `patience`. Its signature covers what is drawn here for this handshake, so it is made there and then.
///
/// # Errors
/// If it is not there, or somebody else is.
pub async fn prove(
    address: SocketAddr,
    host: &str,
    key: PublicKey,
    patience: Duration,
) -> Result<(), NotThere> {
    let asked = async {
        let stream = TcpStream::connect(address).await.map_err(no_way)?;
        let proved = tls::connect_device(stream, host, key).await;
        let mut stream = proved.map_err(|_| NotThere::Unproved)?;
        let _ = stream.shutdown().await; // what it would say now is of no interest
        Ok(())
    };
    let asked = timeout(patience, asked).await;
    asked.unwrap_or(Err(NotThere::Silent))
}

fn no_way(error: io::Error) -> NotThere {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut};
    let kind = error.kind();
    if matches!(kind, ConnectionRefused | ConnectionReset) {
        NotThere::Refused
    } else if kind == TimedOut {
        NotThere::Silent
    } else {
        NotThere::Unreachable
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;
    use crate::agent::Identity;
    use crate::tls::Prefixed;

    const SOON: Duration = Duration::from_secs(20);
    const HOST: &str = "mynas.nas.localhost";

    fn identity() -> Identity {
        Identity::from_pem(&Identity::generate_pem().unwrap()).unwrap()
    }

    /// Answers one who asks as `identity` would.
    async fn answers(identity: &Identity) -> (SocketAddr, impl Future<Output = bool> + use<>) {
        let acceptor = tls::reach_acceptor(&identity.certificate().unwrap()).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answered = async move {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = Prefixed::new(bytes::Bytes::new(), stream);
            acceptor.accept(stream).await.is_ok()
        };
        (address, answered)
    }

    #[tokio::test]
    async fn the_device_is_found_by_its_key_and_another_is_not_taken_for_it() {
        let (device, other) = (identity(), identity());
        for (asked_for, found) in [(&device, Ok(())), (&other, Err(NotThere::Unproved))] {
            let (address, answered) = answers(&device).await;
            let asked = prove(address, HOST, asked_for.public_key(), SOON);
            let (asked, _) = tokio::join!(asked, answered);
            assert_eq!(asked, found);
        }
    }

    #[tokio::test]
    async fn who_is_not_there_or_says_nothing_is_not_waited_for() {
        let key = identity().public_key();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = prove(address, HOST, key, Duration::from_millis(50)).await;
        assert_eq!(silent, Err(NotThere::Silent));
        drop(listener);
        let gone = prove(address, HOST, key, SOON).await;
        assert_eq!(gone, Err(NotThere::Refused));
    }
}
