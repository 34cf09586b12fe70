//! The listeners: one port, UDP by threads of their own and TCP on tokio. Both answer by [`respond`].
//!
//! ```text
//!  bind.rs       one port for both
//!  udp.rs        receive a batch, answer in place, send the batch
//!  tcp.rs        the same with lengths in front, and limits on time and number
//!  admission.rs  how many TCP connections, in all and from one address
//!  supervise.rs  a failed UDP worker starts again, and is counted
//! ```

pub(crate) mod admission;
pub(crate) mod bind;
pub(crate) mod supervise;
pub(crate) mod tcp;
pub(crate) mod udp;

use crate::answer::{Answer, answer};
use crate::encode::encode;
use crate::protocol::{Rcode, TCP_LIMIT};
use crate::query::{Head, Parsed, Silence, parse};
use crate::table::Table;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The reply has been written.
    Reply {
        /// Its octets.
        len: usize,
        /// How the query ended.
        kind: Kind,
        /// Records were left out for want of room.
        truncated: bool,
    },
    /// There is none to be sent.
    Silence(Silence),
    /// `out` had no room for it.
    NoRoom,
}

/// Answers one message: parse → answer → encode. `out` should have [`MAX_REPLY`](crate::encode::MAX_REPLY) octets for
/// TCP, and [`UDP_LIMIT`](crate::protocol::UDP_LIMIT) for UDP.
pub fn respond(table: &Table, transport: Transport, message: &[u8], out: &mut [u8]) -> Response {
    let (head, answer) = match parse(message) {
        Parsed::Query(query) => (query.head, answer(&query, table)),
        Parsed::Refuse(head, rcode) => (head, Answer::Refusal(rcode)),
        Parsed::Silence(why) => return Response::Silence(why),
    };
    match encode(&head, &answer, limit(transport, &head), out) {
        Some(len) => Response::Reply {
            len,
            kind: Kind::of(&answer),
            truncated: out.get(2).is_some_and(|flags| flags & TC != 0),
        },
        None => Response::NoRoom,
    }
}

const TC: u8 = 0x02;

fn limit(transport: Transport, head: &Head<'_>) -> usize {
    match transport {
        Transport::Udp => head.udp_limit(),
        Transport::Tcp => TCP_LIMIT,
    }
}

/// How messages come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram each.
    Udp,
    /// With two octets of length in front.
    Tcp,
}

impl Transport {
    pub(crate) const COUNT: usize = 2;
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Udp, Self::Tcp];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// How a query ended, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With records.
    NoError,
    /// With a name that has no such record.
    NoData,
    /// With a name that does not exist.
    NxDomain,
    /// With a message that could not be read.
    FormErr,
    /// With an operation that is not known here.
    NotImp,
    /// With a question that is not ours to answer.
    Refused,
    /// With a version of EDNS that is not known here.
    BadVers,
}

impl Kind {
    pub(crate) const COUNT: usize = 7;
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::NoError,
        Self::NoData,
        Self::NxDomain,
        Self::FormErr,
        Self::NotImp,
        Self::Refused,
        Self::BadVers,
    ];

    fn of(answer: &Answer<'_>) -> Self {
        match answer {
            Answer::Records(_) | Answer::Soa(_) => Self::NoError,
            Answer::NoData(_) => Self::NoData,
            Answer::NoName(_) => Self::NxDomain,
            Answer::Refusal(rcode) => match rcode {
                Rcode::NoError => Self::NoError,
                Rcode::NxDomain => Self::NxDomain,
                Rcode::FormErr => Self::FormErr,
                Rcode::NotImp => Self::NotImp,
                Rcode::Refused => Self::Refused,
                Rcode::BadVers => Self::BadVers,
            },
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NoError => "noerror",
            Self::NoData => "nodata",
            Self::NxDomain => "nxdomain",
            Self::FormErr => "formerr",
            Self::NotImp => "notimp",
            Self::Refused => "refused",
            Self::BadVers => "badvers",
        }
    }
}
