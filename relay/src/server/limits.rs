//! Who may come in: bounds on visitors before anything is known of them, and on visitors in all.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use dashmap::DashMap;

use super::refusal::Refusal;

/// How long a visitor may take to say its name, and an agent to say who it is.
pub(crate) const HELLO_TIME: Duration = Duration::from_secs(5);

/// Connections whose hello has not come yet, at most. Each may hold `client_hello::MAX_READ` octets.
const MAX_UNNAMED: usize = 4096;

/// The same from one address: a quarter, so that four addresses are needed to shut others out for [`HELLO_TIME`].
const MAX_UNNAMED_PER_ADDRESS: usize = 1024;

/// Visitors of one device at a time. Below the number of streams its agent grants, so that one is always free.
pub(crate) const MAX_VISITORS_PER_DEVICE: usize = 4000;

/// Descriptors left for everything that is not a visitor: listeners, files, the database, agents over TLS.
const RESERVED_DESCRIPTORS: u64 = 512;

/// Counts visitors against the bounds; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    max_visitors: usize,
    visitors: Arc<AtomicUsize>,
    unnamed: Arc<AtomicUsize>,
    unnamed_by_address: Arc<DashMap<IpAddr, usize>>,
}

impl Limits {
    /// Bounds for a process with as many descriptors as it may have; raises its soft limit to the hard one.
    pub(crate) fn for_this_process() -> Self {
        let descriptors = raise_descriptor_limit();
        // A visitor over a tls carrier takes two descriptors here.
        let max_visitors = descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2;
        Self::new(usize::try_from(max_visitors.max(1)).unwrap_or(usize::MAX))
    }

    fn new(max_visitors: usize) -> Self {
        Self {
            max_visitors,
            visitors: Arc::default(),
            unnamed: Arc::default(),
            unnamed_by_address: Arc::default(),
        }
    }

    /// Lets a visitor in, or says why not.
    pub(crate) fn admit(&self, from: IpAddr) -> Result<Admitted, Refusal> {
        let visitor = Counted::below(&self.visitors, self.max_visitors).ok_or(Refusal::Full)?;
        let unnamed = Counted::below(&self.unnamed, MAX_UNNAMED).ok_or(Refusal::Full)?;
        let address = prefix(from);
        {
            let mut count = self.unnamed_by_address.entry(address).or_insert(0);
            if *count >= MAX_UNNAMED_PER_ADDRESS {
                return Err(Refusal::AddressBusy);
            }
            *count += 1;
        }
        let by_address = Arc::clone(&self.unnamed_by_address);
        Ok(Admitted {
            _visitor: visitor,
            unnamed: Some(Unnamed {
                _total: unnamed,
                address,
                by_address,
            }),
        })
    }
}

/// A visitor counted against the bounds, until it is dropped.
#[derive(Debug)]
pub struct Admitted {
    _visitor: Counted,
    unnamed: Option<Unnamed>,
}

impl Admitted {
    /// The hello has come: only the bound on visitors in all counts from now on.
    pub(crate) fn named(&mut self) {
        self.unnamed = None;
    }
}

#[derive(Debug)]
struct Unnamed {
    _total: Counted,
    address: IpAddr,
    by_address: Arc<DashMap<IpAddr, usize>>,
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(mut count) = self.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
        }
        self.by_address
            .remove_if(&self.address, |_, count| *count == 0);
    }
}

/// One, counted in a shared number until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// Counts one more unless that would exceed `limit`.
    pub(crate) fn below(counter: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        counter
            .fetch_update(Relaxed, Relaxed, |count| {
                (count < limit).then_some(count + 1)
            })
            .ok()?;
        Some(Self(Arc::clone(counter)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What counts as one address: all of IPv4, and a site's /56 of IPv6.
fn prefix(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[7..].fill(0);
            octets.into()
        }
    }
}

fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_cannot_take_every_place() {
        let limits = Limits::new(usize::MAX);
        let mut held = Vec::new();
        while let Ok(admitted) = limits.admit(ip("2001:db8::1")) {
            held.push(admitted);
        }
        assert_eq!(held.len(), MAX_UNNAMED_PER_ADDRESS);
        assert_eq!(
            limits.admit(ip("2001:db8:0:ff::2")).unwrap_err(),
            Refusal::AddressBusy
        );
        assert!(limits.admit(ip("2001:db8:0:100::1")).is_ok());

        held[0].named();
        assert!(limits.admit(ip("2001:db8::3")).is_ok());
    }

    #[test]
    fn everybody_who_leaves_makes_room() {
        let limits = Limits::new(2);
        let first = limits.admit(ip("192.0.2.1")).unwrap();
        let _second = limits.admit(ip("192.0.2.2")).unwrap();
        assert_eq!(limits.admit(ip("192.0.2.3")).unwrap_err(), Refusal::Full);
        drop(first);
        assert!(limits.admit(ip("192.0.2.3")).is_ok());
        assert_eq!(limits.unnamed_by_address.len(), 1);
    }
}
