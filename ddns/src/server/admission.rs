//! How many TCP connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections; a clone counts the same.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    in_all: usize,
    of_one: usize,
    count_by_neighbourhood: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    in_all: usize,
    by_neighbourhood: HashMap<Neighbourhood, usize>,
}

/// An IPv4 address, or the /56 of an IPv6 address, which one home has at its disposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Neighbourhood {
    V4([u8; 4]),
    V6([u8; 7]),
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    InAll,
    OfOne,
}

impl Full {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::InAll => "in_all",
            Self::OfOne => "of_one_address",
        }
    }
}

impl Admission {
    pub(crate) fn new(in_all: usize, of_one: usize) -> Self {
        Self {
            in_all,
            of_one,
            count_by_neighbourhood: Arc::default(),
        }
    }

    /// Admits a connection from `client`, which counts until the guard is dropped.
    pub(crate) fn admit(&self, client: IpAddr) -> Result<Admitted, Full> {
        let neighbourhood = Neighbourhood::of(client);
        let mut counts = self.lock();
        if counts.in_all >= self.in_all {
            return Err(Full::InAll);
        }
        let of_one = counts.by_neighbourhood.entry(neighbourhood).or_default();
        if *of_one >= self.of_one {
            return Err(Full::OfOne);
        }
        *of_one += 1;
        counts.in_all += 1;
        Ok(Admitted {
            admission: self.clone(),
            neighbourhood,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.count_by_neighbourhood
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Neighbourhood {
    fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [o0, o1, o2, o3, o4, o5, o6, ..] = v6.octets();
                Self::V6([o0, o1, o2, o3, o4, o5, o6])
            }
        }
    }
}

/// One connection that counts.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Admission,
    neighbourhood: Neighbourhood,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        counts.in_all -= 1;
        if let Some(count) = counts.by_neighbourhood.get_mut(&self.neighbourhood) {
            *count -= 1;
            if *count == 0 {
                counts.by_neighbourhood.remove(&self.neighbourhood);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_and_all_together_have_a_limit() {
        let admission = Admission::new(3, 2);
        let first = admission.admit(ip("192.0.2.1")).unwrap();
        let _second = admission.admit(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(admission.admit(ip("192.0.2.1")).unwrap_err(), Full::OfOne);
        let _other = admission.admit(ip("192.0.2.2")).unwrap();
        assert_eq!(admission.admit(ip("192.0.2.3")).unwrap_err(), Full::InAll);
        drop(first);
        admission.admit(ip("192.0.2.1")).unwrap();
    }

    #[test]
    fn a_home_counts_as_one() {
        let admission = Admission::new(9, 1);
        let _first = admission.admit(ip("2001:db8:0:aa01::1")).unwrap();
        assert!(admission.admit(ip("2001:db8:0:aaff::2")).is_err());
        assert!(admission.admit(ip("2001:db8:0:ab00::1")).is_ok());
    }

    #[test]
    fn nothing_is_kept_of_those_who_have_left() {
        let admission = Admission::new(9, 9);
        drop(admission.admit(ip("192.0.2.1")).unwrap());
        assert!(admission.lock().by_neighbourhood.is_empty());
        assert_eq!(admission.lock().in_all, 0);
    }
}
