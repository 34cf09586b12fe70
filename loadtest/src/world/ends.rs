//! Where the two ends of a way are: both here on loopback, or a link apart.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use tempfile::TempDir;

use super::{READY, WorldError};
use crate::part::link::{self, CONGESTION, Link};
use crate::part::{Part, namespace};
use crate::process::{Child, Namespace};

/// The addresses at both ends of a link, of those kept for measurements (RFC 2544).
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Visitors and the relay are near, the agent and its origin far.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(super) near: End,
    pub(super) far: End,
    /// How TCP meets losses there by default, where that is not as Linux comes.
    pub(crate) other_congestion: Option<String>,
    _apart: Option<(Vec<Child>, TempDir)>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) address: Ipv4Addr,
    pub(super) namespace: Namespace,
}

impl End {
    /// Here, on loopback.
    pub(super) const HERE: Self = Self {
        address: Ipv4Addr::LOCALHOST,
        namespace: Namespace::Here,
    };

    /// Any port there.
    pub(super) fn any_port(self) -> SocketAddr {
        (self.address, 0).into()
    }
}

impl Ends {
    /// Both here.
    pub(crate) fn together() -> Self {
        Self {
            near: End::HERE,
            far: End::HERE,
            other_congestion: None,
            _apart: None,
        }
    }

    /// Makes a link, each of its ends in a network namespace of its own, and moves this thread to the near one: whoever
    /// visits is there.
    pub(crate) async fn apart(link: Link) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let order = namespace::Order { strangers: None };
        let mut far = Child::start(Namespace::New, Part::Namespace, &order, folder.path())?;
        far.until_said(READY, |_: &namespace::Ready| true).await?;
        let order = link::Order {
            link,
            addresses: [NEAR, FAR],
            far: far.id().0,
        };
        let mut near = Child::start(Namespace::New, Part::Link, &order, folder.path())?;
        let ready = near.until_said(READY, |_: &link::Ready| true).await?;
        Namespace::enter(near.id()).map_err(WorldError::Enter)?;
        Ok(Self {
            near: End {
                address: NEAR,
                namespace: Namespace::Here,
            },
            far: End {
                address: FAR,
                namespace: Namespace::Of(far.id()),
            },
            other_congestion: Some(ready.congestion).filter(|congestion| congestion != CONGESTION),
            _apart: Some((vec![near, far], folder)),
        })
    }

    /// Both on the loopback of a network namespace of their own, where packets may also come from addresses of [`STRANGERS`]. Moves this
    /// thread there.
    pub(crate) async fn among_strangers() -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let order = namespace::Order {
            strangers: Some(STRANGERS.to_string()),
        };
        let mut here = Child::start(Namespace::New, Part::Namespace, &order, folder.path())?;
        here.until_said(READY, |_: &namespace::Ready| true).await?;
        Namespace::enter(here.id()).map_err(WorldError::Enter)?;
        Ok(Self {
            _apart: Some((vec![here], folder)),
            ..Self::together()
        })
    }
}

/// Addresses that nobody has: those kept for measurements (RFC 2544).
pub(crate) const STRANGERS: Network = Network {
    first: Ipv4Addr::new(198, 18, 0, 0),
    bits: 15,
};

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    first: Ipv4Addr,
    bits: u32,
}

impl Network {
    /// One of them; numbers beyond the last begin again.
    pub(crate) fn address(self, number: u32) -> Ipv4Addr {
        let within = number & (u32::MAX >> self.bits);
        Ipv4Addr::from_bits(self.first.to_bits() | within)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}
