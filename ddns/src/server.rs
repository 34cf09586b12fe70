//! The listeners: one port, UDP by threads of their own and TCP on tokio. Both answer by [`respond`].
//!
//! ```text
//!  bind.rs       one port for both
//!  bound.rs      or the sockets of the server before
//!  context.rs    what an answer depends on besides the question and the table
//!  udp.rs        receive a batch, answer in place, send the batch
//!  rate.rs       how many answers a network gets over UDP
//!  signed.rs     signed datagrams, whose replies come later
//!  tcp.rs        the same with lengths in front, and limits on time and number
//!  tls.rs        the handshake before that, on a port of its own
//!  admission.rs  how many TCP connections, in all and from one address
//!  supervise.rs  a failed UDP worker starts again, and is counted
//! ```

pub(crate) mod admission;
pub(crate) mod bind;
pub(crate) mod bound;
pub(crate) mod context;
pub(crate) mod rate;
pub(crate) mod signed;
pub(crate) mod supervise;
pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod udp;

use crate::answer::{Answer, answer};
use crate::cookie::Judged;
use crate::dnssec::{Proved, Signer};
use crate::encode::{ReplyOptions, ZoneVersion, encode};
use crate::protocol::{Rcode, TCP_LIMIT};
use crate::query::{Head, Name, Options, Parsed, Query, Silence, parse};
use crate::rrset::Soa;
use crate::table::Table;

pub use self::context::{Context, Identity, Nsid, NsidError};
pub use self::rate::Limiter;

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
        /// What the client's cookie has shown.
        client: Client,
    },
    /// The client's network has had its share, and should get nothing, or [little](respond_in_short).
    Over,
    /// It is signed, and [`dynamic`](crate::dynamic) is to answer it.
    Signed,
    /// There is none to be sent.
    Silence(Silence),
    /// `out` had no room for it.
    NoRoom,
}

/// What is known of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// It has no cookie.
    Unknown,
    /// It has one, without ours, or with one of ours that is not good any more.
    New,
    /// It is where it says: it has got a cookie of ours there.
    Proven,
}

impl Client {
    pub(crate) const COUNT: usize = 3;
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Unknown, Self::New, Self::Proven];

    fn of(judged: Option<&Judged>) -> Self {
        match judged {
            None => Self::Unknown,
            Some(judged) if judged.is_proven => Self::Proven,
            Some(_) => Self::New,
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unknown => "none",
            Self::New => "new",
            Self::Proven => "good",
        }
    }
}

/// Answers one message: parse → answer → prove → encode. What a network has no share of any more is not proved either. `out` should have [`MAX_REPLY`](crate::encode::MAX_REPLY) octets for
/// TCP, and [`UDP_LIMIT`](crate::protocol::UDP_LIMIT) for UDP.
pub fn respond<'t>(
    table: &'t Table,
    context: &Context<'t>,
    message: &[u8],
    out: &mut [u8],
) -> Response {
    let parsed = parse(message);
    let (head, query, (answer, zone_version)) = match &parsed {
        Parsed::Query(query) => (&query.head, Some(query), answer_from(query, table)),
        Parsed::CookieOnly(head, cookie) => (head, None, (context.confirm(cookie), None)),
        Parsed::Refuse(head, refusal) => (head, None, (Answer::Refusal(*refusal), None)),
        Parsed::Signed => return Response::Signed,
        Parsed::Silence(why) => return Response::Silence(*why),
    };
    let judged = context.judge(head);
    if context.is_over(Client::of(judged.as_ref()), Kind::of(&answer)) {
        return Response::Over;
    }
    let proved = match query {
        Some(query) => prove(query, answer, table, context),
        None => Proved::alone(answer),
    };
    let mut options = ReplyOptions {
        cookie: judged.as_ref().map(|judged| judged.reply),
        zone_version,
        compact: proved.is_compact,
        ..ReplyOptions::default()
    };
    if let Answer::Refusal(refusal) = &proved.answer {
        options.reason = refusal.reason;
    }
    if options_of(head).nsid {
        options.nsid = context.identity.nsid.as_ref().map(Nsid::octets);
    }
    send(head, &proved, &options, judged.as_ref(), context, out)
}

/// With what proves it, if the zone is signed and the client wants that.
fn prove<'t>(
    query: &Query<'_>,
    answer: Answer<'t>,
    table: &'t Table,
    context: &Context<'t>,
) -> Proved<'t> {
    let is_wanted = |signer: &&Signer| query.head.dnssec_ok() || signer.is_asked_for(query.qtype);
    match context.signer.filter(is_wanted) {
        Some(signer) => signer.prove(query, answer, table, context.transport, context.moment),
        None => Proved::alone(answer),
    }
}

/// Answers a message from a network that has had its share, in no more octets than the message has, but for the 16 of a
/// cookie of ours: with that (RFC 7873 section 5.2.3), or over TCP, the client will be heard.
pub fn respond_in_short(context: &Context<'_>, message: &[u8], out: &mut [u8]) -> Response {
    let (head, answer) = match parse(message) {
        Parsed::Query(Query { head, .. }) | Parsed::CookieOnly(head, _) => {
            let answer = match head.cookie() {
                Some(_) => Answer::Refusal(Rcode::BadCookie.into()),
                None => Answer::Elsewhere,
            };
            (head, answer)
        }
        Parsed::Refuse(head, refusal) => (head, Answer::Refusal(refusal)),
        Parsed::Signed => return Response::Signed,
        Parsed::Silence(why) => return Response::Silence(why),
    };
    let judged = context.judge(&head);
    let options = ReplyOptions {
        cookie: judged.as_ref().map(|judged| judged.reply),
        ..ReplyOptions::default()
    };
    let proved = Proved::alone(answer);
    send(&head, &proved, &options, judged.as_ref(), context, out)
}

