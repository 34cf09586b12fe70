//! Connection records as they are kept: one for each visitor's connection that has reached a device.
//!
//! Records are gathered into [batches](batch), and what a batch seals is this (numbers big-endian):
//!
//! ```text
//!   lost 4 │ record │ record │ …           lost: records that could not be kept since the batch before
//!
//!   started 6 │ length 6 │ device 16 │ visitor 7 or 18 │ to device 8 │ to visitor 8 │ end 1 │ carrier 1
//!                                        │
//!       masked   family 1 (4, 6) │ network 6: an IPv4 /24 and three zeros, or an IPv6 /48
//!       full     address 16 (RFC 4291 section 2.5.5.2 for IPv4) │ port 2
//! ```
//!
//! Times are milliseconds, `started` since 1970. Nothing of what passed is in a record, and no name below the device.

pub mod batch;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use directory::DeviceId;

/// Which of the two streams of records: they are sealed to different keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Of the visitor's address only the network is kept.
    Masked,
    /// The visitor's whole address, for whom the law obliges to keep it.
    Full,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Masked, Self::Full];

    /// What it is called in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Masked => "masked",
            Self::Full => "full",
        }
    }

    /// How many octets one record of this stream has.
    pub const fn record_length(self) -> usize {
        match self {
            Self::Masked => 53,
            Self::Full => 64,
        }
    }

    fn to_octet(self) -> u8 {
        match self {
            Self::Masked => 0,
            Self::Full => 1,
        }
    }

    fn from_octet(octet: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|stream| stream.to_octet() == octet)
    }
}

/// One visitor's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When its device was found, in milliseconds since 1970.
    pub started_ms: u64,
    /// How long it lasted from then on, in milliseconds.
    pub length_ms: u64,
    /// The device it was for.
    pub device: DeviceId,
    /// Where it came from.
    pub visitor: Visitor,
    /// Octets from the visitor to the device.
    pub to_device: u64,
    /// Octets from the device to the visitor.
    pub to_visitor: u64,
    /// How it ended.
    pub end: End,
    /// What it crossed on.
    pub carrier: Carrier,
    /// Whether bulk left the carrier for a raw connection.
    pub raw: bool,
}

impl Record {
    /// When it had ended, in milliseconds since 1970.
    pub fn ended_ms(&self) -> u64 {
        self.started_ms.saturating_add(self.length_ms)
    }
}

/// Where a visitor came from, as far as the stream keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visitor {
    /// The first 24 bits of an IPv4 address; the others are zero.
    Network4(Ipv4Addr),
    /// The first 48 bits of an IPv6 address; the others are zero.
    Network6(Ipv6Addr),
    /// The whole address.
    Address(SocketAddr),
}

impl Visitor {
    /// What a stream without addresses may know of this one.
    pub fn masked(self) -> Self {
        let Self::Address(address) = self else {
            return self;
        };
        // IPv4 that has come in at [::] is IPv4: cut at 48 bits, nothing would be left of it.
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::Network4(Ipv4Addr::new(a, b, c, 0))
            }
            IpAddr::V6(ip) => {
                let [a, b, c, ..] = ip.segments();
                Self::Network6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
            }
        }
    }
}

impl std::fmt::Display for Visitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network4(network) => write!(f, "{network}/24"),
            Self::Network6(network) => write!(f, "{network}/48"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// How a visitor's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions ended in order.
    Done,
    /// The visitor's connection was reset, or its address went away.
    VisitorGone,
    /// The carrier was reset, or the tunnel under it died.
    DeviceGone,
    /// No octet passed for too long.
    Idle,
    /// The device lost its right to be reached, or the relay stopped.
    Cut,
    /// Memory was short at the relay, and this was one of its newest visitors.
    Shed,
}

impl End {
    const ALL: [Self; 6] = [
        Self::Done,
        Self::VisitorGone,
        Self::DeviceGone,
        Self::Idle,
        Self::Cut,
        Self::Shed,
    ];

    /// What it is called, in metrics as in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::VisitorGone => "visitor_gone",
            Self::DeviceGone => "device_gone",
            Self::Idle => "idle",
            Self::Cut => "cut",
            Self::Shed => "shed",
        }
    }

    fn to_octet(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::VisitorGone => 1,
            Self::DeviceGone => 2,
            Self::Idle => 3,
            Self::Cut => 4,
            Self::Shed => 5,
        }
    }
}

