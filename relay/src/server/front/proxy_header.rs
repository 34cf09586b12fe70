//! What a proxy says before the first octets of a visitor: who it is. It is read to its end and not an octet further, so that what
//! follows is read as from anybody else.

use std::io::{self, Read as _};
use std::net::TcpStream as StdTcpStream;
use std::os::fd::AsFd as _;

use wire::proxy_v2::{Ends, LONGEST, Progress, Reader};

use crate::server::refusal::Refusal;
use crate::sys;

/// A header, as it comes.
#[derive(Default)]
pub(super) struct ProxyHeader(Reader);

pub(super) enum Progressed {
    /// Both ends of the visitor's connection; `None` if it is the proxy's own.
    Said(Option<Ends>),
    /// The rest is on its way.
    NeedMore(ProxyHeader),
}

impl ProxyHeader {
    /// Reads what the connection has of it.
    pub(super) fn read(mut self, mut visitor: &StdTcpStream) -> Result<Progressed, Refusal> {
        let mut octets = [0; LONGEST];
        let mut came = 0;
        loop {
            let missing = match self.0.push(&octets[..came])?.1 {
                Progress::NeedMore(missing) => missing,
                Progress::Proxied(ends) => return Ok(Progressed::Said(Some(ends))),
                Progress::Local => return Ok(Progressed::Said(None)),
            };
            came = match visitor.read(&mut octets[..missing.min(LONGEST)]) {
                Ok(0) => return Err(Refusal::LeftEarly),
                Ok(came) => came,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progressed::NeedMore(self));
                }
                Err(_) => return Err(Refusal::LeftEarly),
            };
        }
    }

    /// Waits until all of it is there. The connection is in this worker's event queue meanwhile.
    pub(super) async fn wait(mut self, visitor: &StdTcpStream) -> Result<Option<Ends>, Refusal> {
        let queued = sys::queue_borrowed(visitor.as_fd()).map_err(|_| Refusal::LeftEarly)?;
        loop {
            let mut ready = queued.readable().await.map_err(|_| Refusal::LeftEarly)?;
            match self.read(visitor)? {
                Progressed::Said(ends) => return Ok(ends),
                Progressed::NeedMore(header) => self = header,
            }
            ready.clear_ready(); // all that was there has been read
        }
    }
}