/// The answer, and the version of the zone if the client wants it and the name is there (RFC 9660 section 3.2).
fn answer_from<'t>(query: &Query<'_>, table: &'t Table) -> (Answer<'t>, Option<ZoneVersion>) {
    if !options_of(&query.head).zone_version {
        return (answer(query, table), None);
    }
    // Before the look-up: what a client is told is never older than the version that it is told.
    let soa = table.soa();
    let answer = answer(query, table);
    let is_ours = !matches!(answer, Answer::Refusal(_));
    (answer, is_ours.then(|| zone_version(&query.name, &soa)))
}

/// The zone's name is the end of the name asked for.
fn zone_version(name: &Name, soa: &Soa<'_>) -> ZoneVersion {
    let wire = name.as_wire();
    let start = wire.len().saturating_sub(soa.apex_len);
    let mut rest = wire.get(start..).unwrap_or_default();
    let mut labels = 0_u8;
    while let Some((&length @ 1.., behind)) = rest.split_first() {
        rest = behind.get(usize::from(length)..).unwrap_or_default();
        labels = labels.saturating_add(1);
    }
    ZoneVersion {
        labels,
        serial: soa.serial,
    }
}

fn options_of(head: &Head<'_>) -> Options {
    head.edns.map_or_else(Options::default, |edns| edns.options)
}

fn send(
    head: &Head<'_>,
    Proved { answer, proof, .. }: &Proved<'_>,
    options: &ReplyOptions<'_>,
    judged: Option<&Judged>,
    context: &Context<'_>,
    out: &mut [u8],
) -> Response {
    let limit = limit(context.transport, head);
    match encode(head, answer, proof.as_ref(), options, limit, out) {
        Some(len) => Response::Reply {
            len,
            kind: Kind::of(answer),
            truncated: out.get(2).is_some_and(|flags| flags & TC != 0),
            client: Client::of(judged),
        },
        None => Response::NoRoom,
    }
}

const TC: u8 = 0x02;

/// The most octets of a reply.
pub(crate) fn limit(transport: Transport, head: &Head<'_>) -> usize {
    match transport {
        Transport::Udp => head.udp_limit(),
        Transport::Tcp | Transport::Dot => TCP_LIMIT,
    }
}

/// How messages come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram each.
    Udp,
    /// With two octets of length in front.
    Tcp,
    /// The same within TLS (RFC 7858).
    Dot,
}

impl Transport {
    pub(crate) const COUNT: usize = 3;
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Udp, Self::Tcp, Self::Dot];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Dot => "dot",
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
    /// With a cookie for the next query.
    BadCookie,
    /// With a fault of ours.
    ServFail,
    /// With a prerequisite of an update: a name should not exist.
    YxDomain,
    /// The same: records should not exist.
    YxRrset,
    /// The same: records should exist.
    NxRrset,
    /// With an update of another's zone, or with a signature that proves nothing.
    NotAuth,
    /// With an update outside its zone.
    NotZone,
}

impl Kind {
    pub(crate) const COUNT: usize = 14;
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::NoError,
        Self::NoData,
        Self::NxDomain,
        Self::FormErr,
        Self::NotImp,
        Self::Refused,
        Self::BadVers,
        Self::BadCookie,
        Self::ServFail,
        Self::YxDomain,
        Self::YxRrset,
        Self::NxRrset,
        Self::NotAuth,
        Self::NotZone,
    ];

    fn of(answer: &Answer<'_>) -> Self {
        match answer {
            Answer::Records(_) | Answer::Soa(_) | Answer::ProofAlone | Answer::Elsewhere => {
                Self::NoError
            }
            Answer::NoData(_) => Self::NoData,
            Answer::NoName(_) => Self::NxDomain,
            Answer::Refusal(refusal) => refusal.rcode.into(),
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
            Self::BadCookie => "badcookie",
            Self::ServFail => "servfail",
            Self::YxDomain => "yxdomain",
            Self::YxRrset => "yxrrset",
            Self::NxRrset => "nxrrset",
            Self::NotAuth => "notauth",
            Self::NotZone => "notzone",
        }
    }
}

impl From<Rcode> for Kind {
    fn from(rcode: Rcode) -> Self {
        match rcode {
            Rcode::NoError => Self::NoError,
            Rcode::NxDomain => Self::NxDomain,
            Rcode::FormErr => Self::FormErr,
            Rcode::NotImp => Self::NotImp,
            Rcode::Refused => Self::Refused,
            Rcode::BadVers => Self::BadVers,
            Rcode::BadCookie => Self::BadCookie,
            Rcode::ServFail => Self::ServFail,
            Rcode::YxDomain => Self::YxDomain,
            Rcode::YxRrset => Self::YxRrset,
            Rcode::NxRrset => Self::NxRrset,
            Rcode::NotAuth => Self::NotAuth,
            Rcode::NotZone => Self::NotZone,
        }
    }
}
