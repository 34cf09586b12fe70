//! SOCKS 5, as far as a program needs it that offers services by name and asks nobody who he is (RFC 1928).
//!
//! ```text
//!   client                                                             server
//!     │── 5 │ count 1 │ methods ────────────────────────────────────────►│  section 3
//!     │◄─ 5 │ 0, or 255 if the client wants to say who it is ────────────│
//!     │── 5 │ command 1 │ 0 │ 3 │ length 1 │ name │ port 2 ─────────────►│  section 4
//!     │◄─ 5 │ reply │ 0 │ 1 │ address 4 │ port 2 ────────────────────────│  section 6
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const VERSION: u8 = 5;
const WITHOUT_AUTHENTICATION: u8 = 0;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// More than any greeting and any request has, in octets.
pub const MAX_MESSAGE: usize = 2 + 255 + 5;

/// Answers a greeting: nobody is asked who he is.
pub const GREETED: [u8; 2] = [VERSION, WITHOUT_AUTHENTICATION];

/// Answers a greeting of a client that wants to be asked.
pub const NO_METHOD: [u8; 2] = [VERSION, 255];

/// The octets are no SOCKS 5, whatever else comes. The client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSocks {
    /// Of another version, or no SOCKS at all.
    #[error("not SOCKS version 5")]
    Version,
    /// The client does not want to go without authentication.
    #[error("a client that wants to authenticate")]
    Method,
    /// What is asked for is no connection.
    #[error("no connection is asked for")]
    Command,
    /// An address of a kind that there is not.
    #[error("an address of an unknown kind")]
    Address,
}

impl NotSocks {
    /// What a client hears whose request it was.
    pub fn reply(self) -> Reply {
        match self {
            Self::Version | Self::Method => Reply::Failed,
            Self::Command => Reply::UnknownCommand,
            Self::Address => Reply::UnknownAddress,
        }
    }
}

/// Where a client wants to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination<'a> {
    /// A name, as the client wrote it.
    Name(&'a str),
    /// An address that it has found itself.
    Address(IpAddr),
}

/// A request for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Where to.
    pub destination: Destination<'a>,
    /// The port there.
    pub port: u16,
    /// How many octets the request has. Those behind it are for whoever is connected to.
    pub length: usize,
}

/// Reads the greeting that begins `octets`, and says how long it is; `None` if more must come.
///
/// # Errors
/// As soon as the octets cannot become a greeting any more that is answered with [`GREETED`].
pub fn read_greeting(octets: &[u8]) -> Result<Option<usize>, NotSocks> {
    let Some((&version, rest)) = octets.split_first() else {
        return Ok(None);
    };
    if version != VERSION {
        return Err(NotSocks::Version);
    }
    let Some((&count, rest)) = rest.split_first() else {
        return Ok(None);
    };
    let Some((methods, _)) = rest.split_at_checked(usize::from(count)) else {
        return Ok(None);
    };
    match methods.contains(&WITHOUT_AUTHENTICATION) {
        true => Ok(Some(methods.len().saturating_add(2))),
        false => Err(NotSocks::Method),
    }
}

/// Reads the request that begins `octets`; `None` if more must come.
///
/// # Errors
/// As soon as the octets cannot become a request for a connection any more.
pub fn read_request(octets: &[u8]) -> Result<Option<Request<'_>>, NotSocks> {
    if octets.first().is_some_and(|&version| version != VERSION) {
        return Err(NotSocks::Version);
    }
    if octets.get(1).is_some_and(|&command| command != CONNECT) {
        return Err(NotSocks::Command);
    }
    let Some((&[_, _, _, kind], rest)) = octets.split_first_chunk() else {
        return Ok(None);
    };
    let destination = match kind {
        IPV4 => rest.split_first_chunk().map(|(&address, rest)| {
            let address = Ipv4Addr::from_octets(address);
            (Destination::Address(address.into()), rest)
        }),
        IPV6 => rest.split_first_chunk().map(|(&address, rest)| {
            let address = Ipv6Addr::from_octets(address);
            (Destination::Address(address.into()), rest)
        }),
        NAME => {
            let named = rest.split_first();
            let name = named.and_then(|(&length, rest)| rest.split_at_checked(length.into()));
            match name {
                Some((name, rest)) => {
                    let name = str::from_utf8(name).map_err(|_| NotSocks::Address)?;
                    Some((Destination::Name(name), rest))
                }
                None => None,
            }
        }
        _ => return Err(NotSocks::Address),
    };
    let Some((destination, rest)) = destination else {
        return Ok(None);
    };
    let Some((&port, rest)) = rest.split_first_chunk() else {
        return Ok(None);
    };
    Ok(Some(Request {
        destination,
        port: u16::from_be_bytes(port),
        length: octets.len().saturating_sub(rest.len()),
    }))
}

