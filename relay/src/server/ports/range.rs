//! Which ports of a relay may be given to devices.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Below are those of well-known services, and of this relay itself.
const LEAST: u16 = 1024;

/// `20000-20999`, TCP and UDP, its ends among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// The text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of ports; one looks like 20000-20999, and begins at {LEAST} at least")]
pub struct PortRangeError(String);

impl PortRange {
    /// Whether a port is one of them.
    pub fn contains(&self, port: NonZeroU16) -> bool {
        (self.first..=self.last).contains(&port.get())
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let parsed = || {
            let (first, last) = text.split_once('-')?;
            let range = Self {
                first: first.trim().parse().ok()?,
                last: last.trim().parse().ok()?,
            };
            (LEAST <= range.first && range.first <= range.last).then_some(range)
        };
        parsed().ok_or_else(|| PortRangeError(text.to_owned()))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_ends_in_order_and_none_of_the_system() {
        let range: PortRange = "20000-20999".parse().unwrap();
        for (port, is_in) in [
            (19_999, false),
            (20_000, true),
            (20_999, true),
            (21_000, false),
        ] {
            let port = NonZeroU16::new(port).unwrap();
            assert_eq!(range.contains(port), is_in, "{port}");
        }
        assert_eq!(range.to_string(), "20000-20999");
        assert!("1024-65535".parse::<PortRange>().is_ok());
        for bad in [
            "",
            "20000",
            "20999-20000",
            "80-90",
            "1023-2000",
            "20000-70000",
            "a-b",
        ] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad:?}");
        }
    }
}
