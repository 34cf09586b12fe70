//! The DNS's own words and numbers.

/// Octets of a message header (RFC 1035 section 4.1.1).
pub const HEADER_LEN: usize = 12;
/// The most octets a name has on the wire, its last zero included (RFC 1035 section 3.1).
pub const MAX_NAME: usize = 255;
/// The most octets a label has (RFC 1035 section 3.1).
pub const MAX_LABEL: usize = 63;
/// The internet's class, the only one served.
pub const CLASS_IN: u16 = 1;
/// No class at all; what it means in an UPDATE, RFC 2136 sections 2.4 and 2.5 say.
pub const CLASS_NONE: u16 = 254;
/// Any class; the same, and the class of a TSIG record (RFC 8945 section 4.2).
pub const CLASS_ANY: u16 = 255;
/// The operation of a query (RFC 1035 section 4.1.1).
pub const QUERY: u8 = 0;
/// The operation of an update (RFC 2136 section 2.2).
pub const UPDATE: u8 = 5;
/// What a client without EDNS can take over UDP (RFC 1035 section 4.2.1).
pub const PLAIN_UDP_LIMIT: usize = 512;
/// The most we send over UDP, and the most we say that we take: no path in use fragments it (DNS flag day 2020).
pub const UDP_LIMIT: usize = 1232;
/// The most that fits behind the two octets of length over TCP (RFC 1035 section 4.2.2).
pub const TCP_LIMIT: usize = 65_535;
/// A compression pointer to the name in the question, which always begins right after the header.
pub const POINTER_TO_QUESTION: [u8; 2] = [0xC0, 12];

/// A type of record or of question (RFC 1035 section 3.2.2; RFC 6895).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Type(pub u16);

impl Type {
    /// An IPv4 address.
    pub const A: Self = Self(1);
    /// A name server of the zone.
    pub const NS: Self = Self(2);
    /// The zone's own record.
    pub const SOA: Self = Self(6);
    /// Another name.
    pub const PTR: Self = Self(12);
    /// Where mail goes.
    pub const MX: Self = Self(15);
    /// Text.
    pub const TXT: Self = Self(16);
    /// An IPv6 address (RFC 3596).
    pub const AAAA: Self = Self(28);
    /// Where a service is (RFC 2782).
    pub const SRV: Self = Self(33);
    /// EDNS (RFC 6891); no type of a question.
    pub const OPT: Self = Self(41);
    /// The digest of a key of the zone, at its parent (RFC 4034).
    pub const DS: Self = Self(43);
    /// The fingerprint of an SSH server's key (RFC 4255).
    pub const SSHFP: Self = Self(44);
    /// A signature of a set of records (RFC 4034).
    pub const RRSIG: Self = Self(46);
    /// What there is at a name, and which name is next (RFC 4034).
    pub const NSEC: Self = Self(47);
    /// A key of the zone (RFC 4034).
    pub const DNSKEY: Self = Self(48);
    /// What there is at a name whose hash this is, and which hash is next (RFC 5155).
    pub const NSEC3: Self = Self(50);
    /// How names are hashed for that (RFC 5155).
    pub const NSEC3PARAM: Self = Self(51);
    /// The certificate of a TLS server (RFC 6698).
    pub const TLSA: Self = Self(52);
    /// The DS that the parent should have (RFC 7344).
    pub const CDS: Self = Self(59);
    /// The key whose DS the parent should have (RFC 7344).
    pub const CDNSKEY: Self = Self(60);
    /// How a service is reached (RFC 9460).
    pub const SVCB: Self = Self(64);
    /// How a web server is reached (RFC 9460).
    pub const HTTPS: Self = Self(65);
    /// There is no such name (RFC 9824); only in a bit map, and no type of a question.
    pub const NXNAME: Self = Self(128);
    /// A signature of the whole message (RFC 8945); no type of a question.
    pub const TSIG: Self = Self(250);
    /// Zone transfer of what changed (RFC 1995).
    pub const IXFR: Self = Self(251);
    /// Zone transfer (RFC 5936).
    pub const AXFR: Self = Self(252);
    /// "Any type you like" (RFC 8482).
    pub const ANY: Self = Self(255);
    /// Which CA may issue certificates (RFC 8659).
    pub const CAA: Self = Self(257);