/// What a visitor's bytes crossed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A stream of the tunnel.
    Quic,
    /// A TLS connection of its own.
    Tls,
}

impl Carrier {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls => "tls",
        }
    }

    fn to_octet(self) -> u8 {
        match self {
            Self::Quic => 0,
            Self::Tls => 1,
        }
    }
}

/// In the carrier's octet: bulk left it for a raw connection.
const RAW: u8 = 0x80;

/// What one batch holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// How many records could not be kept since the batch before.
    pub lost: u32,
    /// Those that were, in the order in which they ended.
    pub records: Vec<Record>,
}

impl Contents {
    /// Reads what a batch of `stream` has sealed; `None` if it is nothing of this version.
    pub fn read(stream: Stream, octets: &[u8]) -> Option<Self> {
        let mut octets = Octets(octets);
        let lost = u32::from_be_bytes(octets.take()?);
        let mut records = Vec::new();
        while !octets.0.is_empty() {
            records.push(octets.record(stream)?);
        }
        Some(Self { lost, records })
    }

    /// What a batch of `stream` seals.
    pub fn write(&self, stream: Stream) -> Vec<u8> {
        let length = self.records.len().saturating_mul(stream.record_length());
        let mut octets = Vec::with_capacity(length.saturating_add(4));
        octets.extend(self.lost.to_be_bytes());
        for record in &self.records {
            record.write(stream, &mut octets);
        }
        octets
    }
}

impl Record {
    fn write(&self, stream: Stream, to: &mut Vec<u8>) {
        to.extend(time(self.started_ms));
        to.extend(time(self.length_ms));
        to.extend(self.device.as_bytes());
        match stream {
            Stream::Masked => write_network(self.visitor, to),
            Stream::Full => write_address(self.visitor, to),
        }
        to.extend(self.to_device.to_be_bytes());
        to.extend(self.to_visitor.to_be_bytes());
        to.push(self.end.to_octet());
        to.push(self.carrier.to_octet() | if self.raw { RAW } else { 0 });
    }
}

/// 48 bits last until the year 10889.
fn time(ms: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = ms.min(0xFFFF_FFFF_FFFF).to_be_bytes();
    [a, b, c, d, e, f]
}

fn write_network(visitor: Visitor, to: &mut Vec<u8>) {
    match visitor.masked() {
        Visitor::Network4(network) => {
            let [a, b, c, _] = network.octets();
            to.extend([4, a, b, c, 0, 0, 0]);
        }
        Visitor::Network6(network) => {
            to.push(6);
            to.extend(network.octets().iter().take(6));
        }
        Visitor::Address(_) => to.extend([0; 7]), // cannot be: it is masked
    }
}

fn write_address(visitor: Visitor, to: &mut Vec<u8>) {
    let (ip, port) = match visitor {
        Visitor::Network4(network) => (network.to_ipv6_mapped(), 0),
        Visitor::Network6(network) => (network, 0),
        Visitor::Address(address) => {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            (ip, address.port())
        }
    };
    to.extend(ip.octets());
    to.extend(port.to_be_bytes());
}

/// Octets still to be read.
struct Octets<'a>(&'a [u8]);

