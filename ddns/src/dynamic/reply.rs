//! Replies that have no records to tell: a code, and what the message asked about (RFC 2136 section 3.8).

use crate::message::{Header, Reader};
use crate::protocol::{HEADER_LEN, Rcode, Type, UDP_LIMIT};

/// Writes the reply to `message`. It repeats the question or zone section, if that can be read, and has an OPT record if the
/// message has one (RFC 6891 section 6.1.1).
pub(super) fn reply(message: &[u8], rcode: Rcode) -> Vec<u8> {
    const QR: u8 = 0x80;
    let id = message.first_chunk::<2>().copied().unwrap_or_default();
    let opcode = Header::read(message).map_or(0, |header| header.opcode);
    let question = only_question(message).unwrap_or_default();
    let edns = has_opt(message).unwrap_or(false);
    let has_question = u8::from(!question.is_empty());
    let mut reply = id.to_vec();
    reply.extend([QR | (opcode << 3), rcode.low_bits(), 0, has_question]);
    reply.extend([0, 0, 0, 0, 0, u8::from(edns)]);
    reply.extend(question);
    if edns {
        reply.push(0);
        reply.extend(Type::OPT.0.to_be_bytes());
        reply.extend((UDP_LIMIT as u16).to_be_bytes());
        reply.extend([rcode.high_bits(), 0, 0, 0, 0, 0]);
    }
    reply
}

/// The question section as it came, if there is one question.
fn only_question(message: &[u8]) -> Option<&[u8]> {
    let [questions, ..] = Header::read(message)?.counts;
    let mut reader = Reader::new(message);
    reader.skip_question()?;
    message
        .get(HEADER_LEN..reader.at())
        .filter(|_| questions == 1)
}

fn has_opt(message: &[u8]) -> Option<bool> {
    let [questions, answers, authorities, additionals] = Header::read(message)?.counts;
    let mut reader = Reader::new(message);
    for _ in 0..questions {
        reader.skip_question()?;
    }
    for _ in 0..u32::from(answers) + u32::from(authorities) {
        reader.record()?;
    }
    for _ in 0..additionals {
        if reader.record()?.rtype == Type::OPT {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_repeats_id_operation_and_zone() {
        let mut message = vec![7, 8, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend(b"\x03NAS\0\0\x06\0\x01");
        let zone = message[HEADER_LEN..].to_vec();
        message.extend(b"\0\0\x29\x02\0\0\x07\0\0\0\0");
        let with_edns = reply(&message, Rcode::BadVers);
        assert_eq!(with_edns[..12], [7, 8, 0xA8, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(with_edns[12..21], zone);
        assert_eq!(with_edns[21..], [0, 0, 41, 4, 0xD0, 1, 0, 0, 0, 0, 0]);
        message.truncate(21);
        message[11] = 0;
        let expected = [&[7, 8, 0xA8, 9, 0, 1, 0, 0, 0, 0, 0, 0][..], &zone].concat();
        assert_eq!(reply(&message, Rcode::NotAuth), expected);
        let torn = reply(&message[..15], Rcode::FormErr);
        assert_eq!(torn, [7, 8, 0xA8, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
