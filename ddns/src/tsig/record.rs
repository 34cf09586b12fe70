//! The TSIG record of a message (RFC 8945 section 4.2).
//!
//! ```text
//!  name: the key   type 250   class ANY   TTL 0   length
//!    algorithm: a name │ time signed 6 │ fudge 2 │ length 2, MAC │ original id 2 │ error 2 │ length 2, other data
//! ```

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use crate::message::{Header, Reader, Record};
use crate::protocol::{CLASS_ANY, HEADER_LEN, Type};

/// A message and its signature.
#[derive(Clone, Debug)]
pub struct Signed<'m> {
    /// The message without its TSIG record, and with what its header said before there was one: one additional record less.
    /// The id is that of the client who sent it here.
    pub message: Vec<u8>,
    /// The record.
    pub signature: Signature<'m>,
}

/// A TSIG record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature<'m> {
    /// The name of the key, on the wire in lower case.
    pub key: Box<[u8]>,
    /// The name of the algorithm, the same.
    pub algorithm: Box<[u8]>,
    /// Seconds since 1970, by the signer's clock.
    pub time_signed: u64,
    /// So many seconds it may differ from ours.
    pub fudge: u16,
    /// What proves the rest.
    pub mac: &'m [u8],
    /// The id that the signer has given the message.
    pub original_id: [u8; 2],
    /// 0 in a request.
    pub error: u16,
    /// Empty in a request.
    pub other: &'m [u8],
}

/// The message cannot be read, or its TSIG record is not one: FORMERR, without a signature (RFC 8945 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Takes the signature off a message; `None` if it has none.
///
/// # Errors
/// If the message cannot be read to its end, or has a TSIG record that is malformed, not the only one or not the last.
pub fn split(message: &[u8]) -> Result<Option<Signed<'_>>, Malformed> {
    let Some(record) = last_record(message)? else {
        return Ok(None);
    };
    let signature = read(&record).ok_or(Malformed)?;
    let mut unsigned = message.get(..record.at()).ok_or(Malformed)?.to_vec();
    let count = unsigned.get_mut(ARCOUNT..HEADER_LEN).ok_or(Malformed)?;
    let additional = Header::read(message).ok_or(Malformed)?.counts[3];
    let before = additional.checked_sub(1).ok_or(Malformed)?;
    count.copy_from_slice(&before.to_be_bytes());
    Ok(Some(Signed {
        message: unsigned,
        signature,
    }))
}

/// Where the header counts the additional records.
pub(super) const ARCOUNT: usize = 10;

/// The TSIG record, if there is one.
fn last_record(message: &[u8]) -> Result<Option<Record<'_>>, Malformed> {
    let [questions, answers, authorities, additionals] =
        Header::read(message).ok_or(Malformed)?.counts;
    let mut reader = Reader::new(message);
    for _ in 0..questions {
        reader.skip_question().ok_or(Malformed)?;
    }
    let records = [answers, authorities, additionals].map(u32::from);
    let mut found = None;
    for _ in 0..records.into_iter().sum() {
        // RFC 8945 section 5.1: it is the only one, and the last record of all.
        if found.is_some() {
            return Err(Malformed);
        }
        let record = reader.record().ok_or(Malformed)?;
        if record.rtype == Type::TSIG {
            found = Some(record);
        }
    }
    if !reader.is_at_end() || (found.is_some() && additionals == 0) {
        return Err(Malformed);
    }
    Ok(found)
}

fn read<'m>(record: &Record<'m>) -> Option<Signature<'m>> {
    // RFC 8945 section 4.2: class "MUST be ANY", TTL "MUST be 0".
    if record.class != CLASS_ANY || record.ttl != 0 {
        return None;
    }
    let mut reader = Reader::of_data(record.data);
    let algorithm = reader.name()?;
    let [t0, t1, t2, t3, t4, t5] = reader.array()?;
    let fudge = reader.u16()?;
    let mac_len = reader.u16()?;
    let mac = reader.take(mac_len.into())?;
    let original_id = reader.array()?;
    let error = reader.u16()?;
    let other_len = reader.u16()?;
    let other = reader.take(other_len.into())?;
    reader.is_at_end().then_some(Signature {
        key: record.owner()?,
        algorithm,
        time_signed: u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5]),
        fudge,
        mac,
        original_id,
        error,
        other,
    })
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
pub(super) mod tests {
    use super::*;

    /// `nas.test SOA`, with these counts behind QDCOUNT and these records.
    fn message(counts: [u8; 3], records: &[&[u8]]) -> Vec<u8> {
        let [answers, authorities, additionals] = counts;
        let mut message = vec![7, 8, 0, 0, 0, 1, 0, answers, 0, authorities, 0, additionals];
        message.extend(b"\x03nas\x04test\0\0\x06\0\x01");
        message.extend(records.concat());
        message
    }

    fn tsig(class: u16, ttl: u8) -> Vec<u8> {
        let mut record = b"\x04HOME\xC0\x0C\0\xFA".to_vec();
        record.extend(class.to_be_bytes());
        record.extend([0, 0, 0, ttl, 0, 33]);
        record.extend(b"\x0BHMAC-sha256\0\0\0\x6A\0\0\x01\x01\x2C\0\x04macs\x09\x09\0\0\0\0");
        record
    }

    const OTHER: &[u8] = b"\0\0\x29\x04\xD0\0\0\0\0\0\0";

    #[test]
    fn the_last_record_is_taken_off() {
        let tsig = tsig(255, 0);
        let whole = message([0, 0, 2], &[OTHER, &tsig]);
        let signed = split(&whole).unwrap().unwrap();
        assert_eq!(signed.message, message([0, 0, 1], &[OTHER]));
        let signature = signed.signature;
        assert_eq!(*signature.key, *b"\x04home\x03nas\x04test\0");
        assert_eq!(*signature.algorithm, *b"\x0Bhmac-sha256\0");
        assert_eq!(signature.time_signed, 0x6A00_0001);
        assert_eq!((signature.fudge, signature.mac), (300, &b"macs"[..]));
        assert_eq!((signature.original_id, signature.error), ([9, 9], 0));
        let plain = message([0, 0, 1], &[OTHER]);
        assert!(split(&plain).unwrap().is_none());
    }

    #[test]
    fn a_signature_at_another_place_or_of_another_form_is_none() {
        let good = tsig(255, 0);
        let mut long = good.clone();
        long[16..18].copy_from_slice(&[0, 34]);
        long.push(0);
        for malformed in [
            message([0, 0, 2], &[&good, OTHER]),
            message([0, 0, 2], &[&good, &good]),
            message([1, 0, 0], &[&good]),
            message([1, 0, 1], &[&good, OTHER]),
            message([0, 0, 1], &[&tsig(1, 0)]),
            message([0, 0, 1], &[&tsig(255, 1)]),
            message([0, 0, 1], &[&long]),
            message([0, 0, 1], &[&good[..20]]),
            message([0, 0, 1], &[&good, b"\0"]),
        ] {
            assert!(matches!(split(&malformed), Err(Malformed)));
        }
    }
}