impl Octets<'_> {
    fn take<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn time(&mut self) -> Option<u64> {
        let [a, b, c, d, e, f] = self.take()?;
        Some(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    fn record(&mut self, stream: Stream) -> Option<Record> {
        let started_ms = self.time()?;
        let length_ms = self.time()?;
        let device = DeviceId::from_bytes(self.take()?);
        let visitor = match stream {
            Stream::Masked => self.network()?,
            Stream::Full => self.address()?,
        };
        let to_device = u64::from_be_bytes(self.take()?);
        let to_visitor = u64::from_be_bytes(self.take()?);
        let [end, carrier] = self.take()?;
        let kinds = [Carrier::Quic, Carrier::Tls];
        Some(Record {
            started_ms,
            length_ms,
            device,
            visitor,
            to_device,
            to_visitor,
            end: End::ALL.into_iter().find(|known| known.to_octet() == end)?,
            carrier: kinds
                .into_iter()
                .find(|known| known.to_octet() == carrier & !RAW)?,
            raw: carrier & RAW != 0,
        })
    }

    fn network(&mut self) -> Option<Visitor> {
        match self.take()? {
            [4, a, b, c, 0, 0, 0] => Some(Visitor::Network4(Ipv4Addr::new(a, b, c, 0))),
            [6, a, b, c, d, e, f] => {
                let network = [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                Some(Visitor::Network6(network.into()))
            }
            _ => None,
        }
    }

    fn address(&mut self) -> Option<Visitor> {
        let ip = Ipv6Addr::from(self.take::<16>()?).to_canonical();
        let port = u16::from_be_bytes(self.take()?);
        Some(Visitor::Address(SocketAddr::new(ip, port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(visitor: &str) -> Record {
        Record {
            started_ms: 1_795_000_000_123,
            length_ms: 4_567,
            device: DeviceId::from_bytes([7; 16]),
            visitor: Visitor::Address(visitor.parse().unwrap()),
            to_device: 517,
            to_visitor: 20_000_000_000,
            end: End::VisitorGone,
            carrier: Carrier::Tls,
            raw: true,
        }
    }

    #[test]
    fn what_is_kept_of_an_address_is_what_the_stream_may_know() {
        for (visitor, masked, full) in [
            ("203.0.113.77:4711", "203.0.113.0/24", "203.0.113.77:4711"),
            (
                "[::ffff:203.0.113.77]:1",
                "203.0.113.0/24",
                "203.0.113.77:1",
            ),
            (
                "[2001:db8:1:2:3::4]:9",
                "2001:db8:1::/48",
                "[2001:db8:1:2:3::4]:9",
            ),
        ] {
            let contents = Contents {
                lost: 3,
                records: vec![record(visitor), record(visitor)],
            };
            for (stream, kept) in [(Stream::Masked, masked), (Stream::Full, full)] {
                let octets = contents.write(stream);
                assert_eq!(octets.len(), 4 + 2 * stream.record_length());
                let read = Contents::read(stream, &octets).unwrap();
                assert_eq!(read.lost, 3);
                for read in read.records {
                    assert_eq!(read.visitor.to_string(), kept);
                    let expected = Record {
                        visitor: read.visitor,
                        ..record(visitor)
                    };
                    assert_eq!(read, expected);
                }
            }
        }
    }

    #[test]
    fn nothing_of_the_host_part_is_in_a_masked_record() {
        let octets = |visitor| {
            let records = vec![record(visitor)];
            Contents { lost: 0, records }.write(Stream::Masked)
        };
        assert_eq!(octets("203.0.113.77:1"), octets("203.0.113.254:2"));
        assert_eq!(
            octets("[2001:db8:1:2::3]:1"),
            octets("[2001:db8:1:ffff::]:2")
        );
        assert_ne!(octets("203.0.113.77:1"), octets("203.0.114.77:1"));
    }

    #[test]
    fn every_length_but_whole_records_is_refused() {
        let records = vec![record("192.0.2.1:1"); 2];
        for stream in Stream::ALL {
            let octets = Contents {
                lost: 0,
                records: records.clone(),
            }
            .write(stream);
            for length in 0..octets.len() {
                let whole = [4, 4 + stream.record_length()].contains(&length);
                let read = Contents::read(stream, &octets[..length]);
                assert_eq!(read.is_some(), whole, "{length}");
            }
        }
    }

    #[test]
    fn an_unknown_end_carrier_or_family_is_refused() {
        let records = vec![record("192.0.2.1:1")];
        let good = Contents { lost: 0, records }.write(Stream::Masked);
        let no_end = u8::try_from(End::ALL.len()).unwrap();
        assert!(End::ALL.iter().all(|end| end.to_octet() < no_end));
        for (at, value) in [(4 + 28, 5), (good.len() - 2, no_end), (good.len() - 1, 2)] {
            let mut octets = good.clone();
            octets[at] = value;
            assert_eq!(Contents::read(Stream::Masked, &octets), None, "{at}");
        }
    }
}
