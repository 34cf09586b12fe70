//! A ClientHello that a server takes for an honest one (RFC 8446 section 4.1.2), written by hand: nobody is to finish what it begins.

use rand::RngExt as _;

/// TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256.
const CIPHERS: [u8; 6] = [0x13, 0x01, 0x13, 0x02, 0x13, 0x03];

/// Of a record (RFC 8446 section 5.1): handshake, legacy version.
const HANDSHAKE_RECORD: [u8; 3] = [22, 3, 1];

const X25519: [u8; 2] = [0, 0x1d];

/// What it asks for.
#[derive(Clone, Debug)]
pub(super) struct Hello<'a> {
    pub(super) host: &'a str,
    pub(super) alpn: &'a [u8],
    /// For QUIC (RFC 9001 section 8.2), and only there.
    pub(super) transport_parameters: Option<&'a [u8]>,
}

impl Hello<'_> {
    /// The handshake message. Each has a random number and a key share of its own.
    pub(super) fn message(&self) -> Vec<u8> {
        let mut random = [0; 32];
        let mut share = [0; 32]; // any octets are a key of X25519
        rand::rng().fill(&mut random);
        rand::rng().fill(&mut share);
        let name = [&[0][..], &short(self.host.as_bytes())].concat();
        let share = [&X25519[..], &short(&share)].concat();
        let mut extensions = [
            extension(0, &short(&name)),
            extension(10, &short(&X25519)),
            // ecdsa_secp256r1_sha256, ed25519, rsa_pss_rsae_sha256
            extension(13, &short(&[4, 3, 8, 7, 8, 4])),
            extension(16, &short(&tiny(self.alpn))),
            extension(43, &tiny(&[3, 4])),
            extension(51, &short(&share)),
        ]
        .concat();
        if let Some(parameters) = self.transport_parameters {
            extensions.extend(extension(57, parameters));
        }
        let session: &[u8] = match self.transport_parameters {
            Some(_) => &[],
            None => &random, // as for middleboxes (RFC 8446 appendix D.4)
        };
        let body = [
            &[3, 3][..],
            &random,
            &tiny(session),
            &short(&CIPHERS),
            &tiny(&[0]),
            &short(&extensions),
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    /// The same in records of `portion` octets each.
    pub(super) fn records(&self, portion: usize) -> Vec<u8> {
        let message = self.message();
        let records = message.chunks(portion);
        records
            .flat_map(|part| [&HANDSHAKE_RECORD[..], &short(part)].concat())
            .collect()
    }
}

fn extension(number: u16, octets: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &short(octets)].concat()
}

/// With two octets of length in front.
fn short(octets: &[u8]) -> Vec<u8> {
    let length = u16::try_from(octets.len()).unwrap_or_default();
    [&length.to_be_bytes()[..], octets].concat()
}

/// With one.
fn tiny(octets: &[u8]) -> Vec<u8> {
    let length = u8::try_from(octets.len()).unwrap_or_default();
    [&[length][..], octets].concat()
}

#[cfg(test)]
mod tests {
    use wire::client_hello::{Progress, Reader};

    use super::*;

    #[test]
    fn the_relay_reads_its_host_in_whatever_portions_it_comes() {
        let hello = Hello {
            host: "cloud.nas.localhost",
            alpn: b"h2",
            transport_parameters: None,
        };
        for portion in [1, 100, 16_384] {
            let read = Reader::default().push(&hello.records(portion)).unwrap();
            let Progress::Name(name) = read else {
                panic!("{read:?}");
            };
            assert_eq!(name, hello.host);
        }
    }
}
