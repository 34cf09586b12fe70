//! Sockets that whoever has started this program has for it: a service manager, who may hold on to them, so that between two runs
//! visitors wait in the socket's queue, and nobody is refused (sd_listen_fds(3), systemd.socket(5)); or the process before it,
//! of which this one takes over (`succession`). The service manager says what there is in the environment:
//!
//! ```text
//!   LISTEN_PID      whom the rest is for
//!   LISTEN_FDS      how many there are, from descriptor 3 on
//!   LISTEN_FDNAMES  what each is for, such as front:http
//! ```

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{OwnedFd, RawFd};
use std::process;

use socket2::{Domain, Socket, Type};

use super::succession::{self, PREDECESSOR};
use crate::sys;

/// What the environment says of them.
const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The number of the first descriptor.
const FIRST: RawFd = 3;

/// More than any program here has listeners.
const MOST: u8 = 16;

/// The sockets, by name, until somebody takes them.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, Socket)>);

/// Why what was handed over cannot be used. Always to be mended by whoever starts the program.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// A variable says nothing that can be understood.
    #[error("{0} in the environment says nothing that sd_listen_fds(3) knows")]
    Variable(&'static str),
    /// It is not known what is for what.
    #[error(
        "sockets were handed over, {descriptors} of them, and LISTEN_FDNAMES names {names}: each needs a name \
         (`FileDescriptorName=` of a socket unit)"
    )]
    Names {
        /// How many sockets there are.
        descriptors: usize,
        /// How many names.
        names: usize,
    },
    /// Two sockets have one name.
    #[error("two sockets with the name {0} were handed over, and one can be used")]
    Twice(String),
    /// A descriptor that was announced is none.
    #[error("descriptor {number}, which was to be handed over as {name}: {cause}")]
    Descriptor {
        /// Its number.
        number: RawFd,
        /// What it was to be for.
        name: String,
        /// What the system says.
        cause: io::Error,
    },
    /// The variables stay in the environment.
    #[error("what the environment says of sockets cannot be removed from it: {0}")]
    Environment(io::Error),
    /// A file, a datagram socket, or a connection.
    #[error("what was handed over as {0} is no listening TCP socket")]
    NoListener(String),
    /// A file, a listener, or a connection.
    #[error("what was handed over as {0} is no bound UDP socket")]
    NoDatagrams(String),
    /// It listens elsewhere than the configuration says.
    #[error(
        "the socket that was handed over as {name} is at {bound}, but the configuration says {wanted}"
    )]
    Elsewhere {
        /// What it is for.
        name: String,
        /// Where it listens.
        bound: SocketAddr,
        /// Where it should.
        wanted: SocketAddr,
    },
    /// It listens on `[::]` without IPv4.
    #[error(
        "the socket that was handed over as {0} takes no IPv4, which `[::]` in the configuration includes \
         (`BindIPv6Only=both` of a socket unit)"
    )]
    OnlyIpv6(String),
    /// Nobody takes it.
    #[error(
        "a socket was handed over as {0}, and nothing is configured that would listen on it; there can be front and http"
    )]
    Unwanted(String),
}

impl Inherited {
    /// What the environment says was handed over to this process; it is forgotten there. To be called before the program has
    /// a second thread, and before it has opened anything.
    ///
    /// # Errors
    /// If that cannot be used.
    pub fn of_environment() -> Result<Self, InheritedError> {
        let announced = announced(env::var_os, process::id())?;
        if VARIABLES.iter().any(|name| env::var_os(name).is_some()) {
            sys::forget_variables(&VARIABLES).map_err(InheritedError::Environment)?;
        }
        let predecessor = succession::predecessor()?;
        let predecessor = predecessor.map(|number| (PREDECESSOR.to_owned(), number));
        let mut inherited = Self::default();
        for (name, number) in announced.into_iter().chain(predecessor) {
            if inherited.0.iter().any(|(known, _)| *known == name) {
                return Err(InheritedError::Twice(name));
            }
            match sys::from_before(number) {
                Ok(descriptor) => inherited.add(name, descriptor),
                Err(cause) => {
                    return Err(InheritedError::Descriptor {
                        number,
                        name,
                        cause,
                    });
                }
            }
        }
        Ok(inherited)
    }

    pub(super) fn add(&mut self, name: String, descriptor: OwnedFd) {
        self.0.push((name, descriptor.into()));
    }

    /// The TCP listener with this name, if one was handed over. It listens where `wanted` says; of port 0, anywhere.
    ///
    /// # Errors
    /// If it is something else, or listens elsewhere.
    pub fn listener(
        &mut self,
        name: &str,
        wanted: SocketAddr,
    ) -> Result<Option<TcpListener>, InheritedError> {
        Ok(self.listeners(name, wanted)?.pop())
    }

    /// All of them.
    ///
    /// # Errors
    /// If one is something else, or listens elsewhere.
    pub fn listeners(
        &mut self,
        name: &str,
        wanted: SocketAddr,
    ) -> Result<Vec<TcpListener>, InheritedError> {
        let listener = |socket: Socket| match listens_at(&socket) {
            Some(bound) => is_at(&socket, name, bound, wanted).map(|()| socket.into()),
            None => Err(InheritedError::NoListener(name.to_owned())),
        };
        self.take(name).map(listener).collect()
    }

