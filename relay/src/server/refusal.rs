//! Why visitors and agents are sent away. Each reason is a metric label; a stranger hears less.

use wire::proxy_v2::NotAHeader;

/// Why a visitor was sent away before it reached anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// As many visitors are here as may be, or as there are descriptors for.
    Full,
    /// The process has as much memory as it may.
    Memory,
    /// Too many have not said their name yet.
    UnnamedFull,
    /// It had not said its name for longer than any other when there was no room for the next. Or it came over UDP, waited for its
    /// device's stream, and had not shown for longest that its address is its own.
    GaveWay,
    /// Too many of its address have not said their name yet.
    AddressBusy,
    /// Its hello is long and not complete, and others hold as much of such as may be.
    HellosFull,
    /// Its address has come too often lately.
    AddressTooFast,
    /// As many visitors of its address are here as may be.
    AddressFull,
    /// It did not say its name in time.
    TooSlow,
    /// It left before it said its name.
    LeftEarly,
    /// What it sent is no TLS ClientHello.
    NotTls,
    /// It begins with a PROXY header, and is not from where one is believed, or one has been read already.
    ProxyUnexpected,
    /// It is from a proxy and begins with no PROXY header.
    ProxyMissing,
    /// From a proxy: a header of another version.
    ProxyVersion,
    /// From a proxy: a header that is too long.
    ProxyTooLong,
    /// From a proxy: a header that breaks the protocol.
    ProxyMalformed,
    /// From a proxy: a header that is not as it was sent.
    ProxyChecksum,
    /// Its hello names no host.
    NoName,
    /// Nobody here has the name.
    UnknownName,
    /// The name's device has no tunnel, or that of the public port.
    NotAttached,
    /// Its device may have a tunnel at the process before, which is behind with those who are handed over.
    PredecessorBusy,
    /// The device has as many visitors as it may.
    DeviceFull,
    /// The agent brought no carrier.
    NoCarrier,
    /// It came over QUIC or to a public port, and its device's tunnel has no datagrams, or its agent takes none, or the device has lost
    /// the port, or this relay takes no visitors any more.
    NoFlows,
    /// It came over QUIC, and from its port others have come before, as many as may be. Or it came to a public UDP port twice at once.
    PortFull,
    /// It came to a public UDP port of a device, and so did more others than can be taken in a second.
    PortBusy,
    /// Its TLS with the operator's own host failed.
    Handshake,
    /// Too many handshakes for the operator's own hosts are under way.
    HandshakesBusy,
    /// The operator's pages are overloaded.
    CloudBusy,
}

impl Refusal {
    pub(crate) const ALL: [Self; 29] = [
        Self::Full,
        Self::Memory,
        Self::UnnamedFull,
        Self::GaveWay,
        Self::AddressBusy,
        Self::HellosFull,
        Self::AddressTooFast,
        Self::AddressFull,
        Self::TooSlow,
        Self::LeftEarly,
        Self::NotTls,
        Self::ProxyUnexpected,
        Self::ProxyMissing,
        Self::ProxyVersion,
        Self::ProxyTooLong,
        Self::ProxyMalformed,
        Self::ProxyChecksum,
        Self::NoName,
        Self::UnknownName,
        Self::NotAttached,
        Self::PredecessorBusy,
        Self::DeviceFull,
        Self::NoCarrier,
        Self::NoFlows,
        Self::PortFull,
        Self::PortBusy,
        Self::Handshake,
        Self::HandshakesBusy,
        Self::CloudBusy,
    ];

    /// The metric label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Memory => "memory",
            Self::UnnamedFull => "unnamed_full",
            Self::GaveWay => "gave_way",
            Self::AddressBusy => "address_busy",
            Self::HellosFull => "hellos_full",
            Self::AddressTooFast => "address_too_fast",
            Self::AddressFull => "address_full",
            Self::TooSlow => "too_slow",
            Self::LeftEarly => "left_early",
            Self::NotTls => "not_tls",
            Self::ProxyUnexpected => "proxy_unexpected",
            Self::ProxyMissing => "proxy_missing",
            Self::ProxyVersion => "proxy_version",
            Self::ProxyTooLong => "proxy_too_long",
            Self::ProxyMalformed => "proxy_malformed",
            Self::ProxyChecksum => "proxy_checksum",
            Self::NoName => "no_name",
            Self::UnknownName => "unknown_name",
            Self::NotAttached => "not_attached",
            Self::PredecessorBusy => "predecessor_busy",
            Self::DeviceFull => "device_full",
            Self::NoCarrier => "no_carrier",
            Self::NoFlows => "no_flows",
            Self::PortFull => "port_full",
            Self::PortBusy => "port_busy",
            Self::Handshake => "handshake",
            Self::HandshakesBusy => "handshakes_busy",
            Self::CloudBusy => "cloud_busy",
        }
    }

    /// Whether the visitor is told by an alert. One alert for all: it does not say which names exist.
    pub(crate) fn alerts(self) -> bool {
        matches!(
            self,
            Self::Full
                | Self::Memory
                | Self::HellosFull
                | Self::AddressFull
                | Self::NoName
                | Self::UnknownName
                | Self::NotAttached
                | Self::PredecessorBusy
                | Self::DeviceFull
                | Self::NoCarrier
        )
    }
}

impl From<NotAHeader> for Refusal {
    fn from(fault: NotAHeader) -> Self {
        match fault {
            NotAHeader::Missing => Self::ProxyMissing,
            NotAHeader::OtherVersion => Self::ProxyVersion,
            NotAHeader::TooLong => Self::ProxyTooLong,
            NotAHeader::Malformed => Self::ProxyMalformed,
            NotAHeader::Checksum => Self::ProxyChecksum,
        }
    }
}

/// Why an agent did not get as far as a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Too many handshakes are under way, in all or from its address.
    Busy,
    /// Agents at its address have begun too many handshakes lately.
    TooFast,
    /// The TLS or QUIC handshake failed or was not finished in time.
    Handshake,
    /// It speaks another protocol than the tunnel's or the carrier's.
    WrongProtocol,
    /// It showed no Ed25519 key.
    NoKey,
    /// No device has its key.
    UnknownDevice,
    /// No hello came, or not in time.
    NoHello,
    /// It broke the protocol, or speaks none of our versions.
    BadHello,
    /// A carrier with a ticket that nobody waits for.
    UnknownTicket,
    /// The relay is about to stop.
    Leaving,
}

impl Rejection {
    pub(crate) const ALL: [Self; 10] = [
        Self::Busy,
        Self::TooFast,
        Self::Handshake,
        Self::WrongProtocol,
        Self::NoKey,
        Self::UnknownDevice,
        Self::NoHello,
        Self::BadHello,
        Self::UnknownTicket,
        Self::Leaving,
    ];

    /// The metric label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::TooFast => "too_fast",
            Self::Handshake => "handshake",
            Self::WrongProtocol => "wrong_protocol",
            Self::NoKey => "no_key",
            Self::UnknownDevice => "unknown_device",
            Self::NoHello => "no_hello",
            Self::BadHello => "bad_hello",
            Self::UnknownTicket => "unknown_ticket",
            Self::Leaving => "leaving",
        }
    }
}
