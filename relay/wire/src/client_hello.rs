//! The server name a visitor asks for, read from the first bytes of its TLS connection.
//!
//! ```text
//!   record     22 │ version 2 │ length 2 │ fragment …          one or more; a hello may be spread over many
//!   handshake   1 │ length 3  │ legacy_version 2 │ random 32 │ session_id <1> │ cipher_suites <2>
//!                 │ compression <1> │ extensions <2> { type 2 │ data <2> } …
//!   server_name   list <2> { 0 │ host_name <2> } …              RFC 6066 section 3
//! ```
//!
//! The reader takes the bytes as they arrive, in any portions, looks at each once and keeps only the handshake message,
//! so a visitor that sends one byte at a time costs no more than one that sends all at once. It ends no TLS and checks
//! nothing that is the device's business.

use crate::cursor::Cursor;

/// The longest handshake message accepted, in octets. Post-quantum key shares make hellos of two to six kilobytes.
pub const MAX_HELLO: usize = 16 * 1024;

/// The most octets read from a visitor before its hello is complete, record headers included.
pub const MAX_READ: usize = 2 * MAX_HELLO;

/// RFC 8446 section 5.1: a record's fragment has at most 2^14 octets.
const MAX_FRAGMENT: u16 = 1 << 14;

const CONTENT_TYPE_HANDSHAKE: u8 = 22;
const HANDSHAKE_TYPE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST_NAME: u8 = 0;

/// How far the hello has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is wrong so far; more octets must come.
    NeedMore,
    /// The hello is complete and names a host. As the visitor wrote it: any case, not yet looked up.
    Name(String),
    /// The hello is complete and certainly names none.
    NoName,
}

/// Why the octets are not a ClientHello. Always the visitor's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAHello {
    /// The first octet, or a later record's, is not that of a TLS handshake record.
    #[error("not TLS")]
    NotTls,
    /// Another handshake message came first.
    #[error("not a ClientHello")]
    OtherMessage,
    /// Longer than [`MAX_HELLO`] or [`MAX_READ`].
    #[error("longer than any hello")]
    TooLong,
    /// Its lengths contradict each other, or an extension is there twice.
    #[error("malformed")]
    Malformed,
}

/// Reads one ClientHello from portions of any size.
#[derive(Debug, Default)]
pub struct Reader {
    read: usize,
    record: Record,
    handshake: Vec<u8>,
}

/// Where in a record the next octet belongs.
#[derive(Debug, Default)]
enum Record {
    #[default]
    ContentType,
    MajorVersion,
    MinorVersion,
    LengthHigh,
    LengthLow(u8),
    Fragment(u16),
}

impl Reader {
    /// Takes the next octets. Octets after the end of the hello are not looked at; call no more once it is complete.
    ///
    /// # Errors
    /// As soon as the octets cannot become a ClientHello any more.
    pub fn push(&mut self, mut octets: &[u8]) -> Result<Progress, NotAHello> {
        while let Some((&octet, rest)) = octets.split_first() {
            if let Record::Fragment(left) = self.record {
                let here = octets.len().min(usize::from(left));
                let (fragment, rest) = octets.split_at_checked(here).ok_or(NotAHello::Malformed)?;
                octets = rest;
                self.count(here)?;
                self.handshake.extend_from_slice(fragment);
                let left = left.saturating_sub(u16::try_from(here).unwrap_or(left));
                self.record = match left {
                    0 => Record::ContentType,
                    left => Record::Fragment(left),
                };
                match read_message(&self.handshake)? {
                    Progress::NeedMore => {}
                    done @ (Progress::Name(_) | Progress::NoName) => return Ok(done),
                }
            } else {
                octets = rest;
                self.count(1)?;
                self.record = self.record.next(octet)?;
            }
        }
        Ok(Progress::NeedMore)
    }

    fn count(&mut self, octets: usize) -> Result<(), NotAHello> {
        self.read = self.read.saturating_add(octets);
        if self.read > MAX_READ {
            return Err(NotAHello::TooLong);
        }
        Ok(())
    }
}

