//! Frames of the control stream, and the one that opens a carrier: two octets of length, then Protocol Buffers.
//!
//! ```text
//!   length 2 │ Envelope { one field, its number the kind of frame }
//! ```
//!
//! Protocol Buffers because versions will differ: a field or a kind of frame that this version does not know is skipped.
//! The messages are private to this file; the rest of the program sees [`Frame`], whose values are checked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU64};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use directory::{Protocol, PublicPort};
use prost::Message as _;

use crate::close::CloseCode;
use crate::hello::{Features, Hello, InstanceId};
use crate::ports::{MAX_PORTS, PortState, PublishedPort};
use crate::roaming::{self, RoamingId};

/// The longest frame, in octets, its length apart. The largest are an Ids and a Published with as many as may be.
pub const MAX_FRAME: usize = 1024;

/// Octets of the length in front of each frame.
pub const LENGTH_OCTETS: usize = 2;

/// What the ends of a tunnel say to each other. The crate's documentation draws who says what when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Agent: here I am. Always the first frame.
    Hello(Hello),
    /// Relay: you are attached.
    Welcome {
        /// The protocol version of this tunnel.
        version: u32,
        /// The features both ends have.
        features: Features,
        /// The agent's address as the relay sees it.
        seen_as: SocketAddr,
    },
    /// Are you there?
    Ping {
        /// Comes back in the answer.
        sequence: u64,
    },
    /// I am.
    Pong {
        /// That of the ping.
        sequence: u64,
    },
    /// Relay: dial a carrier for a visitor who waits, and show this.
    Dial {
        /// Single-use.
        ticket: Ticket,
    },
    /// Relay: take no more visitors here, and come back elsewhere or later.
    Drain {
        /// How long to wait before the next tunnel, so that not all agents come back at once.
        reconnect_after: Duration,
    },
    /// Agent: give me connection ids, by which my visitors are led to me from wherever they come.
    WantIds,
    /// Relay: these, each for one use. An older one never says so.
    Ids {
        /// At most [`MOST_AT_ONCE`](crate::roaming::MOST_AT_ONCE).
        ids: Vec<RoamingId>,
    },
    /// Relay: your device may have so much at most. Not said where it may have what all may that have no limits.
    Limits {
        /// Octets a second of all visitors, both ways; `None`: no limit.
        bytes_per_second: Option<NonZeroU64>,
        /// Visitors at a time.
        visitors: u32,
    },
    /// Agent: these public ports lead to services of mine, and no others. Only to a relay that has [`Features::PORTS`].
    Publish {
        /// At most [`MAX_PORTS`].
        ports: Vec<PublicPort>,
    },
    /// Relay: so it stands with each of them.
    Published {
        /// At most [`MAX_PORTS`].
        each: Vec<PublishedPort>,
    },
    /// The sender closes the tunnel. Over TLS only.
    Close {
        /// Why; a number that this version does not know is kept.
        code: Result<CloseCode, u32>,
    },
    /// Relay: the visitor's bytes follow. The first frame of each carrier.
    Open(Open),
    /// Agent: this connection is for the visitor of that ticket. The first frame of a tls carrier.
    Carry {
        /// The ticket from [`Frame::Dial`].
        ticket: Ticket,
    },
}

/// Who came, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The host name the visitor asked for, as it stands in its ClientHello. Empty where it comes back from elsewhere, to a connection
    /// that it has: only its connection id says to which.
    pub name: String,
    /// The visitor's own address.
    pub visitor: SocketAddr,
    /// The front's address that the visitor reached.
    pub front: SocketAddr,
    /// What passes are a visitor's UDP datagrams ([`flow`](crate::flow)), not a stream of bytes. Only for an agent that has
    /// [`Features::DATAGRAMS`].
    pub datagrams: bool,
    /// It has come to this public port of the device, and asked for no name. Only for an agent that has [`Features::PORTS`].
    pub port: Option<NonZeroU16>,
}

impl Open {
    /// The public port that it has come to, if it has.
    pub fn public_port(&self) -> Option<PublicPort> {
        let protocol = match self.datagrams {
            true => Protocol::Udp,
            false => Protocol::Tcp,
        };
        self.port.map(|number| PublicPort { protocol, number })
    }
}

/// Single-use proof with which an agent opens a carrier: 16 random octets, known only to the tunnel they were sent on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub [u8; 16]);

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(…)")
    }
}

