//! How an app asks an agent for one of its services, inside TLS with [`ALPN_CONNECT`](crate::ALPN_CONNECT).
//!
//! ```text
//!   app                                              agent
//!     │── version 1 │ length 1 │ name of the service ──►│  within ten seconds
//!     │◄─ answer 1 ─────────────────────────────────────│
//!     │◄═ bytes of the service ════════════════════════►│  if it was granted
//! ```
//!
//! The device's own service has no name. A service that is not there and one that is not for apps are refused alike. The app may
//! send what is for the service without waiting for the answer.

/// The label below a device's name at which its agent answers apps; no service has it.
pub const APPS: &str = "connect";

/// The only version there is.
const VERSION: u8 = 1;

/// The longest name of a service, in octets: that of a DNS label (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 63;

/// The longest request, in octets.
pub const MAX_REQUEST: usize = 2 + MAX_NAME;

/// What an app asks for, as [`read`] finds it at the beginning of what has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The service's name; empty for the device's own.
    pub service: &'a str,
    /// How many octets the request has. Those behind it are for the service.
    pub length: usize,
}

/// The octets are no request, whatever else comes. The app's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARequest {
    /// Of a version that is not known here.
    #[error("of another version")]
    Version,
    /// No service can have that name.
    #[error("no name of a service")]
    Name,
}

/// Reads the request that begins `octets`; `None` if more must come.
///
/// # Errors
/// As soon as the octets cannot become a request any more.
pub fn read(octets: &[u8]) -> Result<Option<Request<'_>>, NotARequest> {
    let Some((&version, rest)) = octets.split_first() else {
        return Ok(None);
    };
    if version != VERSION {
        return Err(NotARequest::Version);
    }
    let Some((&length, rest)) = rest.split_first() else {
        return Ok(None);
    };
    let length = usize::from(length);
    if length > MAX_NAME {
        return Err(NotARequest::Name);
    }
    let Some((name, _)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let service = str::from_utf8(name).map_err(|_| NotARequest::Name)?;
    if !is_name(service) {
        return Err(NotARequest::Name);
    }
    Ok(Some(Request {
        service,
        length: length.saturating_add(2),
    }))
}

/// The request for `service`; empty for the device's own.
///
/// # Errors
/// [`NotARequest::Name`], if no service can have that name.
pub fn write(service: &str) -> Result<Vec<u8>, NotARequest> {
    if service.len() > MAX_NAME || !is_name(service) {
        return Err(NotARequest::Name);
    }
    let length = u8::try_from(service.len()).map_err(|_| NotARequest::Name)?;
    let mut request = vec![VERSION, length];
    request.extend_from_slice(service.as_bytes());
    Ok(request)
}

/// Whether it could be that of a service: what a DNS label may hold, and no capital letter.
fn is_name(name: &str) -> bool {
    let fits = |octet: u8| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    name.bytes().all(fits)
}

/// What an agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What follows, both ways, is the service's.
    Granted,
    /// There is no such service, or none for apps. Nothing follows.
    Refused,
    /// The service is there for apps, and cannot be reached. Nothing follows.
    Unreachable,
}

impl Answer {
    /// As it is sent.
    pub fn number(self) -> u8 {
        match self {
            Self::Granted => 0,
            Self::Refused => 1,
            Self::Unreachable => 2,
        }
    }

    /// What `number` says; one that is not known says no.
    pub fn of_number(number: u8) -> Self {
        match number {
            0 => Self::Granted,
            2 => Self::Unreachable,
            _ => Self::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_in_any_portions_and_no_octet_of_the_service_with_it() {
        for service in ["", "ssh", "a-b_9", &"x".repeat(MAX_NAME)] {
            let mut octets = write(service).unwrap();
            let length = octets.len();
            octets.extend_from_slice(b"SSH-2.0");
            for end in 0..length {
                assert_eq!(read(&octets[..end]), Ok(None));
            }
            assert_eq!(read(&octets), Ok(Some(Request { service, length })));
        }
    }

    #[test]
    fn what_cannot_become_one_is_known_at_once() {
        assert_eq!(read(&[2]), Err(NotARequest::Version));
        assert_eq!(read(&[1, 64]), Err(NotARequest::Name));
        for name in [
            &b"SSH"[..],
            b"a.b",
            b"a b",
            "\u{e9}".as_bytes(),
            b"\xff",
            b"\0",
        ] {
            let mut octets = vec![1, name.len() as u8];
            octets.extend_from_slice(name);
            assert_eq!(read(&octets), Err(NotARequest::Name), "{name:?}");
        }
        for name in ["SSH", "a.b", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(write(name), Err(NotARequest::Name));
        }
    }

    #[test]
    fn answers_come_back_and_unknown_ones_say_no() {
        for answer in [Answer::Granted, Answer::Refused, Answer::Unreachable] {
            assert_eq!(Answer::of_number(answer.number()), answer);
        }
        assert_eq!(Answer::of_number(77), Answer::Refused);
    }

    proptest! {
        #[test]
        fn any_octets_are_read(octets in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(Some(request)) = read(&octets) {
                prop_assert_eq!(write(request.service).unwrap(), &octets[..request.length]);
            }
        }
    }
}
