//! Compact denial of existence (RFC 9824): one NSEC record, made for the name that was asked for.
//!
//! ```text
//!  name that was asked for │ NSEC │ \000.the same name │ the types that are there, or NXNAME if there is no such name
//! ```

use super::types::TypeSet;
use crate::protocol::{MAX_LABEL, MAX_NAME, Type};

/// The data of the record, in pieces.
pub(super) struct Nsec {
    next: Vec<u8>,
    types: TypeSet,
}

impl Nsec {
    /// That a name (whole, in lower case) has these types alone; `None` is that it does not exist. No record, if no name comes after
    /// it.
    pub(super) fn at(name: &[u8], types: Option<TypeSet>) -> Option<Self> {
        let types = types.unwrap_or(TypeSet::default().with(Type::NXNAME));
        Some(Self {
            next: successor(name)?,
            types: types.with(Type::RRSIG).with(Type::NSEC),
        })
    }

    /// The data of the record.
    pub(super) fn data(&self) -> Vec<u8> {
        [&self.next, self.types.octets().as_ref()].concat()
    }
}

/// The name right behind this one in the order of names (RFC 4034 section 6.1): no other is between them.
fn successor(name: &[u8]) -> Option<Vec<u8>> {
    if name.len() + 2 <= MAX_NAME {
        return Some([b"\x01\0", name].concat());
    }
    let (&length, behind) = name.split_first()?;
    let (label, rest) = behind.split_at_checked(length.into())?;
    // No label fits in front: the first one grows, or counts on (RFC 4471 section 3.1.2).
    if name.len() < MAX_NAME && label.len() < MAX_LABEL {
        return Some([&[length + 1], label, b"\0", rest].concat());
    }
    let mut label = label.to_vec();
    while let Some(last) = label.pop() {
        let next = match last {
            u8::MAX => continue,
            // Capitals are the same as small letters, and come where those are.
            b'@' => b'[',
            other => other + 1,
        };
        label.push(next);
        return Some([&[label.len() as u8], &label[..], rest].concat());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_between_a_name_and_the_next() {
        assert_eq!(
            successor(b"\x01a\x02nz\0").as_deref(),
            Some(&b"\x01\0\x01a\x02nz\0"[..])
        );
        let name = |first: &[u8], rest: usize| {
            let mut name = vec![first.len() as u8];
            name.extend(first);
            for _ in 0..rest / 2 {
                name.extend(b"\x01x");
            }
            name.push(0);
            name
        };
        // 254 octets: the first label grows.
        let long = name(b"aaaa", 248);
        assert_eq!(long.len(), 254);
        assert_eq!(successor(&long), Some(name(b"aaaa\0", 248)));
        // 255 octets: it counts on.
        for (label, next) in [
            (&b"aaaaa"[..], &b"aaaab"[..]),
            (b"aaaa\xFF", b"aaab"),
            (b"aaaa@", b"aaaa["),
        ] {
            assert_eq!(successor(&name(label, 248)), Some(name(next, 248)));
        }
        assert_eq!(successor(&name(b"\xFF\xFF\xFF\xFF\xFF", 248)), None);
    }

    #[test]
    fn a_name_that_is_not_there_has_nothing_but_that() {
        let nsec = Nsec::at(b"\x01a\0", None).unwrap();
        // 46, 47 and 128
        let types = b"\0\x11\0\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\x80";
        assert_eq!(nsec.data(), [&b"\x01\0\x01a\0"[..], types].concat());
    }
}