/// What stands at the front of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A frame; its octets have been taken from the buffer.
    Frame(Frame),
    /// A frame of a newer version, to be ignored; its octets have been taken.
    Unknown,
    /// Not a whole frame yet; nothing has been taken.
    NeedMore,
}

/// Why octets are not a frame. Always the peer's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length says more than [`MAX_FRAME`].
    #[error("a frame of {0} octets is longer than any")]
    TooLong(usize),
    /// Not Protocol Buffers.
    #[error("not a frame: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A field has a value that it cannot have.
    #[error("the frame's {0} makes no sense")]
    BadField(&'static str),
}

impl Frame {
    /// The frame with its length in front.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] if a name or a text in it is absurdly long.
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        let envelope = Envelope {
            body: Some(self.to_body()),
        };
        let length = envelope.encoded_len();
        let prefix = u16::try_from(length).map_err(|_| FrameError::TooLong(length))?;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        let mut octets = BytesMut::with_capacity(length.saturating_add(LENGTH_OCTETS));
        octets.put_u16(prefix);
        octets.put(envelope.encode_to_vec().as_slice());
        Ok(octets.freeze())
    }

    /// Takes one frame from the front of `buffer`.
    ///
    /// # Errors
    /// If the octets cannot become a frame; the connection is then of no more use.
    pub fn decode(buffer: &mut BytesMut) -> Result<Decoded, FrameError> {
        let Some(prefix) = buffer.first_chunk::<LENGTH_OCTETS>() else {
            return Ok(Decoded::NeedMore);
        };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        if buffer.len().saturating_sub(LENGTH_OCTETS) < length {
            return Ok(Decoded::NeedMore);
        }
        buffer.advance(LENGTH_OCTETS);
        match Envelope::decode(buffer.split_to(length))?.body {
            Some(body) => Self::from_body(body).map(Decoded::Frame),
            None => Ok(Decoded::Unknown),
        }
    }

    fn to_body(&self) -> Body {
        match self {
            Self::Hello(hello) => Body::Hello(pb::Hello {
                version: hello.version,
                features: hello.features.0,
                instance: hello.instance.0.to_vec(),
                software: hello.software.clone(),
            }),
            Self::Welcome {
                version,
                features,
                seen_as,
            } => Body::Welcome(pb::Welcome {
                version: *version,
                features: features.0,
                seen_as: Some(address(*seen_as)),
            }),
            Self::Ping { sequence } => Body::Ping(pb::Ping {
                sequence: *sequence,
            }),
            Self::Pong { sequence } => Body::Pong(pb::Pong {
                sequence: *sequence,
            }),
            Self::Dial { ticket } => Body::Dial(pb::Dial {
                ticket: ticket.0.to_vec(),
            }),
            Self::Drain { reconnect_after } => Body::Drain(pb::Drain {
                reconnect_after_ms: u32::try_from(reconnect_after.as_millis()).unwrap_or(u32::MAX),
            }),
            Self::WantIds => Body::WantIds(pb::WantIds {}),
            Self::Ids { ids } => Body::Ids(pb::Ids { ids: ids.concat() }),
            Self::Limits {
                bytes_per_second,
                visitors,
            } => Body::Limits(pb::Limits {
                bytes_per_second: bytes_per_second.map_or(0, NonZeroU64::get),
                visitors: *visitors,
            }),
            Self::Publish { ports } => Body::Publish(pb::Publish {
                ports: ports.iter().copied().map(port).collect(),
            }),
            Self::Published { each } => Body::Published(pb::Published {
                each: each
                    .iter()
                    .map(|published| pb::PublishedPort {
                        port: Some(port(published.port)),
                        state: published
                            .state
                            .map_or_else(|number| number, PortState::number),
                    })
                    .collect(),
            }),
            Self::Close { code } => Body::Close(pb::Close {
                code: code.map_or_else(|number| number, CloseCode::number),
            }),
            Self::Open(open) => Body::Open(pb::Open {
                name: open.name.clone(),
                visitor: Some(address(open.visitor)),
                front: Some(address(open.front)),
                datagrams: open.datagrams,
                port: open.port.map_or(0, |port| port.get().into()),
            }),
            Self::Carry { ticket } => Body::Carry(pb::Carry {
                ticket: ticket.0.to_vec(),
            }),
        }
    }

    fn from_body(body: Body) -> Result<Self, FrameError> {
        Ok(match body {
            Body::Hello(hello) => Self::Hello(Hello {
                version: hello.version,
                features: Features(hello.features),
                instance: InstanceId(fixed(&hello.instance, "instance")?),
                software: hello.software,
            }),
            Body::Welcome(welcome) => Self::Welcome {
                version: welcome.version,
                features: Features(welcome.features),
                seen_as: socket_address(welcome.seen_as, "seen_as")?,
            },
            Body::Ping(ping) => Self::Ping {
                sequence: ping.sequence,
            },
            Body::Pong(pong) => Self::Pong {
                sequence: pong.sequence,
            },
            Body::Dial(dial) => Self::Dial {
                ticket: Ticket(fixed(&dial.ticket, "ticket")?),
            },
            Body::Drain(drain) => Self::Drain {
                reconnect_after: Duration::from_millis(drain.reconnect_after_ms.into()),
            },
            Body::WantIds(pb::WantIds {}) => Self::WantIds,
            Body::Ids(pb::Ids { ids }) => {
                let (ids, rest) = ids.as_chunks::<{ roaming::LENGTH }>();
                if !rest.is_empty() {
                    return Err(FrameError::BadField("ids"));
                }
                Self::Ids { ids: ids.to_vec() }
            }
            Body::Limits(limits) => Self::Limits {
                bytes_per_second: NonZeroU64::new(limits.bytes_per_second),
                visitors: limits.visitors,
            },
            Body::Publish(publish) => Self::Publish {
                ports: as_many_as_may_be(&publish.ports)?
                    .map(public_port)
                    .collect::<Result<_, _>>()?,
            },
            Body::Published(published) => Self::Published {
                each: as_many_as_may_be(&published.each)?
                    .map(|one| {
                        let port = one.port.as_ref();
                        Ok(PublishedPort {
                            port: public_port(port.ok_or(FrameError::BadField("port"))?)?,
                            state: PortState::from_number(one.state).ok_or(one.state),
                        })
                    })
                    .collect::<Result<_, FrameError>>()?,
            },
            Body::Close(close) => Self::Close {
                code: CloseCode::from_number(close.code.into()).ok_or(close.code),
            },
            Body::Open(open) => Self::Open(Open {
                name: open.name,
                visitor: socket_address(open.visitor, "visitor")?,
                front: socket_address(open.front, "front")?,
                datagrams: open.datagrams,
                port: match open.port {
                    0 => None,
                    port => Some(port_number(port)?),
                },
            }),
            Body::Carry(carry) => Self::Carry {
                ticket: Ticket(fixed(&carry.ticket, "ticket")?),
            },
        })
    }
}

