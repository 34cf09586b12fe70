//! DNS cookies (RFC 7873) as all servers make them alike (RFC 9018): with one, a client has shown that it receives what
//! is sent to its address, so that its queries cannot be forged to hit somebody else.
//!
//! ```text
//!  0         8         9        12          16       24
//!  client's  │ version │ zeros   │ timestamp │ hash          hash = SipHash-2-4 of all before it and the address
//!  own 8     │ 1       │         │ seconds   │
//! ```

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod secret;

use std::net::IpAddr;

use siphasher::sip::SipHasher24;

pub use self::secret::{Secret, SecretError};

/// Octets of a client's cookie.
const CLIENT: usize = 8;
/// Octets of a server's cookie of ours (RFC 9018 section 4).
const SERVER: usize = 16;
/// A cookie as a reply has it: the client's and ours.
pub(crate) type Whole = [u8; CLIENT + SERVER];

/// The only way to make one (RFC 9018 section 4.1).
const VERSION: u8 = 1;
/// RFC 9018 section 4.3: "allow cookies within a 1-hour period in the past ..."
const OLDEST: i32 = 3600;
/// "... and a 5-minute period into the future".
const NEWEST: i32 = -300;
/// "... generate a new Server Cookie at least if the received Server Cookie from the client is more than half an hour old".
const RENEWED_AFTER: i32 = 1800;

/// The COOKIE option of a query (RFC 7873 section 4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// The client's part, which every reply repeats.
    pub client: [u8; CLIENT],
    /// What it shows of ours.
    pub server: Shown,
}

/// What a client shows as the server's part of its cookie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It has none yet.
    Nothing,
    /// One that may be ours.
    Perhaps([u8; SERVER]),
    /// One of a length that ours do not have.
    Foreign,
}

impl Cookie {
    /// Reads the octets of an option; `None` if their number is none that a cookie has (RFC 7873 section 5.2.2).
    pub(crate) fn read(octets: &[u8]) -> Option<Self> {
        let (&client, server) = octets.split_first_chunk::<CLIENT>()?;
        let server = match server.len() {
            0 => Shown::Nothing,
            SERVER => Shown::Perhaps(server.try_into().ok()?),
            8..=32 => Shown::Foreign,
            _ => return None,
        };
        Some(Self { client, server })
    }
}

impl std::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookie").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Perhaps(_) => "Perhaps(_)",
            Self::Foreign => "Foreign",
        })
    }
}

/// What cookies are made and known by. Servers that share an address or a name share these as well, and change them in
/// three steps (RFC 9018 section 5): the next one is known everywhere, then made everywhere, then the last one goes.
#[derive(Debug)]
pub struct Secrets {
    made_by: Secret,
    known_too: Option<Secret>,
}

/// What a cookie is worth, and the one to send back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// The client is where the query says.
    pub is_proven: bool,
    /// The client's part and ours.
    pub reply: Whole,
}

impl std::fmt::Debug for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judged")
            .field("is_proven", &self.is_proven)
            .finish_non_exhaustive()
    }
}

impl Secrets {
    /// Cookies are made by the first one; those that were made by the second one are good too.
    pub fn new(made_by: Secret, known_too: Option<Secret>) -> Self {
        Self { made_by, known_too }
    }

    /// Looks at a cookie that has come from `client` at `now`, in seconds since 1970 (modulo 2^32).
    pub fn judge(&self, cookie: &Cookie, client: IpAddr, now: u32) -> Judged {
        // A client has one IPv4 address, by whichever socket we hear of it.
        let client = client.to_canonical();
        let (is_proven, still_good) = match cookie.server {
            Shown::Perhaps(shown) => self.check(cookie.client, shown, client, now),
            Shown::Nothing | Shown::Foreign => (false, None),
        };
        let server = still_good.unwrap_or_else(|| {
            let [t0, t1, t2, t3] = now.to_be_bytes();
            let start = [VERSION, 0, 0, 0, t0, t1, t2, t3];
            joined(start, hash(&self.made_by, cookie.client, start, client))
        });
        Judged {
            is_proven,
            reply: joined(cookie.client, server),
        }
    }

    /// Whether `shown` is ours, and it again if there is no reason yet for a new one.
    fn check(
        &self,
        cookie: [u8; CLIENT],
        shown: [u8; SERVER],
        client: IpAddr,
        now: u32,
    ) -> (bool, Option<[u8; SERVER]>) {
        let [version, r0, r1, r2, t0, t1, t2, t3, hashed @ ..] = shown;
        // RFC 9018 section 4.3: time is compared as serial numbers are (RFC 1982), so that 2106 passes unnoticed.
        let age = now
            .wrapping_sub(u32::from_be_bytes([t0, t1, t2, t3]))
            .cast_signed();
        if version != VERSION || !(NEWEST..=OLDEST).contains(&age) {
            return (false, None);
        }
        // Section 4.2: what is reserved is hashed as it comes.
        let start = [version, r0, r1, r2, t0, t1, t2, t3];
        let hashed = u64::from_be_bytes(hashed);
        let is_by = |secret| u64::from_be_bytes(hash(secret, cookie, start, client)) == hashed;
        if is_by(&self.made_by) {
            (true, (age <= RENEWED_AFTER).then_some(shown))
        } else {
            (self.known_too.as_ref().is_some_and(is_by), None)
        }
    }
}