    /// The UDP sockets with this name. They are bound where `wanted` says; of port 0, anywhere.
    ///
    /// # Errors
    /// If one is something else, or bound elsewhere.
    pub fn datagrams(
        &mut self,
        name: &str,
        wanted: SocketAddr,
    ) -> Result<Vec<UdpSocket>, InheritedError> {
        let bound = |socket: Socket| match bound_at(&socket, Type::DGRAM) {
            Some(bound) => is_at(&socket, name, bound, wanted).map(|()| socket.into()),
            None => Err(InheritedError::NoDatagrams(name.to_owned())),
        };
        self.take(name).map(bound).collect()
    }

    /// What else was handed over with this name.
    pub fn descriptors(&mut self, name: &str) -> Vec<OwnedFd> {
        self.take(name).map(OwnedFd::from).collect()
    }

    /// In the order in which they were handed over.
    fn take(&mut self, name: &str) -> impl Iterator<Item = Socket> + use<> {
        let named = self.0.extract_if(.., |(known, _)| known == name);
        let named: Vec<_> = named.map(|(_, socket)| socket).collect();
        named.into_iter()
    }

    /// When everybody has taken what is for him.
    ///
    /// # Errors
    /// If something is left.
    pub fn all_taken(self) -> Result<(), InheritedError> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(InheritedError::Unwanted(name)),
            None => Ok(()),
        }
    }
}