fn fixed<const N: usize>(octets: &[u8], field: &'static str) -> Result<[u8; N], FrameError> {
    octets.try_into().map_err(|_| FrameError::BadField(field))
}

fn as_many_as_may_be<T>(ports: &[T]) -> Result<impl Iterator<Item = &T>, FrameError> {
    match ports.len() <= MAX_PORTS {
        true => Ok(ports.iter()),
        false => Err(FrameError::BadField("number of ports")),
    }
}

fn port(port: PublicPort) -> pb::Port {
    pb::Port {
        number: port.number.get().into(),
        udp: port.protocol == Protocol::Udp,
    }
}

fn public_port(port: &pb::Port) -> Result<PublicPort, FrameError> {
    Ok(PublicPort {
        protocol: match port.udp {
            true => Protocol::Udp,
            false => Protocol::Tcp,
        },
        number: port_number(port.number)?,
    })
}

fn port_number(number: u32) -> Result<NonZeroU16, FrameError> {
    let number = u16::try_from(number).ok().and_then(NonZeroU16::new);
    number.ok_or(FrameError::BadField("port"))
}

fn address(address: SocketAddr) -> pb::Address {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    pb::Address {
        ip,
        port: address.port().into(),
    }
}

fn socket_address(
    address: Option<pb::Address>,
    field: &'static str,
) -> Result<SocketAddr, FrameError> {
    let pb::Address { ip, port } = address.ok_or(FrameError::BadField(field))?;
    let ip = match (<[u8; 4]>::try_from(&*ip), <[u8; 16]>::try_from(&*ip)) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => IpAddr::from(v6),
        _ => return Err(FrameError::BadField(field)),
    };
    let port = u16::try_from(port).map_err(|_| FrameError::BadField(field))?;
    Ok(SocketAddr::new(ip, port))
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Body {
    #[prost(message, tag = "1")]
    Hello(pb::Hello),
    #[prost(message, tag = "2")]
    Welcome(pb::Welcome),
    #[prost(message, tag = "3")]
    Ping(pb::Ping),
    #[prost(message, tag = "4")]
    Pong(pb::Pong),
    #[prost(message, tag = "5")]
    Dial(pb::Dial),
    #[prost(message, tag = "6")]
    Drain(pb::Drain),
    #[prost(message, tag = "7")]
    Close(pb::Close),
    #[prost(message, tag = "8")]
    Open(pb::Open),
    #[prost(message, tag = "9")]
    Carry(pb::Carry),
    #[prost(message, tag = "10")]
    Limits(pb::Limits),
    #[prost(message, tag = "11")]
    WantIds(pb::WantIds),
    #[prost(message, tag = "12")]
    Ids(pb::Ids),
    #[prost(message, tag = "13")]
    Publish(pb::Publish),
    #[prost(message, tag = "14")]
    Published(pb::Published),
}

