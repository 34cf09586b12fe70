//! The first octets of a connection: which host its hello names, or that it is a raw connection.

use std::cmp::Ordering;
use std::io::{self, Read as _};
use std::net::TcpStream as StdTcpStream;
use std::os::fd::AsFd as _;

use bytes::{Bytes, BytesMut};
use wire::client_hello::{NotAHello, Progress, Reader as HelloReader};
use wire::proxy_v2;
use wire::raw::{self, Header};

use crate::counts::Amount;
use crate::server::limits::Limits;
use crate::server::refusal::Refusal;
use crate::sys;

/// How much is read from a visitor at once while its hello is incomplete: most hellos come whole.
pub(in crate::server) const HELLO_PORTION: usize = 2048;

/// What a connection begins with. It is decided once, by the first octet.
pub(super) enum First {
    /// A ClientHello: all octets so far, and the host they name.
    Hello { octets: Bytes, name: String },
    /// The header of a raw connection; `None` if it is none after all.
    Raw(Option<Header>),
}

/// The first octets of a connection, as they come.
#[derive(Default)]
pub(super) struct FirstOctets {
    octets: BytesMut,
    reader: HelloReader,
    /// What is counted of both.
    held: Option<Amount>,
}

/// The host that a hello names of which all octets are there.
pub(super) fn name_in(hello: &[u8]) -> Option<String> {
    match HelloReader::default().push(hello) {
        Ok(Progress::Name(name)) => Some(name),
        Ok(Progress::NeedMore | Progress::NoName) | Err(_) => None,
    }
}

pub(super) enum Progressed {
    Enough(First),
    /// What has come so far; the rest is on its way.
    NeedMore(FirstOctets),
}

impl FirstOctets {
    /// Reads what the connection has.
    pub(super) fn read(mut self, mut visitor: &StdTcpStream) -> Result<Progressed, Refusal> {
        loop {
            let before = self.octets.len();
            self.octets.resize(before + HELLO_PORTION, 0);
            let read = visitor.read(&mut self.octets[before..]);
            self.octets.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(Refusal::LeftEarly),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // No more is held than was sent, and nothing for who has sent nothing.
                    self.octets = BytesMut::from(&self.octets[..]);
                    return Ok(Progressed::NeedMore(self));
                }
                Err(_) => return Err(Refusal::LeftEarly),
            }
            if let Some(first) = self.first(before)? {
                return Ok(Progressed::Enough(first));
            }
        }
    }

    /// Waits until there is enough. The connection is in this worker's event queue meanwhile.
    pub(super) async fn wait(
        mut self,
        visitor: &StdTcpStream,
        limits: &Limits,
    ) -> Result<First, Refusal> {
        let queued = sys::queue_borrowed(visitor.as_fd()).map_err(|_| Refusal::LeftEarly)?;
        loop {
            limits.hold(&mut self.held, 2 * self.octets.len())?; // the reader has them as well
            let mut ready = queued.readable().await.map_err(|_| Refusal::LeftEarly)?;
            match self.read(visitor)? {
                Progressed::Enough(first) => return Ok(first),
                Progressed::NeedMore(octets) => self = octets,
            }
            ready.clear_ready(); // all that was there has been read
        }
    }

    /// What the octets are, of which those from `new` on have just come.
    fn first(&mut self, new: usize) -> Result<Option<First>, Refusal> {
        if self.octets[0] == raw::FIRST_OCTET {
            return Ok(match self.octets.len().cmp(&raw::HEADER) {
                Ordering::Less => None,
                // An agent sends nothing more before it is told to.
                Ordering::Greater => Some(First::Raw(None)),
                Ordering::Equal => {
                    let header = self.octets.first_chunk().and_then(Header::read);
                    Some(First::Raw(header))
                }
            });
        }
        match self.reader.push(&self.octets[new..]) {
            Ok(Progress::NeedMore) => Ok(None),
            Ok(Progress::Name(name)) => {
                let octets = self.octets.split().freeze();
                Ok(Some(First::Hello { octets, name }))
            }
            Ok(Progress::NoName) => Err(Refusal::NoName),
            // A stranger's says nothing, and one behind another is the stranger's.
            Err(NotAHello::NotTls) if proxy_v2::is_begun_by(&self.octets) => {
                Err(Refusal::ProxyUnexpected)
            }
            Err(
                NotAHello::NotTls
                | NotAHello::OtherMessage
                | NotAHello::TooLong
                | NotAHello::Malformed,
            ) => Err(Refusal::NotTls),
        }
    }
}
