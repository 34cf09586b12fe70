//! The control stream of an agent that has a device's key, and speaks the protocol no more.

use std::io;

use rand::RngExt as _;
use relay::tls::connect_tunnel;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wire::frame::Frame;
use wire::hello::{Features, Hello, InstanceId, VERSION};

use super::target::Target;

/// A frame that is to have as many octets as its length can say. They follow.
const TOO_LONG: [u8; 2] = [0xff, 0xff];
const BEHIND_IT: usize = 1 << 20;

/// A short frame that is no Protocol Buffers: field 1, two octets of which one is there.
const NO_FRAME: [u8; 5] = [0, 3, 0x0a, 2, 0];

/// Comes with a device's key and says what is no frame: instead of a hello, or once it is attached.
pub(super) async fn attack(stream: TcpStream, target: &Target, number: u64) -> io::Result<()> {
    let host = format!("relay.{}", target.zone);
    let mut stream = connect_tunnel(stream, &host, target.roots(), target.identity()?).await?;
    let mut room = [0; 1024];
    if !number.is_multiple_of(3) {
        let mut instance = [0; 16];
        rand::rng().fill(&mut instance);
        let hello = Frame::Hello(Hello {
            version: VERSION,
            features: Features::default(),
            instance: InstanceId(instance),
            software: "causeway-loadtest".to_owned(),
        });
        let hello = hello.encode().map_err(io::Error::other)?;
        stream.write_all(&hello).await?;
        stream.flush().await?;
        if stream.read(&mut room).await? == 0 {
            return Ok(()); // not welcome: as many come under this key as may
        }
    }
    match number % 3 {
        1 => stream.write_all(&NO_FRAME).await?,
        _ => {
            stream.write_all(&TOO_LONG).await?;
            stream.write_all(&vec![0; BEHIND_IT]).await?;
        }
    }
    stream.flush().await?;
    while stream.read(&mut room).await? > 0 {}
    Ok(())
}