/// What becomes of a request (RFC 1928 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// What follows, both ways, is between the client and whom it wanted.
    Connected,
    /// Something else is wrong.
    Failed,
    /// It is not allowed to go there.
    NotAllowed,
    /// Whoever is there cannot be reached now.
    HostUnreachable,
    /// Nothing but connections can be asked for.
    UnknownCommand,
    /// Nothing but names, and addresses of the two families.
    UnknownAddress,
}

impl Reply {
    /// As it is sent. The address that is part of it is nobody's: what the client is connected to has none that it could reach.
    pub fn octets(self) -> [u8; 10] {
        let number = match self {
            Self::Connected => 0,
            Self::Failed => 1,
            Self::NotAllowed => 2,
            Self::HostUnreachable => 4,
            Self::UnknownCommand => 7,
            Self::UnknownAddress => 8,
        };
        [VERSION, number, 0, IPV4, 0, 0, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_greeting_is_read_in_any_portions() {
        let octets = [5, 2, 2, 0, 5];
        for end in 0..4 {
            assert_eq!(read_greeting(&octets[..end]), Ok(None));
        }
        assert_eq!(read_greeting(&octets), Ok(Some(4)));
        assert_eq!(read_greeting(&[4, 1]), Err(NotSocks::Version));
        assert_eq!(read_greeting(b"GET / HTTP/1.1"), Err(NotSocks::Version));
        assert_eq!(read_greeting(&[5, 1, 2]), Err(NotSocks::Method));
        assert_eq!(read_greeting(&[5, 0]), Err(NotSocks::Method));
    }

    #[test]
    fn a_request_names_a_host_or_an_address() {
        let requests: [(&[u8], Destination<'_>); 3] = [
            (b"\x05\x01\0\x03\x03ssh\0\x16!", Destination::Name("ssh")),
            (
                b"\x05\x01\0\x01\xc0\0\x02\x01\0\x16!",
                Destination::Address("192.0.2.1".parse().unwrap()),
            ),
            (
                b"\x05\x01\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x16!",
                Destination::Address("2001:db8::1".parse().unwrap()),
            ),
        ];
        for (octets, destination) in requests {
            let length = octets.len() - 1;
            for end in 0..length {
                assert_eq!(read_request(&octets[..end]), Ok(None));
            }
            let request = Request {
                destination,
                port: 22,
                length,
            };
            assert_eq!(read_request(octets), Ok(Some(request)));
        }
    }

    #[test]
    fn what_is_no_request_is_answered_as_the_standard_says() {
        for (octets, reply) in [
            (&b"\x04\x01"[..], Reply::Failed),
            (b"\x05\x02", Reply::UnknownCommand), // bind
            (b"\x05\x03\0\x01", Reply::UnknownCommand),
            (b"\x05\x01\0\x02", Reply::UnknownAddress),
            (b"\x05\x01\0\x03\x01\xff\0\x16", Reply::UnknownAddress),
        ] {
            assert_eq!(
                read_request(octets).unwrap_err().reply(),
                reply,
                "{octets:?}"
            );
        }
        assert_eq!(Reply::Connected.octets(), *b"\x05\0\0\x01\0\0\0\0\0\0");
    }

    proptest! {
        #[test]
        fn any_octets_are_read(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(length)) = read_greeting(&octets) {
                prop_assert!(length <= octets.len().min(MAX_MESSAGE));
            }
            if let Ok(Some(request)) = read_request(&octets) {
                prop_assert!(request.length <= octets.len().min(MAX_MESSAGE));
            }
        }
    }
}
