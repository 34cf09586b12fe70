//! What a visitor and an origin say to each other when neither TLS nor HTTP is to be measured: a real ClientHello, because
//! a front wants one, and plain octets from then on.
//!
//! ```text
//!   visitor ─► ClientHello for demo.nas.localhost ─► request ─► …         origin swallows the hello
//!   origin  ─► as many octets as were asked for ─► …
//!
//!   request   0        8      9       10       90
//!             │ length │ last │ works │ padding │
//! ```

use std::time::Duration;

/// Chromium's; where it ends the requests begin.
pub(crate) static HELLO: &[u8] = include_bytes!("../../relay/wire/testdata/chromium.bin");

/// The device that [`HELLO`] asks for, in the zone of a server started here.
pub(crate) const DEVICE: &str = "demo";

/// What a browser asks for in as few words.
pub(crate) const SMALL: u64 = 1024;

/// How long an origin takes that has something to do.
pub(crate) const WORK: Duration = Duration::from_millis(1);

/// Asked for with every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// How many octets the answer is to have.
    pub(crate) length: u64,
    /// Whether the origin closes after it, as HTTP's `Connection: close` asks.
    pub(crate) last: bool,
    /// Whether the origin has [`WORK`] to do before it answers.
    pub(crate) works: bool,
}

impl Request {
    /// As long as a small HTTP request.
    pub(crate) const LENGTH: usize = 90;

    pub(crate) fn encode(self) -> [u8; Self::LENGTH] {
        let mut octets = [0; Self::LENGTH];
        octets[..8].copy_from_slice(&self.length.to_be_bytes());
        octets[8] = self.last.into();
        octets[9] = self.works.into();
        octets
    }

    pub(crate) fn decode(octets: &[u8; Self::LENGTH]) -> Self {
        let [a, b, c, d, e, f, g, h, last, works, ..] = *octets;
        Self {
            length: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            last: last != 0,
            works: works != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        for request in [
            Request {
                length: u64::MAX,
                last: false,
                works: true,
            },
            Request {
                length: SMALL,
                last: true,
                works: false,
            },
        ] {
            assert_eq!(Request::decode(&request.encode()), request);
        }
    }

    #[test]
    fn the_hello_asks_for_the_device() {
        let host = format!("{DEVICE}.nas.localhost");
        let mut places = HELLO.windows(host.len());
        assert!(places.any(|place| place == host.as_bytes()));
    }
}
