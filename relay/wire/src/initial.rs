//! The server name a visitor asks for over QUIC, read from the Initial packets that begin its connection.
//!
//! ```text
//!   packet   flags 1 │ version 4 │ destination id <1> │ source id <1> │ token <varint> │ length varint │ number 1–4 │ frames …
//!   CRYPTO   6 │ offset varint │ length varint │ a part of the ClientHello       in any order, in any number of packets
//! ```
//!
//! What protects an Initial is derived from the destination id that the client has made up (RFC 9001 section 5.2; for version 2,
//! RFC 9369 section 3.3), so that everybody on the way can read it. Nothing else can be read here, and no other packet is tried.

use std::ops::Range;

use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{DirectionalKeys, Version};

use crate::client_hello::{MAX_HELLO, NotAHello, Progress, read_message};
use crate::cursor::Cursor;

/// What CRYPTO frames carry in front of the hello too: type and length of the handshake message.
const MAX_CRYPTO: usize = MAX_HELLO + 4;

/// So many parts of a hello that do not touch each other are kept at most. Chromium cuts its hello into some ten and mixes them.
const MAX_PARTS: usize = 64;

/// RFC 9000 section 17.2: the connection ids of version 1 have at most 20 octets, as have those of version 2.
const MAX_ID: usize = 20;

/// The sample for header protection begins where a number of four octets would end (RFC 9001 section 5.4.2).
const SAMPLE_OFFSET: usize = 4;

/// Why a datagram brings nothing of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnInitial {
    /// It does not begin with an Initial packet of a version that is known here.
    #[error("no Initial packet")]
    OtherPacket,
    /// It has changed on the way, or is of another connection.
    #[error("it cannot be decrypted")]
    Undecryptable,
    /// It holds what an Initial cannot, or contradicts what has come before.
    #[error("malformed")]
    Malformed,
    /// The hello would be longer than [`MAX_HELLO`], or is in too many parts.
    #[error("longer than any hello")]
    TooLong,
    /// The client has given up.
    #[error("closed by the client")]
    Closed,
    /// What it says is no hello.
    #[error(transparent)]
    Hello(#[from] NotAHello),
}

/// Reads the hello of one connection from the datagrams that its client sends until it hears something.
pub struct Reader {
    version: KnownVersion,
    keys: DirectionalKeys,
    crypto: Crypto,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Of the connection that `datagram` begins, of which nothing is read yet.
    ///
    /// # Errors
    /// [`OtherPacket`](NotAnInitial::OtherPacket), if it begins none.
    pub fn new(datagram: &[u8]) -> Result<Self, NotAnInitial> {
        let mut cursor = Cursor(datagram);
        let packet = Packet::parse(&mut cursor).ok_or(NotAnInitial::OtherPacket)?;
        let version = packet.is_initial_of().ok_or(NotAnInitial::OtherPacket)?;
        let suite = TLS13_AES_128_GCM_SHA256.tls13();
        let suite = suite.and_then(|suite| suite.quic_suite());
        let suite = suite.ok_or(NotAnInitial::OtherPacket)?; // it has one
        let keys = suite.keys(packet.destination, Side::Server, version.of_keys());
        Ok(Self {
            version,
            keys: keys.remote,
            crypto: Crypto::default(),
        })
    }

    /// Takes the connection's next datagram. Once a name is known, or it is known that there is none, call no more.
    ///
    /// # Errors
    /// [`Undecryptable`](NotAnInitial::Undecryptable) and [`OtherPacket`](NotAnInitial::OtherPacket) of one datagram say nothing of
    /// the others, which may be another's; after any other error there will be no hello.
    pub fn push(&mut self, datagram: &[u8]) -> Result<Progress, NotAnInitial> {
        let mut cursor = Cursor(datagram);
        let mut found = Err(NotAnInitial::OtherPacket);
        // Behind an Initial there may be packets of other kinds, and padding (RFC 9000 section 12.2).
        while let Some(packet) = Packet::parse(&mut cursor) {
            if packet.is_initial_of() == Some(self.version) {
                self.read_packet(&packet)?;
                found = Ok(());
            }
        }
        found?;
        Ok(read_message(self.crypto.beginning())?)
    }

    fn read_packet(&mut self, packet: &Packet<'_>) -> Result<(), NotAnInitial> {
        let mut octets = packet.octets.to_vec();
        let payload = self.decrypt(&mut octets, packet.number_at);
        let mut frames = Cursor(payload.ok_or(NotAnInitial::Undecryptable)?);
        while let Some(frame) = frames.varint() {
            self.read_frame(frame, &mut frames)?;
        }
        Ok(())
    }

