//! All services of a device, at one port of this machine, by SOCKS 5: the host that is asked for is the service.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use wire::socks::{
    Destination, GREETED, MAX_MESSAGE, NO_METHOD, NotSocks, Reply, read_greeting, read_request,
};

use super::device::Device;
use super::error::ConnectError;
use super::forward::{Door, join};

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a client was not served.
#[derive(Debug, thiserror::Error)]
enum NotServed {
    #[error("a client of the SOCKS port: {0}")]
    NotSocks(#[from] NotSocks),
    #[error("{0:?} is no service of this device")]
    Elsewhere(String),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("a client of the SOCKS port has gone, or does not say what it wants")]
    Gone,
}

impl From<io::Error> for NotServed {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Serves all services of `device` at `door`, for ever.
pub async fn serve(door: &Door, device: &Device) {
    door.serve(|app| serve_one(app, device.clone())).await;
}

async fn serve_one(mut app: TcpStream, device: Device) -> Result<(), NotServed> {
    let asked = timeout(PATIENCE, ask(&mut app, &device));
    let (service, early) = asked.await.map_err(|_| NotServed::Gone)??;
    let mut connection = match device.open(&service).await {
        Ok(connection) => connection,
        Err(error) => {
            app.write_all(&reply_to(&error).octets()).await?;
            return Err(error.into());
        }
    };
    app.write_all(&Reply::Connected.octets()).await?;
    connection.write_all(&early).await?;
    join(connection, app).await;
    Ok(())
}

/// Which service the client wants, and what it has sent for that one already.
async fn ask(app: &mut TcpStream, device: &Device) -> Result<(String, Vec<u8>), NotServed> {
    let mut read = Vec::new();
    let greeting = loop {
        match read_greeting(&read) {
            Ok(Some(length)) => break length,
            Ok(None) => more(app, &mut read).await?,
            Err(error) => {
                // Who speaks something else would not understand it.
                if error == NotSocks::Method {
                    app.write_all(&NO_METHOD).await?;
                }
                return Err(error.into());
            }
        }
    };
    read.drain(..greeting);
    app.write_all(&GREETED).await?;
    let (service, length) = loop {
        match read_request(&read) {
            Ok(Some(request)) => {
                let host = match request.destination {
                    Destination::Name(name) => name.to_owned(),
                    Destination::Address(address) => address.to_string(),
                };
                break (device.service_of(&host).ok_or(host), request.length);
            }
            Ok(None) => more(app, &mut read).await?,
            Err(error) => {
                app.write_all(&error.reply().octets()).await?;
                return Err(error.into());
            }
        }
    };
    match service {
        Ok(service) => Ok((service, read.split_off(length))),
        Err(host) => {
            app.write_all(&Reply::NotAllowed.octets()).await?;
            Err(NotServed::Elsewhere(host))
        }
    }
}

/// Reads on. The messages have an end that [`MAX_MESSAGE`] is beyond.
async fn more(app: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
    let mut room = app.take(MAX_MESSAGE as u64);
    match room.read_buf(read).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn reply_to(error: &ConnectError) -> Reply {
    match error {
        ConnectError::Refused { .. } | ConnectError::Name(_) => Reply::NotAllowed,
        ConnectError::Absent(_)
        | ConnectError::NotFound { .. }
        | ConnectError::Unreachable { .. }
        | ConnectError::ServiceUnreachable { .. }
        | ConnectError::Late(_)
        | ConnectError::Broken { .. } => Reply::HostUnreachable,
        ConnectError::Trust(_) | ConnectError::Distrust { .. } | ConnectError::NoApps(_) => {
            Reply::Failed
        }
    }
}