/// Names and numbers, as `variable` has them for the process `id`.
fn announced(
    variable: impl Fn(&'static str) -> Option<OsString>,
    id: u32,
) -> Result<Vec<(String, RawFd)>, InheritedError> {
    let [for_whom, count, names] = VARIABLES;
    let text = |name| match variable(name).map(OsString::into_string) {
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(InheritedError::Variable(name)),
        None => Ok(None),
    };
    let Some(meant) = text(for_whom)? else {
        return Ok(Vec::new());
    };
    let meant: u32 = meant
        .parse()
        .map_err(|_| InheritedError::Variable(for_whom))?;
    if meant != id {
        return Ok(Vec::new()); // whoever started this one has not removed what was for himself
    }
    let descriptors = text(count)?.and_then(|text| text.parse::<u8>().ok());
    let descriptors = descriptors
        .filter(|descriptors| *descriptors <= MOST)
        .ok_or(InheritedError::Variable(count))?;
    let named = text(names)?.unwrap_or_default();
    let named: Vec<_> = named.split(':').filter(|name| !name.is_empty()).collect();
    if named.len() != usize::from(descriptors) {
        return Err(InheritedError::Names {
            descriptors: descriptors.into(),
            names: named.len(),
        });
    }
    Ok(named.into_iter().map(str::to_owned).zip(FIRST..).collect())
}

/// Where a TCP listener listens; `None` of anything else.
fn listens_at(socket: &Socket) -> Option<SocketAddr> {
    let bound = bound_at(socket, Type::STREAM)?;
    socket.is_listener().ok()?.then_some(bound)
}

/// Where a socket of this kind is bound; `None` of anything else.
fn bound_at(socket: &Socket, kind: Type) -> Option<SocketAddr> {
    let domain = socket.domain().ok()?;
    let is_one = socket.r#type().is_ok_and(|found| found == kind)
        && [Domain::IPV4, Domain::IPV6].contains(&domain);
    is_one.then(|| socket.local_addr().ok()?.as_socket())?
}

/// Whether what is `bound` there is where the configuration says.
pub(super) fn is_where(
    name: &str,
    bound: SocketAddr,
    wanted: SocketAddr,
) -> Result<(), InheritedError> {
    let is_there = bound.ip() == wanted.ip() && [0, bound.port()].contains(&wanted.port());
    match is_there {
        true => Ok(()),
        false => Err(InheritedError::Elsewhere {
            name: name.to_owned(),
            bound,
            wanted,
        }),
    }
}

/// Whether a socket, which is `bound` there, is where the configuration says.
fn is_at(
    socket: &Socket,
    name: &str,
    bound: SocketAddr,
    wanted: SocketAddr,
) -> Result<(), InheritedError> {
    is_where(name, bound, wanted)?;
    if bound.is_ipv6() && bound.ip().is_unspecified() && socket.only_v6().unwrap_or(true) {
        return Err(InheritedError::OnlyIpv6(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};

    use super::*;

    fn said(variables: &[(&str, &str)]) -> Result<Vec<(String, RawFd)>, InheritedError> {
        let variable = |name: &str| {
            let value = variables.iter().find(|(known, _)| *known == name);
            value.map(|(_, value)| OsString::from(value))
        };
        announced(variable, 7)
    }

    #[test]
    fn names_stand_in_the_order_of_the_descriptors() {
        let told = said(&[
            ("LISTEN_PID", "7"),
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", "front:http"),
        ]);
        let told = told.unwrap();
        assert_eq!(told, [("front".to_owned(), 3), ("http".to_owned(), 4)]);
        assert!(said(&[]).unwrap().is_empty());
        assert!(said(&[("LISTEN_FDS", "2")]).unwrap().is_empty());
    }

    #[test]
    fn what_is_for_another_process_is_left_to_it() {
        let told = said(&[("LISTEN_PID", "8"), ("LISTEN_FDS", "many")]);
        assert!(told.unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_understood_is_refused_by_its_name() {
        let fault = |variables: &[(&str, &str)]| said(variables).unwrap_err().to_string();
        assert!(fault(&[("LISTEN_PID", "seven")]).starts_with("LISTEN_PID"));
        for count in ["", "-1", "2 ", "17", "99999999999"] {
            let fault = fault(&[("LISTEN_PID", "7"), ("LISTEN_FDS", count)]);
            assert!(fault.starts_with("LISTEN_FDS"), "{fault}");
        }
        assert!(fault(&[("LISTEN_PID", "7")]).starts_with("LISTEN_FDS"));
        for names in ["", "front", "front:", "front:http:dns"] {
            let fault = fault(&[
                ("LISTEN_PID", "7"),
                ("LISTEN_FDS", "2"),
                ("LISTEN_FDNAMES", names),
            ]);
            assert!(fault.contains("FileDescriptorName="), "{fault}");
        }
    }

    /// What is said of a `socket` that is handed over as the front, where the configuration says `wanted`.
    fn taken(
        socket: impl Into<OwnedFd>,
        wanted: impl Into<SocketAddr>,
    ) -> Result<SocketAddr, String> {
        let mut inherited = Inherited::default();
        inherited.add("front".to_owned(), socket.into());
        let listener = inherited.listener("front", wanted.into());
        let listener = listener.map_err(|error| error.to_string())?.unwrap();
        inherited.all_taken().unwrap();
        Ok(listener.local_addr().unwrap())
    }

    #[test]
    fn a_listener_must_be_where_the_configuration_says() {
        let listener = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let any = taken(listener(), (Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_ne!(any.port(), 0);
        let first = listener();
        let address = first.local_addr().unwrap();
        assert_eq!(taken(first, address), Ok(address));

        let port = listener().local_addr().unwrap().port();
        for wanted in [
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        ] {
            let listener = listener();
            let bound = listener.local_addr().unwrap();
            let fault = taken(listener, wanted).unwrap_err();
            let both = [bound, wanted].map(|address| address.to_string());
            assert!(both.iter().all(|one| fault.contains(one)), "{fault}");
        }
    }

    #[test]
    fn ipv6_alone_is_not_every_address() {
        for (only_v6, is_good) in [(true, false), (false, true)] {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            socket.set_only_v6(only_v6).unwrap();
            let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
            socket.bind(&everywhere.into()).unwrap();
            socket.listen(1).unwrap();
            let taken = taken(socket, everywhere);
            assert_eq!(taken.is_ok(), is_good, "{taken:?}");
        }
    }

    #[test]
    fn what_is_no_listener_is_refused() {
        let wanted = (Ipv4Addr::LOCALHOST, 0);
        let listener = TcpListener::bind(wanted).unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let things: [OwnedFd; 3] = [
            File::open("/dev/null").unwrap().into(),
            UdpSocket::bind(wanted).unwrap().into(),
            connection.into(),
        ];
        for thing in things {
            let fault = taken(thing, wanted).unwrap_err();
            assert!(fault.contains("no listening TCP socket"), "{fault}");
        }
    }

    #[test]
    fn the_process_before_hands_over_several_of_a_name() {
        let wanted = (Ipv4Addr::LOCALHOST, 0).into();
        let mut inherited = Inherited::default();
        let [one, other] = [(); 2].map(|()| UdpSocket::bind(wanted).unwrap());
        let bound = [&one, &other].map(|socket| socket.local_addr().unwrap());
        for socket in [one, other] {
            inherited.add("udp".to_owned(), socket.into());
        }
        let listener = TcpListener::bind(wanted).unwrap();
        inherited.add("front".to_owned(), listener.into());
        let taken = inherited.datagrams("udp", wanted).unwrap();
        let taken: Vec<_> = taken
            .iter()
            .map(|socket| socket.local_addr().unwrap())
            .collect();
        assert_eq!(taken, bound);
        assert!(inherited.datagrams("udp", wanted).unwrap().is_empty());
        let fault = inherited
            .datagrams("front", wanted)
            .unwrap_err()
            .to_string();
        assert!(fault.contains("no bound UDP socket"), "{fault}");
    }

    #[test]
    fn what_is_handed_over_is_for_somebody() {
        let listener = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().into();
        let mut inherited = Inherited::default();
        inherited.add("front".to_owned(), listener());
        let none = inherited.listener("http", (Ipv4Addr::LOCALHOST, 0).into());
        assert!(none.unwrap().is_none());
        let left = inherited.all_taken().unwrap_err().to_string();
        assert!(left.contains("handed over as front"), "{left}");
    }
}