    /// The payload of a packet whose number begins at `number_at`.
    fn decrypt<'a>(&self, octets: &'a mut [u8], number_at: usize) -> Option<&'a [u8]> {
        let (header, rest) = octets.split_at_mut_checked(number_at)?;
        let (number, behind) = rest.split_at_mut_checked(SAMPLE_OFFSET)?;
        let sample = behind.get(..self.keys.header.sample_len())?;
        let unmasked = self
            .keys
            .header
            .decrypt_in_place(sample, header.first_mut()?, number);
        unmasked.ok()?;
        let length = usize::from(header.first()? & 3) + 1;
        // The first numbers, which are never shortened (RFC 9000 section 17.1).
        let number = number.get(..length)?.iter();
        let number = number.fold(0, |number, octet| number << 8 | u64::from(*octet));
        let (header, payload) = octets.split_at_mut_checked(number_at.checked_add(length)?)?;
        self.keys
            .packet
            .decrypt_in_place(number, header, payload)
            .ok()
    }

    /// Of the frames that an Initial may hold (RFC 9000 section 12.4).
    fn read_frame(&mut self, frame: u64, rest: &mut Cursor<'_>) -> Result<(), NotAnInitial> {
        match frame {
            0 | 1 => Ok(()), // PADDING, PING
            2 | 3 => acknowledgement(frame == 3, rest).ok_or(NotAnInitial::Malformed),
            6 => {
                let (offset, octets) = crypto(rest).ok_or(NotAnInitial::Malformed)?;
                self.crypto.add(offset, octets)
            }
            0x1c => Err(NotAnInitial::Closed),
            _ => Err(NotAnInitial::Malformed),
        }
    }
}

/// A version whose Initials can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KnownVersion {
    One,
    Two,
}

impl KnownVersion {
    fn of_keys(self) -> Version {
        match self {
            Self::One => Version::V1,
            Self::Two => Version::V2,
        }
    }
}

/// A packet with a long header (RFC 9000 section 17.2), as far as it is in the clear.
struct Packet<'a> {
    version: u32,
    kind: u8,
    destination: &'a [u8],
    octets: &'a [u8],
    /// Where in them the packet's number begins.
    number_at: usize,
}

impl<'a> Packet<'a> {
    /// Takes one from the front of a datagram; `None` if there is none that says how long it is.
    fn parse(datagram: &mut Cursor<'a>) -> Option<Self> {
        let whole = datagram.0;
        let first = datagram.u8()?;
        if first & 0xc0 != 0xc0 {
            return None;
        }
        let version = datagram.u32()?;
        let kind = first >> 4 & 3;
        let destination = datagram.vec8().filter(|id| id.0.len() <= MAX_ID)?.0;
        let _source = datagram.vec8().filter(|id| id.0.len() <= MAX_ID)?;
        if initial_of(version, kind).is_some() {
            let token = datagram.varint()?;
            datagram.take(usize::try_from(token).ok()?)?;
        }
        let length = datagram.varint()?;
        let number_at = whole.len().checked_sub(datagram.0.len())?;
        datagram.take(usize::try_from(length).ok()?)?;
        let octets = whole.get(..whole.len().checked_sub(datagram.0.len())?)?;
        Some(Self {
            version,
            kind,
            destination,
            octets,
            number_at,
        })
    }

    fn is_initial_of(&self) -> Option<KnownVersion> {
        initial_of(self.version, self.kind)
    }
}

/// The version whose Initial a packet is: RFC 9000 section 17.2.2, RFC 9369 sections 3.1 and 3.2.
fn initial_of(version: u32, kind: u8) -> Option<KnownVersion> {
    match (version, kind) {
        (1, 0) => Some(KnownVersion::One),
        (0x6b33_43cf, 1) => Some(KnownVersion::Two),
        _ => None,
    }
}

/// RFC 9000 section 19.3.
fn acknowledgement(with_counts: bool, rest: &mut Cursor<'_>) -> Option<()> {
    let (_largest, _delay, ranges) = (rest.varint()?, rest.varint()?, rest.varint()?);
    let _first = rest.varint()?;
    for _ in 0..ranges {
        let (_gap, _length) = (rest.varint()?, rest.varint()?);
    }
    for _ in 0..if with_counts { 3 } else { 0 } {
        rest.varint()?;
    }
    Some(())
}

/// RFC 9000 section 19.6.
fn crypto<'a>(rest: &mut Cursor<'a>) -> Option<(u64, &'a [u8])> {
    let (offset, length) = (rest.varint()?, rest.varint()?);
    Some((offset, rest.take(usize::try_from(length).ok()?)?))
}