    /// Whether it says something of messages or questions, so that no zone has such records (RFC 6895 section 3.1).
    pub fn is_meta(self) -> bool {
        self == Self::OPT || (128..=255).contains(&self.0)
    }
}

/// An option of EDNS (RFC 6891 section 6.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OptionCode(pub u16);

impl OptionCode {
    /// Which server this is (RFC 5001).
    pub const NSID: Self = Self(3);
    /// What shows that a client is where it says (RFC 7873).
    pub const COOKIE: Self = Self(10);
    /// Why a query ended as it did (RFC 8914).
    pub const EDE: Self = Self(15);
    /// Which version of the zone has answered (RFC 9660).
    pub const ZONEVERSION: Self = Self(19);
}

/// How a query or an update ended (RFC 1035 section 4.1.1; RFC 2136 section 2.2; RFC 6891 section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rcode {
    /// The name exists; the record may not.
    NoError,
    /// The message cannot be read.
    FormErr,
    /// A fault of ours.
    ServFail,
    /// The name does not exist.
    NxDomain,
    /// The operation is not known here.
    NotImp,
    /// Not ours to answer.
    Refused,
    /// A name exists that should not.
    YxDomain,
    /// Records exist that should not.
    YxRrset,
    /// Records do not exist that should.
    NxRrset,
    /// Not our zone, or not who it says (RFC 8945 section 5.2).
    NotAuth,
    /// A name is not in the zone.
    NotZone,
    /// A version of EDNS that is not known here.
    BadVers,
    /// A server cookie is missing or not ours (RFC 7873 section 8).
    BadCookie,
}

impl Rcode {
    /// The four bits in the header.
    pub fn low_bits(self) -> u8 {
        match self {
            Self::NoError | Self::BadVers => 0,
            Self::FormErr => 1,
            Self::ServFail => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
            Self::YxDomain => 6,
            Self::YxRrset | Self::BadCookie => 7,
            Self::NxRrset => 8,
            Self::NotAuth => 9,
            Self::NotZone => 10,
        }
    }

    /// The eight bits above them, in the OPT record (RFC 6891 section 6.1.3).
    pub fn high_bits(self) -> u8 {
        match self {
            Self::BadVers | Self::BadCookie => 1,
            Self::NoError
            | Self::FormErr
            | Self::ServFail
            | Self::NxDomain
            | Self::NotImp
            | Self::Refused
            | Self::YxDomain
            | Self::YxRrset
            | Self::NxRrset
            | Self::NotAuth
            | Self::NotZone => 0,
        }
    }
}

/// Why a query was refused, in a word for whoever looks into it (RFC 8914 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ede {
    /// By policy.
    Prohibited,
    /// The name is in no zone of ours.
    NotAuthoritative,
    /// What is asked for exists nowhere here.
    NotSupported,
    /// No question asks for this type.
    InvalidQueryType,
    /// None of the other reasons: here, that too much has been signed in this second.
    Other,
}

impl Ede {
    /// Its number (RFC 8914 section 5.2).
    pub fn code(self) -> u16 {
        match self {
            Self::Prohibited => 18,
            Self::NotAuthoritative => 20,
            Self::NotSupported => 21,
            Self::InvalidQueryType => 30,
            Self::Other => 0,
        }
    }
}

/// A code in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub rcode: Rcode,
    /// Why, where the code leaves that open.
    pub reason: Option<Ede>,
}

impl Refusal {
    pub(crate) fn because(rcode: Rcode, reason: Ede) -> Self {
        Self {
            rcode,
            reason: Some(reason),
        }
    }
}

impl From<Rcode> for Refusal {
    fn from(rcode: Rcode) -> Self {
        Self {
            rcode,
            reason: None,
        }
    }
}