impl Record {
    fn next(&self, octet: u8) -> Result<Self, NotAHello> {
        match (self, octet) {
            (Self::ContentType, CONTENT_TYPE_HANDSHAKE) => Ok(Self::MajorVersion),
            (Self::MajorVersion, 3) => Ok(Self::MinorVersion),
            (Self::ContentType | Self::MajorVersion, _) => Err(NotAHello::NotTls),
            // RFC 8446 section 5.1: the minor version is to be ignored.
            (Self::MinorVersion, _) => Ok(Self::LengthHigh),
            (Self::LengthHigh, high) => Ok(Self::LengthLow(high)),
            (Self::LengthLow(high), low) => match u16::from_be_bytes([*high, low]) {
                // RFC 8446 section 5.1: no empty fragments of handshake types.
                0 => Err(NotAHello::Malformed),
                length @ ..=MAX_FRAGMENT => Ok(Self::Fragment(length)),
                _ => Err(NotAHello::TooLong),
            },
            (Self::Fragment(_), _) => Err(NotAHello::Malformed),
        }
    }
}

/// Reads what is here of the handshake message, from its beginning.
pub(crate) fn read_message(handshake: &[u8]) -> Result<Progress, NotAHello> {
    let mut cursor = Cursor(handshake);
    match cursor.u8() {
        None => return Ok(Progress::NeedMore),
        Some(HANDSHAKE_TYPE_CLIENT_HELLO) => {}
        Some(_) => return Err(NotAHello::OtherMessage),
    }
    let Some(length) = cursor.u24() else {
        return Ok(Progress::NeedMore);
    };
    if length > MAX_HELLO {
        return Err(NotAHello::TooLong);
    }
    let Some(hello) = cursor.take(length) else {
        return Ok(Progress::NeedMore);
    };
    match server_name(Cursor(hello)).ok_or(NotAHello::Malformed)? {
        Some(name) => Ok(Progress::Name(name)),
        None => Ok(Progress::NoName),
    }
}

/// `None` if the hello is malformed, `Some(None)` if it has no name.
fn server_name(mut hello: Cursor<'_>) -> Option<Option<String>> {
    let _legacy_version = hello.take(2)?;
    let _random = hello.take(32)?;
    let _legacy_session_id = hello.vec8()?;
    let _cipher_suites = hello.vec16()?;
    let _legacy_compression_methods = hello.vec8()?;
    if hello.is_empty() {
        return Some(None); // before TLS 1.3 the extensions could be left out altogether
    }
    let mut extensions = hello.vec16()?;
    if !hello.is_empty() {
        return None;
    }
    let mut found = None;
    while !extensions.is_empty() {
        let (kind, data) = (extensions.u16()?, extensions.vec16()?);
        if kind == EXTENSION_SERVER_NAME {
            // RFC 8446 section 4.2: no more than one extension of the same type.
            if found.replace(host_name(data)?).is_some() {
                return None;
            }
        }
    }
    Some(found.flatten())
}