/// What CRYPTO frames have brought.
#[derive(Debug, Default)]
struct Crypto {
    octets: Vec<u8>,
    /// Where in them something has come: parts that do not touch each other, in any order.
    parts: Vec<Range<usize>>,
}

impl Crypto {
    fn add(&mut self, offset: u64, octets: &[u8]) -> Result<(), NotAnInitial> {
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = begin.saturating_add(octets.len());
        if end > MAX_CRYPTO {
            return Err(NotAnInitial::TooLong);
        }
        if self.octets.len() < end {
            self.octets.resize(end, 0);
        }
        let place = self
            .octets
            .get_mut(begin..end)
            .ok_or(NotAnInitial::TooLong)?;
        for part in &self.parts {
            let both = part.start.max(begin)..part.end.min(end);
            let (from, to) = (
                both.start.saturating_sub(begin),
                both.end.saturating_sub(begin),
            );
            // RFC 9000 section 2.2: what is sent again is the same.
            if !both.is_empty() && place.get(from..to) != octets.get(from..to) {
                return Err(NotAnInitial::Malformed);
            }
        }
        place.copy_from_slice(octets);
        let mut whole = begin..end;
        self.parts.retain(|part| {
            let touches = part.start <= whole.end && whole.start <= part.end;
            if touches {
                whole = part.start.min(whole.start)..part.end.max(whole.end);
            }
            !touches
        });
        self.parts.push(whole);
        match self.parts.len() > MAX_PARTS {
            true => Err(NotAnInitial::TooLong),
            false => Ok(()),
        }
    }

    /// All from the first octet on.
    fn beginning(&self) -> &[u8] {
        let first = self.parts.iter().find(|part| part.start == 0);
        first
            .and_then(|part| self.octets.get(part.clone()))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const ID: [u8; 8] = [7; 8];

    /// The post-quantum hello of a browser, in one record.
    const CHROMIUM: &[u8] = include_bytes!("../testdata/chromium.bin");

    fn hello() -> &'static [u8] {
        &CHROMIUM[5..]
    }

    fn name() -> Progress {
        Progress::Name("demo.nas.localhost".to_owned())
    }

    fn varint(number: usize) -> [u8; 4] {
        (u32::try_from(number).unwrap() | 0x8000_0000).to_be_bytes()
    }

    fn crypto(offset: usize, octets: &[u8]) -> Vec<u8> {
        [&[6][..], &varint(offset), &varint(octets.len()), octets].concat()
    }

    /// A packet as a client sends it.
    fn initial(version: KnownVersion, id: &[u8], number: u8, frames: &[u8]) -> Vec<u8> {
        let suite = TLS13_AES_128_GCM_SHA256
            .tls13()
            .unwrap()
            .quic_suite()
            .unwrap();
        let keys = suite.keys(id, Side::Client, version.of_keys()).local;
        let (first, version) = match version {
            KnownVersion::One => (0xc0, 1),
            KnownVersion::Two => (0xd0, 0x6b33_43cf_u32),
        };
        let mut payload = frames.to_vec();
        payload.resize(frames.len().max(20), 0);
        let length = 1 + payload.len() + keys.packet.tag_len();
        let mut header = [
            &[first][..],
            &version.to_be_bytes(),
            &[id.len() as u8],
            id,
            &[0, 0],
        ]
        .concat();
        header.extend(varint(length));
        header.push(number);
        let tag = keys
            .packet
            .encrypt_in_place(number.into(), &header, &mut payload)
            .unwrap();
        payload.extend(tag.as_ref());
        let number_at = header.len() - 1;
        let (clear, number) = header.split_at_mut(number_at);
        let sample = &payload[3..][..keys.header.sample_len()];
        keys.header
            .encrypt_in_place(sample, &mut clear[0], number)
            .unwrap();
        [header, payload].concat()
    }

    fn one(number: u8, frames: &[u8]) -> Vec<u8> {
        initial(KnownVersion::One, &ID, number, frames)
    }

    fn read(datagrams: &[Vec<u8>]) -> Result<Progress, NotAnInitial> {
        let mut reader = Reader::new(&datagrams[0])?;
        for datagram in datagrams {
            match reader.push(datagram)? {
                Progress::NeedMore => {}
                done @ (Progress::Name(_) | Progress::NoName) => return Ok(done),
            }
        }
        Ok(Progress::NeedMore)
    }

