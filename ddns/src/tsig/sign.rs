//! The signature of a reply (RFC 8945 section 5.3).

use aws_lc_rs::hmac;

use super::record::ARCOUNT;
use super::{Algorithm, FUDGE, Fault, Secret, Signature, Variables, len, u48};
use crate::protocol::{CLASS_ANY, Type};

/// Signs the reply to one message.
#[derive(Debug)]
pub struct Signer {
    echo: Echo,
    /// The request's MAC, at the length at which it came; then that of the message before.
    mac: Box<[u8]>,
    key: hmac::Key,
    /// Nothing has been signed yet.
    is_first: bool,
}

/// What a reply's record repeats of the request's.
#[derive(Clone, Debug)]
struct Echo {
    key: Box<[u8]>,
    algorithm: Box<[u8]>,
    time_signed: u64,
    fudge: u16,
}

impl Signer {
    pub(super) fn new(request: &Signature<'_>, key: hmac::Key) -> Self {
        Self {
            echo: Echo::of(request),
            mac: request.mac.into(),
            key,
            is_first: true,
        }
    }

    /// Octets that [`sign`](Self::sign) adds at most.
    pub fn room(&self) -> usize {
        const FIXED: usize = 10 + 16;
        const MAX_MAC: usize = 64;
        const MAX_OTHER: usize = 6;
        self.echo.key.len() + self.echo.algorithm.len() + FIXED + MAX_MAC + MAX_OTHER
    }

    /// Adds the record to `reply`, a whole message, at the time `now` in seconds since 1970. `fault` is what is wrong with the
    /// request.
    pub fn sign(&self, reply: &mut Vec<u8>, fault: Option<Fault>, now: u64) {
        self.sign_first(reply, fault, now);
    }

    /// The same for one of several messages that are the reply together (RFC 8945 section 5.3.1); the next is signed as what follows
    /// this one.
    pub fn sign_one_of_many(&mut self, reply: &mut Vec<u8>, now: u64) {
        let mac = match self.is_first {
            true => self.sign_first(reply, None, now),
            false => self.sign_following(reply, now),
        };
        self.is_first = false;
        self.mac = mac;
    }

    fn sign_following(&self, reply: &mut Vec<u8>, now: u64) -> Box<[u8]> {
        let variables = Variables {
            key: &self.echo.key,
            algorithm: &self.echo.algorithm,
            time_signed: now,
            fudge: FUDGE,
            error: 0,
            other: &[],
        };
        let mut digest = hmac::Context::with_key(&self.key);
        digest.update(&len(&self.mac));
        digest.update(&self.mac);
        digest.update(reply);
        digest.update(&u48(now));
        digest.update(&FUDGE.to_be_bytes());
        let mac = digest.sign();
        append(reply, &variables, mac.as_ref());
        mac.as_ref().into()
    }

    fn sign_first(&self, reply: &mut Vec<u8>, fault: Option<Fault>, now: u64) -> Box<[u8]> {
        // RFC 8945 section 5.2.3: the client's time and fudge, so that the client does not find them wrong again, and ours
        // beside them.
        let (time_signed, fudge, other) = match fault {
            Some(Fault::BadTime) => (self.echo.time_signed, self.echo.fudge, &u48(now)[..]),
            _ => (now, FUDGE, &[][..]),
        };
        let variables = Variables {
            key: &self.echo.key,
            algorithm: &self.echo.algorithm,
            time_signed,
            fudge,
            error: fault.and_then(Fault::code).unwrap_or(0),
            other,
        };
        let mut digest = hmac::Context::with_key(&self.key);
        digest.update(&len(&self.mac));
        digest.update(&self.mac);
        digest.update(reply);
        variables.put_into(&mut digest);
        let mac = digest.sign();
        append(reply, &variables, mac.as_ref());
        mac.as_ref().into()
    }
}

/// Signs a request of ours by a key (RFC 8945 section 5.1), named on the wire in lower case.
pub(crate) fn sign_request(
    request: &mut Vec<u8>,
    name: &[u8],
    algorithm: Algorithm,
    secret: &Secret,
    now: u64,
) {
    let variables = Variables {
        key: name,
        algorithm: algorithm.name(),
        time_signed: now,
        fudge: FUDGE,
        error: 0,
        other: &[],
    };
    let mut digest = hmac::Context::with_key(&algorithm.key(secret));
    digest.update(request);
    variables.put_into(&mut digest);
    append(request, &variables, digest.sign().as_ref());
}

/// Adds a record that proves nothing to `reply`, but tells what is wrong with `request` (RFC 8945 section 5.3.2). Nothing is
/// added for a fault that has no code.
pub fn tell(reply: &mut Vec<u8>, request: &Signature<'_>, fault: Fault, now: u64) {
    let Some(error) = fault.code() else {
        return;
    };
    let variables = Variables {
        key: &request.key,
        algorithm: &request.algorithm,
        time_signed: now,
        fudge: FUDGE,
        error,
        other: &[],
    };
    append(reply, &variables, &[]);
}

impl Echo {
    fn of(request: &Signature<'_>) -> Self {
        Self {
            key: request.key.clone(),
            algorithm: request.algorithm.clone(),
            time_signed: request.time_signed,
            fudge: request.fudge,
        }
    }
}

fn append(reply: &mut Vec<u8>, variables: &Variables<'_>, mac: &[u8]) {
    let id: [u8; 2] = reply.first_chunk().copied().unwrap_or_default();
    let data = [
        variables.algorithm,
        &u48(variables.time_signed),
        &variables.fudge.to_be_bytes(),
        &len(mac),
        mac,
        &id,
        &variables.error.to_be_bytes(),
        &len(variables.other),
        variables.other,
    ]
    .concat();
    if let Some(count) = reply
        .get_mut(ARCOUNT..)
        .and_then(|rest| rest.first_chunk_mut())
    {
        *count = u16::from_be_bytes(*count).saturating_add(1).to_be_bytes();
    }
    reply.extend_from_slice(variables.key);
    reply.extend(Type::TSIG.0.to_be_bytes());
    reply.extend(CLASS_ANY.to_be_bytes());
    reply.extend([0; 4]);
    reply.extend(len(&data));
    reply.extend(data);
}