fn host_name(mut extension: Cursor<'_>) -> Option<Option<String>> {
    let mut list = extension.vec16()?;
    if !extension.is_empty() || list.is_empty() {
        return None;
    }
    let mut found = None;
    while !list.is_empty() {
        let (kind, name) = (list.u8()?, list.vec16()?);
        if kind == NAME_TYPE_HOST_NAME {
            let name = str::from_utf8(name.0).ok()?;
            // RFC 6066 section 3: ASCII, and no more than one name of the same type.
            let valid = name.bytes().all(|octet| octet.is_ascii_graphic());
            if !valid || name.is_empty() || found.replace(name.to_owned()).is_some() {
                return None;
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hellos of real clients; `testdata/README.md` says whose and when.
    macro_rules! captured {
        ($($name:literal)*) => { [$(($name, include_bytes!(concat!("../testdata/", $name, ".bin")).as_slice())),*] };
    }

    const WITH_NAME: [(&str, &[u8]); 14] = captured!(
        "chromium" "chromium-2" "chromium-two-records" "curl" "firefox" "gnutls" "go" "java" "node" "openssl"
        "openssl-many-alpn" "openssl-tls12" "python" "rustls"
    );

    const WITHOUT_NAME: [(&str, &[u8]); 1] = captured!("openssl-no-name");

    fn read(octets: &[u8]) -> Result<Progress, NotAHello> {
        Reader::default().push(octets)
    }

    fn read_in(
        octets: &[u8],
        portions: impl IntoIterator<Item = usize>,
    ) -> Result<Progress, NotAHello> {
        let mut reader = Reader::default();
        let mut rest = octets;
        for portion in portions {
            let (now, later) = rest.split_at(portion.min(rest.len()));
            rest = later;
            match reader.push(now)? {
                Progress::NeedMore => {}
                done @ (Progress::Name(_) | Progress::NoName) => return Ok(done),
            }
        }
        reader.push(rest)
    }

    fn name() -> Progress {
        Progress::Name("demo.nas.localhost".into())
    }

    /// The same handshake message in records of `size` octets.
    fn in_records_of(size: usize, hello: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        let mut rest = hello;
        while let [_, _, _, high, low, after @ ..] = rest {
            let (fragment, later) = after.split_at(u16::from_be_bytes([*high, *low]).into());
            message.extend_from_slice(fragment);
            rest = later;
        }
        let mut records = Vec::new();
        for fragment in message.chunks(size) {
            records.extend_from_slice(&[22, 3, 1]);
            records.extend_from_slice(&u16::try_from(fragment.len()).unwrap().to_be_bytes());
            records.extend_from_slice(fragment);
        }
        records
    }

    /// A hello in one record with the extensions given.
    fn with_extensions(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[0; 32]);
        body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
        body.extend_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend_from_slice(extensions);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let mut message = vec![1, length[1], length[2], length[3]];
        message.extend_from_slice(&body);
        let mut record = vec![22, 3, 1];
        record.extend_from_slice(&u16::try_from(message.len()).unwrap().to_be_bytes());
        record.extend_from_slice(&message);
        record
    }

    fn server_name_extension(names: &[&[u8]]) -> Vec<u8> {
        let mut list = Vec::new();
        for name in names {
            list.push(0);
            list.extend_from_slice(&u16::try_from(name.len()).unwrap().to_be_bytes());
            list.extend_from_slice(name);
        }
        let mut extension = vec![0, 0];
        extension.extend_from_slice(&u16::try_from(list.len() + 2).unwrap().to_be_bytes());
        extension.extend_from_slice(&u16::try_from(list.len()).unwrap().to_be_bytes());
        extension.extend_from_slice(&list);
        extension
    }

    #[test]
    fn real_clients_are_understood() {
        for (client, hello) in WITH_NAME {
            assert_eq!(read(hello), Ok(name()), "{client}");
        }
        for (client, hello) in WITHOUT_NAME {
            assert_eq!(read(hello), Ok(Progress::NoName), "{client}");
        }
    }

    #[test]
    fn a_hello_may_arrive_octet_by_octet_and_in_records_of_one_octet() {
        for (client, hello) in WITH_NAME {
            assert_eq!(
                read_in(hello, std::iter::repeat_n(1, hello.len())),
                Ok(name()),
                "{client}"
            );
            for size in [1, 2, 5, 100, 1300] {
                assert_eq!(
                    read(&in_records_of(size, hello)),
                    Ok(name()),
                    "{client} in records of {size}"
                );
            }
        }
    }

    #[test]
    fn every_prefix_of_a_hello_needs_more() {
        for (client, hello) in WITH_NAME {
            for end in 0..hello.len() {
                assert_eq!(
                    read(&hello[..end]),
                    Ok(Progress::NeedMore),
                    "{client} up to {end}"
                );
            }
        }
    }

    #[test]
    fn what_follows_the_hello_is_left_alone() {
        for (client, hello) in WITH_NAME {
            assert_eq!(
                read(&[hello, b"early data"].concat()),
                Ok(name()),
                "{client}"
            );
        }
    }

    #[test]
    fn a_hello_of_sixteen_kilobytes_is_read_and_a_longer_one_is_not() {
        let padding = |length: usize| {
            let mut extension = vec![0, 21];
            extension.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            extension.resize(4 + length, 0);
            extension
        };
        let name_first = server_name_extension(&[b"demo.nas.localhost"]);
        let fixed = with_extensions(&[name_first.clone(), padding(0)].concat()).len() - 9;
        let longest = with_extensions(&[name_first.clone(), padding(MAX_HELLO - fixed)].concat());
        let longer = with_extensions(&[name_first, padding(MAX_HELLO - fixed + 1)].concat());
        // More than 2^14 octets do not fit one record.
        assert_eq!(read(&in_records_of(16_000, &longest)), Ok(name()));
        assert_eq!(
            read(&in_records_of(16_000, &longer)),
            Err(NotAHello::TooLong)
        );
    }

    #[test]
    fn endless_headers_end() {
        let one = [22, 3, 1, 0, 1, 1, 22, 3, 1, 0, 1, 0];
        let drip = [
            &one[..],
            &[22, 3, 1, 0, 1, 0x3f],
            &[22, 3, 1, 0, 1, 0xff].repeat(MAX_READ),
        ]
        .concat();
        assert_eq!(read(&drip), Err(NotAHello::TooLong));
    }

    #[test]
    fn what_is_no_hello_is_refused_with_its_reason() {
        let cases: [(&[u8], NotAHello); 9] = [
            (b"GET / HTTP/1.1\r\n", NotAHello::NotTls),
            (&[0x80, 0x2e, 1], NotAHello::NotTls), // an SSL 2.0 hello
            (&[22, 2, 0], NotAHello::NotTls),
            (&[22, 3, 1, 0, 0], NotAHello::Malformed), // an empty fragment
            (&[22, 3, 1, 0x40, 1], NotAHello::TooLong),
            (&[22, 3, 1, 0, 4, 2, 0, 0, 0], NotAHello::OtherMessage),
            (&[22, 3, 1, 0, 4, 1, 0, 0x40, 1], NotAHello::TooLong),
            (&[22, 3, 1, 0, 4, 1, 0, 0, 0], NotAHello::Malformed),
            (&[22, 3, 1, 0, 1, 1, 23], NotAHello::NotTls), // application data in between
        ];
        for (octets, reason) in cases {
            assert_eq!(read(octets), Err(reason), "{octets:?}");
        }
    }

    #[test]
    fn a_name_must_stand_there_once_and_be_printable() {
        let good: &[u8] = b"demo.nas.localhost";
        assert_eq!(
            read(&with_extensions(&server_name_extension(&[good]))),
            Ok(name())
        );
        assert_eq!(read(&with_extensions(&[])), Ok(Progress::NoName));
        let twice = [
            server_name_extension(&[good]),
            server_name_extension(&[good]),
        ]
        .concat();
        let malformed = [
            twice,
            server_name_extension(&[good, good]),
            server_name_extension(&[]),
            server_name_extension(&[b""]),
            server_name_extension(&[b"a b"]),
            server_name_extension(&[b"a\0b"]),
            server_name_extension(&["é".as_bytes()]),
            server_name_extension(&[b"\xff"]),
            vec![0, 0, 0, 1, 0],
            vec![0, 0, 0, 9],
        ];
        for extensions in malformed {
            let octets = with_extensions(&extensions);
            assert_eq!(read(&octets), Err(NotAHello::Malformed), "{extensions:?}");
        }
    }

    proptest! {
        #[test]
        fn portions_never_change_the_outcome(
            which in 0..WITH_NAME.len(),
            size in 1..2000usize,
            flip in prop::option::of((0..4000usize, 1..=255u8)),
            portions in prop::collection::vec(1..200usize, 0..40),
        ) {
            let mut octets = in_records_of(size, WITH_NAME[which].1);
            if let Some((at, bits)) = flip {
                let at = at % octets.len();
                octets[at] ^= bits;
            }
            prop_assert_eq!(read_in(&octets, portions), read(&octets));
        }

        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&octets);
            let _ = read(&with_extensions(&octets));
        }
    }
}