    #[test]
    fn the_examples_of_both_versions_are_read() {
        // RFC 9001 appendix A.2, RFC 9369 appendix A.2
        let one = include_bytes!("../testdata/quic-rfc9001.bin");
        let two = include_bytes!("../testdata/quic-rfc9369.bin");
        for datagram in [one, two] {
            let name = Progress::Name("example.com".to_owned());
            assert_eq!(read(&[datagram.to_vec()]), Ok(name));
        }
    }

    proptest! {
        #[test]
        fn a_hello_in_any_parts_and_any_order_is_read(
            cuts in prop::collection::vec(any::<Index>(), 0..20),
            order in prop::collection::vec(any::<Index>(), 0..20),
            packets in 1..4_usize,
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(hello().len())).collect();
            cuts.extend([0, hello().len()]);
            cuts.sort_unstable();
            let mut frames: Vec<_> = cuts.windows(2).map(|part| crypto(part[0], &hello()[part[0]..part[1]])).collect();
            for (from, to) in order.iter().enumerate() {
                let count = frames.len();
                frames.swap(from % count, to.index(count));
            }
            for version in [KnownVersion::One, KnownVersion::Two] {
                let of_each = frames.len().div_ceil(packets);
                let datagrams: Vec<_> = frames.chunks(of_each).enumerate().map(|(number, frames)| {
                    let between: &[u8] = &[1, 0, 0, 2, 5, 0, 0, 0]; // PING, PADDING, ACK
                    initial(version, &ID, number as u8, &frames.join(between))
                }).collect();
                prop_assert_eq!(read(&datagrams), Ok(name()));
            }
        }

        #[test]
        fn whatever_comes_is_read(octets in prop::collection::vec(any::<u8>(), 0..100), frames in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Reader::new(&octets);
            let sealed = one(0, &frames);
            let mut reader = Reader::new(&sealed).unwrap();
            let _ = reader.push(&sealed);
            let _ = reader.push(&octets);
        }
    }

    #[test]
    fn what_follows_an_initial_in_its_datagram_is_left_alone() {
        let zero_rtt = [&[0xd0, 0, 0, 0, 1, 8][..], &ID, &[0, 5, 1, 2, 3, 4, 5]].concat();
        let half = hello().len() / 2;
        let first = [one(0, &crypto(0, &hello()[..half])), zero_rtt].concat();
        let second = [one(1, &crypto(half, &hello()[half..])), vec![0; 100]].concat();
        assert_eq!(read(&[first, second]), Ok(name()));
        let both = [
            one(0, &crypto(half, &hello()[half..])),
            one(1, &crypto(0, &hello()[..half])),
        ]
        .concat();
        assert_eq!(read(&[both]), Ok(name()));
    }

    #[test]
    fn a_packet_of_another_connection_says_nothing() {
        let half = hello().len() / 2;
        let mut reader = Reader::new(&one(0, &[])).unwrap();
        assert_eq!(
            reader.push(&one(0, &crypto(0, &hello()[..half]))),
            Ok(Progress::NeedMore)
        );
        let stranger = initial(KnownVersion::One, &[8; 8], 1, &crypto(half, &[0; 100]));
        assert_eq!(reader.push(&stranger), Err(NotAnInitial::Undecryptable));
        let of_two = initial(KnownVersion::Two, &ID, 1, &crypto(half, &[0; 100]));
        assert_eq!(reader.push(&of_two), Err(NotAnInitial::OtherPacket));
        assert_eq!(
            reader.push(&one(1, &crypto(half, &hello()[half..]))),
            Ok(name())
        );
    }

    #[test]
    fn what_cannot_become_a_hello_is_refused() {
        let refused =
            |frames: &[u8], why: NotAnInitial| assert_eq!(read(&[one(0, frames)]), Err(why));
        refused(&[0x1c, 0, 0, 0], NotAnInitial::Closed);
        refused(&[8, 0, 0], NotAnInitial::Malformed); // STREAM
        refused(&[6, 0, 60, 1], NotAnInitial::Malformed); // longer than its packet, with the padding
        refused(&crypto(MAX_CRYPTO, &[1]), NotAnInitial::TooLong);
        refused(&[0, 6, 0xff], NotAnInitial::TooLong);
        refused(
            &crypto(0, &[2, 0, 0, 0]),
            NotAnInitial::Hello(NotAHello::OtherMessage),
        );
        let twice = [crypto(0, &hello()[..10]), crypto(4, &[0xff; 10])].concat();
        refused(&twice, NotAnInitial::Malformed);
        let parts: Vec<_> = (0..=MAX_PARTS).map(|part| crypto(2 * part, &[0])).collect();
        refused(&parts.concat(), NotAnInitial::TooLong);
        let other = [0xe0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(Reader::new(&other).unwrap_err(), NotAnInitial::OtherPacket);
    }
}
