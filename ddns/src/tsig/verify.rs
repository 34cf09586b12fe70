//! Whether a message is its key's, and from now (RFC 8945 section 5.2).

use aws_lc_rs::{constant_time, hmac};

use super::{Algorithm, FUDGE, Secret, Signature, Signed, Signer, Variables};

/// The shortest MAC that is taken, in octets. A token has 160 random bits, and nothing that stands for one should be easier to
/// guess. (RFC 8945 section 5.2.4 leaves it to the server.)
const MIN_MAC: usize = 20;

/// What is wrong with a signature; its number goes into the reply (RFC 8945 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such key or algorithm here.
    BadKey,
    /// It is not this message that was signed, or not with this key.
    BadSig,
    /// The MAC has been cut to fewer octets than are taken here.
    BadTrunc,
    /// It is not from now, or from before what has come already.
    BadTime,
    /// The MAC is longer than the algorithm makes it, or has been cut to so few octets that nobody may take it. The message is
    /// answered with FORMERR, without a signature.
    NoMac,
}

impl Fault {
    /// The code in the TSIG record of the reply.
    pub fn code(self) -> Option<u16> {
        match self {
            Self::BadSig => Some(16),
            Self::BadKey => Some(17),
            Self::BadTime => Some(18),
            Self::BadTrunc => Some(22),
            Self::NoMac => None,
        }
    }

    /// As it is counted.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BadKey => "badkey",
            Self::BadSig => "badsig",
            Self::BadTrunc => "badtrunc",
            Self::BadTime => "badtime",
            Self::NoMac => "formerr",
        }
    }
}

impl Signed<'_> {
    /// What signs the reply if this is the key's, and whether anything else is wrong. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// If it is not the key's.
    pub fn verify(&self, secret: &Secret, now: u64) -> Result<(Signer, Result<(), Fault>), Fault> {
        let signature = &self.signature;
        let algorithm = Algorithm::by_name(&signature.algorithm).ok_or(Fault::BadKey)?;
        let whole = algorithm.mac_len();
        // RFC 8945 section 5.2.2.1, cases 1 and 3.
        if signature.mac.len() > whole || signature.mac.len() < (whole / 2).max(10) {
            return Err(Fault::NoMac);
        }
        let key = algorithm.key(secret);
        let mac = self.digest(&key);
        let is_same = mac
            .as_ref()
            .get(..signature.mac.len())
            .is_some_and(|mac| constant_time::verify_slices_are_equal(mac, signature.mac).is_ok());
        if !is_same {
            return Err(Fault::BadSig);
        }
        Ok((Signer::new(signature, key), signature.check(now)))
    }

    /// The MAC that it should have (RFC 8945 section 4.3): of the message with the id that the signer gave it, and of the record.
    fn digest(&self, key: &hmac::Key) -> hmac::Tag {
        let signature = &self.signature;
        let mut digest = hmac::Context::with_key(key);
        digest.update(&signature.original_id);
        digest.update(self.message.get(2..).unwrap_or_default());
        let variables = Variables {
            key: &signature.key,
            algorithm: &signature.algorithm,
            time_signed: signature.time_signed,
            fudge: signature.fudge,
            error: signature.error,
            other: signature.other,
        };
        variables.put_into(&mut digest);
        digest.sign()
    }
}

impl Signature<'_> {
    /// The time first, then the length (RFC 8945 section 5.2).
    fn check(&self, now: u64) -> Result<(), Fault> {
        if self.time_signed.abs_diff(now) > self.fudge.min(FUDGE).into() {
            return Err(Fault::BadTime);
        }
        if self.mac.len() < MIN_MAC {
            return Err(Fault::BadTrunc);
        }
        Ok(())
    }
}
