//! Signs updates (RFC 8945), as the owner of a device does who has been told its key.

use std::time::SystemTime;

use aws_lc_rs::hmac;
use data_encoding::BASE64;

/// The algorithm's name on the wire.
const ALGORITHM: [u8; 13] = *b"\x0bhmac-sha256\0";
/// Seconds that clocks may be apart.
const FUDGE: [u8; 2] = 300_u16.to_be_bytes();

/// What signs for every name: all have the same secret, each under a key of its own name.
#[derive(Clone)]
pub(crate) struct Signer(hmac::Key);

impl Signer {
    /// Takes a secret as its owner is told it; `None` if that is none.
    pub(crate) fn new(secret: &str) -> Option<Self> {
        let octets = BASE64.decode(secret.as_bytes()).ok()?;
        Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &octets)))
    }

    /// Signs a message without additional records by the key of `name` (on the wire), as of `now`.
    pub(crate) fn sign(&self, message: &mut Vec<u8>, name: &[u8], now: SystemTime) {
        const TSIG_ANY: [u8; 8] = [0, 250, 0, 255, 0, 0, 0, 0];
        const ADDITIONAL_RECORDS: usize = 11;
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs()).to_be_bytes();
        let [_, _, time @ ..] = now;
        let mut digest = hmac::Context::with_key(&self.0);
        digest.update(message);
        digest.update(name);
        let [_, _, any @ ..] = TSIG_ANY;
        // Section 4.3.3: class and TTL, algorithm, time and fudge; no error and nothing else.
        for part in [&any[..], &ALGORITHM, &time, &FUDGE, &[0; 4]] {
            digest.update(part);
        }
        let mac = digest.sign();
        let id: Vec<u8> = message.iter().take(2).copied().collect();
        let data: [&[u8]; 6] = [&ALGORITHM, &time, &FUDGE, &[0, 32], mac.as_ref(), &id];
        let length = data.iter().map(|part| part.len()).sum::<usize>() + 4;
        message.extend(name);
        message.extend(TSIG_ANY);
        message.extend(u16::try_from(length).unwrap_or_default().to_be_bytes());
        message.extend(data.concat());
        message.extend([0; 4]);
        if let Some(count) = message.get_mut(ADDITIONAL_RECORDS) {
            *count = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn our_server_takes_a_message_for_signed() {
        let signer = Signer::new(&BASE64.encode(&[7; 32])).unwrap();
        let mut message = [&[1, 2, 40, 0][..], &[0; 8]].concat();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        signer.sign(&mut message, b"\x01a\0", then);
        let signed = ddns::tsig::split(&message).unwrap().unwrap();
        assert_eq!(*signed.message, [&[1, 2, 40, 0][..], &[0; 8]].concat());
        assert_eq!(signed.signature.time_signed, 1_700_000_000);
        // By Python's hmac module.
        let mac = "894b3efde80e657288f1bf9eaea3a4a9c75d92a52a64ac48295815ecfab72b81";
        assert_eq!(data_encoding::HEXLOWER.encode(signed.signature.mac), mac);
    }
}
