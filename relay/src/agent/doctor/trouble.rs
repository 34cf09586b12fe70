//! Why a server is not reached: what that says of where the fault is, and what to do.

use std::io;

use crate::agent::dial::DialError;
use crate::tls;

use super::finding::Hop;

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is no address for its name.
    NoName,
    /// This device's network has no way there.
    NoWay,
    /// Its machine is there, and nobody listens.
    Refused,
    /// Somebody answers in its place.
    Distrust,
    /// Its certificate has ended or not begun, by this device's clock.
    Clock,
    /// Mostly nothing came back.
    Other,
}

impl Trouble {
    pub(super) fn of(error: &DialError) -> Self {
        match error {
            DialError::Failed(error) => Self::of_connection(error),
            DialError::Closed(_) | DialError::Refused | DialError::Tls(_) | DialError::NoKey => {
                Self::Other
            }
        }
    }

    pub(super) fn of_connection(error: &io::Error) -> Self {
        use io::ErrorKind::{
            ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable, NotFound,
        };
        let kind = error.kind();
        if tls::is_out_of_time(error) {
            Self::Clock
        } else if tls::is_of_tls(error) {
            Self::Distrust
        } else if kind == ConnectionRefused {
            Self::Refused
        } else if kind == NotFound {
            Self::NoName
        } else if [HostUnreachable, NetworkDown, NetworkUnreachable].contains(&kind) {
            Self::NoWay
        } else {
            Self::Other
        }
    }

    /// Where it is.
    pub(super) fn hop(self) -> Hop {
        match self {
            Self::NoWay | Self::NoName => Hop::Network,
            Self::Distrust | Self::Clock | Self::Other => Hop::Way,
            Self::Refused => Hop::Relay,
        }
    }

    /// What to do about a server at `port`.
    pub(super) fn mend(self, port: u16) -> String {
        match self {
            Self::NoName => {
                "see that this device has a name server that answers (/etc/resolv.conf, or what its router gives out); if others \
                 find the name neither, the operator has to mend it"
                    .to_owned()
            }
            Self::NoWay => {
                "see that this device has a cable or Wi-Fi, an address and a default route (`ip route`)".to_owned()
            }
            Self::Refused => {
                "the machine is there and the relay is not running: ask the operator".to_owned()
            }
            Self::Distrust => {
                "somebody else answers in its place: a network whose page has to be clicked through first, or a firewall that looks \
                 into TLS; leave that network, or have this name excepted"
                    .to_owned()
            }
            Self::Clock => {
                "set this device's clock (`timedatectl set-ntp true`); if it is right, the operator has to renew the certificate"
                    .to_owned()
            }
            Self::Other => format!(
                "see that this device reaches the Internet at all, and that TCP and UDP to port {port} are let out; if both are so, \
                 ask the operator whether the relay runs"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_told_apart() {
        let of = |kind: io::ErrorKind| Trouble::of_connection(&kind.into());
        assert_eq!(of(io::ErrorKind::ConnectionRefused), Trouble::Refused);
        assert_eq!(of(io::ErrorKind::NetworkUnreachable), Trouble::NoWay);
        assert_eq!(of(io::ErrorKind::TimedOut), Trouble::Other);
        assert_eq!(of(io::ErrorKind::NotFound), Trouble::NoName);
    }
}
