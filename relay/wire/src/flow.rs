//! A visitor's UDP datagrams on their way through a tunnel: as QUIC DATAGRAM frames (RFC 9221), each with the number of the flow
//! in front.
//!
//! ```text
//!   DATAGRAM frame   number varint │ one datagram             the number of the flow's stream: its id, divided by four
//!   on the stream    length 2 │ one datagram │ length 2 …     behind Open: what came first, which shall not get lost here
//! ```

use bytes::{Buf as _, BufMut, Bytes, BytesMut};

use crate::cursor::Cursor;

/// Octets of the longest number.
pub const MAX_NUMBER: usize = 8;

/// Octets of the length in front of a datagram on the stream.
pub const LENGTH_OCTETS: usize = 2;

/// What a flow must be able to carry in one datagram, in octets: RFC 9000 section 14.1, without which no QUIC connection begins.
pub const LEAST_ROOM: usize = 1200;

/// Writes a flow's number (RFC 9000 section 16). Numbers of streams are below 2⁶⁰.
pub fn put_number(number: u64, octets: &mut impl BufMut) {
    match number {
        0..0x40 => octets.put_u8(number as u8),
        0x40..0x4000 => octets.put_u16(number as u16 | 0x4000),
        0x4000..0x4000_0000 => octets.put_u32(number as u32 | 0x8000_0000),
        _ => octets.put_u64(number | 0xc000_0000_0000_0000),
    }
}

/// Takes the number from the front of a DATAGRAM frame's octets, and leaves the datagram; `None` if there is none.
pub fn take_number(octets: &mut Bytes) -> Option<u64> {
    let mut cursor = Cursor(octets);
    let number = cursor.varint()?;
    let taken = octets.len().checked_sub(cursor.0.len())?;
    octets.advance(taken);
    Some(number)
}

/// Writes a datagram as it stands on the stream. One that is longer than any is left out.
pub fn put_on_stream(datagram: &[u8], octets: &mut impl BufMut) {
    if let Ok(length) = u16::try_from(datagram.len()) {
        octets.put_u16(length);
        octets.put_slice(datagram);
    }
}

/// Takes a datagram from the front of what has come on the stream; `None` if it is not whole yet.
pub fn take_from_stream(octets: &mut BytesMut) -> Option<Bytes> {
    let length = usize::from(u16::from_be_bytes(*octets.first_chunk()?));
    if octets.len().checked_sub(LENGTH_OCTETS)? < length {
        return None;
    }
    octets.advance(LENGTH_OCTETS);
    Some(octets.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_the_lengths_of_the_rfc() {
        // RFC 9000 appendix A.1
        for (number, octets) in [
            (37, &[0x25][..]),
            (15_293, &[0x7b, 0xbd]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (
                151_288_809_941_952_652,
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
            ),
        ] {
            let mut written = Vec::new();
            put_number(number, &mut written);
            assert_eq!(written, octets);
        }
    }

    proptest! {
        #[test]
        fn a_number_comes_back_and_leaves_the_datagram(bits in 0..60_u32, any: u64, datagram in prop::collection::vec(any::<u8>(), 0..40)) {
            let number = any >> 4 >> (59 - bits);
            let mut octets = Vec::new();
            put_number(number, &mut octets);
            prop_assert!(octets.len() <= MAX_NUMBER);
            octets.extend(&datagram);
            let mut octets = Bytes::from(octets);
            prop_assert_eq!(take_number(&mut octets), Some(number));
            prop_assert_eq!(octets, datagram);
        }

        #[test]
        fn any_octets_have_a_number_or_none(octets in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut rest = Bytes::from(octets.clone());
            if take_number(&mut rest).is_none() {
                prop_assert_eq!(rest, octets);
            }
        }

        #[test]
        fn datagrams_on_the_stream_come_back_however_they_are_cut(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            cut in 1..9_usize,
        ) {
            let mut sent = Vec::new();
            for datagram in &datagrams {
                put_on_stream(datagram, &mut sent);
            }
            let (mut buffer, mut heard) = (BytesMut::new(), Vec::new());
            for portion in sent.chunks(cut) {
                buffer.extend_from_slice(portion);
                while let Some(datagram) = take_from_stream(&mut buffer) {
                    heard.push(datagram.to_vec());
                }
            }
            prop_assert_eq!(heard, datagrams);
            prop_assert!(buffer.is_empty());
        }
    }
}