/// RFC 9018 section 4.4.
fn hash(secret: &Secret, cookie: [u8; CLIENT], start: [u8; 8], client: IpAddr) -> [u8; 8] {
    let hasher = SipHasher24::new_with_key(secret.reveal());
    let before: [u8; 16] = joined(cookie, start);
    let hash = match client {
        IpAddr::V4(v4) => hasher.hash(&joined::<16, 4, 20>(before, v4.octets())),
        IpAddr::V6(v6) => hasher.hash(&joined::<16, 16, 32>(before, v6.octets())),
    };
    hash.to_le_bytes()
}

fn joined<const A: usize, const B: usize, const N: usize>(a: [u8; A], b: [u8; B]) -> [u8; N] {
    const { assert!(A + B == N) };
    let mut joined = [0; N];
    let octets = a.into_iter().chain(b);
    for (place, octet) in joined.iter_mut().zip(octets) {
        *place = octet;
    }
    joined
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use data_encoding::HEXLOWER_PERMISSIVE as HEX;

    use super::*;

    const OLD: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    fn secret(text: &str) -> Secret {
        Secret::parse(text.as_bytes()).unwrap()
    }

    fn judge(secrets: &Secrets, cookie: &str, client: &str, now: u32) -> (bool, String) {
        let cookie = Cookie::read(&HEX.decode(cookie.as_bytes()).unwrap()).unwrap();
        let judged = secrets.judge(&cookie, client.parse().unwrap(), now);
        (judged.is_proven, HEX.encode(&judged.reply))
    }

    const FIRST: &str = "2464c4abcf10c957010000005cf79f111f8130c3eee29480";
    const FIRST_AT: u32 = 1_559_731_985;
    const CLIENT_1: &str = "198.51.100.100";

    /// The examples of RFC 9018 appendix A.
    #[test]
    fn the_rfcs_cookies_are_ours() {
        let one = Secrets::new(secret(OLD), None);
        // A.1: a client's first query.
        assert_eq!(
            judge(&one, "2464c4abcf10c957", CLIENT_1, FIRST_AT),
            (false, FIRST.into())
        );
        // A.2: forty minutes later it gets a new one.
        assert_eq!(
            judge(&one, FIRST, CLIENT_1, 1_559_734_385),
            (
                true,
                "2464c4abcf10c957010000005cf7a871d4a564a1442aca77".into()
            )
        );
        // A.3: one with something in the reserved octets, and two hours old.
        let (shown, client) = (
            "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5",
            "203.0.113.203",
        );
        assert_eq!(
            judge(&one, shown, client, 1_559_734_700),
            (
                false,
                "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e".into()
            )
        );
        assert!(judge(&one, shown, client, 0x5CF7_8F71 + 3600).0);
        // A.4: an IPv6 client, and a secret that has been changed meanwhile.
        let changed = Secrets::new(
            secret("445536bcd2513298075a5d379663c962"),
            Some(secret("dd3bdf9344b678b185a6f5cb60fca715")),
        );
        assert_eq!(
            judge(
                &changed,
                "22681ab97d52c298010000005cf7c57926556bd0934c72f8",
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                1_559_741_961
            ),
            (
                true,
                "22681ab97d52c298010000005cf7c609a6bb79d16625507a".into()
            )
        );
    }

    #[test]
    fn a_cookie_is_good_for_an_hour_and_renewed_after_half_of_it() {
        let secrets = Secrets::new(secret(OLD), None);
        for (age, is_proven, is_kept) in [
            (-301, false, false),
            (-300, true, true),
            (0, true, true),
            (1800, true, true),
            (1801, true, false),
            (3600, true, false),
            (3601, false, false),
        ] {
            let now = FIRST_AT.wrapping_add_signed(age);
            let (proven, reply) = judge(&secrets, FIRST, CLIENT_1, now);
            assert_eq!((proven, reply == FIRST), (is_proven, is_kept), "{age}");
        }
    }

    #[test]
    fn what_the_cookie_was_not_made_of_does_not_pass() {
        let secrets = Secrets::new(secret(OLD), None);
        assert!(judge(&secrets, FIRST, "::ffff:198.51.100.100", FIRST_AT).0);
        assert!(!judge(&secrets, FIRST, "198.51.100.101", FIRST_AT).0);
        let whole = HEX.decode(FIRST.as_bytes()).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            let changed = HEX.encode(&changed);
            assert!(!judge(&secrets, &changed, CLIENT_1, FIRST_AT).0, "{at}");
        }
        for foreign in [
            &FIRST[..32],
            &format!("{FIRST}00"),
            &format!("{FIRST:0<80}"),
        ] {
            let (proven, reply) = judge(&secrets, foreign, CLIENT_1, FIRST_AT);
            assert_eq!((proven, &*reply), (false, FIRST));
        }
        let another = Secrets::new(secret(&OLD.replace('e', "f")), None);
        assert!(!judge(&another, FIRST, CLIENT_1, FIRST_AT).0);
    }

    #[test]
    fn the_clock_may_pass_its_end() {
        let secrets = Secrets::new(secret(OLD), None);
        let (_, before) = judge(&secrets, "2464c4abcf10c957", CLIENT_1, u32::MAX - 9);
        assert_eq!(judge(&secrets, &before, CLIENT_1, 10), (true, before));
    }
}