/// The messages as they stand on the wire. A field is never renumbered and never reused.
mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Hello {
        #[prost(uint32, tag = "1")]
        pub(super) version: u32,
        #[prost(uint64, tag = "2")]
        pub(super) features: u64,
        #[prost(bytes = "vec", tag = "3")]
        pub(super) instance: Vec<u8>,
        #[prost(string, tag = "4")]
        pub(super) software: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Welcome {
        #[prost(uint32, tag = "1")]
        pub(super) version: u32,
        #[prost(uint64, tag = "2")]
        pub(super) features: u64,
        #[prost(message, optional, tag = "3")]
        pub(super) seen_as: Option<Address>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Ping {
        #[prost(uint64, tag = "1")]
        pub(super) sequence: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Pong {
        #[prost(uint64, tag = "1")]
        pub(super) sequence: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Dial {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) ticket: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Drain {
        #[prost(uint32, tag = "1")]
        pub(super) reconnect_after_ms: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Close {
        #[prost(uint32, tag = "1")]
        pub(super) code: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Open {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "2")]
        pub(super) visitor: Option<Address>,
        #[prost(message, optional, tag = "3")]
        pub(super) front: Option<Address>,
        #[prost(bool, tag = "4")]
        pub(super) datagrams: bool,
        #[prost(uint32, tag = "5")]
        pub(super) port: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Carry {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) ticket: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct WantIds {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Ids {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) ids: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Limits {
        #[prost(uint64, tag = "1")]
        pub(super) bytes_per_second: u64,
        #[prost(uint32, tag = "2")]
        pub(super) visitors: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Publish {
        #[prost(message, repeated, tag = "1")]
        pub(super) ports: Vec<Port>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Published {
        #[prost(message, repeated, tag = "1")]
        pub(super) each: Vec<PublishedPort>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PublishedPort {
        #[prost(message, optional, tag = "1")]
        pub(super) port: Option<Port>,
        #[prost(uint32, tag = "2")]
        pub(super) state: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Port {
        #[prost(uint32, tag = "1")]
        pub(super) number: u32,
        #[prost(bool, tag = "2")]
        pub(super) udp: bool,
    }

    /// 4 or 16 octets and a port.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Address {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) ip: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub(super) port: u32,
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    fn hex(frame: &Frame) -> String {
        HEXLOWER.encode(&frame.encode().unwrap())
    }

    /// Spaces and comments make the snapshots readable; they are not part of them.
    fn plain(snapshot: &str) -> String {
        snapshot
            .lines()
            .filter_map(|line| line.split('#').next())
            .flat_map(str::chars)
            .filter(|c| !c.is_whitespace())
            .collect()
    }

    #[test]
    fn a_hello_on_the_wire() {
        let frame = Frame::Hello(Hello {
            version: 1,
            features: Features::TLS_CARRIER,
            instance: InstanceId([0xab; 16]),
            software: "causeway-agent/0.1".into(),
        });
        let snapshot = "
            002c                                # length
            0a 2a                               # Hello
              08 01                             # version
              10 01                             # features
              1a 10 abababababababababababababababab  # instance
              22 12 63617573657761792d6167656e742f302e31  # software
        ";
        assert_eq!(hex(&frame), plain(snapshot));
    }

    #[test]
    fn an_open_on_the_wire() {
        let frame = Frame::Open(Open {
            name: "a.b".into(),
            visitor: "203.0.113.7:50000".parse().unwrap(),
            front: "[2001:db8::1]:443".parse().unwrap(),
            datagrams: false,
            port: None,
        });
        let snapshot = "
            002a                                # length
            42 28                               # Open
              0a 03 612e62                      # name
              12 0a  0a 04 cb007107  10 d08603  # visitor: ip, port
              1a 15  0a 10 20010db8000000000000000000000001  10 bb03  # front
        ";
        let octets = hex(&frame);
        assert_eq!(octets, plain(snapshot));
    }

    #[test]
    fn an_open_of_a_flow_on_the_wire() {
        let frame = Frame::Open(Open {
            name: "a".into(),
            visitor: "203.0.113.7:1".parse().unwrap(),
            front: "203.0.113.8:443".parse().unwrap(),
            datagrams: true,
            port: None,
        });
        let snapshot = "
            001c                                # length
            42 1a                               # Open
              0a 01 61                          # name
              12 08  0a 04 cb007107  10 01      # visitor: ip, port
              1a 09  0a 04 cb007108  10 bb03    # front
              20 01                             # datagrams
        ";
        assert_eq!(hex(&frame), plain(snapshot));
    }

    #[test]
    fn an_address_mapped_into_ipv6_travels_as_ipv4() {
        let mapped = "[::ffff:203.0.113.7]:1".parse().unwrap();
        let frame = Frame::Open(Open {
            name: "a".into(),
            visitor: mapped,
            front: mapped,
            datagrams: false,
            port: None,
        });
        let mut octets = BytesMut::from(&*frame.encode().unwrap());
        let Decoded::Frame(Frame::Open(open)) = Frame::decode(&mut octets).unwrap() else {
            panic!("not an Open")
        };
        assert_eq!(open.visitor, "203.0.113.7:1".parse().unwrap());
    }

    #[test]
    fn a_frame_of_a_newer_version_is_skipped() {
        let mut octets = BytesMut::from(&[0, 3, 0xfa, 0x01, 0, 0, 1, 0][..]);
        assert_eq!(Frame::decode(&mut octets), Ok(Decoded::Unknown));
        assert_eq!(&octets[..], [0, 1, 0]);
    }

    #[test]
    fn fields_of_a_newer_version_are_skipped() {
        // Ping { sequence: 7, and field 15, a text }
        let mut octets = BytesMut::from(&[0, 9, 0x1a, 7, 0x08, 7, 0x7a, 3, b'n', b'e', b'w'][..]);
        let ping = Frame::Ping { sequence: 7 };
        assert_eq!(Frame::decode(&mut octets), Ok(Decoded::Frame(ping)));
    }

    #[test]
    fn an_unknown_close_code_keeps_its_number() {
        let frame = Frame::Close { code: Err(4711) };
        let mut octets = BytesMut::from(&*frame.encode().unwrap());
        assert_eq!(Frame::decode(&mut octets), Ok(Decoded::Frame(frame)));
    }

    #[test]
    fn what_cannot_be_a_frame_is_refused_at_once() {
        let mut too_long = BytesMut::from(&[0xff, 0xff][..]);
        assert_eq!(
            Frame::decode(&mut too_long),
            Err(FrameError::TooLong(65535))
        );
        let mut short_ticket = BytesMut::from(&[0, 5, 0x2a, 3, 0x0a, 1, 7][..]);
        assert_eq!(
            Frame::decode(&mut short_ticket),
            Err(FrameError::BadField("ticket"))
        );
    }

    #[test]
    fn what_has_come_to_a_public_port_on_the_wire() {
        let frame = Frame::Open(Open {
            name: String::new(),
            visitor: "203.0.113.7:1".parse().unwrap(),
            front: "203.0.113.8:20022".parse().unwrap(),
            datagrams: false,
            port: NonZeroU16::new(20_022),
        });
        let snapshot = "
            001c                                # length
            42 1a                               # Open
              12 08  0a 04 cb007107  10 01      # visitor: ip, port
              1a 0a  0a 04 cb007108  10 b69c01  # front
              28 b69c01                         # port
        ";
        assert_eq!(hex(&frame), plain(snapshot));
    }

    #[test]
    fn public_ports_on_the_wire() {
        let [tcp, udp] = ["20022/tcp", "53/udp"].map(|port| port.parse().unwrap());
        let publish = Frame::Publish {
            ports: vec![tcp, udp],
        };
        let snapshot = "
            000e                                # length
            6a 0c                               # Publish
              0a 04  08 b69c01                  # 20022, tcp
              0a 04  08 35  10 01               # 53, udp
        ";
        assert_eq!(hex(&publish), plain(snapshot));
        let published = Frame::Published {
            each: vec![PublishedPort {
                port: udp,
                state: Ok(PortState::Taken),
            }],
        };
        let snapshot = "
            000c                                # length
            72 0a                               # Published
              0a 08  0a 04  08 35  10 01  10 05 # 53, udp: taken
        ";
        assert_eq!(hex(&published), plain(snapshot));
    }

    #[test]
    fn as_many_ports_fit_as_there_may_be_and_more_are_refused() {
        let port: PublicPort = "65535/udp".parse().unwrap();
        let state = Ok(PortState::NoDatagrams);
        let published = |count| Frame::Published {
            each: vec![PublishedPort { port, state }; count],
        };
        let decoded = |count| {
            let mut octets = BytesMut::from(&*published(count).encode().unwrap());
            Frame::decode(&mut octets)
        };
        assert_eq!(decoded(MAX_PORTS), Ok(Decoded::Frame(published(MAX_PORTS))));
        let too_many = Err(FrameError::BadField("number of ports"));
        assert_eq!(decoded(MAX_PORTS + 1), too_many);
    }

    fn public_port() -> impl Strategy<Value = PublicPort> {
        (1..=u16::MAX, any::<bool>()).prop_map(|(number, udp)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let number = NonZeroU16::new(number).unwrap();
            PublicPort { protocol, number }
        })
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        // Addresses travel in canonical form, so that is what is drawn.
        any::<SocketAddr>().prop_map(|a| SocketAddr::new(a.ip().to_canonical(), a.port()))
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let ticket = any::<[u8; 16]>().prop_map(Ticket);
        prop_oneof![
            (any::<u32>(), any::<u64>(), any::<[u8; 16]>(), "\\PC{0,30}").prop_map(
                |(version, features, instance, software)| Frame::Hello(Hello {
                    version,
                    features: Features(features),
                    instance: InstanceId(instance),
                    software
                })
            ),
            (any::<u32>(), any::<u64>(), address()).prop_map(|(version, features, seen_as)| {
                Frame::Welcome {
                    version,
                    features: Features(features),
                    seen_as,
                }
            }),
            any::<u64>().prop_map(|sequence| Frame::Ping { sequence }),
            any::<u64>().prop_map(|sequence| Frame::Pong { sequence }),
            ticket.clone().prop_map(|ticket| Frame::Dial { ticket }),
            any::<u32>().prop_map(|ms| Frame::Drain {
                reconnect_after: Duration::from_millis(ms.into())
            }),
            (0..CloseCode::ALL.len()).prop_map(|i| Frame::Close {
                code: Ok(CloseCode::ALL[i])
            }),
            (
                "[a-z.]{0,255}",
                address(),
                address(),
                any::<bool>(),
                any::<u16>()
            )
                .prop_map(|(name, visitor, front, datagrams, port)| Frame::Open(
                    Open {
                        name,
                        visitor,
                        front,
                        datagrams,
                        port: NonZeroU16::new(port),
                    }
                )),
            prop::collection::vec(public_port(), 0..=MAX_PORTS)
                .prop_map(|ports| Frame::Publish { ports }),
            prop::collection::vec((public_port(), any::<u32>()), 0..40).prop_map(|each| {
                let each = each.into_iter().map(|(port, number)| PublishedPort {
                    port,
                    state: PortState::from_number(number % 16).ok_or(number % 16),
                });
                Frame::Published {
                    each: each.collect(),
                }
            }),
            ticket.prop_map(|ticket| Frame::Carry { ticket }),
            Just(Frame::WantIds),
            prop::collection::vec(any::<RoamingId>(), 0..=roaming::MOST_AT_ONCE)
                .prop_map(|ids| Frame::Ids { ids }),
            (any::<u64>(), any::<u32>()).prop_map(|(bytes, visitors)| Frame::Limits {
                bytes_per_second: NonZeroU64::new(bytes),
                visitors,
            }),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back_whole_however_they_are_cut(frames in prop::collection::vec(frame(), 1..6), cut in 1..9usize) {
            let mut sent = Vec::new();
            for frame in &frames {
                sent.extend_from_slice(&frame.encode().unwrap());
            }
            let mut buffer = BytesMut::new();
            let mut received = Vec::new();
            for portion in sent.chunks(cut) {
                buffer.extend_from_slice(portion);
                while let Decoded::Frame(frame) = Frame::decode(&mut buffer).unwrap() {
                    received.push(frame);
                }
            }
            prop_assert_eq!(received, frames);
        }
    }
}
