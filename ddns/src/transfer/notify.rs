//! Tells a secondary that there is a new version (RFC 1996), until it says that it has heard or there is another one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::ask::Ask;
use super::config::Key;
use crate::metrics::Metrics;
use crate::protocol::{CLASS_IN, Type};
use crate::tsig::sign_request;
use crate::unix_seconds;

/// How long one waits for the first reply; each time it is twice as long (RFC 1996 section 3.6).
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How often it is said.
const TIMES: u32 = 6;
const NOTIFY: u8 = 4;

/// Tells the secondary at `address` of every version until `stop`. `apex` is the zone's name on the wire.
pub(crate) async fn notify(
    address: SocketAddr,
    key: Key,
    apex: Box<[u8]>,
    mut serial: watch::Receiver<u32>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let version = *serial.borrow_and_update();
        let changed = async {
            if version != 0 {
                let result = match tell(address, &key, &apex).await {
                    Ok(true) => "heard",
                    Ok(false) => "no_reply",
                    Err(error) => {
                        tracing::debug!(%error, %address, "a secondary cannot be told of a new version");
                        "failed"
                    }
                };
                metrics.notified(result);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = serial.changed() => if changed.is_err() { return },
            () = changed => {}
        }
    }
}

/// Says it until it is heard; false if it never is.
async fn tell(address: SocketAddr, key: &Key, apex: &[u8]) -> io::Result<bool> {
    let Ask { socket, id } = Ask::of(address).await?;
    let mut wait = FIRST_WAIT;
    for _ in 0..TIMES {
        socket.send(&message(id, key, apex)).await.ok(); // nobody may be there yet
        if matches!(timeout(wait, heard(&socket, id)).await, Ok(Ok(()))) {
            return Ok(true);
        }
        wait *= 2;
    }
    Ok(false)
}

/// The reply to this message. It is not checked whose it is: it ends nothing but the repetition.
async fn heard(socket: &UdpSocket, id: [u8; 2]) -> io::Result<()> {
    let mut reply = [0; 512];
    loop {
        let Ok(len) = socket.recv(&mut reply).await else {
            // The port was closed when the last one came; the next may find it open.
            std::future::pending::<()>().await;
            continue;
        };
        let is_reply = len > 2 && reply[..2] == id && reply[2] & 0x80 != 0;
        if is_reply {
            return Ok(());
        }
    }
}

fn message(id: [u8; 2], key: &Key, apex: &[u8]) -> Vec<u8> {
    const AA: u8 = 0x04;
    let mut message = [
        &id[..],
        &[(NOTIFY << 3) | AA, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        apex,
    ]
    .concat();
    message.extend(Type::SOA.0.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    let now = unix_seconds().into();
    sign_request(&mut message, &key.name, key.algorithm, &key.secret, now);
    message
}
